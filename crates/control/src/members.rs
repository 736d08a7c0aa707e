//! This process as a member of the control plane, which may come to lead it.
//!
//! What must stay true:
//! - At most one member leads at any moment of the database's clock.
//! - Nothing but [`chores`](crate::chores), looks at what is up and the telling of events depends on who leads: any replica serves any request.
//! - A member that may not run on the database's schema any more neither leads nor beats: it writes nothing.
//! - A member in maintenance does not lead. It is so by its name, hence also after its next start, until an operator ends it.

use std::sync::Arc;
use std::time::Duration;

use milecastle_settings::{Audit, Availability, Events, History, Idempotency, Members};
use milecastle_snapshot::Compiler;
use milecastle_store::{Maintenance, NewMember, Store, StoreError};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::availability;
use crate::chores;
use crate::clock::Clock;
use crate::events;
use crate::masks::Masks;
use crate::state::State;

/// The lease of whoever leads.
pub(crate) const LEADER: &str = "leader";

/// How long the end of a process waits for the database.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// A process that is a member. Dropped, it falls silent; see [`Membership::leave`].
pub struct Membership {
    id: Arc<str>,
    store: Store,
    stop: watch::Sender<bool>,
    maintenance: watch::Receiver<Option<Maintenance>>,
    task: JoinHandle<()>,
    chores: JoinHandle<()>,
    teller: JoinHandle<()>,
    looks: JoinHandle<()>,
}

/// What a member goes by; the same for all of them, since any may come to lead.
#[derive(Clone)]
pub struct MemberSettings {
    /// How often it beats, and how long members and nodes may be silent.
    pub members: Members,
    /// How much history is kept.
    pub history: History,
    /// How long the audit log is kept, and how much of each object it shows.
    pub audit: Audit,
    /// How long names of writes are kept, and how many.
    pub idempotency: Idempotency,
    /// What is told as events.
    pub events: Events,
    /// How often it is looked at what is up, and how that is kept.
    pub availability: Availability,
    /// Knows which plugins have secrets, for the audit log: any compiler with all plugins built in.
    pub compiler: Arc<Compiler>,
    /// The time for lifetimes of objects.
    pub clock: Clock,
}

/// What a process is called among its like.
#[derive(Debug, Clone)]
pub struct Role {
    /// What it does: `dashboard`, `dp-manager`.
    pub roles: Vec<String>,
    /// Where it listens, for people.
    pub address: String,
    /// Its Milecastle version.
    pub version: String,
}

impl Membership {
    /// Becomes a member, and stays one until it is left or dropped. While the database refuses writes it is not known to the
    /// others, and beats on until it is. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// What the store says.
    pub async fn join(state: Arc<State>, role: Role, settings: MemberSettings) -> Result<Self, StoreError> {
        let store = state.store().clone();
        let masks = Masks { compiler: settings.compiler.clone() };
        store.audit_bodies(Arc::new(masks), settings.audit.max_body.as_len());
        let Role { roles, address, version } = role;
        let host = settings.members.name.clone().unwrap_or_else(host_name);
        let member = NewMember { id: new_id(), roles, host, version, address };
        match store.member_beat(&member).await {
            // It reads all the same, and says that it is not ready ([`Store::takes_writes`]).
            Err(error) if error.refuses_writes() => {}
            other => other?,
        }
        let (maintained, maintenance) = watch::channel(store.member_maintenance(&member.host).await?);
        let id: Arc<str> = member.id.as_str().into();
        let (stop, stopped) = watch::channel(false);
        let (lead, epoch) = watch::channel(None);
        let heart = Heart { store: store.clone(), member, settings: settings.members.clone(), lead, maintained };
        let task = tokio::spawn(heart.beat(stopped));
        let (seen, last_seen) = watch::channel(None);
        let looks = availability::look(store.clone(), id.clone(), settings.clone(), epoch.clone(), seen);
        let looks = tokio::spawn(looks);
        let teller = tokio::spawn(events::tell(state.clone(), id.clone(), settings.clone(), epoch.clone(), last_seen));
        let chores = tokio::spawn(chores::run(state, id.clone(), settings, epoch));
        Ok(Self { id, store, stop, maintenance, task, chores, teller, looks })
    }

    /// Its id among the members.
    pub fn id(&self) -> &Arc<str> {
        &self.id
    }

    /// Whether this process is in maintenance: hears of it within a heartbeat.
    pub fn maintenance(&self) -> watch::Receiver<Option<Maintenance>> {
        self.maintenance.clone()
    }

    /// Leaves: others need not wait until its silence shows that it is gone.
    pub async fn leave(mut self) {
        self.stop.send_replace(true);
        let outdated = self.store.outdated().borrow().is_some();
        let left = timeout(LAST_WORDS, async {
            if let Err(error) = (&mut self.task).await {
                tracing::error!(%error, "the membership ended badly");
            }
            // It writes nothing any more.
            if outdated { Ok(()) } else { self.store.member_leave(&self.id).await }
        });
        if !matches!(left.await, Ok(Ok(()))) {
            tracing::info!("the database does not answer: other replicas will notice in time that this one has left");
        }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.task.abort();
        self.chores.abort();
        self.teller.abort();
        self.looks.abort();
    }
}

/// What keeps a member alive.
struct Heart {
    store: Store,
    member: NewMember,
    settings: Members,
    /// The epoch of its term of office, while it leads.
    lead: watch::Sender<Option<u64>>,
    maintained: watch::Sender<Option<Maintenance>>,
}

impl Heart {
    /// Beats until it is stopped, or may not run on the database's schema any more.
    async fn beat(self, mut stop: watch::Receiver<bool>) {
        let mut outdated = self.store.outdated();
        let mut beat = interval(self.settings.heartbeat.get());
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failing = false;
        loop {
            tokio::select! {
                _ = beat.tick() => {}
                _ = stop.wait_for(|stop| *stop) => return,
                Ok(release) = outdated.wait_for(Option::is_some) => {
                    let release = release.as_deref().unwrap_or_default();
                    tracing::error!(
                        release,
                        "a newer release has changed the schema of the database, and this one may not run on it any more: it \
                         writes nothing, takes no requests, and sends its nodes elsewhere; start Milecastle {release} or newer in its place"
                    );
                    break;
                }
            }
            // After that long it is lost anyway, and a beat that hangs must not keep the next one from coming through.
            let beaten = timeout(self.settings.lost_after.get(), self.beat_once());
            match beaten.await.unwrap_or_else(|_| Err(StoreError::late())) {
                // The next round says so.
                Ok(()) | Err(StoreError::Outdated { .. }) => failing = false,
                // The term of office goes on if it is prolonged in time, and the store knows whether it was.
                Err(error) if !std::mem::replace(&mut failing, true) => {
                    tracing::warn!(%error, "no heartbeat in the database; other replicas will take this one for lost");
                }
                Err(_) => {}
            }
        }
        self.lead.send_replace(None);
    }

    /// Says that it lives, hears whether it is in maintenance, and leads if it is not and nobody else does.
    async fn beat_once(&self) -> Result<(), StoreError> {
        let Self { store, member, settings, lead, maintained } = self;
        store.member_beat(member).await?;
        let maintenance = store.member_maintenance(&member.host).await?;
        let epoch = if maintenance.is_none() {
            store.lease_take(LEADER, &member.id, settings.lost_after.get()).await?
        } else {
            if lead.borrow().is_some() {
                store.lease_release(LEADER, &member.id).await?;
            }
            None
        };
        maintained.send_if_modified(|known| {
            let news = *known != maintenance;
            match &maintenance {
                Some(now) if news => tracing::warn!(reason = now.reason, by = now.by, "this replica is in maintenance"),
                None if news => tracing::info!("this replica is in service again"),
                _ => {}
            }
            *known = maintenance;
            news
        });
        let before = lead.send_replace(epoch);
        if epoch.is_some() && epoch != before {
            tracing::info!(epoch, "this replica leads");
        } else if epoch.is_none() && before.is_some() {
            tracing::info!("this replica leads no longer");
        }
        Ok(())
    }
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "localhost".to_owned(),
        name => name.to_owned(),
    }
}

/// 64 random bits in hexadecimal.
fn new_id() -> String {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system's random source works");
    format!("{:016x}", u64::from_be_bytes(bytes))
}
