//! The access logs: a line for each request, or for each session, written by a thread of its own.
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

use crate::gateway::{OnRequestEnd, OnSessionEnd};
use format::Format;
use lanes::Lanes;
use milecastle_plugin_api::RequestCx;
use milecastle_plugin_api::stream::StreamCx;
use milecastle_settings::Gateway as Settings;
use sink::Sink;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

/// The access log has no thread to write it.
#[derive(Debug, thiserror::Error)]
#[error("the access log's thread cannot be started: {0}")]
pub struct AccessLogError(#[from] io::Error);

/// An access log of a node: of its requests, or of its sessions.
pub struct AccessLog {
    format: Format,
    lanes: Arc<Lanes>,
    writer: Option<JoinHandle<()>>,
}

impl AccessLog {
    /// Opens the log of requests that the settings ask for; `None` if they ask for none: `enable_access_log: false`, or `off` as
    /// the file. A relative path starts at the node's own directory; the file's directory is created. A file that cannot
    /// be opened is an error in the process's log, and tried again with each write. `workers` is how many threads will log.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn of_requests(settings: &Settings, workers: usize) -> Result<Option<Self>, AccessLogError> {
        let http = &settings.nginx_config.http;
        let format = Format::new(&http.access_log_format, http.access_log_format_escape);
        Self::open(settings, workers, http.enable_access_log, &http.access_log, format)
    }

    /// The same, of TCP and UDP sessions.
    ///
    /// # Errors
    /// As for [`Self::of_requests`].
    pub fn of_sessions(settings: &Settings, workers: usize) -> Result<Option<Self>, AccessLogError> {
        let stream = &settings.nginx_config.stream;
        let format = Format::new(&stream.access_log_format, stream.access_log_format_escape);
        Self::open(settings, workers, stream.enable_access_log, &stream.access_log, format)
    }

    fn open(
        settings: &Settings,
        workers: usize,
        enabled: bool,
        file: &Path,
        format: Format,
    ) -> Result<Option<Self>, AccessLogError> {
        if !enabled || file.as_os_str() == "off" {
            return Ok(None);
        }
        let sink = match file.to_str() {
            Some("-" | "/dev/stdout") => Sink::Stdout,
            _ => Sink::open(&settings.state.dir().join(file)),
        };
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

impl OnSessionEnd for AccessLog {
    fn on_session_end(&self, cx: &StreamCx) {
        self.lanes.push(|line| self.format.write(line, cx));
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
