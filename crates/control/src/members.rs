//! This process as a member of the control plane, and the chores of whoever leads it.
//!
//! What must stay true:
//! - At most one member leads at any moment of the database's clock; whatever the leader does is refused once its term of
//!   office is over, however late it notices.
//! - Nothing but the chores here depends on who leads: any replica serves any request.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use milecastle_settings::Members;
use milecastle_store::{NewMember, Store, StoreError};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

/// The lease of whoever leads.
pub(crate) const LEADER: &str = "leader";

/// How often the leader looks for what is to be forgotten.
const CHORES: Duration = Duration::from_secs(30);

/// How long the end of a process waits for the database.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// A process that is a member. Dropped, it falls silent; see [`Membership::leave`].
pub struct Membership {
    id: Arc<str>,
    store: Store,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
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
    /// Becomes a member, and stays one until it is left or dropped. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// What the store says.
    pub async fn join(store: Store, role: Role, settings: &Members) -> Result<Self, StoreError> {
        let Role { roles, address, version } = role;
        let host = settings.name.clone().unwrap_or_else(host_name);
        let member = NewMember { id: new_id(), roles, host, version, address };
        store.member_beat(&member).await?;
        let id: Arc<str> = member.id.as_str().into();
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(live(store.clone(), member, settings.clone(), stopped));
        Ok(Self { id, store, stop, task })
    }

    /// Its id among the members.
    pub fn id(&self) -> &Arc<str> {
        &self.id
    }

    /// Leaves: others need not wait until its silence shows that it is gone.
    pub async fn leave(mut self) {
        self.stop.send_replace(true);
        let left = timeout(LAST_WORDS, async {
            if let Err(error) = (&mut self.task).await {
                tracing::error!(%error, "the membership ended badly");
            }
            self.store.member_leave(&self.id).await
        });
        if !matches!(left.await, Ok(Ok(()))) {
            tracing::info!("the database does not answer: other replicas will notice in time that this one has left");
        }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Beats, leads if nobody else does, and does a leader's chores.
async fn live(store: Store, member: NewMember, settings: Members, mut stop: watch::Receiver<bool>) {
    let mut beat = interval(settings.heartbeat.get());
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failing = false;
    let mut epoch: Option<u64> = None;
    let mut chores: Option<Instant> = None;
    loop {
        tokio::select! {
            _ = beat.tick() => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        let beaten = async {
            store.member_beat(&member).await?;
            store.lease_take(LEADER, &member.id, settings.lost_after.get()).await
        };
        match beaten.await {
            Ok(now) => {
                failing = false;
                if now.is_some() && now != epoch {
                    tracing::info!(epoch = now, "this replica leads");
                } else if now.is_none() && epoch.is_some() {
                    tracing::info!("another replica leads");
                }
                epoch = now;
            }
            Err(error) => {
                // The term of office goes on if it is prolonged in time, and the store knows whether it was.
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(%error, "no heartbeat in the database; other replicas will take this one for lost");
                }
                continue;
            }
        }
        if let Some(epoch) = epoch.filter(|_| chores.is_none_or(|done| done.elapsed() >= CHORES)) {
            chores = Some(Instant::now());
            forget(&store, epoch, &settings).await;
        }
    }
}

/// Forgets who has been silent for too long.
async fn forget(store: &Store, epoch: u64, settings: &Members) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let nodes = now.saturating_sub(settings.forget_nodes_after.get()).as_secs();
    match store.forget_lost((LEADER, epoch), settings.forget_after.get(), nodes).await {
        Ok(Some(forgotten)) if forgotten.members + forgotten.nodes > 0 => {
            tracing::info!(members = forgotten.members, nodes = forgotten.nodes, "forgotten after a long silence");
        }
        Ok(Some(_)) => {}
        Ok(None) => tracing::info!(epoch, "the term of office was over; its chores were left to the next leader"),
        Err(error) => tracing::debug!(%error, "chores are done later"),
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
