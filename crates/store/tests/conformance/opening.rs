//! First starts, second starts, and starts that cannot be.

use milecastle_store::{
    DEFAULT_GROUP, GroupError, NewGroup, NewMember, Op, OpenError, PublishError, Put, StoreError, open,
};
use milecastle_testkit::postgres::Cluster;
use milecastle_testkit::tls::Authority;

use crate::home::{Home, ann, body, office, on_both, publish, put, revision, route};

on_both!(
    what_is_written_is_there_after_reopening,
    a_newer_schema_that_adds_is_lived_with,
    a_newer_schema_with_a_rule_is_left_alone,
    a_rule_that_comes_while_a_store_is_open_ends_its_writes,
    a_rule_is_noticed_where_nothing_else_can_be_read,
);

async fn what_is_written_is_there_after_reopening(home: Home) {
    let store = home.open().await;
    revision(&store, vec![put(route("1"), "a")]).await;
    let (head, group) = (store.head(DEFAULT_GROUP).await.unwrap(), store.group_get(DEFAULT_GROUP).await.unwrap());
    store.close().await;
    assert!(store.ping().await.is_err());
    let store = home.open().await;
    store.ping().await.unwrap();
    assert_eq!(store.head(DEFAULT_GROUP).await.unwrap(), head);
    assert_eq!(store.group_list().await.unwrap(), [group]);
    assert_eq!(store.load(DEFAULT_GROUP).await.unwrap().objects[0].key, route("1"));
}

/// A later program's migration, as far as this one can tell.
const LATER: &str = "INSERT INTO schema_migration (version, description, success, checksum, execution_time) \
                     SELECT 999, 'later', success, checksum, 0 FROM schema_migration WHERE version = 1";

async fn a_newer_schema_that_adds_is_lived_with(home: Home) {
    let running = home.open().await;
    revision(&running, vec![put(route("1"), "a")]).await;
    home.sql(LATER).await;
    home.sql("ALTER TABLE resource ADD COLUMN later TEXT NOT NULL DEFAULT ''").await;
    home.sql("ALTER TABLE node ADD COLUMN later INTEGER").await;
    // Replicas of this version run on, and start.
    revision(&running, vec![put(route("2"), "b")]).await;
    let started = home.open().await;
    revision(&started, vec![put(route("1"), "c")]).await;
    assert_eq!(started.load(DEFAULT_GROUP).await.unwrap().objects.len(), 2);
    assert!(started.node_list(DEFAULT_GROUP).await.unwrap().is_empty());
}

async fn a_newer_schema_with_a_rule_is_left_alone(home: Home) {
    home.open().await.close().await;
    home.sql(LATER).await;
    home.sql("UPDATE schema_rule SET oldest = 999, release = '7.0.0'").await;
    let Err(refused) = open(&home.dsn, &home.key).await else { panic!("a newer schema was opened") };
    assert!(matches!(refused, OpenError::NewerSchema { found: 999, known: 1..=998, .. }), "{refused}");
    assert!(refused.to_string().contains("start Milecastle 7.0.0 or newer"), "{refused}");
}

async fn a_rule_that_comes_while_a_store_is_open_ends_its_writes(home: Home) {
    let running = home.open().await;
    revision(&running, vec![put(route("1"), "a")]).await;
    let member = |id: &str| NewMember {
        id: id.to_owned(),
        roles: vec!["dashboard".to_owned()],
        host: id.to_owned(),
        version: "0.1.0".to_owned(),
        address: "192.0.2.1:17080".to_owned(),
    };
    running.member_beat(&member("old")).await.unwrap();
    running.member_beat(&member("new")).await.unwrap();
    home.sql("UPDATE member SET knows = 999 WHERE id = 'new'").await;
    let mut outdated = running.outdated();
    assert_eq!(*outdated.borrow(), None);
    home.sql(LATER).await;
    home.sql("UPDATE schema_rule SET oldest = 999, release = '7.0.0'").await;
    // From the rule's transaction on, nothing is published, noticed or not.
    let refused = publish(&running, vec![put(route("2"), "b")]).await.unwrap_err();
    assert!(matches!(refused, PublishError::Store(StoreError::Outdated { .. })));
    assert!(refused.to_string().contains("start Milecastle 7.0.0 or newer"), "{refused}");
    // So does all else; a program that does not publish notices by itself.
    outdated.wait_for(Option::is_some).await.unwrap();
    assert!(matches!(running.member_beat(&member("old")).await, Err(StoreError::Outdated { .. })));
    assert!(matches!(
        running.by(ann()).group_create(&NewGroup::named("later")).await,
        Err(GroupError::Store(StoreError::Outdated { .. }))
    ));
    // Reading harms nobody; and who is left is seen.
    assert_eq!(running.load(DEFAULT_GROUP).await.unwrap().objects.len(), 1);
    let members = running.member_list().await.unwrap();
    let seen: Vec<_> = members.iter().map(|member| (&*member.told.id, member.outdated.as_deref())).collect();
    assert_eq!(seen, [("new", None), ("old", Some("7.0.0"))]);
    // A rule that is taken back is for the next start.
    home.sql("UPDATE schema_rule SET oldest = 6, release = '0.1.0'").await;
    assert!(matches!(running.member_beat(&member("old")).await, Err(StoreError::Outdated { .. })));
}

async fn a_rule_is_noticed_where_nothing_else_can_be_read(home: Home) {
    let running = home.open().await;
    let mut outdated = running.outdated();
    home.sql("UPDATE schema_rule SET oldest = 999, release = '7.0.0'").await;
    home.sql("ALTER TABLE gateway_group RENAME COLUMN floor TO of_tomorrow").await;
    outdated.wait_for(Option::is_some).await.unwrap();
    assert!(matches!(running.member_leave("m").await, Err(StoreError::Outdated { .. })));
}

#[tokio::test]
async fn time_is_the_databases() {
    let home = Home::postgres("conformance::opening");
    let database = home.database().unwrap();
    // As for a replica whose own clock is three days behind that of the database.
    let name = database.query("SELECT current_database()").unwrap();
    let ahead = "CREATE SCHEMA ahead; CREATE FUNCTION ahead.clock_timestamp() RETURNS timestamptz LANGUAGE sql \
                 AS $$ SELECT pg_catalog.clock_timestamp() + INTERVAL '3 days' $$";
    database.query(ahead).unwrap();
    let path = format!("ALTER DATABASE \"{}\" SET search_path = ahead, pg_catalog, public", name.trim());
    database.query(&path).unwrap();
    let own = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let expected = own + 3 * 86_400;

    let store = home.open().await;
    assert!((expected..expected + 600).contains(&store.now()));
    let passing = Put { expires_at: Some(expected - 86_400), ..Put::new(route("passing"), body("a")) };
    let lasting = Put { expires_at: Some(expected + 86_400), ..Put::new(route("lasting"), body("a")) };
    revision(&store, vec![Op::Put(passing), Op::Put(lasting)]).await;
    assert!(store.history_list(DEFAULT_GROUP, None, 1).await.unwrap()[0].at >= expected);
    assert!(store.group_get(DEFAULT_GROUP).await.unwrap().created_at >= expected);
    let term = office(&store).await;
    assert!(term.epoch >= expected * 1000);
    store.expire_due(term, store.now()).await.unwrap();
    let left = store.load(DEFAULT_GROUP).await.unwrap().objects;
    assert_eq!(left.iter().map(|object| &object.key).collect::<Vec<_>>(), [&route("lasting")]);
}

#[tokio::test]
async fn postgres_says_why_not() {
    let home = Home::postgres("conformance::opening");
    let database = home.database().unwrap();
    let role = format!("{}_idle", database.query("SELECT current_database()").unwrap().trim());
    database.query(&format!("CREATE ROLE {role} NOLOGIN")).unwrap();
    let refused = async |dsn: &str| match open(dsn, &home.key).await {
        Ok(_) => panic!("{dsn} opened"),
        Err(error) => error,
    };
    let (server, _) = home.dsn.rsplit_once('/').unwrap();
    let error = refused(&format!("{server}/no_such_database")).await;
    assert!(matches!(&error, OpenError::NoDatabase { database, .. } if database == "no_such_database"), "{error}");
    let (_, at) = home.dsn.rsplit_once('@').unwrap();
    let error = refused(&format!("postgres://{role}:hush@{at}")).await;
    assert!(matches!(&error, OpenError::Refused { user, .. } if *user == role), "{error}");
    assert!(!error.to_string().contains("hush") && error.to_string().contains("check user and password"), "{error}");
    database.query(&format!("DROP ROLE {role}")).unwrap();
}

#[tokio::test]
async fn postgres_over_tls() {
    let home = Home::sqlite("conformance::opening");
    let (authority, other) = (Authority::new("right"), Authority::new("wrong"));
    let cluster = Cluster::start_with_tls(&authority.issue(&["127.0.0.1"])).unwrap();
    let trusting = |authority: &Authority| {
        let root = home.path("root.pem");
        std::fs::write(&root, authority.pem()).unwrap();
        format!("{}?sslmode=verify-full&sslrootcert={}", cluster.dsn("postgres"), root.display())
    };
    let Err(refused) = open(&trusting(&other), &home.key).await else { panic!("a stranger's certificate was taken") };
    assert!(matches!(refused, OpenError::Tls { .. }), "{refused}");
    assert!(refused.to_string().contains("check sslmode and sslrootcert"));
    let store = open(&trusting(&authority), &home.key).await.unwrap();
    let mut watch = store.watch();
    revision(&store, vec![put(route("1"), "a")]).await;
    assert_eq!(watch.changed().await.unwrap()[DEFAULT_GROUP].revision, 1);
}

#[tokio::test]
async fn tls_is_not_left_out_if_asked_for() {
    let home = Home::sqlite("conformance::opening");
    let cluster = Cluster::start().unwrap();
    let dsn = format!("{}?sslmode=require", cluster.dsn("postgres"));
    let Err(refused) = open(&dsn, &home.key).await else { panic!("opened without TLS") };
    assert!(matches!(refused, OpenError::Tls { .. }), "{refused}");
}
