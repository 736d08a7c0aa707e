//! The head of an upstream's answer: the parser against an obvious one, and against itself fed piece by piece.
//!
//! Input: a byte of flags (1: a HEAD request, 2: it asked for upgrades, 4: tight limits), the size of the pieces, the text.

use bytes::BytesMut;
use http::{HeaderMap, HeaderValue, header};
use milecastle_proxy::fuzzing::{Asked, Framing, Head, Limits, Malformed, Parsing, take_head};

/// Panics if the input shows a fault.
pub(crate) fn try_input(data: &[u8]) {
    let [flags, step, text @ ..] = data else { return };
    let upgrade = (flags & 2 != 0).then_some("websocket, spdy/3.1");
    let asked = Asked { head: flags & 1 != 0, upgrade, as_received: None, interim: None };
    let limits = match flags & 4 {
        0 => Limits { head_bytes: 64 << 10, head_fields: 100 },
        _ => Limits { head_bytes: 200, head_fields: 4 },
    };
    let whole = take([text], asked, limits);
    let pieces = take(text.chunks(usize::from(*step).max(1)), asked, limits);
    match (&whole, &pieces) {
        (Ok(Some((head, rest))), Ok(Some((again, rest_again)))) => {
            assert_eq!((head.status, head.framing, head.keep), (again.status, again.framing, again.keep));
            assert_eq!(head.headers, again.headers);
            // Of the text behind the head, pieces may not all have been fed.
            assert!(rest.starts_with(rest_again));
            check(&text[..text.len() - rest.len()], head, asked, limits);
            let passed_by = take([text], Asked { as_received: Some(&|_| false), ..asked }, limits);
            let Ok(Some((other, _))) = &passed_by else { panic!("{passed_by:?}, {head:?}") };
            check_as_received(head, other);
        }
        (Ok(None), Ok(None)) | (Err(_), Err(_)) => {}
        _ => panic!("whole: {whole:?}, in pieces: {pieces:?}"),
    }
}

type Taken = Result<Option<(Head, Vec<u8>)>, Malformed>;

fn take<'t>(pieces: impl IntoIterator<Item = &'t [u8]>, asked: Asked<'_>, limits: Limits) -> Taken {
    let mut buf = BytesMut::new();
    let (mut parsing, mut interim) = (Parsing::default(), 0);
    for piece in pieces {
        buf.extend_from_slice(piece);
        if let Some(head) = take_head(&mut buf, &mut parsing, HeaderMap::new, asked, limits, &mut interim)? {
            return Ok(Some((head, buf.to_vec())));
        }
    }
    Ok(None)
}

/// What the obvious parser sees in the last of the heads that make up `text`.
struct Seen {
    status: u16,
    minor: u8,
    fields: Vec<(String, Vec<u8>)>,
}

fn slow(text: &[u8]) -> Seen {
    assert!(text.ends_with(b"\n"), "a head ends with a line");
    let mut lines = text.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    loop {
        let line = lines.find(|line| !line.is_empty()).expect("there is a final answer");
        let line = line.strip_prefix(b"HTTP/1.").expect("a version");
        let (minor, code) = (line[0] - b'0', std::str::from_utf8(&line[2..5]).expect("a status"));
        let status = code.parse().expect("a status is a number");
        let fields = lines.by_ref().take_while(|line| !line.is_empty()).map(|line| {
            let colon = line.iter().position(|byte| *byte == b':').expect("a field has a colon");
            let name = String::from_utf8(line[..colon].to_ascii_lowercase()).expect("a name is ASCII");
            (name, line[colon + 1..].trim_ascii().to_vec())
        });
        let fields = fields.collect();
        if status >= 200 || status == 101 {
            assert!(lines.eq([b""]), "nothing is taken from behind the head");
            return Seen { status, minor, fields };
        }
    }
}

fn check(text: &[u8], head: &Head, asked: Asked<'_>, limits: Limits) {
    let seen = slow(text);
    let words = |name: &'static str| {
        let fields = seen.fields.iter().filter(move |(field, _)| field == name);
        fields
            .flat_map(|(_, value)| value.split(|byte| *byte == b','))
            .map(|word| word.trim_ascii().to_ascii_lowercase())
    };
    assert!(seen.fields.len() <= limits.head_fields);
    assert_eq!(head.status.as_u16(), seen.status);
    let switching = seen.status == 101;
    let switched_to: Vec<_> = words("upgrade").collect();
    let asked_for = |name: &[u8]| asked.upgrade.is_some_and(|list| list.split(", ").any(|one| one.as_bytes() == name));
    let says = |option: &[u8]| words("connection").any(|word| word == option);
    assert!(
        !switching || matches!(switched_to.as_slice(), [one] if asked_for(one)) && says(b"upgrade") && seen.minor == 1,
        "only what was asked for is switched to, and only where that is well said"
    );

    // A 101 ends with its head whatever it says of a body (RFC 9112 §6.3).
    let of_body = |name: &'static str| words(name).filter(|_| !switching);
    let lengths: Vec<u64> =
        of_body("content-length").map(|word| String::from_utf8_lossy(&word).parse().expect("a number")).collect();
    let codings: Vec<_> = of_body("transfer-encoding").collect();
    assert!(lengths.windows(2).all(|pair| pair[0] == pair[1]), "one length");
    assert!(codings.is_empty() || codings == [b"chunked"] && lengths.is_empty() && seen.minor == 1, "no ambiguity");
    let framing = match lengths.first() {
        _ if asked.head || matches!(seen.status, 101 | 204 | 304) => Framing::None,
        Some(length) => Framing::Length(*length),
        None if codings.is_empty() => Framing::UntilClose,
        None => Framing::Chunked,
    };
    assert_eq!(head.framing, framing);

    let persistent = !says(b"close") && (seen.minor == 1 || says(b"keep-alive"));
    assert_eq!(head.keep, persistent && framing != Framing::UntilClose && !switching);

    let named: Vec<_> = words("connection").collect();
    let passes = |name: &str| match name {
        "upgrade" => switching,
        // No field has this name, and whether this option takes it away is of no matter.
        "close" => false,
        "connection" | "te" | "trailer" | "keep-alive" | "proxy-connection" | "transfer-encoding"
        | "content-length" => false,
        "content-type" => true,
        _ => !named.iter().any(|word| word == name.as_bytes()),
    };
    let mut expected: Vec<_> = seen.fields.iter().filter(|(name, _)| passes(name)).cloned().collect();
    if let Some(length) = lengths.first().filter(|_| seen.status != 204) {
        let passed: Vec<_> = head.headers.get_all(header::CONTENT_LENGTH).iter().map(|value| value.to_str()).collect();
        assert!(matches!(passed.as_slice(), [Ok(one)] if one.parse() == Ok(*length)), "{passed:?}");
    } else {
        assert!(!head.headers.contains_key(header::CONTENT_LENGTH));
    }
    expected.sort();
    // The parser does not check values a second time.
    assert!(head.headers.values().all(|value| HeaderValue::from_bytes(value.as_bytes()).is_ok()));
    assert_eq!(others(&head.headers), expected);
}

/// What is not looked at is the same as what is, and on the wire it says the same.
fn check_as_received(head: &Head, other: &Head) {
    assert_eq!((head.status, head.framing, head.keep), (other.status, other.framing, other.keep));
    let Some(received) = &other.received else { return assert_eq!(head.headers, other.headers) };
    assert!(other.headers.is_empty());
    let mut text = Vec::new();
    received.write(&mut text);
    let lines = text.split_inclusive(|byte| *byte == b'\n').map(|line| {
        let line = line.strip_suffix(b"\r\n").expect("a line ends with CR LF");
        let colon = line.windows(2).position(|two| two == b": ").expect("a name ends with a colon and a blank");
        (String::from_utf8(line[..colon].to_ascii_lowercase()).expect("a name is ASCII"), line[colon + 2..].to_vec())
    });
    let mut passed: Vec<_> = lines.collect();
    passed.sort();
    let mut expected = others(&head.headers);
    expected.retain(|(name, _)| name != "server");
    passed.retain(|(name, _)| name != "close");
    assert_eq!(passed, expected);
}

/// All fields but the length, in order of their names.
fn others(headers: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    let fields = headers.iter().filter(|(name, _)| !matches!(name.as_str(), "content-length" | "close"));
    let mut fields: Vec<_> =
        fields.map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect();
    fields.sort();
    fields
}
