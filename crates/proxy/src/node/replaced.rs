//! The configuration of a process that was replaced: for the connections that it still has, it goes where that of its successor
//! goes.
//!
//! A stream of its own would make it a rival of its successor, under the same identity; so it looks at what that one writes to
//! the state directory, which is what is in force there. It needs neither control plane nor successor for that. Secret managers it
//! asks itself, for as long as it is there.

use super::in_force::InForce;
use super::last_good::{Look, Trail};
use milecastle_snapshot::Compiler;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::MissedTickBehavior;

/// What is left of a member once another process has its stream and its directory.
pub(super) struct Replaced {
    pub(super) trail: Trail,
    pub(super) compiler: Arc<Compiler>,
    pub(super) in_force: Arc<InForce>,
    /// Between two looks: `upgrade.follow_interval`.
    pub(super) interval: Duration,
}

impl Replaced {
    /// Follows until the task ends.
    pub(super) async fn run(self) {
        let Self { mut trail, compiler, in_force, interval } = self;
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = None;
        loop {
            ticks.tick().await;
            let compiler = compiler.clone();
            if let Some(held) = in_force.held() {
                trail.renew(held);
            }
            let looking = tokio::task::spawn_blocking(move || {
                let look = trail.look(&compiler);
                (trail, look)
            });
            let Look { news, fault } = match looking.await {
                Ok((back, look)) => {
                    trail = back;
                    look
                }
                Err(error) => {
                    tracing::error!(%error, "this process follows its successor's configuration no longer");
                    return;
                }
            };
            if let Some(holdings) = news {
                let holdings = in_force.put(holdings).await;
                tracing::info!(
                    revision = holdings.position().revision,
                    "what the process that took over has in force holds for the connections of this one too"
                );
            }
            if let Some(reason) = fault.as_ref().filter(|_| fault != told) {
                tracing::warn!(
                    reason,
                    "the configuration of the process that took over cannot be followed here; connections of this one go on under \
                     the last that could"
                );
            }
            told = fault;
        }
    }
}
