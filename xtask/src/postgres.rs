//! A PostgreSQL that lives for one run of the tests.

use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::run::{find_in_path, output, run};

/// How long the server may take to come up.
const START: Duration = Duration::from_secs(60);

/// A running cluster; stopped, and its files removed, when dropped.
pub(crate) struct Cluster {
    binaries: PathBuf,
    user: Option<User>,
    /// Holds the data, the log and the socket.
    dir: PathBuf,
    port: u16,
    server: Option<Child>,
}

/// The account the server runs under where we are root, since PostgreSQL refuses to run as root.
#[derive(Clone, Copy)]
struct User {
    uid: u32,
    gid: u32,
}

/// The directory with `initdb` and `postgres`; installs PostgreSQL with apt-get where there is none.
pub(crate) fn binaries() -> Result<PathBuf> {
    if let Some(found) = find() {
        return Ok(found);
    }
    println!("installing PostgreSQL with apt-get");
    let mut prefix = if is_root()? { Vec::new() } else { vec!["sudo", "-n"] };
    prefix.extend(["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "-o", "Dpkg::Use-Pty=0"]);
    let apt = |args: &[&str]| {
        let words = [prefix.as_slice(), args].concat();
        run(Command::new(words[0]).args(words.iter().skip(1)))
    };
    apt(&["update"]).and_then(|()| apt(&["install", "--yes", "--no-install-recommends", "postgresql"])).context(
        "PostgreSQL is not installed, and apt-get cannot install it: install it by hand (any version from 13)",
    )?;
    find().context("PostgreSQL was installed, but there is no initdb in PATH or /usr/lib/postgresql")
}

fn find() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut dirs: Vec<(u32, PathBuf)> = versions
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .collect();
    dirs.sort();
    let packaged = dirs.into_iter().rev().map(|(_, dir)| dir);
    let in_path = find_in_path("initdb").and_then(|file| file.canonicalize().ok()?.parent().map(Path::to_owned));
    packaged.chain(in_path).find(|dir| dir.join("initdb").is_file() && dir.join("postgres").is_file())
}

fn is_root() -> Result<bool> {
    Ok(output(Command::new("id").arg("-u"))?.trim() == "0")
}

impl User {
    fn postgres() -> Result<Self> {
        let id = |flag| -> Result<u32> { Ok(output(Command::new("id").args([flag, "postgres"]))?.trim().parse()?) };
        Ok(Self { uid: id("-u")?, gid: id("-g")? })
    }
}

impl Cluster {
    /// Makes a cluster in a new directory and starts it on a free port of 127.0.0.1. Nothing is flushed to the disk: its data
    /// is worth nothing after the run.
    pub(crate) fn start() -> Result<Self> {
        let binaries = binaries()?;
        let user = if is_root()? { Some(User::postgres()?) } else { None };
        let dir = std::env::temp_dir().join(format!("milecastle-postgres-{}", std::process::id()));
        std::fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        // From here on, dropping it cleans up.
        let mut cluster = Self { binaries, user, dir, port, server: None };
        std::fs::set_permissions(&cluster.dir, std::fs::Permissions::from_mode(0o700))?;
        if let Some(user) = user {
            chown(&cluster.dir, Some(user.uid), Some(user.gid))?;
        }
        let data = cluster.dir.join("data");
        let initdb = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "--pgdata"];
        output(cluster.command("initdb").args(initdb).arg(&data))?;
        let log = std::fs::File::create(cluster.dir.join("log"))?;
        let socket = format!("unix_socket_directories={}", cluster.dir.display());
        let port = format!("port={port}");
        let settings = [
            "listen_addresses=127.0.0.1",
            &port,
            &socket,
            "max_connections=400",
            "fsync=off",
            "synchronous_commit=off",
            "full_page_writes=off",
        ];
        let mut server = cluster.command("postgres");
        server.arg("-D").arg(&data).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        for setting in settings {
            server.args(["-c", setting]);
        }
        cluster.server = Some(server.spawn().context("cannot start postgres")?);
        cluster.wait_until_ready()?;
        println!("PostgreSQL runs at {}", cluster.dsn());
        Ok(cluster)
    }

    /// Where it is, as its superuser.
    pub(crate) fn dsn(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.binaries.join(program));
        command.current_dir("/");
        if let Some(user) = self.user {
            command.uid(user.uid).gid(user.gid);
        }
        command
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + START;
        let port = self.port.to_string();
        while output(self.command("psql").args(["-h", "127.0.0.1", "-U", "postgres", "-p", &port, "-qAtc", "select 1"]))
            .is_err()
        {
            let ended = self.server.as_mut().is_none_or(|s| !matches!(s.try_wait(), Ok(None)));
            if ended || Instant::now() > deadline {
                let log = std::fs::read_to_string(self.dir.join("log")).unwrap_or_default();
                bail!("PostgreSQL does not come up:\n{log}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(mut server) = self.server.take() {
            let data = self.dir.join("data");
            let stopped = output(self.command("pg_ctl").args(["stop", "-s", "-m", "immediate", "-D"]).arg(&data));
            // A server that pg_ctl cannot reach is killed; its children notice that it is gone.
            if stopped.is_err() {
                drop(server.kill());
            }
            drop(server.wait());
        }
        if let Err(e) = std::fs::remove_dir_all(&self.dir) {
            eprintln!("xtask: cannot remove {}: {e}", self.dir.display());
        }
    }
}
