//! Every text of `docs/spec/admin-api.md` §16, and the subset's own rules.

use serde_json::{Value, json};

use super::{MAX_FAULTS, Schema, SchemaError};

/// Validates and compares (path, message) of every fault.
fn check(schema: Value, value: Value, expected: &[(&str, &str)]) {
    let compiled = Schema::compile(&schema).unwrap();
    let faults = compiled.validate(&value);
    let found: Vec<(&str, &str)> = faults.iter().map(|f| (f.path.as_str(), f.message.as_str())).collect();
    assert_eq!(found, expected, "{schema} on {value}");
    assert_eq!(compiled.is_valid(&value), expected.is_empty(), "{schema} on {value}");
    assert_eq!(compiled.source(), &schema);
}

fn refuse(schema: Value, expected: &str) {
    assert_eq!(Schema::compile(&schema).map(|_| ()).map_err(|e| e.to_string()), Err(expected.to_owned()));
}

#[test]
fn types() {
    let string = json!({"type": "string"});
    check(string.clone(), json!("x"), &[]);
    check(string.clone(), json!(1), &[("", "wrong type: expected string, got number")]);
    check(string.clone(), json!(true), &[("", "wrong type: expected string, got boolean")]);
    check(string.clone(), json!({"a": 1}), &[("", "wrong type: expected string, got table")]);
    check(string.clone(), json!([]), &[("", "wrong type: expected string, got table")]);
    check(string, json!(null), &[("", "wrong type: expected string, got userdata")]);
    let several = json!({"type": ["string", "integer"]});
    check(several.clone(), json!(3), &[]);
    check(several, json!(1.5), &[("", "wrong type: expected one of string, integer, got number")]);
    check(json!({"type": "integer"}), json!(1.0), &[]);
    check(json!({"type": "integer"}), json!(-1e300), &[]);
    check(json!({"type": "integer"}), json!(1.5), &[("", "wrong type: expected integer, got number")]);
    check(json!({"type": "null"}), json!(null), &[]);
    check(json!({"type": "boolean"}), json!("true"), &[("", "wrong type: expected boolean, got string")]);
    check(json!({"type": "number"}), json!([1]), &[("", "wrong type: expected number, got table")]);
    check(json!(true), json!(1), &[]);
    check(json!(false), json!(1), &[("", "no value is allowed here")]);
}

#[test]
fn empty_arrays_and_objects_pass_for_each_other() {
    check(json!({"type": "object"}), json!([]), &[]);
    check(json!({"type": "array"}), json!({}), &[]);
    check(json!({"type": "object"}), json!([1]), &[("", "wrong type: expected object, got table")]);
    check(json!({"type": "array"}), json!({"a": 1}), &[("", "wrong type: expected array, got table")]);
    check(json!({"type": "object", "required": ["a"]}), json!([]), &[("/a", "property \"a\" is required")]);
    check(json!({"type": "array", "minItems": 1}), json!({}), &[("", "expect array to have at least 1 items")]);
}

#[test]
fn references_bypass_strings_and_untyped_schemas() {
    for reference in ["$secret://vault/1/a/b", "$env://NAME", "$ENV://NAME", "$Env://N"] {
        let reference = json!(reference);
        check(json!({"type": "string", "maxLength": 1}), reference.clone(), &[]);
        check(json!({"enum": ["a"]}), reference.clone(), &[]);
        check(json!({"type": ["string", "null"], "pattern": "^a$"}), reference.clone(), &[]);
        check(json!({"type": "integer"}), reference.clone(), &[("", "wrong type: expected integer, got string")]);
        check(
            json!({"type": ["string", "integer"], "maxLength": 3, "pattern": "^\\$"}),
            reference.clone(),
            &[("", &format!("string too long, expected at most 3, got {}", reference.as_str().unwrap().len()))],
        );
    }
    check(json!({"enum": ["a"]}), json!("$SECRET://x"), &[("", "matches none of the enum values")]);
    check(json!({"enum": ["a"]}), json!("$en"), &[("", "matches none of the enum values")]);
}

#[test]
fn objects() {
    let schema = json!({
        "type": "object",
        "properties": {"uri": {"type": "string"}, "inner": {"type": "object", "properties": {"n": {"type": "integer"}}}},
        "additionalProperties": false,
        "required": ["uri"],
    });
    check(
        schema.clone(),
        json!({"uri": 123}),
        &[("/uri", "property \"uri\" validation failed: wrong type: expected string, got number")],
    );
    check(
        schema,
        json!({"b": 1, "inner": {"n": "x"}, "a/b~": 2}),
        &[
            ("/b", "additional properties forbidden, found b"),
            (
                "/inner/n",
                "property \"inner\" validation failed: property \"n\" validation failed: \
                 wrong type: expected integer, got string",
            ),
            ("/a~1b~0", "additional properties forbidden, found a/b~"),
            ("/uri", "property \"uri\" is required"),
        ],
    );
    check(
        json!({"patternProperties": {"^x": {"type": "string"}}, "additionalProperties": {"type": "integer"}}),
        json!({"x1": 1, "y": "s", "z": 3, "x2": "ok"}),
        &[
            ("/x1", "failed to validate x1 (matching \"^x\"): wrong type: expected string, got number"),
            ("/y", "failed to validate additional property y: wrong type: expected integer, got string"),
        ],
    );
    check(json!({"patternProperties": {"^x": true}, "additionalProperties": false}), json!({"x": 1}), &[]);
    let sized = json!({"minProperties": 2, "maxProperties": 3});
    check(sized.clone(), json!({"a": 1}), &[("", "expect object to have at least 2 properties")]);
    check(sized, json!({"a": 1, "b": 1, "c": 1, "d": 1}), &[("", "expect object to have at most 3 properties")]);
}

#[test]
fn dependencies() {
    let schema = json!({"dependencies": {"p": ["q"], "s": {"required": ["t"]}}});
    check(schema.clone(), json!({"p": 1}), &[("/q", "property \"q\" is required when \"p\" is set")]);
    check(
        schema.clone(),
        json!({"s": 1}),
        &[("/t", "failed to validate dependent schema for \"s\": property \"t\" is required")],
    );
    check(schema.clone(), json!({"p": 1, "q": 1, "s": 1, "t": 1}), &[]);
    check(schema, json!({}), &[]);
    check(
        json!({"dependentRequired": {"p": ["q"]}, "dependentSchemas": {"p": {"maxProperties": 0}}}),
        json!({"p": 1}),
        &[
            ("/q", "property \"q\" is required when \"p\" is set"),
            ("", "failed to validate dependent schema for \"p\": expect object to have at most 0 properties"),
        ],
    );
}

#[test]
fn arrays() {
    check(
        json!({"items": {"type": "string"}}),
        json!(["a", 1, 2]),
        &[
            ("/1", "failed to validate item 2: wrong type: expected string, got number"),
            ("/2", "failed to validate item 3: wrong type: expected string, got number"),
        ],
    );
    check(json!({"minItems": 2}), json!([1]), &[("", "expect array to have at least 2 items")]);
    check(json!({"maxItems": 1}), json!([1, 2]), &[("", "expect array to have at most 1 items")]);
    let unique = json!({"uniqueItems": true});
    check(unique.clone(), json!([1, "1", true, [1], {"a": 1}]), &[]);
    check(
        unique.clone(),
        json!([{"a": 1, "b": 2}, 5, 1.0, 1, {"b": 2.0, "a": 1}]),
        &[
            ("", "expected unique items but items 3 and 4 are equal"),
            ("", "expected unique items but items 1 and 5 are equal"),
        ],
    );
    check(unique, json!(["a,b", ["a", "b"], "[\"a\",\"b\",]"]), &[]);
    let tuple = [
        json!({"prefixItems": [{"type": "string"}], "items": {"type": "integer"}}),
        json!({"items": [{"type": "string"}], "additionalItems": {"type": "integer"}}),
    ];
    for schema in tuple {
        check(schema.clone(), json!(["a", 1]), &[]);
        check(
            schema,
            json!([1, "a"]),
            &[
                ("/0", "failed to validate item 1: wrong type: expected string, got number"),
                ("/1", "failed to validate item 2: wrong type: expected integer, got string"),
            ],
        );
    }
}

#[test]
fn strings() {
    check(json!({"minLength": 2}), json!("ä"), &[("", "string too short, expected at least 2, got 1")]);
    check(json!({"maxLength": 2}), json!("äöü"), &[("", "string too long, expected at most 2, got 3")]);
    check(json!({"maxLength": 3}), json!("äöü"), &[]);
    check(
        json!({"pattern": "^\\d+\"$"}),
        json!("a\"\\\n\r0"),
        &[("", "failed to match pattern \"^\\\\d+\\\"$\" with \"a\\\"\\\\\\\n\\0130\"")],
    );
    check(json!({"pattern": "b"}), json!("abc"), &[]);
    check(json!({"pattern": "^(?!admin)"}), json!("user"), &[]);
    check(
        json!({"pattern": "^(?!admin)"}),
        json!("admin1"),
        &[("", "failed to match pattern \"^(?!admin)\" with \"admin1\"")],
    );
    check(json!({"format": "ipv4"}), json!("10.0.0.256"), &[("", "expect valid ipv4 format but got: 10.0.0.256")]);
    check(json!({"format": "ipv6"}), json!("::g"), &[("", "expect valid ipv6 format but got: ::g")]);
    check(
        json!({"format": "ipv4-cidr"}),
        json!("10.0.0.0/33"),
        &[("", "expect valid ipv4-cidr format but got: 10.0.0.0/33")],
    );
    for (format, good) in
        [("ipv4", "1.2.3.4"), ("ipv6", "::1"), ("ipv4-cidr", "1.2.3.0/0"), ("ipv6-cidr", "fe80::/128"), ("uint32", "x")]
    {
        check(json!({"format": format}), json!(good), &[]);
    }
    for (format, bad) in
        [("ipv4-cidr", "1.2.3.0/+8"), ("ipv6-cidr", "::/129"), ("ipv6-cidr", "::1"), ("ipv4-cidr", "1.1.1.1/")]
    {
        assert!(!Schema::compile(&json!({"format": format})).unwrap().is_valid(&json!(bad)), "{bad}");
    }
}

#[test]
fn numbers() {
    check(json!({"minimum": 1}), json!(0), &[("", "expected 0 to be at least 1")]);
    check(json!({"maximum": 1.5}), json!(2.0), &[("", "expected 2 to be at most 1.5")]);
    check(json!({"exclusiveMinimum": 0}), json!(0.0), &[("", "expected 0 to be greater than 0")]);
    check(json!({"exclusiveMaximum": 10}), json!(10.5), &[("", "expected 10.5 to be smaller than 10")]);
    check(json!({"multipleOf": 3}), json!(7), &[("", "expected 7 to be a multiple of 3")]);
    check(json!({"multipleOf": 0.1}), json!(0.3), &[]);
    check(json!({"multipleOf": 0.1}), json!(0.35), &[("", "expected 0.35 to be a multiple of 0.1")]);
    check(
        json!({"minimum": u64::MAX}),
        json!(u64::MAX - 1),
        &[("", "expected 18446744073709551614 to be at least 18446744073709551615")],
    );
    check(
        json!({"minimum": 1, "exclusiveMinimum": 0}),
        json!(-1),
        &[("", "expected -1 to be at least 1"), ("", "expected -1 to be greater than 0")],
    );
    check(json!({"minimum": 1}), json!(-2.5e87), &[("", "expected -2.5e+87 to be at least 1")]);
    check(json!({"minimum": 1}), json!("0"), &[]);
}

#[test]
fn values() {
    check(json!({"enum": ["a", 1]}), json!("b"), &[("", "matches none of the enum values")]);
    check(json!({"enum": ["a", 1]}), json!(1.0), &[]);
    check(json!({"const": {"a": [1]}}), json!({"a": [1.0]}), &[]);
    check(json!({"const": {"a": [1]}}), json!({"a": [2]}), &[("", "failed to check const value")]);
}

#[test]
fn combinations() {
    check(
        json!({"allOf": [{"type": "object"}, {"required": ["a"]}]}),
        json!({}),
        &[("/a", "allOf 2 failed: property \"a\" is required")],
    );
    check(
        json!({"anyOf": [{"required": ["plugins", "uri"]}, {"required": ["upstream", "uri"]}, {"minProperties": 5}]}),
        json!({}),
        &[("", "object matches none of the required: [\"plugins\",\"uri\"] or [\"upstream\",\"uri\"]")],
    );
    check(
        json!({"anyOf": [{"type": "string"}, {"type": "integer"}]}),
        json!([1]),
        &[(
            "",
            "object matches none of the required: wrong type: expected string, got table; or \
             wrong type: expected integer, got table",
        )],
    );
    let one_of = json!({"oneOf": [{"required": ["a"]}, {"required": ["b"]}, {"required": ["c"]}]});
    check(one_of.clone(), json!({"b": 1}), &[]);
    check(
        one_of.clone(),
        json!({}),
        &[(
            "",
            "value should match only one schema, but matches none: property \"a\" is required; or \
             property \"b\" is required; or property \"c\" is required",
        )],
    );
    check(
        one_of,
        json!({"b": 1, "c": 1}),
        &[(
            "",
            "value should match only one schema, but matches both schemas 2 and 3: [\"b\"] and [\"c\"] exclude each other",
        )],
    );
    check(
        json!({"oneOf": [{"type": "string"}, {"minLength": 1}]}),
        json!("a"),
        &[("", "value should match only one schema, but matches both schemas 1 and 2")],
    );
    check(json!({"not": {"required": ["a"]}}), json!({"a": 1}), &[("", "value wasn't supposed to match schema")]);
    let conditional = json!({
        "if": {"properties": {"type": {"enum": ["server"]}}},
        "then": {"required": ["sni"]},
        "else": {"required": ["key"]},
    });
    check(conditional.clone(), json!({}), &[("", "then clause did not match: property \"sni\" is required")]);
    check(
        conditional.clone(),
        json!({"type": "client"}),
        &[("", "else clause did not match: property \"key\" is required")],
    );
    check(conditional, json!({"type": "client", "key": 1}), &[]);
    check(json!({"if": true, "else": false}), json!(1), &[]);
}

#[test]
fn reasons_leave_out_branches_of_another_type() {
    let amount = json!({"oneOf": [{"$ref": "#/$defs/whole"}, {"type": "string", "pattern": "^[$]"}],
        "$defs": {"whole": {"type": "integer", "exclusiveMinimum": 0}}});
    let none = |reason: &str| format!("value should match only one schema, but matches none: {reason}");
    check(amount.clone(), json!(-3), &[("", &none("expected -3 to be greater than 0"))]);
    check(amount.clone(), json!("x"), &[("", &none("failed to match pattern \"^[$]\" with \"x\""))]);
    let types = "wrong type: expected integer, got boolean; or wrong type: expected string, got boolean";
    check(amount, json!(true), &[("", &none(types))]);
    let nested =
        json!({"oneOf": [{"type": "object", "properties": {"a": {"oneOf": [{"maximum": 1}]}}}, {"type": "array"}]});
    let inner = "property \"a\" validation failed: value should match only one schema, but matches none: \
                 expected 2 to be at most 1";
    check(nested, json!({"a": 2}), &[("", &none(inner))]);
    let alike = json!({"anyOf": [{"maximum": 1}, {"maximum": 1}]});
    check(alike, json!(2), &[("", "object matches none of the required: expected 2 to be at most 1")]);
}

#[test]
fn reasons_name_members_that_may_be_misspelt() {
    let lists = |additional: bool| {
        json!({"properties": {"whitelist": {}, "blacklist": {}}, "additionalProperties": additional,
            "oneOf": [{"required": ["whitelist"]}, {"required": ["blacklist"]}]})
    };
    let none = "value should match only one schema, but matches none: property \"whitelist\" is required; or \
                property \"blacklist\" is required";
    let with = |advice: &str| format!("{none} ({advice})");
    check(lists(true), json!({}), &[("", none)]);
    check(lists(true), json!({"allow": []}), &[("", none)]);
    let one = "\"whitelst\": did you mean \"whitelist\"?";
    check(lists(true), json!({"whitelst": []}), &[("", &with(one))]);
    let several = format!("{one} \"blackist\": did you mean \"blacklist\"?");
    check(lists(true), json!({"whitelst": [], "blackist": [], "allow": []}), &[("", &with(&several))]);
    let forbidden = "additional properties forbidden, found whitelst";
    check(lists(false), json!({"whitelst": 1}), &[("/whitelst", forbidden), ("", &with(one))]);
}

#[test]
fn prefixes_stack() {
    check(
        json!({"properties": {"upstream": {"properties": {"nodes": {"items": {"allOf": [
            {"patternProperties": {".*": {"type": "integer"}}},
        ]}}}}}}),
        json!({"upstream": {"nodes": [{}, {"h": "x"}]}}),
        &[(
            "/upstream/nodes/1/h",
            "property \"upstream\" validation failed: property \"nodes\" validation failed: failed to validate item 2: \
             allOf 1 failed: failed to validate h (matching \".*\"): wrong type: expected integer, got string",
        )],
    );
}

#[test]
fn generated_schemas() {
    let schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Config",
        "type": "object",
        "properties": {
            "count": {"description": "how many", "type": "integer", "format": "uint32", "minimum": 0, "default": 3},
            "child": {"anyOf": [{"$ref": "#/$defs/Child"}, {"type": "null"}]},
            "mode": {"$ref": "#/$defs/Mode", "default": "a"},
        },
        "$defs": {
            "Child": {"type": "object", "properties": {"next": {"$ref": "#/$defs/Child"}, "n": {"type": "integer"}}},
            "Mode": {"oneOf": [{"const": "a", "description": "first"}, {"type": "string", "enum": ["b"]}]},
        },
    });
    check(schema.clone(), json!({"count": 1, "child": null, "mode": "b"}), &[]);
    check(
        schema,
        json!({"count": -1, "child": {"next": {"n": "x"}}, "mode": "c"}),
        &[
            ("/count", "property \"count\" validation failed: expected -1 to be at least 0"),
            (
                "/child/next/n",
                "property \"child\" validation failed: property \"next\" validation failed: \
                 property \"n\" validation failed: wrong type: expected integer, got string",
            ),
            (
                "/mode",
                "property \"mode\" validation failed: value should match only one schema, but matches none: \
                 failed to check const value; or matches none of the enum values",
            ),
        ],
    );
}

#[test]
fn faults_are_bounded() {
    let schema = Schema::compile(&json!({"items": {"type": "string"}, "uniqueItems": true})).unwrap();
    assert_eq!(schema.validate(&json!(vec![1; 100_000])).len(), MAX_FAULTS);
}

#[test]
fn schemas_that_do_not_compile() {
    refuse(json!(1), "schema at \"\": a schema must be an object or a boolean");
    refuse(
        json!({"properties": {"a": {"type": "text"}}}),
        "schema at \"/properties/a\": \"type\" must be a type name or an array of them",
    );
    refuse(json!({"minLength": -1}), "schema at \"\": \"minLength\" must be a non-negative integer");
    refuse(json!({"multipleOf": 0}), "schema at \"\": \"multipleOf\" must be a number above zero");
    refuse(json!({"required": [1]}), "schema at \"\": \"required\" must be an array of strings");
    refuse(
        json!({"contains": {}}),
        "schema at \"\": \"contains\" is not supported; express the constraint by other keywords",
    );
    refuse(
        json!({"$ref": "other.json#/a"}),
        "schema at \"\": \"other.json#/a\" must lead to a place in the same schema, such as \"#/$defs/name\"",
    );
    refuse(json!({"$ref": "#"}), "schema at \"\" refers to itself without descending into the value");
    let endless = json!({"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/b"}]}, "b": {"not": {"$ref": "#/$defs/a"}}}, "items": {"$ref": "#/$defs/a"}});
    assert!(matches!(Schema::compile(&endless), Err(SchemaError::Endless { .. })));
    assert!(matches!(Schema::compile(&json!({"pattern": "("})), Err(SchemaError::Pattern { .. })));
    assert!(matches!(Schema::compile(&json!({"pattern": "(a{1000}){1000}"})), Err(SchemaError::Pattern { .. })));
}
