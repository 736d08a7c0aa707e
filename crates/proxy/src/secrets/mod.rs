//! References in string attributes, resolved on the node (`docs/spec/resources.md` §13): `$env://` from the process's environment,
//! `$secret://` from the secret managers that objects of the configuration name.
//!
//! [`NodeSecrets`] is what the compiler asks. It answers from a [`cache`]; a task on the side runtime ([`keeper`]) asks the
//! [`managers`] for what is in use, and again when its time is over.
//!
//! Invariants:
//! - Resolving does no I/O. What a new configuration needs and is not known is asked for before it is in force
//!   ([`NodeSecrets::prepare`]), for a bounded time, and once.
//! - A manager that cannot be asked takes no value away; one that says that there is none does.
//! - A configuration waits for no manager that is known to be out of reach ([`breaker`]).
//! - Values and tokens are in memory alone, and in no log, metric or error.
//! - Only references in use are asked for, and no more of them are known than the settings allow: which ones, the configuration alone
//!   decides ([`order`]), and neither what a node had before nor what it has been asked. What a configuration puts out of use is kept
//!   until it is in force ([`NodeSecrets::settle`]): if it does not come to that, nothing is lost.
//!
//! Deliberately absent: building again what holds a changed value, which is for whoever puts configurations in force.

mod aws;
mod breaker;
mod cache;
mod environment;
mod fields;
mod gcp;
mod http;
mod keeper;
mod manager;
mod managers;
mod order;
mod reference;
mod sigv4;
mod state;
#[cfg(test)]
pub(crate) mod tests;
mod trouble;
mod vault;

use breaker::Turn;
use cache::{Cache, Census, News};
use environment::EnvironmentSecrets;
use keeper::{Answered, Errand};
use manager::Patience;
use managers::Managers;
use milecastle_export::Background;
use milecastle_model::{SECRET_MANAGER, is_reference};
use milecastle_plugin_api::Secrets;
use milecastle_settings::Secrets as Settings;
use milecastle_snapshot::Snapshot;
use state::State;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use trouble::Trouble;

/// What references stand for on this node.
pub struct NodeSecrets {
    state: Mutex<State>,
    /// The longest that a new configuration waits for its secrets.
    timeout: Duration,
    /// Wakes the task that asks.
    poked: Arc<Notify>,
    /// How many questions a new configuration waits for.
    awaited: watch::Sender<usize>,
    /// The generation of the values.
    changes: watch::Sender<u64>,
}

/// What there is to tell of references to secret managers, for the metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Figures {
    /// References that were asked for and have a value.
    pub(crate) found: u64,
    /// Those that there is none for, as the manager says.
    pub(crate) absent: u64,
    /// Those that were not answered, or not as they should.
    pub(crate) failed: u64,
    /// How those in use stand.
    pub(crate) census: Census,
}

/// The references whose values have changed.
pub(crate) struct Changed {
    /// Up to this generation of the values.
    pub(crate) until: u64,
    references: HashSet<Arc<str>>,
}

impl Changed {
    pub(crate) fn is_empty(&self) -> bool {
        self.references.is_empty()
    }

    pub(crate) fn has(&self, reference: &str) -> bool {
        self.references.contains(reference)
    }
}

impl NodeSecrets {
    /// Asks on the runtime `side`, over `outlet`.
    pub fn new(settings: &Settings, side: &Handle, outlet: Background) -> Arc<Self> {
        let poked = Arc::<Notify>::default();
        let timeout = settings.timeout.get();
        let (concurrency, rest) = (settings.concurrency as usize, settings.negative_ttl.get());
        let managers = Managers::new(Arc::new(outlet), Patience { timeout, concurrency, rest });
        let secrets = Arc::new(Self {
            state: Mutex::new(State::new(Cache::new(settings), managers)),
            timeout,
            poked: poked.clone(),
            awaited: watch::Sender::new(0),
            changes: watch::Sender::new(0),
        });
        side.spawn(keeper::run(Arc::downgrade(&secrets), poked));
        secrets
    }

    /// [Takes over](Self::take_over) a configuration that is to be in force. Returns when each reference has been asked for at least
    /// once under its present manager, but for those whose manager is out of reach, or after `secrets.timeout`: what comes later is
    /// a [change](Self::changes).
    pub(crate) async fn prepare(&self, snapshot: &Snapshot) {
        self.take_over(snapshot);
        let mut awaited = self.awaited.subscribe();
        // It is in here, so it cannot be closed.
        let waiting = tokio::time::timeout(self.timeout, awaited.wait_for(|count| *count == 0));
        if waiting.await.is_err() {
            tracing::warn!(
                "not every secret has been asked for in time (secrets.timeout): the configuration comes into force all the same"
            );
            self.state().cache.release(|_| true);
            self.awaited.send_replace(0);
        }
    }

    /// From now on the secret managers and references of this configuration are in use.
    pub(crate) fn take_over(&self, snapshot: &Snapshot) {
        {
            let mut state = self.state();
            state.take_over(snapshot);
            self.announce(&state);
        }
        self.poked.notify_one();
    }

    /// The configuration that was taken over last is in force: until then, values of what it has put out of use came back with the
    /// former one.
    pub(crate) fn settle(&self) {
        self.state().cache.settle();
    }

    /// Wakes at each change of a value.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The references whose values have changed since a generation.
    pub(crate) fn changed_since(&self, generation: u64) -> Changed {
        let (until, references) = self.state().cache.changed_since(generation);
        Changed { until, references }
    }

    /// What an operator should know of, and do, where the configuration that was taken over last has more references than there is
    /// room for.
    pub(crate) fn want_of_room(&self) -> Option<String> {
        self.state().want_of_room.clone()
    }

    pub(crate) fn figures(&self) -> Figures {
        let state = self.state();
        Figures { found: state.found, absent: state.absent, failed: state.failed, census: state.cache.census() }
    }

    /// The next question that somebody is to be asked, if one is due. Those that nobody is asked have their answer here.
    fn errand(&self) -> Option<Errand> {
        loop {
            let (question, trouble) = {
                let mut state = self.state();
                let question = state.cache.question(Instant::now())?;
                match state.errand(question) {
                    Ok(errand) => return Some(errand),
                    Err(nobody) => nobody,
                }
            };
            let answers = vec![Err(trouble); question.references.len()];
            self.answered(Answered { question, answers, asked: false });
        }
    }

    /// When the next question is due.
    fn next(&self) -> Option<Instant> {
        self.state().cache.next()
    }

    fn answered(&self, answered: Answered) {
        let Answered { question, answers, asked } = answered;
        let (news, turn) = {
            let (mut state, now, place) = (self.state(), Instant::now(), question.place.clone());
            for answer in answers.iter().filter(|_| asked) {
                match answer {
                    Ok(_) => state.found += 1,
                    Err(Trouble::Absent(_)) => state.absent += 1,
                    Err(Trouble::Failed(_)) => state.failed += 1,
                }
            }
            let news = state.cache.take(question, answers, now);
            let turn = state.turn(&place, now);
            self.announce(&state);
            (news, turn)
        };
        if let Some((manager, turn)) = turn {
            tell_turn(&manager, turn);
        }
        news.into_iter().for_each(|(reference, news)| tell(&reference, news));
    }

    /// Wakes those that wait for a change of a value, then those that wait for answers: they find what has changed.
    fn announce(&self, state: &State) {
        let generation = state.cache.generation();
        self.changes.send_if_modified(|known| std::mem::replace(known, generation) != generation);
        self.awaited.send_replace(state.cache.awaited());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tell_turn(manager: &str, turn: Turn) {
    match turn {
        Turn::Lost(reason) => tracing::warn!(
            manager,
            reason,
            "secret manager is out of reach: until it answers, no configuration waits for it"
        ),
        Turn::Back => tracing::info!(manager, "secret manager answers again"),
    }
}

fn tell(reference: &str, news: News) {
    match news {
        News::None => {}
        News::Resolved => tracing::info!(reference, "the secret is there again"),
        News::Stale(reason) => {
            tracing::warn!(reference, reason, "no newer value of the secret can be had: the last one stays in use");
        }
        News::Unresolved(reason) => tracing::error!(
            reference,
            reason,
            "reference cannot be resolved: credentials and certificates with it are left out, elsewhere it stands for itself"
        ),
    }
}

impl Secrets for NodeSecrets {
    fn resolve(&self, reference: &str) -> Option<String> {
        if reference.starts_with(SECRET_MANAGER) {
            return self.state().cache.value(reference);
        }
        let value = EnvironmentSecrets.resolve(reference);
        if value.is_none() && is_reference(reference) {
            tracing::error!(
                reference,
                "reference cannot be resolved: this process's environment has no such variable, or that no such member"
            );
        }
        value
    }
}

impl Drop for NodeSecrets {
    fn drop(&mut self) {
        self.poked.notify_one();
    }
}
