//! Those who mean harm at the port where nodes join. Whatever they do, other nodes hear of every change, and the process
//! neither ends nor swells.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use milecastle_testkit::node::{Follower, Held, Member, call_join, raw};
use milecastle_testkit::{Echo, eventually, wait_for};
use milecastle_tests::{Cluster, Gateway, Replica};
use milecastle_wire::{PROTOCOL, pb};
use pb::node_message::Message;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::Code;

/// How long a change may take on a busy machine.
const LONG: Duration = Duration::from_secs(60);

/// What a flood may cost of memory while it lasts.
const FLOOD_BYTES: u64 = 300 << 20;

/// A replica with a node that is a gateway, and one that is none, in the group `default`.
struct Bed {
    cluster: Cluster,
    control: Replica,
    token: String,
    gateway: Gateway,
    good: Follower,
    echo: Echo,
    memory: u64,
    writes: usize,
}

impl Bed {
    async fn start() -> Self {
        let cluster = Cluster::new();
        let control = cluster.control("one");
        control.ready().await;
        let token = cluster.mint(&control, "default");
        cluster.hand_out(&token);
        let gateway = cluster.gateway("g1", &[control.dp_manager]);
        gateway.ready().await;
        let good = Member::join(control.dp_manager, &token.parse().unwrap(), "good").await.unwrap();
        let good = Follower::start(good, vec![control.dp_manager], 0);
        let memory = control.process.resident_bytes();
        let mut bed = Self { cluster, control, token, gateway, good, echo: Echo::start(), memory, writes: 0 };
        bed.unharmed("in the beginning").await;
        bed
    }

    fn address(&self) -> SocketAddr {
        self.control.dp_manager
    }

    async fn member(&self, id: &str) -> Member {
        Member::join(self.address(), &self.token.parse().unwrap(), id).await.unwrap()
    }

    /// A change reaches both nodes, on the streams that they have had all along.
    async fn unharmed(&mut self, when: &str) {
        self.writes += 1;
        let uri = format!("/{}", self.writes);
        let body = json!({ "uri": uri, "upstream": { "nodes": { self.echo.address().to_string(): 1 } } });
        self.control.put(&format!("/routes/{}", self.writes), &body).await;
        let path = "/api/gateway_groups/default/revisions?limit=1";
        let head = self.control.get(path).await.json().unwrap()["list"][0]["revision"].as_u64().unwrap();
        wait_for(&format!("{when}, the good node is up to date"), LONG, async || {
            self.good.seen().is_fresh(head).then_some(())
        })
        .await;
        self.gateway.answers(&uri, 200).await;
        assert_eq!(self.good.seen().streams, 1, "{when}, its stream is the same");
        let memory = self.control.process.resident_bytes();
        eprintln!("{when}: {} MiB of memory, {} MiB in the beginning", memory >> 20, self.memory >> 20);
        assert!(memory < self.memory + FLOOD_BYTES, "{when}, {memory} bytes of memory");
        assert!(self.control.process.is_running());
    }

    async fn node(&self, id: &str) -> Value {
        self.control.get(&format!("/api/gateway_groups/default/nodes/{id}")).await.json().unwrap()
    }

    async fn end(self) {
        let Self { control, gateway, good, .. } = self;
        drop(good);
        tokio::task::spawn_blocking(move || (gateway.stop(), control.stop())).await.unwrap();
    }
}

/// A frame of HTTP/2 (RFC 9113 §4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// What a client begins with: the preface, and settings that say nothing.
fn preface() -> Vec<u8> {
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &*frame(4, 0, 0, &[])].concat()
}

/// The head of a call that opens a configuration stream.
fn opening(stream: u32) -> Vec<u8> {
    head(stream, "/milecastle.config.v1.Config/Stream")
}

/// A call to join whose message says that it has `length` bytes, and has one less.
fn unfinished_join(stream: u32, length: u32) -> Vec<u8> {
    let message = [&[0][..], &length.to_be_bytes(), &vec![0; length as usize - 1]].concat();
    let pieces = message.chunks(16_000).flat_map(|piece| frame(0, 0, stream, piece));
    head(stream, "/milecastle.config.v1.Join/Join").into_iter().chain(pieces).collect()
}

/// The head of a call, without any table (RFC 7541 §6.2.2): method and scheme by their number, the rest by name.
fn head(stream: u32, path: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    let mut head = vec![0x83, 0x87];
    for (name, value) in
        [(":path", path), (":authority", "dp-manager"), ("content-type", "application/grpc"), ("te", "trailers")]
    {
        head.push(0);
        head.extend([text(name), text(value)].concat());
    }
    frame(1, 4, stream, &head)
}

/// Sends all of it over a connection of that node, and reads until the other side ends it or says no more.
async fn frames(at: SocketAddr, member: &Member, bytes: &[u8]) {
    let mut connection = raw::connect(at, member).await;
    // Refused in the middle is as good as refused at the end.
    drop(timeout(LONG, connection.write_all(bytes)).await.expect("what is sent is read or refused"));
    drop(timeout(Duration::from_secs(2), connection.read_to_end(&mut Vec::new())).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_node_harms_nobody() {
    let mut bed = Bed::start().await;
    let (at, bad) = (bed.address(), bed.member("bad").await);
    for expected in ["holds something else than it should", "remotely-reset pending-accept streams reached limit"] {
        bed.control.process.announce(expected);
    }

    // Bytes that are no messages, and frames that are none.
    let hello = raw::hello("default", "bad");
    let garbage = Bytes::from_static(&[0xff; 64]);
    for messages in [vec![garbage.clone()], vec![Bytes::new()], vec![hello.clone(), garbage], vec![hello.clone(); 2]] {
        let status = raw::send(at, &bad, messages).await;
        assert!(matches!(status.code(), Code::Internal | Code::InvalidArgument), "{status:?}");
    }
    for bytes in [
        vec![0xff; 100_000],
        [preface(), vec![0xff; 100_000]].concat(),
        // A head that goes on and on (type 9, CONTINUATION), and a table of settings that is none.
        [preface(), frame(1, 0, 1, &[0x83]), frame(9, 0, 1, &[0; 16_000]).repeat(1000)].concat(),
        [preface(), frame(4, 0, 0, &[0; 6 * 2000])].concat(),
    ] {
        frames(at, &bad, &bytes).await;
    }
    bed.unharmed("after garbage").await;

    // A message that says it has 1 GiB is read to its head.
    let taken = raw::endless(at, &bad, &hello, 1 << 30).await;
    assert!(taken < 4 << 20, "{taken} bytes of it were taken");
    bed.unharmed("after a message of 1 GiB").await;

    // 10,000 streams at once, and 10,000 that are opened and dropped (RST_STREAM, type 3) at once.
    let odd = (0..10_000).map(|n| 2 * n + 1);
    let all: Vec<u8> = odd.clone().flat_map(opening).collect();
    frames(at, &bad, &[preface(), all].concat()).await;
    let dropped: Vec<u8> = odd.flat_map(|n| [opening(n), frame(3, 0, n, &[0, 0, 0, 8])].concat()).collect();
    frames(at, &bad, &[preface(), dropped].concat()).await;
    bed.unharmed("after 20,000 streams").await;

    // Acknowledgements of what is not there, and of something else.
    let mut liar = bad.open(at, Held::default()).await.unwrap();
    liar.reach(1).await;
    let truth = liar.applied_message();
    for lie in [
        pb::Applied { revision: 1_000_000, ..truth.clone() },
        pb::Applied { digest: vec![7; 32].into(), ..truth.clone() },
        pb::Applied { lineage: "another".to_owned(), ..truth },
    ] {
        liar.say(Message::Applied(lie)).await;
        eventually("it is not believed", async || {
            let node = bed.node("bad").await;
            node["state"] == "rejected" && node["revision"].as_u64() < Some(1000)
        })
        .await;
        // It gets what it should have, and is well when it has.
        liar.step().await;
        eventually("it is well", async || bed.node("bad").await["state"] == "healthy").await;
    }
    drop(liar);
    let ahead = pb::Have {
        lineage: bed.node("good").await["lineage"].as_str().unwrap().to_owned(),
        revision: 1 << 40,
        digest: vec![7; 32].into(),
        ..pb::Have::default()
    };
    let mut liar = bad.open_with(at, pb::Hello { have: Some(ahead), ..bad.hello() }, Held::default()).await.unwrap();
    liar.only_beats(2).await;
    let receipt = bed.control.get("/api/gateway_groups/default/revisions/head/receipt?wait=20s").await.json().unwrap();
    assert_eq!((&receipt["applied"], &receipt["rejected"], &receipt["total"]), (&json!(2), &json!(1), &json!(3)));
    drop(liar);
    bed.unharmed("after false acknowledgements").await;
    bed.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_reads_no_other_group() {
    let bed = Bed::start().await;
    let (at, bad) = (bed.address(), bed.member("bad").await);
    let made = bed.cluster.operator(&bed.control, &["group", "create", "other"]);
    assert_eq!(made.code, 0, "{}", made.text);
    let secret = json!({ "uri": "/hidden", "upstream": { "nodes": { "127.0.0.1:1": 1 } } });
    bed.control.put("/routes/hidden?gateway_group_id=other", &secret).await;
    let theirs: milecastle_testkit::node::Token = bed.cluster.mint(&bed.control, "other").parse().unwrap();
    let member = Member::join(at, &theirs, "n1").await.unwrap();
    let mut stream = member.open(at, Held::default()).await.unwrap();
    stream.reach(1).await;
    assert_eq!(stream.held.objects.len(), 1);

    // By asking for it, with what the node has: its certificate, its token, an id of theirs.
    for hello in [
        pb::Hello { group: "other".to_owned(), ..bad.hello() },
        pb::Hello { group: "other".to_owned(), node_id: "n1".to_owned(), ..bad.hello() },
        pb::Hello { node_id: "n1".to_owned(), ..bad.hello() },
    ] {
        let Err(status) = bad.open_with(at, hello, Held::default()).await else { panic!("a stream of another") };
        assert_eq!(status.code(), Code::PermissionDenied);
    }
    let forged = bed.token.replacen(".default.", ".other.", 1);
    let asked =
        pb::JoinRequest { token: forged, csr: Bytes::new(), node_id: "bad".to_owned(), ..pb::JoinRequest::default() };
    assert_eq!(call_join(at, theirs.ca(), asked).await.unwrap_err().code(), Code::Unauthenticated);
    // By saying that it stands in their history, or is in the middle of their snapshot.
    let have = stream.held.have();
    let resume =
        have.as_ref().map(|have| pb::Resume { lineage: have.lineage.clone(), revision: have.revision, next_chunk: 0 });
    for hello in [pb::Hello { have, ..bad.hello() }, pb::Hello { resume, protocols: vec![PROTOCOL], ..bad.hello() }] {
        let mut stream = bad.open_with(at, hello, Held::default()).await.unwrap();
        stream.only_beats(1).await;
        let head = stream.beat.clone().unwrap();
        if stream.held.lineage.is_none() && head.head > 0 {
            // Whatever comes is of the own group.
            drop(timeout(Duration::from_secs(2), stream.reach(head.head)).await);
        }
        assert!(!stream.held.objects.keys().any(|(_, id)| id == "hidden"));
    }
    drop(stream);
    bed.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_connections_harms_nobody() {
    let mut bed = Bed::start().await;
    let at = bed.address();
    let trusted = bed.token.parse::<milecastle_testkit::node::Token>().unwrap().ca();

    // Those that come and go, and those that speak something else.
    for _ in 0..3000 {
        drop(TcpStream::connect(at).await.unwrap());
    }
    for _ in 0..200 {
        let mut plain = TcpStream::connect(at).await.unwrap();
        plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    }
    bed.unharmed("after connections that come and go").await;

    // Those that never say anything, and those that stop in the middle of their first word: a TLS record of 512 bytes.
    let mut silent = Vec::new();
    for n in 0..3000 {
        let mut connection = TcpStream::connect(at).await.unwrap();
        if n % 2 == 0 {
            connection.write_all(&[22, 3, 1, 2, 0, 1]).await.unwrap();
        }
        silent.push(connection);
    }
    bed.unharmed("beside 3,000 handshakes that do not go on").await;
    let newcomer = bed.member("newcomer").await;
    newcomer.open(at, Held::default()).await.unwrap().reach(1).await;
    drop(silent);

    // Those that need no certificate to hold on, with as many calls as they may have, which all go on for ever.
    let mut guests = JoinSet::new();
    for n in 0..1500 {
        let length = if n % 2 == 0 { 30_000 } else { 8_000 };
        let calls: Vec<u8> = (0..8).flat_map(|n| unfinished_join(2 * n + 1, length)).collect();
        guests.spawn(async move {
            let mut guest = raw::connect_as_guest(at, trusted).await?;
            guest.write_all(&[preface(), calls].concat()).await?;
            // Until it is cut.
            guest.read_to_end(&mut Vec::new()).await
        });
    }
    bed.unharmed("beside 1,500 guests").await;
    eventually("another node can join", async || Member::join(at, &bed.token.parse().unwrap(), "late").await.is_ok())
        .await;
    drop(guests);
    bed.unharmed("in the end").await;
    bed.end().await;
}
