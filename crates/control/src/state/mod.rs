//! The configuration of every gateway group in memory, so that reading it needs no database, and asks it for no more than where the
//! group stands.
//!
//! What must stay true:
//! - An [`Image`] is all of one group at one revision; its revision never goes back while the lineage stays the same. A database
//!   that lost what an image shows, as by failover, is told so and gives the group another lineage; images follow it there.
//! - Whoever writes waits for [`Group::reach`], so a client reads its own writes from the replica that took them; [`Group::latest`]
//!   shows them on every other one.
//! - A replica that hears nothing is late by no more than the store's poll, never wrong: writes are judged by the store.
//! - Where the database says nothing, reads are served all the same, and say how old they may be ([`Seen`]).

mod image;
mod latest;

pub use image::{Difference, Image};
pub use latest::Seen;

use milecastle_model::Change;
use milecastle_store::{Changes, Head, Heads, Past, Snapshot, Store, StoreError};
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;

/// Pause before reading again what could not be read.
const RETRY: Duration = Duration::from_secs(1);

/// All groups of a store, followed as long as this lives.
pub struct State {
    groups: Arc<Groups>,
    follower: JoinHandle<()>,
}

/// One gateway group, followed.
pub struct Group {
    id: Arc<str>,
    store: Store,
    image: watch::Sender<Arc<Image>>,
    /// Held while the image is brought up to date, so that each change is read once.
    refreshing: Mutex<()>,
    asking: latest::Asking,
}

struct Groups {
    store: Store,
    by_id: RwLock<BTreeMap<Arc<str>, Arc<Group>>>,
}

impl State {
    /// Loads every group and begins to follow. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// What the store says, if it cannot be read.
    pub async fn start(store: Store) -> Result<Self, StoreError> {
        let groups = Arc::new(Groups { store: store.clone(), by_id: RwLock::default() });
        let mut watch = store.watch();
        for id in watch.heads().keys() {
            groups.follow(id).await?;
        }
        let follower = tokio::spawn({
            let groups = groups.clone();
            async move {
                while let Some(mut heads) = watch.changed().await {
                    while !groups.catch_up(&heads).await {
                        tokio::time::sleep(RETRY).await;
                        heads = watch.heads();
                    }
                }
            }
        });
        Ok(Self { groups, follower })
    }

    /// The store that is followed.
    pub fn store(&self) -> &Store {
        &self.groups.store
    }

    /// A group by its id.
    pub fn group(&self, id: &str) -> Option<Arc<Group>> {
        self.groups.get(id)
    }

    /// A group by its id; one that another replica made a moment ago, of which nothing was heard yet, included.
    ///
    /// # Errors
    /// [`StoreError::UnknownGroup`]; what else the store says, if it had to be asked.
    pub async fn find(&self, id: &str) -> Result<Arc<Group>, StoreError> {
        match self.group(id) {
            Some(group) => Ok(group),
            None => self.groups.follow(id).await,
        }
    }

    /// All groups, by id.
    pub fn groups(&self) -> Vec<Arc<Group>> {
        self.groups.by_id.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

impl Groups {
    fn get(&self, id: &str) -> Option<Arc<Group>> {
        self.by_id.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    /// Loads a group, unless somebody else did meanwhile.
    async fn follow(&self, id: &str) -> Result<Arc<Group>, StoreError> {
        let group = Arc::new(Group::load(self.store.clone(), id).await?);
        let mut groups = self.by_id.write().unwrap_or_else(PoisonError::into_inner);
        Ok(groups.entry(group.id.clone()).or_insert(group).clone())
    }

    /// Brings every group to the heads heard of, as far as that goes; whether all of them got there.
    async fn catch_up(&self, heads: &Heads) -> bool {
        let mut all = true;
        self.by_id.write().unwrap_or_else(PoisonError::into_inner).retain(|id, _| heads.contains_key(&**id));
        for (id, head) in heads {
            let done = match self.get(id) {
                Some(group) => group.meet(head).await,
                None => self.follow(id).await.map(drop),
            };
            if let Err(error) = done {
                all = false;
                tracing::warn!(group = id, %error, "the configuration in memory is behind the database");
            }
        }
        all
    }
}

impl Group {
    async fn load(store: Store, id: &str) -> Result<Self, StoreError> {
        let asking = latest::Asking::beginning();
        let snapshot = store.load(id).await?;
        let image = watch::Sender::new(Arc::new(whole(snapshot)));
        Ok(Self { id: id.into(), store, image, refreshing: Mutex::default(), asking })
    }

    /// Its id.
    pub fn id(&self) -> &Arc<str> {
        &self.id
    }

    /// The newest image.
    pub fn image(&self) -> Arc<Image> {
        self.image.borrow().clone()
    }

    /// Hears of every later image; several may come as one.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Image>> {
        self.image.subscribe()
    }

    /// Brings the image to `revision` with this mark at least.
    ///
    /// # Errors
    /// What the store says; the image then stays as it was.
    pub async fn reach(&self, revision: u64, mark: &str) -> Result<(), StoreError> {
        if self.shows(revision, mark).await? {
            return Ok(());
        }
        let _alone = self.refreshing.lock().await;
        if self.shows(revision, mark).await? { Ok(()) } else { self.refresh().await }
    }

    /// Brings the image to what the database holds at this moment, and gives it.
    ///
    /// # Errors
    /// What the store says.
    pub async fn current(&self) -> Result<Arc<Image>, StoreError> {
        let head = self.store.head(&self.id).await?;
        self.meet(&head).await?;
        Ok(self.image())
    }

    /// Brings the image to a head heard of.
    async fn meet(&self, head: &Head) -> Result<(), StoreError> {
        let Head { lineage, revision, mark, gate, .. } = head;
        // The gate of a head that is behind by now says nothing.
        let same = || {
            let image = self.image.borrow();
            **image.lineage() == **lineage && (image.gate() == *gate || image.revision() > *revision)
        };
        if same() && self.shows(*revision, mark).await? {
            return Ok(());
        }
        let _alone = self.refreshing.lock().await;
        if same() && self.shows(*revision, mark).await? { Ok(()) } else { self.refresh().await }
    }

    /// Whether the image is of that revision, or of a later one that the database has.
    async fn shows(&self, revision: u64, mark: &str) -> Result<bool, StoreError> {
        let image = self.image();
        if image.revision() < revision || (image.revision() == revision && image.mark() == mark) {
            return Ok(image.revision() == revision);
        }
        // Numbers alone do not tell a later revision from one that the database has lost.
        self.store.holds(&self.id, image.revision(), image.mark()).await
    }

    /// With `refreshing` held.
    async fn refresh(&self) -> Result<(), StoreError> {
        let old = self.image();
        let new = match self.store.changes_since(&self.id, old.revision(), Some(old.mark())).await? {
            Changes::Delta { lineage, to, mark, gate, changes } if *lineage == **old.lineage() => {
                old.after(to, changes).marked(mark).gated(gate)
            }
            Changes::Delta { .. } | Changes::Gone { .. } => {
                if self.store.group_diverge(&self.id, old.lineage(), old.revision(), old.mark()).await? {
                    tracing::error!(
                        group = %self.id, revision = old.revision(), lineage = %old.lineage(),
                        "the database lost revisions that were in force, as a standby does that was promoted before it had \
                         them; it goes on under a lineage of its own, and nodes keep what they have until you look and \
                         confirm: `milecastle group lineage {}`",
                        self.id
                    );
                }
                whole(self.store.load(&self.id).await?)
            }
        };
        self.image.send_replace(Arc::new(new));
        Ok(())
    }
}

fn whole(snapshot: Snapshot) -> Image {
    Image::new(snapshot.lineage, snapshot.revision, snapshot.objects).marked(snapshot.mark).gated(snapshot.gate)
}

/// A group as it stood at `revision`, which shares with `head` what has not changed since; without a mark. `None`: the history does not
/// tell it any more.
///
/// # Errors
/// What the store says.
pub(crate) async fn past(store: &Store, group: &str, head: &Image, revision: u64) -> Result<Option<Image>, StoreError> {
    let Past::Known(known) = store.past(group, revision..head.revision()).await? else { return Ok(None) };
    let changes = known.into_iter().map(|(key, was)| match was {
        Some(object) => Change::Put(object),
        None => Change::Delete { key, revision },
    });
    Ok(Some(head.after(revision, changes)))
}
