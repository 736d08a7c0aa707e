//! YAML for those who ask for it: read as any of our files is, written in block style.

use serde_json::Value;

/// Reads one document of YAML's core schema; without anchors and tags.
///
/// # Errors
/// `None` says that it is none.
pub(crate) fn read(text: &[u8]) -> Option<Value> {
    milecastle_settings::yaml(std::str::from_utf8(text).ok()?).ok()
}

/// Writes a value, ended by a line end. Text stands in quotes wherever a reader could take it for something else.
pub(crate) fn write(value: &Value) -> String {
    let mut out = String::new();
    block(&mut out, value, 0);
    out
}

/// Writes a value at column `indent`, where the line has come to already.
fn block(out: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Object(members) if !members.is_empty() => {
            for (i, (name, member)) in members.iter().enumerate() {
                pad(out, if i == 0 { 0 } else { indent });
                text(out, name);
                out.push(':');
                match member {
                    Value::Object(inner) if !inner.is_empty() => nested(out, member, indent + 2),
                    Value::Array(inner) if !inner.is_empty() => nested(out, member, indent + 2),
                    leaf => {
                        out.push(' ');
                        block(out, leaf, indent);
                    }
                }
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (i, item) in items.iter().enumerate() {
                pad(out, if i == 0 { 0 } else { indent });
                out.push_str("- ");
                block(out, item, indent + 2);
            }
        }
        Value::String(plain) => {
            text(out, plain);
            out.push('\n');
        }
        // Numbers, the three words, `[]` and `{}` are the same in both languages.
        leaf => {
            out.push_str(&leaf.to_string());
            out.push('\n');
        }
    }
}

fn nested(out: &mut String, value: &Value, indent: usize) {
    out.push('\n');
    pad(out, indent);
    block(out, value, indent);
}

fn pad(out: &mut String, columns: usize) {
    out.extend(std::iter::repeat_n(' ', columns));
}

fn text(out: &mut String, text: &str) {
    if is_plain(text) {
        out.push_str(text);
    } else {
        // A JSON string is a double-quoted scalar of YAML.
        out.push_str(&Value::from(text).to_string());
    }
}

/// Whether text needs no quotes for any reader, those of YAML 1.1 included.
fn is_plain(text: &str) -> bool {
    const WORDS: [&str; 9] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '/')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_./-".contains(&byte))
        && !WORDS.iter().any(|word| text.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn block_style() {
        let value = json!({
            "routes": [{"id": "r1", "uris": ["/a", "/b*"], "plugins": {}, "vars": [["a", "==", 1]]}, "x"],
            "empty": [], "routes_conf_version": 1_700_000_000_123_u64,
        });
        let expected = "routes:\n  - id: r1\n    uris:\n      - /a\n      - \"/b*\"\n    plugins: {}\n    vars:\n      - - a\n        - \"==\"\n        \
                        - 1\n  - x\nempty: []\nroutes_conf_version: 1700000000123\n";
        assert_eq!(write(&value), expected);
    }

    #[test]
    fn what_is_written_is_read_back() {
        let texts = [
            "",
            "yes",
            "No",
            "null",
            "~",
            "1",
            "1.5",
            "-",
            "- a",
            "a: b",
            "a #b",
            "# a",
            "{",
            "é\n\t\"\\\u{7}",
            " a ",
            "0x1f",
            "$x",
        ];
        let mut values: Vec<Value> = texts.iter().map(|&text| text.into()).collect();
        values.extend([json!(null), json!(true), json!(-3), json!(0.25), json!([]), json!({}), json!([[[]], [{}]])]);
        let members: serde_json::Map<String, Value> =
            texts.iter().map(|&text| (text.to_owned(), json!([{text: text}]))).collect();
        values.push(Value::Object(members));
        for value in values {
            let value = json!({ "value": [value] });
            assert_eq!(read(write(&value).as_bytes()), Some(value));
        }
    }

    #[test]
    fn what_is_none() {
        for text in [&b"a: [1"[..], b"a: *b", b"\xff", b"a: 1\n---\nb: 2"] {
            assert_eq!(read(text), None);
        }
    }
}
