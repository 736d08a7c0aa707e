//! What makes a gateway node a member of its cluster: its control plane, and the configuration that it keeps from there.

use std::path::{Path, PathBuf};

use milecastle_telemetry::Secret;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::{SecretError, secret};
use crate::load::Checks;
use crate::{Size, Time};

/// Where the configuration comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ControlPlane {
    /// DP managers, `https://host:17900`; tried in random order, the next one when one fails.
    pub endpoints: Vec<String>,
    /// The token of the gateway group, with which this node joins. Better given as the environment variable
    /// `MILECASTLE__CONTROL_PLANE__GROUP_TOKEN` or in a file; the systemd credential `milecastle-group-token` is read where
    /// neither is set. Needed to join only, not while the node's certificate is valid.
    #[serde(skip_serializing)]
    #[schemars(with = "Option<String>", extend("writeOnly" = true))]
    pub group_token: Option<Secret<String>>,
    /// A file that holds the token; a warning says so if every user of the machine can read it.
    pub group_token_file: Option<PathBuf>,
    /// How long connecting may take, and then opening the stream.
    pub connect_timeout: Time,
    /// How long joining with the group token may take, connecting included.
    pub join_timeout: Time,
    /// Shortest pause after every DP manager of the list has failed; doubled at each round, with jitter. Within a round the
    /// next one is tried at once.
    pub reconnect_min: Time,
    /// Longest such pause.
    pub reconnect_max: Time,
    /// How long after the loss of a stream, or a start with its last good configuration, the node is quick to come back:
    /// `quick_limit` caps what it waits for.
    pub quick_for: Time,
    /// Cap of `connect_timeout` and of the pauses within `quick_for`.
    pub quick_limit: Time,
    /// Longest pause that the control plane may ask a node to make; a longer one is cut to this.
    pub longest_wait: Time,
    /// Silence on the stream after which it counts as dead; the control plane sends at least every 2 s.
    pub silence: Time,
    /// How often the node reports its state, unless the control plane asks for another interval.
    pub report_interval: Time,
    /// Different lines of the node's log of level WARN and ERROR that are kept in memory and told to the control plane, a few with
    /// each report; one more takes the place of the oldest. 0 keeps and tells none.
    #[schemars(range(max = 10_000), extend("x-unit" = "lines"))]
    pub warnings: u32,
    /// Routes of which requests, errors, latency and the health of their upstream are told to the control plane by themselves with
    /// each report: those with most requests since the report before. The others are added up. 100 routes are some 5 kB in a report;
    /// more than the control plane keeps apart (`dp_manager.stream.routes`) help little. 0 counts and tells none.
    #[schemars(range(max = 1000), extend("x-unit" = "routes"))]
    pub routes: u32,
}

/// Where the last good configuration is kept, from which the node starts when the control plane is away.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct State {
    /// Directory of this node's own files: identity, checkpoints, log of changes. One process at a time. Unset is
    /// `/var/lib/milecastle/gateway`, and in `milecastle up` the directory `gateway` in `data_dir`. The file `node.pem` in it
    /// holds the node's private key: as with ssh, one that others can read is not used until `chmod 600`; one that is damaged
    /// is renamed `node.pem.bad`, and the node joins anew.
    pub dir: Option<PathBuf>,
    /// Checkpoints kept.
    #[schemars(range(min = 1, max = 100), extend("x-unit" = "files"))]
    pub generations: u32,
    /// Size of the log of changes at which it is folded into a checkpoint.
    pub fold_at: Size,
    /// File with the key that seals checkpoints and log: 32 bytes in base64. Made, for its owner only, where it is missing.
    /// Unset is the systemd credential `milecastle-state-key`, or without one the file `state-key` in `dir`; keep it elsewhere
    /// if backups of `dir` leave the host.
    pub key_file: Option<PathBuf>,
    /// How long a change that is in force waits for its record to be written; then it is reported as applied all the same,
    /// with an alarm.
    pub write_timeout: Time,
    /// How long records may wait to be forced to the disk; several share one call.
    pub sync_delay: Time,
    /// Pause before writing is tried again after it failed.
    pub retry_interval: Time,
}

impl State {
    /// The directory, with the default filled in.
    pub fn dir(&self) -> &Path {
        self.dir.as_deref().unwrap_or(Path::new("/var/lib/milecastle/gateway"))
    }

    /// The key in base64 from the first place that has one: `key_file`, the systemd credential, the file in `dir`; `None` where
    /// none has, and one is to be made at [`Self::key_path`].
    pub fn read_key(&self) -> Result<Option<Secret<String>>, SecretError> {
        let own_file = self.key_path();
        if self.key_file.is_none()
            && let Some(key) = secret(None, None, "state.key_file", "milecastle-state-key")?
        {
            return Ok(Some(key));
        }
        match secret(None, Some(&own_file), "state.key_file", "milecastle-state-key") {
            Err(SecretError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
            read => read,
        }
    }

    /// The file of the key, where no systemd credential holds it.
    pub fn key_path(&self) -> PathBuf {
        self.key_file.clone().unwrap_or_else(|| self.dir().join("state-key"))
    }

    pub(super) fn check(&self, checks: &mut Checks<'_>) {
        checks.above_zero(&[("write_timeout", self.write_timeout), ("retry_interval", self.retry_interval)]);
    }
}

impl ControlPlane {
    /// The group token from the first place that has one: `group_token`, `group_token_file`, the systemd credential; `None`
    /// where none has.
    pub fn read_token(&self) -> Result<Option<Secret<String>>, SecretError> {
        secret(
            self.group_token.as_ref(),
            self.group_token_file.as_deref(),
            "control_plane.group_token_file",
            "milecastle-group-token",
        )
    }

    /// A token that is written here must be one; the file that may hold it is read if the checks go so far.
    fn check_token(&self, checks: &mut Checks<'_>) {
        let (key, token) = match (&self.group_token, &self.group_token_file) {
            (Some(token), _) => ("group_token", Ok(Some(token.clone()))),
            (None, Some(_)) if checks.known().secret_files => ("group_token_file", self.read_token()),
            _ => return,
        };
        let fault = match token {
            Ok(Some(token)) => (checks.known().group_token)(token.reveal().trim()).err(),
            Ok(None) => None,
            Err(error) => Some(error.reason()),
        };
        if let Some(fault) = fault {
            checks.fault(key, &fault);
        }
    }

    pub(super) fn check(&self, checks: &mut Checks<'_>) {
        for (i, endpoint) in self.endpoints.iter().enumerate().filter(|(_, endpoint)| !is_endpoint(endpoint)) {
            let message = format!("expected an address such as `https://host:17900`, found `{endpoint}`");
            checks.fault(&format!("endpoints[{i}]"), &message);
        }
        checks.above_zero(&[
            ("connect_timeout", self.connect_timeout),
            ("join_timeout", self.join_timeout),
            ("quick_limit", self.quick_limit),
            ("report_interval", self.report_interval),
        ]);
        if self.silence <= Time::secs(2) {
            checks.fault("silence", "expected more than 2s, which is how long the control plane may say nothing");
        }
        self.check_token(checks);
        if self.reconnect_min.is_zero() || self.reconnect_min > self.reconnect_max {
            checks.fault("reconnect_min", "expected more than 0 and no more than `reconnect_max`");
        }
    }
}

/// Whether `text` is `https://host:port` with nothing after it.
fn is_endpoint(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("https://") else { return false };
    let Some((host, port)) = rest.strip_suffix('/').unwrap_or(rest).rsplit_once(':') else { return false };
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host = match address {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && !host.contains(|c: char| ":/@?#[]".contains(c) || c.is_whitespace()),
    };
    host && port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0)
}

impl Default for ControlPlane {
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            group_token: None,
            group_token_file: None,
            connect_timeout: Time::secs(5),
            join_timeout: Time::secs(15),
            reconnect_min: Time::millis(200),
            reconnect_max: Time::secs(15),
            quick_for: Time::secs(60),
            quick_limit: Time::millis(500),
            longest_wait: Time::secs(300),
            silence: Time::secs(8),
            report_interval: Time::secs(5),
            warnings: 100,
            routes: 100,
        }
    }
}

impl Default for State {
    fn default() -> Self {
        Self {
            dir: None,
            generations: 3,
            fold_at: Size::kib(16 * 1024),
            key_file: None,
            write_timeout: Time::secs(2),
            sync_delay: Time::millis(200),
            retry_interval: Time::secs(5),
        }
    }
}
