//! When certificates end that the control plane cannot see, because references stand for them in their objects.

use milecastle_pki::first_end;
use milecastle_snapshot::Snapshot;
use milecastle_wire::pb;
use std::sync::{Arc, Weak};
use std::time::UNIX_EPOCH;

/// Objects that are told of.
const MOST: usize = 32;

/// What there is to tell, read anew for each snapshot.
#[derive(Default)]
pub(super) struct CertificateEnds {
    snapshot: Weak<Snapshot>,
    ends: Vec<pb::CertificateEnd>,
}

impl CertificateEnds {
    /// Those of a snapshot that is in force: of each object the first one, and those that end first.
    pub(super) fn of(&mut self, snapshot: &Arc<Snapshot>) -> Vec<pb::CertificateEnd> {
        if !std::ptr::eq(self.snapshot.as_ptr(), Arc::as_ptr(snapshot)) {
            self.snapshot = Arc::downgrade(snapshot);
            self.ends = read(snapshot);
        }
        self.ends.clone()
    }
}

fn read(snapshot: &Snapshot) -> Vec<pb::CertificateEnd> {
    let ends = snapshot.referred_certificates().filter_map(|(key, certificates)| {
        let end = first_end(certificates)?.duration_since(UNIX_EPOCH).ok()?;
        let key = pb::ObjectKey { kind: key.kind.name().to_owned(), id: key.id.to_string() };
        Some(pb::CertificateEnd { key: Some(key), not_after: i64::try_from(end.as_secs()).unwrap_or(i64::MAX) })
    });
    let mut ends: Vec<_> = ends.collect();
    ends.sort_by_key(|end| end.not_after);
    ends.truncate(MOST);
    ends
}
