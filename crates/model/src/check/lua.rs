//! Attributes that hold Lua. There is no Lua engine yet, so they are refused, each with the words that the Admin API has
//! for a text that does not load and with what to use instead.

use serde_json::Value;

use crate::{Fault, Kind, pointer};

pub(super) fn check(kind: Kind, body: &Value, faults: &mut Vec<Fault>) {
    let mut refuse = |name: &str, message: &str| {
        if body.get(name).is_some() {
            faults.push(Fault::rule(format!("/{name}"), message));
        }
    };
    if kind == Kind::Route {
        let words = "failed to load 'filter_func' string: Lua functions are not supported by this version; use vars";
        refuse("filter_func", words);
    }
    if matches!(kind, Kind::Route | Kind::Service) {
        refuse("script", "failed to load 'script' string: Lua scripts are not supported by this version; use plugins");
    }
    plugins(kind, body, faults);
}

fn plugins(kind: Kind, body: &Value, faults: &mut Vec<Fault>) {
    let prefix = match kind {
        Kind::Consumer | Kind::Credential => "invalid plugins configuration: ",
        _ => "",
    };
    for (name, config) in body.get("plugins").and_then(Value::as_object).into_iter().flatten() {
        let Some(meta) = config.get("_meta") else { continue };
        // A disabled plugin is stored unchecked (§11.1).
        let disabled = meta.get("disable") == Some(&Value::Bool(true));
        if !disabled && meta.get("pre_function").is_some() {
            let path = pointer::join("/plugins", name) + "/_meta/pre_function";
            let message = format!(
                "{prefix}failed to load _meta.pre_function in plugin {name}: \
                 Lua functions are not supported by this version; use _meta.filter"
            );
            faults.push(Fault::rule(path, message));
        }
    }
}
