//! A dashboard of a test's own, on either database, and a client that speaks in request lines.

use crate::plugins;
use http::Method;
use milecastle_control::dpm::Nodes;
use milecastle_control::{Clock, Dashboard, MemberSettings, Membership, Parts, StartError, State, put_admin_key};
use milecastle_settings as settings;
use milecastle_store::{Acting, Actor, ActorKind, DEFAULT_GROUP, KeySource, Role, Store, open};
use milecastle_telemetry::metrics::Registry;
use milecastle_testkit::postgres::{Cluster, Database};
use milecastle_testkit::{Answer, Call};
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

/// What the tests' clock says first.
pub(crate) const T: u64 = 1_700_000_000;
/// The admin's key.
pub(crate) const KEY: &str = "key-of-the-admin";
/// The viewer's key.
pub(crate) const VIEWER: &str = "key-of-the-viewer";

/// Makes each of the functions a test on SQLite: those of what is the same on any database need no other.
macro_rules! on_sqlite {
    ($($name:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $name() {
                Box::pin(super::$name($crate::gateway::Gateway::sqlite().await)).await;
            })+
        }
    };
}
pub(crate) use on_sqlite;

/// Makes each of the functions a test on SQLite and one on PostgreSQL.
macro_rules! on_both {
    ($($name:ident),+ $(,)?) => {
        $crate::gateway::on_sqlite!($($name),+);
        mod postgres {
            $(#[tokio::test]
            async fn $name() {
                Box::pin(super::$name($crate::gateway::Gateway::postgres().await)).await;
            })+
        }
    };
}
pub(crate) use on_both;

/// One or more dashboards on one database.
pub(crate) struct Gateway {
    pub(crate) store: Store,
    pub(crate) dashboard: Dashboard,
    pub(crate) state: Arc<State>,
    clock: Arc<AtomicU64>,
    home: Arc<Home>,
    membership: Membership,
}

/// Where the database is. Removed at the end.
pub(crate) struct Home {
    dsn: String,
    pub(crate) database: Option<Database>,
    dir: tempfile::TempDir,
}

impl Gateway {
    pub(crate) async fn sqlite() -> Self {
        Self::with(sqlite_home(), |_| {}).await
    }

    pub(crate) async fn postgres() -> Self {
        let database = Database::create().unwrap();
        let dsn = database.dsn().to_owned();
        let home = Home { dsn, database: Some(database), dir: tempfile::tempdir().unwrap() };
        Self::with(Arc::new(home), |_| {}).await
    }

    /// On the server of a cluster.
    pub(crate) async fn on_cluster(cluster: &Cluster) -> Self {
        let home = Home { dsn: cluster.dsn("postgres"), database: None, dir: tempfile::tempdir().unwrap() };
        Self::with(Arc::new(home), |_| {}).await
    }

    /// On SQLite, with settings that differ from the tests' own.
    pub(crate) async fn configured(change: impl FnOnce(&mut settings::Dashboard)) -> Self {
        Self::with(sqlite_home(), change).await
    }

    /// Another dashboard on the same database.
    pub(crate) async fn replica(&self) -> Self {
        self.replica_with(|_| {}).await
    }

    /// The same, with settings that differ from the tests' own.
    pub(crate) async fn replica_with(&self, change: impl FnOnce(&mut settings::Dashboard)) -> Self {
        Box::pin(Self::with(self.home.clone(), change)).await
    }

    /// The same, with a default group that serves TCP and UDP too.
    pub(crate) async fn with_streams(self) -> Self {
        let body = serde_json::json!({ "proxy_mode": "http&stream" }).to_string();
        let path = "/api/gateway_groups/default/settings";
        let call = Call::new(Method::PUT, path).header("x-api-key", KEY).body(body);
        assert_eq!(call.to(self.address()).await.unwrap().status, 200);
        self
    }

    /// The same dashboard, once its process has left and another one may lead, which keeps this much history.
    pub(crate) async fn next_leader(mut self, history: settings::History) -> Self {
        let next = member(&self.state, &self.clock, history).await;
        std::mem::replace(&mut self.membership, next).leave().await;
        self
    }

    /// The same on the same database, with settings that differ from the tests' own.
    pub(crate) async fn with_settings(self, change: impl FnOnce(&mut settings::Dashboard)) -> Self {
        Box::pin(Self::with(self.home.clone(), change)).await
    }

    /// The id of its process among the members of the control plane.
    pub(crate) fn member(&self) -> &str {
        self.membership.id()
    }

    /// Starts a dashboard where this one listens.
    pub(crate) async fn start_again_on_its_port(&self) -> Result<Dashboard, StartError> {
        let mut settings = settings();
        settings.server.listen.port = self.address().port();
        Dashboard::start(&settings, parts(&self.state, &self.clock), self.membership.maintenance()).await
    }

    async fn with(home: Arc<Home>, change: impl FnOnce(&mut settings::Dashboard)) -> Self {
        let mut settings = settings();
        change(&mut settings);
        let store = open(&home.dsn, &KeySource::File(home.dir.path().join("sealing.key"))).await.unwrap();
        put_admin_key(store.by(tester()), "admin", Role::Admin, KEY).await.unwrap();
        put_admin_key(store.by(tester()), "viewer", Role::Viewer, VIEWER).await.unwrap();
        let clock = Arc::new(AtomicU64::new(T));
        let state = Arc::new(State::start(store.clone()).await.unwrap());
        let membership = member(&state, &clock, settings::History::default()).await;
        let maintenance = membership.maintenance();
        let dashboard = Dashboard::start(&settings, parts(&state, &clock), maintenance).await.unwrap();
        Self { store, dashboard, state, clock, home, membership }
    }

    /// Its store in the hands of whoever does what tests do beside the API.
    pub(crate) fn by(&self) -> Acting<'_> {
        self.store.by(tester())
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.dashboard.address()
    }

    /// The database, if it is PostgreSQL.
    pub(crate) fn database(&self) -> Option<&Database> {
        self.home.database.as_ref()
    }

    /// Lets time pass.
    pub(crate) fn advance(&self, seconds: u64) {
        self.clock.fetch_add(seconds, Ordering::Relaxed);
    }

    /// Where the default group stands.
    pub(crate) async fn revision(&self) -> u64 {
        self.store.head(DEFAULT_GROUP).await.unwrap().revision
    }

    /// The call that a line such as `PUT /routes/1 {"uri":"/a"}` means, with the admin's key.
    pub(crate) fn call(&self, line: &str) -> Call {
        bare(line).header("x-api-key", KEY)
    }

    pub(crate) async fn send(&self, line: &str) -> Answer {
        self.call(line).to(self.address()).await.unwrap()
    }

    /// Sends a line and compares status and body.
    #[track_caller]
    pub(crate) fn check(&self, line: &str, status: u16, body: Value) -> impl Future<Output = Answer> {
        let place = std::panic::Location::caller();
        let call = self.call(line).to(self.address());
        let line = line.to_owned();
        async move {
            let answer = call.await.unwrap();
            let json = answer.json().unwrap_or(Value::Null);
            assert_eq!((answer.status, &json), (status, &body), "{line}: {} ({place})", answer.text());
            answer
        }
    }

    /// Sends a line that must be refused with this `error_msg` and change nothing.
    #[track_caller]
    pub(crate) fn refused(&self, line: &str, status: u16, message: &str) -> impl Future<Output = ()> {
        let before = self.revision();
        let check = self.check(line, status, serde_json::json!({ "error_msg": message }));
        async move {
            let before = before.await;
            check.await;
            assert_eq!(self.revision().await, before, "a refused write makes no revision");
        }
    }

    /// Sends a line that must succeed; gives `value` of the answer.
    #[track_caller]
    pub(crate) fn done(&self, line: &str) -> impl Future<Output = Value> {
        let place = std::panic::Location::caller();
        let call = self.call(line).to(self.address());
        let line = line.to_owned();
        async move {
            let answer = call.await.unwrap();
            assert!((200..300).contains(&answer.status), "{line}: {} {} ({place})", answer.status, answer.text());
            answer.json().unwrap().get("value").cloned().unwrap_or_default()
        }
    }

    /// The object that a path has, without the timestamps of the server.
    pub(crate) async fn read(&self, path: &str) -> Value {
        let mut value = self.done(&format!("GET {path}")).await;
        let members = value.as_object_mut().unwrap();
        let mut had = |name: &str| members.shift_remove(name).is_some();
        assert!(had("create_time") && had("update_time"), "{path}");
        value
    }
}

fn tester() -> &'static Actor {
    static TESTER: LazyLock<Actor> = LazyLock::new(|| Actor::new(ActorKind::Machine, "test"));
    &TESTER
}

/// A process of the control plane on this store.
async fn member(state: &Arc<State>, clock: &Arc<AtomicU64>, history: settings::History) -> Membership {
    let roles = ["dashboard", "dp-manager"].map(str::to_owned).into();
    let (address, version) = (String::new(), "1".to_owned());
    let members = settings::Members { heartbeat: settings::Time::millis(200), ..settings::Members::default() };
    let (audit, idempotency) = (settings::Audit::default(), settings::Idempotency::default());
    let often = settings::Time::millis(100);
    let events = settings::Events { look: often, certificates: often, ..settings::Events::default() };
    let (compiler, clock) = (plugins::compiler(), told(clock));
    let availability = availability();
    let settings = MemberSettings { members, history, audit, idempotency, events, availability, compiler, clock };
    Membership::join(state.clone(), milecastle_control::Role { roles, address, version }, settings).await.unwrap()
}

/// On ports of the loopback that the system chooses.
pub(crate) fn settings() -> settings::Dashboard {
    let mut settings = settings::Dashboard::default();
    settings.server.listen = settings::HostPort { host: [127, 0, 0, 1].into(), port: 0 };
    settings.admin.admin_listen.port = 0;
    settings
}

fn parts(state: &Arc<State>, clock: &Arc<AtomicU64>) -> Parts {
    Parts {
        state: state.clone(),
        nodes: Nodes::new(state.store().clone(), "the dashboard of a test", &settings::Members::default()),
        compiler: plugins::compiler(),
        metrics: Arc::new(Registry::new("control_", 1)),
        clock: told(clock),
        availability: availability(),
    }
}

/// Often, few, and of whatever there is on this machine.
fn availability() -> settings::Availability {
    settings::Availability {
        look: settings::Time::secs(1),
        timeout: settings::Time::millis(900),
        most_probes: 2,
        deny: Vec::new(),
        ..settings::Availability::default()
    }
}

/// The clock that a test sets.
fn told(clock: &Arc<AtomicU64>) -> Clock {
    let clock = clock.clone();
    Clock::new(move || clock.load(Ordering::Relaxed))
}

/// The call that a line means, without a key.
pub(crate) fn bare(line: &str) -> Call {
    Call::admin(line)
}

fn sqlite_home() -> Arc<Home> {
    let dir = tempfile::tempdir().unwrap();
    Arc::new(Home { dsn: format!("sqlite:{}/store.db", dir.path().display()), database: None, dir })
}
