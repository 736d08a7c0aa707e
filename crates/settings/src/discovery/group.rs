//! Registries in the settings of a gateway group: JSON that comes from the Admin API, and goes back to it without its secrets.

use std::sync::LazyLock;

use milecastle_model::{Fault, MASK};
use serde_json::Value;

use super::Registries;
use crate::check::{self, Schema, branches};
use crate::load::{Checks, Known, merge};
use crate::tree::Node;

static SCHEMA: LazyLock<Schema> = LazyLock::new(Schema::of::<Registries>);

/// Checks of registries ask for nothing that is known elsewhere.
const NOTHING: Known<'static> = Known { plugins: &[], group_token: |_| Ok(()), secret_files: false };

const STANDS_FOR_NONE: &str =
    "this stands for a secret that is stored, and none is stored here: give the secret itself";

impl Registries {
    /// The registries of a group, as its settings have them. A member that is null has its default.
    ///
    /// Nothing in them names a file: whoever may write settings would choose what nodes read, and to whom they send it.
    ///
    /// # Errors
    /// All faults, with their places within the registries: `/consul/servers/0`.
    pub fn of_group(written: &Value) -> Result<Self, Vec<Fault>> {
        let tree = Node::from(written);
        let mut found: Vec<(String, String)> =
            check::check(&SCHEMA, &tree).into_iter().map(|fault| (fault.key, fault.message)).collect();
        if found.is_empty() {
            let registries: Self = serde_json::from_value(without_nulls(written.clone()))
                .map_err(|error| vec![Fault::configuration("", error.to_string())])?;
            let mut checks = Checks::new(&NOTHING, &mut found);
            registries.check(&mut checks);
            registries.check_files(&mut checks);
            if found.is_empty() {
                return Ok(registries);
            }
        }
        Err(found.into_iter().map(|(key, message)| Fault::configuration(pointer(&key), message)).collect())
    }

    fn check_files(&self, checks: &mut Checks<'_>) {
        let files = [
            ("dns.resolv_conf", self.dns.as_ref().and_then(|dns| dns.resolv_conf.as_ref())),
            ("kubernetes.service.ca_file", self.kubernetes.as_ref().and_then(|own| own.service.ca_file.as_ref())),
            ("kubernetes.client.token_file", self.kubernetes.as_ref().and_then(|own| own.client.token_file.as_ref())),
        ];
        for (key, _) in files.iter().filter(|(_, file)| file.is_some()) {
            checks.fault(key, "settings of a group name no files: configure this registry in the files of the nodes");
        }
    }

    /// Replaces every secret by [`MASK`]; of an address with a login, the password. Gives whether there was one.
    pub fn mask(written: &mut Value) -> bool {
        let mut any = false;
        each_secret(SCHEMA.root(), written, "", &mut |secret| {
            any = true;
            *secret.text = secret.masked;
        });
        any
    }

    /// Puts the secrets of `stored` in the place of masks, so that what [`Self::mask`] has gone over can be written back.
    ///
    /// # Errors
    /// A fault for each mask of a secret that is not stored.
    pub fn unmask(written: &mut Value, stored: &Value) -> Result<(), Vec<Fault>> {
        let mut known = Vec::new();
        each_secret(SCHEMA.root(), &mut stored.clone(), "", &mut |secret| {
            known.push((secret.section(), secret.masked, std::mem::take(secret.text)));
        });
        let mut faults = Vec::new();
        each_secret(SCHEMA.root(), written, "", &mut |secret| {
            // What is its own mask stands for something else.
            if *secret.text == secret.masked {
                let section = secret.section();
                match known.iter().find(|(of, masked, _)| *of == section && *masked == secret.masked) {
                    Some((.., text)) => secret.text.clone_from(text),
                    None => faults.push(Fault::rule(secret.path, STANDS_FOR_NONE)),
                }
            }
        });
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }

    /// As they were written, without secrets, and what else holds by default.
    pub fn effective(&self, written: &Value) -> Value {
        let mut written = written.clone();
        Self::mask(&mut written);
        let mut effective = serde_json::to_value(self).unwrap_or_default();
        merge(&mut effective, without_nulls(written));
        if let Value::Object(registries) = &mut effective {
            registries.retain(|_, registry| !registry.is_null());
        }
        effective
    }
}

/// A secret among the registries.
struct SecretAt<'a> {
    path: String,
    text: &'a mut String,
    /// What is shown in its place.
    masked: String,
}

impl SecretAt<'_> {
    /// Where it may have stood before: of an address in a list, the whole list.
    fn section(&self) -> String {
        self.path.trim_end_matches(|end: char| end.is_ascii_digit()).to_owned()
    }
}

/// Looks at every secret that the schema knows of.
fn each_secret(schema: &Value, value: &mut Value, path: &str, look: &mut dyn FnMut(SecretAt<'_>)) {
    match value {
        Value::String(text) if schema["writeOnly"] == true => {
            let url = schema["format"] == "registry-url";
            if let Some(masked) = if url { without_password(text) } else { Some(MASK.to_owned()) } {
                look(SecretAt { path: path.to_owned(), text, masked });
            }
        }
        Value::Object(members) => {
            for (name, member) in members {
                for schema in branches(schema).filter_map(|schema| schema["properties"].get(name)) {
                    each_secret(schema, member, &format!("{path}/{name}"), look);
                }
            }
        }
        Value::Array(items) => {
            for (n, item) in items.iter_mut().enumerate() {
                each_secret(&schema["items"], item, &format!("{path}/{n}"), look);
            }
        }
        _ => {}
    }
}

/// An address with [`MASK`] in the place of the password; `None` where it has no login.
fn without_password(url: &str) -> Option<String> {
    let (login, host) = url.rsplit_once('@')?;
    let (scheme, login) = login.split_once("://").unwrap_or(("", login));
    let user = login.split_once(':').map_or("", |(user, _)| user);
    Some(format!("{scheme}://{user}:{MASK}@{host}"))
}

/// Members that are null are as good as left out.
fn without_nulls(mut value: Value) -> Value {
    if let Value::Object(members) = &mut value {
        members.retain(|_, member| !member.is_null());
        for member in members.values_mut() {
            *member = without_nulls(member.take());
        }
    }
    value
}

/// The JSON pointer of a key: `/consul/servers/0` of `consul.servers[0]`.
fn pointer(key: &str) -> String {
    if key.is_empty() {
        return String::new();
    }
    format!("/{}", key.replace(['.', '['], "/").replace(']', ""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn secrets() -> Value {
        json!({
            "consul": { "servers": ["http://a:8500", "http://u:sesame@b:8500", "http://u:open@c:8500"], "token": "sesame" },
            "consul_kv": { "servers": ["http://k:sesame@a:8500"], "token": "sesame" },
            "nacos": { "host": ["http://n:sesame@a:8848/"], "access_key": "a", "secret_key": "sesame" },
            "eureka": { "host": ["http://e:sesame@a:8761"] },
            "kubernetes": { "client": { "token": "sesame" } },
        })
    }

    fn masked() -> Value {
        let mut masked = secrets();
        assert!(Registries::mask(&mut masked));
        masked
    }

    #[test]
    fn secrets_are_masked_and_come_back() {
        let shown = masked();
        assert!(!shown.to_string().contains("sesame"), "{shown}");
        assert_eq!(
            shown["consul"],
            json!({ "servers": ["http://a:8500", "http://u:******@b:8500", "http://u:******@c:8500"], "token": MASK })
        );
        let mut back = shown.clone();
        Registries::unmask(&mut back, &secrets()).unwrap();
        assert_eq!(back, secrets());
        // In another order, without the first one.
        let mut moved =
            json!({ "consul": { "servers": [shown["consul"]["servers"][2], shown["consul"]["servers"][1]] } });
        Registries::unmask(&mut moved, &secrets()).unwrap();
        assert_eq!(moved["consul"]["servers"], json!(["http://u:open@c:8500", "http://u:sesame@b:8500"]));
        let registries = Registries::of_group(&secrets()).unwrap();
        let effective = registries.effective(&secrets());
        assert!(!effective.to_string().contains("sesame") && !format!("{registries:?}").contains("sesame"));
        assert_eq!((&effective["consul"]["token"], &effective["consul"]["weight"]), (&json!(MASK), &json!(1)));
        assert_eq!(effective.get("dns"), None);
        assert!(!Registries::mask(&mut json!({ "dns": { "servers": ["192.0.2.1"] } })));
    }

    #[test]
    fn a_mask_of_nothing_is_refused() {
        let faults = Registries::unmask(&mut masked(), &json!({ "consul": { "token": "t" } })).unwrap_err();
        let places: Vec<&str> = faults.iter().map(|fault| &*fault.path).collect();
        let expected = [
            "/consul/servers/1",
            "/consul/servers/2",
            "/consul_kv/servers/0",
            "/consul_kv/token",
            "/nacos/host/0",
            "/nacos/secret_key",
            "/eureka/host/0",
            "/kubernetes/client/token",
        ];
        assert_eq!(places, expected);
        // Another host does not get the password of this one.
        let mut other = json!({ "consul": { "servers": ["http://u:******@d:8500"] } });
        assert!(Registries::unmask(&mut other, &secrets()).is_err());
    }

    #[test]
    fn faults_name_their_places_and_no_secret() {
        let check = |written: Value, expected: &[(&str, &str)]| {
            let faults = Registries::of_group(&written).unwrap_err();
            let found: Vec<(&str, &str)> = faults.iter().map(|fault| (&*fault.path, &*fault.message)).collect();
            assert_eq!(found, expected, "{written}");
        };
        check(json!({ "consuls": {} }), &[("/consuls", "unknown key; did you mean `consul`?")]);
        check(json!({ "consul": {} }), &[("/consul/servers", "required: name at least one server")]);
        check(
            json!({ "nacos": { "host": ["http://a", "nacos:sesame@b"] } }),
            &[(
                "/nacos/host/1",
                "expected an address such as `http://host:8500`, or `http://user:password@host:8500`, found something else",
            )],
        );
        check(
            json!({ "consul": { "servers": ["http://a"], "token": 7 } }),
            &[("/consul/token", "expected text (in quotes where it looks like something else), found something else")],
        );
        check(
            json!({ "dns": { "servers": ["192.0.2.1"], "tries": 0 } }),
            &[("/dns/tries", "expected a whole number from 1 to 20, found 0")],
        );
        let file = "settings of a group name no files: configure this registry in the files of the nodes";
        check(json!({ "dns": { "resolv_conf": "/etc/resolv.conf" } }), &[("/dns/resolv_conf", file)]);
        check(
            json!({ "kubernetes": { "service": { "ca_file": "/a" }, "client": { "token_file": "/b" } } }),
            &[("/kubernetes/service/ca_file", file), ("/kubernetes/client/token_file", file)],
        );
        let broken = json!({ "kubernetes": { "namespace_selector": { "match": ["a", "("] } } });
        check(broken, &[("/kubernetes/namespace_selector/match/1", "expected a regular expression")]);
    }

    #[test]
    fn null_is_the_default() {
        let written = json!({ "dns": null, "consul": { "servers": ["http://a"], "timeout": null, "token": null } });
        let registries = Registries::of_group(&written).unwrap();
        assert_eq!(registries.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["consul"]);
        assert_eq!(registries.consul.unwrap().agents.timeout.wait, 60);
    }
}
