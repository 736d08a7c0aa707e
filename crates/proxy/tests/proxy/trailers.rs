//! Trailers of requests: sums of the body go on, and nothing else (`docs/compatibility.md`).

use crate::frames::{DATA, HEADERS, upstream};
use crate::http2_upstreams::{grpc, send_stream};
use crate::support::{Bed, SOON, route_to};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, header};
use milecastle_settings::Size;
use milecastle_testkit::Echo;
use milecastle_testkit::frames::{self, Frames};
use serde_json::json;
use std::sync::mpsc;

#[test]
fn sums_of_bodies_reach_upstreams_of_http1() {
    let echo = Echo::start();
    let bed = Bed::new(route_to(&[echo.address()], json!({})));
    let sums = "Digest: evil\r\nContent-Digest: evil\r\nRepr-Digest: 7\r\n";
    let others =
        "Host: h\r\nContent-Length: 3\r\nForwarded: for=h\r\nX_Real_IP: ::1\r\nAuthorization: me\r\nX-Sum: 7\r\n";
    let head = "POST / HTTP/1.1\r\nHost: h\r\nConnection: close, digest\r\nContent_Digest: 1\r\n";
    let chunks = "TRANSFER-ENCODING: chunked\r\n\r\n5\r\nhello\r\n0\r\n";
    assert!(bed.raw(format!("{head}{chunks}{others}{sums}\r\n")).starts_with("HTTP/1.1 200 "));
    // The same of HTTP/2, where the trailers come together with the end of the body.
    bed.run(async {
        let mut client = Frames::connect(bed.http, &[]).await.unwrap();
        let mut head = frames::request("POST", "/", "h");
        head.extend(frames::field(b"content_digest", b"1"));
        let mut last = frames::field(b"repr-digest", b"7");
        last.extend(frames::field(b"content-digest", b"evil"));
        last.extend(frames::field(b"authorization", b"me"));
        let request = |stream, head: &[u8]| {
            let ends = frames::END_HEADERS | frames::END_STREAM;
            let sent = [
                frames::frame(frames::kind::HEADERS, frames::END_HEADERS, stream, head),
                frames::frame(frames::kind::DATA, 0, stream, b"hello"),
                frames::frame(frames::kind::HEADERS, ends, stream, &last),
            ];
            sent.concat()
        };
        client.send(request(1, &head)).await.unwrap();
        assert_eq!(client.status(1).await.unwrap(), Ok(200));
        // With a length there is no place for them.
        head.extend(frames::field(b"content-length", b"5"));
        client.send(request(3, &head)).await.unwrap();
        assert_eq!(client.status(3).await.unwrap(), Ok(200));
    });
    let got = echo.take();
    for (seen, trailers) in got.iter().zip([1, 1, 0]) {
        assert_eq!((&seen.body[..], seen.trailers.len()), (&b"hello"[..], trailers), "{:?}", seen.trailers);
        assert!(
            seen.trailers.iter().all(|(name, value)| *name == "repr-digest" && *value == "7"),
            "{:?}",
            seen.trailers
        );
        assert_eq!(seen.header("content_digest"), ["1"]);
    }
    assert_eq!(got.len(), 3);
}

#[test]
fn sums_of_bodies_reach_upstreams_of_http2() {
    let (tell, seen) = mpsc::channel();
    let node = upstream(&[], move |frames, _| {
        let mut kinds = Vec::new();
        while let Some(frame) = frames.next() {
            // The end of a body may be an empty frame of its own.
            if frame.kind != DATA || !frame.payload.is_empty() {
                kinds.push(frame.kind);
            }
            if frame.ends_stream() {
                tell.send(std::mem::take(&mut kinds)).unwrap();
                frames.answer(frame.stream);
            }
        }
    });
    // No body is small enough to be read before it is sent.
    let bed = Bed::with(grpc(&[&node], json!({})), |settings| settings.limits.retry_body = Size::kib(0));
    for (length, name, expected) in [
        (None, "content-digest", &[HEADERS, DATA, HEADERS][..]),
        (None, "authorization", &[HEADERS, DATA]),
        (Some("5"), "content-digest", &[HEADERS, DATA]),
    ] {
        let mut head = Request::post("http://a.test/x").body(()).unwrap();
        head.headers_mut().extend(length.map(|length| (header::CONTENT_LENGTH, HeaderValue::from_static(length))));
        let trailers = HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_static("7"))]);
        let ended = bed.run(async {
            let (answer, mut body) = send_stream(&bed, head).await;
            body.send_data("hello".into(), false).unwrap();
            body.send_trailers(trailers).unwrap();
            answer.await.unwrap().status()
        });
        assert_eq!(ended, StatusCode::OK, "{length:?} {name}");
        assert_eq!(seen.recv_timeout(SOON).unwrap(), expected, "{length:?} {name}");
    }
}
