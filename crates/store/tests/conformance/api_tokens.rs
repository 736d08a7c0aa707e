//! Tokens of machines that use the API.

use crate::home::{Home, ann, on_both};
use milecastle_store::{NewApiToken, RoleGrant};

on_both!(api_tokens);

async fn api_tokens(home: Home) {
    let (store, other) = (home.open().await, home.open().await);
    let grants = vec![RoleGrant::everywhere("viewer"), RoleGrant { role: "operator".into(), groups: vec!["a".into()] }];
    for (n, expires_at) in [(1, None), (2, Some(1))] {
        let (id, name) = (format!("t{n}"), format!("token {n}"));
        let new = NewApiToken { id, name, hash: [n; 32], grants: grants.clone(), created_by: "ann".into(), expires_at };
        store.by(ann()).api_token_create(&new).await.unwrap();
    }
    let find = async |n: u8| other.api_token_find(&[n; 32]).await.unwrap();
    let found = find(1).await.unwrap();
    assert_eq!((&*found.id, &*found.name, &*found.created_by), ("t1", "token 1", "ann"));
    assert_eq!((&found.grants, found.used_at, &found.used_from), (&grants, None, &None));
    assert_eq!(other.api_token_get("t1").await.unwrap().as_ref(), Some(&found));
    assert_eq!(other.api_token_get("t3").await.unwrap(), None);
    assert!(found.is_good(store.now()) && !find(2).await.unwrap().is_good(store.now()));
    assert!(find(3).await.is_none());
    store.api_token_used(&found, "192.0.2.1").await.unwrap();
    let used = find(1).await.unwrap();
    assert!(used.used_at.is_some_and(|at| at.abs_diff(store.now()) < 60));
    // Once a minute is enough.
    store.api_token_used(&used, "192.0.2.2").await.unwrap();
    store.api_token_used(&found, "192.0.2.2").await.unwrap();
    assert_eq!(find(1).await.unwrap().used_from.as_deref(), Some("192.0.2.1"));
    assert!(store.by(ann()).api_token_revoke("t1").await.unwrap());
    assert!(
        !store.by(ann()).api_token_revoke("t1").await.unwrap()
            && !store.by(ann()).api_token_revoke("t3").await.unwrap()
    );
    assert!(!find(1).await.unwrap().is_good(store.now()));
    assert!(other.api_token_get("t1").await.unwrap().unwrap().revoked_at.is_some());
    let listed: Vec<_> = store.api_token_list().await.unwrap().into_iter().map(|token| token.id).collect();
    assert_eq!(listed, ["t1", "t2"]);
}
