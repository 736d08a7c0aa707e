//! What happened, as events in an order that all replicas share (`docs/events.md`).
//!
//! Whoever leads compares what is with what was told last and records the difference (`teller`, `news`, and what is compared in
//! `sights`). Each replica reads the log along with its clients (`tail`) and sends each of them what it may see (`stream`).
//!
//! What must stay true:
//! - Each change of each group is told once, whoever leads meanwhile and whatever dies. Of what comes and goes, each state that is
//!   seen is told once.
//! - Nothing that writes configuration waits for events.
//! - A client is sent what it may see, and nothing after what it was let in with is over.
//! - A client that takes nothing holds a bounded amount of memory, and for a bounded time.
//! - No event holds a secret: none is made of the body of an object but for the end of a certificate.

mod news;
mod sights;
mod stream;
mod tail;
mod teller;

pub(crate) use news::raised;
pub(crate) use stream::{Client, Filter, Proof, Shared, serve};
pub(crate) use tail::Tail;
pub(crate) use teller::tell;

use milecastle_store::{Event, Topic};
use serde_json::{Value, json};

use crate::rights::{Need, Place, Resource, Rights};

/// What events are about.
pub(crate) mod kind {
    /// A gateway group was made or deleted.
    pub(crate) const GROUP: &str = "group";
    /// A revision was published.
    pub(crate) const CHANGE: &str = "change";
    /// Every connected node has a revision in force or refused it.
    pub(crate) const RECEIPT: &str = "receipt";
    /// The revisions of a group count in another history than before.
    pub(crate) const LINEAGE: &str = "lineage";
    /// A rollout began or ended.
    pub(crate) const ROLLOUT: &str = "rollout";
    /// A node is in another state than before.
    pub(crate) const NODE: &str = "node";
    /// A replica of the control plane is.
    pub(crate) const MEMBER: &str = "member";
    /// Another replica leads.
    pub(crate) const LEADER: &str = "leader";
    /// Something needs an operator, or does no longer.
    pub(crate) const ALARM: &str = "alarm";

    /// All of them.
    pub(crate) const ALL: [&str; 9] = [GROUP, CHANGE, RECEIPT, LINEAGE, ROLLOUT, NODE, MEMBER, LEADER, ALARM];
}

/// What alarms are about: the first part of the subject of theirs, before a slash.
pub(crate) mod alarm {
    /// A certificate that an object has or names ends soon.
    pub(crate) const CERTIFICATE: &str = "certificate";
    /// A certificate of a node does, and should have been renewed.
    pub(crate) const NODE_CERTIFICATE: &str = "node_certificate";
    /// A node is connected and has been behind the newest revision for long.
    pub(crate) const NODE_BEHIND: &str = "node_behind";
    /// A node was connected and is no longer.
    pub(crate) const NODE_LOST: &str = "node_lost";
    /// A node says that something is wrong with it.
    pub(crate) const NODE: &str = "node";
    /// The cluster, or an address that is probed, is down.
    pub(crate) const UNAVAILABLE: &str = "unavailable";
    /// A node keeps another history than the database has, until an operator decides.
    pub(crate) const LINEAGE: &str = "lineage";
    /// The last rollout of a group was taken back by the cluster itself.
    pub(crate) const ROLLOUT: &str = "rollout";
    /// A rollout does not go on by itself.
    pub(crate) const ROLLOUT_STALLED: &str = "rollout_stalled";
}

/// Whether somebody may see what is about this.
pub(crate) fn is_visible(topic: &Topic, rights: &Rights) -> bool {
    let about = topic.subject.split_once('/').map_or("", |(about, _)| about);
    let resource = match &*topic.kind {
        kind::GROUP => Resource::Groups,
        kind::CHANGE | kind::RECEIPT => Resource::Revisions,
        kind::LINEAGE => Resource::Lineage,
        kind::ROLLOUT => Resource::Rollout,
        kind::NODE => Resource::Nodes,
        kind::ALARM if about == alarm::CERTIFICATE => sights::holder(topic),
        kind::ALARM if about == alarm::UNAVAILABLE => Resource::Probes,
        kind::ALARM if about == alarm::LINEAGE => Resource::Lineage,
        kind::ALARM if [alarm::ROLLOUT, alarm::ROLLOUT_STALLED].contains(&about) => Resource::Rollout,
        kind::ALARM => Resource::Nodes,
        // Also what a later version tells of.
        _ => Resource::Members,
    };
    let place = topic.group.as_deref().map_or(Place::Cluster, Place::Group);
    rights.allow(Need::read(resource), place)
}

/// An event as clients read it: `id`, `kind`, `group`, `at`, and the members of its data.
pub(crate) fn shown(event: &Event) -> Value {
    let Event { id, topic, data } = event;
    let mut shown = json!({ "id": id, "kind": topic.kind, "group": topic.group, "at": id / 1000 });
    if let (Value::Object(members), Value::Object(data)) = (&mut shown, data) {
        members.extend(data.iter().map(|(name, value)| (name.clone(), value.clone())));
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rights::{Action, Role};
    use milecastle_store::RoleGrant;

    fn topic(kind: &str, group: Option<&str>, subject: &str) -> Topic {
        Topic { kind: kind.to_owned(), group: group.map(str::to_owned), subject: subject.to_owned() }
    }

    #[test]
    fn events_of_other_groups_are_not_seen() {
        let viewer = RoleGrant { role: "viewer".to_owned(), groups: vec!["a".to_owned()] };
        let rights = Rights::of(&[viewer], &[]);
        for kind in kind::ALL {
            assert!(!is_visible(&topic(kind, Some("b"), "x/y"), &rights), "{kind}");
            assert!(!is_visible(&topic(kind, None, "x/y"), &rights), "{kind}");
        }
        assert!(is_visible(&topic(kind::CHANGE, Some("a"), ""), &rights));
    }

    #[test]
    fn an_alarm_of_a_certificate_is_seen_by_whoever_may_read_the_object() {
        let sees =
            |role: Role, subject: &str| is_visible(&topic(kind::ALARM, Some("a"), subject), &Rights::everywhere(role));
        let of = |kind: &str| Role::of("r", &[(Action::Read, vec![kind.to_owned()])]).unwrap();
        for (subject, kind) in [
            ("certificate/1", "ssls"),
            ("certificate/ssls/1", "ssls"),
            ("certificate/routes/1#/upstream/tls/client_cert/0", "routes"),
            ("certificate/consumers/jack#/plugins/traffic-split/client_cert/0", "consumers"),
        ] {
            assert!(sees(of(kind), subject) && !sees(of("upstreams"), subject), "{subject}");
        }
        // Of a kind of a later version.
        let unknown = "certificate/of-a-later-version/1";
        assert!(sees(Role::administrator(), unknown) && !sees(Role::operator(), unknown));
    }

    #[test]
    fn what_is_of_no_group_takes_a_role_in_all() {
        let rights = Rights::everywhere(Role::viewer());
        assert!(is_visible(&topic(kind::LEADER, None, ""), &rights));
        assert!(is_visible(&topic("of a later version", None, ""), &rights));
    }

    #[test]
    fn an_event_is_shown_with_the_members_of_its_data() {
        let event =
            Event { id: 1_700_000_000_123, topic: topic(kind::NODE, Some("a"), "n1"), data: json!({"node": "n1"}) };
        let expected =
            json!({"id": 1_700_000_000_123_u64, "kind": "node", "group": "a", "at": 1_700_000_000, "node": "n1"});
        assert_eq!(shown(&event), expected);
    }
}
