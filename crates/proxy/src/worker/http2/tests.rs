//! Rules of RFC 9113, §4 to §6, frame by frame.

use super::read;
use crate::h2::Code;
use milecastle_testkit::frames::{self, ACK, END_HEADERS, END_STREAM, Frame, frame, kind, request, settings};

const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;
const WHOLE: u8 = END_HEADERS | END_STREAM;

fn begin() -> Vec<u8> {
    [frames::PREFACE, &frame(kind::SETTINGS, 0, 0, b"")].concat()
}

fn get(stream: u32) -> Vec<u8> {
    frame(kind::HEADERS, WHOLE, stream, &request("GET", "/", "h"))
}

/// A request whose body is still to come.
fn post(stream: u32) -> Vec<u8> {
    frame(kind::HEADERS, END_HEADERS, stream, &request("POST", "/", "h"))
}

fn data(stream: u32, flags: u8, bytes: &[u8]) -> Vec<u8> {
    frame(kind::DATA, flags, stream, bytes)
}

fn window(stream: u32, increment: u32) -> Vec<u8> {
    frame(kind::WINDOW_UPDATE, 0, stream, &increment.to_be_bytes())
}

fn cancel(stream: u32) -> Vec<u8> {
    frame(kind::RST_STREAM, 0, stream, &8_u32.to_be_bytes())
}

/// Frames that were said.
fn said(mut bytes: &[u8]) -> Vec<Frame> {
    let mut all = Vec::new();
    while let Some(([a, b, c, kind, flags, stream @ ..], rest)) = bytes.split_first_chunk::<9>() {
        let (payload, rest) = rest.split_at(u32::from_be_bytes([0, *a, *b, *c]) as usize);
        let stream = u32::from_be_bytes(*stream);
        all.push(Frame { kind: *kind, flags: *flags, stream, payload: payload.to_vec() });
        bytes = rest;
    }
    all
}

/// What ends the connection, and streams that are reset, with the reasons.
fn outcome(sent: &[Vec<u8>]) -> (Option<u32>, Vec<(u32, u32)>) {
    let read = read(&[&begin(), &sent.concat()], 4096, 4);
    let resets = said(&read.said).into_iter().filter(|frame| frame.kind == kind::RST_STREAM);
    (read.code, resets.map(|frame| (frame.stream, frame.code().unwrap())).collect())
}

fn ends_the_connection(rule: &str, sent: &[Vec<u8>], code: Code) {
    assert_eq!(outcome(sent).0, Some(code.0), "{rule}");
}

fn resets(rule: &str, sent: &[Vec<u8>], stream: u32, code: Code) {
    assert_eq!(outcome(sent), (None, vec![(stream, code.0)]), "{rule}");
}

fn is_fine(rule: &str, sent: &[Vec<u8>]) {
    assert_eq!(outcome(sent), (None, vec![]), "{rule}");
}

#[test]
fn a_connection_begins_with_its_preface_and_settings() {
    for (rule, bytes) in [
        ("no preface", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("another frame first", [frames::PREFACE, &frame(kind::PING, 0, 0, &[0; 8])].concat()),
        ("an acknowledgement first", [frames::PREFACE, &frame(kind::SETTINGS, ACK, 0, b"")].concat()),
    ] {
        assert_eq!(read(&[&bytes], 4096, 4).code, Some(Code::PROTOCOL_ERROR.0), "{rule}");
    }
    let greeted = read(&[&frames::PREFACE[..10], &frames::PREFACE[10..], &frame(kind::SETTINGS, 0, 0, b"")], 4096, 4);
    assert_eq!(greeted.code, None);
    let [acknowledged] = &said(&greeted.said)[..] else { panic!("{greeted:?}") };
    assert_eq!((acknowledged.kind, acknowledged.flags), (kind::SETTINGS, ACK));
}

#[test]
fn frames_have_their_size() {
    let long = vec![0; 16 * 1024 + 1];
    for (rule, sent) in [
        ("§4.2: data", vec![post(1), data(1, 0, &long)]),
        ("§4.2: unknown", vec![frame(0xfa, 0, 0, &long)]),
        ("§6.3", vec![frame(kind::PRIORITY, 0, 1, &[0; 4])]),
        ("§6.4", vec![get(1), frame(kind::RST_STREAM, 0, 1, &[0; 3])]),
        ("§6.5: no pairs", vec![frame(kind::SETTINGS, 0, 0, &[0; 5])]),
        ("§6.5: an acknowledgement that says something", vec![frame(kind::SETTINGS, ACK, 0, &[0; 6])]),
        ("§6.7", vec![frame(kind::PING, 0, 0, &[0; 7])]),
        ("§6.8", vec![frame(kind::GOAWAY, 0, 0, &[0; 7])]),
        ("§6.9", vec![frame(kind::WINDOW_UPDATE, 0, 0, &[0; 3])]),
        ("§6.1: no room for the length of padding", vec![post(1), data(1, PADDED, b"")]),
        ("§6.2: no room for a priority", vec![frame(kind::HEADERS, WHOLE | PRIORITY, 1, &[0; 4])]),
    ] {
        ends_the_connection(rule, &sent, Code::FRAME_SIZE_ERROR);
    }
    is_fine("§4.2: the longest", &[post(1), data(1, 0, &long[1..])]);
}

#[test]
fn frames_have_their_place() {
    let (head, part) = (request("GET", "/", "h"), |flags| frame(kind::HEADERS, flags, 1, &request("GET", "/", "h")));
    for (rule, sent) in [
        ("§5.1: data for a stream that is not open", vec![data(1, 0, b"x")]),
        ("§5.1: a reset of one", vec![cancel(1)]),
        ("§5.1: a window of one", vec![window(1, 1)]),
        ("§5.1.1: a stream of the server's", vec![get(2)]),
        ("§5.1.1: a lower number", vec![get(5), get(3)]),
        ("§6.1: data on the connection", vec![data(0, 0, b"x")]),
        ("§6.1: more padding than there is", vec![post(1), data(1, PADDED, b"\x03ab")]),
        ("§6.2: a head on the connection", vec![frame(kind::HEADERS, WHOLE, 0, &head)]),
        ("§6.2: more padding than there is", vec![frame(kind::HEADERS, WHOLE | PADDED, 1, b"\x02\x82")]),
        ("§6.2: within a head", vec![part(END_STREAM), frame(kind::PING, 0, 0, &[0; 8])]),
        ("§6.2: data within a head", vec![post(1), frame(kind::HEADERS, 0, 3, &head), data(1, 0, b"x")]),
        ("§6.3", vec![frame(kind::PRIORITY, 0, 0, &[0; 5])]),
        ("§6.4", vec![frame(kind::RST_STREAM, 0, 0, &[0; 4])]),
        ("§6.5", vec![frame(kind::SETTINGS, 0, 1, b"")]),
        ("§6.6", vec![frame(5, END_HEADERS, 1, &head)]),
        ("§6.7", vec![frame(kind::PING, 0, 1, &[0; 8])]),
        ("§6.8", vec![frame(kind::GOAWAY, 0, 1, &[0; 8])]),
        ("§6.9", vec![window(0, 0)]),
        ("§6.10: the end of no head", vec![get(1), frame(kind::CONTINUATION, END_HEADERS, 1, b"")]),
        ("§6.10: of another one", vec![part(0), frame(kind::CONTINUATION, END_HEADERS, 3, b"")]),
    ] {
        ends_the_connection(rule, &sent, Code::PROTOCOL_ERROR);
    }
}

#[test]
fn settings_have_their_values() {
    for (rule, pair, code) in [
        ("ENABLE_PUSH", (2, 2), Code::PROTOCOL_ERROR),
        ("INITIAL_WINDOW_SIZE", (4, 1 << 31), Code::FLOW_CONTROL_ERROR),
        ("MAX_FRAME_SIZE", (5, 16_383), Code::PROTOCOL_ERROR),
        ("MAX_FRAME_SIZE", (5, 1 << 24), Code::PROTOCOL_ERROR),
    ] {
        ends_the_connection(rule, &[frame(kind::SETTINGS, 0, 0, &settings(&[pair]))], code);
    }
    is_fine("§6.5.2", &[frame(kind::SETTINGS, 0, 0, &settings(&[(2, 0), (4, (1 << 31) - 1), (5, 16_384), (0xff, 7)]))]);
    let grown = [get(1), window(1, (1 << 31) - 1 - 65_535), frame(kind::SETTINGS, 0, 0, &settings(&[(4, 65_536)]))];
    ends_the_connection("§6.9.2: a window that overflows", &grown, Code::FLOW_CONTROL_ERROR);
}

#[test]
fn windows_have_their_size() {
    const MOST: u32 = (1 << 31) - 1;
    ends_the_connection("§6.9.1", &[window(0, MOST)], Code::FLOW_CONTROL_ERROR);
    resets("§6.9.1", &[get(1), window(1, MOST)], 1, Code::FLOW_CONTROL_ERROR);
    resets("§6.9", &[get(1), window(1, 0)], 1, Code::PROTOCOL_ERROR);
    is_fine("§6.9.1: the largest", &[get(1), window(1, MOST - 65_535), window(0, MOST - 65_535)]);
    let much: Vec<_> = (0..4).map(|_| data(1, 0, &[b'x'; 16 * 1024])).collect();
    is_fine("§6.9: what may be sent", &[&[post(1)], &much[..]].concat());
    resets("§6.9: more", &[&[post(1)], &much[..], &[data(1, 0, b"x")]].concat(), 1, Code::FLOW_CONTROL_ERROR);
}

#[test]
fn what_comes_for_a_stream_that_is_closed_is_judged_by_who_has_closed_it() {
    is_fine(
        "§5.1: what it does not matter for",
        &[get(1), cancel(1), window(1, 1), cancel(1), frame(kind::PRIORITY, 0, 1, &[0; 5])],
    );
    resets("§5.1: data behind the end", &[get(1), data(1, 0, b"x")], 1, Code::STREAM_CLOSED);
    resets("§5.1: a head behind the end", &[get(1), get(1)], 1, Code::STREAM_CLOSED);
    resets("§5.1: data behind a reset", &[get(1), cancel(1), data(1, 0, b"x")], 1, Code::STREAM_CLOSED);
    ends_the_connection("§5.1: a head behind a reset", &[get(1), cancel(1), get(1)], Code::STREAM_CLOSED);
    let late = [post(1), window(1, 0), data(1, 0, b"x"), frame(kind::HEADERS, WHOLE, 1, b"\0\x01a\x01b"), get(3)];
    resets("§5.4.2: what was sent before the client knew", &late, 1, Code::PROTOCOL_ERROR);
    let refused = [get(1), get(3), get(5), get(7), get(9), post(11), data(11, END_STREAM, b"x")];
    let (code, reset) = outcome(&refused);
    assert_eq!((code, reset), (None, vec![(9, Code::REFUSED_STREAM.0), (11, Code::REFUSED_STREAM.0)]), "§5.1.2");
}

#[test]
fn blocks_are_read_to_their_end_whatever_becomes_of_them() {
    // The path is put into the table by a request that is malformed, and by one that is refused.
    let kept = |method: &[u8], path: &[u8], more: &[u8]| {
        [&b"\x86\x41\x01h\x02"[..], &[method.len() as u8], method, &[0x44, path.len() as u8], path, more].concat()
    };
    let sent = [
        begin(),
        frame(kind::HEADERS, WHOLE, 1, &kept(b"GET", b"/first", b"\0\x01X\x01y")),
        frame(kind::HEADERS, WHOLE, 3, &[0x82, 0x86, 0xbe, 0xbf]),
    ];
    let found = read(&[&sent.concat()], 4096, 4);
    let [(3, Ok(head))] = &found.requests[..] else { panic!("{found:?}") };
    assert_eq!(head.uri.to_string(), "http://h/first");
    ends_the_connection("§4.3", &[frame(kind::HEADERS, WHOLE, 1, &[0xbe])], Code::COMPRESSION_ERROR);
}

#[test]
fn bodies_are_as_long_as_was_announced() {
    let announced = |flags| {
        let block = [request("POST", "/", "h"), frames::field(b"content-length", b"5")].concat();
        frame(kind::HEADERS, END_HEADERS | flags, 1, &block)
    };
    is_fine("§8.1.1", &[announced(0), data(1, 0, b"he"), data(1, END_STREAM, b"llo")]);
    resets("§8.1.1: none", &[announced(END_STREAM)], 1, Code::PROTOCOL_ERROR);
    resets("§8.1.1: less", &[announced(0), data(1, END_STREAM, b"hell")], 1, Code::PROTOCOL_ERROR);
    resets("§8.1.1: more", &[announced(0), data(1, 0, b"hello!")], 1, Code::PROTOCOL_ERROR);
    let trailers = |flags, block: &[u8]| frame(kind::HEADERS, END_HEADERS | flags, 1, block);
    is_fine("§8.1", &[announced(0), data(1, 0, b"hello"), trailers(END_STREAM, b"\0\x01a\x01b")]);
    resets(
        "§8.1: trailers end a request",
        &[announced(0), data(1, 0, b"hello"), trailers(0, b"")],
        1,
        Code::PROTOCOL_ERROR,
    );
    // An upstream reads the length that the client has announced, wherever what has come so far ends.
    for frames in [data(1, END_STREAM, b"hello"), data(1, PADDED | END_STREAM, b"\x03hello\0\0\0"), data(1, 0, b"hel")]
    {
        for cut in 0..=frames.len() {
            let found = read(&[&begin(), &announced(0), &frames[..cut]], 4096, 4);
            assert_eq!((found.code, found.lengths), (None, vec![(1, Some(5))]), "{cut} bytes of {frames:?}");
        }
    }
    let padded = data(1, PADDED | END_STREAM, b"\x03hello\0\0\0");
    assert_eq!(
        read(&[&begin(), &announced(0), &padded[..12], &padded[12..]], 4096, 4).bodies,
        [(1, b"hello".to_vec())]
    );
}

#[test]
fn trailers_have_no_pseudo_header_fields() {
    let plain = frames::field(b"a", b"b");
    for (name, value) in
        [(":method", "GET"), (":scheme", "http"), (":authority", "h"), (":path", "/"), (":status", "200")]
    {
        let pseudo = frames::field(name.as_bytes(), value.as_bytes());
        for block in [pseudo.clone(), [&pseudo[..], &plain[..]].concat(), [&plain[..], &pseudo[..]].concat()] {
            let trailers = frame(kind::HEADERS, WHOLE, 1, &block);
            let sent = [post(1), data(1, 0, b"hello"), trailers];
            resets(&format!("§8.1: {name} in trailers"), &sent, 1, Code::PROTOCOL_ERROR);
        }
    }
}

#[test]
fn what_costs_nothing_has_its_number() {
    let many = |number: u32, each: fn(u32) -> Vec<u8>| (0..number).map(each).collect::<Vec<_>>();
    let given_up = |n| [get(2 * n + 1), cancel(2 * n + 1)].concat();
    assert_eq!(outcome(&many(20, given_up)).0, None);
    ends_the_connection("requests that are given up at once", &many(21, given_up), Code::ENHANCE_YOUR_CALM);
    let broken = |n| [get(2 * n + 1), window(2 * n + 1, 0)].concat();
    assert_eq!(outcome(&many(20, broken)).1.len(), 20);
    ends_the_connection("streams that have to be reset", &many(21, broken), Code::ENHANCE_YOUR_CALM);
    let empty = |_| data(1, 0, b"");
    is_fine("data without data", &[&[post(1)], &many(100, empty)[..]].concat());
    ends_the_connection("data without data", &[&[post(1)], &many(101, empty)[..]].concat(), Code::ENHANCE_YOUR_CALM);
    let rest = |_| frame(kind::CONTINUATION, 0, 1, b"");
    let endless = [&[frame(kind::HEADERS, 0, 1, b"")], &many(5, rest)[..]].concat();
    ends_the_connection("a head without an end", &endless, Code::ENHANCE_YOUR_CALM);
}

#[test]
fn who_asks_for_a_head_gets_no_body_even_if_it_is_refused() {
    let asks = |method, more: &[u8]| {
        let block = [request(method, "/", "h"), frames::field(b"x", more)].concat();
        let found = read(&[&begin(), &frame(kind::HEADERS, WHOLE, 1, &block)], 4096, 4);
        (found.requests[0].1.as_ref().err().map(|status| status.as_u16()), found.to_head)
    };
    let huge = [b'x'; 5000];
    assert_eq!(asks("HEAD", b""), (None, vec![1]));
    assert_eq!(asks("HEAD", &huge), (Some(431), vec![1]));
    assert_eq!(asks("GET", &huge), (Some(431), vec![]));
}

#[test]
fn heads_have_their_size() {
    let large = |bytes: usize| {
        let value = vec![b'x'; bytes];
        let block = [request("GET", "/", "h"), frames::field(b"x", &value)].concat();
        let found = read(&[&begin(), &frame(kind::HEADERS, WHOLE, 1, &block)], 4096, 4);
        let status =
            found.requests.first().map(|(_, head)| head.as_ref().map_or_else(|status| status.as_u16(), |_| 200));
        (status, found.code)
    };
    assert_eq!(large(3800), (Some(200), None));
    assert_eq!(large(4100), (Some(431), None));
    assert_eq!(large(16_000), (Some(431), None));
    let bomb =
        [request("GET", "/", "h"), vec![0x40, 1, b'x', 127, 0xa1, 0x1e], vec![b'y'; 4000], vec![0xbe; 4]].concat();
    ends_the_connection(
        "a table that is named again and again",
        &[frame(kind::HEADERS, WHOLE, 1, &bomb)],
        Code::ENHANCE_YOUR_CALM,
    );
}
