//! Starting the process that is to take this one's place (SIGUSR2).
//!
//! The signal is the one of nginx for "upgrade the executable", whose SIGUSR1 for log files is ours as well.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use tokio::sync::Notify;

/// What asks a gateway to take over.
const UPGRADE: &str = "--upgrade";
/// What tells a process that systemd has opened sockets for it: they were opened for this one.
const ACTIVATION: [&str; 3] = ["LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID"];

/// How this process was started.
pub(crate) struct Program {
    /// By the name that it was called by, which may lead to another file by now; the file itself if that is no path.
    path: PathBuf,
    args: Vec<OsString>,
    ended: Arc<Notify>,
}

impl Program {
    /// To be asked for early: later the working directory may be another one, and the file gone.
    pub(crate) fn of_this_process() -> Self {
        let mut args = std::env::args_os();
        let called = args.next().map(PathBuf::from).unwrap_or_default();
        let is_path = called.components().count() > 1;
        let by_name = std::path::absolute(&called).ok().filter(|_| is_path);
        let path = by_name.or_else(|| std::env::current_exe().ok()).unwrap_or(called);
        Self { path, args: args.collect(), ended: Arc::default() }
    }

    /// Waits until a process has ended that was to take over, or none could be started. Cancel safe.
    pub(crate) async fn successor_ended(&self) {
        self.ended.notified().await;
    }

    /// Starts it again as this process was started, to take over. How that goes is in both logs.
    pub(crate) fn start_successor(&self) {
        let mut command = Command::new(&self.path);
        command.args(&self.args).stdin(Stdio::null());
        if !self.args.iter().any(|arg| arg == UPGRADE) {
            command.arg(UPGRADE);
        }
        for variable in ACTIVATION {
            command.env_remove(variable);
        }
        let path = self.path.display();
        match command.spawn() {
            Ok(mut successor) => {
                tracing::info!(pid = successor.id(), %path, "SIGUSR2: started a process that is to take over");
                // Somebody has to take note of its end, should it come first.
                let ended = self.ended.clone();
                std::thread::spawn(move || {
                    match successor.wait() {
                        Ok(status) => {
                            tracing::info!(pid = successor.id(), %status, "the process that was to take over has ended");
                        }
                        Err(error) => {
                            tracing::warn!(%error, "the end of the process that was to take over goes unnoticed")
                        }
                    }
                    ended.notify_one();
                });
            }
            Err(error) => {
                tracing::error!(%path, %error, "SIGUSR2: no process can be started that would take over; this one goes on");
                self.ended.notify_one();
            }
        }
    }
}
