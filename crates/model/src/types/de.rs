//! Reading attributes as leniently as the schema judges them: an empty array for an object and the reverse, `1.0` for an
//! integer, numbers beyond what a type holds (clamped), integers for `status`.

use std::fmt;
use std::iter;
use std::marker::PhantomData;
use std::time::Duration;

use serde::de::value::{MapAccessDeserializer, MapDeserializer};
use serde::de::{self, Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Longest duration that an attribute can express: a hundred years. Keeps deadlines within what clocks can add.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// An object; an empty array counts as `{}`.
pub(super) fn object<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct ObjectVisitor<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
            T::deserialize(MapAccessDeserializer::new(map))
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<T, A::Error> {
            match seq.next_element::<IgnoredAny>()? {
                None => T::deserialize(MapDeserializer::new(iter::empty::<((), ())>())),
                Some(_) => Err(de::Error::invalid_type(de::Unexpected::Seq, &self)),
            }
        }
    }

    deserializer.deserialize_any(ObjectVisitor(PhantomData))
}

/// [`object`] for an optional attribute.
pub(super) fn some_object<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    object(deserializer).map(Some)
}

/// An array; an empty object counts as `[]`.
pub(super) fn list<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct ListVisitor<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for ListVisitor<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
            let mut items = Vec::new();
            while let Some(item) = seq.next_element()? {
                items.push(item);
            }
            Ok(items)
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vec<T>, A::Error> {
            match map.next_key::<IgnoredAny>()? {
                None => Ok(Vec::new()),
                Some(_) => Err(de::Error::invalid_type(de::Unexpected::Map, &self)),
            }
        }
    }

    deserializer.deserialize_any(ListVisitor(PhantomData))
}

/// [`list`] for an optional attribute.
pub(super) fn some_list<'de, D, T>(deserializer: D) -> Result<Option<Vec<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    list(deserializer).map(Some)
}

/// An integer type that takes the nearest value it can hold.
pub(super) trait Clamped: Sized {
    fn clamped(whole: i128) -> Self;
}

macro_rules! clamped {
    ($($int:ty),*) => {$(
        impl Clamped for $int {
            fn clamped(whole: i128) -> Self {
                let nearest = whole.clamp(<$int>::MIN.into(), <$int>::MAX.into());
                <$int>::try_from(nearest).expect("clamped to the range of the type")
            }
        }
    )*};
}
clamped!(u8, u16, u32, i32, i64, u64);

/// An integer, written with or without a fraction of zero.
struct Int<T>(T);

impl<'de, T: Clamped> Deserialize<'de> for Int<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = serde_json::Number::deserialize(deserializer)?;
        let whole = crate::schema::whole(&number);
        whole.map(|whole| Int(T::clamped(whole))).ok_or_else(|| de::Error::custom("expected an integer"))
    }
}

/// An integer.
pub(super) fn int<'de, D: Deserializer<'de>, T: Clamped>(deserializer: D) -> Result<T, D::Error> {
    Int::deserialize(deserializer).map(|Int(int)| int)
}

/// An optional integer.
pub(super) fn some_int<'de, D: Deserializer<'de>, T: Clamped>(deserializer: D) -> Result<Option<T>, D::Error> {
    int(deserializer).map(Some)
}

/// A list of integers.
pub(super) fn ints<'de, D: Deserializer<'de>, T: Clamped>(deserializer: D) -> Result<Vec<T>, D::Error> {
    Ok(list::<D, Int<T>>(deserializer)?.into_iter().map(|Int(int)| int).collect())
}

/// `status`: 0 is false, anything else true.
pub(super) fn status<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    int::<D, u8>(deserializer).map(|status| status != 0)
}

/// Seconds, fractions honoured to the millisecond; more than zero is at least one millisecond, less than zero is zero.
pub(super) fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    f64::deserialize(deserializer).map(duration)
}

/// Optional seconds; zero is the same as absent.
pub(super) fn some_seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    seconds(deserializer).map(|seconds| Some(seconds).filter(|seconds| !seconds.is_zero()))
}

fn duration(seconds: f64) -> Duration {
    if seconds <= 0.0 {
        return Duration::ZERO;
    }
    let millis = (seconds * 1000.0).round().clamp(1.0, LONGEST.as_millis() as f64);
    Duration::from_millis(millis as u64)
}

/// Default of `status`.
pub(super) fn yes() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_round_to_milliseconds_and_stay_in_range() {
        let check = |seconds: f64, millis: u128| assert_eq!(duration(seconds).as_millis(), millis, "{seconds}");
        check(0.0, 0);
        check(-1.0, 0);
        check(0.000_01, 1);
        check(0.0015, 2);
        check(6.0, 6000);
        check(f64::MAX, LONGEST.as_millis());
        check(f64::NAN, 0);
    }
}
