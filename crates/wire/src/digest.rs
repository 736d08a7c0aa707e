//! A digest over a set of objects that is updated with each change instead of computed anew.

use std::fmt;
use std::ops::{AddAssign, SubAssign};
use std::str::FromStr;

use aws_lc_rs::hmac;
use milecastle_model::Object;

use crate::pb;

/// The key under which objects of one lineage are hashed. Derived from the lineage alone, so both sides have it.
///
/// With it, equal objects in two lineages have different digests: a node never takes one configuration for another
/// after a restore.
#[derive(Clone)]
pub struct DigestKey(hmac::Key);

impl DigestKey {
    /// The key of a lineage.
    pub fn of_lineage(lineage: &str) -> Self {
        let root = hmac::Key::new(hmac::HMAC_SHA256, b"milecastle.config.v1 digest");
        let derived = hmac::sign(&root, lineage.as_bytes());
        Self(hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref()))
    }

    /// What one object adds to the digest: a keyed hash of its kind's name, its id and its body.
    ///
    /// A holder of many objects keeps this (32 bytes) beside each, to subtract it when the object goes.
    pub fn item(&self, kind: &str, id: &str, body: &[u8]) -> Digest {
        let mut hash = hmac::Context::with_key(&self.0);
        // Lengths first: otherwise ("a", "bc") and ("ab", "c") would hash alike.
        for part in [kind.as_bytes(), id.as_bytes(), body] {
            hash.update(&(part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        let mut bytes = [0; 32];
        bytes.copy_from_slice(hash.sign().as_ref());
        Digest::from_bytes(bytes)
    }

    /// [`item`](Self::item) of a model object.
    pub fn object(&self, object: &Object) -> Digest {
        self.item(object.key.kind.name(), &object.key.id, &object.body)
    }

    /// [`item`](Self::item) of an object as it travels, of a known kind or not.
    pub fn wire_object(&self, object: &pb::Object) -> Digest {
        let (kind, id) = object.key.as_ref().map_or(("", ""), |key| (key.kind.as_str(), key.id.as_str()));
        self.item(kind, id, &object.body)
    }
}

impl fmt::Debug for DigestKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DigestKey(..)")
    }
}

/// A sum modulo 2²⁵⁶ of [items](DigestKey::item): the order of objects plays no part, and an object that goes is subtracted.
///
/// It tells apart configurations that differ by mistake. It is no signature: who may speak is a matter of TLS.
/// `Default` is the digest of the empty configuration. `Display` and `FromStr` are 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Digest {
    /// Least significant first.
    limbs: [u64; 4],
}

impl Digest {
    /// From 32 bytes, most significant first, as in messages.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        let mut limbs = [0; 4];
        for (limb, chunk) in limbs.iter_mut().rev().zip(bytes.as_chunks::<8>().0) {
            *limb = u64::from_be_bytes(*chunk);
        }
        Self { limbs }
    }

    /// 32 bytes, most significant first.
    pub fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (limb, chunk) in self.limbs.iter().rev().zip(bytes.as_chunks_mut::<8>().0) {
            *chunk = limb.to_be_bytes();
        }
        bytes
    }
}

impl AddAssign for Digest {
    fn add_assign(&mut self, item: Self) {
        let mut carry = false;
        for (limb, other) in self.limbs.iter_mut().zip(item.limbs) {
            (*limb, carry) = limb.carrying_add(other, carry);
        }
    }
}

impl SubAssign for Digest {
    fn sub_assign(&mut self, item: Self) {
        let mut borrow = false;
        for (limb, other) in self.limbs.iter_mut().zip(item.limbs) {
            (*limb, borrow) = limb.borrowing_sub(other, borrow);
        }
    }
}

impl std::iter::Sum for Digest {
    fn sum<I: Iterator<Item = Self>>(items: I) -> Self {
        items.fold(Self::default(), |mut sum, item| {
            sum += item;
            sum
        })
    }
}

impl From<Digest> for bytes::Bytes {
    fn from(digest: Digest) -> Self {
        bytes::Bytes::copy_from_slice(&digest.to_bytes())
    }
}

/// Bytes or text that are no digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a digest: 32 bytes (64 hexadecimal digits) expected")]
pub struct InvalidDigest;

impl TryFrom<&[u8]> for Digest {
    type Error = InvalidDigest;

    fn try_from(bytes: &[u8]) -> Result<Self, InvalidDigest> {
        bytes.try_into().map(Self::from_bytes).map_err(|_| InvalidDigest)
    }
}

impl FromStr for Digest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(InvalidDigest);
        }
        let mut limbs = [0; 4];
        for (limb, digits) in limbs.iter_mut().rev().zip(text.as_bytes().as_chunks::<16>().0) {
            let digits = std::str::from_utf8(digits).map_err(|_| InvalidDigest)?;
            *limb = u64::from_str_radix(digits, 16).map_err(|_| InvalidDigest)?;
        }
        Ok(Self { limbs })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.limbs.iter().rev().try_for_each(|limb| write!(f, "{limb:016x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Item = (String, String, Vec<u8>);

    fn items() -> impl Strategy<Value = Vec<Item>> {
        prop::collection::vec(("[a-z]{0,8}", "[a-z0-9/]{0,12}", prop::collection::vec(any::<u8>(), 0..64)), 0..24)
    }

    fn total(items: &[Item]) -> Digest {
        let key = DigestKey::of_lineage("here");
        items.iter().map(|(kind, id, body)| key.item(kind, id, body)).sum()
    }

    proptest! {
        #[test]
        fn order_plays_no_part(items in items(), seed in any::<u64>()) {
            let mut shuffled = items.clone();
            let mut state = seed | 1;
            for i in (1..shuffled.len()).rev() {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                shuffled.swap(i, (state >> 33) as usize % (i + 1));
            }
            prop_assert_eq!(total(&items), total(&shuffled));
        }

        #[test]
        fn taking_away_undoes_adding(items in items(), more in items()) {
            let key = DigestKey::of_lineage("here");
            let before = total(&items);
            let mut digest = before;
            for (kind, id, body) in &more {
                digest += key.item(kind, id, body);
            }
            for (kind, id, body) in more.iter().rev() {
                digest -= key.item(kind, id, body);
            }
            prop_assert_eq!(digest, before);
        }

        #[test]
        fn replacing_equals_computing_anew(items in items(), new_body in prop::collection::vec(any::<u8>(), 0..64)) {
            prop_assume!(!items.is_empty());
            let key = DigestKey::of_lineage("here");
            let mut digest = total(&items);
            let (kind, id, body) = &items[0];
            digest -= key.item(kind, id, body);
            digest += key.item(kind, id, &new_body);
            let mut replaced = items.clone();
            replaced[0].2 = new_body;
            prop_assert_eq!(digest, total(&replaced));
        }

        #[test]
        fn text_and_bytes_round_trip(bytes in any::<[u8; 32]>()) {
            let digest = Digest::from_bytes(bytes);
            prop_assert_eq!(digest.to_bytes(), bytes);
            prop_assert_eq!(digest.to_string().parse::<Digest>(), Ok(digest));
            prop_assert_eq!(Digest::try_from(&bytes[..]), Ok(digest));
        }
    }

    #[test]
    fn carries_and_borrows_run_through_all_limbs() {
        let one = Digest { limbs: [1, 0, 0, 0] };
        let mut digest = Digest { limbs: [u64::MAX; 4] };
        digest += one;
        assert_eq!(digest, Digest::default());
        digest -= one;
        assert_eq!(digest, Digest { limbs: [u64::MAX; 4] });
    }

    #[test]
    fn lineage_kind_id_and_body_all_count() {
        let here = DigestKey::of_lineage("here");
        let item = here.item("route", "1", b"{}");
        assert_ne!(item, DigestKey::of_lineage("there").item("route", "1", b"{}"));
        assert_ne!(item, here.item("service", "1", b"{}"));
        assert_ne!(item, here.item("route", "2", b"{}"));
        assert_ne!(item, here.item("route", "1", b"{ }"));
        assert_ne!(here.item("route", "1a", b"b"), here.item("route", "1", b"ab"));
    }

    /// Pinned: a change of it would make every node of an older version refuse every delta.
    #[test]
    fn known_value() {
        let item = DigestKey::of_lineage("here").item("route", "1", br#"{"uri":"/"}"#);
        assert_eq!(item.to_string(), "055ad49a0c1c700ac2fd20b502365a9450cdcd91a33f925879960004e10ded51");
    }

    #[test]
    fn what_is_no_digest_is_refused() {
        assert_eq!("12".parse::<Digest>(), Err(InvalidDigest));
        assert_eq!("g".repeat(64).parse::<Digest>(), Err(InvalidDigest));
        assert_eq!("+".repeat(64).parse::<Digest>(), Err(InvalidDigest));
        assert_eq!(Digest::try_from(&[0; 31][..]), Err(InvalidDigest));
    }
}
