//! The running process's side: it waits for a successor, and for those who ask how far its end has come.

use super::channel::{Channel, DESCRIPTORS, Message, PROTOCOL};
use super::{Address, Listening, socket};
use crate::drain::{self, Drain};
use crate::node::{Pause, Paused};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// What a successor is given, and how.
pub struct OfferParts {
    /// The state directory.
    pub dir: PathBuf,
    /// Duplicates of all listening sockets.
    pub listening: Vec<Listening>,
    /// Lets the node's membership rest while a successor gets ready.
    pub pause: Pause,
    /// What is told to those who ask.
    pub drain: Arc<Drain>,
    /// How long a peer may take to say what it wants: `upgrade.first_word`.
    pub first_word: Duration,
    /// How long a successor may take to be ready: `upgrade.ready_timeout`.
    pub patience: Duration,
}

/// The sockets are a successor's from now on.
#[derive(Debug)]
pub struct HandedOver {
    /// Its process id.
    pub successor: i32,
    /// Those of the listeners that it has claimed. The others end with this process.
    pub claimed: Arc<[Address]>,
}

/// The open offer. It ends when this is dropped.
pub struct Offer {
    handed: mpsc::Receiver<HandedOver>,
    task: tokio::task::JoinHandle<()>,
    shared: Arc<Shared>,
}

struct Shared {
    dir: PathBuf,
    pause: Pause,
    drain: Arc<Drain>,
    first_word: Duration,
    patience: Duration,
    /// `None` once it was taken. Held while a successor gets ready.
    listening: tokio::sync::Mutex<Option<Vec<Listening>>>,
    /// Where the socket is by now.
    path: Mutex<PathBuf>,
    handed: mpsc::Sender<HandedOver>,
}

impl Offer {
    /// Opens the socket in the state directory and waits, on the runtime that this is called on. A socket that another
    /// process has left there is replaced: the caller has the directory's lock.
    ///
    /// # Errors
    /// The socket cannot be opened.
    pub fn open(parts: OfferParts) -> io::Result<Self> {
        let OfferParts { dir, listening, pause, drain, first_word, patience } = parts;
        let path = socket(&dir);
        let listener = bind(&dir, &path)?;
        let (handed, heard) = mpsc::channel(1);
        let (listening, path) = (tokio::sync::Mutex::new(Some(listening)), Mutex::new(path));
        let shared = Arc::new(Shared { dir, pause, drain, first_word, patience, listening, path, handed });
        let task = tokio::spawn(attend(listener, shared.clone()));
        Ok(Self { handed: heard, task, shared })
    }

    /// Waits until a successor has the sockets. Cancel safe.
    pub async fn handed_over(&mut self) -> HandedOver {
        match self.handed.recv().await {
            Some(handed) => handed,
            // The task that would say so lives as long as this.
            None => std::future::pending().await,
        }
    }

    /// Takes no successor any more, breaks off with one that is getting ready, and closes the duplicates: the process is to
    /// end, and so are its sockets.
    pub async fn withdraw(self) {
        self.task.abort();
        // A task that has the lock is being ended as well.
        drop(self.shared.listening.lock().await.take());
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        self.task.abort();
        // Nobody is harmed by one that stays: the next process removes it.
        std::fs::remove_file(&*self.shared.path()).ok();
    }
}

/// Binds a socket for this user only, also where the path is longer than an address may be (108 bytes, unix(7)).
fn bind(dir: &Path, path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = super::takeover::within(dir, path, |short| UnixListener::bind(short))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

async fn attend(listener: UnixListener, shared: Arc<Shared>) {
    // They end with this task.
    let mut talks = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_ended) = talks.join_next() => continue,
        };
        match accepted {
            Ok((stream, _)) => drop(talks.spawn(hear(stream, shared.clone()))),
            Err(error) => {
                tracing::warn!(%error, "a process that may want to take over cannot be heard");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn hear(stream: UnixStream, shared: Arc<Shared>) {
    let peer = stream.peer_cred();
    let mut channel = Channel::new(stream);
    let own = rustix::process::geteuid().as_raw();
    let successor = match peer {
        Ok(peer) if peer.uid() == own || peer.uid() == 0 => peer.pid().unwrap_or_default(),
        Ok(peer) => {
            tracing::warn!(
                user = peer.uid(),
                pid = peer.pid(),
                "a process of another user asked for the sockets of this one"
            );
            return;
        }
        Err(error) => {
            return tracing::warn!(%error, "a process that asks for the sockets of this one cannot be identified");
        }
    };
    let wants = timeout(shared.first_word, channel.receive()).await;
    let answered = match wants {
        Ok(Ok((Message::Ask, _))) => {
            let census = shared.drain.census().await;
            channel.send(&Message::Told { census }, &[]).await
        }
        Ok(Ok((Message::Take { protocol, version }, _))) => {
            shared.hand_over(&mut channel, successor, protocol, &version).await;
            return;
        }
        Ok(Ok(_)) => refuse(&mut channel, "another first word was expected").await,
        Ok(Err(error)) => Err(error),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    };
    if let Err(error) = answered {
        tracing::debug!(%error, pid = successor, "a conversation about the end of this process broke off");
    }
}

async fn refuse(channel: &mut Channel, reason: &str) -> io::Result<()> {
    channel.send(&Message::Refused { reason: reason.to_owned() }, &[]).await
}

impl Shared {
    fn path(&self) -> std::sync::MutexGuard<'_, PathBuf> {
        self.path.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The whole conversation with a successor. What goes wrong is told, and changes nothing.
    async fn hand_over(&self, channel: &mut Channel, successor: i32, protocol: u32, version: &str) {
        let outcome = match self.listening.try_lock() {
            _ if protocol != PROTOCOL => {
                Err(format!("this process speaks version {PROTOCOL} of the conversation, the other one {protocol}"))
            }
            Err(_) => Err("another process is about to take over".to_owned()),
            Ok(mut listening) => match listening.take() {
                None => Err("this process is ending, or has a successor".to_owned()),
                Some(sockets) => {
                    tracing::info!(
                        pid = successor,
                        version,
                        "a process asks for the sockets; updates rest until it is ready"
                    );
                    let outcome = self.converse(channel, &sockets).await;
                    if outcome.is_err() {
                        *listening = Some(sockets);
                    }
                    outcome
                }
            },
        };
        match outcome {
            Ok(claimed) => {
                tracing::info!(
                    pid = successor,
                    "the sockets are the other process's: this one ends with its connections"
                );
                // Without a receiver the process is ending anyway.
                self.handed.send(HandedOver { successor, claimed: claimed.into() }).await.ok();
            }
            Err(reason) => {
                tracing::warn!(
                    pid = successor,
                    reason,
                    "the other process did not take over; this one serves on as before"
                );
                refuse(channel, &reason).await.ok();
            }
        }
    }

    /// Gives what the listeners are that the successor has claimed.
    ///
    /// # Errors
    /// Why it has not taken over.
    async fn converse(&self, channel: &mut Channel, sockets: &[Listening]) -> Result<Vec<Address>, String> {
        let gone = |error: io::Error| match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe => {
                "it ended before it was ready; see its log".to_owned()
            }
            _ => format!("the conversation with it broke off: {error}"),
        };
        let paused = timeout(self.patience, self.pause.ask()).await;
        let paused = paused.map_err(|_| "the node's membership did not come to rest in time")?;
        let paused = paused.map_err(|error| error.to_string())?;
        send_all(channel, sockets, &paused).await.map_err(gone)?;
        let claimed = match timeout(self.patience, channel.receive()).await {
            Ok(Ok((Message::Ready { claimed }, _))) => claimed,
            Ok(Ok((Message::Refused { reason }, _))) => return Err(reason),
            Ok(Ok(_)) => return Err("it said something unexpected".to_owned()),
            Ok(Err(error)) => return Err(gone(error)),
            Err(_) => {
                let after = self.patience.as_secs_f32();
                return Err(format!("it was not ready within {after} s (upgrade.ready_timeout)"));
            }
        };
        // The name is the successor's from here on. This process is reached under another one.
        let (before, after) = (socket(&self.dir), drain::socket(&self.dir, std::process::id()));
        std::fs::rename(&before, &after).map_err(|error| format!("the socket cannot be renamed: {error}"))?;
        self.path().clone_from(&after);
        if let Err(error) = channel.send(&Message::Yours, &[]).await {
            // It is found under its old name again; failing that, the next process does not find it.
            std::fs::rename(&after, &before).ok();
            *self.path() = before;
            return Err(gone(error));
        }
        paused.end();
        Ok(claimed)
    }
}

async fn send_all(channel: &mut Channel, sockets: &[Listening], paused: &Paused) -> io::Result<()> {
    for Listening { address, sockets } in sockets {
        for some in sockets.chunks(DESCRIPTORS) {
            let some: Vec<BorrowedFd<'_>> = some.iter().map(|socket| socket.as_fd()).collect();
            channel.send(&Message::Sockets(address.clone()), &some).await?;
        }
    }
    let lock: Vec<BorrowedFd<'_>> = paused.lock().into_iter().collect();
    channel.send(&Message::Directory, &lock).await
}
