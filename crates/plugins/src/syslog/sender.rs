//! Lines to a server, beside the sessions.
//!
//! Two buffers follow one another (`docs/spec/plugins/_logging-common.md`, batch queue; `syslog.md`, rule 3): lines are gathered by
//! number and age; what comes out of that is gathered by size, and goes with what makes it enough. It counts as sent once it has gone.

use super::Syslog;
use super::config::{Config, SockType};
use crate::exporting::Exporting;
use milecastle_export::{BatchSettings, Batches, Carrier, Deliver, Endpoint, Outcome, SocketClient, Tls, Undelivered};
use milecastle_plugin_api::Plugin as _;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// The way to the server. Dropped, it sends what it holds, and ends.
pub(super) struct Sender {
    exporting: Arc<Exporting>,
    batches: BatchSettings,
    to: Endpoint,
    carrier: Carrier,
    limits: Limits,
    /// Made with the first line: most configurations are checked and never used.
    outlet: OnceLock<Batches<String>>,
}

#[derive(Clone, Copy)]
struct Limits {
    timeout: Duration,
    flush: usize,
    drop: usize,
}

/// Gathers lines by size, and sends them.
struct Courier {
    client: SocketClient,
    limits: Limits,
    held: Vec<u8>,
    /// Lines of that.
    lines: usize,
}

impl Sender {
    pub(super) fn new(config: &Config, exporting: Arc<Exporting>) -> Self {
        let seconds = |seconds: u32| Duration::from_secs(seconds.into());
        let (carrier, tls) = match config.sock_type {
            SockType::Tcp => (Carrier::Connection, if config.tls { Tls::Verified } else { Tls::None }),
            SockType::Udp => (Carrier::Datagrams, Tls::None),
        };
        Self {
            exporting,
            batches: BatchSettings {
                name: config.name.clone(),
                most: config.batch_max_size,
                inactive: seconds(config.inactive_timeout),
                age: seconds(config.buffer_duration),
                retries: config.max_retry_count,
                retry_delay: seconds(config.retry_delay),
            },
            to: Endpoint { host: config.host.clone(), port: config.port, tls },
            carrier,
            limits: Limits {
                timeout: Duration::from_millis(config.timeout),
                flush: config.flush_limit,
                drop: config.drop_limit,
            },
            outlet: OnceLock::new(),
        }
    }

    /// Adds a line, unless `most` of the plugin's wait already.
    pub(super) fn push(&self, line: String, most: usize) {
        let outlet = self.outlet.get_or_init(|| {
            let background = &self.exporting.background;
            let client = SocketClient::new(background.clone(), self.to.clone(), self.carrier);
            let courier = Courier { client, limits: self.limits, held: Vec::new(), lines: 0 };
            Batches::start(background, self.batches.clone(), self.exporting.backlog(Syslog::NAME), [courier])
        });
        outlet.push(line, most);
    }
}

impl Courier {
    /// Sends what is held, and says how many lines that were. On failure it is still held.
    async fn flush(&mut self) -> Result<usize, String> {
        let sent = self.client.send(&self.held, self.limits.timeout).await;
        let Endpoint { host, port, .. } = self.client.to();
        sent.map_err(|error| format!("{host}:{port}: {error}"))?;
        self.held.clear();
        Ok(std::mem::take(&mut self.lines))
    }
}

impl Deliver<String> for Courier {
    async fn deliver(&mut self, batch: &[String]) -> Result<Outcome, Undelivered> {
        let before = (self.held.len(), self.lines);
        let mut outcome = Outcome::default();
        for line in batch {
            if self.held.len() + line.len() > self.limits.drop {
                outcome.dropped += 1;
            } else {
                self.held.extend_from_slice(line.as_bytes());
                self.lines += 1;
            }
        }
        if self.held.len() >= self.limits.flush {
            let sent = self.flush().await;
            outcome.sent = sent.inspect_err(|_| {
                // The batch comes again, or is dropped; what was held before stays.
                self.held.truncate(before.0);
                self.lines = before.1;
            })?;
        }
        if outcome.dropped > 0 {
            let (entries, drop_limit) = (outcome.dropped, self.limits.drop);
            // Another try would find them as long.
            tracing::error!(entries, drop_limit, "log entries would be more than drop_limit and are dropped");
        }
        Ok(outcome)
    }

    async fn end(&mut self) -> Outcome {
        let mut outcome = Outcome::default();
        if !self.held.is_empty() {
            match self.flush().await {
                Ok(lines) => outcome.sent = lines,
                Err(reason) => {
                    outcome.dropped = self.lines;
                    let entries = self.lines;
                    tracing::error!(reason, entries, "the last log entries could not be sent and are dropped");
                }
            }
        }
        self.client.close(self.limits.timeout).await;
        outcome
    }
}
