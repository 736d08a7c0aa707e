//! When certificates end that the control plane cannot see, because references stand for them in their objects.

use milecastle_pki::first_end;
use milecastle_snapshot::Snapshot;
use milecastle_wire::pb;
use rustls_pki_types::CertificateDer;
use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

/// Objects that are told of.
const MOST: usize = 32;

/// What there is to tell, read anew for each snapshot.
#[derive(Default)]
pub(super) struct CertificateEnds {
    snapshot: Weak<Snapshot>,
    /// Of each object the first one, by when they end.
    ends: Vec<pb::CertificateEnd>,
    /// When each certificate ends, in seconds since 1970; one that stays is not read again. `None`: it cannot be read.
    known: HashMap<CertificateDer<'static>, Option<i64>>,
    /// How many objects were beyond [`MOST`] when that was told last.
    left_out: usize,
}

impl CertificateEnds {
    /// Those of a snapshot that is in force: of each object the first one. Those come first that are still to end, the next one at the
    /// head, then those that have ended, the last one at the head. A WARN tells how many are left out.
    pub(super) fn of(&mut self, snapshot: &Arc<Snapshot>) -> Vec<pb::CertificateEnd> {
        if !std::ptr::eq(self.snapshot.as_ptr(), Arc::as_ptr(snapshot)) {
            self.snapshot = Arc::downgrade(snapshot);
            self.read(snapshot);
        }
        first(&self.ends, seconds(SystemTime::now()))
    }

    fn read(&mut self, snapshot: &Snapshot) {
        let mut former = std::mem::take(&mut self.known);
        self.ends.clear();
        for (key, certificates) in snapshot.referred_certificates() {
            let ends = certificates.into_iter().filter_map(|certificate| {
                let read = || former.remove(certificate).unwrap_or_else(|| first_end([certificate]).map(seconds));
                *self.known.entry(certificate.clone()).or_insert_with(read)
            });
            if let Some(not_after) = ends.min() {
                let key = pb::ObjectKey { kind: key.kind.name().to_owned(), id: key.id.to_string() };
                self.ends.push(pb::CertificateEnd { key: Some(key), not_after });
            }
        }
        self.ends.sort_by_key(|end| end.not_after);
        let left_out = self.ends.len().saturating_sub(MOST);
        if std::mem::replace(&mut self.left_out, left_out) != left_out && left_out > 0 {
            tracing::warn!(
                left_out,
                "more objects with references to certificates than the control plane is told of ({MOST}): it raises no alarm of the others, \
                 which end last or have ended first; take those away that nobody needs"
            );
        }
    }
}

fn seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// The [`MOST`] that count most of `ends`, which are sorted.
fn first(ends: &[pb::CertificateEnd], now: i64) -> Vec<pb::CertificateEnd> {
    let (ended, to_end) = ends.split_at(ends.partition_point(|end| end.not_after <= now));
    to_end.iter().chain(ended.iter().rev()).take(MOST).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_that_have_ended_hide_none_that_are_to_end() {
        let most = i64::try_from(MOST).unwrap();
        let ends = |range: std::ops::Range<i64>| range.map(|not_after| pb::CertificateEnd { key: None, not_after });
        let told = |count: i64, now: i64| -> Vec<i64> {
            first(&ends(0..count).collect::<Vec<_>>(), now).iter().map(|end| end.not_after).collect()
        };
        assert_eq!(told(3, 1), [2, 1, 0]);
        let expected: Vec<i64> = [most + 1].into_iter().chain((2..=most).rev()).collect();
        assert_eq!(told(most + 2, most), expected);
        assert_eq!(told(most + 2, -1), (0..most).collect::<Vec<_>>());
    }
}
