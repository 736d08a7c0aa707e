//! §16: texts of schema faults, as they come out of a write.

use crate::gateway::{Gateway, on_sqlite};
use serde_json::{Value, json};

on_sqlite!(s16_error_texts, s16_references_bypass_validation, s16_empty_arrays_pass_for_objects);

async fn s16_error_texts(gw: Gateway) {
    let route = |members: Value| {
        let mut body = json!({"uri": "/a", "plugins": {}});
        body.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        format!("PUT /routes/1 {body}")
    };
    for (line, text) in [
        (route(json!({"uri": true})), r#"property "uri" validation failed: wrong type: expected string, got boolean"#),
        (route(json!({"uri": null})), r#"property "uri" validation failed: wrong type: expected string, got userdata"#),
        (
            route(json!({"labels": 1})),
            r#"property "labels" validation failed: wrong type: expected object, got number"#,
        ),
        (
            route(json!({"timeout": {"connect": 1, "send": 1}})),
            r#"property "timeout" validation failed: property "read" is required"#,
        ),
        (route(json!({"nope": 1})), "additional properties forbidden, found nope"),
        (
            route(json!({"methods": ["GET", "NOPE"]})),
            r#"property "methods" validation failed: failed to validate item 2: matches none of the enum values"#,
        ),
        (
            route(json!({"methods": ["GET", "GET"]})),
            r#"property "methods" validation failed: expected unique items but items 1 and 2 are equal"#,
        ),
        (route(json!({"hosts": []})), r#"property "hosts" validation failed: expect array to have at least 1 items"#),
        (
            route(json!({"name": ""})),
            r#"property "name" validation failed: string too short, expected at least 1, got 0"#,
        ),
        (
            route(json!({"desc": "ä".repeat(257)})),
            r#"property "desc" validation failed: string too long, expected at most 256, got 257"#,
        ),
        (
            route(json!({"host": "a b"})),
            r#"property "host" validation failed: failed to match pattern "^\\*$|^\\*?[0-9a-zA-Z-._\\[\\]:]+$" with "a b""#,
        ),
        (
            route(json!({"timeout": {"connect": 0, "send": 1, "read": 1}})),
            r#"property "timeout" validation failed: property "connect" validation failed: expected 0 to be greater than 0"#,
        ),
        (
            route(json!({"labels": {"a": "x y"}})),
            r#"property "labels" validation failed: failed to validate a (matching ".*"): failed to match pattern "^\\S+$" with "x y""#,
        ),
        (
            r#"PUT /upstreams/1 {"nodes":{},"retries":-1}"#.to_owned(),
            r#"property "retries" validation failed: expected -1 to be at least 0"#,
        ),
        (route(json!({"status": 2})), r#"property "status" validation failed: matches none of the enum values"#),
        ("PUT /global_rules/1 {}".to_owned(), r#"property "plugins" is required"#),
        ("PUT /routes/1 7".to_owned(), "wrong type: expected object, got number"),
        ("PUT /routes/1 [1]".to_owned(), "wrong type: expected object, got table"),
        ("PUT /routes/1 null".to_owned(), "wrong type: expected object, got userdata"),
    ] {
        gw.refused(&line, 400, &format!("invalid configuration: {text}")).await;
    }
    for line in [r#"PUT /routes/1 {"uri":"/a"}"#, r#"PUT /routes/1 {"plugins":{}}"#, "PUT /routes/1 []"] {
        let answer = gw.send(line).await;
        assert_eq!(answer.status, 400, "{line}");
        assert!(answer.text().contains("invalid configuration: "), "{}", answer.text());
    }
}

async fn s16_references_bypass_validation(gw: Gateway) {
    let ssl = json!({"sni": "a.example", "cert": "$secret://vault/1/cert", "key": "$env://TLS_KEY"});
    gw.done(&format!("PUT /ssls/1 {ssl}")).await;
}

async fn s16_empty_arrays_pass_for_objects(gw: Gateway) {
    gw.done(r#"PUT /routes/1 {"uri":"/a","plugins":[]}"#).await;
    gw.done(r#"PUT /services/1 []"#).await;
}
