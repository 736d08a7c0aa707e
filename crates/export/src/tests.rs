use crate::{
    Background, Backlog, BatchSettings, Batches, Deliver, HttpClient, HttpError, Outcome, Target, Undelivered,
    without_login,
};
use http::HeaderMap;
use milecastle_telemetry::metrics::{Counter, Handle, Options, Registry};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::Instant;

/// Hands over what it is given, and answers in its time and as told; then with success.
struct Server {
    got: UnboundedSender<(Instant, Vec<u32>)>,
    takes: Duration,
    answers: VecDeque<Result<(), Undelivered>>,
}

impl Deliver<u32> for Server {
    async fn deliver(&mut self, batch: &[u32]) -> Result<Outcome, Undelivered> {
        self.got.send((Instant::now(), batch.to_vec())).unwrap();
        if !self.takes.is_zero() {
            // The clock is paused: nobody waits for this.
            let _elapsed = tokio::time::timeout(self.takes, std::future::pending::<()>()).await;
        }
        let answer = self.answers.pop_front().unwrap_or(Ok(()));
        answer.map(|()| Outcome { sent: batch.len(), dropped: 0 })
    }
}

struct Queue {
    background: Background,
    batches: Batches<u32>,
    got: UnboundedReceiver<(Instant, Vec<u32>)>,
    sent: Handle<Counter>,
    dropped: Handle<Counter>,
}

fn settings() -> BatchSettings {
    BatchSettings {
        name: "test".into(),
        most: 3,
        inactive: Duration::from_secs(5),
        age: Duration::from_secs(7),
        retries: 0,
        retry_delay: Duration::from_secs(1),
    }
}

fn queue(settings: BatchSettings, answers: impl Into<VecDeque<Result<(), Undelivered>>>) -> Queue {
    queue_of(settings, |got| [Server { got, takes: Duration::ZERO, answers: answers.into() }])
}

/// With these exporters.
fn queue_of<const N: usize>(
    settings: BatchSettings,
    exporters: impl FnOnce(UnboundedSender<(Instant, Vec<u32>)>) -> [Server; N],
) -> Queue {
    let registry = Registry::new("", 1);
    let counter = |name| registry.counter(name, "", &[], Options::default()).unwrap().get();
    let (sent, dropped) = (counter("sent"), counter("dropped"));
    let background = Background::new(tokio::runtime::Handle::current(), crate::Plain, 1 << 10);
    let (tell, got) = unbounded_channel();
    let backlog = Backlog::new(sent.clone(), dropped.clone());
    let batches = Batches::start(&background, settings, backlog, exporters(tell));
    Queue { background, batches, got, sent, dropped }
}

fn push(queue: &Queue, entries: std::ops::Range<u32>, limit: usize) {
    for entry in entries {
        queue.batches.push(entry, limit);
    }
}

#[tokio::test(start_paused = true)]
async fn batches_are_full_or_old_enough() {
    let mut queue = queue(settings(), []);
    let began = Instant::now();
    push(&queue, 0..7, 100);
    assert_eq!(queue.got.recv().await.unwrap(), (began, vec![0, 1, 2]));
    assert_eq!(queue.got.recv().await.unwrap(), (began, vec![3, 4, 5]));
    let seconds = |seconds| began + Duration::from_secs(seconds);
    tokio::time::sleep_until(seconds(4)).await;
    queue.batches.push(7, 100);
    assert_eq!(queue.got.recv().await.unwrap(), (seconds(7), vec![6, 7]), "the oldest has its age");
    queue.batches.push(8, 100);
    assert_eq!(queue.got.recv().await.unwrap(), (seconds(12), vec![8]), "nothing came for a while");
}

#[tokio::test(start_paused = true)]
async fn the_rest_is_sent_again_and_then_dropped() {
    let fails = |delivered| Err(Undelivered { delivered, reason: "no".into() });
    let mut queue = queue(BatchSettings { retries: 2, ..settings() }, [fails(1), fails(0), fails(0)]);
    push(&queue, 0..3, 100);
    let (first, batch) = queue.got.recv().await.unwrap();
    assert_eq!(batch, [0, 1, 2]);
    assert_eq!(queue.got.recv().await.unwrap(), (first + Duration::from_secs(1), vec![1, 2]));
    assert_eq!(queue.got.recv().await.unwrap(), (first + Duration::from_secs(2), vec![1, 2]));
    queue.batches.push(9, 100);
    assert!(queue.background.end(Duration::from_secs(1)).await);
    assert_eq!(queue.got.recv().await.unwrap().1, [9]);
    assert_eq!((queue.sent.get(), queue.dropped.get()), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn what_has_no_room_is_dropped() {
    let queue = queue(settings(), []);
    push(&queue, 0..7, 5);
    assert_eq!(queue.dropped.get(), 2);
    assert!(queue.background.end(Duration::from_secs(1)).await);
    assert_eq!(queue.sent.get(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_goes_sends_what_it_holds() {
    let mut queue = queue(settings(), []);
    queue.batches.push(1, 5);
    drop(queue.batches);
    assert_eq!(queue.got.recv().await.unwrap().1, [1]);
    assert!(queue.got.recv().await.is_none(), "the exporter has ended");
}

#[tokio::test(start_paused = true)]
async fn as_many_batches_are_under_way_as_there_are_exporters() {
    let takes = Duration::from_secs(60);
    let server = |got| Server { got, takes, answers: VecDeque::new() };
    let mut queue = queue_of(settings(), |got| [server(got.clone()), server(got)]);
    let began = Instant::now();
    push(&queue, 0..7, 100);
    assert_eq!(queue.got.recv().await.unwrap(), (began, vec![0, 1, 2]));
    assert_eq!(queue.got.recv().await.unwrap(), (began, vec![3, 4, 5]));
    assert_eq!(queue.got.recv().await.unwrap(), (began + takes, vec![6]), "both have been busy");
    // The other one has nothing to do, and keeps the time.
    queue.batches.push(7, 100);
    let (later, batch) = queue.got.recv().await.unwrap();
    assert_eq!((later, batch), (began + takes + settings().inactive, vec![7]));
    drop(queue.batches);
    assert!(queue.got.recv().await.is_none(), "all exporters have ended");
    assert_eq!(queue.sent.get(), 8);
}

#[tokio::test]
async fn answers_that_are_too_long_are_counted() {
    const MOST: usize = 1 << 10;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = Target::parse(&format!("http://{}/", listener.local_addr().unwrap()), true).unwrap();
    let background = Arc::new(Background::new(tokio::runtime::Handle::current(), crate::Plain, MOST));
    let mut client = HttpClient::new(background.clone(), target);
    for (length, read, counted) in [(MOST, MOST, 0), (MOST + 1, 0, 1)] {
        let served = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut got = Vec::new();
            while !got.ends_with(b"\r\n\r\nbody") {
                assert!(stream.read_buf(&mut got).await.unwrap() > 0, "the request ends early");
            }
            let head = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
            stream.write_all(&[head.as_bytes(), &vec![b'x'; length]].concat()).await.unwrap();
        };
        let posted = client.post(HeaderMap::new(), "body".into(), Duration::from_secs(60));
        let (answer, ()) = tokio::join!(posted, served);
        let answer = answer.unwrap();
        assert_eq!((answer.status, answer.body.len(), background.long_answers()), (200, read, counted));
    }
}

#[tokio::test]
async fn interim_answers_are_passed_over_but_not_without_end() {
    const MOST: usize = 1 << 10;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = Target::parse(&format!("http://{}/", listener.local_addr().unwrap()), true).unwrap();
    let background = Arc::new(Background::new(tokio::runtime::Handle::current(), crate::Plain, MOST));
    let hint = |length: usize| format!("HTTP/1.1 103 Early Hints\r\nLink: {}\r\n\r\n", "x".repeat(length));
    for (interim, expected) in [
        ("HTTP/1.1 100 Continue\r\n\r\n".repeat(32), Some(200)),
        ("HTTP/1.1 100 Continue\r\n\r\n".repeat(33), None),
        (hint(MOST - 4), Some(200)),
        (hint(MOST), None),
    ] {
        let mut client = HttpClient::new(background.clone(), target.clone());
        let served = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut got = Vec::new();
            while !got.ends_with(b"\r\n\r\nbody") {
                assert!(stream.read_buf(&mut got).await.unwrap() > 0, "the request ends early");
            }
            let last = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
            stream.write_all(format!("{interim}{last}").as_bytes()).await.unwrap();
            stream
        };
        let posted = client.post(HeaderMap::new(), "body".into(), Duration::from_secs(60));
        let (answer, _stream) = tokio::join!(posted, served);
        match expected {
            Some(status) => assert_eq!(answer.unwrap().status, status),
            None => assert!(matches!(answer, Err(HttpError::Interim)), "{answer:?}"),
        }
    }
}

#[tokio::test]
async fn a_server_without_a_final_answer_is_left() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = Target::parse(&format!("http://{}/", listener.local_addr().unwrap()), true).unwrap();
    let background = Arc::new(Background::new(tokio::runtime::Handle::current(), crate::Plain, 1 << 10));
    let mut client = HttpClient::new(background, target);
    let flood = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        assert!(stream.read(&mut [0; 1 << 10]).await.unwrap() > 0, "the request ends early");
        while stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.is_ok() {}
    };
    let (answer, ()) = tokio::join!(client.post(HeaderMap::new(), "body".into(), Duration::from_secs(3600)), flood);
    assert!(matches!(answer, Err(HttpError::Interim)), "{answer:?}");
}

#[test]
fn a_login_in_an_address_is_sent_to_nobody_and_shown_by_no_error() {
    for (text, plain) in [
        ("http://user:hush@a.test:4318", "http://a.test:4318"),
        ("https://hush@a.test/v1", "https://a.test/v1"),
        ("http://user:hush@[::1]/?@", "http://[::1]/?@"),
    ] {
        assert_eq!(Target::parse(text, true).unwrap(), Target::parse(plain, true).unwrap(), "{text}");
        assert_eq!(without_login(text).as_deref(), Some(plain));
    }
    assert_eq!(without_login("user:hush@a.test:4318").as_deref(), Some("a.test:4318"));
    for text in ["http://a.test/@", "http://a.test?@", "a.test:4318", ""] {
        assert_eq!(without_login(text), None, "{text}");
    }
    for text in ["ftp://user:hush@a.test", "http://u:hush@a b"] {
        let error = Target::parse(text, true).unwrap_err().to_string();
        assert!(error.contains("…@a") && !error.contains("hush"), "{error}");
    }
    assert_eq!(Target::parse("http://a.test/@", true).unwrap().path, "/@");
}
