//! People whom a provider of OpenID Connect knows.

use crate::home::{Home, ann, on_both};
use milecastle_store::{
    AccountUpdate, NewPassword, ProviderLogin, RoleGrant, SessionLimits, SignedIn, Store, StoreError,
};
use std::slice;
use std::time::Duration;

on_both!(
    an_account_is_bound_by_the_first_login,
    an_account_is_made_for_somebody_in_particular,
    accounts_are_made_where_they_may_be,
    roles_go_with_the_word_that_gave_them,
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
    assert!(by.account_create_for(ISSUER, None, "bob", &viewer()).await.unwrap());
    assert!(!by.account_create_for(ISSUER, None, "bob", &viewer()).await.unwrap());
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

async fn an_account_is_made_for_somebody_in_particular(home: Home) {
    let store = home.open().await;
    let by = store.by(ann());
    assert!(by.account_create_for(ISSUER, Some("s-1"), "bob", &viewer()).await.unwrap());
    // He has one by then.
    assert!(!by.account_create_for(ISSUER, Some("s-1"), "robert", &viewer()).await.unwrap());
    assert_eq!(sign_in(&store, "bob", &login(1, "s-2")).await, SignedIn::Taken);
    assert_eq!(store.account_of(ISSUER, "s-1").await.unwrap().unwrap().name, "bob");
    assert_eq!(sign_in(&store, "bob", &login(2, "s-1")).await, SignedIn::Done);
    let grants = viewer();
    let another = ProviderLogin { make: true, grants: Some(&grants), ..login(3, "s-1") };
    assert_eq!(sign_in(&store, "robert", &another).await, SignedIn::Taken);
}

async fn roles_go_with_the_word_that_gave_them(home: Home) {
    let store = home.open().await;
    let grant = |role: &str, group: &str| RoleGrant { role: role.to_owned(), groups: vec![group.to_owned()] };
    let by_word = async |n, name, subject, grants: &[RoleGrant]| {
        let given = ProviderLogin { make: true, grants: Some(grants), ..login(n, subject) };
        let signed_in = sign_in(&store, name, &given).await;
        (signed_in, store.account_get(name).await.unwrap().map(|account| account.grants))
    };
    let (ops, dev) = (grant("operator", "*"), grant("api_owner", "a"));
    // All by the provider's word: whoever loses it has nothing, in the sessions that he has too, and is not let in.
    assert_eq!(by_word(1, "bob", "s-1", &[]).await, (SignedIn::Roleless, None));
    assert_eq!(by_word(2, "bob", "s-1", slice::from_ref(&ops)).await, (SignedIn::Done, Some(vec![ops.clone()])));
    assert_eq!(by_word(3, "bob", "s-1", &[]).await, (SignedIn::Roleless, Some(Vec::new())));
    assert_eq!(store.session_find(&[2; 32], LIMITS).await.unwrap().unwrap().account.grants, []);
    assert!(store.session_find(&[3; 32], LIMITS).await.unwrap().is_none());
    // What was given by hand stays, and only that.
    assert!(store.by(ann()).account_create_for(ISSUER, None, "eve", &viewer()).await.unwrap());
    let both = Some(vec![viewer()[0].clone(), ops.clone()]);
    assert_eq!(by_word(4, "eve", "s-2", slice::from_ref(&ops)).await, (SignedIn::Done, both));
    // Also where whoever gives more repeats what the provider gave.
    let more = vec![viewer()[0].clone(), ops.clone(), dev.clone()];
    let update = AccountUpdate { grants: Some(more.clone()), ..AccountUpdate::default() };
    assert!(store.by(ann()).account_update("eve", &update, None).await.unwrap());
    assert_eq!(store.account_get("eve").await.unwrap().unwrap().grants, more);
    let by_hand = Some(vec![viewer()[0].clone(), dev]);
    assert_eq!(by_word(5, "eve", "s-2", &[]).await, (SignedIn::Done, by_hand));
}

async fn a_login_ends_once(home: Home) {
    let (store, other) = (home.open().await, home.open().await);
    assert!(store.by(ann()).account_create_for(ISSUER, None, "bob", &viewer()).await.unwrap());
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
