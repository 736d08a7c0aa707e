//! First starts, second starts, and starts that cannot be.

use milecastle_store::{DEFAULT_GROUP, OpenError, open};
use milecastle_testkit::postgres::Cluster;
use milecastle_testkit::tls::Authority;

use crate::home::{Home, on_both, put, revision, route};

on_both!(what_is_written_is_there_after_reopening, a_newer_schema_is_left_alone);

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

async fn a_newer_schema_is_left_alone(home: Home) {
    home.open().await.close().await;
    home.sql(
        "INSERT INTO schema_migration (version, description, success, checksum, execution_time) \
         SELECT 999, 'later', success, checksum, 0 FROM schema_migration WHERE version = 1",
    )
    .await;
    let Err(refused) = open(&home.dsn, &home.key).await else { panic!("a newer schema was opened") };
    assert!(matches!(refused, OpenError::NewerSchema { found: 999, known: 7 }), "{refused}");
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
