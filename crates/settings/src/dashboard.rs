//! The dashboard's file: console, `/api`, and the compatible Admin API (docs/spec/admin-api.md §1–3).

use milecastle_telemetry::Secret;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::listener::Listener;
use crate::load::{Checks, File};
use crate::{
    Access, EventStreams, HostPort, HttpLimits, IpPort, ListenTls, Log, Oidc, Peers, Replica, Server, Size, Time,
};

/// Configuration of a dashboard: the section `dashboard` of the files of `milecastle control` and `milecastle up`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Dashboard {
    /// The server of console, `/api` and `/apisix/admin`.
    pub server: Server,
    /// TLS of each of its listeners.
    pub tls: ListenTls,
    /// Caps of each of its listeners.
    pub limits: HttpLimits,
    /// The compatible Admin API; the reference has these keys under `deployment.admin`.
    pub admin: Admin,
    /// People who log in.
    pub access: Access,
    /// Logging in through a provider of OpenID Connect.
    pub oidc: Oidc,
    /// Streams of events with clients.
    pub event_streams: EventStreams,
}

/// The file of `milecastle dashboard`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct DashboardFile {
    /// What the process writes to standard error.
    pub log: Log,
    /// What every process of the control plane has.
    #[serde(flatten)]
    pub replica: Replica,
    /// All the rest.
    #[serde(flatten)]
    pub dashboard: Dashboard,
}

/// The compatible Admin API.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Admin {
    /// Serves the Admin API on `admin_listen` too, where tools of the field look for it. It is always on the dashboard's own
    /// port, under `/apisix/admin`.
    pub enable: bool,
    /// That listener.
    pub admin_listen: IpPort,
    /// Peers that may use the Admin API on `admin_listen`; an empty list is everybody.
    pub allow_admin: Vec<Peers>,
    /// Peers that may use the Admin API and `/api` on the dashboard's own port; an empty list is everybody.
    pub allow_admin_on_dashboard: Vec<Peers>,
    /// Keys that open the Admin API. Without one, a key is made at the first start and printed once.
    pub admin_key: Vec<AdminKey>,
    /// Whether a key is needed at all. Only ever turn it off where nobody else can reach the port.
    pub admin_key_required: bool,
    /// What the header `Server` says on answers of the Admin API, for tools that insist on a name, such as `APISIX/3.18.0`; empty is
    /// our own name and version.
    pub server_header: String,
    /// Answers cross-origin requests of browsers.
    pub enable_admin_cors: bool,
    /// Largest request body, at least 1k.
    pub max_body: Size,
    /// Whether the configuration of a gateway group is taken and given as a whole, by `/apisix/admin/configs`.
    pub declarative: Declarative,
    /// Largest body of `PUT /apisix/admin/configs`, and of what `/api` takes as a whole: change sets, drafts, a group's file; also most bytes of all objects of a draft. At least 1k.
    pub max_configs_body: Size,
    /// Drafts of change sets that a gateway group may have at a time.
    #[schemars(range(min = 1), extend("x-unit" = "drafts"))]
    pub max_drafts: u32,
    /// Objects that a draft may change.
    #[schemars(range(min = 1), extend("x-unit" = "objects"))]
    pub max_draft_objects: u32,
    /// How long a client may take to send the body of a request, to `/api` as well.
    pub body_timeout: Time,
    /// What of a body that is too large is read and dropped, so that a client that sends first and reads then gets to read its
    /// answer; beyond it the connection is cut.
    pub lingering_bytes: Size,
    /// Longest time that a read waits for the database to say what is newest, so that it shows what another replica has written. Where
    /// the database says nothing, the answer is what was heard of last. `0s`: always that, without asking.
    pub max_read_wait: Time,
    /// Longest time that a repeated write (`Idempotency-Key`) waits for the answer to the first one, which is kept right after that was
    /// done; without it by then, it is refused with 409. `0s`: at once.
    pub max_repeat_wait: Time,
    /// Repeated writes that wait so at a time, each with the body that it has sent, up to `max_body` or `max_configs_body`. One more does
    /// not wait, and is refused with 409 and `Retry-After` (`repeats_refused_total`).
    #[schemars(range(min = 1), extend("x-unit" = "requests"))]
    pub max_repeat_waits: u32,
    /// Those of one account, key or token.
    #[schemars(range(min = 1), extend("x-unit" = "requests"))]
    pub max_repeat_waits_of_a_caller: u32,
    /// Lists that are searched by `name` or `uri` at a time, each of which may take a processor. Further ones wait for `search_time`
    /// at most, and are then refused with 503 and `Retry-After`. One account, key or token has half of them at most.
    #[schemars(range(min = 1), extend("x-unit" = "lists"))]
    pub max_searches: u32,
    /// Longest time that a list is searched by `name` or `uri`: an expression that takes longer over all its objects is refused with
    /// 400.
    pub search_time: Time,
    /// Configurations that are judged at a time for whoever may only read, each of which may take a processor: those of `/configs/validate`,
    /// and drafts that are looked at. Further ones wait for `validation_time` at most, and are then refused with 503 and `Retry-After`.
    /// One account, key or token has half of them at most. Whoever may write as much takes no such place.
    #[schemars(range(min = 1), extend("x-unit" = "configurations"))]
    pub max_validations: u32,
    /// Longest time that such a configuration is judged, looked at before each of its objects: one that takes longer is refused with 400.
    /// Writes and their dry runs end with their clients alone; writes of `/api` with an `Idempotency-Key` go on without them.
    pub validation_time: Time,
    /// Longest time that `?wait=` lets a write wait for the nodes.
    pub max_wait: Time,
    /// Requests that may wait for nodes at a time, of all keys together; at most half of `limits.connections`. One more is
    /// refused before anything is done, with 503 and `Retry-After`.
    #[schemars(range(min = 1), extend("x-unit" = "requests"))]
    pub max_waits: u32,
    /// Requests of one key that may wait for nodes at a time, 1 to `max_waits`. One more is refused before anything is done, with
    /// 429 and `Retry-After`.
    #[schemars(range(min = 1), extend("x-unit" = "requests"))]
    pub max_waits_of_a_key: u32,
}

/// A key of the Admin API.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AdminKey {
    /// Who holds it; shown in the audit log.
    #[schemars(length(min = 1))]
    pub name: String,
    /// The key, as sent in the header `X-API-KEY`.
    #[serde(skip_serializing)]
    #[schemars(with = "String", length(min = 1), extend("writeOnly" = true))]
    pub key: Secret<String>,
    /// What it may do: `admin` (everything), `viewer` (GET alone), or a role of any name, built in or made, in all gateway groups
    /// (docs/access.md). One that is not there is refused at the start.
    #[schemars(length(min = 1))]
    pub role: String,
}

/// See [`Admin::declarative`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Declarative {
    /// It is not; `/configs` is unknown.
    Off,
    /// It is, beside all other paths.
    Beside,
    /// It is, and of the Admin API there is nothing else but `/configs/validate`.
    Only,
}

impl Dashboard {
    /// Every address that it listens on, with the key that sets it.
    pub fn listeners(&self) -> Vec<Listener> {
        let mut all = vec![Listener::alone("server.listen.port", self.server.listen.socket())];
        if self.admin.enable {
            all.push(Listener::alone("admin.admin_listen.port", self.admin.admin_listen.socket()));
        }
        all
    }

    pub(crate) fn check(&self, checks: &mut Checks<'_>) {
        self.access.check(checks);
        self.oidc.check(checks);
        if !self.access.password_login && self.oidc.issuer.is_none() {
            checks.fault("access.password_login", "without it, nobody logs in: set `oidc.issuer` first");
        }
        self.tls.check(&mut checks.at("tls"));
        let keys = &self.admin.admin_key;
        for (i, key) in keys.iter().enumerate() {
            if keys.iter().take(i).any(|other| other.key == key.key) {
                checks.fault(&format!("admin.admin_key[{i}].key"), "is given twice: each key needs a value of its own");
            }
        }
        if self.admin.server_header.bytes().any(|byte| !matches!(byte, b' '..=b'~')) {
            checks.fault("admin.server_header", "expected visible ASCII and blanks, as in a header");
        }
        for (key, size) in
            [("admin.max_body", self.admin.max_body), ("admin.max_configs_body", self.admin.max_configs_body)]
        {
            if size < Size::kib(1) {
                checks.fault(key, "expected at least 1k: a smaller body holds no real object");
            }
        }
        self.event_streams.check(checks);
        checks.at("admin").above_zero(&[
            ("body_timeout", self.admin.body_timeout),
            ("search_time", self.admin.search_time),
            ("validation_time", self.admin.validation_time),
        ]);
        self.limits.check(&mut checks.at("limits"));
        if self.admin.max_waits > self.limits.connections / 2 {
            checks.fault("admin.max_waits", "expected at most half of `limits.connections`");
        }
        if self.admin.max_waits_of_a_key > self.admin.max_waits {
            checks.fault("admin.max_waits_of_a_key", "expected at most `admin.max_waits`");
        }
    }
}

impl File for DashboardFile {
    const ROLE: &'static str = "dashboard";

    fn listeners(&self) -> Vec<Listener> {
        self.dashboard.listeners()
    }

    fn check(&self, checks: &mut Checks<'_>) {
        self.dashboard.check(checks);
        self.log.check(checks);
        self.replica.check(checks);
    }
}

impl Default for Dashboard {
    fn default() -> Self {
        Self {
            server: Server { listen: HostPort::any(17080), ..Server::default() },
            tls: ListenTls::default(),
            limits: HttpLimits::default(),
            admin: Admin::default(),
            access: Access::default(),
            oidc: Oidc::default(),
            event_streams: EventStreams::default(),
        }
    }
}

impl Default for Admin {
    fn default() -> Self {
        let loopback = Peers::Network { address: std::net::Ipv4Addr::new(127, 0, 0, 0).into(), prefix: 24 };
        Self {
            enable: false,
            admin_listen: IpPort::loopback(9180),
            allow_admin: vec![loopback],
            allow_admin_on_dashboard: Vec::new(),
            admin_key: Vec::new(),
            admin_key_required: true,
            server_header: String::new(),
            enable_admin_cors: true,
            max_body: Size::kib(1536),
            declarative: Declarative::Beside,
            max_configs_body: Size::kib(128 << 10),
            max_drafts: 100,
            max_draft_objects: 10_000,
            body_timeout: Time::secs(60),
            lingering_bytes: Size::kib(64 << 10),
            max_read_wait: Time::millis(250),
            max_repeat_wait: Time::secs(5),
            max_repeat_waits: 64,
            max_repeat_waits_of_a_caller: 16,
            max_searches: 2,
            search_time: Time::secs(2),
            max_validations: 2,
            validation_time: Time::secs(30),
            max_wait: Time::secs(30),
            max_waits: 1024,
            max_waits_of_a_key: 256,
        }
    }
}
