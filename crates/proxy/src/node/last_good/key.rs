//! The key that seals the files.

use super::directory;
use super::file::StateKey;
use aws_lc_rs::rand;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use milecastle_settings::{SecretError, State};
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeyError {
    /// It is there, and cannot be read.
    #[error(transparent)]
    Read(#[from] SecretError),
    /// It is something else.
    #[error(
        "{} (or the systemd credential milecastle-state-key) is not 32 bytes in base64; put the right key back, or remove it to \
         begin anew",
        path.display()
    )]
    Form {
        /// Where a key would be made.
        path: PathBuf,
    },
    /// It cannot be made.
    #[error("{} cannot be made: {source}", path.display())]
    Make {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

impl StateKey {
    /// The key of these settings; `None` if none was made yet.
    pub(super) fn read(settings: &State) -> Result<Option<Self>, KeyError> {
        let Some(text) = settings.read_key()? else { return Ok(None) };
        let bytes = BASE64_STANDARD.decode(text.reveal()).ok().and_then(|bytes| bytes.try_into().ok());
        match bytes {
            Some(bytes) => Ok(Some(Self(bytes))),
            None => Err(KeyError::Form { path: settings.key_path() }),
        }
    }

    /// The key of these settings. If there is none, `known` is put there, or a new one: a file for its owner only, which appears
    /// whole and is on the disk when this returns.
    pub(super) fn read_or_make(settings: &State, known: Option<Self>) -> Result<Self, KeyError> {
        if let Some(key) = Self::read(settings)? {
            return Ok(key);
        }
        let path = settings.key_path();
        let make = || {
            let key = match known {
                Some(key) => key,
                None => Self::generate()?,
            };
            let dir = path.parent().ok_or(io::ErrorKind::InvalidFilename)?;
            directory::place(&path, |mut file| {
                writeln!(file, "{}", BASE64_STANDARD.encode(key.0))?;
                file.sync_all()
            })?;
            // Without its name nothing that it seals could be read again.
            directory::sync(dir)?;
            Ok(key)
        };
        make().map_err(|source| KeyError::Make { path: path.clone(), source })
    }

    fn generate() -> io::Result<Self> {
        let mut key = [0; 32];
        rand::fill(&mut key).map_err(|_| io::Error::other("the system gives no random bytes"))?;
        Ok(Self(key))
    }
}

/// What is wrong with a key file that works all the same.
pub(super) fn open_to_others(settings: &State) -> Option<String> {
    let path = settings.key_path();
    let mode = fs::metadata(&path).ok()?.permissions().mode() & 0o777;
    (mode & 0o077 != 0)
        .then(|| format!("{}: the state key is open to others (mode {mode:03o}): chmod 600 it", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use milecastle_testkit::TempDir;

    fn settings(home: &TempDir) -> State {
        State { dir: Some(home.path().to_owned()), ..State::default() }
    }

    #[test]
    fn a_key_is_made_once_for_its_owner() {
        let home = TempDir::new();
        let settings = settings(&home);
        assert!(StateKey::read(&settings).unwrap().is_none());
        let made = StateKey::read_or_make(&settings, None).unwrap();
        assert_eq!(StateKey::read_or_make(&settings, None).unwrap().0, made.0);
        assert_eq!(open_to_others(&settings), None);
        fs::set_permissions(settings.key_path(), fs::Permissions::from_mode(0o640)).unwrap();
        assert!(open_to_others(&settings).unwrap().contains("640"));
        assert_eq!(StateKey::read(&settings).unwrap().unwrap().0, made.0);
    }

    #[test]
    fn what_is_no_key_is_never_replaced() {
        let home = TempDir::new();
        let settings = settings(&home);
        home.write("state-key", "c2hvcnQ=\n");
        assert!(matches!(StateKey::read_or_make(&settings, None), Err(KeyError::Form { .. })));
        home.write("state-key", "");
        assert!(matches!(StateKey::read_or_make(&settings, None), Err(KeyError::Read(_))));
        assert_eq!(fs::read_to_string(settings.key_path()).unwrap(), "");
    }

    #[test]
    fn a_key_may_be_kept_elsewhere() {
        let (home, away) = (TempDir::new(), TempDir::new());
        let settings = State { key_file: Some(away.path().join("key")), ..settings(&home) };
        StateKey::read_or_make(&settings, None).unwrap();
        assert!(away.path().join("key").exists() && !home.path().join("state-key").exists());
    }
}
