//! The real Redis.

use crate::tls::Identity;
use crate::wait::wait_for_blocking;
use crate::{Process, SOON, TempDir, free_port};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;

/// A Redis on a port of 127.0.0.1, which keeps nothing on disk. Dropping it ends it.
pub struct Redis {
    port: u16,
    options: Vec<String>,
    /// What `redis-cli` needs beyond the port.
    access: Vec<String>,
    running: Option<Process>,
    dir: TempDir,
}

impl Redis {
    /// Starts one without a password.
    ///
    /// # Panics
    /// If it is not installed: Debian has it in the packages `redis-server` and `redis-tools`.
    pub fn start() -> Self {
        Self::start_with(&[], None, None)
    }

    /// Starts one with these options of its command line; it asks for `password`, and shows `identity` over TLS.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub fn start_with(options: &[&str], password: Option<&str>, identity: Option<&Identity>) -> Self {
        let (dir, port) = (TempDir::new(), free_port());
        let mut redis = Self { port, options: Vec::new(), access: Vec::new(), running: None, dir };
        redis.options.extend(options.iter().map(|option| (*option).to_owned()));
        if let Some(password) = password {
            redis.options.extend(["--requirepass".to_owned(), password.to_owned()]);
            redis.access.extend(["--no-auth-warning".to_owned(), "-a".to_owned(), password.to_owned()]);
        }
        let port = port.to_string();
        match identity {
            Some(Identity { cert, key }) => {
                let file = |name: &str, pem: &str| redis.dir.write(name, pem).display().to_string();
                let (cert, key) = (file("cert.pem", cert), file("key.pem", key));
                let options = ["--port", "0", "--tls-port", &port, "--tls-cert-file", &cert, "--tls-key-file", &key];
                redis.options.extend(options.map(str::to_owned));
                redis.options.extend(["--tls-ca-cert-file", &cert, "--tls-auth-clients", "no"].map(str::to_owned));
                redis.access.extend(["--tls", "--insecure"].map(str::to_owned));
            }
            None => redis.options.extend(["--port", &port].map(str::to_owned)),
        }
        redis.resume();
        redis
    }

    /// Where it listens, also while it is stopped.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Starts it anew, with nothing in it.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub fn resume(&mut self) {
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"]).arg(self.dir.path());
        command.args(&self.options);
        self.running = Some(Process::start("redis", command));
        wait_for_blocking("Redis to answer", SOON, || (self.say(&["PING"]) == "PONG").then_some(()));
    }

    /// Ends it.
    pub fn stop(&mut self) {
        if let Some(mut running) = self.running.take() {
            running.kill();
        }
    }

    /// Sends its process a signal.
    ///
    /// # Panics
    /// If it is stopped.
    pub fn signal(&mut self, signal: i32) {
        self.running.as_mut().expect("it runs").signal(signal);
    }

    /// What it answers to a command, as `redis-cli` shows it.
    ///
    /// # Panics
    /// If there is no `redis-cli`.
    pub fn say(&self, command: &[&str]) -> String {
        let mut cli = Command::new("redis-cli");
        cli.args(["-h", "127.0.0.1", "-p", &self.port.to_string()]).args(&self.access).args(command);
        String::from_utf8_lossy(&cli.output().expect("redis-cli is installed").stdout).trim_end().to_owned()
    }

    /// Names of all keys, sorted.
    pub fn keys(&self) -> Vec<String> {
        let mut keys: Vec<String> = self.say(&["KEYS", "*"]).lines().map(str::to_owned).collect();
        keys.sort();
        keys
    }
}
