//! The node's certificate: got, renewed, lost and got again. Traffic never hears of it.

use super::super::{Alarm, IdentityError};
use super::manager::{Cluster, Running};
use super::{LINEAGE, route};
use milecastle_settings::Time;
use milecastle_testkit::eventually;
use milecastle_wire::pb;
use pb::control_message::Message as Control;
use std::time::Duration;
use tonic::Status;

const HOUR: Duration = Duration::from_secs(3600);

fn beat() -> Control {
    Control::Beat(pb::Beat { lineage: LINEAGE.to_owned(), ..pb::Beat::default() })
}

/// Waits until the certificate of a node is over.
async fn is_over(node: &Running) {
    node.until("the certificate is over", |_| {
        let not_after = milecastle_pki::NodeKeys::load(node.dir()).unwrap().unwrap().certificate().not_after;
        not_after <= std::time::SystemTime::now()
    })
    .await;
}

#[tokio::test]
async fn a_certificate_is_renewed_in_time() {
    let cluster = Cluster::new();
    let mut manager = cluster.manager_with(Duration::from_secs(3)).await;
    let node = cluster.node(&[&manager.address], |settings| settings.report_interval = Time::millis(50));
    let stream = manager.stream().await;
    stream.send(beat()).await;
    manager.sign_for(HOUR);
    // The new one opens a stream of its own.
    let _stream = manager.stream().await;
    assert_eq!(manager.signed(), (1, 1));
    assert!(node.node.status().alarms.is_empty());
}

#[tokio::test]
async fn maintenance_lasts_until_the_control_plane_ends_it() {
    let cluster = Cluster::new();
    let mut manager = cluster.manager().await;
    let node = cluster.node(&[&manager.address], |_| {});
    let stream = manager.stream().await;
    stream.send(beat()).await;
    let order = |on, reason: &str| Control::Maintenance(pb::Maintenance { on, reason: reason.to_owned() });
    stream.send(order(true, "a new disk")).await;
    eventually("it is out of service", async || node.maintenance().as_deref() == Some("a new disk")).await;
    // In force at once, and on the disk a little later.
    let file = node.dir().join("maintenance");
    eventually("the disk has it", async || file.exists()).await;
    // Started again, it is so before anybody tells it; a stream that says nothing of it changes nothing.
    let home = node.kill();
    let node = cluster.node_in(home, &[&manager.address], |_| {}).await;
    assert_eq!(node.maintenance().as_deref(), Some("a new disk"));
    let stream = manager.stream().await;
    stream.send(beat()).await;
    node.until("the stream is followed", |status| status.connected_to.is_some()).await;
    assert_eq!(node.maintenance().as_deref(), Some("a new disk"));
    stream.send(order(false, "")).await;
    eventually("it is in service", async || node.maintenance().is_none()).await;
    let file = node.dir().join("maintenance");
    eventually("the disk has it", async || !file.exists()).await;
    let node = cluster.node_in(node.kill(), &[&manager.address], |_| {}).await;
    assert_eq!(node.maintenance(), None);
}

#[tokio::test]
async fn a_renewal_that_fails_is_an_alarm_until_one_succeeds() {
    let cluster = Cluster::new();
    let mut manager = cluster.manager_with(Duration::from_secs(6)).await;
    manager.refuse_renewals(Some(Status::unavailable("no database")));
    let node = cluster.node(&[&manager.address], |settings| settings.report_interval = Time::millis(50));
    let mut stream = manager.stream().await;
    stream.send(beat()).await;
    let alarm = loop {
        if let Some(alarm) = stream.report().await.alarms.pop() {
            break alarm;
        }
    };
    assert!(alarm.contains("no database") && alarm.contains("not renewed"), "{alarm}");
    manager.sign_for(HOUR);
    manager.refuse_renewals(None);
    let _stream = manager.stream().await;
    node.until("no alarm", |status| status.alarms.is_empty()).await;
    assert_eq!(manager.signed().0, 1);
}

#[tokio::test]
async fn an_expired_certificate_stops_updates_and_nothing_else() {
    let cluster = Cluster::new();
    let mut manager = cluster.manager_with(Duration::from_secs(2)).await;
    let node = cluster.node(&[&manager.address], |_| ());
    let stream = manager.stream().await;
    stream.send(beat()).await;
    manager.refuse_joins(Some(Status::unauthenticated("the group token was revoked")));
    // As the control plane does when the certificate is over.
    is_over(&node).await;
    stream.fail(Status::unauthenticated("the node's certificate has expired: join again")).await;
    node.until("the alarm", |status| {
        status.alarms.get(&Alarm::Identity).is_some_and(|text| text.contains("certificate is over"))
    })
    .await;
    // A token that is accepted again brings it back.
    manager.sign_for(HOUR);
    manager.refuse_joins(None);
    manager.stream().await;
    node.until("no alarm", |status| status.alarms.is_empty()).await;
}

#[tokio::test]
async fn a_token_of_another_cluster_takes_the_node_there() {
    let (old, new) = (Cluster::new(), Cluster::new());
    let mut manager = old.manager().await;
    let node = old.node(&[&manager.address], |_| ());
    let mut stream = manager.stream().await;
    stream.bring(LINEAGE, 9, &[route("1", "/a")]).await;
    let home = node.kill();
    drop(stream);
    let mut manager = new.manager().await;
    let node = new.node_in(home, &[&manager.address], |_| ()).await;
    let mut stream = manager.stream().await;
    // It serves what it has until it has something else, and nobody has to confirm anything.
    assert_eq!((node.revisions(), stream.hello.have.clone()), (vec![9], None));
    stream.bring("new", 2, &[route("2", "/b")]).await;
    assert_eq!(node.revisions(), [9, 2]);
    assert!(node.node.status().alarms.is_empty());
    let home = node.kill();
    let node = new.node_in(home, &["127.0.0.1:1"], |_| ()).await;
    node.until("the new one", |status| status.revision == 2).await;
}

#[tokio::test]
async fn a_node_without_token_and_certificate_says_so() {
    let cluster = Cluster::new();
    let manager = cluster.manager().await;
    let node = cluster.node(&[&manager.address], |settings| settings.group_token = None);
    let expected = IdentityError::NoToken.to_string();
    node.until("the alarm", |status| status.alarms.get(&Alarm::Identity).is_some_and(|text| text.contains(&expected)))
        .await;
    assert_eq!(manager.signed(), (0, 0));
}

#[tokio::test]
async fn a_clock_that_is_days_ahead_is_an_alarm() {
    let cluster = Cluster::new();
    let mut manager = cluster.manager_with(Duration::from_secs(2)).await;
    let node = cluster.node(&[&manager.address], |settings| settings.reconnect_max = Time::secs(1));
    let mut stream = manager.stream().await;
    stream.bring(LINEAGE, 9, &[route("1", "/a")]).await;
    // What it gets from here on is over by its own clock.
    manager.fall_behind(2 * HOUR);
    is_over(&node).await;
    stream.fail(Status::unauthenticated("the node's certificate has expired: join again")).await;
    node.until("the alarm", |status| {
        status.alarms.get(&Alarm::Identity).is_some_and(|text| text.contains("is the clock right"))
    })
    .await;
    assert_eq!(node.revisions(), [9]);
    manager.sign_for(HOUR);
    manager.fall_behind(Duration::ZERO);
    manager.stream().await;
    node.until("no alarm", |status| status.alarms.is_empty()).await;
}

#[tokio::test]
async fn a_clock_that_is_ahead_by_less_than_a_certificate_lasts_renews_once() {
    let cluster = Cluster::new();
    let mut manager = cluster.manager_with(4 * HOUR).await;
    manager.fall_behind(3 * HOUR);
    let node = cluster.node(&[&manager.address], |settings| settings.report_interval = Time::millis(50));
    let _due = manager.stream().await;
    let mut stream = manager.stream().await;
    node.until("the alarm", |status| {
        status.alarms.get(&Alarm::Renewal).is_some_and(|text| text.contains("set the clock"))
    })
    .await;
    // It goes on with what it has, report after report.
    stream.send(beat()).await;
    for _ in 0..10 {
        stream.report().await;
    }
    assert_eq!(manager.signed(), (1, 1));
}
