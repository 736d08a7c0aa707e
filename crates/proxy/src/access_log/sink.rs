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
    /// A file, appended to; `None` until it can be opened.
    File { path: PathBuf, file: Option<File> },
}

impl Sink {
    /// A file and the directories it lies in, created if they are missing. What cannot be opened now is tried again with each
    /// write: traffic does not wait for a disk.
    pub(super) fn open(path: &Path) -> Self {
        let file = make(path).inspect_err(|error| {
            let path = path.display();
            tracing::error!(%error, %path, "an access log (nginx_config.http.access_log, nginx_config.stream.access_log) cannot be opened; lines are lost until it can");
        });
        Self::File { path: path.to_owned(), file: file.ok() }
    }

    /// Opens the file that now has the name. If that fails, the one that is open stays in use.
    pub(super) fn reopen(&mut self) {
        let Self::File { path, file } = self else { return };
        match append(path) {
            Ok(new) => *file = Some(new),
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
            Self::File { path, file } => {
                let open = match file {
                    Some(open) => open,
                    None => file.insert(make(path)?),
                };
                open.write_all(lines.as_bytes())
            }
        }
    }
}

fn make(path: &Path) -> io::Result<File> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    append(path)
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(MODE).open(path)
}
