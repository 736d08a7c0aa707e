//! What holds for every request that leaves the gateway, whatever came in.

use milecastle_testkit::echo::Received;

/// Fields that the gateway writes, or a plugin of the route, each once.
const ONCE: [&str; 7] =
    ["host", "x-real-ip", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port", "x-gateway"];
/// Fields that concern a single connection.
const NEVER: [&str; 8] =
    ["connection", "keep-alive", "proxy-connection", "te", "trailer", "upgrade", "expect", "http2-settings"];
/// Names that the gateway alone may use; no other spelling of them may get through either.
const OWN: [&str; 11] = [
    "content-length",
    "transfer-encoding",
    "x-real-ip",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-consumer-username",
    "x-consumer-custom-id",
    "x-credential-identifier",
    "http2-settings",
];

/// The error says what is odd about the request.
pub(super) fn check(request: &Received) -> Result<(), String> {
    let head = String::from_utf8_lossy(&request.head);
    let odd = |what: &str| Err(format!("{what}: {head:?}"));
    let bare = |byte: u8| request.head.iter().filter(|b| **b == byte).count() != head.matches("\r\n").count();
    if bare(b'\r') || bare(b'\n') || request.head.contains(&0) {
        return odd("a lone CR, a lone LF or a NUL");
    }
    let words: Vec<&[u8]> = request.line.split(|byte| *byte == b' ').collect();
    let [_, target, b"HTTP/1.1"] = words[..] else { return odd("no request line") };
    if !target.starts_with(b"/") || !target.iter().all(u8::is_ascii_graphic) {
        return odd("the target is no path of visible ASCII");
    }
    if head.lines().any(|line| line.starts_with([' ', '\t'])) {
        return odd("a folded line");
    }
    for (name, _) in &request.headers {
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        let alias: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        if alias != name && OWN.contains(&alias.as_str()) {
            return odd("another spelling of a name that is the gateway's own");
        }
        if NEVER.contains(&name.as_str()) {
            return odd("a field of another connection");
        }
    }
    if let Some(name) = ONCE.iter().find(|name| request.header(name).len() != 1) {
        return odd(&format!("not one {name}"));
    }
    match (request.header("content-length").len(), request.header("transfer-encoding").len()) {
        (0 | 1, 0) | (0, 1) => Ok(()),
        _ => odd("several lengths"),
    }
}
