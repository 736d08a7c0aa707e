//! What only one replica must do, done by whoever leads: lifetimes of objects that end, history, drafts, audit log and events that are
//! not kept any longer, idempotency keys, nodes and members of which nothing was heard for long; rollouts that go on or are taken back,
//! and samples of what nodes count.
//!
//! What must stay true: whatever is done here names the leader's term of office, and the database refuses it once that term is
//! over, however late the leader notices.

use std::sync::Arc;
use std::time::Duration;

use milecastle_settings::{Events, History, Idempotency, Members};
use milecastle_store::{Kept, Retention, Sampling, Store, Term};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::charts::{COARSE_STEP, STEP};
use crate::members::{LEADER, MemberSettings};
use crate::rollout::Looks;
use crate::state::State;

/// How often lifetimes and rollouts are looked after.
const LOOK: Duration = Duration::from_secs(1);

/// Does the chores for as long as `epoch` names a term of office of this process, which is this member, for ever.
pub(crate) async fn run(
    state: Arc<State>,
    member: Arc<str>,
    settings: MemberSettings,
    epoch: watch::Receiver<Option<u64>>,
) {
    // However much there is to forget, and however long a rollout takes: a bad canary, an object whose lifetime is over and a chart do
    // not wait for it.
    tokio::join!(
        roll_out(&state, &member, &settings, epoch.clone()),
        look_after(&state, &member, &settings, epoch.clone()),
        tidy_up(&state, &member, &settings, epoch),
    );
}

/// Takes rollouts further.
async fn roll_out(
    state: &Arc<State>,
    member: &Arc<str>,
    settings: &MemberSettings,
    mut epoch: watch::Receiver<Option<u64>>,
) {
    let mut tick = interval(LOOK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut looks: Option<Looks> = None;
    loop {
        tick.tick().await;
        let Ok(leads) = epoch.wait_for(Option::is_some).await.map(|epoch| *epoch) else { return };
        let Some(epoch) = leads else { continue };
        let those = looks.take().filter(|looks| looks.is_of(epoch));
        let those = those.unwrap_or_else(|| Looks::begin(state, member, settings, epoch));
        looks.insert(those).look().await;
    }
}

/// Ends lifetimes and samples what nodes count.
async fn look_after(
    state: &Arc<State>,
    member: &str,
    settings: &MemberSettings,
    mut epoch: watch::Receiver<Option<u64>>,
) {
    let mut tick = interval(LOOK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut sampled = 0;
    loop {
        tick.tick().await;
        let Ok(leads) = epoch.wait_for(Option::is_some).await.map(|epoch| *epoch) else { return };
        let Some(epoch) = leads else { continue };
        let term = Term { lease: LEADER, holder: member, epoch };
        let chores = Chores { store: state.store(), settings, term };
        chores.end_lifetimes().await;
        let step = chores.store.now() / STEP * STEP;
        if step != sampled {
            sampled = step;
            chores.sample(step).await;
        }
    }
}

/// Forgets what is not kept any longer, then rests for [`History::interval`].
async fn tidy_up(state: &Arc<State>, member: &str, settings: &MemberSettings, mut epoch: watch::Receiver<Option<u64>>) {
    loop {
        let Ok(leads) = epoch.wait_for(Option::is_some).await.map(|epoch| *epoch) else { return };
        let Some(epoch) = leads else { continue };
        let term = Term { lease: LEADER, holder: member, epoch };
        let chores = Chores { store: state.store(), settings, term };
        chores.forget_the_lost().await;
        chores.trim_history().await;
        chores.forget_drafts().await;
        chores.trim_audit().await;
        chores.trim_idempotency().await;
        chores.trim_events().await;
        chores.trim_warnings().await;
        chores.trim_route_samples().await;
        sleep(settings.history.interval.get()).await;
    }
}

/// A leader at work.
struct Chores<'a> {
    store: &'a Store,
    settings: &'a MemberSettings,
    term: Term<'a>,
}

impl Chores<'_> {
    async fn end_lifetimes(&self) {
        if let Err(error) = self.store.expire_due(self.term, self.settings.clock.now()).await {
            tracing::debug!(%error, "lifetimes are looked after later");
        }
    }

    async fn sample(&self, step: u64) {
        let History { samples, fine_samples, .. } = &self.settings.history;
        let sampling = Sampling {
            silence: Duration::from_secs(STEP),
            fine: fine_samples.get(),
            coarse: samples.get(),
            coarse_step: COARSE_STEP,
        };
        if let Err(error) = self.store.node_sample_take(self.term, step, &sampling).await {
            tracing::debug!(%error, "charts have a gap here: what nodes have counted could not be sampled");
        }
    }

    async fn forget_the_lost(&self) {
        let Members { forget_after, forget_nodes_after, .. } = &self.settings.members;
        let nodes = self.settings.clock.now().saturating_sub(forget_nodes_after.get().as_secs());
        match self.store.forget_lost(self.term, forget_after.get(), nodes).await {
            Ok(Some(forgotten)) if forgotten.members + forgotten.nodes > 0 => {
                tracing::info!(members = forgotten.members, nodes = forgotten.nodes, "forgotten after a long silence");
            }
            Ok(Some(_)) => {}
            Ok(None) => {
                let epoch = self.term.epoch;
                tracing::info!(epoch, "the term of office was over; its chores were left to the next leader");
            }
            Err(error) => tracing::debug!(%error, "who was silent for long is forgotten later"),
        }
    }

    async fn trim_history(&self) {
        let History { changes, max_age, min_changes, .. } = self.settings.history;
        let retention = Retention { most: changes, max_age: max_age.get(), least: min_changes };
        match self.store.history_retain(self.term, &retention, self.settings.clock.now()).await {
            Ok(0) => {}
            Ok(changes) => tracing::info!(changes, "history that is not kept any longer was forgotten"),
            Err(error) => tracing::debug!(%error, "history is trimmed later"),
        }
    }

    async fn forget_drafts(&self) {
        match self.store.drafts_expire(self.term, self.settings.history.drafts.get()).await {
            Ok(0) => {}
            Ok(drafts) => tracing::info!(drafts, "drafts that nobody has edited for long were forgotten"),
            Err(error) => tracing::debug!(%error, "drafts are forgotten later"),
        }
    }

    async fn trim_audit(&self) {
        match self.store.audit_trim(self.term, self.settings.audit.keep.get()).await {
            Ok(0) => {}
            Ok(entries) => {
                tracing::info!(entries, "entries of the audit log that are not kept any longer were forgotten")
            }
            Err(error) => tracing::debug!(%error, "the audit log is trimmed later"),
        }
    }

    async fn trim_idempotency(&self) {
        let Idempotency { keep, most, most_of_a_caller } = &self.settings.idempotency;
        let kept = Kept { age: keep.get(), all: *most, of_an_actor: *most_of_a_caller };
        if let Err(error) = self.store.once_trim(self.term, kept).await {
            tracing::debug!(%error, "idempotency keys are forgotten later");
        }
    }

    async fn trim_events(&self) {
        let Events { keep, most, .. } = &self.settings.events;
        match self.store.event_trim(self.term, keep.get(), *most).await {
            Ok(0) => {}
            Ok(events) => tracing::info!(events, "events that are not kept any longer were forgotten"),
            Err(error) => tracing::debug!(%error, "events are trimmed later"),
        }
    }

    async fn trim_warnings(&self) {
        match self.store.node_warning_trim(self.term, self.settings.history.node_warnings.get()).await {
            Ok(0) => {}
            Ok(lines) => tracing::debug!(lines, "lines of logs of nodes were forgotten"),
            Err(error) => tracing::debug!(%error, "logs of nodes are trimmed later"),
        }
    }

    async fn trim_route_samples(&self) {
        let History { samples, fine_samples, .. } = &self.settings.history;
        let trimmed = self.store.route_sample_trim(self.term, (STEP, fine_samples.get()), samples.get());
        if let Err(error) = trimmed.await {
            tracing::debug!(%error, "samples of routes are forgotten later");
        }
    }
}
