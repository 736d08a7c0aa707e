//! Parts that several files share.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use milecastle_model::nearest;
use milecastle_telemetry::{Secret, log};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::load::Checks;
use crate::{Size, Time};

/// The address a server listens on, under the names the control plane's files use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct HostPort {
    /// Address of the interface; `0.0.0.0` is every IPv4 interface, `::` every interface, IPv4 as well.
    pub host: IpAddr,
    /// TCP port; 0 lets the system choose one, which is printed at start.
    pub port: u16,
}

/// The address a server listens on, under the names the gateway's file uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct IpPort {
    /// Address of the interface; `0.0.0.0` is every IPv4 interface, `::` every interface, IPv4 as well.
    pub ip: IpAddr,
    /// TCP port; 0 lets the system choose one, which is printed at start.
    pub port: u16,
}

/// What a server of the control plane has under `server`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Server {
    /// Where it listens.
    pub listen: HostPort,
    /// How long requests in flight may take to end once nothing new is taken, before they are cut.
    pub drain: Time,
}

/// TLS of a listener; plain HTTP unless a certificate is given. Files that change are read anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ListenTls {
    /// The certificate, with those between it and its authority, in PEM.
    pub cert_file: Option<PathBuf>,
    /// Its private key, in PEM.
    pub key_file: Option<PathBuf>,
    /// Authorities in PEM: only clients that show a certificate of one of them are let in, probes of load balancers included.
    pub client_ca_file: Option<PathBuf>,
    /// How often the files are looked at.
    pub reload: Time,
    /// How long before the first certificate in the files ends the log begins to say so, at level WARN, once a day; `0s`: once it has
    /// ended.
    pub warn_within: Time,
}

impl ListenTls {
    pub(crate) fn check(&self, checks: &mut Checks<'_>) {
        checks.above_zero(&[("reload", self.reload)]);
        match (&self.cert_file, &self.key_file) {
            (Some(_), None) => checks.fault("key_file", "expected the private key of `cert_file`"),
            (None, Some(_)) => checks.fault("cert_file", "expected the certificate of `key_file`"),
            (None, None) if self.client_ca_file.is_some() => {
                checks.fault(
                    "cert_file",
                    "clients show certificates to a server with one of its own: set it, and `key_file`",
                );
            }
            _ => {}
        }
    }
}

/// The listener of a process that has no other one for `/healthz`, `/readyz` and `/metrics`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Probes {
    /// Whether to listen. On in the file of `milecastle dp-manager`; `control` and `up` answer on the dashboard's port.
    pub enable: bool,
    /// Where to listen.
    pub listen: HostPort,
    /// TLS of it.
    pub tls: ListenTls,
    /// Its caps.
    pub limits: HttpLimits,
}

/// Caps of a listener of the control plane, which whoever reaches its address may fill. Its metric
/// `http_connections_ended_total` counts, by `why`, how often each bit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct HttpLimits {
    /// Connections served at once. One more takes the place of the one that has waited longest for a request (`why="place"`);
    /// while all have a request in work, it waits to be accepted.
    #[schemars(range(min = 2), extend("x-unit" = "connections"))]
    pub connections: u32,
    /// Head of a request, and what is read ahead of a body, at least 8k. A larger head is answered 431 and ends the connection
    /// (`why="head_size"`). All connections together hold this much each at most.
    pub header_bytes: Size,
    /// How long a client may take to send the head of a request, an idle connection's next one included (`why="head_time"`).
    pub header_timeout: Time,
}

/// The database of the control plane. All but `dsn` and `probe_timeout` concerns PostgreSQL alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Database {
    /// Where the data is: `postgres://user:password@host:5432/name`, or `sqlite:path/to/file.db` for a single process. Or what
    /// `milecastle sealing-key seal` made of it, `sealed:…`, which opens with the sealing key alone.
    #[serde(skip_serializing)]
    #[schemars(with = "Option<String>", extend("writeOnly" = true))]
    pub dsn: Option<Secret<String>>,
    /// Connections this process opens at most: one listens, and of the others no more than half (rounded up) write to gateway groups, so
    /// that reads find one. As many rollouts are looked at, and as many groups that have changed read for their nodes, at a time.
    #[schemars(range(min = 3, max = 1000))]
    pub max_connections: u32,
    /// How long one attempt to reach the database at the start may take.
    pub connect_timeout: Time,
    /// Pause after the first attempt at the start that failed; doubled after each further one. The process waits as long as
    /// it takes, and `/readyz` says for what.
    pub retry_min: Time,
    /// Longest such pause.
    pub retry_max: Time,
    /// How long a request waits for a free connection, or for one of those that are for writing, before it is answered 503. For the
    /// writes to its own gateway group that came before it, it waits as long, and 10 s at least.
    pub acquire_timeout: Time,
    /// How long one statement may run before the database ends it, but for those that bring the schema up to date. Where it does not, as
    /// one that has vanished without a word, the statement is given up `acquire_timeout` and 2 s later, and its connection closed.
    pub statement_timeout: Time,
    /// How long the database may take to give a sign of life before `/readyz` says 503. Shorter than what load balancers wait for
    /// an answer of theirs.
    pub probe_timeout: Time,
}

/// The key that seals private keys and credentials in the database.
///
/// All processes on one database need the same key. Where neither member is set, the systemd credential
/// `milecastle-sealing-key` is used; `up` makes a key of its own beside its database on the first start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Sealing {
    /// The key itself: 32 bytes in base64. Better given as the environment variable `MILECASTLE__SEALING__KEY` or in a file.
    #[serde(skip_serializing)]
    #[schemars(with = "Option<String>", extend("writeOnly" = true))]
    pub key: Option<Secret<String>>,
    /// A file that holds the key in base64; only its owner should be able to read it.
    pub key_file: Option<PathBuf>,
    /// The file of the key that is to take its place (`milecastle sealing-key replace`): while it is set, a start takes whichever of both the
    /// database is sealed with.
    pub next_key_file: Option<PathBuf>,
}

/// What the process writes to standard error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Log {
    /// `text` for people, `json` for collectors.
    pub format: LogFormat,
    /// Least severe level that is written (`error`, `warn`, `info`, `debug`, `trace`), or a filter by module such as
    /// `warn,milecastle_proxy=debug`. The environment variable `MILECASTLE_LOG` overrides it.
    pub level: String,
}

/// See [`Log::format`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One line of text for each event.
    #[default]
    Text,
    /// One JSON object for each event.
    Json,
}

/// Why a secret that the configuration points at could not be read.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file is missing, unreadable or not text.
    #[error("{what}: cannot read {path}: {source}", path = path.display())]
    Read {
        /// The key of the configuration, or the name of the systemd credential.
        what: String,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The file holds nothing.
    #[error("{what}: {path} is empty", path = path.display())]
    Empty {
        /// As above.
        what: String,
        /// The file.
        path: PathBuf,
    },
}

impl HostPort {
    pub(crate) const fn any(port: u16) -> Self {
        Self { host: IpAddr::V4(Ipv4Addr::UNSPECIFIED), port }
    }

    /// As a socket address.
    pub const fn socket(&self) -> SocketAddr {
        SocketAddr::new(self.host, self.port)
    }
}

impl IpPort {
    pub(crate) const fn any(port: u16) -> Self {
        Self { ip: IpAddr::V4(Ipv4Addr::UNSPECIFIED), port }
    }

    pub(crate) const fn loopback(port: u16) -> Self {
        Self { ip: IpAddr::V4(Ipv4Addr::LOCALHOST), port }
    }

    /// As a socket address.
    pub const fn socket(&self) -> SocketAddr {
        SocketAddr::new(self.ip, self.port)
    }
}

impl Log {
    /// Sets the process's log subscriber as these settings say.
    pub fn init(&self) -> Result<(), log::LogError> {
        let format = match self.format {
            LogFormat::Text => log::Format::Text,
            LogFormat::Json => log::Format::Json,
        };
        log::init(format, &self.level)
    }

    pub(crate) fn check(&self, checks: &mut Checks<'_>) {
        let Err(error) = log::check_filter(&self.level) else { return };
        let advice = match &error {
            log::FilterError::Level(word) => nearest(&word.to_ascii_lowercase(), log::LEVELS),
            log::FilterError::Syntax(_) => None,
        };
        let advice = advice.map(|level| format!("; did you mean `{level}`?")).unwrap_or_default();
        checks.fault("log.level", &format!("{error}{advice}"));
    }
}

/// What a connection string may begin with; `sealed:` tells only the process that opens it.
const DSN_BEGINS: [&str; 4] = ["postgres://", "postgresql://", "sqlite:", "sealed:"];

impl Database {
    pub(crate) fn check(&self, checks: &mut Checks<'_>) {
        match &self.dsn {
            None => checks.fault(
                "database.dsn",
                "required: say where the database is, e.g. `postgres://user:password@host:5432/milecastle` (better in the \
                 environment variable MILECASTLE__DATABASE__DSN)",
            ),
            Some(dsn) if !DSN_BEGINS.iter().any(|begin| dsn.reveal().starts_with(begin)) => {
                checks.fault("database.dsn", "expected an address that begins with `postgres://` or `sqlite:`");
            }
            Some(_) => {}
        }
        checks.at("database").above_zero(&[
            ("connect_timeout", self.connect_timeout),
            ("acquire_timeout", self.acquire_timeout),
            ("statement_timeout", self.statement_timeout),
            ("probe_timeout", self.probe_timeout),
        ]);
        if self.retry_min.is_zero() || self.retry_min > self.retry_max {
            checks.fault("database.retry_min", "expected more than 0 and no more than `database.retry_max`");
        }
    }
}

impl HttpLimits {
    pub(crate) fn check(&self, checks: &mut Checks<'_>) {
        if !(Size::kib(8)..=Size::kib(1 << 20)).contains(&self.header_bytes) {
            checks.fault("header_bytes", "expected 8k to 1g");
        }
        checks.above_zero(&[("header_timeout", self.header_timeout)]);
    }
}

impl Sealing {
    /// The key in base64 from the first place that has one: `key`, `key_file`, the systemd credential; `None` where none has.
    pub fn read(&self) -> Result<Option<Secret<String>>, SecretError> {
        secret(self.key.as_ref(), self.key_file.as_deref(), "sealing.key_file", "milecastle-sealing-key")
    }

    pub(crate) fn check(&self, checks: &mut Checks<'_>) {
        const EXPECTED: &str = "expected 32 bytes in base64; make them with: head -c 32 /dev/urandom | base64";
        let is_key = |text: &str| STANDARD.decode(text.trim()).is_ok_and(|bytes| bytes.len() == 32);
        match (&self.key, &self.key_file) {
            (Some(key), _) if !is_key(key.reveal()) => checks.fault("sealing.key", EXPECTED),
            (None, Some(_)) if checks.known().secret_files => match self.read() {
                Err(error) => checks.fault("sealing.key_file", &error.reason()),
                Ok(Some(key)) if !is_key(key.reveal()) => {
                    checks.fault("sealing.key_file", &format!("what the file holds is no key: {EXPECTED}"));
                }
                Ok(_) => {}
            },
            _ => {}
        }
    }
}

impl SecretError {
    /// What is wrong, without the key that it is about.
    pub(crate) fn reason(&self) -> String {
        match self {
            Self::Read { path, source, .. } => format!("cannot read {}: {source}", path.display()),
            Self::Empty { path, .. } => format!("{} is empty", path.display()),
        }
    }
}

/// A secret from the first place that has one: the value, the file, the systemd credential named `credential`.
/// White space around a file's text does not count.
pub(crate) fn secret(
    value: Option<&Secret<String>>,
    file: Option<&Path>,
    file_key: &str,
    credential: &str,
) -> Result<Option<Secret<String>>, SecretError> {
    if let Some(value) = value {
        return Ok(Some(value.clone()));
    }
    let (what, path) = match file {
        Some(path) => (file_key.to_owned(), path.to_owned()),
        None => match std::env::var_os("CREDENTIALS_DIRECTORY").map(|d| PathBuf::from(d).join(credential)) {
            Some(path) if path.exists() => (format!("systemd credential {credential}"), path),
            _ => return Ok(None),
        },
    };
    match std::fs::read_to_string(&path) {
        Ok(text) if text.trim().is_empty() => Err(SecretError::Empty { what, path }),
        Ok(text) => Ok(Some(Secret::new(text.trim().to_owned()))),
        Err(source) => Err(SecretError::Read { what, path, source }),
    }
}

impl Default for HostPort {
    fn default() -> Self {
        Self::any(0)
    }
}

impl Default for IpPort {
    fn default() -> Self {
        Self::loopback(0)
    }
}

impl Default for Server {
    fn default() -> Self {
        Self { listen: HostPort::default(), drain: Time::secs(10) }
    }
}

impl Default for ListenTls {
    fn default() -> Self {
        Self {
            cert_file: None,
            key_file: None,
            client_ca_file: None,
            reload: Time::secs(60),
            warn_within: Time::secs(30 * 86_400),
        }
    }
}

impl Default for Probes {
    fn default() -> Self {
        Self { enable: false, listen: HostPort::any(17901), tls: ListenTls::default(), limits: HttpLimits::default() }
    }
}

impl Default for HttpLimits {
    fn default() -> Self {
        // A head is what nginx takes (`large_client_header_buffers`).
        Self { connections: 4096, header_bytes: Size::kib(32), header_timeout: Time::secs(75) }
    }
}

impl Default for Database {
    fn default() -> Self {
        Self {
            dsn: None,
            max_connections: 10,
            connect_timeout: Time::secs(10),
            retry_min: Time::millis(500),
            retry_max: Time::secs(15),
            acquire_timeout: Time::secs(3),
            statement_timeout: Time::secs(30),
            probe_timeout: Time::secs(2),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Text, level: "info".into() }
    }
}
