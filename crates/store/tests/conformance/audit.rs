//! Who changed what.

use std::sync::Arc;
use std::time::Duration;

use milecastle_model::{Key, Kind};
use milecastle_store::{
    AccountUpdate, Actor, ActorKind, Attempt, AuditAction, AuditFilter, AuditOutcome, AuditScope, ChangeSet,
    DEFAULT_GROUP, Entry, Expect, GroupUpdate, Maintenance, Mask, NewApiToken, NewDeclaration, NewGroup, NewNode,
    NewPassword, NewToken, Op, Put, Role, RoleGrant, RoleUpdate, SessionLimits, Store, audited,
};
use serde_json::{Value, json};

use crate::home::{Home, ann, body, delete, office, on_both, publish, put, route, set, upstream};

on_both!(
    every_write_leaves_one_entry,
    each_object_of_a_set_has_an_entry,
    what_is_refused_leaves_none,
    lifetimes_that_end_are_the_systems_own,
    bodies_are_masked_and_cut,
    filters_and_scopes,
    pages_stay_while_entries_are_added,
    old_entries_go,
);

const ALL: AuditScope = AuditScope { groups: None, access: true };

/// What [`Blank`] hides.
const SECRET: &str = "canary-of-a-secret";

/// Hides the member `secret`.
struct Blank;

impl Mask for Blank {
    fn mask(&self, _: &Key, body: &mut Value) {
        if let Some(secret) = body.get_mut("secret") {
            *secret = "******".into();
        }
    }
}

async fn list(store: &Store, filter: &AuditFilter) -> Vec<Entry> {
    store.audit_list(filter, &ALL, 1000).await.unwrap()
}

/// All entries in short, oldest first: action, kind, object, and whether there is a before and an after.
async fn shorts(store: &Store) -> Vec<String> {
    let side = |there: bool, letter| if there { letter } else { "" };
    let short = |entry: &Entry| {
        let sides = [side(entry.before.is_some(), "b"), side(entry.after.is_some(), "a")].concat();
        format!("{} {} {} {sides}", entry.action, entry.kind, entry.object).trim_end().to_owned()
    };
    list(store, &AuditFilter::default()).await.iter().rev().map(short).collect()
}

/// One that is like no other.
fn wanda() -> Actor {
    let (address, request) = (Some("192.0.2.7".to_owned()), Some("r-1".to_owned()));
    Actor { id: "t1".to_owned(), address, request, ..Actor::new(ActorKind::ApiToken, "token/wanda") }
}

async fn every_write_leaves_one_entry(home: Home) {
    let store = home.open().await;
    let actor = wanda();
    let by = store.by(&actor);
    let mut seen = shorts(&store).await.len();
    assert_eq!(seen, 0, "what the first start makes is nobody's change");
    // After each write the log has one entry more, in these words.
    macro_rules! leaves {
        ($write:expr, $($short:literal),*) => {{
            let written = $write.await;
            assert!(written.is_ok(), "{}", stringify!($write));
            let now = shorts(&store).await;
            let expected: &[&str] = &[$($short),*];
            assert_eq!(now[seen..].iter().map(String::as_str).collect::<Vec<_>>(), expected, "{}", stringify!($write));
            seen = now.len();
        }};
    }
    let maintenance = Maintenance { reason: "disk".into(), by: "wanda".into(), since: 1 };
    let update = GroupUpdate { name: Some("Test".into()), labels: None };
    leaves!(by.group_create(&NewGroup::named("test")), "create gateway_group test a");
    leaves!(by.group_update("test", &update), "update gateway_group test ba");
    leaves!(by.group_update("test", &update),);
    leaves!(by.group_maintain("test", Some(&maintenance)), "update gateway_group test ba");
    leaves!(by.group_supersede("test", &["old".to_owned()], false), "confirm gateway_group test ba");
    let [id, group, name] = ["t9", "test", "rack"].map(str::to_owned);
    let token = NewToken { id, group, name, hash: [9; 32], expires_at: None };
    leaves!(by.token_create(&token), "create join_token t9 a");
    let [group, id, token, certificate, host, version] = ["test", "n1", "t9", "c", "h", "1"].map(str::to_owned);
    assert!(store.node_join(&NewNode { group, id, token, certificate, host, version }).await.unwrap());
    leaves!(by.node_maintain("test", "n1", Some(&maintenance)), "update node n1 ba");
    leaves!(by.node_maintain("test", "n1", Some(&maintenance)),);
    leaves!(by.node_revoke("test", "n1"), "revoke node n1 ba");
    leaves!(by.node_revoke("test", "n1"),);
    leaves!(by.node_delete("test", "n1"), "delete node n1 b");
    leaves!(by.node_delete("test", "n1"),);
    leaves!(by.token_revoke("test", "t9"), "revoke join_token t9 ba");
    leaves!(by.token_revoke("test", "t9"),);
    leaves!(by.publish("test", set(vec![put(route("1"), "a")])), "create route 1");
    leaves!(by.publish("test", set(vec![put(route("1"), "a")])),);
    leaves!(by.group_delete("test", true), "delete gateway_group test b");
    leaves!(by.member_maintain("c1", Some(&maintenance)), "update member c1 ba");
    leaves!(by.member_maintain("c1", None), "update member c1 ba");
    leaves!(by.member_maintain("c1", None),);
    leaves!(by.admin_key_put_first("k1", Role::Admin, &[1; 32]), "create admin_key k1 a");
    leaves!(by.admin_key_put_first("k2", Role::Admin, &[2; 32]),);
    leaves!(by.admin_key_put("k1", Role::Admin, &[3; 32]), "update admin_key k1 ba");
    leaves!(by.admin_key_create("k1", Role::Admin, &[4; 32]),);
    leaves!(by.admin_key_create("k2", Role::Viewer, &[5; 32]), "create admin_key k2 a");
    leaves!(by.admin_key_delete("k2"), "delete admin_key k2 b");
    leaves!(by.admin_key_delete("k2"),);
    let grants = vec![RoleGrant::everywhere("viewer")];
    let [id, name, created_by] = ["a1", "ci", "wanda"].map(str::to_owned);
    let token = NewApiToken { id, name, hash: [6; 32], grants: grants.clone(), created_by, expires_at: None };
    leaves!(by.api_token_create(&token), "create api_token a1 a");
    leaves!(by.api_token_revoke("a1"), "revoke api_token a1 ba");
    leaves!(by.api_token_revoke("a1"),);
    let role = RoleUpdate { description: "d".into(), ..RoleUpdate::default() };
    leaves!(by.role_create("dev", &role), "create role dev a");
    leaves!(by.role_update("dev", 1, &RoleUpdate::default()), "update role dev ba");
    leaves!(by.role_update("dev", 2, &RoleUpdate::default()),);
    leaves!(by.role_delete("dev", 3), "delete role dev b");
    let password = NewPassword { hash: "h".into(), must_change: false };
    leaves!(by.account_create_first("admin", &password, &grants), "create account admin a");
    leaves!(by.account_create_first("other", &password, &grants),);
    leaves!(by.account_create("ann", &password, &grants), "create account ann a");
    leaves!(by.account_create("ann", &password, &grants),);
    let disable = AccountUpdate { disabled: Some(true), ..AccountUpdate::default() };
    leaves!(by.account_update("admin", &disable, None), "update account admin ba");
    let renew = AccountUpdate { password: Some(password), ..AccountUpdate::default() };
    leaves!(by.account_update("ann", &renew, None), "update account ann ba");
    let limits = SessionLimits { idle: Duration::from_secs(60), max: Duration::from_secs(60) };
    leaves!(by.session_create(&[7; 32], "ann", "h", "192.0.2.7", limits), "sign_in session ann");
    leaves!(by.session_delete(&[7; 32]), "sign_out session token/wanda");
    leaves!(by.session_delete(&[7; 32]),);
    leaves!(by.account_delete("ann"), "delete account ann b");
    leaves!(by.account_delete("ann"),);
    let entries = list(&store, &AuditFilter::default()).await;
    assert_eq!(entries.len(), seen);
    let now = store.now() * 1000;
    for Entry { at, actor_kind, actor, actor_id, address, request, outcome, times, .. } in &entries {
        assert_eq!((&**actor_kind, &**actor, &**actor_id), ("token", "token/wanda", "t1"));
        assert_eq!((address.as_deref(), request.as_deref()), (Some("192.0.2.7"), Some("r-1")));
        assert_eq!((&**outcome, *times), ("done", 1));
        assert!(at.abs_diff(now) < 600_000, "{at} is not the database's time {now}");
    }
    let one = store.audit_get(entries[0].id, &ALL).await.unwrap();
    assert_eq!(one.as_ref(), entries.first());
    assert_eq!(store.audit_get(entries[0].id + 1, &ALL).await.unwrap(), None);
    let renewed = AuditFilter { object: Some("ann".into()), action: Some("update".into()), ..AuditFilter::default() };
    let after = list(&store, &renewed).await[0].after.clone().unwrap();
    assert_eq!(after["password"], "changed");
}

async fn each_object_of_a_set_has_an_entry(home: Home) {
    let store = home.open().await;
    store.audit_bodies(Arc::new(Blank), 10_000);
    let credential = Key::credential("jack", "c1");
    let jack = Key::new(Kind::Consumer, "jack");
    publish(&store, vec![put(route("1"), "a"), put(jack.clone(), "b"), put(credential, "c")]).await.unwrap();
    publish(&store, vec![put(route("1"), "d"), delete(jack), put(upstream("1"), "e"), delete(route("9"))])
        .await
        .unwrap();
    let told: Vec<(String, Option<u64>, Value, Value)> = list(&store, &AuditFilter::default())
        .await
        .into_iter()
        .rev()
        .map(|entry| {
            let word = format!("{} {} {}", entry.action, entry.kind, entry.object);
            (word, entry.revision, entry.before.unwrap_or_default(), entry.after.unwrap_or_default())
        })
        .collect();
    let desc = |word: &str| json!({ "desc": word });
    let entry = |word: &str, revision, before, after| (word.to_owned(), Some(revision), before, after);
    assert_eq!(
        told,
        [
            entry("create route 1", 1, Value::Null, desc("a")),
            entry("create consumer jack", 1, Value::Null, desc("b")),
            entry("create credential jack/credentials/c1", 1, Value::Null, desc("c")),
            entry("update route 1", 2, desc("a"), desc("d")),
            entry("create upstream 1", 2, Value::Null, desc("e")),
            entry("delete consumer jack", 2, desc("b"), Value::Null),
            entry("delete credential jack/credentials/c1", 2, desc("c"), Value::Null),
        ]
    );
    // More than fit into one statement.
    let many = (0..450).map(|n| put(upstream(&format!("m{n}")), "x")).collect();
    let revision = publish(&store, many).await.unwrap().revision;
    let of_it = list(&store, &AuditFilter { kind: Some("upstream".into()), ..AuditFilter::default() }).await;
    assert_eq!(of_it.iter().filter(|entry| entry.revision == Some(revision)).count(), 450);
    // Without a revision: an object that only lives longer, and a declaration by which nothing changes.
    let lasting = Put { expires_at: Some(u64::MAX >> 1), ..Put::new(route("1"), body("d")) };
    publish(&store, vec![Op::Put(lasting)]).await.unwrap();
    let declaration = Some(NewDeclaration { after: 0, digest: "d1".into(), body: "{}".into() });
    store.by(ann()).publish(DEFAULT_GROUP, ChangeSet { declaration, ..set(Vec::new()) }).await.unwrap();
    let newest = list(&store, &AuditFilter::default()).await;
    assert_eq!((&*newest[0].kind, newest[0].after.as_ref().unwrap()), (audited::CONFIGS, &json!({ "digest": "d1" })));
    assert_eq!(newest[1].before, Some(json!({ "expires_at": null })));
}

async fn what_is_refused_leaves_none(home: Home) {
    let store = home.open().await;
    publish(&store, vec![put(route("1"), "a")]).await.unwrap();
    let stale = ChangeSet { expected_revision: Some(7), ..set(vec![put(route("2"), "b")]) };
    store.by(ann()).publish(DEFAULT_GROUP, stale).await.unwrap_err();
    let there = Op::Put(Put { expect: Expect::Absent, ..Put::new(route("1"), body("c")) });
    publish(&store, vec![put(route("2"), "b"), there]).await.unwrap_err();
    store.by(ann()).group_delete(DEFAULT_GROUP, false).await.unwrap_err();
    store.by(ann()).group_update("none", &GroupUpdate::default()).await.unwrap_err();
    assert_eq!(shorts(&store).await, ["create route 1"]);
}

async fn lifetimes_that_end_are_the_systems_own(home: Home) {
    let store = home.open().await;
    let passing = Put { expires_at: Some(5), ..Put::new(route("1"), body("a")) };
    publish(&store, vec![Op::Put(passing)]).await.unwrap();
    store.expire_due(office(&store).await, 6).await.unwrap();
    let newest = list(&store, &AuditFilter::default()).await.remove(0);
    assert_eq!((&*newest.actor_kind, &*newest.actor, &*newest.action), ("system", "milecastle", "delete"));
}

async fn bodies_are_masked_and_cut(home: Home) {
    let store = home.open().await;
    store.audit_bodies(Arc::new(Blank), 60);
    let with = |secret: &str, more: &str| {
        let body = json!({ "secret": secret, "more": more }).to_string();
        vec![Op::Put(Put { sealed: true, ..Put::new(route("1"), body) })]
    };
    publish(&store, with(SECRET, "m")).await.unwrap();
    publish(&store, with("canary-of-a-secret-2", "m")).await.unwrap();
    publish(&store, with(SECRET, &"m".repeat(100))).await.unwrap();
    publish(&store, vec![delete(route("1"))]).await.unwrap();
    let entries = list(&store, &AuditFilter::default()).await;
    assert_eq!(entries[3].after, Some(json!({ "secret": "******", "more": "m" })));
    assert_eq!(entries[2].before, Some(json!({ "secret": "******" })));
    assert_eq!(entries[2].after, Some(json!({ "secret": "****** (changed)" })));
    let cut = entries[1].after.as_ref().unwrap();
    assert_eq!(cut["cut"]["bytes"], 139);
    assert_eq!(cut["cut"]["begins"].as_str().unwrap().len(), 60);
    assert!(entries[0].before.as_ref().unwrap()["cut"]["begins"].is_string());
    let disk = home.on_disk();
    assert!(!String::from_utf8_lossy(&disk).contains(SECRET));
}

async fn filters_and_scopes(home: Home) {
    let store = home.open().await;
    store.by(ann()).group_create(&NewGroup::named("test")).await.unwrap();
    publish(&store, vec![put(route("1"), "a")]).await.unwrap();
    let wanda = wanda();
    store.by(&wanda).publish("test", set(vec![put(upstream("1"), "a")])).await.unwrap();
    store.by(&wanda).admin_key_put("k", Role::Viewer, &[1; 32]).await.unwrap();
    let attempt = Attempt {
        actor: wanda.clone(),
        group: Some(DEFAULT_GROUP.into()),
        kind: "route",
        object: String::new(),
        action: AuditAction::Write,
        outcome: AuditOutcome::Refused,
    };
    store.audit_attempts(&[(attempt, 12)]).await.unwrap();
    let kinds = async |filter: AuditFilter, scope: &AuditScope| {
        let found = store.audit_list(&filter, scope, 100).await.unwrap();
        found.iter().rev().map(|entry| entry.kind.clone()).collect::<Vec<_>>()
    };
    let none = AuditFilter::default;
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(kinds(none(), &ALL).await, ["gateway_group", "route", "upstream", "admin_key", "route"]);
    assert_eq!(kinds(AuditFilter { actor: text("ann"), ..none() }, &ALL).await, ["gateway_group", "route"]);
    assert_eq!(kinds(AuditFilter { group: text("test"), ..none() }, &ALL).await, ["gateway_group", "upstream"]);
    assert_eq!(kinds(AuditFilter { kind: text("route"), object: text("1"), ..none() }, &ALL).await, ["route"]);
    assert_eq!(kinds(AuditFilter { action: text("update"), ..none() }, &ALL).await, [""; 0]);
    assert_eq!(kinds(AuditFilter { action: text("write"), ..none() }, &ALL).await, ["route"]);
    assert_eq!(kinds(AuditFilter { outcome: text("refused"), ..none() }, &ALL).await, ["route"]);
    let at = store.audit_list(&none(), &ALL, 1).await.unwrap()[0].at;
    assert_eq!(kinds(AuditFilter { until: Some(at + 1), ..none() }, &ALL).await.len(), 5);
    assert_eq!(kinds(AuditFilter { since: Some(at + 1), ..none() }, &ALL).await, [""; 0]);
    let scope = |groups: Option<&[&str]>, access| AuditScope {
        groups: groups.map(|groups| groups.iter().map(|group| (*group).to_owned()).collect()),
        access,
    };
    assert_eq!(kinds(none(), &scope(None, false)).await, ["gateway_group", "route", "upstream", "route"]);
    assert_eq!(kinds(none(), &scope(Some(&["test"]), true)).await, ["gateway_group", "upstream"]);
    assert_eq!(kinds(none(), &scope(Some(&[]), true)).await, [""; 0]);
    let refused = store.audit_list(&none(), &ALL, 1).await.unwrap().remove(0);
    assert_eq!((refused.times, &*refused.outcome, &*refused.action), (12, "refused", "write"));
    assert_eq!(store.audit_get(refused.id, &scope(Some(&["test"]), true)).await.unwrap(), None);
}

async fn pages_stay_while_entries_are_added(home: Home) {
    let store = home.open().await;
    for n in 0..7 {
        publish(&store, vec![put(route(&n.to_string()), "a")]).await.unwrap();
    }
    let mut seen = Vec::new();
    let mut filter = AuditFilter::default();
    loop {
        let page = store.audit_list(&filter, &ALL, 3).await.unwrap();
        let Some(last) = page.last() else { break };
        filter.before = Some(last.id);
        seen.extend(page.iter().map(|entry| entry.object.clone()));
        publish(&store, vec![put(upstream(&seen.len().to_string()), "a")]).await.unwrap();
    }
    assert_eq!(seen, ["6", "5", "4", "3", "2", "1", "0"]);
}

async fn old_entries_go(home: Home) {
    let store = home.open().await;
    for n in 0..4 {
        publish(&store, vec![put(route(&n.to_string()), "a")]).await.unwrap();
    }
    let (day, office) = (Duration::from_secs(86_400), office(&store).await);
    assert_eq!(store.audit_trim(office, day).await.unwrap(), 0);
    home.sql("UPDATE audit SET at = at - 86400001 WHERE object IN ('0', '2')").await;
    let over = milecastle_store::Term { epoch: office.epoch - 1, ..office };
    assert_eq!(store.audit_trim(over, day).await.unwrap(), 0);
    assert_eq!(store.audit_trim(office, day).await.unwrap(), 2);
    let left: Vec<_> = list(&store, &AuditFilter::default()).await.into_iter().map(|entry| entry.object).collect();
    assert_eq!(left, ["3", "1"]);
}
