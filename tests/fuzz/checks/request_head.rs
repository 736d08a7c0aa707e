//! The head of a client's request: the parser against an obvious one, and against itself fed piece by piece.
//!
//! Input: a byte of flags (1: tight limits), the size of the pieces, the text.

use bytes::BytesMut;
use http::{HeaderMap, HeaderValue, Version};
use milecastle_proxy::fuzzing::{BadHead, Length, Limits, RequestHead, RequestParsing, take_request_head};

/// Panics if the input shows a fault.
pub(crate) fn try_input(data: &[u8]) {
    let [flags, step, text @ ..] = data else { return };
    let limits = match flags & 1 {
        0 => Limits { head_bytes: 64 << 10, head_fields: 100 },
        _ => Limits { head_bytes: 200, head_fields: 4 },
    };
    let whole = take([text], limits);
    let pieces = take(text.chunks(usize::from(*step).max(1)), limits);
    match (&whole, &pieces) {
        (Ok(Some((head, rest))), Ok(Some((again, rest_again)))) => {
            assert_eq!((&head.head.method, &head.head.uri), (&again.head.method, &again.head.uri));
            assert_eq!((head.length, head.keep_alive), (again.length, again.keep_alive));
            assert_eq!(head.head.headers, again.head.headers);
            // Of the text behind the head, pieces may not all have been fed.
            assert!(rest.starts_with(rest_again));
            check(&text[..text.len() - rest.len()], head, limits);
        }
        (Ok(None), Ok(None)) | (Err(_), Err(_)) => {}
        _ => panic!("whole: {whole:?}, in pieces: {pieces:?}"),
    }
}

type Taken = Result<Option<(RequestHead, Vec<u8>)>, BadHead>;

fn take<'t>(pieces: impl IntoIterator<Item = &'t [u8]>, limits: Limits) -> Taken {
    let mut buf = BytesMut::new();
    let mut parsing = RequestParsing::default();
    for piece in pieces {
        buf.extend_from_slice(piece);
        if let Some(head) = take_request_head(&mut buf, &mut parsing, HeaderMap::new, limits)? {
            return Ok(Some((head, buf.to_vec())));
        }
    }
    Ok(None)
}

fn check(text: &[u8], taken: &RequestHead, limits: Limits) {
    let head = &taken.head;
    let mut text = latin(text);
    while let Some(rest) = text.strip_prefix("\r\n") {
        text = rest.to_owned();
    }
    let text = text.strip_suffix("\r\n\r\n").expect("a head ends with an empty line");
    let mut lines = text.split("\r\n");
    let line = lines.next().expect("a request line");
    let fields: Vec<(String, String)> = lines
        .map(|line| {
            let (name, value) = line.split_once(':').expect("a field has a colon");
            (name.to_ascii_lowercase(), value.trim_matches([' ', '\t']).to_owned())
        })
        .collect();
    assert!(!text.replace("\r\n", "").contains(['\r', '\n', '\0']), "no other line ends, no NUL");
    assert!(fields.len() <= limits.head_fields);

    let parts: Vec<&str> = line.split(' ').collect();
    let [method, target, version] = parts.as_slice() else { panic!("three parts: {line:?}") };
    assert_eq!(head.method.as_str(), *method);
    let target: Vec<u8> = target.chars().map(|byte| byte as u8).collect();
    assert_eq!(head.uri, http::Uri::try_from(target).expect("a target"));
    let http10 = *version == "HTTP/1.0";
    assert!(http10 || *version == "HTTP/1.1");
    assert_eq!(head.version, if http10 { Version::HTTP_10 } else { Version::HTTP_11 });

    let values = |name: &'static str| fields.iter().filter(move |(field, _)| field == name).map(|(_, value)| &**value);
    let digits = |value: &str| !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    let lengths: Vec<Option<u64>> = values("content-length")
        .map(|value| value.parse().ok().filter(|_| digits(value) && value.len() < 20))
        .collect();
    let codings: Vec<String> = values("transfer-encoding").map(str::to_ascii_lowercase).collect();
    let length = match (lengths.as_slice(), codings.as_slice()) {
        ([], []) => Some(Length::Bytes(0)),
        ([], [only]) if only == "chunked" && !http10 => Some(Length::Chunked),
        ([Some(length), rest @ ..], []) if rest.iter().all(|other| *other == Some(*length)) => {
            Some(Length::Bytes(*length))
        }
        _ => None,
    };
    assert_eq!(head.fault.is_some(), length.is_none());
    assert_eq!(taken.length, length.unwrap_or(Length::Bytes(0)), "nothing ambiguous is taken for a body");

    let says = |option: &str| {
        values("connection")
            .flat_map(|value| value.split(','))
            .any(|word| word.trim_matches([' ', '\t']).eq_ignore_ascii_case(option))
    };
    assert_eq!(taken.keep_alive, !says("close") && (!http10 || says("keep-alive")));

    // The parser does not check values a second time.
    assert!(head.headers.values().all(|value| HeaderValue::from_bytes(value.as_bytes()).is_ok()));
    assert_eq!(head.headers.len(), fields.len());
    for name in head.headers.keys() {
        let taken = head.headers.get_all(name).iter().map(|value| latin(value.as_bytes()));
        let sent = fields.iter().filter(|(field, _)| field == name.as_str());
        assert!(taken.eq(sent.map(|(_, value)| value.clone())));
    }
}

/// Each byte as one character.
fn latin(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}
