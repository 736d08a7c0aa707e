//! Names of upstream nodes, and of servers that are sent datagrams, to addresses (`docs/spec/upstream-balancing.md` §2).
//!
//! Look-ups run on the side runtime, never on a worker; workers read a shared table, and only the first request for a name
//! waits. An answer that has become old is used once more while a new one is fetched.

use crate::config::DnsConfig;
use crate::dns::Kind;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// What is known of a name.
#[derive(Clone)]
struct Entry {
    addresses: Arc<[IpAddr]>,
    until: Instant,
}

/// A look-up under way.
type Lookup = watch::Receiver<bool>;

/// Resolves names by `/etc/hosts` and by asking resolvers, and keeps the answers for their time.
pub(crate) struct Resolver {
    entries: RwLock<HashMap<Arc<str>, Entry>>,
    lookups: RwLock<HashMap<Arc<str>, Lookup>>,
    side: tokio::runtime::Handle,
    config: DnsConfig,
}

impl Resolver {
    /// `side` is the runtime that look-ups run on.
    pub(crate) fn new(side: tokio::runtime::Handle, config: DnsConfig) -> Arc<Self> {
        Arc::new(Self { entries: RwLock::default(), lookups: RwLock::default(), side, config })
    }

    /// The addresses of a name; empty if it cannot be resolved.
    pub(crate) async fn resolve(self: &Arc<Self>, name: &Arc<str>, now: Instant) -> Arc<[IpAddr]> {
        match self.known(name) {
            Some(entry) if entry.until > now => entry.addresses,
            Some(entry) if !entry.addresses.is_empty() && entry.until + self.config.stale > now => {
                self.look_up(name);
                entry.addresses
            }
            _ => {
                let mut done = self.look_up(name);
                // An error means that the look-up's task has ended, with or without an entry.
                let _ended = done.wait_for(|done| *done).await.is_ok();
                self.known(name).map(|entry| entry.addresses).unwrap_or_default()
            }
        }
    }

    fn known(&self, name: &str) -> Option<Entry> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// Starts a look-up, unless one is under way.
    fn look_up(self: &Arc<Self>, name: &Arc<str>) -> Lookup {
        let mut lookups = self.lookups.write().unwrap_or_else(PoisonError::into_inner);
        // One whose task panicked has left its receiver behind.
        if let Some(running) = lookups.get(name).filter(|running| running.has_changed().is_ok()) {
            return running.clone();
        }
        let (done, running) = watch::channel(false);
        lookups.insert(name.clone(), running.clone());
        let (resolver, name) = (self.clone(), name.clone());
        self.side.spawn(async move {
            let last = resolver.known(&name).and_then(|entry| entry.addresses.first().copied());
            let last = last.map(|ip| if ip.is_ipv4() { Kind::A } else { Kind::Aaaa });
            let find = resolver.config.lookup.find(&name, last);
            let (addresses, ttl) = match tokio::time::timeout(resolver.config.timeout, find).await {
                Ok(Ok((addresses, ttl))) => {
                    if addresses.is_empty() {
                        tracing::error!(%name, "a name has no address");
                    }
                    (addresses, ttl)
                }
                Ok(Err(error)) => {
                    tracing::error!(%name, %error, "a name cannot be resolved");
                    Default::default()
                }
                Err(_) => {
                    tracing::error!(%name, "resolving a name took too long");
                    Default::default()
                }
            };
            resolver.store(&name, addresses.into(), ttl);
            resolver.lookups.write().unwrap_or_else(PoisonError::into_inner).remove(&name);
            done.send_replace(true);
        });
        running
    }

    fn store(&self, name: &Arc<str>, addresses: Arc<[IpAddr]>, ttl: Option<Duration>) {
        let (now, stale) = (Instant::now(), self.config.stale);
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        // A failure does not push a usable old answer out, and is remembered like any other.
        if addresses.is_empty()
            && let Some(old) = entries.get_mut(name).filter(|old| !old.addresses.is_empty() && old.until + stale > now)
        {
            old.until = old.until.max(now + self.config.failed);
            return;
        }
        entries.retain(|_, entry| entry.until + stale > now);
        let holds = if addresses.is_empty() { self.config.failed } else { self.config.holds(ttl) };
        entries.insert(name.clone(), Entry { addresses, until: now + holds });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::GatewayConfig;
    use milecastle_plugin_api::NodeFacts;
    use std::net::Ipv4Addr;
    use tokio::runtime::Handle;

    fn resolver() -> Arc<Resolver> {
        let facts = NodeFacts { hostname: "host-1".into(), version: "1.2.3", tracing: false };
        let config = GatewayConfig::new(&milecastle_settings::Gateway::default(), &facts).unwrap();
        Resolver::new(Handle::current(), config.dns)
    }

    #[tokio::test]
    async fn a_failure_beside_an_old_answer_is_remembered() {
        let (resolver, name): (_, Arc<str>) = (resolver(), "a.test".into());
        let old = Entry { addresses: Arc::from([IpAddr::V4(Ipv4Addr::LOCALHOST)]), until: Instant::now() };
        resolver.entries.write().unwrap().insert(name.clone(), old);
        let failed_at = Instant::now();
        resolver.store(&name, Arc::from(Vec::new()), None);
        let entry = resolver.known(&name).unwrap();
        assert_eq!(*entry.addresses, [Ipv4Addr::LOCALHOST]);
        assert!(entry.until >= failed_at + resolver.config.failed, "no request asks again before that");
    }

    #[tokio::test]
    async fn a_look_up_that_panicked_is_not_waited_for() {
        let (resolver, name): (_, Arc<str>) = (resolver(), "localhost".into());
        let (_, dead) = watch::channel(false);
        resolver.lookups.write().unwrap().insert(name.clone(), dead);
        assert!(!resolver.resolve(&name, Instant::now()).await.is_empty());
    }
}
