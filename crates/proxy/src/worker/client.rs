//! One client connection, as its requests and its worker see it.

use super::Worker;
use super::activity::{Activity, Phase, Signal};
use crate::config::ClientLimits;
use crate::drain::Count;
use crate::request::LastHost;
use http::HeaderValue;
use milecastle_plugin_api::ClientConn;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// How often a worker that has no room for a connection looks for those that could make some.
pub(super) const ROOM_EVERY: Duration = Duration::from_millis(50);

/// One client connection.
pub(crate) struct Client {
    pub(crate) worker: Rc<Worker>,
    pub(crate) facts: Rc<ClientConn>,
    pub(crate) activity: Rc<Activity>,
    pub(crate) believed: Believed,
    /// What answers say of HTTP/3 on the same port.
    pub(crate) alternative: Option<HeaderValue>,
    pub(crate) last_host: LastHost,
    /// The host that was last found to agree with the connection's TLS, and the snapshot's number.
    pub(crate) checked_host: RefCell<Option<(u64, Box<str>)>>,
}

impl Client {
    /// A connection that is set up; `alternative` is what its answers say of HTTP/3.
    pub(super) fn new(
        worker: &Rc<Worker>,
        facts: ClientConn,
        activity: Rc<Activity>,
        alternative: Option<HeaderValue>,
    ) -> Rc<Self> {
        Rc::new(Self {
            worker: worker.clone(),
            believed: Believed::of(worker, facts.peer.ip().to_canonical()),
            facts: Rc::new(facts),
            activity,
            alternative,
            last_host: LastHost::default(),
            checked_host: None.into(),
        })
    }
}

/// What a peer is believed to say about earlier proxies.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Believed {
    /// The client's address, in the configured header.
    pub(crate) real_ip: bool,
    /// `X-Forwarded-*` and `Forwarded`.
    pub(crate) forwarded: bool,
}

impl Believed {
    fn of(worker: &Worker, peer: IpAddr) -> Self {
        let config = &worker.node.config;
        Self {
            real_ip: config.real_ip.from.contains(peer),
            forwarded: config.trusted.as_ref().is_some_and(|trusted| trusted.contains(peer)),
        }
    }
}

/// The open client connections of a worker.
#[derive(Default)]
pub(crate) struct Registry {
    open: RefCell<HashMap<u64, Rc<Activity>, foldhash::fast::RandomState>>,
    gone: Notify,
    /// When room was looked for last.
    looked: Cell<Option<Instant>>,
}

/// Takes the connection off the list when it is dropped.
pub(crate) struct Registered {
    worker: Rc<Worker>,
    serial: u64,
}

impl Registry {
    pub(crate) fn add(worker: &Rc<Worker>, serial: u64, activity: &Rc<Activity>) -> Registered {
        worker.clients.open.borrow_mut().insert(serial, activity.clone());
        worker.counters.active.up();
        Registered { worker: worker.clone(), serial }
    }

    pub(crate) fn len(&self) -> usize {
        self.open.borrow().len()
    }

    /// Tells every connection that the node is ending.
    pub(crate) fn drain(&self) {
        self.open.borrow().values().for_each(|activity| activity.send(Signal::Drain));
    }

    /// Looks at every connection; says how many are waiting for a request, and reading one. `leaving` is since when the node
    /// has been ending.
    pub(crate) fn look(&self, now: Instant, limits: &ClientLimits, leaving: Option<Instant>) -> (u64, u64) {
        let mut found = (0, 0);
        for activity in self.open.borrow().values() {
            match activity.look(now, limits, leaving) {
                Phase::Idle => found.0 += 1,
                Phase::Head => found.1 += 1,
                Phase::Busy | Phase::Blocked => {}
            }
        }
        found
    }

    /// Has connections end that wait for a request, for the rest of its head, or for a session's client, so that others find room:
    /// those that have waited for longest, if for `keep` at least. A 16th of all at a time and not at once again, so that looking at
    /// all of them costs little however many come. Gives how many were told for the first time.
    pub(crate) fn make_room(&self, now: Instant, keep: Duration) -> u64 {
        if self.looked.get().is_some_and(|looked| now.saturating_duration_since(looked) < ROOM_EVERY) {
            return 0;
        }
        self.looked.set(Some(now));
        let open = self.open.borrow();
        let waiting = open.values().filter(|activity| activity.waits_for(now) >= Some(keep));
        let (told, mut others): (Vec<_>, Vec<_>) = waiting.partition(|activity| activity.evicted.get());
        told.into_iter().for_each(|activity| activity.evict());
        let most = open.len().div_ceil(16);
        if others.len() > most {
            others.select_nth_unstable_by_key(most, |activity| activity.idle_since.get());
            others.truncate(most);
        }
        others.iter().for_each(|activity| activity.evict());
        others.len() as u64
    }

    /// Counts what there is.
    pub(crate) fn count(&self) -> Count {
        let mut count = Count::default();
        self.open.borrow().values().for_each(|activity| activity.count(&mut count));
        count
    }

    /// Waits until there is none.
    pub(crate) async fn emptied(&self) {
        while self.len() > 0 {
            self.gone.notified().await;
        }
    }

    /// Waits until one has ended.
    pub(crate) async fn shrunk(&self) {
        self.gone.notified().await;
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.worker.clients.open.borrow_mut().remove(&self.serial);
        self.worker.counters.active.down();
        self.worker.clients.gone.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::Nature;
    use std::future::{pending, ready};
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    const SECOND: Duration = Duration::from_secs(1);

    /// A registry with so many connections, of which each waits a second longer than the one before it.
    fn registry(connections: u32, now: Instant) -> (Registry, Vec<Rc<Activity>>) {
        let registry = Registry::default();
        let all: Vec<_> = (0..connections).map(|n| Activity::new(now.checked_sub(n * SECOND).unwrap())).collect();
        registry.open.borrow_mut().extend((0..).zip(all.iter().cloned()));
        (registry, all)
    }

    fn evicted(all: &[Rc<Activity>]) -> Vec<usize> {
        (0..all.len()).filter(|n| all[*n].evicted.get()).collect()
    }

    #[test]
    fn those_make_room_that_have_waited_for_longest_and_have_nothing_in_work() {
        let now = Instant::now() + 100 * SECOND;
        let (registry, all) = registry(40, now);
        all[38].begin();
        assert_eq!(registry.make_room(now, SECOND), 3);
        assert_eq!(evicted(&all), [36, 37, 39]);
        assert_eq!(registry.make_room(now, SECOND), 0, "it has just been looked for");
        // Those who were told are told again, and others instead of those who have a request by now.
        all[37].begin();
        assert_eq!(registry.make_room(now + ROOM_EVERY, SECOND), 3);
        assert_eq!(evicted(&all), [33, 34, 35, 36, 39]);
    }

    #[test]
    fn whoever_has_waited_for_less_keeps_its_place() {
        let now = Instant::now() + 100 * SECOND;
        let (registry, all) = registry(40, now);
        assert_eq!(registry.make_room(now, 39 * SECOND), 1);
        assert_eq!(evicted(&all), [39]);
        assert_eq!(registry.make_room(now + SECOND, 50 * SECOND), 0);
    }

    #[test]
    fn a_session_waits_while_its_client_is_waited_for_and_has_said_nothing() {
        let now = Instant::now();
        let (registry, all) = registry(3, now);
        let long_ago = now.checked_sub(5 * SECOND).unwrap();
        for activity in &all {
            activity.begin();
            activity.nature.set(Nature::Tcp);
            activity.idle_since.set(long_ago);
        }
        assert_eq!(registry.make_room(now, SECOND), 0, "no client is waited for");
        let mut cx = Context::from_waker(Waker::noop());
        {
            let mut heard = pin!(all[0].unless_evicted(ready(())));
            assert!(matches!(heard.as_mut().poll(&mut cx), Poll::Ready(Ok(()))));
            all[0].idle_since.set(long_ago);
        }
        let later = |looks: u32| now + looks * ROOM_EVERY;
        assert_eq!(registry.make_room(later(1), SECOND), 0, "none is waited for any more");
        let mut waits: Vec<_> = all.iter().map(|activity| Box::pin(activity.unless_evicted(pending::<()>()))).collect();
        assert!(waits.iter_mut().all(|wait| wait.as_mut().poll(&mut cx).is_pending()));
        assert_eq!(registry.make_room(later(2), SECOND), 0, "the time before the wait does not count");
        all[2].pass(true);
        [0, 2].into_iter().for_each(|n: usize| all[n].idle_since.set(long_ago));
        assert_eq!(registry.make_room(later(3), SECOND), 1);
        assert_eq!(evicted(&all), [0]);
        assert!(matches!(waits[0].as_mut().poll(&mut cx), Poll::Ready(Err(_))));
        // What comes from the upstream meanwhile counts.
        all[1].idle_since.set(long_ago);
        assert_eq!(registry.make_room(later(4), SECOND), 1);
        assert_eq!(evicted(&all), [0, 1]);
        all[1].pass(false);
        assert!(waits[1].as_mut().poll(&mut cx).is_pending());
    }
}
