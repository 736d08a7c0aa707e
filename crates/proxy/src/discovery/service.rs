//! One service, and what is known of its instances.

use super::follow::{self, Pace};
use super::instance::{Instance, in_order};
use super::keeper::Kept;
use super::registries::Source;
use super::registry::{AskError, Registry};
use arc_swap::ArcSwapOption;
use milecastle_snapshot::ServiceQuery;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// A service that is followed. Its registry is no longer asked once this is dropped.
pub(super) struct Service {
    state: Arc<State>,
    /// Where it is asked for; `None`: there is no such registry.
    source: Option<Arc<Source>>,
    task: Option<AbortHandle>,
}

/// What is known of a service.
pub(super) struct State {
    pub(super) query: Arc<ServiceQuery>,
    /// In the order of [`in_order`]; replaced only by others.
    instances: ArcSwapOption<Vec<Instance>>,
    /// Whether the registry has answered or failed.
    answered: watch::Sender<bool>,
    /// What was known before the process began, until the registry has answered or failed.
    kept: Mutex<Option<Kept>>,
    news: Mutex<News>,
    failures: AtomicU64,
    changes: Option<watch::Sender<u64>>,
}

/// What is known of a service that begins to be followed.
pub(super) enum Known {
    Nothing,
    /// Before the process began; used if the registry fails.
    Kept(Kept),
    /// From the registry that was asked until now, and when; used at once.
    Now(Arc<Vec<Instance>>, Option<SystemTime>),
}

/// What operators are told. By the wall clock; nothing is ordered by it.
#[derive(Debug, Clone, Default)]
pub(super) struct News {
    /// When the registry has confirmed the instances last.
    pub(super) heard: Option<SystemTime>,
    /// Why it gives no answer now.
    pub(super) failing: Option<String>,
    /// What its last answer tells that should be an instance and is none.
    pub(super) passed_over: Option<String>,
}

impl Service {
    /// Asks the registry from now on, on the runtime `side`. It goes on with what it knows already until the registry says
    /// something else.
    pub(super) fn follow(
        query: Arc<ServiceQuery>,
        (source, registry): (Arc<Source>, Arc<dyn Registry>),
        known: Known,
        pace: Pace,
        changes: watch::Sender<u64>,
        side: &tokio::runtime::Handle,
    ) -> Self {
        let mut state = State::new(query, Some(changes));
        match known {
            Known::Nothing => {}
            Known::Kept(kept) => state.kept = Mutex::new(Some(kept)),
            Known::Now(instances, heard) => {
                state.instances.store(Some(instances));
                state.news = Mutex::new(News { heard, ..News::default() });
                state.answered.send_replace(true);
            }
        }
        let state = Arc::new(state);
        let task = side.spawn(follow::run(state.clone(), registry, pace)).abort_handle();
        Self { state, source: Some(source), task: Some(task) }
    }

    /// A service of a registry that cannot be asked.
    pub(super) fn without_registry(query: Arc<ServiceQuery>, source: Option<Arc<Source>>, why: String) -> Self {
        let state = State::new(query, None);
        state.news.lock().unwrap_or_else(PoisonError::into_inner).failing = Some(why);
        state.answered.send_replace(true);
        Self { state: Arc::new(state), source, task: None }
    }

    /// Whether it is asked for there.
    pub(super) fn is_of(&self, source: Option<&Arc<Source>>) -> bool {
        match (&self.source, source) {
            (Some(own), Some(source)) => Arc::ptr_eq(own, source),
            (own, source) => own.is_none() && source.is_none(),
        }
    }

    /// What another registry can go on with.
    pub(super) fn known(&self) -> Option<Known> {
        let instances = self.instances().filter(|instances| !instances.is_empty())?;
        Some(Known::Now(instances, self.news().heard))
    }

    pub(super) fn query(&self) -> &Arc<ServiceQuery> {
        &self.state.query
    }

    /// The instances; `None` if nothing is known of them.
    pub(super) fn instances(&self) -> Option<Arc<Vec<Instance>>> {
        self.state.instances.load_full()
    }

    /// Whether the registry has neither answered nor failed yet.
    pub(super) fn is_waiting(&self) -> bool {
        !*self.state.answered.borrow()
    }

    /// Waits until it has, but not longer than `patience`.
    pub(super) async fn answered(&self, patience: Duration) {
        let mut answered = self.state.answered.subscribe();
        let waited = tokio::time::timeout(patience, answered.wait_for(|answered| *answered)).await;
        if waited.is_err() {
            let ServiceQuery { registry, name, .. } = &**self.query();
            tracing::warn!(%registry, service = %name, "a request has waited in vain for the registry's first answer");
        }
    }

    pub(super) fn news(&self) -> News {
        self.state.news.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How often the registry has failed.
    pub(super) fn failures(&self) -> u64 {
        self.state.failures.load(Ordering::Relaxed)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl State {
    fn new(query: Arc<ServiceQuery>, changes: Option<watch::Sender<u64>>) -> Self {
        Self {
            query,
            instances: ArcSwapOption::empty(),
            answered: watch::Sender::new(false),
            kept: Mutex::default(),
            news: Mutex::default(),
            failures: AtomicU64::new(0),
            changes,
        }
    }

    /// Takes an answer in. The same instances as before change nothing.
    pub(super) fn heard(&self, instances: Vec<Instance>, passed_over: Option<String>) {
        let instances = in_order(instances);
        let ServiceQuery { registry, name, .. } = &*self.query;
        let before = std::mem::replace(
            &mut *self.news.lock().unwrap_or_else(PoisonError::into_inner),
            News { heard: Some(SystemTime::now()), failing: None, passed_over: passed_over.clone() },
        );
        if before.failing.is_some() {
            tracing::info!(%registry, service = %name, "the registry answers again");
        }
        if let Some(what) = passed_over.as_ref().filter(|what| before.passed_over.as_ref() != Some(*what)) {
            tracing::warn!(%registry, service = %name, "the registry tells what is no instance, and is passed over: {what}");
        }
        let same = self.instances.load().as_ref().is_some_and(|known| **known == instances);
        if !same {
            if instances.is_empty() {
                tracing::warn!(%registry, service = %name, "no valid upstream node: the registry has no instance of this service");
            }
            self.instances.store(Some(Arc::new(instances)));
        }
        self.settle(!same);
    }

    /// Takes note of a failure. What is known stays; what was known before the process began counts from now on.
    pub(super) fn failed(&self, error: &AskError) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut news = self.news.lock().unwrap_or_else(PoisonError::into_inner);
        let restored = kept.filter(|_| self.instances.load().is_none()).map(|kept| {
            news.heard = Some(kept.heard);
            self.instances.store(Some(Arc::new(in_order(kept.instances))));
        });
        let known = self.instances.load().as_ref().map(|instances| instances.len());
        let first = news.failing.replace(error.to_string()).is_none();
        drop(news);
        if first {
            let ServiceQuery { registry, name, .. } = &*self.query;
            match known {
                Some(instances) => tracing::warn!(
                    %registry, service = %name, %error, instances,
                    "the registry fails; the instances that it has told last stay in use"
                ),
                None => tracing::error!(
                    %registry, service = %name, %error,
                    "the registry fails, and nothing is known of this service: requests are answered with 503"
                ),
            }
        }
        self.settle(restored.is_some());
    }

    /// Wakes whoever waits: for the first answer, and if `changed` for other instances.
    fn settle(&self, changed: bool) {
        self.answered.send_if_modified(|answered| !std::mem::replace(answered, true));
        if let Some(changes) = self.changes.as_ref().filter(|_| changed) {
            changes.send_modify(|version| *version += 1);
        }
    }
}
