//! Up to where the nodes of a group may go: all of them to the head, or, while a rollout is on, canaries to its candidate and the
//! others to its base.
//!
//! What must stay true: which revision these are, and who is a canary, the database alone says; of what was read at different
//! times the gate that came with the image counts.

use std::collections::BTreeSet;
use std::sync::Arc;

use milecastle_store::{Gate, Store, StoreError};
use tokio::time::Instant;

use super::feed::off_thread;
use super::head::{Head, Memory};
use crate::rollout::canaries_of;
use crate::state::{Image, past};

/// A group's lines. Without a rollout both are the same.
pub(super) struct Lines {
    /// What the database holds, whoever may have it.
    image: Arc<Image>,
    canary: Arc<Head>,
    rest: Arc<Head>,
    /// Ids of the canaries.
    canaries: Arc<BTreeSet<String>>,
    /// The canaries are those of the image's gate.
    of_one_moment: bool,
}

impl Lines {
    /// Those of a group of which nothing is known yet.
    pub(super) async fn first(
        store: &Store,
        group: &str,
        image: Arc<Image>,
        memory: Memory,
    ) -> Result<Self, StoreError> {
        Making { store, group, image, memory, before: None }.lines().await
    }

    /// Those of a later image, or of the same one with another gate or other canaries.
    pub(super) async fn after(
        &self,
        store: &Store,
        group: &str,
        image: Arc<Image>,
        memory: Memory,
    ) -> Result<Self, StoreError> {
        Making { store, group, image, memory, before: Some(self) }.lines().await
    }

    /// The same without what heads have remembered for long enough by `now`; `None`: there is nothing of it.
    pub(super) fn without_old(&self, now: Instant) -> Option<Self> {
        let rest = self.rest.without_old(now).map(Arc::new);
        let canary = if Arc::ptr_eq(&self.rest, &self.canary) {
            rest.clone()
        } else {
            self.canary.without_old(now).map(Arc::new)
        };
        (rest.is_some() || canary.is_some()).then(|| Self {
            image: self.image.clone(),
            canary: canary.unwrap_or_else(|| self.canary.clone()),
            rest: rest.unwrap_or_else(|| self.rest.clone()),
            canaries: self.canaries.clone(),
            of_one_moment: self.of_one_moment,
        })
    }

    /// What the database holds, whoever may have it.
    pub(super) fn image(&self) -> &Arc<Image> {
        &self.image
    }

    /// As far as a node may go.
    pub(super) fn of(&self, node: &str) -> &Arc<Head> {
        if self.is_canary(node) { &self.canary } else { &self.rest }
    }

    /// Whether a node goes ahead of others.
    pub(super) fn is_canary(&self, node: &str) -> bool {
        self.canaries.contains(node)
    }

    /// Whether who is a canary was read of the rollout that the image is of; if not, the next image says so.
    pub(super) fn are_of_one_moment(&self) -> bool {
        self.of_one_moment
    }

    /// Whether a rollout is on.
    pub(super) fn is_gated(&self) -> bool {
        self.image.gate().is_some()
    }
}

/// Lines in the making.
struct Making<'a> {
    store: &'a Store,
    group: &'a str,
    image: Arc<Image>,
    memory: Memory,
    before: Option<&'a Lines>,
}

impl Making<'_> {
    async fn lines(self) -> Result<Lines, StoreError> {
        let Some(gate) = self.image.gate() else {
            let head = self.head(self.image.clone()).await;
            return Ok(Lines {
                canary: head.clone(),
                rest: head,
                canaries: Arc::default(),
                of_one_moment: true,
                image: self.image,
            });
        };
        let (rest, canary) = (self.head_at(gate.base).await?, self.head_at(gate.candidate).await?);
        let canaries = self.canaries(gate).await?;
        let of_one_moment = canaries.is_some();
        // Until the next image those that were canaries stay so.
        let known = self.before.filter(|before| before.image.gate() == Some(gate));
        let canaries = canaries.or_else(|| known.map(|before| before.canaries.clone())).unwrap_or_default();
        Ok(Lines { canary, rest, canaries, of_one_moment, image: self.image })
    }

    /// Who is a canary of the rollout that has this gate; `None`: it has gone on.
    async fn canaries(&self, gate: Gate) -> Result<Option<Arc<BTreeSet<String>>>, StoreError> {
        let rollout = self.store.rollout_get(self.group).await?;
        Ok((rollout.head.gate == Some(gate)).then(|| Arc::new(canaries_of(&rollout))))
    }

    /// The head at a revision that the image leads back to.
    async fn head_at(&self, revision: u64) -> Result<Arc<Head>, StoreError> {
        if revision == self.image.revision() {
            return Ok(self.head(self.image.clone()).await);
        }
        for known in self.known() {
            if known.revision() == revision {
                return Ok(known.clone());
            }
            if let Some((image, _)) = known.at(revision) {
                return Ok(self.head(image.clone()).await);
            }
        }
        let Some(image) = past(self.store, self.group, &self.image, revision).await? else {
            return Err(StoreError::Corrupt(format!("what the group was at revision {revision} is not known")));
        };
        let mark = self.store.mark(self.group, revision).await?;
        Ok(self.head(Arc::new(image.marked(mark))).await)
    }

    /// The head of an image: by what changed since one that is known, if that is possible.
    async fn head(&self, image: Arc<Image>) -> Arc<Head> {
        let same = |known: &&Arc<Head>| known.revision() == image.revision() && known.image().mark() == image.mark();
        if let Some(known) = self.known().find(same) {
            return known.clone();
        }
        let before =
            self.known().filter(|known| known.revision() < image.revision()).max_by_key(|known| known.revision());
        let (before, memory) = (before.cloned(), self.memory);
        off_thread(move || {
            Arc::new(match before {
                Some(before) => before.after(image),
                None => Head::first(image, memory),
            })
        })
        .await
    }

    /// The heads known of the image's lineage.
    fn known(&self) -> impl Iterator<Item = &Arc<Head>> {
        let known = self.before.into_iter().flat_map(|before| [&before.canary, &before.rest]);
        known.filter(|known| known.lineage() == self.image.lineage())
    }
}
