//! Accounts of people, their sessions, and logins that fail.

use crate::home::{Home, ann, on_both};
use milecastle_store::{AccountUpdate, Backoff, NewPassword, RoleGrant, SessionLimits, Store, Subject};
use std::time::Duration;

on_both!(accounts, the_first_account_is_made_once, sessions_end, failures_make_the_next_one_wait);

const LIMITS: SessionLimits = SessionLimits { idle: Duration::from_secs(3600), max: Duration::from_secs(43_200) };

fn password(hash: &str) -> NewPassword {
    NewPassword { hash: hash.to_owned(), must_change: false }
}

async fn make(store: &Store, name: &str) -> bool {
    store.by(ann()).account_create(name, &password("p1"), &[RoleGrant::everywhere("viewer")]).await.unwrap()
}

async fn accounts(home: Home) {
    let store = home.open().await;
    assert!(make(&store, "bob").await && make(&store, "ann").await && !make(&store, "ann").await);
    let grants = vec![RoleGrant { role: "operator".into(), groups: vec!["a".into()] }];
    let update = AccountUpdate { grants: Some(grants.clone()), disabled: Some(true), password: None };
    assert!(store.by(ann()).account_update("ann", &update, None).await.unwrap());
    assert!(!store.by(ann()).account_update("eve", &update, None).await.unwrap());
    let stored = store.account_get("ann").await.unwrap().unwrap();
    assert_eq!((&stored.grants, stored.must_change), (&grants, false));
    assert!(stored.disabled_at.is_some());
    let update = AccountUpdate { disabled: Some(false), ..AccountUpdate::default() };
    assert!(store.by(ann()).account_update("ann", &update, None).await.unwrap());
    assert_eq!(store.account_get("ann").await.unwrap().unwrap().disabled_at, None);
    assert_eq!(store.account_password_hash("ann").await.unwrap().as_deref(), Some("p1"));
    assert_eq!(store.account_password_hash("eve").await.unwrap(), None);
    let names: Vec<_> = store.account_list().await.unwrap().into_iter().map(|account| account.name).collect();
    assert_eq!(names, ["ann", "bob"]);
    assert!(
        store.by(ann()).account_delete("bob").await.unwrap() && !store.by(ann()).account_delete("bob").await.unwrap()
    );
}

async fn the_first_account_is_made_once(home: Home) {
    let (store, other) = (home.open().await, home.open().await);
    let (hash, grants) = (password("p"), [RoleGrant::everywhere("administrator")]);
    let (a, b) = tokio::join!(
        store.by(ann()).account_create_first("admin", &hash, &grants),
        other.by(ann()).account_create_first("admin", &hash, &grants)
    );
    assert_ne!(a.unwrap(), b.unwrap());
}

async fn begin(store: &Store, n: u8, hash: &str) -> bool {
    store.by(ann()).session_create(&[n; 32], "ann", hash, "192.0.2.1", LIMITS).await.unwrap()
}

async fn lasts(store: &Store, n: u8) -> bool {
    store.session_find(&[n; 32], LIMITS).await.unwrap().is_some()
}

async fn sessions_end(home: Home) {
    let (store, other) = (home.open().await, home.open().await);
    make(&store, "ann").await;
    assert!(!begin(&store, 9, "another password by now").await);
    for n in 1..=5 {
        assert!(begin(&store, n, "p1").await);
    }
    let found = other.session_find(&[1; 32], LIMITS).await.unwrap().unwrap();
    assert!(found.account.name == "ann" && found.ends_at.abs_diff(store.now() + 43_200) < 60);
    store.by(ann()).session_delete(&[1; 32]).await.unwrap();
    assert!(!lasts(&other, 1).await && lasts(&other, 2).await);

    // One that rests for too long, one that rests for less, and one that is over however much it is used.
    let (idle, used, over) =
        (format!("{:02x}", 2).repeat(32), format!("{:02x}", 3).repeat(32), format!("{:02x}", 4).repeat(32));
    let quoted = |hash: &str| if home.database().is_some() { format!("'\\x{hash}'") } else { format!("x'{hash}'") };
    home.sql(&format!("UPDATE session SET used_at = used_at - 3601 WHERE hash = {}", quoted(&idle))).await;
    home.sql(&format!("UPDATE session SET used_at = used_at - 3000 WHERE hash = {}", quoted(&used))).await;
    home.sql(&format!("UPDATE session SET created_at = created_at - 43201 WHERE hash = {}", quoted(&over))).await;
    assert_eq!((lasts(&store, 2).await, lasts(&store, 3).await, lasts(&store, 4).await), (false, true, false));
    // Having been used it may rest as long again.
    home.sql(&format!("UPDATE session SET used_at = used_at - 3000 WHERE hash = {}", quoted(&used))).await;
    assert!(lasts(&store, 3).await);

    let update = AccountUpdate { password: Some(password("p2")), ..AccountUpdate::default() };
    assert!(store.by(ann()).account_update("ann", &update, Some(&[5; 32])).await.unwrap());
    assert_eq!((lasts(&other, 3).await, lasts(&other, 5).await), (false, true));
    let update = AccountUpdate { disabled: Some(true), ..AccountUpdate::default() };
    assert!(store.by(ann()).account_update("ann", &update, None).await.unwrap());
    assert!(!lasts(&other, 5).await && !begin(&store, 6, "p2").await);
}

async fn failures_make_the_next_one_wait(home: Home) {
    let (store, other) = (home.open().await, home.open().await);
    // Longer than any test takes: time passes where it is told to.
    let [first, most, memory] = [3600, 36_000, 360_000].map(Duration::from_secs);
    let backoff = |free| Backoff { free, first, most, memory };
    let subjects = |account: &str| {
        [(Subject::Account(account.into()), backoff(3)), (Subject::Address("192.0.2.1".into()), backoff(5))]
    };
    let attempt = async |store: &Store, account: &str| store.login_attempt(&subjects(account)).await.unwrap();
    // Many at once, at both replicas, are no way around it.
    let all = futures_util::future::join_all((0..20).map(|n| {
        let (store, subjects) = (if n % 2 == 0 { &store } else { &other }, subjects("ann"));
        async move { store.login_attempt(&subjects).await.unwrap() }
    }));
    let let_in = all.await.into_iter().filter(Option::is_none).count();
    assert_eq!(let_in, 3);
    // Of the address two failures are left, whatever the account.
    assert_eq!((attempt(&store, "bob").await, attempt(&store, "bob").await), (None, None));
    let wait = attempt(&other, "eve").await.unwrap();
    assert!(wait <= first && !wait.is_zero(), "{wait:?}");
    // The wait passes; the next failure doubles it; long silence ends it.
    home.sql("UPDATE login_failure SET last_at = last_at - 3601000").await;
    assert_eq!(attempt(&store, "ann").await, None);
    assert!(attempt(&other, "ann").await.unwrap() > first);
    home.sql("UPDATE login_failure SET last_at = last_at - 360001000").await;
    assert_eq!(attempt(&store, "ann").await, None);
    // Success forgets those of the account, and of the address this one attempt.
    store.login_succeeded(&subjects("ann")).await.unwrap();
    for _ in 0..3 {
        assert_eq!(attempt(&store, "ann").await, None);
    }
    assert!(attempt(&store, "ann").await.is_some());
}
