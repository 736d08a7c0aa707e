//! Clients that mean harm, or are broken.

use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes};
use milecastle_pki::transport::connect;
use milecastle_settings::Time;
use milecastle_store::DEFAULT_GROUP;
use milecastle_testkit::eventually;
use milecastle_wire::pb;
use pb::config_client::ConfigClient;
use pb::node_message::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Code, Status};

use super::node::Held;
use super::{Member, Replica, put};

/// Carries bytes as they are.
#[derive(Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// Sends these bytes as the first messages of a stream; how it ends.
async fn send_raw(replica: &Replica, member: &Member, messages: Vec<Bytes>) -> Status {
    let mut grpc = tonic::client::Grpc::new(member.channel(replica).await);
    grpc.ready().await.unwrap();
    // Kept open, so that the end is the server's doing.
    let (outbox, outgoing) = mpsc::channel(16);
    for message in messages {
        outbox.send(message).await.unwrap();
    }
    let path = http::uri::PathAndQuery::from_static("/milecastle.config.v1.Config/Stream");
    let request = tonic::Request::new(ReceiverStream::new(outgoing));
    let mut answers = match grpc.streaming(request, path, Raw).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => return status,
    };
    loop {
        match answers.message().await {
            Ok(Some(_)) => {}
            Ok(None) => return Status::ok("the end"),
            Err(status) => return status,
        }
    }
}

#[tokio::test]
async fn garbage_ends_its_own_stream_only() {
    let replica = Replica::sqlite().await;
    let mut good = Member::new(&replica, "good").await.settled(&replica).await;
    let member = Member::new(&replica, "bad").await;
    let garbage = Bytes::from_static(&[0xff; 64]);
    let hello = hello_bytes(member.id());
    for (messages, codes) in [
        (vec![garbage.clone()], &[Code::Internal][..]),
        (vec![Bytes::new()], &[Code::InvalidArgument]),
        (vec![hello.clone(), garbage], &[Code::Internal]),
        (vec![hello.clone(), hello.clone()], &[Code::InvalidArgument]),
    ] {
        let status = send_raw(&replica, &member, messages).await;
        assert!(codes.contains(&status.code()), "{status:?}");
    }
    eventually("the bad streams are gone", async || replica.manager.streams() == 1).await;
    let revision = replica.publish(vec![put("a", "")]).await;
    good.reach(revision).await;
}

/// `Hello` of a node of the default group, by hand: fields 1, 2 and 4 within field 1.
fn hello_bytes(node: &str) -> Bytes {
    let field = |number: u8, content: &[u8]| {
        let length = u8::try_from(content.len()).unwrap();
        assert!(length < 0x80);
        [&[number << 3 | 2, length][..], content].concat()
    };
    let hello = [field(1, node.as_bytes()), field(2, DEFAULT_GROUP.as_bytes()), field(4, &[1])].concat();
    field(1, &hello).into()
}

#[tokio::test]
async fn messages_over_the_limit_are_not_read() {
    let replica = Replica::sqlite().await;
    let member = Member::new(&replica, "n1").await;
    let mut stream = member.settled(&replica).await;
    let alarms = vec!["x".repeat(2 << 20)];
    stream.say(Message::Report(pb::Report { alarms, ..pb::Report::default() })).await;
    assert_eq!(stream.end().await.unwrap_err().code(), Code::OutOfRange);
    eventually("its stream is gone", async || replica.manager.streams() == 0).await;
}

#[tokio::test]
async fn a_first_message_that_is_not_hello_opens_nothing() {
    let replica = Replica::sqlite().await;
    let member = Member::new(&replica, "n1").await;
    let mut client = ConfigClient::new(member.channel(&replica).await);
    let report = pb::NodeMessage { message: Some(Message::Report(pb::Report::default())) };
    assert_eq!(client.stream(tokio_stream::iter([report])).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(client.stream(tokio_stream::empty()).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(replica.manager.streams(), 0);
}

#[tokio::test]
async fn streams_beyond_the_rate_are_told_when_to_come() {
    let replica = Replica::configured(|settings| {
        (settings.stream.admit_rate, settings.stream.admit_burst) = (1, 2);
    })
    .await;
    let token = replica.token().await;
    let one = Member::join(&replica, &token, "n1").await.unwrap();
    let two = Member::join(&replica, &token, "n2").await.unwrap();
    let mut first = one.settled(&replica).await;
    let _second = two.settled(&replica).await;
    let mut waits = Vec::new();
    for _ in 0..3 {
        let Err(status) = two.open(&replica, Held::default()).await else { panic!("beyond the rate") };
        assert_eq!(status.code(), Code::ResourceExhausted);
        waits.push(status.metadata().get("retry-after-ms").unwrap().to_str().unwrap().parse::<u64>().unwrap());
    }
    assert!(waits.is_sorted() && waits[0] > 0, "{waits:?}");
    first.only_beats(2).await;
    assert!((replica.metric("dp_streams_turned_away_total{reason=\"too_many\"}") - 3.0).abs() < f64::EPSILON);
}

#[tokio::test]
async fn a_node_that_says_nothing_is_let_go() {
    let replica = Replica::configured(|settings| settings.stream.silence = Time::secs(2)).await;
    let mut stream = Member::new(&replica, "n1").await.settled(&replica).await;
    assert_eq!(stream.end().await.unwrap_err().code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn a_node_that_does_not_read_is_cut() {
    // Longer than a busy machine takes to unpack what it is sent, once it reads again.
    let replica = Replica::configured(|settings| settings.stream.silence = Time::secs(4)).await;
    // More than the windows of a connection hold.
    replica.publish_bulk(300, 64 << 10).await;
    let member = Member::new(&replica, "n1").await;
    let stream = member.open(&replica, Held::default()).await.unwrap();
    // It talks, but it does not listen.
    let talking = tokio::spawn(async move {
        let mut pace = tokio::time::interval(Duration::from_millis(20));
        loop {
            pace.tick().await;
            let report = pb::NodeMessage { message: Some(Message::Report(pb::Report::default())) };
            if stream.outbox.send(report).await.is_err() {
                return;
            }
        }
    });
    // The connection itself ends, and not only what this side thinks of it.
    tokio::time::timeout(Replica::LONG, talking).await.unwrap().unwrap();
    eventually("its stream is gone", async || replica.manager.streams() == 0).await;
    member.settled(&replica).await;
}

#[tokio::test]
async fn a_second_stream_of_a_node_takes_the_place_of_the_first() {
    let replica = Replica::sqlite().await;
    let member = Member::new(&replica, "n1").await;
    let mut first = member.settled(&replica).await;
    let mut second = member.settled(&replica).await;
    assert_eq!(first.end().await.unwrap_err().code(), Code::Aborted);
    second.only_beats(3).await;
    assert_eq!(replica.manager.streams(), 1);
}

#[tokio::test]
async fn silent_connections_hold_up_nobody() {
    let replica = Replica::sqlite().await;
    let address = replica.manager.local_addr().to_string();
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(tokio::net::TcpStream::connect(&address).await.unwrap());
    }
    let ca = crate::dpm::cluster_ca(&replica.store).await.unwrap().fingerprint();
    let config = std::sync::Arc::new(milecastle_pki::join_client_config(ca).unwrap());
    let mut guests = Vec::new();
    for _ in 0..20 {
        guests.push(connect(&address, config.clone()).await.unwrap());
    }
    Member::new(&replica, "n1").await.settled(&replica).await;
}
