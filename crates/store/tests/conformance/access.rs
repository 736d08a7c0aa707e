//! Tokens, nodes and admin keys.

use milecastle_store::{DEFAULT_GROUP, NewNode, NewToken, NodeReport, Role, Store, StoreError};
use serde_json::json;

use crate::home::{Home, ann, on_both};

on_both!(tokens, nodes, revoked_nodes_stay_out, admin_keys);

fn hash(n: u8) -> [u8; 32] {
    [n; 32]
}

async fn token(store: &Store, id: &str, n: u8, expires_at: Option<u64>) {
    let (group, name) = (DEFAULT_GROUP.to_owned(), format!("token {id}"));
    store
        .by(ann())
        .token_create(&NewToken { id: id.to_owned(), group, name, hash: hash(n), expires_at })
        .await
        .unwrap();
}

fn node(id: &str, token: &str) -> NewNode {
    NewNode {
        group: DEFAULT_GROUP.to_owned(),
        id: id.to_owned(),
        token: token.to_owned(),
        certificate: "0a".to_owned(),
        host: "h1".to_owned(),
        version: "0.1.0".to_owned(),
    }
}

async fn epoch(store: &Store) -> u64 {
    store.head(DEFAULT_GROUP).await.unwrap().epoch
}

async fn tokens(home: Home) {
    let store = home.open().await;
    token(&store, "t1", 1, None).await;
    token(&store, "t2", 2, Some(100)).await;
    let found = store.token_find(&hash(2)).await.unwrap().unwrap();
    assert_eq!((&*found.id, &*found.group, &*found.name), ("t2", DEFAULT_GROUP, "token t2"));
    assert_eq!((found.expires_at, found.revoked_at), (Some(100), None));
    assert_eq!(store.token_find(&hash(9)).await.unwrap(), None);
    let before = epoch(&store).await;
    assert!(store.by(ann()).token_revoke(DEFAULT_GROUP, "t1").await.unwrap());
    assert!(!store.by(ann()).token_revoke(DEFAULT_GROUP, "t1").await.unwrap());
    assert!(!store.by(ann()).token_revoke("elsewhere", "t2").await.unwrap());
    assert_eq!(epoch(&store).await, before + 1);
    let revoked: Vec<_> =
        store.token_list(DEFAULT_GROUP).await.unwrap().iter().map(|t| t.revoked_at.is_some()).collect();
    assert_eq!(revoked, [true, false]);
    let nowhere =
        NewToken { id: "t3".into(), group: "nowhere".into(), name: String::new(), hash: hash(3), expires_at: None };
    assert!(matches!(store.by(ann()).token_create(&nowhere).await.unwrap_err(), StoreError::UnknownGroup(_)));
}

async fn nodes(home: Home) {
    let store = home.open().await;
    token(&store, "good", 1, None).await;
    token(&store, "expired", 2, Some(1)).await;
    assert!(!store.node_join(&node("n1", "expired")).await.unwrap());
    assert!(!store.node_join(&node("n1", "unknown")).await.unwrap());
    for id in ["n2", "n1"] {
        assert!(store.node_join(&node(id, "good")).await.unwrap());
    }
    assert!(store.node_renew(DEFAULT_GROUP, "n1", "0b").await.unwrap());
    assert!(!store.node_renew(DEFAULT_GROUP, "n9", "0b").await.unwrap());
    let report = |at, revision| NodeReport {
        host: "h2".to_owned(),
        version: "0.2.0".to_owned(),
        boot: "b1".to_owned(),
        reported_at: at,
        lineage: "l".to_owned(),
        revision,
        digest: vec![1, 2, 3],
        rejected: json!([{"key": "/routes/1", "why": "no such plugin"}]),
        traffic: Some(json!({ "requests": revision })),
        connected: true,
        member: "m1".to_owned(),
    };
    let of = |id: &str, report| (DEFAULT_GROUP.to_owned(), id.to_owned(), report);
    store.node_report(&[of("n1", report(10, 5)), of("gone", report(10, 5))]).await.unwrap();
    store.node_report(&[of("n1", report(9, 4))]).await.unwrap();
    let known = store.node_list(DEFAULT_GROUP).await.unwrap();
    assert_eq!(known.iter().map(|node| &*node.id).collect::<Vec<_>>(), ["n1", "n2"]);
    assert_eq!((&*known[0].certificate, &*known[0].host, known[0].welcome), ("0b", "h2", true));
    assert_eq!(known[0].report, Some(report(10, 5)));
    assert_eq!((known[1].host.as_str(), &known[1].report), ("h1", &None));
    // A member that lost a node to another one by now does not say that it is gone.
    let left = |member: &str, at| NodeReport { connected: false, member: member.to_owned(), ..report(at, 5) };
    for (member, connected) in [("m2", true), ("m1", false)] {
        store.node_report(&[of("n1", left(member, 11))]).await.unwrap();
        let known = store.node_get(DEFAULT_GROUP, "n1").await.unwrap().unwrap().report.unwrap();
        assert_eq!((known.connected, &*known.member), (connected, "m1"));
    }
    // Of one that none has, any may say that it is gone.
    store.node_report(&[of("n1", left("m2", 12))]).await.unwrap();
    let known = store.node_get(DEFAULT_GROUP, "n1").await.unwrap().unwrap().report.unwrap();
    assert_eq!((known.reported_at, &*known.member), (12, "m2"));
    // Another process of it comes, to m1.
    let come = |boot: &str| NodeReport { boot: boot.to_owned(), ..report(13, 5) };
    store.node_report(&[of("n1", come("b2"))]).await.unwrap();
    let rivals = async |member: &str, boot: &str| {
        let here = [(DEFAULT_GROUP, "n1", boot), (DEFAULT_GROUP, "n2", boot), ("elsewhere", "n1", boot)];
        let rivals = store.node_rivals(member, &here).await.unwrap();
        rivals.into_iter().map(|node| (node.id, node.report.unwrap().boot)).collect::<Vec<_>>()
    };
    assert_eq!(rivals("m2", "b1").await, [("n1".to_owned(), "b2".to_owned())]);
    for (member, boot) in [("m2", "b2"), ("m1", "b1")] {
        assert!(rivals(member, boot).await.is_empty());
    }
    assert!(store.node_rivals("m2", &[]).await.unwrap().is_empty());
    store.node_report(&[of("n1", NodeReport { connected: false, ..come("b2") })]).await.unwrap();
    assert!(rivals("m2", "b1").await.is_empty());
    store.node_report(&[]).await.unwrap();
}

async fn revoked_nodes_stay_out(home: Home) {
    let store = home.open().await;
    token(&store, "t1", 1, None).await;
    token(&store, "t2", 2, None).await;
    for (id, token) in [("n1", "t1"), ("n2", "t1"), ("n3", "t2")] {
        assert!(store.node_join(&node(id, token)).await.unwrap());
    }
    let welcome = async || store.node_list(DEFAULT_GROUP).await.unwrap().iter().map(|n| n.welcome).collect::<Vec<_>>();
    let before = epoch(&store).await;
    assert!(store.by(ann()).node_revoke(DEFAULT_GROUP, "n1").await.unwrap());
    assert!(!store.by(ann()).node_revoke(DEFAULT_GROUP, "n1").await.unwrap());
    assert_eq!(welcome().await, [false, true, true]);
    assert!(!store.node_join(&node("n1", "t2")).await.unwrap(), "a revoked node does not come back with another token");
    assert!(!store.node_renew(DEFAULT_GROUP, "n1", "0b").await.unwrap());
    store.by(ann()).token_revoke(DEFAULT_GROUP, "t1").await.unwrap();
    assert_eq!(welcome().await, [false, false, true]);
    assert!(!store.node_renew(DEFAULT_GROUP, "n2", "0b").await.unwrap());
    assert!(store.node_join(&node("n2", "t2")).await.unwrap());
    assert!(store.by(ann()).node_delete(DEFAULT_GROUP, "n1").await.unwrap());
    assert!(!store.by(ann()).node_delete(DEFAULT_GROUP, "n1").await.unwrap());
    assert!(store.node_join(&node("n1", "t2")).await.unwrap());
    assert_eq!(welcome().await, [true, true, true]);
    assert_eq!(epoch(&store).await, before + 3);
}

async fn admin_keys(home: Home) {
    let (store, other) = (home.open().await, home.open().await);
    let (hash1, hash2) = (hash(1), hash(2));
    let (a, b) = tokio::join!(
        store.by(ann()).admin_key_put_first("admin", Role::Admin, &hash1),
        other.by(ann()).admin_key_put_first("admin", Role::Admin, &hash2)
    );
    assert_ne!(a.unwrap(), b.unwrap(), "one of two first starts makes the key");
    store.by(ann()).admin_key_put("reader", Role::Viewer, &hash(3)).await.unwrap();
    store.by(ann()).admin_key_put("admin", Role::Admin, &hash(4)).await.unwrap();
    let keys = store.admin_key_list().await.unwrap();
    let known: Vec<_> = keys.iter().map(|key| (&*key.name, key.role.clone(), key.hash)).collect();
    assert_eq!(known, [("admin", Role::Admin, hash(4)), ("reader", Role::Viewer, hash(3))]);
    assert!(!store.by(ann()).admin_key_create("admin", Role::Viewer, &hash(5)).await.unwrap());
    assert!(store.by(ann()).admin_key_create("second", Role::Admin, &hash(5)).await.unwrap());
    let keys = store.admin_key_list().await.unwrap();
    let known: Vec<_> = keys.iter().map(|key| (&*key.name, key.role.clone(), key.hash)).collect();
    let admins = [("admin", Role::Admin, hash(4)), ("reader", Role::Viewer, hash(3)), ("second", Role::Admin, hash(5))];
    assert_eq!(known, admins);
    assert!(store.by(ann()).admin_key_delete("second").await.unwrap());
    assert!(store.by(ann()).admin_key_delete("reader").await.unwrap());
    assert!(!store.by(ann()).admin_key_delete("reader").await.unwrap());
    assert_eq!(store.admin_key_list().await.unwrap().len(), 1);
    // A name is of one key, whatever that allows.
    let named = |role: &str| Role::Named(role.to_owned());
    assert!(!store.by(ann()).admin_key_create("admin", named("operator"), &hash(6)).await.unwrap());
    assert!(!store.by(ann()).admin_key_put_first("first", named("operator"), &hash(6)).await.unwrap());
    assert!(store.by(ann()).admin_key_create("ops", named("operator"), &hash(6)).await.unwrap());
    assert!(!store.by(ann()).admin_key_create("ops", Role::Viewer, &hash(7)).await.unwrap());
    let unknown = store.by(ann()).admin_key_put("ops", named("dev"), &hash(7)).await;
    assert!(matches!(unknown, Err(StoreError::UnknownRole(role)) if role == "dev"));
    for (name, role) in [("admin", named("operator")), ("ops", Role::Viewer)] {
        store.by(ann()).admin_key_put(name, role, &hash(8 + name.len() as u8)).await.unwrap();
    }
    let keys = store.admin_key_list().await.unwrap();
    let known: Vec<_> = keys.iter().map(|key| (&*key.name, key.role.clone())).collect();
    assert_eq!(known, [("admin", named("operator")), ("ops", Role::Viewer)]);
    assert!(store.by(ann()).admin_key_delete("admin").await.unwrap());
    assert_eq!(store.admin_key_list().await.unwrap().len(), 1);
}
