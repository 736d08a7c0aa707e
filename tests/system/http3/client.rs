//! aioquic as a client (`tests/http3/client.py`).

use milecastle_testkit::TempDir;
use milecastle_testkit::tls::Identity;
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// How long it may take for one thing, with the load of other tests beside it.
const PATIENCE: Duration = Duration::from_secs(120);

/// A script of `tests/http3`.
pub(super) fn python(script: &str) -> Command {
    let mut command = milecastle_tests::python("http3", "python");
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("http3").join(script));
    command
}

/// One connection. Its end is the end of the client.
pub(crate) struct Client {
    process: Child,
    says: ChildStdin,
    hears: Receiver<String>,
    /// What was said first: `connected` with the certificate, or `refused`.
    pub(crate) greeting: Value,
    _dir: TempDir,
}

impl Client {
    /// Connects to a port of 127.0.0.1 under this name; `ca` is who has signed its certificate.
    pub(crate) fn connect(port: u16, name: &str, ca: &str, identity: Option<&Identity>) -> Self {
        Self::connect_with(json!({ "port": port, "name": name }), ca, identity)
    }

    /// The same, of whom the script is told more.
    pub(crate) fn connect_with(mut asked: Value, ca: &str, identity: Option<&Identity>) -> Self {
        let dir = TempDir::new();
        asked["ca"] = json!(dir.write("ca.pem", ca));
        if let Some(identity) = identity {
            asked["identity"] = json!([dir.write("cert.pem", &identity.cert), dir.write("key.pem", &identity.key)]);
        }
        let mut command = python("client.py");
        let mut process = command.arg(asked.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (says, lines) = (process.stdin.take().unwrap(), BufReader::new(process.stdout.take().unwrap()).lines());
        let (tell, hears) = channel();
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| tell.send(line)));
        let mut client = Self { process, says, hears, greeting: Value::Null, _dir: dir };
        client.greeting = client.hear("how the handshake went");
        client
    }

    /// Has it do something, and waits for how that went.
    pub(crate) fn ask(&mut self, asked: Value) -> Value {
        self.begin(&asked);
        self.hear(&asked.to_string())
    }

    /// Has it do something.
    pub(crate) fn begin(&mut self, asked: &Value) {
        writeln!(self.says, "{asked}").unwrap();
    }

    /// The next thing that it says.
    pub(crate) fn hear(&mut self, what: &str) -> Value {
        let line = self.hears.recv_timeout(PATIENCE).unwrap_or_else(|error| panic!("waiting for {what}: {error}"));
        serde_json::from_str(&line).unwrap()
    }

    /// A request for a path of `localhost`, with more of it.
    pub(crate) fn request(&mut self, path: &str, more: Value) -> Value {
        let mut asked = json!({ "do": "request", "authority": "localhost", "path": path });
        asked.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.ask(asked)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}
