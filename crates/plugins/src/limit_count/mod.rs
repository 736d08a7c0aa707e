//! `limit-count`: caps requests for each key in a time window (`docs/spec/plugins/limit-count.md`).
//!
//! Counters live in the node's memory ([`counters`]), or in Redis ([`redis`]).

mod clock;
mod config;
mod counters;
mod quota;
mod redis;
mod rule;
#[cfg(test)]
mod tests;
mod window;

use crate::exporting;
use clock::NodeClock;
use config::{Config, Metadata as Names};
use counters::{Counters, MAX_KEYS, Now};
use http::StatusCode;
use milecastle_plugin_api::{
    BuildCx, ConfigError, Example, Flow, Hooks, Metadata, OnAccess, Owner, Plugin, PluginDef, Reply, RequestCx, Scope,
    schema_of,
};
use redis::Remote;
use rule::{Effective, Failed, Rule};
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub(crate) static DEF: PluginDef = PluginDef::of::<LimitCount>();

struct LimitCount {
    rules: Rules,
    window_type: config::WindowType,
    rejection: Reply,
    allow_degradation: bool,
    show_headers: bool,
    counters: Arc<Counters>,
    /// In place of `counters`.
    remote: Option<Remote>,
    clock: Arc<NodeClock>,
    /// Whose counters: this instance's own, or its group's.
    instance: u64,
}

enum Rules {
    /// Always in effect.
    One(Box<Rule>),
    /// Each in effect if its key has a value.
    Several(Box<[Rule]>),
}

/// The configurations of groups, as first written, and the objects known to be of the group.
#[derive(Default)]
struct Groups(Mutex<HashMap<String, (Config, HashSet<Owner>)>>);

impl Plugin for LimitCount {
    type Config = Config;
    const NAME: &'static str = "limit-count";
    const PRIORITY: i32 = 1002;
    const SCOPE: Scope = Scope::Owner;
    const METADATA: Option<Metadata> = Some(Metadata::of::<Names>());
    const ENCRYPTED: &'static [&'static str] = &["redis_password", "sentinel_password"];
    const EXAMPLES: &'static [Example] = &[
        Example::new("100 requests a minute for each client", include_str!("examples/client.json")),
        Example::new(
            "A quota for each consumer, sliding, beside an authentication plugin",
            include_str!("examples/consumer.json"),
        ),
        Example::new("Two limits at once", include_str!("examples/rules.json")),
        Example::new("A quota that all nodes count together, in Redis", include_str!("examples/redis.json")),
    ];

    fn schema() -> Value {
        let mut schema = schema_of::<Config>();
        schema["anyOf"] = json!([{ "required": ["count", "time_window"] }, { "required": ["rules"] }]);
        schema["if"] = json!({ "properties": { "policy": { "enum": ["redis"] } }, "required": ["policy"] });
        schema["then"] = json!({ "required": ["redis_host"] });
        schema
    }

    fn compile(config: Config, cx: &BuildCx<'_>) -> Result<Self, Vec<ConfigError>> {
        let faults = faults(&config);
        if !faults.is_empty() {
            return Err(faults);
        }
        let max_keys = cx.attr.and_then(|attr| attr.get("max_keys")?.as_u64()?.try_into().ok()).unwrap_or(MAX_KEYS);
        let hits = exporting::limit_hits(cx)?;
        let counters =
            cx.shared.get_or_init(|| Counters::new(max_keys, hits.with(&["plugin_attr.limit-count.max_keys"])));
        let instance = match &config.group {
            Some(group) => {
                if cx.writing.is_some() {
                    cx.shared.get_or_init(Groups::default).join(group, &config, cx.owner)?;
                }
                counters.group(group)
            }
            None => counters.instance(),
        };
        let status = StatusCode::from_u16(config.rejected_code).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        Ok(Self {
            rejection: match &config.rejected_msg {
                Some(message) => Reply::error_msg(status, message),
                None => Reply::status(status),
            },
            window_type: config.window_type,
            allow_degradation: config.allow_degradation,
            show_headers: config.show_limit_quota_header,
            rules: match &config.rules {
                Some(rules) => Rules::Several(Rule::several(rules)),
                None => {
                    Rules::One(Rule::one(&config).ok_or_else(|| vec![ConfigError::new("no limit is given")])?.into())
                }
            },
            counters,
            remote: Remote::of(&config, cx, &hits),
            clock: cx.shared.get_or_init(NodeClock::default),
            instance,
        })
    }

    fn hooks(h: Hooks<Self>) -> Hooks<Self> {
        h.access()
    }
}

/// What the schema cannot see.
fn faults(config: &Config) -> Vec<ConfigError> {
    let mut faults = redis::faults(config);
    let Some(rules) = &config.rules else { return faults };
    if config.count.is_some() || config.time_window.is_some() {
        faults.push(ConfigError::new("count/time_window and rules cannot be specified at the same time"));
    }
    if config.group.is_some() {
        faults.push(ConfigError::at("/group", "group and rules cannot be specified at the same time"));
    }
    let mut keys = HashSet::new();
    for (n, rule) in rules.iter().enumerate() {
        if !keys.insert(&rule.key) {
            faults.push(ConfigError::at(format!("/rules/{n}/key"), format!("duplicate key '{}' in rules", rule.key)));
        }
        let prefix = rule.header_prefix.as_deref().unwrap_or_default();
        if quota::prefixed(&Names::default().limit_header, prefix).is_none() {
            let text = format!("'{prefix}' cannot stand in a header name");
            faults.push(ConfigError::at(format!("/rules/{n}/header_prefix"), text));
        }
    }
    faults
}

impl Groups {
    /// Adds an object to a group.
    ///
    /// # Errors
    /// The group has other members, and they are configured otherwise.
    fn join(&self, group: &str, config: &Config, owner: &Owner) -> Result<(), Vec<ConfigError>> {
        let mut groups = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (first, members) = groups.entry(group.to_owned()).or_insert_with(|| (config.clone(), HashSet::new()));
        if first != config && members.iter().any(|member| member != owner) {
            return Err(vec![ConfigError::at("/group", "group conf mismatched")]);
        }
        first.clone_from(config);
        members.insert(owner.clone());
        Ok(())
    }
}

impl OnAccess for LimitCount {
    fn on_access<'a>(&'a self, cx: &'a mut RequestCx) -> Flow<'a> {
        if let Some(remote) = &self.remote {
            return Flow::Wait(Box::pin(self.judge_by(remote, cx)));
        }
        match self.judge(cx) {
            Ok(true) => Flow::Next,
            Ok(false) => Flow::Reply(self.rejection.clone()),
            Err(Failed) if self.allow_degradation => Flow::Next,
            Err(Failed) => Flow::Reply(Reply::status(StatusCode::INTERNAL_SERVER_ERROR)),
        }
    }
}

impl LimitCount {
    /// Charges the rules in effect, up to the first that rejects.
    fn judge(&self, cx: &mut RequestCx) -> Result<bool, Failed> {
        match &self.rules {
            Rules::One(rule) => {
                let (info, outcome) = {
                    let effective = rule.always(cx)?;
                    self.charge(cx.timing.started, &effective)
                };
                Ok(self.tell(cx, rule, info, &outcome))
            }
            Rules::Several(rules) => {
                for (rule, effective) in effective(rules, cx)? {
                    let (info, outcome) = self.charge(cx.timing.started, &effective);
                    if !self.tell(cx, rule, info, &outcome) {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
        }
    }

    /// The same by counters in Redis.
    async fn judge_by(&self, remote: &Remote, cx: &mut RequestCx) -> Result<(), Reply> {
        let failed = |reply: Reply| if self.allow_degradation { Ok(()) } else { Err(reply) };
        let effective = match &self.rules {
            Rules::One(rule) => rule.always(cx).map(|effective| vec![(&**rule, effective.into_owned())]),
            Rules::Several(rules) => effective(rules, cx),
        };
        let Ok(effective) = effective else { return failed(Reply::status(StatusCode::INTERNAL_SERVER_ERROR)) };
        for (rule, effective) in effective {
            let window = self.window(&effective);
            let Ok(verdict) = remote.charge(&effective.key, window, self.clock.0.wall()).await else {
                return failed(Reply::error_msg(StatusCode::INTERNAL_SERVER_ERROR, "failed to limit count"));
            };
            let info = quota::info(&effective.key, effective.count, verdict);
            if !self.tell(cx, rule, info, &Outcome { limit: effective.count, verdict }) {
                return Err(self.rejection.clone());
            }
        }
        Ok(())
    }

    fn window(&self, effective: &Effective<'_>) -> window::Window {
        window::Window { kind: self.window_type, limit: effective.count, seconds: effective.time_window }
    }

    fn charge(&self, began: Instant, effective: &Effective<'_>) -> (String, Outcome) {
        let now = Now {
            monotonic: self.clock.0.monotonic(began),
            wall: match self.window_type {
                config::WindowType::Fixed => Duration::ZERO,
                config::WindowType::Sliding => self.clock.0.wall(),
            },
        };
        let verdict = self.counters.charge(self.instance, &effective.key, self.window(effective), now);
        (quota::info(&effective.key, effective.count, verdict), Outcome { limit: effective.count, verdict })
    }

    /// Tells clients and other plugins; whether the request may pass.
    fn tell(&self, cx: &mut RequestCx, rule: &Rule, info: String, outcome: &Outcome) -> bool {
        cx.set_var("rate_limiting_info", info);
        if self.show_headers {
            let limit = rule.limit_header(outcome.limit);
            match cx.metadata::<Names>(Self::NAME).map(|names| rule.names_by(names)) {
                Some(names) => names.put(cx, limit, outcome.verdict),
                None => rule.names.put(cx, limit, outcome.verdict),
            }
        }
        outcome.verdict.allowed
    }
}

/// The limits in effect. All are resolved before the first is charged: a failure leaves no trace.
fn effective<'a>(rules: &'a [Rule], cx: &RequestCx) -> Result<Vec<(&'a Rule, Effective<'static>)>, Failed> {
    let mut effective = Vec::with_capacity(rules.len());
    for rule in rules {
        if let Some(found) = rule.if_resolved(cx)? {
            effective.push((rule, found));
        }
    }
    if effective.is_empty() { Err(Failed) } else { Ok(effective) }
}

struct Outcome {
    limit: u64,
    verdict: window::Verdict,
}
