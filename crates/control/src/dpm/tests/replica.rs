//! A replica of a test's own, on either database.

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use milecastle_model::{Key, Kind};
use milecastle_pki::GroupToken;
use milecastle_settings as settings;
use milecastle_store::{
    Acting, Actor, ActorKind, ChangeSet, DEFAULT_GROUP, Delete, Op, Put, Retention, Source, Store, Term, open,
};
use milecastle_telemetry::metrics::Registry;
use milecastle_testkit::node::{Held, Member, Stream};
use milecastle_testkit::postgres::Database;
use milecastle_testkit::{SOON, wait_for};
use tonic::Status;

use crate::dpm::{DpManager, DpParts, Nodes, mint_group_token};
use crate::members::LEADER;
use crate::testing::{self, sealing_key};
use crate::{MemberSettings, Membership, Role, State};

/// Makes each of the functions a test on SQLite and one on PostgreSQL.
macro_rules! on_both {
    ($($name:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $name() {
                Box::pin(super::$name($crate::dpm::tests::Replica::sqlite().await)).await;
            })+
        }
        mod postgres {
            $(#[tokio::test]
            async fn $name() {
                Box::pin(super::$name($crate::dpm::tests::Replica::postgres().await)).await;
            })+
        }
    };
}
pub(super) use on_both;

/// A DP manager and what it stands on.
pub(super) struct Replica {
    pub(super) store: Store,
    state: Arc<State>,
    pub(super) manager: DpManager,
    pub(super) membership: Membership,
    pub(super) metrics: Arc<Registry>,
    pub(super) home: Arc<Home>,
}

/// Where the database is. Removed at the end.
pub(super) struct Home {
    dsn: String,
    pub(super) database: Option<Database>,
    dir: tempfile::TempDir,
}

impl Home {
    pub(super) fn sqlite() -> Arc<Self> {
        let dir = tempfile::tempdir().unwrap();
        Arc::new(Self { dsn: format!("sqlite:{}/store.db", dir.path().display()), database: None, dir })
    }

    pub(super) fn postgres() -> Arc<Self> {
        let database = Database::create().unwrap();
        let dsn = database.dsn().to_owned();
        Arc::new(Self { dsn, database: Some(database), dir: tempfile::tempdir().unwrap() })
    }

    pub(super) async fn open(&self) -> Store {
        open(&self.dsn, &sealing_key(self.dir.path())).await.unwrap()
    }
}

impl Replica {
    pub(super) async fn sqlite() -> Self {
        Self::with(Home::sqlite(), |_| {}).await
    }

    pub(super) async fn postgres() -> Self {
        Self::with(Home::postgres(), |_| {}).await
    }

    /// On SQLite, with settings that differ from the tests' own.
    pub(super) async fn configured(change: impl FnOnce(&mut settings::DpManager)) -> Self {
        Self::with(Home::sqlite(), change).await
    }

    /// Another replica on the same database.
    pub(super) async fn another(&self) -> Self {
        Self::with(self.home.clone(), |_| {}).await
    }

    pub(super) async fn with(home: Arc<Home>, change: impl FnOnce(&mut settings::DpManager)) -> Self {
        let mut settings = settings::DpManager::default();
        settings.server.listen = settings::HostPort { host: [127, 0, 0, 1].into(), port: 0 };
        settings.stream.beat = settings::Time::millis(50);
        settings.stream.receipt_interval = settings::Time::millis(20);
        settings.stream.report_interval = settings::Time::millis(20);
        change(&mut settings);
        let store = home.open().await;
        let metrics = Arc::new(Registry::new("", 1));
        let state = Arc::new(State::start(store.clone()).await.unwrap());
        // One that is started later has another name.
        let members = settings::Members {
            name: Some(format!("replica-{}", Arc::strong_count(&home))),
            heartbeat: settings::Time::millis(100),
            ..settings::Members::default()
        };
        let role = Role { roles: vec!["dp-manager".to_owned()], address: String::new(), version: "1".to_owned() };
        let own = MemberSettings { members: members.clone(), ..testing::member(&store) };
        let membership = Membership::join(state.clone(), role, own).await.unwrap();
        let nodes = Nodes::new(store.clone(), membership.id(), &members);
        let maintenance = membership.maintenance();
        let parts = DpParts { state: state.clone(), nodes, maintenance, metrics: metrics.clone(), kept_warnings: 200 };
        let manager = DpManager::start(&settings, parts).await.unwrap();
        Self { store, state, manager, membership, metrics, home }
    }

    /// Its store in the hands of whoever does what these tests do.
    pub(super) fn by(&self) -> Acting<'_> {
        static TESTER: LazyLock<Actor> = LazyLock::new(|| Actor::new(ActorKind::AdminKey, "test"));
        self.store.by(&TESTER)
    }

    /// A token for the default group.
    pub(super) async fn token(&self) -> GroupToken {
        mint_group_token(self.by(), DEFAULT_GROUP, "test", None).await.unwrap()
    }

    /// Where nodes join it.
    pub(super) fn address(&self) -> SocketAddr {
        self.manager.local_addr()
    }

    /// A node that joins here.
    pub(super) async fn join(&self, token: &GroupToken, id: &str) -> Result<Member, Status> {
        Member::join(self.address(), token, id).await
    }

    /// One of the default group.
    pub(super) async fn member(&self, id: &str) -> Member {
        self.join(&self.token().await, id).await.unwrap()
    }

    /// A stream of a node that has nothing, once it has the whole configuration.
    pub(super) async fn settled(&self, member: &Member) -> Stream {
        let mut stream = member.open(self.address(), Held::default()).await.unwrap();
        stream.reach(self.store.head(DEFAULT_GROUP).await.unwrap().revision).await;
        stream
    }

    /// Publishes to the default group; gives the revision.
    pub(super) async fn publish(&self, ops: Vec<Op>) -> u64 {
        let published = self.by().publish(DEFAULT_GROUP, ChangeSet::new(Source::Api, ops)).await.unwrap();
        assert!(published.changed);
        // Whoever opens a stream from here on finds it.
        self.state.group(DEFAULT_GROUP).unwrap().reach(published.revision, &published.mark).await.unwrap();
        published.revision
    }

    /// Ids of the default group's objects in memory.
    pub(super) fn shown(&self) -> Vec<String> {
        let image = self.state.group(DEFAULT_GROUP).unwrap().image();
        image.objects().map(|object| object.key.id.to_string()).collect()
    }

    /// Has the database forget the whole history.
    pub(super) async fn forget_history(&self) {
        let leader = async || self.store.lease_get(LEADER).await.unwrap().filter(|lease| !lease.left.is_zero());
        let lease = wait_for("a leader", SOON, leader).await;
        let term = Term { lease: LEADER, holder: &lease.holder, epoch: lease.epoch };
        let nothing = Retention { most: 0, max_age: Duration::MAX, least: 0 };
        assert!(self.store.history_retain(term, &nothing, 0).await.unwrap() > 0);
    }

    /// Publishes objects of `bytes` bytes each, which hardly compress.
    pub(super) async fn publish_bulk(&self, objects: usize, bytes: usize) -> u64 {
        let noise = |id: usize| {
            let mut noise = vec![0; bytes * 3 / 4];
            aws_lc_rs::rand::fill(&mut noise).unwrap();
            use base64::Engine as _;
            put(&format!("bulk-{id:04}"), &base64::prelude::BASE64_STANDARD.encode(noise))
        };
        self.publish((0..objects).map(noise).collect()).await
    }

    /// The value of a line of the metrics page.
    pub(super) fn metric(&self, line: &str) -> f64 {
        let page = self.metrics.render();
        let value = page.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(' '));
        value.map_or(0.0, |value| value.parse().unwrap())
    }

    /// Long enough for a wait that should not end by itself.
    pub(super) const LONG: Duration = Duration::from_secs(20);
}

pub(super) fn put(id: &str, note: &str) -> Op {
    let body = serde_json::json!({"id": id, "uri": format!("/{id}"), "desc": note}).to_string();
    Op::Put(Put::new(Key::new(Kind::Route, id), body))
}

pub(super) fn delete(id: &str) -> Op {
    Op::Delete(Delete::new(Key::new(Kind::Route, id)))
}
