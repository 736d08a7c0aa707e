//! The task that asks for one service.

use super::registry::{AskError, Registry};
use super::service::State;
use milecastle_settings::Discovery as Settings;
use std::sync::Arc;
use std::time::Duration;

/// How registries are asked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    retry_min: Duration,
    retry_max: Duration,
    /// Most instances of a service.
    instances: usize,
}

impl Pace {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            retry_min: settings.retry_min.get(),
            retry_max: settings.retry_max.get(),
            instances: usize::try_from(settings.service_instances).unwrap_or(usize::MAX),
        }
    }

    /// The pause after so many failures in a row, the first of them being number 0. `jitter`, from 0 to 255, spreads those that
    /// have failed together over the second half of it.
    pub(super) fn pause(&self, failures: u32, jitter: u8) -> Duration {
        let whole = self.retry_min.saturating_mul(1 << failures.min(16)).min(self.retry_max);
        whole / 2 + whole / 2 * u32::from(jitter) / 255
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
                state.heard(answer.instances);
                answer.ask_again
            }
            Err(error) => {
                state.failed(&error);
                // The next answer shall not wait for a change: it tells that there are answers again.
                since = None;
                let mut jitter = [0];
                // Without a random number everybody asks at the same moment, which is no fault.
                let _known = aws_lc_rs::rand::fill(&mut jitter).is_ok();
                let pause = pace.pause(failures, jitter[0]);
                failures = failures.saturating_add(1);
                pause
            }
        };
        tokio::time::sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit() {
        let pace = Pace { retry_min: Duration::from_millis(500), retry_max: Duration::from_secs(15), instances: 1 };
        for (failures, jitter, millis) in
            [(0, 0, 250), (0, 255, 500), (1, 255, 1000), (4, 0, 4000), (5, 255, 15_000), (1000, 0, 7500)]
        {
            assert_eq!(pace.pause(failures, jitter), Duration::from_millis(millis), "{failures} {jitter}");
        }
    }
}
