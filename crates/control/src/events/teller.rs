//! The leader's part: looks, compares, records.
//!
//! What must stay true: what was told is known from the database alone. What is remembered of it here is read anew whenever the
//! database may have lost some of it, which shows in heads that went back or in a log that stands elsewhere.

use std::sync::Arc;
use std::time::{Duration, Instant};

use milecastle_settings::Events;
use milecastle_store::{Heads, Observation, Recorded, Store, StoreError, Term, Told};
use milecastle_telemetry::Paced;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::news::News;
use super::sights::{self, Certificates, Lags};
use crate::dpm::Nodes;
use crate::members::{LEADER, MemberSettings};
use crate::rollout;
use crate::state::State;

/// Shortest time between two lines of the log on looks that fail.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// Tells for as long as `epoch` names a term of office of this process, which is this member, for ever.
pub(crate) async fn tell(
    state: Arc<State>,
    member: Arc<str>,
    settings: MemberSettings,
    epoch: watch::Receiver<Option<u64>>,
    last_seen: watch::Receiver<Option<Vec<Observation>>>,
) {
    let mut watch = state.store().watch();
    let mut tick = interval(settings.events.look.get());
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let pace = settings.events.pace.get();
    let mut teller = Teller::new(state, member, settings, last_seen);
    let failed = Paced::new(WARN_EVERY);
    loop {
        let whole = tokio::select! {
            _ = tick.tick() => true,
            changed = watch.changed() => match changed {
                Some(_) => false,
                None => return,
            },
        };
        let leads = *epoch.borrow();
        match leads {
            Some(epoch) => match teller.look(epoch, &watch.heads(), whole).await {
                Ok(()) => {}
                Err(_) if teller.store.is_closed() => return,
                Err(error) => {
                    if let Some(times) = failed.happened(1, Instant::now()) {
                        tracing::warn!(%error, times, "what happened cannot be told as events, and is told later");
                    }
                }
            },
            None => (teller.told, teller.certificates) = (None, Certificates::default()),
        }
        sleep(pace).await;
    }
}

struct Teller {
    state: Arc<State>,
    store: Store,
    member: Arc<str>,
    nodes: Nodes,
    /// Silence after which a member is lost.
    lost_after: Duration,
    settings: Events,
    /// What was told, unless the database has to be asked.
    told: Option<Told>,
    certificates: Certificates,
    lags: Lags,
    /// What was up and what was not, at the last look.
    last_seen: watch::Receiver<Option<Vec<Observation>>>,
}

impl Teller {
    fn new(
        state: Arc<State>,
        member: Arc<str>,
        settings: MemberSettings,
        last_seen: watch::Receiver<Option<Vec<Observation>>>,
    ) -> Self {
        let store = state.store().clone();
        // Of no member: what this process knows of its own nodes counts no more than what others have written of theirs.
        let nodes = Nodes::new(store.clone(), "", &settings.members);
        Self {
            nodes,
            state,
            store,
            member,
            lost_after: settings.members.lost_after.get(),
            settings: settings.events,
            told: None,
            certificates: Certificates::default(),
            lags: Lags::default(),
            last_seen,
        }
    }

    /// Looks at what was published, if `whole` at all else too, and records what there is to tell.
    async fn look(&mut self, epoch: u64, heads: &Heads, whole: bool) -> Result<(), StoreError> {
        loop {
            // However this ends early, what was told is read anew.
            let remembered = self.told.take();
            let mut told = match remembered.filter(|told| !sights::went_back(told, heads)) {
                Some(told) => told,
                None => self.store.event_told().await?,
            };
            let mut news = News::new(&told, self.store.now());
            sights::leader(&self.member, epoch, &mut news);
            let more = sights::groups(&self.store, heads, &mut news).await?;
            // What is there at the very first look is no news, whatever it is.
            if (whole || news.is_first()) && !more {
                self.look_around(heads, &mut news).await?;
            }
            let (events, states) = news.into_parts();
            if events.is_empty() && states.is_empty() {
                self.told = Some(told);
                return Ok(());
            }
            let term = Term { lease: LEADER, holder: &self.member, epoch };
            match self.store.event_record(term, told.last, &events, &states).await? {
                Recorded::Done(last) => {
                    told.last = last;
                    told.remember(states);
                    self.told = Some(told);
                    if !more {
                        return Ok(());
                    }
                }
                Recorded::Elsewhere => {}
                Recorded::TermOver => return Ok(()),
            }
        }
    }

    /// Looks at members, nodes, rollouts, what is down, and certificates.
    async fn look_around(&mut self, heads: &Heads, news: &mut News<'_>) -> Result<(), StoreError> {
        sights::members(&self.store.member_list().await?, self.lost_after, news);
        let rollouts = self.store.rollout_list().await?;
        let nodes = self.nodes.list_all(heads, &rollouts.known).await?;
        sights::nodes(&nodes, heads, (&mut self.lags, self.settings.behind_after.get()), news);
        let late = (&self.lags, self.settings.behind_after.get());
        sights::alarms_of_nodes(&nodes, late, &self.settings.certificate_days, news);
        if let Some(seen) = &*self.last_seen.borrow() {
            sights::unavailable(seen, news);
        }
        sights::receipts(&self.nodes, &nodes, heads, news).await;
        let stalled = rollout::stalled(&self.store, self.nodes.silence(), &rollouts).await?;
        sights::rollouts(&rollouts, &stalled, news);
        self.certificates.look(&self.state, &nodes, &self.settings, news).await;
        Ok(())
    }
}
