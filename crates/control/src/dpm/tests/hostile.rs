//! Clients that mean harm, or are broken.

use std::time::Duration;

use bytes::Bytes;
use milecastle_pki::transport::connect;
use milecastle_settings::{Size, Time};
use milecastle_store::DEFAULT_GROUP;
use milecastle_testkit::eventually;
use milecastle_testkit::node::{Held, raw};
use milecastle_wire::pb;
use pb::config_client::ConfigClient;
use pb::node_message::Message;
use tonic::Code;

use super::{Replica, put};

#[tokio::test]
async fn garbage_ends_its_own_stream_only() {
    let replica = Replica::sqlite().await;
    let mut good = replica.settled(&replica.member("good").await).await;
    let member = replica.member("bad").await;
    let garbage = Bytes::from_static(&[0xff; 64]);
    let hello = raw::hello(DEFAULT_GROUP, member.id());
    for (messages, codes) in [
        (vec![garbage.clone()], &[Code::Internal][..]),
        (vec![Bytes::new()], &[Code::InvalidArgument]),
        (vec![hello.clone(), garbage], &[Code::Internal]),
        (vec![hello.clone(), hello.clone()], &[Code::InvalidArgument]),
    ] {
        let status = raw::send(replica.address(), &member, messages).await;
        assert!(codes.contains(&status.code()), "{status:?}");
    }
    eventually("the bad streams are gone", async || replica.manager.streams() == 1).await;
    let revision = replica.publish(vec![put("a", "")]).await;
    good.reach(revision).await;
}

#[tokio::test]
async fn messages_over_the_limit_are_not_read() {
    let replica = Replica::sqlite().await;
    let member = replica.member("n1").await;
    let mut stream = replica.settled(&member).await;
    let alarms = vec!["x".repeat(2 << 20)];
    stream.say(Message::Report(pb::Report { alarms, ..pb::Report::default() })).await;
    assert_eq!(stream.end().await.unwrap_err().code(), Code::OutOfRange);
    eventually("its stream is gone", async || replica.manager.streams() == 0).await;
}

#[tokio::test]
async fn a_first_message_that_is_not_hello_opens_nothing() {
    let replica = Replica::sqlite().await;
    let member = replica.member("n1").await;
    let mut client = ConfigClient::new(member.channel(replica.address()).await.unwrap());
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
    let one = replica.join(&token, "n1").await.unwrap();
    let two = replica.join(&token, "n2").await.unwrap();
    let mut first = replica.settled(&one).await;
    let _second = replica.settled(&two).await;
    let mut waits = Vec::new();
    for _ in 0..3 {
        let Err(status) = two.open(replica.address(), Held::default()).await else { panic!("beyond the rate") };
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
    let mut stream = replica.settled(&replica.member("n1").await).await;
    assert_eq!(stream.end().await.unwrap_err().code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn a_node_that_does_not_read_is_cut() {
    // Longer than a busy machine takes to unpack what it is sent, once it reads again.
    let replica = Replica::configured(|settings| settings.stream.silence = Time::secs(4)).await;
    // More than the windows of a connection hold.
    replica.publish_bulk(300, 64 << 10).await;
    let member = replica.member("n1").await;
    let stream = member.open(replica.address(), Held::default()).await.unwrap();
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
    replica.settled(&member).await;
}

#[tokio::test]
async fn a_second_stream_of_a_node_takes_the_place_of_the_first() {
    let replica = Replica::sqlite().await;
    let member = replica.member("n1").await;
    let mut first = replica.settled(&member).await;
    let mut second = replica.settled(&member).await;
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
    replica.settled(&replica.member("n1").await).await;
}

#[tokio::test]
async fn whoever_only_holds_on_makes_room_and_is_counted() {
    let replica = Replica::configured(|settings| {
        settings.limits.guests = 2;
        settings.limits.guest_place = Time::secs(0);
        settings.limits.handshake_timeout = Time::millis(500);
    })
    .await;
    let ended = async |why: &str, times: f64| {
        let line = format!("dp_connections_ended_total{{why=\"{why}\"}}");
        eventually(&format!("{times} of {line}"), async || replica.metric(&line) >= times).await;
    };
    let address = replica.manager.local_addr().to_string();
    let _silent = tokio::net::TcpStream::connect(&address).await.unwrap();
    ended("handshake_time", 1.0).await;
    let ca = crate::dpm::cluster_ca(&replica.store).await.unwrap().fingerprint();
    let config = std::sync::Arc::new(milecastle_pki::join_client_config(ca).unwrap());
    let mut guests = Vec::new();
    for _ in 0..5 {
        guests.push(connect(&address, config.clone()).await.unwrap());
    }
    ended("guest_place", 3.0).await;
    replica.settled(&replica.member("n1").await).await;
}

#[tokio::test]
async fn guests_that_are_too_many_at_once_are_refused_and_none_stays() {
    let replica = Replica::configured(|settings| {
        (settings.limits.guests, settings.limits.guest_place) = (1, Time::secs(3600));
        settings.limits.guest_life = Time::secs(2);
    })
    .await;
    let ended = |why: &str| replica.metric(&format!("dp_connections_ended_total{{why=\"{why}\"}}"));
    let ca = crate::dpm::cluster_ca(&replica.store).await.unwrap().fingerprint();
    let config = std::sync::Arc::new(milecastle_pki::join_client_config(ca).unwrap());
    let address = replica.manager.local_addr().to_string();
    let _guest = connect(&address, config.clone()).await.unwrap();
    // It may have been let in before the first one was counted.
    let mut refused = Vec::new();
    eventually("one is refused", async || {
        refused.extend(connect(&address, config.clone()).await.ok());
        ended("guest_refused") > 0.0
    })
    .await;
    eventually("the first one has to go", async || ended("guest_time") > 0.0).await;
    replica.settled(&replica.member("n1").await).await;
}

#[tokio::test]
async fn a_large_request_to_join_is_refused_and_counted() {
    let replica = Replica::configured(|settings| settings.limits.join_bytes = Size::kib(1)).await;
    let ca = crate::dpm::cluster_ca(&replica.store).await.unwrap().fingerprint();
    let token = replica.token().await.expose();
    let asked =
        pb::JoinRequest { token, csr: vec![0; 2 << 10].into(), node_id: "n1".to_owned(), ..pb::JoinRequest::default() };
    let status = milecastle_testkit::node::call_join(replica.address(), ca, asked).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
    assert!(replica.metric("dp_calls_refused_total{code=\"OutOfRange\"}") > 0.0);
    replica.settled(&replica.member("n1").await).await;
}
