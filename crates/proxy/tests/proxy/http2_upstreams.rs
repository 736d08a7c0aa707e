//! Upstreams that speak HTTP/2 (`docs/spec/upstream-balancing.md` §5, §7, §10), where they do what servers seldom do.

use crate::frames::{
    CANCEL, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, FIELD, HEADERS, NO_ERROR, OK, REFUSED_STREAM, RST_STREAM,
    obliging, upstream,
};
use crate::support::{Bed, SOON, Scripted, object, route_to};
use milecastle_model::{Kind, Object};
use milecastle_settings::{Gateway as Settings, Time};
use milecastle_testkit::{Call, Target, frames as h2_frames, wait_for_blocking};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};

/// `:status: 103`, a literal whose name is the table's.
const HINTS: &[u8] = &[8, 3, b'1', b'0', b'3'];

pub(crate) fn grpc(nodes: &[&Scripted], more: Value) -> Vec<Object> {
    let nodes: Vec<SocketAddr> = nodes.iter().map(|node| node.addr).collect();
    let mut upstream = json!({ "scheme": "grpc" });
    upstream.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    route_to(&nodes, json!({ "upstream": upstream }))
}

fn post(bed: &Bed) -> u16 {
    bed.call(Call::post("/x", "abc")).status
}

/// Sends so many requests, each on a connection of its own, at once; their statuses.
fn at_once(bed: &Bed, count: usize) -> Vec<u16> {
    let calls: Vec<_> = (0..count).map(|_| bed.spawn(Call::get("/x").to(bed.http))).collect();
    calls.into_iter().map(|call| bed.run(call).unwrap().unwrap().status).collect()
}

#[test]
fn requests_share_a_connection() {
    let node = obliging();
    let bed = Bed::new(grpc(&[&node], json!({})));
    assert_eq!(at_once(&bed, 50), [200; 50]);
    assert_eq!(post(&bed), 200);
    assert_eq!(node.connections.load(Ordering::SeqCst), 1);
    assert_eq!(bed.totals().pool_hits, 50);
}

/// RFC 9113 §8.7: what was refused was not looked at, so that even POST goes to the next node, with its body.
#[test]
fn a_refused_stream_goes_to_the_next_node_whatever_its_method() {
    let refusing = upstream(&[], |frames, _| {
        while let Some(stream) = frames.request() {
            frames.reset(stream, REFUSED_STREAM);
        }
    });
    let (seen, bodies) = mpsc::channel();
    let taking = upstream(&[], move |frames, _| {
        while let Some(frame) = frames.next() {
            if frame.kind == DATA {
                seen.send(frame.payload.clone()).unwrap();
            }
            if frame.ends_stream() {
                frames.answer(frame.stream);
            }
        }
    });
    let bed = Bed::new(grpc(&[&refusing, &taking], json!({})));
    assert_eq!([post(&bed), post(&bed)], [200, 200]);
    assert!(bed.lines(2).iter().any(|line| line.attempts == [502, 200]));
    // A body that says no length is kept while it passes.
    for _ in 0..2 {
        let answered = bed.run(async {
            let (answer, mut body) = post_stream(&bed).await;
            body.send_data("abc".into(), true).unwrap();
            answer.await.unwrap().status()
        });
        assert_eq!(answered, http::StatusCode::OK);
    }
    for _ in 0..4 {
        assert_eq!(bodies.recv_timeout(SOON).unwrap(), b"abc");
    }
    // What is too large to be kept is not sent twice.
    let little = |settings: &mut Settings| settings.limits.retry_body = milecastle_settings::Size::kib(0);
    let bed = Bed::with(grpc(&[&refusing, &taking], json!({})), little);
    let mut statuses = [post(&bed), post(&bed)];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 502]);
    // One that refuses for ever is asked a few times within a try on kept connections, and no more.
    let bed = Bed::new(grpc(&[&refusing], json!({})));
    assert_eq!([post(&bed), post(&bed)], [502, 502]);
    assert!(bed.totals().pool_stale <= 3, "{}", bed.totals().pool_stale);
}

/// An upstream that tells the heads of its requests.
fn witness() -> (Scripted, mpsc::Receiver<http::request::Parts>) {
    let (seen, heads) = mpsc::channel();
    let node = Scripted::new(move |stream, _| {
        stream.set_nonblocking(true).unwrap();
        let stream = stream.try_clone().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let stream = tokio::net::TcpStream::from_std(stream).unwrap();
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((request, mut answer))) = connection.accept().await {
                seen.send(request.into_parts().0).unwrap();
                answer.send_response(http::Response::new(()), true).unwrap();
            }
        });
    });
    (node, heads)
}

/// §8.1, §10.2.
#[test]
fn the_authority_follows_pass_host_and_grpc_is_said() {
    let (node, heads) = witness();
    let own = node.addr.to_string();
    let rewrite = json!({ "pass_host": "rewrite", "upstream_host": "inner.test" });
    for (mode, authority) in
        [(json!({}), "a.test:81"), (json!({ "pass_host": "node" }), own.as_str()), (rewrite, "inner.test")]
    {
        let bed = Bed::new(grpc(&[&node], mode));
        let call = Call::post("/p?q=1", "abc").header("host", "a.test:81").header("te", "gzip");
        assert_eq!(bed.call(call.header("content-type", "application/grpc+proto")).status, 200);
        let head = heads.recv_timeout(SOON).unwrap();
        assert_eq!(head.uri, format!("http://{authority}/p?q=1").parse::<http::Uri>().unwrap());
        let said = |name: &str| head.headers.get_all(name).iter().map(|v| v.to_str().unwrap()).collect::<Vec<_>>();
        assert_eq!([said("content-type"), said("te")], [["application/grpc"], ["trailers"]]);
        assert_eq!([said("host"), said("x-real-ip"), said("x-forwarded-for")], [const { Vec::<&str>::new() }; 3]);
        assert_eq!([said("x-forwarded-proto"), said("x-forwarded-host")], [["http"], ["a.test:81"]]);
        assert_eq!([said("x-forwarded-port"), said("content-length")], [["81"], ["3"]]);
    }
}

/// A connection that ends is replaced, and a request that it did not look at is sent anew without this being a try.
#[test]
fn a_request_behind_goaway_is_sent_on_another_connection() {
    let node = upstream(&[], |frames, number| {
        while let Some(stream) = frames.request() {
            if number == 0 && stream > 1 {
                return frames.go_away(1, NO_ERROR);
            }
            frames.answer(stream);
        }
    });
    let bed = Bed::new(grpc(&[&node], json!({})));
    assert_eq!([post(&bed), post(&bed), post(&bed)], [200, 200, 200]);
    assert_eq!(node.connections.load(Ordering::SeqCst), 2);
    assert!(bed.lines(3).iter().all(|line| line.attempts == [200]));
    assert_eq!(bed.totals().pool_stale, 1);
}

/// The streams that GOAWAY lets live are served to their end, and no further one is opened.
#[test]
fn goaway_lets_streams_end() {
    let node = upstream(&[], |frames, number| {
        let Some(stream) = frames.request() else { return };
        if number == 0 {
            frames.go_away(stream, ENHANCE_YOUR_CALM);
        }
        frames.answer(stream);
        // What came behind GOAWAY would get no answer.
        while frames.request().is_some() {}
    });
    let bed = Bed::new(grpc(&[&node], json!({})));
    assert_eq!([post(&bed), post(&bed)], [200, 200]);
    assert_eq!(node.connections.load(Ordering::SeqCst), 2);
}

/// §5.3: a request that may have been acted on is sent again only if its method allows.
#[test]
fn a_broken_connection_is_retried_by_method() {
    let breaking = upstream(&[], |frames, _| while frames.next().is_some_and(|frame| !frame.ends_stream()) {});
    let taking = obliging();
    for (call, expected) in [(Call::get("/x"), vec![502, 200]), (Call::post("/x", "abc"), vec![502])] {
        let bed = Bed::new(grpc(&[&breaking, &taking], json!({})));
        // Turns begin anywhere: of two requests one begins with the node that breaks.
        bed.call(call.clone());
        bed.call(call);
        assert!(bed.lines(2).iter().any(|line| line.attempts == expected), "{:?}", bed.lines(2));
    }
}

/// §5.4: an answer that is none is no reason for another try.
#[test]
fn malformed_answers_are_not_retried() {
    let taking = obliging();
    let endless: Vec<u8> = [OK, &FIELD.repeat(300)].concat();
    for head in [vec![0xff; 4], FIELD.to_vec(), endless] {
        let bad = upstream(&[], move |frames, _| {
            while let Some(stream) = frames.request() {
                frames.send(HEADERS, END_HEADERS | END_STREAM, stream, &head);
            }
        });
        let bed = Bed::new(grpc(&[&bad, &taking], json!({})));
        let mut statuses = [bed.get("/x").status, bed.get("/x").status];
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 502]);
        assert!(bed.lines(2).iter().all(|line| line.attempts.len() == 1), "{:?}", bed.lines(2));
    }
}

const MAX_CONCURRENT_STREAMS: u16 = 3;

/// An upstream that allows one stream at a time and holds each request until it is told to go on.
fn one_at_a_time() -> (Scripted, mpsc::Sender<()>, Arc<AtomicUsize>) {
    let (go_on, gate) = mpsc::channel::<()>();
    let (gate, waiting) = (Mutex::new(gate), Arc::new(AtomicUsize::new(0)));
    let count = waiting.clone();
    let node = upstream(&[(MAX_CONCURRENT_STREAMS, 1)], move |frames, _| {
        while let Some(stream) = frames.request() {
            count.fetch_add(1, Ordering::SeqCst);
            if gate.lock().unwrap().recv().is_ok() {
                frames.answer(stream);
            }
        }
    });
    (node, go_on, waiting)
}

#[test]
fn the_upstream_says_how_many_streams_there_are() {
    let (node, go_on, waiting) = one_at_a_time();
    let bed = Bed::new(grpc(&[&node], json!({})));
    let calls = [(); 3].map(|()| bed.spawn(Call::get("/x").to(bed.http)));
    wait_for_blocking("three requests", SOON, || (waiting.load(Ordering::SeqCst) == 3).then_some(()));
    assert_eq!(node.connections.load(Ordering::SeqCst), 3);
    (0..3).for_each(|_| go_on.send(()).unwrap());
    for call in calls {
        assert_eq!(bed.run(call).unwrap().unwrap().status, 200);
    }
}

#[test]
fn beyond_the_cap_of_connections_requests_wait_for_room() {
    let (node, go_on, waiting) = one_at_a_time();
    let one = |settings: &mut Settings| settings.limits.upstream_http2_connections = 1;
    let bed = Bed::with(grpc(&[&node], json!({})), one);
    let calls = [(); 3].map(|()| bed.spawn(Call::get("/x").to(bed.http)));
    for served in 1..=3 {
        wait_for_blocking("the next request", SOON, || (waiting.load(Ordering::SeqCst) == served).then_some(()));
        go_on.send(()).unwrap();
    }
    for call in calls {
        assert_eq!(bed.run(call).unwrap().unwrap().status, 200);
    }
    assert_eq!(node.connections.load(Ordering::SeqCst), 1);
    // For as long as connecting may take.
    let patience = json!({ "timeout": { "connect": 0.2, "send": 60, "read": 60 } });
    let bed = Bed::with(grpc(&[&node], patience), one);
    let first = bed.spawn(Call::get("/x").to(bed.http));
    wait_for_blocking("the fourth request", SOON, || (waiting.load(Ordering::SeqCst) == 4).then_some(()));
    assert_eq!(bed.get("/x").status, 504);
    assert_eq!(bed.totals().http2_no_room, 1);
    go_on.send(()).unwrap();
    assert_eq!(bed.run(first).unwrap().unwrap().status, 200);
}

/// §7: `requests` and `idle_timeout` of `keepalive_pool`.
#[test]
fn connections_are_kept_as_the_upstream_says() {
    let (ended, ends) = mpsc::channel();
    let node = upstream(&[], move |frames, number| {
        while let Some(stream) = frames.request() {
            frames.answer(stream);
        }
        ended.send(number).unwrap();
    });
    let bed = Bed::new(grpc(&[&node], json!({ "keepalive_pool": { "requests": 2 } })));
    for _ in 0..4 {
        assert_eq!(post(&bed), 200);
    }
    assert_eq!(node.connections.load(Ordering::SeqCst), 2);
    assert_eq!([ends.recv_timeout(SOON).unwrap(), ends.recv_timeout(SOON).unwrap()], [0, 1], "after their last");
    let bed = Bed::new(grpc(&[&node], json!({ "keepalive_pool": { "idle_timeout": 0.2 } })));
    assert_eq!(post(&bed), 200);
    assert_eq!(ends.recv_timeout(SOON).unwrap(), 2, "once it has rested");
}

#[test]
fn an_upstream_without_a_sign_of_life_is_given_up() {
    let node = upstream(&[], |frames, _| {
        frames.alive = false;
        while frames.next().is_some() {}
    });
    let often = |settings: &mut Settings| settings.timeouts.upstream_http2_ping = Time::millis(100);
    let bed = Bed::with(grpc(&[&node], json!({})), often);
    assert_eq!(post(&bed), 502);
    // One that answers may take its time.
    let slow = upstream(&[], |frames, _| {
        while let Some(stream) = frames.request() {
            frames.pings(3);
            frames.answer(stream);
        }
    });
    let bed = Bed::with(grpc(&[&slow], json!({})), often);
    assert_eq!(post(&bed), 200);
}

/// A gateway as clients of HTTP/2 reach it.
fn http2(bed: &Bed) -> Target {
    Target::plain(bed.http).http2()
}

/// A request on a connection of its own whose body is still to be sent.
async fn post_stream(bed: &Bed) -> (h2::client::ResponseFuture, h2::SendStream<bytes::Bytes>) {
    send_stream(bed, http::Request::post("http://a.test/x").body(()).unwrap()).await
}

/// The same with another head.
pub(crate) async fn send_stream(
    bed: &Bed,
    head: http::Request<()>,
) -> (h2::client::ResponseFuture, h2::SendStream<bytes::Bytes>) {
    let stream = tokio::net::TcpStream::connect(bed.http).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(async move { drop(connection.await) });
    client.ready().await.unwrap().send_request(head, false).unwrap()
}

#[test]
fn a_reset_reaches_the_client_with_its_reason() {
    let node = upstream(&[], |frames, _| {
        while let Some(stream) = frames.request() {
            frames.send(HEADERS, END_HEADERS, stream, OK);
            frames.send(DATA, 0, stream, b"half");
            frames.reset(stream, ENHANCE_YOUR_CALM);
        }
    });
    let bed = Bed::new(grpc(&[&node], json!({})));
    let error = bed.run(async { Call::get("/x").send(&mut http2(&bed).connect().await.unwrap()).await.unwrap_err() });
    let reason = error.chain().find_map(|cause| cause.downcast_ref::<h2::Error>()?.reason());
    assert_eq!(reason, Some(h2::Reason::ENHANCE_YOUR_CALM), "{error:?}");
}

#[test]
fn a_client_that_leaves_ends_the_stream() {
    let (seen, reset) = mpsc::channel();
    let node = upstream(&[], move |frames, _| {
        let stream = frames.request().unwrap();
        frames.send(HEADERS, END_HEADERS, stream, OK);
        seen.send(None).unwrap();
        seen.send(frames.next()).unwrap();
    });
    let bed = Bed::new(grpc(&[&node], json!({})));
    let call = bed.spawn(Call::get("/x").to(bed.http));
    assert_eq!(reset.recv_timeout(SOON).unwrap(), None);
    call.abort();
    let frame = reset.recv_timeout(SOON).unwrap().unwrap();
    assert_eq!((frame.kind, frame.payload), (RST_STREAM, CANCEL.to_be_bytes().to_vec()));
    assert!(bed.lines(1)[0].client_gone);
}

/// An answer that is whole before the request is ends both.
#[test]
fn an_early_answer_ends_the_request() {
    let (seen, resets) = mpsc::channel();
    let node = upstream(&[], move |frames, _| {
        while let Some(frame) = frames.next() {
            match frame.kind {
                HEADERS => frames.answer(frame.stream),
                RST_STREAM => seen.send(()).unwrap(),
                _ => {}
            }
        }
    });
    let bed = Bed::new(grpc(&[&node], json!({})));
    let endless = bed.run(async {
        let (answer, mut body) = post_stream(&bed).await;
        body.send_data("first".into(), false).unwrap();
        let answer = answer.await.unwrap();
        (answer.status(), answer.into_body().is_end_stream())
    });
    assert_eq!(endless, (http::StatusCode::OK, true));
    resets.recv_timeout(SOON).unwrap();
    assert!(!bed.lines(1)[0].client_gone);
}

/// A client that reads nothing holds up its own stream alone.
#[test]
fn a_client_that_does_not_read_holds_up_nobody() {
    let node = upstream(&[], |frames, _| {
        while let Some(frame) = frames.next() {
            if frame.kind == HEADERS {
                frames.send(HEADERS, END_HEADERS, frame.stream, OK);
                // All that the stream's window has room for.
                (0..16).for_each(|_| frames.send(DATA, 0, frame.stream, &[0; 16 * 1024]));
                if frame.stream > 1 {
                    frames.send(DATA, END_STREAM, frame.stream, b"");
                }
            }
        }
    });
    let bed = Bed::new(grpc(&[&node], json!({})));
    bed.run(async {
        let (answer, mut body) = post_stream(&bed).await;
        body.send_data("".into(), true).unwrap();
        let _unread = answer.await.unwrap();
        for _ in 0..20 {
            let answer = Call::get("/x").to(bed.http).await.unwrap();
            assert_eq!((answer.status, answer.body.len()), (200, 256 * 1024));
        }
    });
    assert_eq!(node.connections.load(Ordering::SeqCst), 1);
}

/// Body filters see the end before the trailers, and what they put there goes first.
#[test]
fn filters_see_the_end_of_a_body_with_trailers() {
    let node = upstream(&[], |frames, _| {
        while let Some(stream) = frames.request() {
            frames.send(HEADERS, END_HEADERS, stream, OK);
            frames.send(DATA, 0, stream, b"ab");
            frames.send(HEADERS, END_HEADERS | END_STREAM, stream, FIELD);
        }
    });
    let mut objects = grpc(&[&node], json!({}));
    objects.pop();
    let witness = json!({ "uri": "/*", "upstream_id": "u", "plugins": { "witness": { "brackets": true } } });
    objects.push(object(Kind::Route, "r", witness));
    let bed = Bed::new(objects);
    let answer = bed.run(async { Call::get("/x").send(&mut http2(&bed).connect().await.unwrap()).await.unwrap() });
    assert_eq!((&answer.body[..], &answer.trailers["a"]), (&b"[ab][]."[..], &"b".parse().unwrap()));
    let line = &bed.lines(1)[0];
    assert_eq!((line.client_gone, line.body_bytes), (false, 7));
}

#[test]
fn at_the_cap_the_connection_that_was_used_longest_ago_makes_room() {
    let nodes = [obliging(), obliging()];
    let routes = nodes.iter().zip(["a", "b"]).map(|(node, id)| {
        let upstream = json!({ "scheme": "grpc", "nodes": { node.addr.to_string(): 1 } });
        object(Kind::Route, id, json!({ "uri": format!("/{id}"), "upstream": upstream }))
    });
    let bed = Bed::with(routes.collect(), |settings| settings.upstream_pool.idle_connections = 1);
    for target in ["/a", "/b", "/b", "/b"] {
        assert_eq!(bed.get(target).status, 200);
    }
    assert_eq!(nodes.map(|node| node.connections.load(Ordering::SeqCst)), [1, 1]);
}

/// RFC 9110 §15.2: they pass, and come to no more than one head may.
#[test]
fn interim_answers_pass_within_their_limit() {
    let node = upstream(&[], |frames, _| {
        while let Some(stream) = frames.request() {
            let (count, length) = match stream {
                1 => (2, 1),
                3 => (1000, 1),
                _ => (10, 10_000),
            };
            let hints = [HINTS, &h2_frames::field(b"link", &vec![b'x'; length])].concat();
            for _ in 0..count {
                frames.send(HEADERS, END_HEADERS, stream, &hints);
            }
            frames.answer(stream);
        }
    });
    let bed = Bed::new(grpc(&[&node], json!({})));
    bed.run(async {
        let mut client = h2_frames::Frames::connect(bed.http, &[]).await.unwrap();
        let mut get = async |stream| {
            let whole = h2_frames::END_HEADERS | h2_frames::END_STREAM;
            let head = h2_frames::request("GET", "/", "h");
            client.send(h2_frames::frame(h2_frames::kind::HEADERS, whole, stream, &head)).await.unwrap();
            let mut statuses = Vec::new();
            while statuses.last().is_none_or(|status| *status == 103) {
                statuses.push(client.status(stream).await.unwrap().unwrap());
            }
            statuses
        };
        assert_eq!(get(1).await, [103, 103, 200]);
        for stream in [3, 5] {
            let endless = get(stream).await;
            assert_eq!(endless.last(), Some(&502), "{endless:?}");
        }
    });
}

/// RFC 9113 §8.6: HTTP/2 has no 101, and a client that got one would take the next answer for another protocol.
#[test]
fn switching_protocols_reaches_no_client() {
    let node = upstream(&[], |frames, _| {
        while let Some(stream) = frames.request() {
            frames.send(HEADERS, END_HEADERS, stream, &[8, 3, b'1', b'0', b'1']);
            frames.answer(stream);
        }
    });
    let bed = Bed::new(grpc(&[&node], json!({})));
    let upgrade = "Connection: Upgrade, close\r\nUpgrade: websocket\r\n";
    for asked in ["Connection: close\r\n", upgrade] {
        let answer = bed.raw(format!("GET /x HTTP/1.1\r\nHost: h\r\n{asked}\r\n"));
        assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    }
}
