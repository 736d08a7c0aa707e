//! The operator's commands against a real cluster.

use milecastle_testkit::eventually;
use milecastle_testkit::tls::Authority;
use milecastle_tests::{Cluster, Replica};
use serde_json::json;

/// A cluster of one replica, with nodes in group `default`.
async fn cluster() -> (Cluster, Replica) {
    let cluster = Cluster::new();
    let control = cluster.control("one");
    control.ready().await;
    (cluster, control)
}

#[tokio::test]
async fn groups_and_tokens_come_and_go() {
    let (cluster, control) = cluster().await;
    let run = |args: &[&str]| cluster.operator(&control, args);
    assert_eq!(run(&["group", "create", "no good"]).code, 1);
    let made = run(&["group", "create", "prod", "--name", "Production", "--label", "env=prod"]);
    assert_eq!(made.code, 0, "{}", made.text);
    assert_eq!(run(&["group", "create", "prod"]).code, 4);
    let table = run(&["group", "list"]).text;
    assert!(table.starts_with("ID ") && table.contains("Production") && table.contains("env=prod"), "{table}");
    let json = run(&["group", "list", "-o", "json"]).json();
    assert_eq!((&json["total"], &json["list"][1]["labels"]), (&json!(2), &json!({ "env": "prod" })));
    // The group is there at once, and writes go to it alone.
    let route = json!({ "uri": "/a", "upstream": { "nodes": {} } });
    control.put("/routes/1?gateway_group_id=prod", &route).await;
    assert_eq!(control.get("/apisix/admin/routes/1").await.status, 404);
    assert_eq!(control.get("/apisix/admin/routes/1?gateway_group_id=none").await.status, 404);
    let shown = run(&["config", "get", "routes", "1", "-g", "prod"]).text;
    assert!(shown.contains("\"uri\": \"/a\""), "{shown}");
    let all = run(&["config", "get", "--group", "prod"]).text;
    assert!(all.contains("routes") && all.contains("/a"), "{all}");
    let history = run(&["config", "history", "-g", "prod", "-o", "json"]).json();
    assert_eq!((&history["list"][0]["revision"], &history["list"][0]["author"]), (&json!(1), &json!("admin")));
    let table = run(&["config", "history", "-g", "prod"]).text;
    assert!(table.lines().last().unwrap().contains("admin  api     create route 1"), "{table}");
    let changes = run(&["config", "history", "-g", "prod", "--revision", "1"]).text;
    assert_eq!(changes.lines().last().unwrap().split_whitespace().collect::<Vec<_>>(), ["create", "route", "1"]);
    assert_eq!(run(&["config", "history", "-g", "prod", "--revision", "9"]).code, 3);

    let token = run(&["token", "create", "prod", "--name", "rack 1", "--expires-in", "1d"]);
    assert!(token.text.starts_with("mc1.prod."), "{}", token.text);
    let id = token.line().split('.').nth(2).unwrap();
    assert!(
        token.text.lines().nth(1).unwrap().contains(&format!("milecastle token revoke {id} -g prod")),
        "{}",
        token.text
    );
    let listed = run(&["token", "list", "prod"]);
    assert!(
        listed.text.contains(id) && listed.text.contains("rack 1") && !listed.text.contains("mc1."),
        "{}",
        listed.text
    );
    assert_eq!(run(&["token", "list", "none"]).code, 3);
    assert_eq!(run(&["token", "revoke", id, "-g", "prod"]).code, 0);
    assert_eq!(run(&["token", "revoke", id, "-g", "prod"]).code, 3);
    let secret = token.line().split('.').nth(3).unwrap();
    assert!(!control.process.log().iter().any(|line| line.contains(secret)));

    let refused = run(&["group", "delete", "prod"]);
    assert!(refused.code == 4 && refused.text.contains("1 objects and 0 nodes"), "{}", refused.text);
    assert_eq!(run(&["group", "delete", "prod", "--force"]).code, 0);
    assert_eq!(run(&["group", "delete", "prod"]).code, 3);
    assert_eq!(run(&["group", "delete", "default", "--force"]).code, 4);
    assert_eq!(run(&["config", "get", "routes", "-g", "prod"]).code, 3);
    tokio::task::spawn_blocking(move || control.stop()).await.unwrap();
}

#[tokio::test]
async fn objects_of_all_kinds_are_shown() {
    let (cluster, control) = cluster().await;
    let run = |args: &[&str]| cluster.operator(&control, args);
    let get = || run(&["config", "get", "-o", "json"]);
    let none = get();
    assert_eq!((none.code, &none.json()["stream_routes"]), (0, &json!([])), "a group without streams: {}", none.text);
    let settings = json!({ "proxy_mode": "http&stream" });
    assert_eq!(control.call("PUT", "/api/gateway_groups/default/settings", Some(&settings)).await.status, 200);
    let identity = Authority::new("all").issue(&["a.example"]);
    let plugins = json!({ "plugins": { "request-id": {} } });
    let objects = [
        ("upstreams", "upstreams/u", json!({ "nodes": {} })),
        ("services", "services/s", json!({ "upstream_id": "u" })),
        ("graphql_cost_decorations", "services/s/graphql_cost_decorations/d", json!({ "field_path": "Query.a" })),
        ("routes", "routes/r", json!({ "uri": "/a", "service_id": "s" })),
        ("consumers", "consumers/jack", json!({ "username": "jack" })),
        ("credentials", "consumers/jack/credentials/c", json!({ "plugins": { "key-auth": { "key": "k" } } })),
        ("consumer_groups", "consumer_groups/g", plugins.clone()),
        ("plugin_configs", "plugin_configs/p", plugins.clone()),
        ("global_rules", "global_rules/g", plugins),
        ("plugin_metadata", "plugin_metadata/file-logger", json!({ "log_format": { "host": "$host" } })),
        ("ssls", "ssls/c", json!({ "cert": identity.cert, "key": identity.key, "sni": "a.example" })),
        ("protos", "protos/p", json!({ "content": "syntax = \"proto3\";" })),
        ("secrets", "secrets/vault/v", json!({ "uri": "http://127.0.0.1:8200", "prefix": "kv", "token": "t" })),
        ("stream_routes", "stream_routes/s", json!({ "server_port": 9100, "upstream_id": "u" })),
    ];
    for (_, path, body) in &objects {
        control.put(&format!("/{path}"), body).await;
    }
    let (all, table) = (get().json(), run(&["config", "get"]).text);
    assert_eq!(all.as_object().unwrap().len(), objects.len());
    for (collection, path, _) in &objects {
        let keys: Vec<_> = all[*collection].as_array().unwrap().iter().map(|object| &object["key"]).collect();
        assert_eq!(keys, [&json!(format!("/apisix/{path}"))], "{collection}");
        // The table names each by the id by which edits do.
        let id = path.split_once('/').unwrap().1;
        let named = |line: &str| line.split_whitespace().take(2).eq([*collection, id]);
        assert!(table.lines().any(named), "{collection} {id}: {table}");
    }
    // A consumer without credentials hides those of no other.
    control.put("/consumers/ann", &json!({ "username": "ann" })).await;
    assert_eq!(get().json()["credentials"], all["credentials"]);
    let one = run(&["config", "get", "secrets", "vault/v"]);
    assert!(one.code == 0 && one.text.contains("\"prefix\": \"kv\""), "{}", one.text);
    assert!(run(&["config", "get", "consumers/jack/credentials"]).text.contains("jack/credentials/c"));
    assert_eq!(run(&["config", "get", "-g", "none"]).code, 3);
    tokio::task::spawn_blocking(move || control.stop()).await.unwrap();
}

#[tokio::test]
async fn a_group_with_nodes_is_not_deleted_by_mistake() {
    let (cluster, control) = cluster().await;
    let run = |args: &[&str]| cluster.operator(&control, args);
    assert_eq!(run(&["group", "create", "edge"]).code, 0);
    cluster.hand_out(run(&["token", "create", "edge"]).line());
    let mut gateway = cluster.gateway("g1", &[control.dp_manager]);
    gateway.ready().await;
    let refused = run(&["group", "delete", "edge"]);
    assert!(refused.code == 4 && refused.text.contains("1 nodes"), "{}", refused.text);
    gateway.process.announce("configuration stream lost");
    gateway.process.announce("no configuration stream");
    gateway.process.announce("this node gets no updates");
    assert_eq!(run(&["group", "delete", "edge", "--force"]).code, 0);
    let lost = |line: &str| line.contains("the gateway group was deleted").then_some(());
    gateway.process.wait_for_line("that the group is gone", milecastle_testkit::SOON, lost);
    gateway.answers("/", 404).await;
    tokio::task::spawn_blocking(move || (gateway.stop(), control.stop())).await.unwrap();
}

#[tokio::test]
async fn a_wait_ends_with_what_the_nodes_say() {
    let cluster = Cluster::new();
    let address = milecastle_tests::free();
    // The dashboard has no streams of its own: it knows of the nodes through the database.
    let (dashboard, dp_manager) = (cluster.dashboard("d1"), cluster.dp_manager("m1", address));
    dashboard.ready().await;
    dp_manager.ready().await;
    let run = |args: &[&str]| cluster.operator(&dashboard, args);
    // Nobody has it: whoever waits for an answer of nodes must not take that for one.
    let nobody = run(&["config", "wait", "--within", "300ms"]);
    assert_eq!(nobody.code, 5, "{}", nobody.text);
    assert!(
        nobody.text.starts_with("revision 0: applied 0/0\nno node of group `default` is connected"),
        "{}",
        nobody.text
    );
    cluster.token(&dashboard);
    let gateways = [cluster.gateway("g1", &[address]), cluster.gateway("g2", &[address])];
    for gateway in &gateways {
        gateway.ready().await;
    }
    eventually("both are known", async || run(&["config", "wait"]).text == "revision 0: applied 2/2").await;
    let route = json!({ "uri": "/*", "upstream": { "nodes": {} } });
    let answer = dashboard.put("/routes/1?wait=20s", &route).await;
    assert_eq!((answer.status, answer.header("milecastle-receipt")), (201, "applied 2/2".to_owned()));
    assert_eq!(answer.json().unwrap()["key"], "/apisix/routes/1");
    // Without it the answer does not wait, and says nothing of nodes.
    assert_eq!(dashboard.put("/routes/2", &route).await.header("milecastle-receipt"), "");
    let done = run(&["config", "wait", "--within", "20s"]);
    assert_eq!((done.code, done.text.as_str()), (0, "revision 2: applied 2/2"));
    assert_eq!(run(&["config", "wait", "--revision", "9"]).code, 3);
    eventually("the list shows it", async || run(&["nodes"]).text.matches("healthy  2/2").count() == 2).await;
    // Nodes that cannot be reached are no failure of a write, and the wait says so.
    let stop = 19; // SIGSTOP
    let [mut frozen, other] = gateways;
    frozen.process.signal(stop);
    let answer = dashboard.put("/routes/3?wait=300ms", &route).await;
    let receipt = answer.header("milecastle-receipt");
    // The other node may have had no time to say so yet.
    assert!(answer.status == 201 && ["applied 1/2", "applied 0/2"].contains(&&*receipt), "{} {receipt}", answer.status);
    eventually("only the other has it", async || {
        let late = run(&["config", "wait", "--within", "200ms"]);
        (late.code, late.text.as_str()) == (5, "revision 3: applied 1/2")
    })
    .await;
    frozen.process.kill();
    eventually("it does not count any more", async || run(&["config", "wait"]).text == "revision 3: applied 1/1").await;
    assert_eq!(dashboard.call("PUT", "/apisix/admin/routes/4?wait=soon", Some(&route)).await.status, 400);
    tokio::task::spawn_blocking(move || (other.stop(), dp_manager.stop(), dashboard.stop())).await.unwrap();
}

#[tokio::test]
async fn a_dashboard_that_starts_leaves_the_answer_to_the_next() {
    let (mut cluster, control) = cluster().await;
    cluster.for_control = vec![("MILECASTLE__DATABASE__DSN", "postgres://nobody@127.0.0.1:1/nothing")];
    let mut starting = cluster.dashboard("starting");
    starting.process.announce("waiting for the database");
    let both = format!("http://{},http://{}", starting.http, control.http);
    let run = |args: &[&str], servers: &str| cluster.operator(&control, &[args, &["--server", servers]].concat());
    // A write too: one that starts has done nothing of it.
    let made = run(&["group", "create", "edge"], &both);
    assert_eq!(made.code, 0, "{}", made.text);
    assert!(run(&["group", "list"], &both).text.contains("edge"));
    let only = run(&["group", "list"], &format!("http://{}", starting.http));
    assert!(only.code == 1 && only.text.contains("the control plane is starting"), "{}", only.text);
    let nobody = milecastle_tests::free();
    let neither = run(&["group", "list"], &format!("http://{nobody},http://{}", starting.http));
    assert!(neither.code == 1 && neither.text.contains(&nobody.to_string()), "{}", neither.text);
    assert!(neither.text.contains("the control plane is starting"), "{}", neither.text);
    tokio::task::spawn_blocking(move || (starting.stop(), control.stop())).await.unwrap();
}

#[tokio::test]
async fn servers_are_tried_in_order_and_refusals_say_what_to_do() {
    let (cluster, control) = cluster().await;
    let nobody = milecastle_tests::free();
    let servers = format!("http://{nobody},http://{}", control.http);
    let said = cluster.operator(&control, &["group", "list", "--server", &servers]);
    assert!(said.code == 0 && said.text.contains("default"), "{}", said.text);
    let said = cluster.operator(&control, &["group", "list", "--server", &format!("http://{nobody}")]);
    assert!(said.code == 1 && said.text.contains("no dashboard can be reached"), "{}", said.text);
    // What is given for this once goes before what was exported for all commands.
    let file = cluster.dir.write("old-key", "wrong\n").display().to_string();
    let said = cluster.operator(&control, &["group", "list", "--admin-key-file", &file]);
    assert!(said.code == 1 && said.text.contains("none of the Admin keys"), "{}", said.text);
    let said = cluster.operator(&control, &["group", "list", "--admin-key", "wrong"]);
    assert!(said.code == 1 && said.text.contains("MILECASTLE_ADMIN_KEY"), "{}", said.text);
    assert_eq!(cluster.operator(&control, &["group"]).code, 2);
    tokio::task::spawn_blocking(move || control.stop()).await.unwrap();
}
