//! A PostgreSQL that vanishes without a word, and comes back for new connections only: as after a failover to another machine.

use std::net::SocketAddr;
use std::time::Duration;

use milecastle_store::{
    DEFAULT_GROUP, DraftLimits, DraftUpdate, GroupUpdate, NewGroup, NewToken, NodeReport, Op, OpenError, PublishError,
    Put, Store, StoreError, Tuning, open, open_with,
};
use milecastle_testkit::{SOON, eventually, wait_for};
use sqlx::{Connection as _, Executor as _};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::home::{Home, ann, body, nodes, office, publish, put, revision, route, set};

/// Passes connections on, until it is told to hold those that there are: open, and mute.
struct Link {
    address: SocketAddr,
    held: watch::Sender<u64>,
}

impl Link {
    async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (held, generation) = watch::channel(0_u64);
        tokio::spawn(async move {
            loop {
                let (mut client, _) = listener.accept().await.unwrap();
                let mut generation = generation.clone();
                generation.borrow_and_update();
                tokio::spawn(async move {
                    let mut server = TcpStream::connect(server).await.unwrap();
                    tokio::select! {
                        // Either side may have closed it, which is its own affair.
                        _ = copy_bidirectional(&mut client, &mut server) => {}
                        Ok(()) = generation.changed() => std::future::pending().await,
                    }
                });
            }
        });
        Self { address, held }
    }

    fn hold(&self) {
        self.held.send_modify(|generation| *generation += 1);
    }
}

/// The store of a home by way of a link, with little patience.
async fn linked(home: &Home) -> (Store, Link) {
    let (before, rest) = home.dsn.split_once("127.0.0.1:").unwrap();
    let (port, rest) = rest.split_once('/').unwrap();
    let link = Link::to(SocketAddr::from(([127, 0, 0, 1], port.parse().unwrap()))).await;
    let dsn = format!("{before}{}/{rest}", link.address);
    let second = Duration::from_secs(1);
    let tuning = Tuning { max_connections: 3, acquire_timeout: second, statement_timeout: second, ..Tuning::default() };
    (open_with(&dsn, &home.key, &tuning).await.unwrap(), link)
}

/// Whether a transaction waits for another one.
fn waits_for_a_row(home: &Home) -> bool {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    home.database().unwrap().query(sql).unwrap().trim() != "0"
}

#[tokio::test]
async fn what_waits_for_a_mute_server_is_given_up_and_the_next_one_found() {
    let home = Home::postgres("conformance::silence");
    let (store, link) = linked(&home).await;
    let direct = open(&home.dsn, &home.key).await.unwrap();
    for round in 0..3 {
        revision(&store, vec![put(route("1"), &format!("{round}"))]).await;
        // A write waits in its transaction when the server falls silent.
        let mut holder = sqlx::PgConnection::connect(&home.dsn).await.unwrap();
        holder.execute("BEGIN; SELECT 1 FROM gateway_group FOR UPDATE").await.unwrap();
        let waiting = {
            let store = store.clone();
            tokio::spawn(async move { publish(&store, vec![put(route("2"), &format!("{round}"))]).await })
        };
        eventually("a write waits", async || waits_for_a_row(&home)).await;
        link.hold();
        // The server that comes in its place knows nothing of what was under way.
        let forget = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                      WHERE datname = current_database() AND wait_event_type = 'Lock'";
        holder.execute(forget).await.unwrap();
        holder.close().await.unwrap();
        let refused = waiting.await.unwrap().unwrap_err();
        assert!(matches!(refused, PublishError::Store(StoreError::Unavailable(_))), "{refused}");
        let write = async || publish(&store, vec![put(route("3"), &format!("{round}"))]).await.ok();
        wait_for("a write on a new connection", SOON, write).await;
    }
    // It hears of others again.
    let mut watch = store.watch();
    let last = revision(&direct, vec![put(route("1"), "last")]).await;
    while watch.heads()[DEFAULT_GROUP].revision < last {
        watch.changed().await.unwrap();
    }
}

#[tokio::test]
async fn whoever_waits_long_for_the_migration_of_another_replica_hears_of_it() {
    let home = Home::postgres("conformance::silence");
    let mut migrating = sqlx::PgConnection::connect(&home.dsn).await.unwrap();
    let lock = sqlx::query("SELECT pg_advisory_lock($1)").bind(i64::from_be_bytes(*b"mileCAST"));
    lock.execute(&mut migrating).await.unwrap();
    let tuning = Tuning { statement_timeout: Duration::from_millis(500), ..Tuning::default() };
    let refused = open_with(&home.dsn, &home.key, &tuning).await.err().unwrap();
    assert!(matches!(&refused, OpenError::Store(StoreError::Busy(why)) if why.contains("schema")), "{refused}");
    assert!(refused.may_pass());
    migrating.close().await.unwrap();
    home.open().await.close().await;
}

#[tokio::test]
async fn notices_come_again_after_their_connection_fell_silent() {
    let home = Home::postgres("conformance::silence");
    let (_store, link) = linked(&home).await;
    let listeners = || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'";
        home.database().unwrap().query(sql).unwrap().trim().parse::<u32>().unwrap()
    };
    eventually("it listens", async || listeners() == 1).await;
    link.hold();
    // That of the mute connection is still there.
    eventually("it listens on another connection", async || listeners() == 2).await;
}

#[tokio::test]
async fn writers_of_a_group_that_is_held_keep_nobody_from_another_one() {
    let home = Home::postgres("conformance::silence");
    let store = open(&home.dsn, &home.key).await.unwrap();
    store.by(ann()).group_create(&NewGroup::named("other")).await.unwrap();
    let token = NewToken {
        id: "t".to_owned(),
        group: "other".to_owned(),
        name: "t".to_owned(),
        hash: [1; 32],
        expires_at: None,
    };
    store.by(ann()).token_create(&token).await.unwrap();
    let mut holder = sqlx::PgConnection::connect(&home.dsn).await.unwrap();
    holder.execute("BEGIN; SELECT 1 FROM gateway_group WHERE id = 'default' FOR UPDATE").await.unwrap();
    // More than there are turns, and than there are connections.
    let writers: Vec<_> = (0..20)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move { publish(&store, vec![put(route(&n.to_string()), "")]).await })
        })
        .collect();
    eventually("a write waits", async || waits_for_a_row(&home)).await;
    store.ping().await.unwrap();
    assert!(store.by(ann()).token_revoke("other", "t").await.unwrap());
    store.by(ann()).publish("other", set(vec![put(route("1"), "")])).await.unwrap();
    assert!(writers.iter().all(|writer| !writer.is_finished()), "the group is held");
    holder.close().await.unwrap();
    for writer in writers {
        writer.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_token_is_revoked_in_the_order_in_which_a_group_is_deleted() {
    let home = Home::postgres("conformance::silence");
    let store = home.open().await;
    nodes(&store, &[]).await;
    let mut holder = sqlx::PgConnection::connect(&home.dsn).await.unwrap();
    holder.execute("BEGIN; SELECT 1 FROM gateway_group FOR UPDATE").await.unwrap();
    let revoking = {
        let store = store.clone();
        tokio::spawn(async move { store.by(ann()).token_revoke(DEFAULT_GROUP, "t").await })
    };
    eventually("it waits for the group", async || waits_for_a_row(&home)).await;
    holder.execute("SELECT 1 FROM token FOR UPDATE NOWAIT").await.unwrap();
    holder.close().await.unwrap();
    assert!(revoking.await.unwrap().unwrap());
}

#[tokio::test]
async fn a_group_that_cannot_be_had_keeps_no_lifetime_of_another_one_from_ending() {
    let home = Home::postgres("conformance::silence");
    let store = home.open().await;
    store.by(ann()).group_create(&NewGroup::named("other")).await.unwrap();
    for group in [DEFAULT_GROUP, "other"] {
        let put = Put { expires_at: Some(1), ..Put::new(route("1"), body("")) };
        store.by(ann()).publish(group, set(vec![Op::Put(put)])).await.unwrap();
    }
    home.sql(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$; \
         CREATE TRIGGER refuse BEFORE DELETE ON resource FOR EACH ROW WHEN (OLD.group_id = 'default') \
         EXECUTE FUNCTION refuse()",
    )
    .await;
    let refused = store.expire_due(office(&store).await, 1).await.unwrap_err();
    assert!(matches!(refused, PublishError::Store(StoreError::Database(_))), "{refused}");
    assert!(store.load("other").await.unwrap().objects.is_empty());
    assert_eq!(store.load(DEFAULT_GROUP).await.unwrap().objects.len(), 1);
}

/// One of the writes that hold the row of the default group.
async fn write(store: &Store, n: u8) {
    let (by, ops) = (store.by(ann()), vec![put(route(&n.to_string()), "")]);
    match n % 8 {
        0 => by.publish(DEFAULT_GROUP, set(ops)).await.map(drop).unwrap(),
        1 => by.rehearse(DEFAULT_GROUP, set(ops)).await.map(drop).unwrap(),
        2 => {
            let (id, nothing) = (format!("d{n}"), DraftUpdate::default());
            let limits = DraftLimits { drafts: 100, objects: 1, bytes: 1 };
            by.draft_create(DEFAULT_GROUP, &id, &nothing, limits).await.map(drop).unwrap();
        }
        3 => by.group_update(DEFAULT_GROUP, &GroupUpdate::default()).await.map(drop).unwrap(),
        4 => by.group_supersede(DEFAULT_GROUP, &["over".to_owned()], false).await.map(drop).unwrap(),
        5 => by.group_maintain(DEFAULT_GROUP, None).await.unwrap(),
        6 => assert!(by.node_maintain(DEFAULT_GROUP, "a", None).await.unwrap()),
        // Of these the first one finds it.
        _ => by.token_revoke(DEFAULT_GROUP, "t").await.map(drop).unwrap(),
    }
}

#[tokio::test]
async fn whoever_waits_for_a_group_that_is_held_has_no_connection() {
    let home = Home::postgres("conformance::silence");
    // The least that there may be: one for notices, one that holds the group, one for all others.
    let tuning = Tuning { max_connections: 3, acquire_timeout: SOON, ..Tuning::default() };
    let store = open_with(&home.dsn, &home.key, &tuning).await.unwrap();
    nodes(&store, &["a"]).await;
    let held = store.by(ann()).rollout_hold(DEFAULT_GROUP).await.unwrap();
    let writers: Vec<_> = (0..24)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move { Box::pin(write(&store, n)).await })
        })
        .collect();
    // However often the writers come to their turn meanwhile.
    for _ in 0..100 {
        store.ping().await.unwrap();
    }
    assert!(writers.iter().all(|writer| !writer.is_finished()), "the group is held");
    drop(held);
    for writer in writers {
        writer.await.unwrap();
    }
}

#[tokio::test]
async fn a_node_reports_while_somebody_waits_to_put_it_in_maintenance() {
    let home = Home::postgres("conformance::silence");
    // Another process: within one, writers wait for each other without the database.
    let (store, other) = (home.open().await, home.open().await);
    nodes(&store, &["a"]).await;
    let held = other.by(ann()).rollout_hold(DEFAULT_GROUP).await.unwrap();
    let maintaining = {
        let store = store.clone();
        tokio::spawn(async move { store.by(ann()).node_maintain(DEFAULT_GROUP, "a", None).await })
    };
    eventually("it is waited for the group", async || waits_for_a_row(&home)).await;
    let report = NodeReport { boot: "b".to_owned(), reported_at: store.now(), ..NodeReport::default() };
    store.node_report(&[(DEFAULT_GROUP.to_owned(), "a".to_owned(), report)]).await.unwrap();
    drop(held);
    assert!(maintaining.await.unwrap().unwrap());
}
