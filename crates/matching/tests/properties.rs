//! Canonical paths against a slow, obvious version, and what must hold for any input at all.

#![allow(clippy::unwrap_used)]

use milecastle_matching::uri::{canonical_target, encode_path, path_of};
use milecastle_matching::{
    CidrSet, Expr, JsonPath, PathPattern, Pattern, Replacement, Template, UriOptions, Var, VarName, canonical_path,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

/// The canonical path by repeated rewriting of the decoded bytes; `None` for 400.
fn slow(path: &str) -> Option<Vec<u8>> {
    if !path.starts_with('/') {
        return None;
    }
    let mut bytes = path.as_bytes().to_vec();
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == b'%' {
            let digits = std::str::from_utf8(bytes.get(at + 1..at + 3)?).ok()?;
            if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
                return None;
            }
            let byte = u8::from_str_radix(digits, 16).ok().filter(|&b| b != 0)?;
            bytes.splice(at..at + 3, [byte]);
        }
        at += 1;
    }
    while let Some(at) = bytes.windows(2).position(|pair| pair == b"//") {
        bytes.remove(at);
    }
    while let Some(at) = bytes.windows(3).position(|part| part == b"/./") {
        bytes.drain(at..at + 2);
    }
    if bytes.ends_with(b"/.") {
        bytes.pop();
    }
    let parent = |bytes: &[u8]| {
        bytes.windows(4).position(|part| part == b"/../").or_else(|| bytes.ends_with(b"/..").then(|| bytes.len() - 3))
    };
    while let Some(at) = parent(&bytes) {
        let start = bytes[..at].iter().rposition(|&b| b == b'/')?;
        bytes.splice(start..(at + 4).min(bytes.len()), [b'/']);
    }
    Some(bytes)
}

fn text(bytes: &[u8]) -> String {
    bytes.utf8_chunks().fold(String::new(), |mut out, chunk| {
        out.push_str(chunk.valid());
        chunk.invalid().iter().for_each(|b| out.push_str(&format!("%{b:02X}")));
        out
    })
}

fn target() -> impl Strategy<Value = String> {
    let piece = select(vec![
        "/", "/", "/", "a", "b", ".", "..", "%2e", "%2F", "%2f", "%41", "%", "%0", "%00", "%25", "%C3%A9", "%E9", "é",
        ";", "\\", "/.", "/..", "//", "?x", "#y", "%3b", "%5c", " ",
    ]);
    (vec(piece, 0..12), prop::bool::weighted(0.9))
        .prop_map(|(pieces, rooted)| format!("{}{}", if rooted { "/" } else { "" }, pieces.concat()))
}

fn options() -> impl Strategy<Value = UriOptions> {
    any::<[bool; 3]>().prop_map(|[match_encoded_slash, delete_tail_slash, servlet]| UriOptions {
        match_encoded_slash,
        delete_tail_slash,
        servlet,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn canonical_paths_agree_with_the_slow_version(target in target()) {
        let found = canonical_path(&target, &UriOptions::default());
        prop_assert_eq!(found.ok().map(|found| found.path.into_owned()), slow(path_of(&target)).map(|path| text(&path)));
    }

    #[test]
    fn canonical_paths_keep_their_invariants(target in target(), options in options()) {
        if let Ok(found) = canonical_path(&target, &options) {
            prop_assert!(found.path.starts_with('/') && !found.path.contains("//") && !found.path.contains('\0'));
            prop_assert!(found.path.split('/').all(|segment| segment != "." && segment != ".."));
            prop_assert!(!options.delete_tail_slash || found.uri() == "/" || !found.uri().ends_with('/'));
            // The canonical target means the same path, in one way only.
            let canonical = canonical_target(&target, &options).unwrap();
            let again = canonical_path(&canonical, &options).unwrap();
            prop_assert_eq!(again.uri(), found.uri());
            // What cannot be spelled otherwise stays.
            let kinds = milecastle_matching::Ambiguity::BACKSLASH
                .with(milecastle_matching::Ambiguity::CONTROL)
                .with(milecastle_matching::Ambiguity::NOT_UTF8);
            prop_assert!(again.ambiguity.without(kinds).is_none(), "{} {:?}", canonical, again);
        }
    }

    #[test]
    fn encoding_is_undone_by_decoding(path in "/([^\\x00/.]{1,3}/){0,4}") {
        let found = canonical_path(&encode_path(&path), &UriOptions::default()).map(|found| found.path.into_owned());
        prop_assert_eq!(found, Ok(path));
    }
}

/// JSON that looks like expressions more often than not.
fn expression() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        select(vec![
            "arg_x",
            "AND",
            "or",
            "!AND",
            "!OR",
            "!",
            "==",
            "~=",
            ">",
            "<=",
            "~~",
            "~*",
            "in",
            "has",
            "ipmatch",
            "(a",
            "a+",
            "1",
            "10.0.0.0/8",
            "post_arg.a[*]",
            "post_arg.[",
            "(?=a)",
            "",
        ])
        .prop_map(|text| json!(text)),
        any::<f64>().prop_map(|n| json!(n)),
        any::<bool>().prop_map(|b| json!(b)),
        Just(Value::Null),
        ".{0,6}".prop_map(|text| json!(text)),
    ];
    leaf.prop_recursive(6, 64, 5, |inner| {
        prop_oneof![8 => vec(inner.clone(), 0..5).prop_map(Value::from), 1 => inner.prop_map(|value| json!({ "a": value }))]
    })
}

fn value() -> impl Strategy<Value = Option<Var<'static>>> {
    prop_oneof![
        Just(None),
        ".{0,5}".prop_map(|text| Some(Var::from(text))),
        any::<f64>().prop_map(|n| Some(Var::Num(n))),
        any::<bool>().prop_map(|b| Some(Var::Bool(b))),
        vec(expression(), 0..3).prop_map(|items| Some(Var::List(items))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn expressions_never_panic_and_negation_negates(expr in expression(), value in value()) {
        let vars = |_: &VarName| value.clone();
        if let Ok(parsed) = Expr::parse(&expr) {
            let holds = parsed.eval(&vars);
            let negated = Expr::parse(&json!(["!AND", [expr], []])).map(|_| ());
            prop_assert!(negated.is_err(), "an empty nested list was accepted");
            if expr.as_array().is_some_and(|items| items.iter().all(Value::is_array) && !items.is_empty()) {
                let negated = Expr::parse(&json!(["!AND", expr, expr])).unwrap();
                prop_assert_eq!(negated.eval(&vars), !holds);
            }
        }
    }

    #[test]
    fn nothing_panics(text in ".{0,24}|[$\\\\{}?a \\[\\]()*+'\".:0-9-]{0,24}", other in "\\PC{0,16}") {
        let vars = |_: &VarName| Some(Var::from(other.clone()));
        Template::parse(&text).render(&vars);
        if let Ok(set) = CidrSet::parse([&text]) {
            prop_assert!(!set.is_empty());
        }
        if let Ok(path) = JsonPath::parse(&text) {
            path.select(&json!({ "a": [1, { "a": [] }], "0": {} }));
        }
        if let Ok(pattern) = Pattern::new(&text) {
            let by = Replacement::parse(&other);
            if let Ok(Some(all)) = pattern.replace_all(&other, &by) {
                prop_assert!(pattern.is_match(&other), "{}", all);
            }
        }
        for params in [false, true] {
            PathPattern::parse(&text, params).captures(&other);
        }
    }
}
