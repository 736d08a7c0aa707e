//! §0: what all kinds have in common.

use super::{EMPTY, NO_BOOLEAN, NO_INTEGER, NO_TEXT, NONE, Table, long, no_ids, within};
use crate::gateway::{Gateway, on_both};
use serde_json::{Value, json};

on_both!(resources_0_common_attributes, resources_0_deviations_of_kinds, resources_0_options_of_plugins);

async fn resources_0_common_attributes(gw: Gateway) {
    let mut table = Table::new(&gw, "0", ("service", "/services/1"), &[], json!({})).await;
    let too_long = "string too long, expected at most 256, got 257";
    table.row("name", &[json!("a"), json!("ä".repeat(256))], &[(json!(""), EMPTY), (json!(long(257)), too_long)]).await;
    table.row("desc", &[json!(""), json!("ä".repeat(256))], &[(json!("ä".repeat(257)), too_long)]).await;
    let label = |reason: &str| format!(r#"failed to validate k (matching ".*"): {reason}"#);
    let labels = [json!({}), json!({"k": "v", "Any key": long(256), "": "v"})];
    let refused = [
        (json!({"k": ""}), label(EMPTY)),
        (json!({"k": long(257)}), label(too_long)),
        (json!({"k": "a b"}), label(r#"failed to match pattern "^\\S+$" with "a b""#)),
        (json!({"k": 1}), label(NO_TEXT)),
    ];
    table.row("labels", &labels, &refused).await;

    let mut table = Table::new(&gw, "0", ("service", "/services"), &[], json!({})).await;
    table.row("id", &[], &no_ids()).await;
    let too_long = "object matches none of the required: string too long, expected at most 64, got 65";
    table.row("id", &[json!(long(64)), json!("A-b_c.9")], &[(json!(long(65)), too_long)]).await;
    assert_eq!(gw.done(r#"PUT /services {"id":1}"#).await["id"], "1");
}

async fn resources_0_deviations_of_kinds(gw: Gateway) {
    let unknown = |name: &str| format!("invalid configuration: additional properties forbidden, found {name}");
    gw.refused(r#"PUT /consumers {"username":"jack","name":"n"}"#, 400, &unknown("name")).await;
    for name in ["name", "desc", "labels"] {
        gw.refused(&format!(r#"PUT /global_rules/1 {{"plugins":{{}},"{name}":{{}}}}"#), 400, &unknown(name)).await;
    }
    let named = json!({"plugins": {}, "name": long(300)});
    assert_eq!(gw.done(&format!("PUT /plugin_configs/1 {named}")).await["name"], named["name"]);
    for line in [
        r#"PUT /routes/1 {"uri":"/a","plugins":{},"modifiedIndex":1}"#,
        r#"PUT /services/1 {"modifiedIndex":1}"#,
        r#"PUT /upstreams/1 {"nodes":{},"modifiedIndex":1}"#,
        r#"PUT /consumer_groups/1 {"plugins":{},"modifiedIndex":1}"#,
    ] {
        gw.refused(line, 400, &unknown("modifiedIndex")).await;
    }
    // Open kinds.
    assert_eq!(gw.done(r#"PUT /plugin_metadata/http-logger {"more":1}"#).await["more"], 1);
    let secret = r#"PUT /secrets/vault/1 {"uri":"http://127.0.0.1:8200","prefix":"kv","token":"t","more":1}"#;
    assert_eq!(gw.done(secret).await["more"], 1);
}

async fn resources_0_options_of_plugins(gw: Gateway) {
    let mut table = Table::new(&gw, "0", ("service", "/services/1"), &["plugins"], json!({})).await;
    let options = |options: Value| json!({ "_meta": options });
    let filter = json!([["arg_a", "==", "1"]]);
    let taken = [
        options(json!({})),
        options(json!({"disable": false, "priority": -1, "filter": filter, "error_response": "no"})),
        options(json!({"error_response": {"message": "no"}})),
    ];
    table.row("http-logger", &taken, NONE).await;
    for (refused, reason) in [
        (json!({"more": 1}), "additional properties forbidden, found more".to_owned()),
        (json!({"disable": 1}), within("disable", NO_BOOLEAN)),
        (json!({"priority": "1"}), within("priority", NO_INTEGER)),
        (json!({"filter": "x"}), within("filter", "wrong type: expected array, got string")),
    ] {
        let said = within("_meta", &reason);
        let message = format!("failed to check the configuration of plugin http-logger err: {said}");
        let body = json!({"plugins": {"http-logger": options(refused)}});
        gw.refused(&format!("PUT /services/1 {body}"), 400, &message).await;
    }
    let lua = "failed to load _meta.pre_function in plugin http-logger: Lua functions are not supported by this version; \
               use _meta.filter";
    let body = json!({"plugins": {"http-logger": options(json!({"pre_function": "return 1"}))}});
    gw.refused(&format!("PUT /services/1 {body}"), 400, lua).await;
}
