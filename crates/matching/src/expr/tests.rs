use serde_json::{Value, json};

use super::*;

fn vars(name: &VarName) -> Option<Var<'static>> {
    match name.as_str() {
        "arg_n" => Some(Var::from("10")),
        "arg_s" => Some(Var::from("Adam")),
        "arg_empty" => Some(Var::from("")),
        "remote_addr" => Some(Var::from("10.1.2.3")),
        "balancer_port" => Some(Var::Num(80.0)),
        "post_arg.flag" => Some(Var::Bool(true)),
        "graphql_root_fields" => Some(Var::List(vec![json!("owner"), json!(3), json!(true)])),
        _ => None,
    }
}

fn check(expr: Value, expected: bool) {
    let parsed = Expr::compiled(&expr, Some(&PatternBudget::default()));
    let parsed = parsed.unwrap_or_else(|error| panic!("{expr}: {error}"));
    assert_eq!(parsed.eval(&vars), expected, "{expr}");
}

fn refused(expr: Value, message: &str) {
    let error = Expr::parse(&expr).map(|parsed| panic!("{expr} was accepted as {parsed:?}")).unwrap_err();
    assert_eq!(error.to_string(), message, "{expr}");
}

#[test]
fn logic() {
    let (yes, no) = (json!(["arg_s", "==", "Adam"]), json!(["arg_s", "==", "Eve"]));
    check(json!([]), true);
    check(json!([yes, yes]), true);
    check(json!([yes, no]), false);
    check(json!(["AND", yes, no]), false);
    check(json!(["or", yes, no]), true);
    check(json!(["OR", no, no, no]), false);
    check(json!(["!AND", yes, no]), true);
    check(json!(["!and", yes, yes]), false);
    check(json!(["!OR", no, no]), true);
    check(json!(["!Or", no, yes]), false);
    check(json!([["OR", no, yes], yes]), true);
    check(json!([[yes, [yes, no]]]), false);
    check(json!(["AND", ["OR", no, yes], ["!OR", no, ["AND", yes, no]]]), true);
    assert!(Expr::default().is_empty() && Expr::parse(&json!([])).unwrap() == Expr::default());
}

#[test]
fn equality() {
    check(json!([["arg_n", "==", "10"]]), true);
    check(json!([["arg_n", "==", 10]]), true);
    check(json!([["arg_n", "==", 10.0]]), true);
    check(json!([["arg_n", "==", "10.0"]]), false);
    check(json!([["arg_n", "==", true]]), false);
    check(json!([["arg_s", "==", 10]]), false);
    check(json!([["arg_s", "~=", 10]]), true);
    check(json!([["arg_n", "~=", 10]]), false);
    check(json!([["arg_n", "~=", 11]]), true);
    check(json!([["arg_s", "~=", "adam"]]), true);
    check(json!([["arg_s", "Adam"]]), true);
    check(json!([["arg_s", "adam"]]), false);
    check(json!([["arg_n", 10]]), true);
    check(json!([["balancer_port", "==", 80]]), true);
    check(json!([["balancer_port", "==", "80"]]), false);
    check(json!([["post_arg.flag", "==", true]]), true);
    check(json!([["post_arg.flag", "==", "true"]]), false);
    check(json!([["graphql_root_fields", "==", ["owner"]]]), false);
    check(json!([["graphql_root_fields", "~=", ["owner"]]]), true);
    check(json!([["arg_s", "!", "==", "Adam"]]), false);
    check(json!([["arg_s", "!", "~=", "Adam"]]), true);
}

#[test]
fn absence() {
    check(json!([["arg_x", "==", null]]), true);
    check(json!([["arg_x", null]]), true);
    check(json!([["arg_x", "~=", null]]), false);
    check(json!([["arg_empty", "==", null]]), false);
    check(json!([["arg_empty", "~=", null]]), true);
    check(json!([["arg_x", "!", "==", null]]), false);
    check(json!([["arg_x", "==", ""]]), false);
    check(json!([["arg_x", "~=", "a"]]), true);
    check(json!([["arg_x", "~=", 1]]), true);
    for (op, operand) in
        [(">", json!(0)), ("<=", json!(0)), ("~~", json!(".*")), ("in", json!(["a"])), ("has", json!("a"))]
    {
        check(json!([["arg_x", op, operand]]), false);
        check(json!([["arg_x", "!", op, operand]]), true);
    }
    check(json!([["arg_x", "ipmatch", "0.0.0.0/0"]]), false);
}

#[test]
fn comparison() {
    check(json!([["arg_n", ">", 9]]), true);
    check(json!([["arg_n", ">", "9"]]), true);
    check(json!([["arg_n", ">", 10]]), false);
    check(json!([["arg_n", ">=", 10]]), true);
    check(json!([["arg_n", "<", 10.5]]), true);
    check(json!([["arg_n", "<=", 9]]), false);
    check(json!([["arg_s", ">", 0]]), false);
    check(json!([["arg_s", "<", "Bdam"]]), false);
    check(json!([["arg_n", "<", null]]), false);
    check(json!([["arg_n", "!", "<", "x"]]), true);
}

#[test]
fn search() {
    check(json!([["arg_s", "~~", "da"]]), true);
    check(json!([["arg_s", "~~", "^d"]]), false);
    check(json!([["arg_s", "~~", "^adam$"]]), false);
    check(json!([["arg_s", "~*", "^ADAM$"]]), true);
    check(json!([["arg_n", "~~", 1]]), true);
    check(json!([["arg_s", "!", "~~", "^adm"]]), true);
    check(json!([["arg_s", "~~", "^(?!Eve)"]]), true);
    check(json!([["balancer_port", "~~", "^80$"]]), true);
    check(json!([["graphql_root_fields", "~~", "owner"]]), false);
}

#[test]
fn membership() {
    check(json!([["arg_s", "in", ["Eve", "Adam"]]]), true);
    check(json!([["arg_s", "IN", ["Eve", "adam"]]]), false);
    check(json!([["arg_n", "in", [10]]]), false);
    check(json!([["arg_n", "in", [9, "10"]]]), true);
    check(json!([["balancer_port", "in", ["80", 80]]]), true);
    check(json!([["arg_s", "in", "Adam"]]), false);
    check(json!([["arg_s", "in", []]]), false);
    check(json!([["arg_x", "!", "in", ["a", "b"]]]), true);
    check(json!([["graphql_root_fields", "has", "owner"]]), true);
    check(json!([["graphql_root_fields", "has", "own"]]), false);
    check(json!([["graphql_root_fields", "Has", 3]]), true);
    check(json!([["graphql_root_fields", "has", true]]), true);
    check(json!([["graphql_root_fields", "!", "has", null]]), true);
    check(json!([["arg_s", "has", "Adam"]]), false);
}

#[test]
fn addresses() {
    check(json!([["remote_addr", "ipmatch", "10.0.0.0/8"]]), true);
    check(json!([["remote_addr", "IPMatch", ["127.0.0.1", "10.1.2.3"]]]), true);
    check(json!([["remote_addr", "ipmatch", ["127.0.0.1", "::/0"]]]), false);
    check(json!([["remote_addr", "!", "ipmatch", ["127.0.0.1"]]]), true);
    check(json!([["arg_s", "ipmatch", "0.0.0.0/0"]]), false);
}

#[test]
fn patterns_of_what_is_written_are_compiled_and_bounded_together() {
    let budget = PatternBudget::default();
    let written = |pattern: &str| Expr::compiled(&json!([["arg_s", "~~", pattern]]), Some(&budget));
    assert!(written(r"\p{Nonsense}").is_err());
    // A call of a group counts for as many parts as it may be written out to.
    let refused = (0..8).map(|n| written(&format!(r"(a{n})\g<1>"))).find_map(Result::err).unwrap();
    let ExprError::InvalidPattern { error: PatternError::TooMuch { .. }, .. } = refused else { panic!("{refused}") };
    assert!(Expr::parse(&json!([["arg_s", "~~", r"(a7)\g<1>"]])).is_ok());
}

#[test]
fn patterns_of_what_is_loaded_are_compiled_unless_they_are_left_for_later() {
    let stored = json!([["arg_s", "~~", "what-is-loaded-[0-9]+"]]);
    let is_compiled = |expr: &Expr| match &expr.0 {
        Node::All(items) => {
            matches!(&items[..], [Node::Test { test: Test::Find(pattern), .. }] if pattern.is_compiled())
        }
        other => panic!("{other:?}"),
    };
    let later = Expr::parse(&stored).unwrap();
    assert!(!is_compiled(&later));
    assert!(is_compiled(&Expr::compiled(&stored, None).unwrap()));
}

#[test]
fn a_pattern_of_what_is_loaded_counts_as_not_found_if_it_does_not_compile() {
    // Whether there is such a property, and how large a pattern becomes, only compiling tells.
    for pattern in [r"\p{Nonsense}", r"a{1000}{1000}"] {
        let stored = json!([["arg_s", "~~", pattern]]);
        assert!(!Expr::compiled(&stored, None).unwrap().eval(&vars), "{pattern}");
    }
    assert!(Expr::compiled(&json!([["arg_s", "~~", "("]]), None).is_err());
}

#[test]
fn refusals() {
    refused(json!(["arg_x", "==", "a"]), "rule should be wrapped inside brackets");
    refused(json!("arg_x"), "rule should be wrapped inside brackets");
    refused(json!([["arg_x", "==", "a"], "b"]), "rule should be wrapped inside brackets");
    refused(json!(["AND"]), "rule too short");
    refused(json!(["OR", ["arg_x", "==", "a"]]), "rule too short");
    refused(json!([[]]), "rule too short");
    refused(json!([["!AND", ["arg_x", "==", "a"]]]), "rule too short");
    refused(json!([["arg_x", "=", "a"]]), "invalid operator '='");
    refused(json!([["arg_x", "LIKE", "a"]]), "invalid operator 'like'");
    refused(json!([["arg_x", "!", "like", "a"]]), "invalid operator 'like'");
    refused(json!([["arg_x", "!", "=="]]), "invalid operator '!'");
    refused(json!([["arg_x"]]), "invalid expression");
    refused(json!([["arg_x", "=="]]), "invalid expression");
    refused(json!([["arg_x", 1, 2]]), "invalid expression");
    refused(json!([[1, "==", 2]]), "invalid expression");
    refused(json!([["arg_x", "~~", ["a"]]]), "invalid expression");
    refused(json!([["arg_x", "!", "==", 1, 2]]), "invalid expression");
    refused(json!([["arg_x", "not", "==", "a"]]), "bad 'not' expression");
    refused(json!([["remote_addr", "ipmatch", "10.0.0.0/33"]]), "invalid ip address");
    refused(json!([["remote_addr", "ipmatch", ["127.0.0.1", 1]]]), "invalid ip address");
    refused(json!([["remote_addr", "ipmatch", null]]), "invalid ip address");
    refused(json!([["arg_x", "~~", "("]]), "invalid regular expression '(': unclosed group");
    refused(json!([["post_arg.a[", "==", "x"]]), "invalid JSONPath 'a[': a ']' is missing");
    let deep = (0..100).fold(json!(["arg_x", "==", "a"]), |inner, _| json!([inner]));
    refused(deep, "rule nested too deep");
}
