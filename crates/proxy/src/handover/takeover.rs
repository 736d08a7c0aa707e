//! The successor's side: it takes the sockets of the process that runs.

use super::channel::{Channel, Message, PROTOCOL};
use super::{Inherited, Listening, socket};
use crate::drain::Census;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixStream;

/// Why a process does not take over from another one. That one serves on, unless it has ended.
#[derive(Debug, thiserror::Error)]
pub enum TakeoverError {
    /// There is nobody to take over from.
    #[error(
        "no gateway can be asked for its sockets at {}: {source}; is one running with this state.dir, as this user? Without \
         one, start without --upgrade",
        path.display()
    )]
    Nobody {
        /// Where it was looked for.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The running process says no.
    #[error("the running gateway serves on by itself: {0}")]
    Refused(String),
    /// It is gone, or says something else than it should.
    #[error("the running gateway broke off: {0}; if it has ended, start without --upgrade")]
    Broken(#[from] io::Error),
}

/// A process that is about to take over.
pub struct Takeover {
    channel: Channel,
    lock: Option<Arc<File>>,
    listening: Vec<Listening>,
}

impl Takeover {
    /// Asks the process that runs with this state directory for its sockets. Its configuration stream rests until this is dropped
    /// or ends with [`Self::ready`].
    ///
    /// # Errors
    /// There is no such process, or it refuses.
    pub async fn ask(dir: &Path, version: &str) -> Result<Self, TakeoverError> {
        let path = socket(dir);
        let mut channel = match connect(dir, &path) {
            Ok(stream) => Channel::new(stream),
            Err(source) => return Err(TakeoverError::Nobody { path, source }),
        };
        channel.send(&Message::Take { protocol: PROTOCOL, version: version.to_owned() }, &[]).await?;
        let mut listening: Vec<Listening> = Vec::new();
        loop {
            let (message, sockets) = channel.receive().await?;
            match message {
                Message::Sockets(address) => match listening.last_mut().filter(|last| last.address == address) {
                    Some(last) => last.sockets.extend(sockets),
                    None => listening.push(Listening { address, sockets }),
                },
                Message::Directory => {
                    let lock = sockets.into_iter().next().map(|lock| Arc::new(File::from(lock)));
                    return Ok(Self { channel, lock, listening });
                }
                Message::Refused { reason } => return Err(TakeoverError::Refused(reason)),
                _ => return Err(unexpected()),
            }
        }
    }

    /// The sockets, for the listeners to claim.
    pub fn inherited(&mut self) -> Inherited {
        Inherited::new(std::mem::take(&mut self.listening))
    }

    /// The lock on the state directory, if the running process has one.
    pub fn lock(&self) -> Option<Arc<File>> {
        self.lock.clone()
    }

    /// Waits until the running process breaks off, and says why. Nothing else comes from it before it hears that this process
    /// is ready. To be used once.
    pub async fn broken_off(&mut self) -> TakeoverError {
        match self.channel.receive().await {
            Ok((Message::Refused { reason }, _)) => TakeoverError::Refused(reason),
            Ok(_) => unexpected(),
            Err(error) => error.into(),
        }
    }

    /// This process could serve at once: takes over.
    ///
    /// # Errors
    /// The running process serves on, or is gone.
    pub async fn ready(mut self, inherited: &Inherited) -> Result<(), TakeoverError> {
        self.channel.send(&Message::Ready { claimed: inherited.claimed().to_vec() }, &[]).await?;
        match self.channel.receive().await? {
            (Message::Yours, _) => Ok(()),
            (Message::Refused { reason }, _) => Err(TakeoverError::Refused(reason)),
            _ => Err(unexpected()),
        }
    }
}

fn unexpected() -> TakeoverError {
    io::Error::other("it said something unexpected").into()
}

/// Asks a process how far its end has come.
pub(crate) async fn ask_census(dir: &Path, path: &Path) -> io::Result<Census> {
    const PATIENCE: Duration = Duration::from_secs(2);
    let mut channel = Channel::new(connect(dir, path)?);
    let asking = async {
        channel.send(&Message::Ask, &[]).await?;
        match channel.receive().await? {
            (Message::Told { census }, _) => Ok(census),
            _ => Err(io::Error::other("it said something unexpected")),
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

fn connect(dir: &Path, path: &Path) -> io::Result<UnixStream> {
    let stream = within(dir, path, |short| std::os::unix::net::UnixStream::connect(short))?;
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

/// Does something with a path in `dir` that is short enough for the address of a socket, however long the real one is.
pub(super) fn within<T>(dir: &Path, path: &Path, act: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let opened = File::open(dir)?;
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    act(&Path::new("/proc/self/fd").join(opened.as_raw_fd().to_string()).join(name))
}
