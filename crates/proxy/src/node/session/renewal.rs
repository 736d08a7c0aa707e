//! The renewal of the node's certificate while a stream is open.

use super::Session;
use crate::node::Alarm;
use milecastle_pki::NodeKeys;
use std::time::SystemTime;
use tokio::time::{Instant, timeout};

impl Session<'_> {
    /// Whether a new certificate is due, and the clock that says so is not known to be wrong.
    pub(super) fn is_to_renew(&mut self) -> bool {
        if !self.keys.needs_renewal(SystemTime::now()) {
            if self.member.renew_after.take().is_some() {
                self.member.settle(Alarm::Renewal);
            }
            return false;
        }
        self.member.renew_after.is_none_or(|until| until <= Instant::now())
    }

    /// Gets a fresh certificate. That it failed is an alarm: the present one will end.
    pub(super) async fn renew(&mut self) -> bool {
        let patience = self.member.config.control_plane.join_timeout.get();
        self.member.renew_after = None;
        let reason = match timeout(patience, self.member.identity.renew(self.channel.clone())).await {
            Ok(Ok(fresh)) => {
                self.judge_clock(&fresh);
                return true;
            }
            Ok(Err(error)) => {
                if error.is_of_clock() {
                    self.member.renew_after =
                        Some(Instant::now() + self.member.config.control_plane.reconnect_max.get());
                }
                error.to_string()
            }
            Err(_) => format!("no answer within {} s", patience.as_secs()),
        };
        let left = self.keys.certificate().not_after.duration_since(SystemTime::now()).unwrap_or_default().as_secs();
        let text = format!("this node's certificate ends in {left} s and was not renewed yet: {reason}");
        if self.member.raise(Alarm::Renewal, text) {
            tracing::warn!(reason, ends_in_s = left, "the node's certificate was not renewed yet; trying again");
        }
        false
    }

    /// A certificate that is due as soon as it is made tells of a clock that is ahead; the next one would be due too.
    fn judge_clock(&mut self, fresh: &NodeKeys) {
        let now = SystemTime::now();
        if !fresh.needs_renewal(now) {
            return;
        }
        let left = fresh.certificate().not_after.duration_since(now).unwrap_or_default();
        self.member.renew_after = Some(Instant::now() + left / 2);
        let text = format!(
            "this host's clock is ahead of the control plane's: by it a certificate that was just made is due for renewal, and ends in \
             {} s; set the clock",
            left.as_secs()
        );
        if self.member.raise(Alarm::Renewal, text.clone()) {
            tracing::warn!("{text}");
        }
    }
}
