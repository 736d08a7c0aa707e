//! What every long-lived process has in common: log, runtime, signals.

use crate::gateway::LogFiles;
use crate::ports;
use anyhow::Context;
use milecastle_settings::{Listener, Log};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Runs `work` on a runtime of `threads`, after the log is set up and the listeners are known to be free.
///
/// # Errors
/// Whatever keeps the process from starting, with what to do about it.
pub(crate) fn run(
    log: &Log,
    listeners: &[Listener],
    threads: usize,
    work: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<()> {
    log.init()?;
    ports::probe(listeners)?;
    runtime(threads)?.block_on(work)
}

/// The runtime of a long-lived process, of so many threads. The process may have open what the system lets it from then on.
///
/// # Errors
/// The system gives no thread, or no poller.
pub(crate) fn runtime(threads: usize) -> anyhow::Result<Runtime> {
    raise_open_files();
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name("side")
        .enable_all()
        .build()
        .context("cannot start the runtime")
}

/// Raises the soft limit of open files to the hard one: shells and containers set it to 1,024 for the sake of programs that use
/// select(2), and every connection takes a descriptor or two.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, soft = limit.current, "the limit of open files stays as it is");
    }
}

/// The signals that a process listens for.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    reopen: Signal,
    upgrade: Signal,
}

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// To stop in an orderly way.
    Stop,
    /// To open the log files anew, after they were moved away.
    Reopen,
    /// To start a process that takes this one's place.
    Upgrade,
}

impl Signals {
    /// Begins to listen. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The system does not let us.
    pub(crate) fn listen() -> anyhow::Result<Self> {
        let listen = |kind, name| signal(kind).with_context(|| format!("cannot listen for {name}"));
        Ok(Self {
            terminate: listen(SignalKind::terminate(), "SIGTERM")?,
            interrupt: listen(SignalKind::interrupt(), "SIGINT")?,
            reopen: listen(SignalKind::user_defined1(), "SIGUSR1")?,
            upgrade: listen(SignalKind::user_defined2(), "SIGUSR2")?,
        })
    }

    /// Waits for the next one. Cancel safe.
    pub(crate) async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => tracing::info!("SIGTERM: stopping"),
            _ = self.interrupt.recv() => tracing::info!("SIGINT: stopping"),
            _ = self.reopen.recv() => return Asked::Reopen,
            _ = self.upgrade.recv() => return Asked::Upgrade,
        }
        Asked::Stop
    }

    /// Lets the process end in an orderly way, or at once when it is asked to stop a second time. Its log files are opened anew
    /// meanwhile whenever that is asked for.
    pub(crate) async fn see_out(&mut self, ending: impl Future<Output = ()>, logs: Option<&LogFiles>) {
        tokio::select! {
            () = ending => tracing::info!("stopped"),
            () = self.stop_with(logs) => tracing::warn!("asked to stop again: ending at once, what was in work is cut"),
        }
    }

    /// Waits until the process is asked to stop. Cancel safe.
    pub(crate) async fn stop(&mut self) {
        self.stop_with(None).await;
    }

    /// As [`Self::stop`]; log files are opened anew meanwhile whenever that is asked for.
    pub(crate) async fn stop_with(&mut self, logs: Option<&LogFiles>) {
        loop {
            match self.next().await {
                Asked::Stop => return,
                Asked::Reopen => logs.into_iter().for_each(LogFiles::reopen),
                Asked::Upgrade => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_a_runtime_may_have_as_many_files_open_as_the_system_lets_it() {
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        // One less than there may be: other tests have room all the same.
        let current = Some(maximum.map_or(1 << 20, |most| most - 1));
        setrlimit(Resource::Nofile, Rlimit { current, maximum }).unwrap();
        drop(runtime(1).unwrap());
        assert_eq!(getrlimit(Resource::Nofile).current, maximum);
    }
}
