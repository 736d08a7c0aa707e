//! Look-ups among the fields of a head.
//!
//! A [`HeaderMap`] hashes a name byte by byte, each step waiting for the one before. Among the few fields of an ordinary head a
//! name is found sooner by comparing it with each.

use http::{HeaderMap, HeaderName, HeaderValue};

/// Fields beyond which a name is hashed.
const FEW: usize = 16;

/// The first value of a field: [`HeaderMap::get`].
#[inline]
pub fn get<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h HeaderValue> {
    if headers.len() > FEW {
        return headers.get(name);
    }
    headers.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
}

/// Takes a field off that is rarely there: [`HeaderMap::remove`].
#[inline]
pub fn remove(headers: &mut HeaderMap, name: &HeaderName) {
    if get(headers, name).is_some() {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_fields_and_many_are_looked_up_alike() {
        let name = |n: usize| HeaderName::from_bytes(format!("x-{n}").as_bytes()).unwrap();
        for count in [0, 1, FEW / 2, FEW, FEW + 1, 4 * FEW] {
            let mut headers = HeaderMap::new();
            for n in (0..count).chain(0..count / 2) {
                headers.append(name(n), HeaderValue::from(headers.len()));
            }
            for n in 0..=count {
                assert_eq!(get(&headers, &name(n)), headers.get(name(n)), "{n} of {count}");
                let (mut own, mut other) = (headers.clone(), headers.clone());
                remove(&mut own, &name(n));
                other.remove(name(n));
                assert_eq!(own, other, "{n} of {count}");
            }
        }
    }
}
