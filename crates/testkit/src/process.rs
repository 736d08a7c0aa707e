//! The real binary, as a child process.

use std::io::{BufRead as _, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use crate::wait::wait_for_blocking;

/// Names the binary to test; without it, the workspace's own one is built.
pub const BINARY_VARIABLE: &str = "MILECASTLE_BIN";

/// Path of the binary: `MILECASTLE_BIN`, or built with cargo once for each process.
///
/// # Panics
/// If it cannot be built.
pub fn binary() -> PathBuf {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    let find = || {
        if let Some(path) = std::env::var_os(BINARY_VARIABLE) {
            return path.into();
        }
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = Command::new(cargo)
            .args(["build", "--package", "milecastle", "--message-format", "json-render-diagnostics"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .stderr(Stdio::inherit())
            .output()
            .expect("cargo runs");
        assert!(output.status.success(), "cargo build --package milecastle failed");
        String::from_utf8_lossy(&output.stdout)
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .filter(|message| message["target"]["name"] == "milecastle")
            .find_map(|message| message["executable"].as_str().map(PathBuf::from))
            .expect("cargo names the executable")
    };
    BINARY.get_or_init(find).clone()
}

/// What a replica says of heartbeats that are late, or given up: on a machine that is busy with many tests it is true of any, and
/// no test's doing.
const LATE_HEARTBEATS: [&str; 2] = ["no heartbeat in the database", "time to acquire exceeded slow threshold"];

/// A running process whose output is kept. Killed when dropped; if the test failed, its output is shown.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    announced: Vec<String>,
}

impl Process {
    /// Starts `milecastle` with these arguments and environment variables. `name` stands before its output.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn milecastle(name: &str, args: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut command = Command::new(binary());
        command.args(args).envs(environment.iter().copied());
        Self::start(name, command)
    }

    /// Starts any command.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start(name: &str, mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("cannot start {name}: {e}"));
        let log = Arc::<Mutex<Vec<String>>>::default();
        keep(child.stdout.take(), &log);
        keep(child.stderr.take(), &log);
        Self { name: name.to_owned(), child, log, announced: LATE_HEARTBEATS.map(str::to_owned).into() }
    }

    /// Waits for a line of output for which `pick` gives something, also among those written before.
    ///
    /// # Panics
    /// If there is none within `within`, or the process ends first.
    pub fn wait_for_line<T>(&mut self, what: &str, within: Duration, pick: impl Fn(&str) -> Option<T>) -> T {
        let mut ended = false;
        wait_for_blocking(&format!("{what} in the output of {}", self.name), within, || {
            if let Some(found) = self.log().iter().find_map(|line| pick(line)) {
                return Some(found);
            }
            assert!(!ended, "{} ended before it wrote {what}", self.name);
            // One more look at the output after the end: its last lines may just be arriving.
            ended = !self.is_running();
            None
        })
    }

    /// All lines written so far, standard output and standard error together.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Announces that lines of level WARN or ERROR which contain `text` belong to the test.
    pub fn announce(&mut self, text: &str) {
        self.announced.push(text.to_owned());
    }

    /// Lines of level WARN or ERROR that nobody announced, late heartbeats aside.
    pub fn unannounced(&self) -> Vec<String> {
        let loud =
            |line: &String| [" WARN ", "ERROR ", "\"WARN\"", "\"ERROR\""].iter().any(|level| line.contains(level));
        let expected = |line: &String| self.announced.iter().any(|text| line.contains(text.as_str()));
        self.log().into_iter().filter(|line| loud(line) && !expected(line)).collect()
    }

    /// The process's id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The memory that it holds (VmRSS of `/proc`), in bytes.
    ///
    /// # Panics
    /// If it has ended.
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).expect("a process that runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib: Option<u64> = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok());
        kib.expect("a process that runs has memory") * 1024
    }

    /// The CPU time that it has taken since its start, user and system, to a hundredth of a second (proc_pid_stat(5)).
    ///
    /// # Panics
    /// If it has ended.
    pub fn cpu_time(&self) -> Duration {
        /// Ticks of one second (`USER_HZ`, fixed on Linux).
        const TICKS: u64 = 100;
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id())).expect("a process that runs");
        // The name, in brackets, may hold blanks. Of what follows, user and system time are the 12th and the 13th.
        let (_, fields) = stat.rsplit_once(')').expect("a name in brackets");
        let ticks: u64 = fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
        Duration::from_millis(ticks * 1000 / TICKS)
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child can be waited for").is_none()
    }

    /// Sends a signal, e.g. `libc::SIGTERM`. Nothing happens if the process has ended.
    pub fn signal(&mut self, signal: i32) {
        if self.is_running() {
            send_signal(self.child.id(), signal);
        }
    }

    /// Kills it at once (SIGKILL) and waits for its end.
    pub fn kill(&mut self) {
        if self.is_running() {
            self.child.kill().expect("a running child can be killed");
            self.child.wait().expect("a child can be waited for");
        }
    }

    /// Waits for its end, and until all that it wrote has been read.
    ///
    /// # Panics
    /// If it does not end within `within`.
    pub fn wait_for_end(&mut self, within: Duration) -> ExitStatus {
        let what = format!("the end of {}", self.name);
        let status = wait_for_blocking(&what, within, || self.child.try_wait().expect("a child can be waited for"));
        // The threads that read its output let go of the log when there is no more.
        let read = || (Arc::strong_count(&self.log) == 1).then_some(());
        wait_for_blocking(&format!("the last words of {}", self.name), within, read);
        status
    }

    /// Sends SIGTERM and waits for a clean end.
    ///
    /// # Panics
    /// If it does not end within `within`, ends with a failure, or wrote a warning or an error that nobody announced.
    pub fn stop(mut self, within: Duration) {
        self.signal(libc::SIGTERM);
        let status = self.wait_for_end(within);
        assert!(status.success(), "{} ended with {status}", self.name);
        let loud = self.unannounced();
        assert!(loud.is_empty(), "{} warned:\n{}", self.name, loud.join("\n"));
    }
}

/// Reads lines in a thread, so that the child never waits for a full pipe.
fn keep(pipe: Option<impl Read + Send + 'static>, log: &Arc<Mutex<Vec<String>>>) {
    let Some(pipe) = pipe else { return };
    let log = log.clone();
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
            log.lock().unwrap_or_else(PoisonError::into_inner).push(String::from_utf8_lossy(&line).into_owned());
        }
    });
}

#[expect(unsafe_code, reason = "the standard library sends no signal but SIGKILL")]
fn send_signal(id: u32, signal: i32) {
    let id = i32::try_from(id).expect("process ids are positive i32");
    // SAFETY: kill(2) touches no memory. The child has not been waited for (`is_running` just said so), so its id is still its
    // own.
    let result = unsafe { libc::kill(id, signal) };
    assert_eq!(result, 0, "kill: {}", std::io::Error::last_os_error());
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- output of {} ---\n{}\n---", self.name, self.log().join("\n"));
        }
        // It may have ended by itself; there is nobody to tell of any other failure.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
