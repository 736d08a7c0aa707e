//! The task that asks for one service.

use super::registry::{AskError, Registry};
use super::service::State;
use crate::backoff::{Backoff, jitter};
use milecastle_settings::Discovery as Settings;
use std::sync::Arc;

/// How registries are asked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// After failures.
    pub(super) backoff: Backoff,
    /// Most instances of a service.
    instances: usize,
}

impl Pace {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            backoff: Backoff { shortest: settings.retry_min.get(), longest: settings.retry_max.get() },
            instances: usize::try_from(settings.service_instances).unwrap_or(usize::MAX),
        }
    }
}

/// Asks for ever.
pub(super) async fn run(state: Arc<State>, registry: Arc<dyn Registry>, pace: Pace) {
    let mut since = None;
    let mut failures = 0;
    loop {
        let answer = registry.ask(&state.query, since).await;
        let pause = match answer.and_then(|answer| {
            if answer.instances.len() > pace.instances { Err(AskError::TooMany) } else { Ok(answer) }
        }) {
            Ok(answer) => {
                failures = 0;
                since = answer.position;
                state.heard(answer.instances, answer.passed_over);
                answer.ask_again
            }
            Err(error) => {
                state.failed(&error);
                // The next answer shall not wait for a change: it tells that there are answers again.
                since = None;
                let pause = pace.backoff.pause(failures, jitter());
                failures = failures.saturating_add(1);
                pause
            }
        };
        tokio::time::sleep(pause).await;
    }
}
