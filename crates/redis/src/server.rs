//! A server, and how it is asked.

use crate::connection;
use crate::resp::Value;
use milecastle_export::{Background, Endpoint};
use milecastle_telemetry::Secret;
use milecastle_telemetry::metrics::{Counter, Handle};
use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

/// How a server is reached and spoken with. Connections stand for each other only if all of it is equal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// Where it is.
    pub endpoint: Endpoint,
    /// Who asks, beside a password.
    pub username: Option<String>,
    /// `None`: nobody has to say who asks.
    pub password: Option<Secret<String>>,
    /// Number of the database.
    pub database: u32,
    /// How long opening a connection may take, and how long an answer.
    pub patience: Duration,
    /// How long a connection is kept without a question.
    pub rest: Duration,
    /// How long at least nobody connects again after a connection that ended before its first answer, after an answer that did not come
    /// in time, or after the server has said that it is not the one to be asked: one that comes up is not run over, and one that is away
    /// costs little. It lasts no less than the wait that was in vain; zero: the next question connects, whatever has happened.
    pub pause: Duration,
    /// Questions of one worker that may wait for their answers, and as many again until they are sent; at least 1.
    pub pending: usize,
}

/// There is no answer: the server cannot be reached, was too slow, or refused. The log says which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Redis gave no answer")]
pub struct Unanswered;

/// A question on its way.
pub(crate) struct Question {
    pub(crate) text: Vec<u8>,
    pub(crate) answer: oneshot::Sender<Value>,
}

/// A server of Redis.
pub struct Server {
    pub(crate) terms: Terms,
    /// Tells it from all others of the process.
    number: u64,
    pub(crate) background: Arc<Background>,
    began: Instant,
    /// Milliseconds since then before which nobody connects.
    barred: AtomicU64,
    /// It was said that it does not answer, and not yet that it does again.
    failing: AtomicBool,
    /// It was said that it refuses questions, and it has taken none since.
    refusing: AtomicBool,
    /// Counts questions that found no room.
    refused: Handle<Counter>,
}

/// The servers of a process.
pub struct Servers {
    /// Questions that found no room.
    refused: Handle<Counter>,
    known: Mutex<Vec<Weak<Server>>>,
}

thread_local! {
    /// This worker's connections, by the number of the server.
    static CONNECTIONS: RefCell<HashMap<u64, mpsc::Sender<Question>>> = RefCell::default();
}

impl Servers {
    /// None is known yet. Questions for which [`Terms::pending`] leaves no room are counted.
    pub fn new(refused: Handle<Counter>) -> Self {
        Self { refused, known: Mutex::default() }
    }

    /// The server that is spoken with on these terms; `background` opens its connections. Locks, so it is asked for when
    /// configuration is built.
    pub fn get(&self, terms: &Terms, background: &Arc<Background>) -> Arc<Server> {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|server| server.strong_count() > 0);
        if let Some(server) = known.iter().filter_map(Weak::upgrade).find(|server| server.terms == *terms) {
            return server;
        }
        let server = Arc::new(Server {
            terms: terms.clone(),
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            background: background.clone(),
            began: Instant::now(),
            barred: AtomicU64::new(0),
            failing: AtomicBool::new(false),
            refusing: AtomicBool::new(false),
            refused: self.refused.clone(),
        });
        known.push(Arc::downgrade(&server));
        server
    }
}

impl Server {
    /// Asks on this worker's connection; a connection is opened if there is none. `question` is a [`crate::command`].
    ///
    /// # Errors
    /// The server does not answer in time, refuses, or too many questions wait already.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub async fn ask(self: &Arc<Self>, question: Vec<u8>) -> Result<Value, Unanswered> {
        let (answer, answered) = oneshot::channel();
        self.send(Question { text: question, answer })?;
        match answered.await {
            Ok(Value::Error(reason)) => {
                self.refuses(&reason);
                Err(Unanswered)
            }
            Ok(value) => {
                // Read first, as below.
                if self.refusing.load(Ordering::Relaxed) {
                    self.refusing.store(false, Ordering::Relaxed);
                }
                Ok(value)
            }
            Err(_) => Err(Unanswered),
        }
    }

    /// Hands a question to the connection.
    fn send(self: &Arc<Self>, question: Question) -> Result<(), Unanswered> {
        CONNECTIONS.with_borrow_mut(|connections| {
            match connections.get(&self.number).map(mpsc::Sender::try_reserve) {
                Some(Ok(room)) => {
                    room.send(question);
                    return Ok(());
                }
                Some(Err(TrySendError::Full(()))) => {
                    self.refused.inc();
                    self.fails(&"too many requests wait for it");
                    return Err(Unanswered);
                }
                Some(Err(TrySendError::Closed(()))) | None => {}
            }
            if self.is_barred() {
                return Err(Unanswered);
            }
            // The moment to forget those that have ended: each costs a look for each connection that is opened.
            connections.retain(|_, connection| !connection.is_closed());
            let (connection, questions) = mpsc::channel(self.terms.pending);
            drop(tokio::spawn(connection::run(self.clone(), questions)));
            let sent = connection.try_send(question).map_err(|_| Unanswered);
            connections.insert(self.number, connection);
            sent
        })
    }

    /// The server is away, and it took `waited` to find out: nobody connects for a while, on any worker.
    pub(crate) fn bar(&self, waited: Duration) {
        if self.terms.pause.is_zero() {
            return;
        }
        let until = self.began.elapsed().saturating_add(self.terms.pause.max(waited));
        self.barred.fetch_max(until.as_millis().try_into().unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(crate) fn is_barred(&self) -> bool {
        self.began.elapsed() < Duration::from_millis(self.barred.load(Ordering::Relaxed))
    }

    /// Says once that it fails, until it answers again.
    pub(crate) fn fails(&self, why: &dyn fmt::Display) {
        if !self.failing.swap(true, Ordering::Relaxed) {
            let Endpoint { host, port, .. } = &self.terms.endpoint;
            tracing::warn!(
                server = format!("{host}:{port}"),
                "Redis does not answer: {why}. What needs it fails, or passes where allow_degradation is set"
            );
        }
    }

    /// An answer has come.
    pub(crate) fn answers(&self) {
        // Read first: a write would take the line from the other workers each time.
        if self.failing.load(Ordering::Relaxed) && self.failing.swap(false, Ordering::Relaxed) {
            let Endpoint { host, port, .. } = &self.terms.endpoint;
            tracing::info!(server = format!("{host}:{port}"), "Redis answers again");
        }
    }

    /// Says once that it refuses what it is asked, until it takes something.
    fn refuses(&self, reason: &str) {
        if !self.refusing.swap(true, Ordering::Relaxed) {
            let Endpoint { host, port, .. } = &self.terms.endpoint;
            tracing::warn!(
                server = format!("{host}:{port}"),
                "Redis refuses what it is asked: {}. It has to be writable, with EVAL allowed to this user",
                code(reason)
            );
        }
    }
}

/// The code at the beginning of a refusal. What follows may quote the question, and with it a password or a client's data.
pub(crate) fn code(refusal: &str) -> &str {
    refusal.split(' ').next().unwrap_or_default()
}
