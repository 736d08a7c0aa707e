//! The head of a request over HTTP/2: what RFC 9113 forbids and the library lets pass.
//!
//! The library resets streams, or ends the connection, on pseudo-header fields that are missing, unknown, repeated, late or
//! malformed, on names with capitals, on control characters in values, on fields of a connection, and on a `Content-Length`
//! that the data does not keep. Pseudo-header fields of trailers it drops, and a fragment of `:path` too.

use crate::request::{Head, Seen};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

/// Checks the head of a request that may have so many fields, and brings it into the form that all protocols share.
pub(super) fn check(mut parts: Parts, most_fields: usize) -> Head {
    let malformed = !target_is_sound(&parts) || !parts.headers.iter().all(|(name, value)| is_sound(name, value));
    let fault = if malformed {
        Some(StatusCode::BAD_REQUEST)
    } else {
        (parts.headers.len() > most_fields).then_some(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)
    };
    join_cookies(&mut parts.headers);
    let seen = Seen::of(&parts.headers);
    Head { method: parts.method, uri: parts.uri, version: parts.version, headers: parts.headers, seen, fault }
}

/// Whether `:path` is one (RFC 9113 §8.3.1). Without `:authority` the library takes a request that has none at all.
fn target_is_sound(parts: &Parts) -> bool {
    let missing = parts.uri.path().is_empty();
    let target = parts.uri.path_and_query().map_or("", |target| target.as_str());
    !missing && (target.starts_with('/') || (target == "*" && parts.method == Method::OPTIONS))
}

/// Values neither begin nor end with white space (RFC 9113 §8.2.1), and a length is a number.
pub(super) fn is_sound(name: &HeaderName, value: &HeaderValue) -> bool {
    match value.as_bytes() {
        [b' ' | b'\t', ..] | [.., b' ' | b'\t'] => false,
        [] => *name != header::CONTENT_LENGTH,
        _ => true,
    }
}

/// Clients send the pairs of a cookie in fields of their own, which compress better. To whom HTTP/2 means nothing they have to
/// be one field (RFC 9113 §8.2.3).
pub(super) fn join_cookies(headers: &mut HeaderMap) {
    // Most requests have one field or none, and cost no list.
    if headers.get_all(header::COOKIE).iter().nth(1).is_none() {
        return;
    }
    // An empty pair would leave a blank at the end of the value.
    let crumbs = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).filter(|crumb| !crumb.is_empty());
    let whole = crumbs.collect::<Vec<_>>().join(&b"; "[..]);
    let whole = HeaderValue::from_bytes(&whole).expect("values that are joined by `; ` are a value");
    headers.insert(header::COOKIE, whole);
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn checked(fields: &[(&str, &str)], most_fields: usize) -> Head {
        let mut request = Request::get("http://a.test/");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        check(request.body(()).unwrap().into_parts().0, most_fields)
    }

    #[test]
    fn crumbs_become_one_cookie_in_order() {
        let head = checked(&[("cookie", "a=1"), ("x", "y"), ("cookie", "b=2; c"), ("cookie", "")], 100);
        let cookies: Vec<_> = head.headers.get_all(header::COOKIE).iter().collect();
        assert_eq!(cookies, ["a=1; b=2; c"]);
        assert_eq!(head.fault, None);
    }

    #[test]
    fn fields_have_their_number() {
        let fields = [("a", "1"), ("b", "2"), ("cookie", "c"), ("cookie", "d")];
        assert_eq!(checked(&fields, 4).fault, None);
        assert_eq!(checked(&fields, 3).fault, Some(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE));
    }
}
