//! People whom a provider of OpenID Connect knows.

use crate::home::{Home, ann, on_both};
use milecastle_store::{
    AccountUpdate, NewPassword, ProviderLogin, RoleGrant, SessionLimits, SignedIn, Store, StoreError,
};
use std::time::Duration;

on_both!(
    an_account_is_bound_by_the_first_login,
    accounts_are_made_where_they_may_be,
    a_login_ends_once,
    of_many_first_logins_one_makes_the_account,
);

const LIMITS: SessionLimits = SessionLimits { idle: Duration::from_secs(3600), max: Duration::from_secs(43_200) };
const ISSUER: &str = "https://id.example.com";

/// A login of its own, by its number.
fn login(n: u8, subject: &str) -> ProviderLogin<'_> {
    ProviderLogin {
        hash: [n; 32],
        remembered: Duration::from_secs(600),
        issuer: ISSUER,
        subject,
        grants: None,
        make: false,
        session: [n; 32],
        address: "192.0.2.1",
        limits: LIMITS,
    }
}

async fn sign_in(store: &Store, name: &str, given: &ProviderLogin<'_>) -> SignedIn {
    store.by(ann()).session_create_by(name, given).await.unwrap()
}

fn viewer() -> [RoleGrant; 1] {
    [RoleGrant::everywhere("viewer")]
}

async fn an_account_is_bound_by_the_first_login(home: Home) {
    let (store, other) = (home.open().await, home.open().await);
    let by = store.by(ann());
    assert_eq!(sign_in(&store, "bob", &login(1, "s-1")).await, SignedIn::Unknown);
    assert!(by.account_create_for(ISSUER, "bob", &viewer()).await.unwrap());
    assert!(!by.account_create_for(ISSUER, "bob", &viewer()).await.unwrap());
    assert_eq!(store.account_password_hash("bob").await.unwrap(), None);
    assert_eq!(store.account_of(ISSUER, "s-1").await.unwrap(), None);
    assert_eq!(sign_in(&store, "bob", &login(2, "s-1")).await, SignedIn::Done);
    assert_eq!(other.session_find(&[2; 32], LIMITS).await.unwrap().unwrap().account.name, "bob");
    assert_eq!(other.account_of(ISSUER, "s-1").await.unwrap().unwrap().name, "bob");
    assert_eq!(sign_in(&other, "bob", &login(3, "s-2")).await, SignedIn::Taken);
    let elsewhere = ProviderLogin { issuer: "https://other.example.com", ..login(4, "s-1") };
    assert_eq!(sign_in(&store, "bob", &elsewhere).await, SignedIn::Taken);
    let password = NewPassword { hash: "p".to_owned(), must_change: false };
    assert!(by.account_create("root", &password, &viewer()).await.unwrap());
    assert_eq!(sign_in(&store, "root", &login(5, "s-5")).await, SignedIn::Taken);
    let disable = AccountUpdate { disabled: Some(true), ..AccountUpdate::default() };
    assert!(by.account_update("bob", &disable, None).await.unwrap());
    assert_eq!(sign_in(&store, "bob", &login(6, "s-1")).await, SignedIn::Disabled);
    assert!(store.session_find(&[2; 32], LIMITS).await.unwrap().is_none());
}

async fn accounts_are_made_where_they_may_be(home: Home) {
    let store = home.open().await;
    let (some, more) = (viewer(), [RoleGrant::everywhere("operator")]);
    let making = |n, grants| ProviderLogin { make: true, grants: Some(grants), ..login(n, "s-1") };
    assert_eq!(sign_in(&store, "bob", &making(1, &some)).await, SignedIn::Done);
    let account = store.account_of(ISSUER, "s-1").await.unwrap().unwrap();
    assert_eq!((&*account.name, &account.grants[..], account.must_change), ("bob", &some[..], false));
    assert_eq!(sign_in(&store, "bob", &making(2, &more)).await, SignedIn::Done);
    assert_eq!(store.account_get("bob").await.unwrap().unwrap().grants, more);
    let none = [RoleGrant::everywhere("none")];
    for name in ["bob", "eve"] {
        let given = ProviderLogin { subject: if name == "bob" { "s-1" } else { "s-2" }, ..making(3, &none) };
        let refused = store.by(ann()).session_create_by(name, &given).await;
        assert!(matches!(refused, Err(StoreError::UnknownRole(role)) if role == "none"));
    }
    assert_eq!(store.account_get("eve").await.unwrap(), None);
}

async fn a_login_ends_once(home: Home) {
    let (store, other) = (home.open().await, home.open().await);
    assert!(store.by(ann()).account_create_for(ISSUER, "bob", &viewer()).await.unwrap());
    let again = |session| ProviderLogin { session: [session; 32], ..login(1, "s-1") };
    assert_eq!(sign_in(&store, "bob", &again(1)).await, SignedIn::Done);
    assert_eq!(sign_in(&other, "bob", &again(2)).await, SignedIn::Repeated);
    assert!(store.session_find(&[2; 32], LIMITS).await.unwrap().is_none());
    // It is remembered for as long as a login may take, and no longer.
    home.sql("UPDATE login_done SET at = at - 601").await;
    assert_eq!(sign_in(&store, "bob", &login(3, "s-1")).await, SignedIn::Done);
    assert_eq!(sign_in(&store, "bob", &again(4)).await, SignedIn::Done);
}

async fn of_many_first_logins_one_makes_the_account(home: Home) {
    let (store, other) = (home.open().await, home.open().await);
    let grants = viewer();
    let all = (1..=8).map(|n| {
        let (store, grants) = (if n % 2 == 0 { &store } else { &other }, &grants);
        async move {
            let given = ProviderLogin { make: true, grants: Some(grants), ..login(n, "s-1") };
            sign_in(store, "bob", &given).await
        }
    });
    let all = futures_util::future::join_all(all).await;
    assert!(all.iter().all(|one| *one == SignedIn::Done), "{all:?}");
    assert_eq!(store.account_list().await.unwrap().len(), 1);
}
