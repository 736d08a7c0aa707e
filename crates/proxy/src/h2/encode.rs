//! Lays out the heads and trailers of answers, straight into what is sent.

use super::frame::{HEAD, LONGEST, flag, kind, put_head};
use super::hpack::static_table::{CONTENT_LENGTH, DATE, index_of};
use crate::fields::{is_forbidden, put_number, put_text};
use crate::h1::server::with_date;
use crate::h1::{self, Received};
use http::{HeaderMap, StatusCode, header};

/// The longest name that is looked for in the table, in bytes.
const LONGEST_NAME: usize = 64;

/// The head of an answer.
pub(crate) struct AnswerHead<'a> {
    pub(crate) status: StatusCode,
    pub(crate) fields: &'a HeaderMap,
    /// Further ones, as an upstream has sent them over HTTP/1.
    pub(crate) received: Option<&'a Received>,
    /// What the length of the body is told by.
    pub(crate) length: Length,
}

/// What an answer says of the length of its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Length {
    /// What its fields say: it concerns another answer, as to HEAD, or 304.
    AsSaid,
    /// Nothing, whatever its fields say.
    Unsaid,
    Bytes(u64),
}

/// Puts a head. `forget`: the client is told first that no table is used.
pub(crate) fn put_answer(out: &mut Vec<u8>, stream: u32, head: &AnswerHead<'_>, last: bool, forget: bool) {
    put_block(out, stream, last, |out| {
        if forget {
            out.push(0x20);
        }
        put_status(out, head.status);
        let mut dated = false;
        for (name, value) in head.fields {
            if *name == header::CONTENT_LENGTH && head.length != Length::AsSaid {
                continue;
            }
            dated |= *name == header::DATE;
            put_field(out, name.as_str().as_bytes(), value.as_bytes());
        }
        if let Some(received) = head.received {
            dated |= received.is_dated();
            received.each(|name, value| put_as_received(out, name, value));
        }
        if let Length::Bytes(bytes) = head.length {
            put_length(out, bytes);
        }
        if !dated && !head.status.is_informational() {
            with_date(|date| put_named(out, DATE, date.as_bytes()));
        }
    });
}

/// Puts trailers, with which the answer ends.
pub(crate) fn put_trailers(out: &mut Vec<u8>, stream: u32, fields: &HeaderMap, forget: bool) {
    put_block(out, stream, true, |out| {
        if forget {
            out.push(0x20);
        }
        fields.iter().for_each(|(name, value)| put_field(out, name.as_str().as_bytes(), value.as_bytes()));
    });
}

/// Puts a block of fields in as many frames as it takes.
fn put_block(out: &mut Vec<u8>, stream: u32, last: bool, lay_out: impl FnOnce(&mut Vec<u8>)) {
    let end_stream = if last { flag::END_STREAM } else { 0 };
    let begin = out.len();
    put_head(out, 0, kind::HEADERS, end_stream | flag::END_HEADERS, stream);
    lay_out(out);
    let length = out.len() - begin - HEAD;
    if length <= LONGEST {
        out[begin..begin + 3].copy_from_slice(&(length as u32).to_be_bytes()[1..]);
        return;
    }
    let block = out.split_off(begin + HEAD);
    out.truncate(begin);
    let pieces = block.len().div_ceil(LONGEST);
    for (place, piece) in block.chunks(LONGEST).enumerate() {
        let (kind, first) = if place == 0 { (kind::HEADERS, end_stream) } else { (kind::CONTINUATION, 0) };
        let end = if place + 1 == pieces { flag::END_HEADERS } else { 0 };
        put_head(out, piece.len(), kind, first | end, stream);
        out.extend_from_slice(piece);
    }
}

fn put_status(out: &mut Vec<u8>, status: StatusCode) {
    match status.as_u16() {
        200 => out.push(0x88),
        204 => out.push(0x89),
        206 => out.push(0x8a),
        304 => out.push(0x8b),
        400 => out.push(0x8c),
        404 => out.push(0x8d),
        500 => out.push(0x8e),
        _ => put_named(out, 8, status.as_str().as_bytes()),
    }
}

/// Puts a field whose name is in small letters, unless it has no place in an answer (RFC 9113 §8.2.2); a plugin may have set it.
fn put_field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    match index_of(name) {
        0 if is_forbidden(name) => {}
        0 => {
            out.push(0);
            put_text(out, 0, 7, name);
            put_text(out, 0, 7, value);
        }
        index => put_named(out, index, value),
    }
}

/// Puts a field that is not to be kept in the table, with the index of its name (RFC 7541 §6.2.2).
fn put_named(out: &mut Vec<u8>, index: usize, value: &[u8]) {
    put_number(out, 0, 4, index);
    put_text(out, 0, 7, value);
}

fn put_length(out: &mut Vec<u8>, bytes: u64) {
    put_number(out, 0, 4, CONTENT_LENGTH);
    let place = out.len();
    out.push(0);
    h1::put_number(out, bytes);
    // 20 digits at most.
    out[place] = (out.len() - place - 1) as u8;
}

/// Puts a field whose name is in letters of any size.
fn put_as_received(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    let mut small = [0; LONGEST_NAME];
    match small.get_mut(..name.len()) {
        Some(small) => {
            small.copy_from_slice(name);
            small.make_ascii_lowercase();
            put_field(out, small, value);
        }
        None => put_field(out, &name.to_ascii_lowercase(), value),
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::FrameHead;
    use super::super::hpack::Decoder;
    use super::*;
    use crate::fields::Line;
    use bytes::BytesMut;
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;
    use std::ops::ControlFlow;

    /// The fields of the block that begins `out`, and what its frames are.
    fn read(mut out: &[u8]) -> (Vec<(String, String)>, Vec<FrameHead>) {
        let (mut block, mut heads, mut fields) = (Vec::new(), Vec::new(), Vec::new());
        while let Some(head) = FrameHead::read(out) {
            block.extend_from_slice(&out[HEAD..HEAD + head.length]);
            out = &out[HEAD + head.length..];
            heads.push(head);
        }
        assert!(out.is_empty());
        let status = block.iter().take_while(|byte| **byte == 0x20).count();
        // The reader is one of requests, and knows no status.
        let behind = status + if block[status] & 0x80 == 0 { 5 } else { 1 };
        let taken = Decoder::default().decode(&block[behind..], &mut BytesMut::new(), |line, _| {
            let Line::Field(name, value) = line else { panic!("{line:?}") };
            fields.push((name.to_string(), value.to_str().unwrap().to_owned()));
            ControlFlow::Continue(())
        });
        assert_eq!(taken, Ok(()));
        (fields, heads)
    }

    #[test]
    fn what_ends_at_a_hop_is_left_out_and_the_length_is_said_once() {
        let mut fields = HeaderMap::new();
        for (name, value) in [("connection", "close"), ("content-length", "7"), ("x-a", "1"), ("date", "d")] {
            fields.insert(name, HeaderValue::from_static(value));
        }
        let put = |fields: &HeaderMap, status, length| {
            let mut out = Vec::new();
            let status = StatusCode::from_u16(status).unwrap();
            put_answer(&mut out, 1, &AnswerHead { status, fields, received: None, length }, true, true);
            let (mut fields, heads) = read(&out);
            assert_eq!((heads[0].flags, heads[0].stream), (flag::END_STREAM | flag::END_HEADERS, 1));
            fields.sort();
            fields.into_iter().map(|(name, value)| format!("{name}: {value}")).collect::<Vec<_>>()
        };
        assert_eq!(put(&fields, 304, Length::AsSaid), ["content-length: 7", "date: d", "x-a: 1"]);
        assert_eq!(put(&fields, 503, Length::Bytes(70)), ["content-length: 70", "date: d", "x-a: 1"]);
        assert_eq!(put(&fields, 200, Length::Unsaid), ["date: d", "x-a: 1"]);
        fields.remove("date");
        let mut out = Vec::new();
        put_answer(
            &mut out,
            1,
            &AnswerHead { status: StatusCode::OK, fields: &fields, received: None, length: Length::Unsaid },
            false,
            false,
        );
        assert!(read(&out).0.iter().any(|(name, _)| name == "date"));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            fields in prop::collection::vec(("[a-z][a-z0-9-]{0,80}|content-type|vary|server", "[!-~]{0,3000}"), 0..20),
        ) {
            let mut map = HeaderMap::new();
            for (name, value) in &fields {
                map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
            }
            map.insert(header::DATE, HeaderValue::from_static("d"));
            let mut out = Vec::new();
            let head = AnswerHead { status: StatusCode::OK, fields: &map, received: None, length: Length::AsSaid };
            put_answer(&mut out, 7, &head, false, false);
            let (found, heads) = read(&out);
            let written = map.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()));
            prop_assert!(found.into_iter().eq(written.filter(|(name, _)| !is_forbidden(name.as_bytes()))));
            let (last, others) = heads.split_last().unwrap();
            prop_assert!(last.has(flag::END_HEADERS) && others.iter().all(|head| !head.has(flag::END_HEADERS)));
            prop_assert!(heads.iter().all(|head| head.length <= LONGEST && head.stream == 7));
        }
    }
}
