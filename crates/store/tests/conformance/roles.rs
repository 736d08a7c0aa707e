//! Roles beside the built-in ones.

use crate::home::{Home, ann, on_both};
use milecastle_store::{
    AccountUpdate, NewApiToken, NewPassword, RoleError, RoleGrant, RoleHolder, RoleUpdate, Store, StoreError,
};

on_both!(roles, a_role_in_use_stays, a_role_that_is_deleted_is_given_to_nobody);

fn role(reads: &[&str]) -> RoleUpdate {
    let names = reads.iter().map(|name| (*name).to_owned()).collect();
    RoleUpdate { description: format!("reads {}", reads.len()), allows: [("read".to_owned(), names)].into() }
}

async fn account(store: &Store, name: &str, role: &str) -> Result<bool, StoreError> {
    let password = NewPassword { hash: "p".to_owned(), must_change: false };
    store.by(ann()).account_create(name, &password, &[RoleGrant::everywhere(role)]).await
}

async fn token(store: &Store, n: u8, role: &str, expires_at: Option<u64>) -> Result<(), StoreError> {
    let (id, name, created_by) = (format!("t{n}"), "ci".to_owned(), "ann".to_owned());
    let grants = vec![RoleGrant::everywhere("viewer"), RoleGrant::everywhere(role)];
    let new = NewApiToken { id, name, hash: [n; 32], grants, created_by, expires_at };
    store.by(ann()).api_token_create(&new).await
}

async fn roles(home: Home) {
    let (store, other) = (home.open().await, home.open().await);
    let by = store.by(ann());
    by.role_create("dev", &role(&["routes", "nodes"])).await.unwrap();
    by.role_create("art", &role(&[])).await.unwrap();
    for taken in ["dev", "viewer"] {
        assert!(matches!(by.role_create(taken, &role(&[])).await, Err(RoleError::Exists(name)) if name == taken));
    }
    let names: Vec<_> = other.role_list().await.unwrap().into_iter().map(|role| role.name).collect();
    assert_eq!(names, ["art", "dev"]);
    by.role_update("dev", 1, &role(&["routes"])).await.unwrap();
    let stored = other.role_get("dev").await.unwrap().unwrap();
    assert_eq!((stored.version, stored.allows), (2, role(&["routes"]).allows));
    let stale = by.role_update("dev", 1, &role(&[])).await;
    assert!(matches!(stale, Err(RoleError::Stale { expected: 1, current: 2 })), "{stale:?}");
    assert!(matches!(by.role_delete("dev", 1).await, Err(RoleError::Stale { .. })));
    assert!(matches!(by.role_update("none", 1, &role(&[])).await, Err(RoleError::Missing(_))));
    assert!(matches!(by.role_delete("viewer", 1).await, Err(RoleError::Missing(_))));
    let grants = ["dev", "viewer", "none", "dev"].map(RoleGrant::everywhere);
    let found: Vec<_> = other.roles_of(&grants).await.unwrap().into_iter().map(|role| role.name).collect();
    assert_eq!(found, ["dev"]);
    by.role_delete("dev", 2).await.unwrap();
    assert_eq!(other.role_get("dev").await.unwrap(), None);
}

async fn a_role_in_use_stays(home: Home) {
    let store = home.open().await;
    let by = store.by(ann());
    by.role_create("dev", &role(&["routes"])).await.unwrap();
    let holders = async || match store.by(ann()).role_delete("dev", 1).await {
        Err(RoleError::Held { by, .. }) => by,
        other => panic!("{other:?}"),
    };
    assert!(account(&store, "bob", "dev").await.unwrap());
    token(&store, 1, "dev", None).await.unwrap();
    // One that opens nothing holds nothing.
    token(&store, 2, "dev", Some(1)).await.unwrap();
    let (id, name) = ("t1".to_owned(), "ci".to_owned());
    assert_eq!(holders().await, [RoleHolder::Account("bob".to_owned()), RoleHolder::Token { id, name }]);
    assert!(by.api_token_revoke("t1").await.unwrap());
    assert_eq!(holders().await, [RoleHolder::Account("bob".to_owned())]);
    let viewer = Some(vec![RoleGrant::everywhere("viewer")]);
    let update = AccountUpdate { grants: viewer, ..AccountUpdate::default() };
    assert!(by.account_update("bob", &update, None).await.unwrap());
    by.role_delete("dev", 1).await.unwrap();
}

async fn a_role_that_is_deleted_is_given_to_nobody(home: Home) {
    let (store, other) = (home.open().await, home.open().await);
    let unknown = |error: StoreError| matches!(error, StoreError::UnknownRole(name) if name == "dev");
    assert!(unknown(account(&store, "bob", "dev").await.unwrap_err()));
    assert!(unknown(token(&store, 1, "dev", None).await.unwrap_err()));
    assert!(account(&store, "bob", "viewer").await.unwrap());
    let grants = Some(vec![RoleGrant::everywhere("dev")]);
    let update = AccountUpdate { grants, ..AccountUpdate::default() };
    assert!(unknown(store.by(ann()).account_update("bob", &update, None).await.unwrap_err()));
    // Where both come at once, either it is there and given, or deleted and given to nobody.
    for n in 0..8 {
        let name = format!("c{n}");
        store.by(ann()).role_create("dev", &role(&["routes"])).await.unwrap();
        let (given, deleted) = tokio::join!(account(&store, &name, "dev"), other.by(ann()).role_delete("dev", 1));
        match (given, deleted) {
            (Ok(true), Err(RoleError::Held { .. })) => {
                assert!(store.by(ann()).account_delete(&name).await.unwrap());
                store.by(ann()).role_delete("dev", 1).await.unwrap();
            }
            (Err(error), Ok(())) => assert!(unknown(error)),
            both => panic!("{both:?}"),
        }
    }
}
