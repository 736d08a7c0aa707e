//! Where lines go.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Lines may carry tokens of query strings: only the group reads along.
const MODE: u32 = 0o640;

/// Where lines go.
pub(super) enum Sink {
    /// The process's standard output.
    Stdout,
    /// A file, appended to.
    File { path: PathBuf, file: File },
}

impl Sink {
    /// A file and the directories it lies in, created if they are missing.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        Ok(Self::File { path: path.to_owned(), file: append(path)? })
    }

    /// Opens the file that now has the name. If that fails, the one that is open stays in use.
    pub(super) fn reopen(&mut self) {
        let Self::File { path, file } = self else { return };
        match append(path) {
            Ok(new) => *file = new,
            Err(error) => {
                tracing::error!(%error, path = %path.display(), "the access log cannot be opened anew; the old file goes on");
            }
        }
    }

    pub(super) fn write(&mut self, lines: &str) -> io::Result<()> {
        match self {
            Self::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(lines.as_bytes())?;
                out.flush()
            }
            Self::File { file, .. } => file.write_all(lines.as_bytes()),
        }
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(MODE).open(path)
}
