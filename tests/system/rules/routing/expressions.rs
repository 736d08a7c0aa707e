//! The language of `vars` (§6.1 to §6.3).

use super::{Site, by_host, route_with};
use milecastle_testkit::Call;
use serde_json::{Value, json};

/// Asserts what each expression says of one request: `GET ?n=10&s=Abc&query={a b}` of 127.0.0.1. Each is the condition of a route.
async fn says(site: &Site, rule: &str, table: &[(Value, bool)]) {
    let routes = (0..).zip(table);
    site.put(routes.clone().map(|(n, (vars, _))| {
        let vars = json!({ "vars": vars });
        route_with(&format!("{rule}-{n} - /{rule}/{n}"), vars)
    }))
    .await;
    for (n, (vars, expected)) in routes {
        let found = site.found(Call::get(&format!("/{rule}/{n}?n=10&s=Abc&query=%7Ba%20b%7D"))).await;
        let expected = if *expected { format!("{rule}-{n}") } else { "404".to_owned() };
        assert_eq!(found, expected, "{vars}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routing_6_1_1_a_list_is_true_if_all_of_it_is_and_an_empty_one_is() {
    let (yes, no) = (json!(["arg_n", "==", "10"]), json!(["arg_n", "==", "11"]));
    let table = [
        (json!([]), true),
        (json!([yes]), true),
        (json!([yes, yes]), true),
        (json!([yes, no]), false),
        (json!([no, yes]), false),
        (json!([[yes, yes], yes]), true),
        (json!([[yes, no], yes]), false),
        // The old form is equality.
        (json!([["arg_s", "Abc"]]), true),
        (json!([["arg_s", "Abd"]]), false),
    ];
    says(&*by_host().await, "t611", &table).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routing_6_1_2_words_of_logic_and_negation() {
    let (yes, no) = (json!(["arg_n", "==", "10"]), json!(["arg_n", "==", "11"]));
    let table = [
        (json!(["AND", yes, yes]), true),
        (json!(["AND", yes, no]), false),
        (json!(["OR", no, yes]), true),
        (json!(["OR", no, no]), false),
        (json!(["!AND", yes, yes]), false),
        (json!(["!AND", yes, no]), true),
        (json!(["!OR", no, no]), true),
        (json!(["!OR", no, yes]), false),
        (json!(["or", no, ["and", yes, ["!or", no, no]]]), true),
        (json!([["arg_n", "!", "==", "10"]]), false),
        (json!([["arg_n", "!", "==", "11"]]), true),
        (json!([["arg_n", "!", "in", ["10", "11"]]]), false),
    ];
    says(&*by_host().await, "t612", &table).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routing_6_1_3_operators_in_capitals() {
    let table = [
        (json!([["arg_n", "IN", ["10"]]]), true),
        (json!([["graphql_root_fields", "Has", "b"]]), true),
        (json!([["remote_addr", "IPMatch", "127.0.0.1"]]), true),
        (json!([["remote_addr", "!", "IPMATCH", "127.0.0.1"]]), false),
    ];
    says(&*by_host().await, "t613", &table).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routing_6_1_what_is_no_expression_is_refused() {
    let site = by_host().await;
    for (vars, why) in [
        (json!(["arg_a", "==", "1"]), "rule should be wrapped inside brackets"),
        (json!(["AND", ["arg_a", "==", "1"]]), "rule too short"),
        (json!([[]]), "rule too short"),
        (json!([["arg_a", "=~", "1"]]), "invalid operator '=~'"),
        (json!([["arg_a", "=="]]), "invalid expression"),
        (json!([["arg_a"]]), "invalid expression"),
        (json!([["arg_a", "not", "==", "1"]]), "bad 'not' expression"),
        (json!([["remote_addr", "ipmatch", "10.0.0.256"]]), "invalid ip address"),
    ] {
        let (path, body) = route_with("61-refused - /t61", json!({ "vars": vars }));
        let said = site.refusal(&path, body).await;
        assert_eq!(said, format!("failed to validate the 'vars' expression: {why}"), "{vars}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routing_6_2_operators() {
    let one = |name: &str, op: &str, value: Value| json!([[name, op, value]]);
    let table = [
        (one("arg_n", "==", json!(10)), true),
        (one("arg_n", "==", json!("10")), true),
        (one("arg_n", "==", json!("010")), false),
        (one("arg_n", "==", json!(11)), false),
        (one("arg_s", "==", json!("abc")), false),
        (one("arg_none", "==", json!(null)), true),
        (one("arg_n", "==", json!(null)), false),
        (one("arg_n", "~=", json!(11)), true),
        (one("arg_n", "~=", json!(10)), false),
        (one("arg_s", "~=", json!(10)), true),
        (one("arg_none", "~=", json!("x")), true),
        (one("arg_n", ">", json!(9)), true),
        (one("arg_n", ">", json!("9")), true),
        (one("arg_n", ">", json!(10)), false),
        (one("arg_n", ">=", json!(10)), true),
        (one("arg_n", "<", json!(10)), false),
        (one("arg_n", "<=", json!(10)), true),
        (one("arg_s", ">", json!(1)), false),
        (one("arg_s", "<=", json!(1)), false),
        (one("arg_none", "<", json!(1)), false),
        (one("arg_s", "~~", json!("b")), true),
        (one("arg_s", "~~", json!("B")), false),
        (one("arg_none", "~~", json!(".*")), false),
        (one("arg_s", "~*", json!("BC$")), true),
        (one("arg_s", "~*", json!("^b")), false),
        (one("arg_n", "in", json!(["9", "10"])), true),
        (one("arg_n", "in", json!([9, 10])), false),
        (one("arg_none", "in", json!(["9"])), false),
        (one("graphql_root_fields", "has", json!("b")), true),
        (one("graphql_root_fields", "has", json!("c")), false),
        (one("arg_n", "has", json!("10")), false),
        (one("remote_addr", "ipmatch", json!("127.0.0.0/8")), true),
        (one("remote_addr", "ipmatch", json!(["10.0.0.0/8", "127.0.0.1"])), true),
        (one("remote_addr", "ipmatch", json!(["10.0.0.0/8"])), false),
        (one("arg_s", "ipmatch", json!(["0.0.0.0/0"])), false),
        (json!([["arg_n", "!", "in", ["a", "b"]]]), true),
        // Of an absent variable nothing holds but its absence, and so every negation.
        (json!([["arg_none", "!", "in", ["a", "b"]]]), true),
        (json!([["http_user", "!", "~~", "^adm"]]), true),
        (json!([["arg_none", "!", "~=", "x"]]), false),
        (json!([["arg_none", "!", "==", null]]), false),
    ];
    says(&*by_host().await, "t62", &table).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routing_6_3_a_field_of_a_body_is_named_by_a_path() {
    let site = by_host().await;
    let on = |path: &str| route_with("63-field - /t63", json!({ "vars": [[format!("post_arg.{path}"), "==", "1"]] }));
    for path in ["a.b", "a[0].b", "a[*]", "a..b"] {
        site.put([on(path)]).await;
    }
    for path in ["", "a[", "a[b", "a..", "a[1:x]"] {
        let (target, body) = on(path);
        let said = site.refusal(&target, body).await;
        assert!(said.starts_with("failed to validate the 'vars' expression: "), "{path}: {said}");
    }
}
