//! Whether the control plane's history was set back below what this node holds, also over restarts.
//!
//! A database that was restored from a backup counts on from an earlier revision. Once it has passed the node's own, numbers
//! alone no longer tell the two histories apart; so what was seen before is kept until it is settled.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

/// The file in the state directory; it holds the lineage.
const FILE: &str = "set-back";

/// The lineage whose head was seen below what this node holds of it; `None` if there is none.
pub(super) struct SetBack {
    path: PathBuf,
    lineage: Option<String>,
}

impl SetBack {
    /// What an earlier run of the node left.
    pub(super) fn read(dir: &Path) -> Self {
        let path = dir.join(FILE);
        // Without the directory there is nothing to keep from before; whatever else is wrong with it is an alarm of its own.
        let lineage = fs::read_to_string(&path).ok().filter(|lineage| !lineage.is_empty());
        Self { path, lineage }
    }

    /// Whether that happened to `lineage`.
    pub(super) fn is(&self, lineage: &str) -> bool {
        self.lineage.as_deref() == Some(lineage)
    }

    /// It happened to `lineage`.
    pub(super) fn happened(&mut self, lineage: &str) {
        if self.is(lineage) {
            return;
        }
        self.lineage = Some(lineage.to_owned());
        let written = fs::File::create(&self.path).and_then(|mut file| {
            file.write_all(lineage.as_bytes())?;
            file.sync_all()
        });
        if let Err(error) = written {
            let file = self.path.display();
            tracing::error!(%file, %error, "that the database was set back cannot be kept on disk; after a restart it may be unknown");
        }
    }

    /// It is settled.
    pub(super) fn settle(&mut self) {
        if self.lineage.take().is_none() {
            return;
        }
        if let Err(error) = fs::remove_file(&self.path)
            && error.kind() != ErrorKind::NotFound
        {
            let file = self.path.display();
            tracing::error!(%file, %error, "remove this file: the database is no longer set back, and a restart must not take it for that");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use milecastle_testkit::TempDir;

    #[test]
    fn it_is_kept_until_it_is_settled() {
        let home = TempDir::new();
        let mut set_back = SetBack::read(home.path());
        assert!(!set_back.is("line"));
        set_back.happened("line");
        assert!(set_back.is("line") && !set_back.is("other"));
        let mut set_back = SetBack::read(home.path());
        assert!(set_back.is("line"));
        set_back.settle();
        assert!(!set_back.is("line") && !SetBack::read(home.path()).is("line"));
    }
}
