//! Counters in Redis, where all nodes count together (`docs/spec/plugins/limit-count.md`, Behaviour 12 to 14).
//!
//! Each request is one question, a script that looks and counts in one step. Nothing is remembered here.

mod config;

pub(super) use config::RedisConfig;

use super::config::{Config, Policy, WindowType};
use super::window::{Verdict, Window, hundredths, slide};
use aws_lc_rs::digest;
use milecastle_export::{Background, Endpoint, Tls};
use milecastle_plugin_api::{BuildCx, ConfigError};
use milecastle_redis::{Server, Servers, Terms, Unanswered, Value, command};
use milecastle_telemetry::metrics::{Counter, Family};
use std::sync::Arc;
use std::time::Duration;

/// Questions of a worker that may wait for one server, unless `plugin_attr.limit-count.max_pending` says otherwise.
const MAX_PENDING: usize = 4_096;

/// After a connection that failed the next one is tried so many milliseconds later, or after as long as was waited in vain, unless
/// `plugin_attr.limit-count.redis_pause` says otherwise.
const PAUSE: u64 = 100;

/// Longest life of a counter that Redis takes, in seconds.
const LONGEST: u64 = (1 << 53) - 1;

/// Counts a request, also one that is rejected. The window begins with the first request. Gives what was counted, and the rest of the
/// window in milliseconds.
const FIXED: &[u8] = br"
local rest = redis.call('PTTL', KEYS[1])
if rest < 0 then
  redis.call('SET', KEYS[1], 1, 'EX', ARGV[1])
  return {1, ARGV[1] * 1000}
end
return {redis.call('INCR', KEYS[1]), rest}";

/// Counts a request that may pass, by the arithmetic of `slide`. Gives what was counted before, in this window and in the last one.
const SLIDING: &[u8] = br"
local limit, length, rest = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local current = tonumber(redis.call('GET', KEYS[1]) or 0)
local previous = tonumber(redis.call('GET', KEYS[2]) or 0)
if current < limit and math.min(previous, limit) / length * rest + current < limit then
  redis.call('INCR', KEYS[1])
  redis.call('EXPIRE', KEYS[1], ARGV[4])
end
return {current, previous}";

/// Counters of an instance or a group in Redis.
pub(super) struct Remote {
    server: Arc<Server>,
    /// What names of its keys have before the key that is counted by.
    identity: String,
}

/// What is wrong with a policy that is not `local`.
pub(super) fn faults(config: &Config) -> Vec<ConfigError> {
    match config.policy {
        Policy::Local => Vec::new(),
        Policy::Redis if config.redis.sync_interval == config::at_once() => Vec::new(),
        Policy::Redis => {
            let text =
                "sync_interval is not available in this version: leave it out, and each request is counted at once";
            vec![ConfigError::at("/sync_interval", text)]
        }
        other => {
            let text = format!("policy {} is not available in this version, use redis or local", other.name());
            vec![ConfigError::at("/policy", text)]
        }
    }
}

impl Remote {
    /// The counters of a configuration without faults; `None` if they are the node's own. `hits` is where limits are counted.
    pub(super) fn of(config: &Config, cx: &BuildCx<'_>, hits: &Family<Counter>) -> Option<Self> {
        let redis = &config.redis;
        let host = redis.redis_host.clone().filter(|_| config.policy == Policy::Redis)?;
        let attr = |name| cx.attr.and_then(|attr| attr.get(name)?.as_u64());
        let pending = attr("max_pending").and_then(|pending| pending.try_into().ok());
        let terms = Terms {
            endpoint: Endpoint {
                host,
                port: redis.redis_port,
                tls: match (redis.redis_ssl, redis.redis_ssl_verify) {
                    (false, _) => Tls::None,
                    (true, false) => Tls::Unverified,
                    (true, true) => Tls::Verified,
                },
            },
            username: redis.redis_username.clone(),
            password: redis.redis_password.clone().filter(|password| !password.reveal().is_empty()),
            database: redis.redis_database,
            patience: Duration::from_millis(redis.redis_timeout.into()),
            rest: Duration::from_millis(redis.redis_keepalive_timeout.into()),
            pause: Duration::from_millis(attr("redis_pause").unwrap_or(PAUSE)),
            pending: pending.filter(|pending| *pending > 0).unwrap_or(MAX_PENDING),
        };
        let background = cx.shared.get_or_init(Background::default);
        let servers = cx.shared.get_or_init(|| Servers::new(hits.with(&["plugin_attr.limit-count.max_pending"])));
        Some(Self {
            server: servers.get(&terms, &background),
            identity: match &config.group {
                Some(group) => group.clone(),
                None => format!("{}:{:016x}", cx.owner.0, checksum(cx.config)),
            },
        })
    }

    /// Counts a request for a key at `wall`, the time since 1970.
    pub(super) async fn charge(&self, key: &str, window: Window, wall: Duration) -> Result<Verdict, Unanswered> {
        match window.kind {
            WindowType::Fixed => self.fixed(key, window).await,
            WindowType::Sliding => self.sliding(key, window, wall).await,
        }
    }

    async fn fixed(&self, key: &str, Window { limit, seconds, .. }: Window) -> Result<Verdict, Unanswered> {
        let name = format!("plugin-limit-count:v1:{}:{key}", self.identity);
        let question = command(&[b"EVAL", FIXED, b"1", name.as_bytes(), seconds.to_string().as_bytes()]);
        let [count, rest] = numbers(&self.server.ask(question).await?)?;
        Ok(Verdict {
            allowed: count <= limit,
            remaining: limit.saturating_sub(count),
            reset: hundredths(Duration::from_millis(rest).as_secs_f64()),
        })
    }

    async fn sliding(&self, key: &str, window: Window, wall: Duration) -> Result<Verdict, Unanswered> {
        let Window { limit, seconds, .. } = window;
        let number = wall.as_secs() / seconds;
        let name = |number: u64| format!("plugin-limit-count:{}:{key}.{number}.counter", self.identity);
        let rest = window.rest(number, wall);
        let life = seconds.saturating_mul(2).min(LONGEST);
        // The shortest text that is read as the same number there: both sides come to the same verdict.
        let arguments = [limit.to_string(), seconds.to_string(), rest.to_string(), life.to_string()];
        let (this, last) = (name(number), name(number.wrapping_sub(1)));
        let mut parts: Vec<&[u8]> = vec![b"EVAL", SLIDING, b"2", this.as_bytes(), last.as_bytes()];
        parts.extend(arguments.iter().map(|argument| argument.as_bytes()));
        let [current, previous] = numbers(&self.server.ask(command(&parts)).await?)?;
        Ok(slide(window, rest, previous, current))
    }
}

/// A checksum of a configuration as it stands in names of keys, which nodes of all versions share. How Redis is reached is left out: a
/// password that is replaced begins no new windows, and nothing of it is to be guessed from a name.
fn checksum(config: &serde_json::Value) -> u64 {
    let mut config = config.clone();
    if let Some(members) = config.as_object_mut() {
        members.retain(|name, _| !name.starts_with("redis_"));
    }
    config.sort_all_objects();
    let digest = digest::digest(&digest::SHA256, config.to_string().as_bytes());
    digest.as_ref().first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
}

/// What a script gave.
fn numbers(value: &Value) -> Result<[u64; 2], Unanswered> {
    let Value::List(list) = value else { return Err(Unanswered) };
    let [Value::Integer(first), Value::Integer(second)] = list.as_slice() else { return Err(Unanswered) };
    Ok([(*first).try_into().map_err(|_| Unanswered)?, (*second).try_into().map_err(|_| Unanswered)?])
}

#[cfg(test)]
mod tests {
    use super::checksum;
    use serde_json::json;

    #[test]
    fn checksums_are_those_of_all_versions() {
        let config = json!({ "time_window": 60, "count": 2, "rules": [{ "key": "a", "count": 1 }], "policy": "redis",
            "redis_host": "a.test", "redis_password": "secret" });
        assert_eq!(checksum(&config), 0xeeda_5d31_0597_0c1a);
        let moved = json!({ "policy": "redis", "count": 2, "time_window": 60, "rules": [{ "count": 1, "key": "a" }],
            "redis_host": "b.test" });
        assert_eq!(checksum(&moved), checksum(&config));
        let other = json!({ "policy": "redis", "count": 3, "time_window": 60, "rules": [{ "count": 1, "key": "a" }] });
        assert_ne!(checksum(&other), checksum(&config));
    }
}
