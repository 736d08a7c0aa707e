//! People who log in to the dashboard (docs/access.md).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::load::Checks;
use crate::{Peers, Time};

/// Accounts: their sessions, passwords, and logins that fail. Replicas count together, so all should have the same settings here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Access {
    /// A session ends after this long without a request.
    pub session_idle: Time,
    /// A session ends this long after the login, however much it is used; at least `session_idle`.
    pub session_max: Time,
    /// Whether people log in with a password. Off, they do so through the provider of `oidc` alone.
    pub password_login: bool,
    /// Characters of a new password at least, 6 to 128; one of them must be neither letter nor digit.
    #[schemars(range(min = 6, max = 128), extend("x-unit" = "characters"))]
    pub password_min_length: u32,
    /// Logins of one account that may fail before the next one has to wait: `login_wait_min`, and twice as long after each further
    /// failure.
    #[schemars(range(min = 1), extend("x-unit" = "logins"))]
    pub login_failures: u32,
    /// The same of one address, whatever the accounts.
    #[schemars(range(min = 1), extend("x-unit" = "logins"))]
    pub login_failures_of_address: u32,
    /// The first wait after too many logins that failed.
    pub login_wait_min: Time,
    /// The longest one; at least `login_wait_min`.
    pub login_wait_max: Time,
    /// After this long without an attempt, failures are forgotten.
    pub login_memory: Time,
    /// Passwords that are hashed at a time, in whatever request: each takes 19 MiB of memory, and a processor for some tens of
    /// milliseconds. Further ones wait.
    #[schemars(range(min = 1, max = 1024), extend("x-unit" = "passwords"))]
    pub password_hashes: u32,
    /// Refused calls and failed logins are counted by who, from where and what, and put into the audit log once in this time.
    pub refusals_every: Time,
    /// Kinds of them that are told apart within that time; what comes beyond is counted together.
    #[schemars(range(min = 1), extend("x-unit" = "kinds"))]
    pub refusals_most: u32,
    /// Proxies in front of the dashboard: of requests from them the address is the last one in `X-Forwarded-For` that is none of
    /// them. Without them in this list, all who come through a proxy are one address, and share its waits.
    pub trusted_proxies: Vec<Peers>,
}

impl Access {
    pub(crate) fn check(&self, checks: &mut Checks<'_>) {
        let mut checks = checks.at("access");
        checks.above_zero(&[
            ("session_idle", self.session_idle),
            ("login_memory", self.login_memory),
            ("refusals_every", self.refusals_every),
        ]);
        if self.login_wait_min.is_zero() || self.login_wait_min > self.login_wait_max {
            checks.fault("login_wait_min", "expected more than 0 and no more than `access.login_wait_max`");
        }
        if self.session_max < self.session_idle {
            checks.fault("session_max", "expected at least `access.session_idle`");
        }
    }
}

impl Default for Access {
    fn default() -> Self {
        Self {
            session_idle: Time::secs(3600),
            session_max: Time::secs(12 * 3600),
            password_login: true,
            password_min_length: 6,
            login_failures: 5,
            login_failures_of_address: 20,
            login_wait_min: Time::secs(1),
            login_wait_max: Time::secs(60),
            login_memory: Time::secs(900),
            password_hashes: 2,
            refusals_every: Time::secs(60),
            refusals_most: 100,
            trusted_proxies: Vec::new(),
        }
    }
}
