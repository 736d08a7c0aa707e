//! Keys of the Admin API that are lost, and made anew on the machine itself.

use http::Method;
use milecastle_testkit::process::binary;
use milecastle_testkit::{Call, TempDir, eventually};
use milecastle_tests::{ADMIN_KEY, Cluster, Said, Up};
use std::net::SocketAddr;
use std::process::Command;

/// `milecastle key` with these arguments.
fn key(args: &[&str], environment: &[(&str, &str)]) -> Said {
    Said::by(Command::new(binary()).arg("key").args(args).envs(environment.iter().copied()))
}

async fn status(address: SocketAddr, key: &str) -> u16 {
    Call::get("/apisix/admin/routes").header("X-API-KEY", key).to(address).await.unwrap().status
}

#[tokio::test]
async fn a_lost_key_is_replaced_beside_the_running_process() {
    let up = Up::start();
    let data = up.data.path().join("data");
    let run = |args: &[&str]| key(&[args, &["--data", data.to_str().unwrap()]].concat(), &[]);
    let unfit = run(&["create", "a b"]);
    assert!(unfit.code == 1 && unfit.text.contains("1 to 64 of"), "{}", unfit.text);
    let taken = run(&["create", "admin"]);
    assert!(taken.code == 4 && taken.text.contains("--replace"), "{}", taken.text);
    let made = run(&["create", "admin", "--replace"]);
    assert_eq!(made.code, 0, "{}", made.text);
    eventually("the new key opens", async || status(up.admin, made.line()).await == 200).await;
    assert_eq!(status(up.admin, ADMIN_KEY).await, 401);
    let reader = run(&["create", "reader", "--allows", "viewer"]);
    eventually("the viewer reads", async || status(up.admin, reader.line()).await == 200).await;
    let unknown = run(&["create", "ops", "--allows", "nobody"]);
    assert!(unknown.code == 1 && unknown.text.contains("milecastle role list"), "{}", unknown.text);
    let owner = run(&["create", "owner", "--allows", "api_owner"]);
    eventually("the owner reads", async || status(up.admin, owner.line()).await == 200).await;
    for (path, expected) in [("routes", 201), ("global_rules", 403)] {
        let call = Call::new(Method::PUT, &format!("/apisix/admin/{path}/1")).header("X-API-KEY", owner.line());
        let put = call.body(r#"{"uri":"/a","plugins":{}}"#).to(up.admin).await.unwrap();
        assert_eq!(put.status, expected, "{}", put.text());
    }
    let listed = run(&["list"]).text;
    assert!(listed.contains("admin ") && listed.contains("reader  viewer "), "{listed}");
    assert!(listed.contains("owner   api_owner "), "{listed}");
    for secret in [made.line(), reader.line(), owner.line()] {
        assert!(!listed.contains(secret) && !up.process.log().iter().any(|line| line.contains(secret)));
    }
    assert_eq!(run(&["delete", "reader"]).code, 0);
    assert_eq!(run(&["delete", "reader"]).code, 3);
    eventually("it reads no more", async || status(up.admin, reader.line()).await == 401).await;
}

#[tokio::test]
async fn a_key_is_made_in_the_database_of_a_cluster() {
    let cluster = Cluster::new();
    let control = cluster.control("one");
    control.ready().await;
    let made = key(&["create", "second", "--role", "control", "--config", &cluster.file("one")], &[]);
    assert_eq!(made.code, 0, "{}", made.text);
    eventually("the new key opens", async || status(control.http, made.line()).await == 200).await;
    tokio::task::spawn_blocking(move || control.stop()).await.unwrap();
}

#[test]
fn nothing_is_made_where_nothing_is() {
    let home = TempDir::new();
    let none = home.path().join("none");
    let said = key(&["create", "admin", "--data", none.to_str().unwrap()], &[]);
    assert!(said.code == 1 && said.text.contains("there is no "), "{}", said.text);
    assert!(!none.exists());
    let said = key(&["list", "--data", none.to_str().unwrap(), "--role", "control"], &[]);
    assert!(said.code == 1 && said.text.contains("--config"), "{}", said.text);
    let said = key(&["list", "--role", "gateway"], &[]);
    assert!(said.code == 1 && said.text.contains("the file of a control plane"), "{}", said.text);
}
