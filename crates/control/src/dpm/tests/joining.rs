//! Who gets a certificate, and who gets a stream with it.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use milecastle_pki::transport::connect;
use milecastle_pki::{Ca, GroupToken, KeyRequest, NodeIdentity, NodeKeys, join_client_config};
use milecastle_store::{DEFAULT_GROUP, NewGroup};
use milecastle_testkit::eventually;
use milecastle_testkit::node::{Held, call_join, facts};
use milecastle_wire::pb;
use pb::config_client::ConfigClient;
use pb::join_client::JoinClient;
use tonic::Code;

use super::replica::Home;
use super::{Member, Replica, on_both};
use crate::dpm::{cluster_ca, mint_group_token};

on_both!(
    a_good_token_gives_a_certificate,
    bad_tokens_give_none,
    revocation_ends_streams,
    by_a_clock_that_is_days_off_nobody_joins,
    what_cannot_be_signed_is_refused,
    only_the_own_group_is_read,
);

async fn a_good_token_gives_a_certificate(replica: Replica) {
    let token = replica.token().await;
    let member = replica.join(&token, "").await.unwrap();
    assert!(!member.id().is_empty());
    replica.settled(&member).await;
    let named = replica.join(&token, "edge-1").await.unwrap();
    assert_eq!(named.id(), "edge-1");
    let node = replica.store.node_get(DEFAULT_GROUP, "edge-1").await.unwrap().unwrap();
    assert_eq!((node.token.as_str(), node.host.as_str(), node.version.as_str()), (token.id(), "host-1", "1.2.3"));
    let expected = replica.metric("dp_joins_total{call=\"join\",result=\"ok\"}");
    assert!((expected - 2.0).abs() < f64::EPSILON);

    // And a certificate gives the next one.
    let request = KeyRequest::generate().unwrap();
    let csr = request.csr().to_vec().into();
    let answer = JoinClient::new(named.channel(replica.address()).await.unwrap())
        .renew(pb::RenewRequest { csr, clock_ms: 0 })
        .await
        .unwrap();
    let answer = answer.into_inner();
    let trusted = named.keys.ca_fingerprint();
    let renewed = request.accept(&answer.chain, &answer.ca, &trusted, SystemTime::now()).unwrap();
    assert_eq!(renewed.certificate().identity, named.keys.certificate().identity);
    replica.settled(&Member { keys: Arc::new(renewed) }).await;
    let after = replica.store.node_get(DEFAULT_GROUP, "edge-1").await.unwrap().unwrap();
    assert_ne!(after.certificate, node.certificate);
}

async fn bad_tokens_give_none(replica: Replica) {
    let ca = cluster_ca(&replica.store).await.unwrap().fingerprint();
    let other_cluster = Ca::generate(SystemTime::now()).unwrap().fingerprint();
    let expired = mint_group_token(replica.by(), DEFAULT_GROUP, "old", Some(1)).await.unwrap();
    let revoked = replica.token().await;
    assert!(replica.by().token_revoke(DEFAULT_GROUP, revoked.id()).await.unwrap());
    let good = replica.token().await;
    // The right secret under another group's name.
    let misnamed = good.expose().replacen(DEFAULT_GROUP, "other", 1);
    for (token, why) in [
        ("mc1.nonsense".to_owned(), "cut off"),
        (GroupToken::mint(DEFAULT_GROUP, ca).unwrap().expose(), "does not know"),
        (GroupToken::mint(DEFAULT_GROUP, other_cluster).unwrap().expose(), "another cluster"),
        (expired.expose(), "has expired"),
        (revoked.expose(), "was revoked"),
        (misnamed, "does not know"),
    ] {
        let csr = KeyRequest::generate().unwrap().csr().to_vec().into();
        let asked = pb::JoinRequest { token, csr, node_id: "n1".to_owned(), ..pb::JoinRequest::default() };
        let status = call_join(replica.address(), ca, asked).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated, "{why}");
        assert!(status.message().contains(why), "{}", status.message());
    }
    assert!(replica.store.node_list(DEFAULT_GROUP).await.unwrap().is_empty());
}

async fn by_a_clock_that_is_days_off_nobody_joins(replica: Replica) {
    let token = replica.token().await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let day = Duration::from_secs(86_400);
    let ask = |clock: Duration, node_id: &str| {
        let csr = KeyRequest::generate().unwrap().csr().to_vec();
        let message = pb::JoinRequest {
            token: token.expose(),
            csr: csr.into(),
            node_id: node_id.to_owned(),
            facts: Some(facts()),
            clock_ms: clock.as_millis().try_into().unwrap(),
        };
        call_join(replica.address(), token.ca(), message)
    };
    for (clock, told) in [(now + 10 * day, "ahead of"), (now - 10 * day, "behind")] {
        let status = ask(clock, "new").await.unwrap_err();
        let expected = format!("10 days {told} the control plane's");
        let in_time = format!("9 days {told} the control plane's");
        let words = status.message();
        assert!(words.contains(&expected) || words.contains(&in_time), "{status}");
        assert_eq!(status.code(), Code::OutOfRange);
    }
    assert_eq!(replica.store.node_get(DEFAULT_GROUP, "new").await.unwrap(), None);
    // Of a node that joined before, or could not tell, operators see what it lacks.
    ask(Duration::ZERO, "n1").await.unwrap();
    ask(now + 10 * day, "n1").await.unwrap_err();
    let alarms = async || replica.manager.nodes().get(DEFAULT_GROUP, "n1").await.unwrap().unwrap().troubles.alarms;
    let told = alarms().await;
    assert!(told.len() == 1 && told[0].contains("set the clock"), "{told:?}");
    ask(now, "n1").await.unwrap();
    replica.settled(&replica.member("n1").await).await;
    eventually("it is well", async || alarms().await.is_empty()).await;
}

async fn what_cannot_be_signed_is_refused(replica: Replica) {
    let token = replica.token().await;
    let csr = KeyRequest::generate().unwrap().csr().to_vec();
    let ask = |csr: &[u8], node_id: &str| {
        let message = pb::JoinRequest {
            token: token.expose(),
            csr: csr.to_vec().into(),
            node_id: node_id.to_owned(),
            facts: Some(facts()),
            ..pb::JoinRequest::default()
        };
        call_join(replica.address(), token.ca(), message)
    };
    assert_eq!(ask(b"noise", "n1").await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(ask(&csr, "no/name").await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(ask(&[0; 100_000], "n1").await.unwrap_err().code(), Code::OutOfRange);
    ask(&csr, "n1").await.unwrap();

    assert!(replica.by().node_revoke(DEFAULT_GROUP, "n1").await.unwrap());
    let status = ask(&csr, "n1").await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    ask(&csr, "n2").await.unwrap();
}

async fn revocation_ends_streams(replica: Replica) {
    let (token, second) = (replica.token().await, replica.token().await);
    let [one, two, three] = ["n1", "n2", "n3"].map(|id| (id, if id == "n1" { &token } else { &second }));
    let mut members = Vec::new();
    for (id, token) in [one, two, three] {
        members.push(replica.join(token, id).await.unwrap());
    }
    let mut streams = Vec::new();
    for member in &members {
        streams.push(replica.settled(member).await);
    }
    // A token takes those with it that joined with it.
    assert!(replica.by().token_revoke(DEFAULT_GROUP, token.id()).await.unwrap());
    assert_eq!(streams[0].end().await.unwrap_err().code(), Code::PermissionDenied);
    streams[1].only_beats(3).await;
    assert!(replica.by().node_revoke(DEFAULT_GROUP, "n2").await.unwrap());
    assert_eq!(streams[1].end().await.unwrap_err().code(), Code::PermissionDenied);
    assert!(replica.by().node_delete(DEFAULT_GROUP, "n3").await.unwrap());
    assert_eq!(streams[2].end().await.unwrap_err().code(), Code::PermissionDenied);
    eventually("all streams are gone", async || replica.manager.streams() == 0).await;
    for member in &members {
        let Err(refused) = member.open(replica.address(), Held::default()).await else {
            panic!("a stream for {}", member.id())
        };
        // The one that was deleted may join anew, if its token still holds.
        let deleted = member.id() == "n3";
        assert_eq!(refused.code(), if deleted { Code::Unauthenticated } else { Code::PermissionDenied });
        let csr = KeyRequest::generate().unwrap().csr().to_vec().into();
        let renewed = JoinClient::new(member.channel(replica.address()).await.unwrap())
            .renew(pb::RenewRequest { csr, clock_ms: 0 })
            .await;
        assert_eq!(renewed.unwrap_err().code(), Code::PermissionDenied);
    }
    assert_eq!(replica.manager.streams(), 0);
}

async fn only_the_own_group_is_read(replica: Replica) {
    replica.by().group_create(&NewGroup::named("other")).await.unwrap();
    let token = mint_group_token(replica.by(), "other", "test", None).await.unwrap();
    let foreign = replica.join(&token, "n1").await.unwrap();
    let member = replica.member("n1").await;
    let hellos = [
        (pb::Hello { group: "other".to_owned(), ..member.hello() }, Code::PermissionDenied),
        (pb::Hello { node_id: "n2".to_owned(), ..member.hello() }, Code::PermissionDenied),
        (pb::Hello { protocols: vec![9], ..member.hello() }, Code::FailedPrecondition),
    ];
    for (hello, code) in hellos {
        let Err(status) = member.open_with(replica.address(), hello, Held::default()).await else {
            panic!("{code} expected")
        };
        assert_eq!(status.code(), code);
    }
    // Its own group is all right, and ends with the group.
    let mut stream = None;
    eventually("the replica knows the new group", async || {
        stream = foreign.open(replica.address(), Held::default()).await.ok();
        stream.is_some()
    })
    .await;
    let mut stream = stream.unwrap();
    stream.reach(0).await;
    assert!(stream.held.objects.is_empty());
    replica.by().group_delete("other", true).await.unwrap();
    assert_eq!(stream.end().await.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test]
async fn certificates_of_others_open_nothing() {
    let replica = Replica::sqlite().await;
    let address = replica.manager.local_addr().to_string();
    let ca = cluster_ca(&replica.store).await.unwrap();
    // None at all.
    let channel = connect(&address, Arc::new(join_client_config(ca.fingerprint()).unwrap())).await.unwrap();
    let mut client = ConfigClient::new(channel);
    let refused = client.stream(tokio_stream::iter([pb::NodeMessage::default()])).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    // Of another cluster.
    let other = Ca::generate(SystemTime::now()).unwrap();
    let request = KeyRequest::generate().unwrap();
    let identity = NodeIdentity::new(DEFAULT_GROUP, "n1").unwrap();
    let life = std::time::Duration::from_secs(3600);
    let issued = other.sign_node(request.csr(), &identity, SystemTime::now(), life).unwrap();
    let trusted = other.fingerprint();
    let keys: NodeKeys = request.accept(&issued.chain, other.certificate(), &trusted, SystemTime::now()).unwrap();
    assert!(connect(&address, Arc::new(keys.client_config().unwrap())).await.is_err());
    // Of this cluster, but of a node that never joined.
    let request = KeyRequest::generate().unwrap();
    let issued = ca.sign_node(request.csr(), &identity, SystemTime::now(), life).unwrap();
    let keys = request.accept(&issued.chain, ca.certificate(), &ca.fingerprint(), SystemTime::now()).unwrap();
    let stranger = Member { keys: Arc::new(keys) };
    let Err(refused) = stranger.open(replica.address(), Held::default()).await else {
        panic!("a stream for a stranger")
    };
    assert_eq!(refused.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn racing_first_starts_make_one_authority() {
    for home in [Home::sqlite(), Home::postgres()] {
        let mut racing = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let store = home.open().await;
            racing.spawn(async move { cluster_ca(&store).await.unwrap().fingerprint() });
        }
        let made = racing.join_all().await;
        assert!(made.iter().all(|one| *one == made[0]));
    }
}
