//! The access log: a line for each request, written by a thread of its own.
//!
//! A worker formats a line into its own buffer and goes on; no request waits for the disk. The writer empties all buffers
//! a few times in a second, sooner where much has gathered. What a buffer has no room for, because the disk is slower than
//! the traffic, is dropped and counted.
//!
//! Invariants:
//! - A worker's lock is taken by that worker and, for the time of exchanging two pointers, by the writer.
//! - At most one system call for each round of the writer is made by all workers together: the one that wakes it.
//! - Lines are written whole; lines of one worker keep their order.
//! - What has been logged before the log is dropped is written before the drop returns.

mod escape;
mod format;
mod lanes;
mod sink;
#[cfg(test)]
mod tests;
mod writer;

use crate::gateway::OnRequestEnd;
use format::Format;
use lanes::Lanes;
use milecastle_plugin_api::RequestCx;
use milecastle_settings::Gateway as Settings;
use sink::Sink;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

/// The access log has no thread to write it.
#[derive(Debug, thiserror::Error)]
#[error("the access log's thread cannot be started: {0}")]
pub struct AccessLogError(#[from] io::Error);

/// The access log of a node.
pub struct AccessLog {
    format: Format,
    lanes: Arc<Lanes>,
    writer: Option<JoinHandle<()>>,
}

impl AccessLog {
    /// Opens the log that the settings ask for; `None` if they ask for none: `enable_access_log: false`, or `off` as
    /// the file. A relative path starts at the node's own directory; the file's directory is created. A file that cannot
    /// be opened is an error in the process's log, and tried again with each write. `workers` is how many threads will log.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn open(settings: &Settings, workers: usize) -> Result<Option<Self>, AccessLogError> {
        let http = &settings.nginx_config.http;
        if !http.enable_access_log || http.access_log.as_os_str() == "off" {
            return Ok(None);
        }
        let path = settings.state.dir().join(&http.access_log);
        let sink = match http.access_log.to_str() {
            Some("-" | "/dev/stdout") => Sink::Stdout,
            _ => Sink::open(&path),
        };
        let format = Format::new(&http.access_log_format, http.access_log_format_escape);
        Ok(Some(Self::start(format, sink, workers, settings.limits.pending_log_entries as usize)?))
    }

    fn start(format: Format, sink: Sink, workers: usize, pending: usize) -> io::Result<Self> {
        let lanes = Arc::new(Lanes::new(workers, pending));
        let writer = {
            let lanes = lanes.clone();
            std::thread::Builder::new().name("access-log".to_owned()).spawn(move || writer::run(&lanes, sink))?
        };
        lanes.wakes(writer.thread().clone());
        Ok(Self { format, lanes, writer: Some(writer) })
    }

    /// Opens the file anew, after log rotation has moved it away (SIGUSR1). Lines logged before go to the old file.
    pub fn reopen(&self) {
        self.lanes.ask_to_reopen();
    }

    /// Lines that were not written since the start: no room was left, or the system refused them.
    pub fn dropped(&self) -> u64 {
        self.lanes.dropped()
    }
}

impl OnRequestEnd for AccessLog {
    fn on_request_end(&self, cx: &RequestCx) {
        self.lanes.push(|line| self.format.write(line, cx));
    }

    fn reads_answer_head(&self) -> bool {
        self.format.reads_answer_head()
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.lanes.ask_to_stop();
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the writer of the access log panicked; lines may be missing");
        }
    }
}

impl std::fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AccessLog").field("dropped", &self.dropped()).finish_non_exhaustive()
    }
}
