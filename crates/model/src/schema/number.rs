//! JSON numbers as the validator sees them: `1` and `1.0` are the same integer.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Number, Value};

/// The number as an integer if it has no fraction; beyond ±2¹²⁷ the nearest end of that range.
pub(crate) fn whole(number: &Number) -> Option<i128> {
    if let Some(signed) = number.as_i64() {
        return Some(signed.into());
    }
    if let Some(unsigned) = number.as_u64() {
        return Some(unsigned.into());
    }
    number.as_f64().filter(|float| float.fract() == 0.0).map(|float| float as i128)
}

/// Exact for two integers, otherwise by the nearest doubles.
pub(super) fn compare(a: &Number, b: &Number) -> Ordering {
    match (a.is_f64() || b.is_f64(), whole(a), whole(b)) {
        (false, Some(a), Some(b)) => a.cmp(&b),
        _ => a.as_f64().partial_cmp(&b.as_f64()).unwrap_or(Ordering::Equal),
    }
}

/// Whether `number` is an integral multiple of `divisor`, which is above zero. With fractions the quotient may be off
/// by the rounding of two doubles.
pub(super) fn is_multiple(number: &Number, divisor: &Number) -> bool {
    if let (Some(number), Some(divisor)) = (whole(number), whole(divisor)) {
        return divisor != 0 && number % divisor == 0;
    }
    let (Some(number), Some(divisor)) = (number.as_f64(), divisor.as_f64()) else { return false };
    let quotient = number / divisor;
    (quotient - quotient.round()).abs() <= quotient.abs() * 4.0 * f64::EPSILON
}

/// As messages show it: without a fraction that is zero.
pub(super) fn text(number: &Number) -> String {
    /// Largest magnitude below which a double holds every integer.
    const EXACT: i128 = 1 << 53;
    match whole(number) {
        Some(whole) if number.is_f64() && (-EXACT..=EXACT).contains(&whole) => whole.to_string(),
        _ => number.to_string(),
    }
}

/// A text that is equal for equal values: numbers by value, objects without regard to order.
pub(super) fn canonical(value: &Value) -> String {
    let mut out = String::new();
    write_canonical(value, &mut out);
    out
}

fn write_canonical(value: &Value, out: &mut String) {
    match value {
        Value::Number(number) => out.push_str(&text(number)),
        Value::Array(items) => {
            out.push('[');
            for item in items {
                write_canonical(item, out);
                out.push(',');
            }
            out.push(']');
        }
        Value::Object(members) => {
            out.push('{');
            for (name, member) in members.iter().collect::<BTreeMap<_, _>>() {
                write!(out, "{name:?}:").expect("writing to a string never fails");
                write_canonical(member, out);
                out.push(',');
            }
            out.push('}');
        }
        Value::String(text) => write!(out, "{text:?}").expect("writing to a string never fails"),
        Value::Null | Value::Bool(_) => write!(out, "{value}").expect("writing to a string never fails"),
    }
}
