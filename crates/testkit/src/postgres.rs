//! Throw-away PostgreSQL: clusters of the real server, and a database for each test.
//!
//! Tests take a [`Database`]; it lies in the cluster that `MILECASTLE_TEST_POSTGRES` names (connection string of a superuser),
//! or else in one that this process starts for all its tests and stops after the last. A [`Cluster`] by itself is for tests
//! that stop and start the server. Nothing of it outlives the process, however it ends.

use std::env;
use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::{OpenOptionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

use crate::tls::Identity;
use crate::{TempDir, free_port};

/// Names the superuser's connection string of a cluster to use instead of starting one.
pub const ENV: &str = "MILECASTLE_TEST_POSTGRES";

const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Runs the server and stops it as soon as its own standard input ends, which it does when the test process does. A line on
/// it stops the server too, but keeps the data.
const SUPERVISE: &str = r#"
"$1/postgres" -D "$2/data" -p "$3" -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c max_connections=300 \
    -c fsync=off -c full_page_writes=off -c autovacuum=off >>"$2/log" 2>&1 </dev/null &
server=$!
keep=
read -r keep
kill -QUIT "$server" 2>/dev/null
wait "$server"
[ -n "$keep" ] || rm -rf "$2"
"#;

/// A PostgreSQL server on a free port of 127.0.0.1 with its data in a temporary directory; user `postgres`, no password.
/// Commits do not survive a crash of the machine. Dropped, it stops and leaves nothing.
#[derive(Debug)]
pub struct Cluster {
    programs: PathBuf,
    dir: PathBuf,
    port: u16,
    running: Option<Child>,
    frozen: bool,
}

impl Cluster {
    /// Makes a cluster and starts it.
    pub fn start() -> anyhow::Result<Cluster> {
        Cluster::start_in(&env::temp_dir())
    }

    /// As [`Cluster::start`], with all its files in a directory of this one.
    pub fn start_in(parent: &Path) -> anyhow::Result<Cluster> {
        let mut cluster = Cluster::make(parent)?;
        cluster.resume()?;
        Ok(cluster)
    }

    /// Makes a cluster that shows `identity` and refuses connections without TLS, and starts it.
    pub fn start_with_tls(identity: &Identity) -> anyhow::Result<Cluster> {
        let mut cluster = Cluster::make(&env::temp_dir())?;
        let data = cluster.dir.join("data");
        for (name, pem) in [("server.crt", &identity.cert), ("server.key", &identity.key)] {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(data.join(name))?;
            file.write_all(pem.as_bytes())?;
            if let Some((uid, gid)) = unprivileged()? {
                chown(data.join(name), Some(uid), Some(gid))?;
            }
        }
        fs::write(data.join("pg_hba.conf"), "hostssl all all 127.0.0.1/32 trust\n")?;
        OpenOptions::new().append(true).open(data.join("postgresql.conf"))?.write_all(b"ssl = on\n")?;
        cluster.resume()?;
        Ok(cluster)
    }

    fn make(parent: &Path) -> anyhow::Result<Cluster> {
        let programs = programs()?;
        let dir = parent.join(format!("milecastle-postgres-{}", unique()));
        fs::create_dir(&dir).with_context(|| format!("making {}", dir.display()))?;
        let cluster = Cluster { programs, dir, port: free_port(), running: None, frozen: false };
        if let Some((uid, gid)) = unprivileged()? {
            chown(&cluster.dir, Some(uid), Some(gid)).context("giving the cluster's directory to its user")?;
        }
        let mut initdb = cluster.command(cluster.programs.join("initdb"))?;
        initdb.args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "-D"]);
        run(initdb.arg(cluster.dir.join("data")))?;
        Ok(cluster)
    }

    /// Connection string of the superuser for one of its databases; `postgres` always exists.
    pub fn dsn(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Runs SQL in the database `postgres` and gives the answer, unaligned, a row a line.
    pub fn query(&self, sql: &str) -> anyhow::Result<String> {
        query(&self.programs, &self.dsn("postgres"), sql)
    }

    /// What the server has written to its log.
    pub fn log(&self) -> anyhow::Result<String> {
        let path = self.dir.join("log");
        fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
    }

    /// Has it write down every statement from now on, for [`Cluster::statements`].
    ///
    /// # Errors
    /// If it does not take the setting.
    pub fn log_statements(&self) -> anyhow::Result<()> {
        self.query("ALTER SYSTEM SET log_statement = 'all'")?;
        self.query("SELECT pg_reload_conf()").map(drop)
    }

    /// How many statements it has written down so far.
    ///
    /// # Errors
    /// If its log cannot be read.
    pub fn statements(&self) -> anyhow::Result<usize> {
        let is_one = |line: &&str| line.contains("LOG:  execute ") || line.contains("LOG:  statement: ");
        Ok(self.log()?.lines().filter(is_one).count())
    }

    /// Stops the server at once, as a crash would, and as `pg_ctl stop -m immediate` does; the data stays.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        self.freeze(false)?;
        if let Some(mut child) = self.running.take() {
            child.stdin.take().context("the supervisor has a standard input")?.write_all(b"keep\n")?;
            child.wait()?;
        }
        Ok(())
    }

    /// Starts the server again after [`Cluster::stop`], on the same port.
    pub fn resume(&mut self) -> anyhow::Result<()> {
        ensure!(self.running.is_none(), "the server runs already");
        let mut supervisor = self.command("sh")?;
        supervisor.args(["-c", SUPERVISE, "supervise"]).arg(&self.programs).arg(&self.dir).arg(self.port.to_string());
        self.running = Some(supervisor.stdin(Stdio::piped()).spawn().context("starting PostgreSQL")?);
        self.wait_until_ready()
    }

    /// Stops all processes of the server where they are (SIGSTOP), or lets them go on: connections stay, also new ones are
    /// taken by the system, and nothing is said on them.
    pub fn freeze(&mut self, frozen: bool) -> anyhow::Result<()> {
        if self.frozen == frozen {
            return Ok(());
        }
        let pid_file = fs::read_to_string(self.dir.join("data/postmaster.pid")).context("reading postmaster.pid")?;
        let server: u32 = pid_file.lines().next().unwrap_or_default().trim().parse().context("a process id")?;
        // Its children come from it alone, so from then on there are no more of them; and it goes on last, or it would mourn some.
        match frozen {
            true => {
                self.signal("STOP", &[server])?;
                self.signal("STOP", &children(server)?)?;
            }
            false => {
                self.signal("CONT", &children(server)?)?;
                self.signal("CONT", &[server])?;
            }
        }
        self.frozen = frozen;
        Ok(())
    }

    /// Sends a signal to those of these processes that still run.
    fn signal(&self, name: &str, processes: &[u32]) -> anyhow::Result<()> {
        let mut kill = self.command("sh")?;
        kill.args(["-c", r#"for process; do kill -s "$0" "$process" || true; done"#, name])
            .args(processes.iter().map(u32::to_string));
        run(&mut kill).map(drop)
    }

    fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let started = Instant::now();
        while started.elapsed() < START_TIMEOUT {
            if TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok()
                && query(&self.programs, &self.dsn("postgres"), "SELECT 1").is_ok()
            {
                return Ok(());
            }
            let log = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
            ensure!(!log.contains("FATAL:  could not create"), "PostgreSQL did not start: {log}");
            thread::sleep(Duration::from_millis(20));
        }
        bail!("PostgreSQL was not ready within {START_TIMEOUT:?}; see {}", self.dir.join("log").display())
    }

    /// A command that does not run as root, which PostgreSQL refuses.
    fn command(&self, program: impl AsRef<OsStr>) -> anyhow::Result<Command> {
        let mut command = Command::new(program);
        command.current_dir(&self.dir).env("LC_ALL", "C");
        if let Some((uid, gid)) = unprivileged()? {
            command.uid(uid).gid(gid);
        }
        Ok(command)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // What does not run does not hear that it should end.
        self.freeze(false).ok();
        if let Some(mut child) = self.running.take() {
            drop(child.stdin.take());
            // Nothing to do about a failure: the supervisor stops the server in any case.
            child.wait().ok();
        } else {
            fs::remove_dir_all(&self.dir).ok();
        }
    }
}

/// An empty database of one test's own. Dropped, it is removed with whatever is still connected to it.
#[derive(Debug)]
pub struct Database {
    dsn: String,
    name: String,
    server: Arc<Server>,
}

#[derive(Debug)]
struct Server {
    programs: PathBuf,
    superuser: String,
    _own: Option<Cluster>,
}

static SHARED: Mutex<Weak<Server>> = Mutex::new(Weak::new());

impl Database {
    /// Makes a database, and a cluster for it if need be.
    pub fn create() -> anyhow::Result<Database> {
        let server = Server::shared()?;
        let name = format!("test_{}", unique().replace('-', "_"));
        query(&server.programs, &server.superuser, &format!("CREATE DATABASE {name}"))?;
        Ok(Database { dsn: with_database(&server.superuser, &name)?, name, server })
    }

    /// Its connection string, as a superuser.
    pub fn dsn(&self) -> &str {
        &self.dsn
    }

    /// Runs SQL in it and gives the answer, unaligned, a row a line.
    pub fn query(&self, sql: &str) -> anyhow::Result<String> {
        query(&self.server.programs, &self.dsn, sql)
    }

    /// Runs SQL in a transaction that stays open, with the locks that it took, until what is given is dropped: then it is rolled
    /// back.
    pub fn hold(&self, sql: &str) -> anyhow::Result<Held> {
        let mut psql = Command::new(self.server.programs.join("psql"));
        psql.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "-v", "ON_ERROR_STOP=1"]).arg(&self.dsn);
        let mut psql = psql.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("starting psql")?;
        let script = psql.stdin.take().context("psql has a standard input")?;
        let answers = psql.stdout.take().context("psql has a standard output")?;
        let mut held = Held { psql, script: Some(script) };
        let script = held.script.as_mut().context("it was just put there")?;
        writeln!(script, "BEGIN;\n{sql};\n\\echo held")?;
        let mut lines = BufReader::new(answers).lines();
        ensure!(lines.any(|line| line.is_ok_and(|line| line == "held")), "psql refuses: {sql}");
        Ok(held)
    }

    /// All that it holds, as `pg_dump` writes it; binary values in hexadecimal.
    pub fn dump(&self) -> anyhow::Result<String> {
        run(Command::new(self.server.programs.join("pg_dump")).arg("--dbname").arg(&self.dsn))
    }

    /// Puts back what [`Database::dump`] gave, as an operator does: the database is dropped with whatever is connected to it, made
    /// anew, and filled.
    pub fn restore(&self, dump: &str) -> anyhow::Result<()> {
        let (server, name) = (&self.server, &self.name);
        for sql in [format!("DROP DATABASE {name} WITH (FORCE)"), format!("CREATE DATABASE {name}")] {
            query(&server.programs, &server.superuser, &sql)?;
        }
        let home = TempDir::new();
        let script = home.write("dump.sql", dump);
        let mut psql = Command::new(server.programs.join("psql"));
        psql.args(["--no-psqlrc", "--quiet", "-v", "ON_ERROR_STOP=1", "-f"]).arg(script).arg(&self.dsn);
        run(&mut psql).map(drop)
    }
}

/// An open transaction; see [`Database::hold`].
#[derive(Debug)]
pub struct Held {
    psql: Child,
    script: Option<ChildStdin>,
}

impl Drop for Held {
    fn drop(&mut self) {
        // At its end psql leaves without a commit.
        drop(self.script.take());
        self.psql.wait().ok();
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let sql = format!("DROP DATABASE {} WITH (FORCE)", self.name);
        // A cluster of our own goes as a whole; in a given one, the operator sees what is left by its name.
        query(&self.server.programs, &self.server.superuser, &sql).ok();
    }
}

impl Server {
    fn shared() -> anyhow::Result<Arc<Server>> {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(server) = shared.upgrade() {
            return Ok(server);
        }
        let own = if env::var_os(ENV).is_some() { None } else { Some(Cluster::start()?) };
        let superuser = match &own {
            Some(cluster) => cluster.dsn("postgres"),
            None => env::var(ENV).with_context(|| format!("reading {ENV}"))?,
        };
        let server = Arc::new(Server { programs: programs()?, superuser, _own: own });
        *shared = Arc::downgrade(&server);
        Ok(server)
    }
}

/// The same connection string for another database.
fn with_database(dsn: &str, database: &str) -> anyhow::Result<String> {
    let (server, query) = dsn.split_once('?').map_or((dsn, None), |(server, query)| (server, Some(query)));
    let (scheme, rest) = server.split_once("://").with_context(|| format!("{ENV} is not a connection string"))?;
    let host = rest.split_once('/').map_or(rest, |(host, _)| host);
    Ok(format!("{scheme}://{host}/{database}{}", query.map(|query| format!("?{query}")).unwrap_or_default()))
}

/// Where the newest installed server's programs are.
fn programs() -> anyhow::Result<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    for versions in fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten() {
        let version = versions.file_name().to_string_lossy().parse().unwrap_or(0);
        found.push((version, versions.path().join("bin")));
    }
    let path = env::var_os("PATH").unwrap_or_default();
    found.extend(env::split_paths(&path).map(|dir| (0, dir)));
    found.retain(|(_, dir)| dir.join("initdb").is_file() && dir.join("psql").is_file());
    let newest = found.into_iter().max_by_key(|(version, _)| *version);
    newest.map(|(_, dir)| dir).context("no PostgreSQL is installed; install it: apt-get install postgresql")
}

/// User and group to run the server as if this process is root: `postgres`, or `nobody` where there is none.
fn unprivileged() -> anyhow::Result<Option<(u32, u32)>> {
    let root = fs::metadata("/proc/self").map(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0)?;
    if !root {
        return Ok(None);
    }
    let passwd = fs::read_to_string("/etc/passwd").context("looking for a user to run PostgreSQL as")?;
    let ids = |name: &str| {
        let fields: Vec<&str> =
            passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|f| f[0] == name)?;
        Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?))
    };
    ids("postgres").or_else(|| ids("nobody")).context("neither user postgres nor nobody exists").map(Some)
}

fn query(programs: &Path, dsn: &str, sql: &str) -> anyhow::Result<String> {
    let mut psql = Command::new(programs.join("psql"));
    run(psql.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "-v", "ON_ERROR_STOP=1", "-c", sql, dsn]))
}

fn run(command: &mut Command) -> anyhow::Result<String> {
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("running {:?}", command.get_program()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{:?} failed: {said}", command.get_program());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The processes that this one has started, and that run.
fn children(parent: u32) -> anyhow::Result<Vec<u32>> {
    let parent = parent.to_string();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("listing processes")?.flatten() {
        let id: Option<u32> = entry.file_name().to_str().and_then(|name| name.parse().ok());
        // One that has just ended has no file any more.
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // The name, in brackets, may hold blanks. The second field after it is the parent.
        let is_child = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)) == Some(&parent);
        found.extend(id.filter(|_| is_child));
    }
    Ok(found)
}

/// A name that nothing else on this machine has.
fn unique() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let nanos = std::time::UNIX_EPOCH.elapsed().map(|since| since.as_nanos()).unwrap_or_default();
    format!("{}-{nanos}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_database_of_the_same_server() {
        let check = |dsn, expected: &str| assert_eq!(with_database(dsn, "d").unwrap(), expected);
        check("postgres://u:p@h:1/postgres", "postgres://u:p@h:1/d");
        check("postgres://h", "postgres://h/d");
        check("postgresql://h/x?sslmode=disable", "postgresql://h/d?sslmode=disable");
        assert!(with_database("h/x", "d").is_err());
    }

    #[test]
    fn a_cluster_stops_resumes_and_leaves_nothing() {
        let mut cluster = Cluster::start().unwrap();
        cluster.query("CREATE TABLE kept (x INT)").unwrap();
        cluster.stop().unwrap();
        assert!(cluster.query("SELECT 1").is_err());
        cluster.resume().unwrap();
        assert_eq!(cluster.query("SELECT count(*) FROM kept").unwrap(), "0\n");
        let dir = cluster.dir.clone();
        drop(cluster);
        assert!(!dir.exists());
    }

    #[test]
    fn a_frozen_cluster_says_nothing_and_goes_on() {
        let mut cluster = Cluster::start().unwrap();
        cluster.freeze(true).unwrap();
        let dsn = format!("{}?connect_timeout=2", cluster.dsn("postgres"));
        assert!(query(&cluster.programs, &dsn, "SELECT 1").is_err());
        cluster.freeze(false).unwrap();
        assert_eq!(cluster.query("SELECT 1").unwrap(), "1\n");
        cluster.freeze(true).unwrap();
        let dir = cluster.dir.clone();
        drop(cluster);
        assert!(!dir.exists());
    }
}
