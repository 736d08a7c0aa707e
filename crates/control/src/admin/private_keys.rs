//! Private keys in answers and in what comes back (`docs/spec/admin-api.md` §7, `docs/spec/tls.md` §8).
//!
//! A private key that was written is never sent out again. Where the specification shows its encrypted form, an answer
//! shows a mark, which names the key without giving it away; a body that carries a mark in a later write means the key
//! stored at that moment. So a client may send back what it was given.

use aws_lc_rs::digest;
use bytes::Bytes;
use milecastle_model::{Fault, Kind, Object};
use serde_json::Value;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt::Write;

/// How marks begin. Long enough with the digest for the schema of a key, which asks for 64 characters.
const MARK: &str = "sealed:sha256:";

/// When an object is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Occasion {
    /// In answer to a GET.
    Read,
    /// In answer to the write that made it.
    Write,
}

/// An object's body as answers show it.
pub(crate) fn shown<'a>(
    kind: Kind,
    body: &'a Bytes,
    occasion: Occasion,
) -> Result<Cow<'a, RawValue>, serde_json::Error> {
    if !may_hold(kind, body) {
        return serde_json::from_slice::<&RawValue>(body).map(Cow::Borrowed);
    }
    let mut value: Value = serde_json::from_slice(body)?;
    if kind == Kind::Ssl && occasion == Occasion::Read {
        if let Value::Object(members) = &mut value {
            members.shift_remove("key");
            members.shift_remove("keys");
        }
    } else {
        each_key(kind, &mut value, &mut |_, text| *text = mark(text));
    }
    serde_json::value::to_raw_value(&value).map(Cow::Owned)
}

/// Whether the body carries a mark.
pub(crate) fn is_marked(kind: Kind, body: &Value) -> bool {
    let keys = milecastle_model::secrets(kind, body);
    keys.iter().filter_map(|pointer| body.pointer(pointer)?.as_str()).any(|text| text.starts_with(MARK))
}

/// Puts the stored keys in place of marks.
///
/// # Errors
/// A fault for each mark of a key that is not stored.
pub(crate) fn restore(kind: Kind, body: &mut Value, stored: Option<&Object>) -> Result<(), Vec<Fault>> {
    if !is_marked(kind, body) {
        return Ok(());
    }
    let mut known = Vec::new();
    if let Some(mut old) = stored.and_then(|object| serde_json::from_slice::<Value>(&object.body).ok()) {
        each_key(kind, &mut old, &mut |_, text| known.push((mark(text), std::mem::take(text))));
    }
    let mut faults = Vec::new();
    each_key(kind, body, &mut |path, text| {
        if text.starts_with(MARK) {
            match known.iter().find(|(mark, _)| mark == text) {
                Some((_, key)) => text.clone_from(key),
                None => faults.push(Fault::rule(path, "failed to decrypt previous encrypted key")),
            }
        }
    });
    if faults.is_empty() { Ok(()) } else { Err(faults) }
}

/// Whether the body holds a private key; quick, and may err on the side of yes.
pub(crate) fn may_hold(kind: Kind, body: &[u8]) -> bool {
    match kind {
        Kind::Ssl => true,
        Kind::Upstream | Kind::Route | Kind::Service | Kind::StreamRoute => {
            std::str::from_utf8(body).is_ok_and(|text| text.contains("client_key"))
        }
        _ => false,
    }
}

/// Calls `see` with every private key of the body and its JSON pointer. References to keys kept elsewhere are none.
fn each_key(kind: Kind, body: &mut Value, see: &mut dyn FnMut(&str, &mut String)) {
    for pointer in milecastle_model::secrets(kind, body) {
        if let Some(Value::String(text)) = body.pointer_mut(&pointer) {
            see(&pointer, text);
        }
    }
}

fn mark(key: &str) -> String {
    let sum = digest::digest(&digest::SHA256, key.as_bytes());
    sum.as_ref().iter().fold(MARK.to_owned(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string does not fail");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use milecastle_model::Key;
    use serde_json::json;

    const KEY: &str = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";

    fn check(kind: Kind, body: &Value, occasion: Occasion) -> Value {
        let bytes = Bytes::from(body.to_string());
        let text = shown(kind, &bytes, occasion).unwrap().get().to_owned();
        assert!(!text.contains("AAAA"), "{text}");
        serde_json::from_str(&text).unwrap()
    }

    fn stored(kind: Kind, body: &Value) -> Object {
        Object { key: Key::new(kind, "1"), body: body.to_string().into(), created: 1, modified: 1 }
    }

    #[test]
    fn keys_of_certificates_are_left_out_of_reads_and_marked_in_answers_to_writes() {
        let body = json!({"sni": "a.b", "key": KEY, "cert": "c", "keys": [KEY, "$secret://vault/1/k"]});
        assert_eq!(check(Kind::Ssl, &body, Occasion::Read), json!({"sni": "a.b", "cert": "c"}));
        let written = check(Kind::Ssl, &body, Occasion::Write);
        assert_eq!(written["key"], written["keys"][0]);
        assert!(written["key"].as_str().unwrap().len() >= 64);
        assert_eq!(written["keys"][1], "$secret://vault/1/k");
    }

    #[test]
    fn a_mark_that_comes_back_means_the_stored_key() {
        for (kind, body) in [
            (Kind::Ssl, json!({"key": KEY, "keys": [KEY]})),
            (Kind::Upstream, json!({"tls": {"client_key": KEY}})),
            (Kind::Route, json!({"upstream": {"tls": {"client_key": KEY}}})),
        ] {
            let mut back = check(kind, &body, Occasion::Write);
            assert_ne!(back, body);
            restore(kind, &mut back, Some(&stored(kind, &body))).unwrap();
            assert_eq!(back, body);
        }
    }

    #[test]
    fn a_mark_of_another_key_is_refused_at_its_place() {
        let mut body = json!({"key": mark("x"), "keys": [mark("y")]});
        let faults = restore(Kind::Ssl, &mut body, Some(&stored(Kind::Ssl, &json!({"key": KEY})))).unwrap_err();
        let paths: Vec<&str> = faults.iter().map(|fault| fault.path.as_str()).collect();
        assert_eq!(paths, ["/key", "/keys/0"]);
        assert_eq!(faults[0].to_string(), "failed to decrypt previous encrypted key");
        assert!(restore(Kind::Upstream, &mut json!({"tls": {"client_key": mark(KEY)}}), None).is_err());
    }

    #[test]
    fn bodies_without_keys_are_shown_as_they_are() {
        let body = Bytes::from_static(b"{ \"uri\" : \"/a\" }");
        let text = shown(Kind::Route, &body, Occasion::Read).unwrap();
        assert_eq!(text.get(), "{ \"uri\" : \"/a\" }");
    }
}
