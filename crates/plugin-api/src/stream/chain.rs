//! The plugins of one stream route, sorted and laid out by phase.

use super::cx::StreamCx;
use super::{OnPreread, OnSessionLog, SessionFlow};
use crate::built::Built;
use crate::meta::Meta;
use crate::view::View;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Status of a session that a panicking hook has closed.
const PANICKED: u16 = 500;

/// One plugin in one phase.
struct Step<H: ?Sized> {
    hook: Arc<H>,
    plugin: &'static str,
    /// Present only if the plugin carries `_meta`.
    meta: Option<Arc<Meta>>,
}

/// The plugins of a stream route, its service's merged in: highest priority first, ties by name.
#[derive(Default)]
pub struct StreamChain {
    names: Box<[&'static str]>,
    preread: Box<[Step<dyn OnPreread>]>,
    log: Box<[Step<dyn OnSessionLog>]>,
}

/// How far `preread` has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preread {
    /// Every hook has let the session pass.
    Passed,
    /// A hook wants to see more of what the client sends.
    More {
        /// Where to go on.
        step: usize,
    },
    /// A hook wants the session to wait.
    Pause {
        /// How long.
        time: Duration,
        /// Where to go on.
        step: usize,
    },
    /// A hook has closed the session.
    Closed {
        /// For logs and metrics.
        status: u16,
    },
}

impl StreamChain {
    /// Sorts the plugins and lays them out. A name must not occur twice.
    pub fn new(mut entries: Vec<Built>) -> Self {
        entries.sort_by(|a, b| b.priority().cmp(&a.priority()).then(a.name().cmp(b.name())));
        fn steps<H: ?Sized>(entries: &[Built], hook: impl Fn(&Built) -> Option<&Arc<H>>) -> Box<[Step<H>]> {
            let enabled = entries.iter().filter(|built| !built.disabled());
            enabled
                .filter_map(|built| {
                    let hook = hook(built)?.clone();
                    Some(Step { hook, plugin: built.name(), meta: built.meta().cloned() })
                })
                .collect()
        }
        Self {
            names: entries.iter().map(Built::name).collect(),
            preread: steps(&entries, |built| built.hooks().preread.as_ref()),
            log: steps(&entries, |built| built.hooks().session_log.as_ref()),
        }
    }

    /// Runs the phase `preread` from the hook at `from` on; the first time that is 0.
    pub fn run_preread(&self, cx: &mut StreamCx, view: &Rc<dyn View>, from: usize) -> Preread {
        let ran = cx.seeing(view, |cx| self.preread_from(cx, from));
        if let Preread::Closed { status } = ran {
            cx.rejected = Some(status);
        }
        ran
    }

    fn preread_from(&self, cx: &mut StreamCx, from: usize) -> Preread {
        for (step, at) in self.preread.iter().enumerate().skip(from) {
            if !at.applies(cx) {
                continue;
            }
            match catch_unwind(AssertUnwindSafe(|| at.hook.on_preread(cx))) {
                Ok(SessionFlow::Next) => {}
                Ok(SessionFlow::More) => return Preread::More { step },
                Ok(SessionFlow::Pause(time)) => return Preread::Pause { time, step: step + 1 },
                Ok(SessionFlow::Close(status)) => return Preread::Closed { status },
                Err(_) => {
                    at.panicked(cx);
                    return Preread::Closed { status: PANICKED };
                }
            }
        }
        Preread::Passed
    }

    /// Runs the phase `log`. A panicking hook is counted and keeps no other from running.
    pub fn run_log(&self, cx: &mut StreamCx, view: &Rc<dyn View>) {
        cx.seeing(view, |cx| {
            for at in &self.log {
                if at.applies(cx) && catch_unwind(AssertUnwindSafe(|| at.hook.on_session_log(cx))).is_err() {
                    at.panicked(cx);
                }
            }
        });
    }
}

impl<H: ?Sized> Step<H> {
    fn applies(&self, cx: &mut StreamCx) -> bool {
        match &self.meta {
            Some(meta) if meta.filter.is_some() => cx.filter_holds(meta),
            _ => true,
        }
    }

    fn panicked(&self, cx: &StreamCx) {
        if let Some(view) = &cx.view {
            view.hook_panicked(self.plugin);
        }
    }
}

impl std::fmt::Debug for StreamChain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(&*self.names).finish()
    }
}
