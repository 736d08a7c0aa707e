//! `multipart/form-data` (RFC 7578), as far as variables need it: text fields by name.

use serde_json::Value;

/// Name and text of each part, in order; `None` if the content type names no boundary.
pub(super) fn fields(content_type: &str, body: &str) -> Option<Vec<(String, Value)>> {
    let boundary = parameter(content_type, "boundary")?;
    let delimiter = format!("--{boundary}");
    let mut fields = Vec::new();
    for part in body.split(delimiter.as_str()).skip(1) {
        if part.starts_with("--") {
            break;
        }
        let Some((head, text)) = part.split_once("\r\n\r\n") else { continue };
        let disposition = head.split("\r\n").find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.trim_ascii().eq_ignore_ascii_case("content-disposition").then_some(value)
        });
        if let Some(name) = disposition.and_then(|value| parameter(value, "name")) {
            let text = text.strip_suffix("\r\n").unwrap_or(text);
            fields.push((name.to_owned(), Value::String(text.to_owned())));
        }
    }
    Some(fields)
}

/// A parameter of a header's value: `; name=value` or `; name="value"`.
fn parameter<'a>(value: &'a str, name: &str) -> Option<&'a str> {
    value.split(';').skip(1).find_map(|parameter| {
        let (known, value) = parameter.split_once('=')?;
        known.trim_ascii().eq_ignore_ascii_case(name).then(|| value.trim_ascii().trim_matches('"'))
    })
}
