//! Which attributes hold secrets (`docs/spec/admin-api.md` §7). Secrets inside plugin configurations are for the plugins
//! to declare, and those of registries in the settings of a group for `milecastle_settings::Registries` to find.

use serde_json::Value;

use crate::Kind;

/// What [`mask`] puts in place of a secret.
pub const MASK: &str = "******";

/// What a reference to a secret manager begins with; unlike `$env://`, in these letters only (`docs/spec/resources.md` §13).
pub const SECRET_MANAGER: &str = "$secret://";

/// JSON pointers of what is secret in objects of a kind; what is an array there has secrets for items.
pub fn secret_places(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Ssl => &["/key", "/keys"],
        Kind::Upstream => &["/tls/client_key"],
        Kind::Route | Kind::Service | Kind::StreamRoute => &["/upstream/tls/client_key"],
        Kind::Secret => &["/token", "/secret_access_key", "/session_token", "/auth_config/private_key"],
        _ => &[],
    }
}

/// JSON pointers of the secret values in `body`, in a fixed order. References to secrets kept elsewhere
/// (`$secret://…`, `$env://…`) are not secret and are left out.
pub fn secrets(kind: Kind, body: &Value) -> Vec<String> {
    let of_place = |place: &&str| match body.pointer(place).and_then(Value::as_array) {
        Some(items) => (0..items.len()).map(|n| format!("{place}/{n}")).collect(),
        None => vec![(*place).to_owned()],
    };
    let mut pointers: Vec<String> = secret_places(kind).iter().flat_map(of_place).collect();
    pointers.retain(|pointer| body.pointer(pointer).and_then(Value::as_str).is_some_and(|text| !is_reference(text)));
    pointers
}

/// Whether a text stands for a value that is kept elsewhere: `$secret://…`, or `$env://…` in any case
/// (`docs/spec/resources.md` §13).
pub fn is_reference(text: &str) -> bool {
    const ENV: &str = "$env://";
    let of_env = || text.get(..ENV.len()).is_some_and(|head| head.eq_ignore_ascii_case(ENV));
    text.starts_with(SECRET_MANAGER) || of_env()
}

/// Replaces every secret value by [`MASK`], and whatever else stands where one belongs: somebody may have put it there in another form.
pub fn mask(kind: Kind, body: &mut Value) {
    for place in secret_places(kind) {
        match body.pointer_mut(place) {
            Some(Value::Array(items)) => items.iter_mut().for_each(mask_one),
            Some(value) => mask_one(value),
            None => {}
        }
    }
}

fn mask_one(value: &mut Value) {
    match value {
        Value::Null => {}
        Value::String(text) if is_reference(text) => {}
        secret => *secret = MASK.into(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(kind: Kind, body: Value, masked: Value) {
        let mut copy = body.clone();
        mask(kind, &mut copy);
        assert_eq!(copy, masked);
        let found = secrets(kind, &body);
        assert!(found.iter().all(|pointer| copy.pointer(pointer) == Some(&MASK.into())), "{found:?}");
    }

    #[test]
    fn secrets_of_every_kind() {
        check(
            Kind::Ssl,
            json!({"cert": "c", "key": "k", "certs": ["c"], "keys": ["k", "$secret://vault/1/a/b"]}),
            json!({"cert": "c", "key": MASK, "certs": ["c"], "keys": [MASK, "$secret://vault/1/a/b"]}),
        );
        check(Kind::Ssl, json!({"key": "$ENV://KEY"}), json!({"key": "$ENV://KEY"}));
        let tls = |key: &str| json!({"tls": {"client_cert": "c", "client_key": key}});
        check(Kind::Upstream, tls("k"), tls(MASK));
        for kind in [Kind::Route, Kind::Service, Kind::StreamRoute] {
            check(kind, json!({"upstream": tls("k")}), json!({"upstream": tls(MASK)}));
        }
        check(
            Kind::Secret,
            json!({"token": "t", "auth_config": {"private_key": "p", "project_id": "i"}}),
            json!({"token": MASK, "auth_config": {"private_key": MASK, "project_id": "i"}}),
        );
        check(Kind::Consumer, json!({"key": "k"}), json!({"key": "k"}));
        check(Kind::Ssl, json!({"key": {"of": "k"}, "keys": [["k"]]}), json!({"key": MASK, "keys": [MASK]}));
        check(Kind::Ssl, json!({"key": null, "keys": "k"}), json!({"key": null, "keys": MASK}));
        check(Kind::Ssl, json!(null), json!(null));
    }
}
