//! A worker's connection to a server: from opening it to its end.

use crate::resp::{self, Malformed, Value};
use crate::server::{Question, Server, code};
use bytes::{Buf as _, BytesMut};
use milecastle_export::Duplex;
use std::collections::VecDeque;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};

/// What a server refuses questions with that is not the one to be asked now. Behind its name there may be another one by then, so
/// nothing is gained by holding on to it.
const AWAY: [&str; 5] = ["READONLY", "MASTERDOWN", "NOREPLICAS", "LOADING", "NOAUTH"];
/// How servers before version 7 begin what befell a script; the refusal of its command stands behind `-` then.
const OF_A_SCRIPT: &str = "ERR Error running script";
/// What a server says, unasked, before it closes a connection that is one too many.
const FULL: &str = "ERR max number of clients reached";

/// Why a connection ended before its time.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("no connection: {0}")]
    Connect(io::Error),
    #[error("no connection within redis_timeout")]
    Unconnected,
    #[error("it does not let us in ({0}): see redis_username, redis_password and redis_database")]
    LetIn(String),
    #[error(
        "it is not the one to be asked now ({0}): a replica, coming up, or asking for a password; see redis_host and redis_password"
    )]
    Away(&'static str),
    #[error("it takes no more connections: see its maxclients")]
    Full,
    #[error("no answer within redis_timeout")]
    Late,
    #[error("the connection broke off: {0}")]
    Broken(#[from] io::Error),
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

/// Opens a connection and answers questions over it, until it has rested long enough or fails. Questions that are left then are
/// dropped, and with them the other end of whoever waits.
pub(crate) async fn run(server: Arc<Server>, mut questions: mpsc::Receiver<Question>) {
    let patience = server.terms.patience;
    loop {
        let (began, mut has_answered) = (Instant::now(), false);
        let ended = match timeout(patience, open(&server)).await {
            Ok(Ok((stream, read))) => converse(&server, stream, read, &mut questions, &mut has_answered).await,
            Ok(Err(fault)) => Err(fault),
            Err(_) => Err(Fault::Unconnected),
        };
        match ended {
            // A question came just as the server closed a connection that had rested.
            Ok(()) if !questions.is_empty() => {}
            Ok(()) => return,
            Err(fault) => {
                match fault {
                    _ if !has_answered => server.bar(began.elapsed()),
                    Fault::Late => server.bar(patience),
                    Fault::Away(_) => server.bar(Duration::ZERO),
                    // What worked until now may work at once again.
                    _ => {}
                }
                return server.fails(&fault);
            }
        }
    }
}

/// Connects, says who asks, and chooses the database. What was read beyond that comes along.
async fn open(server: &Server) -> Result<(Box<dyn Duplex>, BytesMut), Fault> {
    let terms = &server.terms;
    let mut stream = server.background.connect(&terms.endpoint).await.map_err(Fault::Connect)?;
    let mut commands = Vec::new();
    if let Some(password) = &terms.password {
        let user = terms.username.as_ref().map(|user| user.as_bytes());
        let parts = [Some(&b"AUTH"[..]), user, Some(password.reveal().as_bytes())];
        commands.push(resp::command(&parts.into_iter().flatten().collect::<Vec<_>>()));
    }
    if terms.database != 0 {
        commands.push(resp::command(&[b"SELECT", terms.database.to_string().as_bytes()]));
    }
    stream.write_all(&commands.concat()).await?;
    stream.flush().await?;
    let mut read = BytesMut::new();
    for _ in &commands {
        let answer = loop {
            if let Some(answer) = resp::take(&mut read)? {
                break answer;
            }
            if stream.read_buf(&mut read).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        };
        if let Value::Error(refusal) = answer {
            return Err(if refusal == FULL { Fault::Full } else { Fault::LetIn(code(&refusal).to_owned()) });
        }
    }
    Ok((stream, read))
}

/// Who waits for an answer, and since when.
struct Waiting {
    since: Instant,
    answer: oneshot::Sender<Value>,
}

/// Sends questions as they come, and hands out answers in the same order. `has_answered` tells whether there was one.
async fn converse(
    server: &Server,
    stream: Box<dyn Duplex>,
    mut read: BytesMut,
    questions: &mut mpsc::Receiver<Question>,
    has_answered: &mut bool,
) -> Result<(), Fault> {
    let terms = &server.terms;
    let (mut reading, mut writing) = tokio::io::split(stream);
    let (mut out, mut unflushed) = (BytesMut::new(), false);
    let mut waiting: VecDeque<Waiting> = VecDeque::new();
    let mut resting_since = Instant::now();
    // Not moved on with each answer, but looked at when it rings.
    let mut alarm = pin!(sleep_until(resting_since + terms.rest));
    loop {
        let until = waiting.front().map_or(resting_since + terms.rest, |first| first.since + terms.patience);
        if until < alarm.deadline() {
            alarm.as_mut().reset(until);
        }
        tokio::select! {
            biased;
            written = write(&mut writing, &mut out), if unflushed => unflushed = !written?,
            got = reading.read_buf(&mut read) => {
                if got? == 0 {
                    let at_rest = waiting.is_empty() && (*has_answered || questions.is_empty());
                    return if at_rest { Ok(()) } else { Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()) };
                }
                while let Some(answer) = resp::take(&mut read)? {
                    if let Value::Error(refusal) = &answer
                        && let Some(fault) = turned_away(refusal)
                    {
                        return Err(fault);
                    }
                    let first = waiting.pop_front().ok_or(Malformed)?;
                    *has_answered = true;
                    server.answers();
                    // Who does not wait any more is a client that has left.
                    drop(first.answer.send(answer));
                }
                if waiting.is_empty() {
                    resting_since = Instant::now();
                }
            }
            question = questions.recv(), if waiting.len() < terms.pending => {
                // Nobody is left who could ask: the worker ends.
                let Some(question) = question else { return Ok(()) };
                let since = Instant::now();
                let mut take = |Question { text, answer }| {
                    out.extend_from_slice(&text);
                    waiting.push_back(Waiting { since, answer });
                    waiting.len() < terms.pending
                };
                let mut room = take(question);
                while room && let Ok(next) = questions.try_recv() {
                    room = take(next);
                }
                unflushed = true;
            }
            () = &mut alarm => {
                if until > Instant::now() {
                    alarm.as_mut().reset(until);
                } else {
                    return if waiting.is_empty() { Ok(()) } else { Err(Fault::Late) };
                }
            }
        }
    }
}

/// What is wrong with a server that says by this refusal that it is not the one to be asked, or has no room.
fn turned_away(refusal: &str) -> Option<Fault> {
    if refusal == FULL {
        return Some(Fault::Full);
    }
    let of_a_script = refusal.starts_with(OF_A_SCRIPT);
    let is_meant = |away: &&str| code(refusal) == *away || (of_a_script && refusal.contains(&format!(" -{away} ")));
    AWAY.into_iter().find(is_meant).map(Fault::Away)
}

/// One step of sending; whether all is on its way.
async fn write(writing: &mut (impl AsyncWrite + Unpin), out: &mut BytesMut) -> io::Result<bool> {
    if out.has_remaining() {
        writing.write_buf(out).await?;
        return Ok(false);
    }
    writing.flush().await?;
    Ok(true)
}
