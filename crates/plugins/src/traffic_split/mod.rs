//! `traffic-split`: chooses an upstream by conditions and weights (`docs/spec/plugins/traffic-split.md`), for sessions.

mod config;
#[cfg(test)]
mod tests;
mod turns;

use config::{Config, UpstreamId};
use milecastle_matching::{Expr, Lookup};
use milecastle_plugin_api::stream::{ChosenUpstream, InlineUpstream, OnPreread, SessionFlow, StreamCx};
use milecastle_plugin_api::{BuildCx, ConfigError, Example, Hooks, Plugin, PluginDef, Scope};
use std::sync::Arc;
use turns::Turns;

pub(crate) static STREAM: PluginDef = PluginDef::of::<TrafficSplit>();

struct TrafficSplit {
    rules: Box<[Rule]>,
}

struct Rule {
    /// One of them must hold; an expression that is not there holds. `None`: the rule always matches.
    alternatives: Option<Box<[Option<Expr>]>>,
    /// `None` stands for the route's own upstream.
    choices: Box<[Option<ChosenUpstream>]>,
    turns: Turns,
}

impl Plugin for TrafficSplit {
    type Config = Config;
    const NAME: &'static str = "traffic-split";
    const PRIORITY: i32 = 966;
    const SCOPE: Scope = Scope::Owner;
    const EXAMPLES: &'static [Example] = &[
        Example::new("One session in ten to a new version", include_str!("examples/canary.json")),
        Example::new("One network to an upstream of its own", include_str!("examples/network.json")),
    ];

    fn compile(config: Config, cx: &BuildCx<'_>) -> Result<Self, Vec<ConfigError>> {
        let mut faults = Vec::new();
        let rules = config.rules.iter().enumerate().map(|(r, rule)| {
            let parse = |(m, item): (usize, &config::Match)| {
                let vars = item.vars.as_ref()?;
                cx.condition(vars)
                    .map_err(|error| {
                        let text = format!("failed to validate the 'vars' expression: {error}");
                        faults.push(ConfigError::at(format!("/rules/{r}/match/{m}/vars"), text));
                    })
                    .ok()
            };
            // An empty list leaves the state as it is, which is "matched" as long as no rule has matched.
            let alternatives = rule.r#match.as_ref().filter(|items| !items.is_empty());
            let alternatives = alternatives.map(|items| items.iter().enumerate().map(parse).collect());
            let choose = |(u, weighted): (usize, &config::Weighted)| match (&weighted.upstream_id, &weighted.upstream) {
                (Some(UpstreamId::Text(id)), _) => Some(ChosenUpstream::Id(id.as_str().into())),
                (Some(UpstreamId::Number(id)), _) => Some(ChosenUpstream::Id(id.to_string().into())),
                (None, Some(inline)) => {
                    let place = format!("/rules/{r}/weighted_upstreams/{u}/upstream");
                    let compiled = InlineUpstream::compile(cx.owner, Self::NAME, &place, inline);
                    compiled
                        .map_err(|found| faults.extend(found))
                        .ok()
                        .map(|inline| ChosenUpstream::Inline(Arc::new(inline)))
                }
                (None, None) => None,
            };
            let choices: Box<[_]> = rule.weighted_upstreams.iter().enumerate().map(choose).collect();
            let turns = Turns::new(rule.weighted_upstreams.iter().map(|weighted| weighted.weight).collect());
            Rule { alternatives, choices, turns }
        });
        let rules = rules.collect();
        if faults.is_empty() { Ok(Self { rules }) } else { Err(faults) }
    }

    fn hooks(h: Hooks<Self>) -> Hooks<Self> {
        h.preread()
    }
}

impl Rule {
    fn matches(&self, vars: &dyn Lookup) -> bool {
        let holds = |expr: &Option<Expr>| expr.as_ref().is_none_or(|expr| expr.eval(vars));
        self.alternatives.as_ref().is_none_or(|alternatives| alternatives.iter().any(holds))
    }
}

impl OnPreread for TrafficSplit {
    fn on_preread(&self, cx: &mut StreamCx) -> SessionFlow {
        let matching = self.rules.iter().find(|rule| rule.matches(cx));
        let choice = matching.and_then(|rule| rule.choices.get(rule.turns.next()?)?.clone());
        if choice.is_some() {
            cx.chosen = choice;
        }
        SessionFlow::Next
    }
}
