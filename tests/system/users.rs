//! A password that is forgotten, and made anew on the machine itself.

use http::Method;
use milecastle_testkit::process::binary;
use milecastle_testkit::{Answer, Call, eventually};
use milecastle_tests::{Cluster, Replica, Said};
use serde_json::json;
use std::net::SocketAddr;
use std::process::Command;

/// `milecastle user` with these arguments.
fn user(args: &[&str]) -> Said {
    Said::by(Command::new(binary()).arg("user").args(args))
}

async fn login(address: SocketAddr, name: &str, password: &str) -> Answer {
    let body = json!({ "name": name, "password": password }).to_string();
    let call = Call::new(Method::POST, "/api/session").header("content-type", "application/json").body(body);
    call.to(address).await.unwrap()
}

/// The password of the first account, as a start has shown it.
fn shown(control: &Replica) -> Option<String> {
    let log = control.process.log();
    let mut after = log.iter().skip_while(|line| !line.contains("Password of the account `admin`")).skip(1);
    after.find(|line| !line.trim().is_empty()).map(|line| line.trim().to_owned())
}

#[tokio::test]
async fn the_first_start_shows_a_password_that_opens_the_first_account_and_no_later_one_does() {
    let cluster = Cluster::new();
    let control = cluster.control("one");
    control.ready().await;
    eventually("the password is shown", async || shown(&control).is_some()).await;
    let told = login(control.http, "admin", &shown(&control).unwrap()).await;
    assert_eq!((told.status, &told.json().unwrap()["must_change_password"]), (201, &json!(true)), "{}", told.text());
    let next = cluster.control("two");
    next.ready().await;
    tokio::task::spawn_blocking(move || {
        control.stop();
        assert_eq!(shown(&next), None);
        next.stop();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_forgotten_password_is_replaced_beside_the_running_process() {
    let cluster = Cluster::new();
    let control = cluster.control("one");
    control.ready().await;
    let file = cluster.file("one");
    let run = |args: &[&str]| user(&[args, &["--role", "control", "--config", &file]].concat());
    // The first start has made the account.
    let made = run(&["passwd", "admin"]);
    assert_eq!(made.code, 0, "{}", made.text);
    let told = login(control.http, "admin", made.line()).await;
    assert_eq!((told.status, &told.json().unwrap()["must_change_password"]), (201, &json!(true)), "{}", told.text());
    let again = run(&["passwd", "admin"]);
    assert_eq!(login(control.http, "admin", made.line()).await.status, 401);
    assert_eq!(login(control.http, "admin", again.line()).await.status, 201);
    assert_eq!((run(&["passwd", "nobody"]).code, run(&["create", "admin"]).code), (3, 4));
    let unfit = run(&["create", "ann", "--allows", "god"]);
    assert!(unfit.code == 1 && unfit.text.contains("there is no role `god`"), "{}", unfit.text);
    let ann = run(&["create", "ann", "--allows", "operator"]);
    assert_eq!(run(&["disable", "ann"]).code, 0);
    assert_eq!(login(control.http, "ann", ann.line()).await.status, 401);
    let listed = run(&["list"]).text;
    assert!(listed.contains("operator") && listed.contains("disabled"), "{listed}");
    assert_eq!(run(&["enable", "ann"]).code, 0);
    assert_eq!(login(control.http, "ann", ann.line()).await.status, 201);
    let role = |args: &[&str]| {
        Said::by(Command::new(binary()).arg("role").args(args).args(["--role", "control", "--config", &file]))
    };
    let unfit = role(&["create", "dev", "--read", "routes,spells"]);
    assert!(unfit.code == 1 && unfit.text.contains("there is no resource `spells`"), "{}", unfit.text);
    assert_eq!(role(&["create", "dev", "--read", "routes,nodes", "--write", "routes"]).code, 0);
    assert_eq!((role(&["create", "dev"]).code, role(&["delete", "viewer"]).code), (4, 3));
    assert_eq!(run(&["create", "bob", "--allows", "dev"]).code, 0);
    let in_use = role(&["delete", "dev"]);
    assert!(in_use.code == 4 && in_use.text.contains("account `bob`"), "{}", in_use.text);
    assert_eq!(role(&["change", "dev", "--write", "upstreams", "--description", "who develops"]).code, 0);
    let roles = role(&["list"]).text;
    assert!(
        roles.contains("nodes, routes") && roles.contains("upstreams") && roles.contains("who develops"),
        "{roles}"
    );
    assert_eq!((run(&["delete", "bob"]).code, role(&["delete", "dev"]).code), (0, 0));
    for secret in [made.line(), again.line(), ann.line()] {
        assert!(!listed.contains(secret) && !control.process.log().iter().any(|line| line.contains(secret)));
    }
    assert_eq!((run(&["delete", "ann"]).code, run(&["delete", "ann"]).code), (0, 3));
    // All of it is in the audit log, and none of the passwords.
    let audit = |args: &[&str]| cluster.operator(&control, &[&["audit"], args].concat());
    let exported = audit(&["export", "--kind", "account", "--object", "ann"]);
    let told: Vec<_> = exported.json().as_array().unwrap().iter().map(|one| one["action"].clone()).collect();
    assert_eq!(told, ["delete", "update", "update", "create"], "{}", exported.text);
    let first = &exported.json()[3];
    assert_eq!((&first["actor_kind"], &first["after"]["roles"][0]["role"]), (&json!("machine"), &json!("operator")));
    let shown = audit(&["show", &first["id"].to_string()]);
    assert_eq!(shown.json(), *first);
    let listed = audit(&["list", "--kind", "session", "--since", "1h", "-n", "3"]).text;
    assert!(
        listed.contains("sign_in") && listed.lines().last().unwrap().starts_with("older ones: --before "),
        "{listed}"
    );
    let everything = audit(&["export", "--format", "csv"]).text;
    assert!(everything.starts_with("id,at_ms,"), "{everything}");
    for secret in [made.line(), again.line(), ann.line()] {
        assert!(!everything.contains(secret));
    }
    assert_eq!((audit(&["show", "99999"]).code, audit(&["list", "-n", "501"]).code), (3, 1));
    tokio::task::spawn_blocking(move || control.stop()).await.unwrap();
}
