//! Heads of answers, and what becomes of them.

use super::super::text::put;
use super::*;

const LIMITS: Limits = Limits { head_bytes: 4096, head_fields: 100 };
const GET: Asked<'_> = Asked { head: false, upgrade: None, as_received: None, interim: None };
const AS_RECEIVED: Asked<'_> = Asked { as_received: Some(&|name| name == "x-set"), ..GET };

fn take(text: &str, asked: Asked<'_>) -> Result<Option<(Head, usize)>, Malformed> {
    let mut buf = BytesMut::from(text);
    Ok(take_head(&mut buf, &mut Parsing::default(), HeaderMap::new, asked, LIMITS, &mut 0)?
        .map(|head| (head, buf.len())))
}

fn get(text: &str) -> Result<Head, Malformed> {
    Ok(take(text, GET)?.unwrap().0)
}

#[test]
fn framing_follows_rfc_9112() {
    for (fields, framing, keep) in [
        ("Content-Length: 5\r\n", Framing::Length(5), true),
        ("Content-Length: 5\r\nContent-Length: 5\r\n", Framing::Length(5), true),
        ("Content-Length: 5, 5\r\nConnection: close\r\n", Framing::Length(5), false),
        ("Transfer-Encoding: Chunked\r\n", Framing::Chunked, true),
        ("", Framing::UntilClose, false),
    ] {
        let head = get(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n")).unwrap();
        assert_eq!((head.framing, head.keep), (framing, keep), "{fields}");
    }
    for fields in ["Content-Length: 5, 05\r\n", "Content-Length: 5\r\nContent-Length: 5,5\r\n"] {
        let head = get(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n")).unwrap();
        assert_eq!(head.headers.get_all(header::CONTENT_LENGTH).iter().collect::<Vec<_>>(), ["5"], "{fields}");
    }
    let old = |fields: &str| get(&format!("HTTP/1.0 200 OK\r\nContent-Length: 1\r\n{fields}\r\n")).unwrap().keep;
    assert!(!old("") && old("Connection: keep-alive\r\n"));
    for status in ["204 No Content", "304 Not Modified"] {
        let head = get(&format!("HTTP/1.1 {status}\r\nContent-Length: 9\r\n\r\n")).unwrap();
        assert_eq!((head.framing, head.keep), (Framing::None, true));
    }
    let asked = Asked { head: true, ..AS_RECEIVED };
    let (head, _) = take("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", asked).unwrap().unwrap();
    assert_eq!(head.framing, Framing::None);
    assert_eq!(head.headers[header::CONTENT_LENGTH], "9");
}

#[test]
fn ambiguity_is_refused() {
    for (fields, fault) in [
        ("Content-Length: 5\r\nContent-Length: 6\r\n", Malformed::Length),
        ("Content-Length: 5, 6\r\n", Malformed::Length),
        ("Content-Length: +5\r\n", Malformed::Length),
        ("Content-Length:\r\n", Malformed::Length),
        ("Content-Length: 99999999999999999999\r\n", Malformed::Length),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", Malformed::LengthAndCoding),
        ("Transfer-Encoding: gzip, chunked\r\n", Malformed::Coding),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Malformed::Coding),
        ("X: a\r\n folded\r\n", Malformed::Syntax(httparse::Error::HeaderName)),
        ("X : a\r\n", Malformed::Syntax(httparse::Error::HeaderName)),
    ] {
        assert_eq!(get(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n")).unwrap_err(), fault, "{fields}");
    }
    assert_eq!(get("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap_err(), Malformed::Coding);
    assert_eq!(get("HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n").unwrap_err(), Malformed::Upgrade);
    assert_eq!(get("SSH-2.0-OpenSSH\r\n").unwrap_err(), Malformed::Syntax(httparse::Error::Version));
}

#[test]
fn interim_answers_are_passed_over() {
    let text = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
    let (head, rest) = take(text, GET).unwrap().unwrap();
    assert_eq!((head.status.as_u16(), head.headers.len(), rest), (200, 1, 2));
    assert!(take("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 2", GET).unwrap().is_none());
}

#[test]
fn interim_answers_are_told_but_for_100() {
    let told = std::cell::RefCell::new(Vec::new());
    let tell = |status: StatusCode, fields: HeaderMap| told.borrow_mut().push((status.as_u16(), fields));
    let text = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\nConnection: X-Hop\r\nX-Hop: 1\r\n\r\n\
                HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n";
    let (head, _) = take(text, Asked { interim: Some(&tell), ..GET }).unwrap().unwrap();
    assert_eq!((head.status.as_u16(), head.headers.len()), (204, 0));
    let taken = told.take();
    assert_eq!(taken.iter().map(|(status, fields)| (*status, fields.len())).collect::<Vec<_>>(), [(103, 1), (102, 0)]);
    assert_eq!(taken[0].1[header::LINK], "x");
    let ambiguous = "HTTP/1.1 103 Early Hints\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n";
    assert_eq!(take(ambiguous, Asked { interim: Some(&tell), ..GET }).unwrap_err(), Malformed::Length);
}

#[test]
fn interim_answers_are_no_longer_than_one_head_together() {
    let (mut interim, mut parsing) = (0, Parsing::default());
    let mut more = |heads: usize| {
        let mut buf = BytesMut::from("HTTP/1.1 100 Continue\r\n\r\n".repeat(heads).as_str());
        take_head(&mut buf, &mut parsing, HeaderMap::new, GET, LIMITS, &mut interim).map(|head| head.is_some())
    };
    let most = LIMITS.head_bytes / "HTTP/1.1 100 Continue\r\n\r\n".len();
    assert_eq!(more(most - 1), Ok(false));
    assert_eq!(more(1), Ok(false));
    assert_eq!(more(1), Err(Malformed::Interim), "what was read before counts too");
}

#[test]
fn hop_by_hop_fields_end_here() {
    let head = get(
        "HTTP/1.1 200 OK\r\nConnection: X-Private, close\r\nX-Private: 1\r\nKeep-Alive: 5\r\nTE: x\r\nUpgrade: h2c\r\n\
         Proxy-Connection: x\r\nContent-Length: 0\r\nX-Public: 2\r\n\r\n",
    )
    .unwrap();
    let mut names: Vec<_> = head.headers.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["content-length", "x-public"]);
    assert!(!head.keep);
    let asked = Asked { upgrade: Some("websocket"), ..AS_RECEIVED };
    let switch = "HTTP/1.1 101 Go\r\nConnection: X-Private, Upgrade\r\nX-Private: 1\r\nUpgrade: websocket\r\n\
                  X-Public: 2\r\n\r\n";
    let (head, _) = take(switch, asked).unwrap().unwrap();
    let mut names: Vec<_> = head.headers.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!((names, head.framing, head.keep), (vec!["upgrade", "x-public"], Framing::None, false));
}

#[test]
fn only_one_of_the_protocols_asked_for_is_switched_to() {
    let switch = |lines: &str| {
        let asked = Asked { upgrade: Some("SPDY/3.1, tcp"), ..GET };
        take(&format!("HTTP/1.1 101 Go\r\nConnection: Upgrade\r\n{lines}\r\n"), asked).map(|_| ())
    };
    for name in ["SPDY/3.1", "spdy/3.1", "tcp", "TCP"] {
        assert_eq!(switch(&format!("Upgrade: {name}\r\n")), Ok(()), "{name}");
    }
    for name in ["", "SPDY", "SPDY/3", "SPDY/3.1, tcp", "tcp,", "websocket", "h2c"] {
        assert_eq!(switch(&format!("Upgrade: {name}\r\n")), Err(Malformed::Upgrade), "{name}");
    }
    for lines in ["", "Upgrade: tcp\r\nUpgrade: tcp\r\n"] {
        assert_eq!(switch(lines), Err(Malformed::Upgrade), "{lines}");
    }
}

#[test]
fn a_switch_is_said_with_the_word_to_the_connection_and_over_http_1_1() {
    let switch = |version: &str, lines: &str| {
        let asked = Asked { upgrade: Some("tcp"), ..GET };
        take(&format!("HTTP/{version} 101 Go\r\n{lines}Upgrade: tcp\r\n\r\n"), asked).map(|_| ())
    };
    for lines in [
        "Connection: upgrade\r\n",
        "Connection: keep-alive, UPGRADE\r\n",
        "Connection: keep-alive\r\nConnection: ,Upgrade\r\n",
    ] {
        assert_eq!(switch("1.1", lines), Ok(()), "{lines}");
    }
    for lines in [
        "",
        "Connection:\r\n",
        "Connection: keep-alive\r\n",
        "Connection: upgraded\r\n",
        "Proxy-Connection: Upgrade\r\n",
    ] {
        assert_eq!(switch("1.1", lines), Err(Malformed::Upgrade), "{lines}");
    }
    assert_eq!(switch("1.0", "Connection: Upgrade\r\n"), Err(Malformed::Upgrade));
}

#[test]
fn what_a_switch_says_of_a_body_means_nothing() {
    for lines in [
        "Content-Length: 0\r\n",
        "Content-Length: 5\r\nContent-Length: x\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding: gzip\r\nContent-Length: 5\r\n",
    ] {
        let asked = Asked { upgrade: Some("tcp"), ..AS_RECEIVED };
        let text = format!("HTTP/1.1 101 Go\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n{lines}\r\n");
        let (head, _) = take(&text, asked).unwrap().unwrap();
        assert_eq!((head.headers.len(), head.framing), (1, Framing::None), "{lines}");
    }
}

/// Fields as they are written out for a client that is told the length by other means, a line each, sorted.
fn written(head: &Head) -> Vec<String> {
    let mut out = Vec::new();
    if let Some(received) = &head.received {
        assert!(head.headers.is_empty());
        received.write(&mut out);
        assert_eq!(received.bytes(), out.len() as u64);
        assert_eq!(received.is_dated(), String::from_utf8_lossy(&out).to_ascii_lowercase().contains("date:"));
    }
    for (name, value) in &head.headers {
        if name != header::SERVER && name != header::CONTENT_LENGTH {
            put(&mut out, &[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"]);
        }
    }
    let text = String::from_utf8(out).unwrap();
    let mut lines: Vec<_> = text.split_terminator("\r\n").map(str::to_ascii_lowercase).collect();
    lines.sort();
    lines
}

#[test]
fn fields_as_received_are_those_of_the_map() {
    let asked = AS_RECEIVED;
    let usual = "Server: s\r\nDate: d\r\nX-A: 1\r\nContent-Length: 2\r\nConnection: close\r\nX-B: 2\r\nx-a: 3\r\n";
    for (status, fields, passes) in [
        ("200 OK", usual, true),
        ("404 Not Found", "Content-Length: 2, 2\r\nKeep-Alive: 1\r\nTE: x\r\nUpgrade: h2c\r\nX: \r\nY: é\r\n", true),
        ("200 OK", "Transfer-Encoding: chunked\r\nX-A: 1\r\n", true),
        ("200 OK", "", true),
        ("302 Found", "X-A:  1\r\n", false),
        ("200 OK", "X-A:1\r\n", false),
        ("200 OK", "X-A: 1 \r\n", false),
        ("200 OK", "X-A: 1\n", false),
        ("200 OK", "X-A:\t1\r\n", false),
        ("200 OK", "X-A: 1\r\nConnection: x-a\r\nX-B: 2\r\n", false),
        ("200 OK", "X-A: 1\r\nX-SET: 2\r\n", false),
        ("204 No Content", usual, false),
        ("304 Not Modified", usual, false),
        ("500 Oh", usual, false),
    ] {
        let text = format!("HTTP/1.1 {status}\r\n{fields}\r\n");
        let (plain, map) = (take(&text, asked).unwrap().unwrap().0, get(&text).unwrap());
        assert_eq!(plain.received.is_some(), passes, "{text}");
        assert_eq!((plain.framing, plain.keep, plain.status), (map.framing, map.keep, map.status), "{text}");
        assert_eq!(written(&plain), written(&map), "{text}");
    }
    for fields in ["Content-Length: 1\r\nContent-Length: 2\r\n", "Transfer-Encoding: gzip\r\n"] {
        let text = format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
        assert_eq!(take(&text, asked).unwrap_err(), get(&text).unwrap_err(), "{text}");
    }
}

#[test]
fn caps_hold() {
    let many = "X: 1\r\n".repeat(100);
    assert_eq!(get(&format!("HTTP/1.1 200 OK\r\n{many}\r\n")).unwrap().headers.len(), 100);
    assert_eq!(get(&format!("HTTP/1.1 200 OK\r\n{many}X: 1\r\n\r\n")).unwrap_err(), Malformed::TooManyFields);
    let long = format!("HTTP/1.1 200 OK\r\nX: {}", "a".repeat(5000));
    assert_eq!(get(&long).unwrap_err(), Malformed::TooLong);
    assert_eq!(get(&format!("{long}\r\n\r\n")).unwrap_err(), Malformed::TooLong);
}
