//! Rules of certificates and keys.

use serde_json::Value;

use super::pem;
use crate::Fault;
use crate::is_reference;

/// Rules of an ssl object. Whether a key fits its certificate is not asked (`docs/spec/tls.md` §4).
pub(super) fn check(ssl: &Value, faults: &mut Vec<Fault>) {
    if let Err(message) = certificate(ssl.get("cert")) {
        faults.push(Fault::rule("/cert", message));
    }
    if let Err(message) = key(ssl.get("key")) {
        faults.push(Fault::rule("/key", message));
    }
    let list = |name: &str| ssl.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let (certs, keys) = (list("certs"), list("keys"));
    if certs.len() != keys.len() {
        faults.push(Fault::rule("/keys", "mismatched number of certs and keys"));
    }
    let mut pair = |name: &str, n: usize, checked: Result<(), String>| {
        if let Err(message) = checked {
            let message = format!("failed to handle cert-key pair[{}]: {message}", n + 1);
            faults.push(Fault::rule(format!("/{name}/{n}"), message));
        }
    };
    for n in 0..certs.len().max(keys.len()) {
        pair("certs", n, certificate(certs.get(n)));
        pair("keys", n, key(keys.get(n)));
    }
    if let Some(ca) = text(ssl.pointer("/client/ca"))
        && let Err(error) = pem::certificates(ca)
    {
        faults.push(Fault::rule("/client/ca", format!("failed to validate client_cert: {error}")));
    }
}

/// The message for an attribute that should hold certificates; absent and secret references are fine.
pub(super) fn certificate(value: Option<&Value>) -> Result<(), String> {
    let Some(text) = text(value) else { return Ok(()) };
    pem::certificates(text).map_err(|error| format!("failed to parse cert: {error}"))
}

/// The message for an attribute that should hold a private key. Text that does not begin with `---` is a ciphertext,
/// which is not for us to read (`docs/spec/tls.md` §8).
pub(super) fn key(value: Option<&Value>) -> Result<(), String> {
    let Some(text) = text(value).filter(|text| text.starts_with("---")) else { return Ok(()) };
    pem::private_key(text).map_err(|error| format!("failed to parse key: {error}"))
}

/// The text itself, unless it stands for a text kept elsewhere.
fn text(value: Option<&Value>) -> Option<&str> {
    value.and_then(Value::as_str).filter(|text| !is_reference(text))
}
