//! TLS on the dashboard's listeners, and what every answer tells browsers (`docs/security.md`).

use crate::gateway::{self, Gateway, KEY, bare};
use milecastle_control::{Opening, Probes, Readiness};
use milecastle_pki::chain_ends;
use milecastle_settings::{self as settings, Time};
use milecastle_telemetry::metrics::Registry;
use milecastle_testkit::tls::{Authority, Identity, client_config_in};
use milecastle_testkit::{Call, Target, eventually};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, HandshakeKind};
use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Files of a dashboard, which operators of `people` may use.
struct Files {
    dir: tempfile::TempDir,
    servers: Authority,
    people: Authority,
}

impl Files {
    fn new() -> Self {
        let files = Self {
            dir: tempfile::tempdir().unwrap(),
            servers: Authority::new("servers"),
            people: Authority::new("people"),
        };
        files.put(&files.servers.issue(&["localhost"]));
        fs::write(files.dir.path().join("people.pem"), files.people.pem()).unwrap();
        files
    }

    fn put(&self, identity: &Identity) {
        fs::write(self.dir.path().join("key.pem"), &identity.key).unwrap();
        fs::write(self.dir.path().join("cert.pem"), &identity.cert).unwrap();
    }

    async fn dashboard(&self, mutual: bool) -> Gateway {
        Gateway::configured(|settings| self.name_in(settings, mutual)).await
    }

    fn name_in(&self, settings: &mut settings::Dashboard, mutual: bool) {
        self.name_in_section(&mut settings.tls);
        settings.tls.client_ca_file = Some(self.dir.path().join("people.pem")).filter(|_| mutual);
        settings.admin.enable = true;
    }

    fn name_in_section(&self, tls: &mut settings::ListenTls) {
        let path = |name: &str| Some(self.dir.path().join(name));
        (tls.cert_file, tls.key_file) = (path("cert.pem"), path("key.pem"));
        tls.reload = Time::millis(50);
    }
}

fn target(gw: &Gateway, authority: &Authority, identity: Option<&Identity>) -> Target {
    let target = Target::tls(gw.address(), "localhost", &authority.pem());
    match identity {
        Some(identity) => target.with_identity(identity),
        None => target,
    }
}

async fn status(target: &Target) -> Option<u16> {
    let mut connection = target.connect().await.ok()?;
    let call = bare("GET /routes").header("x-api-key", KEY);
    Some(call.send(&mut connection).await.ok()?.status)
}

#[tokio::test]
async fn both_listeners_speak_tls_with_the_certificate_that_the_files_hold_now() {
    let files = Files::new();
    let gw = files.dashboard(false).await;
    let trusting = target(&gw, &files.servers, None);
    assert_eq!(status(&trusting).await, Some(200));
    assert!(bare("GET /routes").to(gw.address()).await.is_err(), "no plain HTTP");
    let admin = gw.dashboard.admin_address().unwrap();
    assert_eq!(status(&Target::tls(admin, "localhost", &files.servers.pem())).await, Some(200));
    // Files that do not go together change nothing.
    let renewed = Authority::new("renewed");
    let next = renewed.issue_for(&["localhost"], Duration::from_secs(400 * 86_400));
    fs::write(files.dir.path().join("key.pem"), &next.key).unwrap();
    assert_eq!(status(&trusting).await, Some(200));
    files.put(&next);
    eventually("the renewed certificate is shown", async || status(&target(&gw, &renewed, None)).await == Some(200))
        .await;
    assert_eq!(status(&trusting).await, None);
    let end = chain_ends(&next.cert).unwrap().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let line = format!("control_listener_certificate_end_timestamp_seconds{{section=\"tls\"}} {end}");
    eventually("its end is a metric", async || {
        let mut connection = target(&gw, &renewed, None).connect().await.unwrap();
        let page = Call::get("/metrics").header("x-api-key", KEY).send(&mut connection).await.unwrap().text();
        page.lines().any(|shown| shown == line)
    })
    .await;
}

#[tokio::test]
async fn a_certificate_is_renewed_too_while_the_database_is_waited_for() {
    let files = Files::new();
    let mut settings = gateway::settings();
    files.name_in(&mut settings, false);
    let readiness = Readiness::starting(settings::Database::default().probe_timeout);
    let opening = Opening::listen(&settings, Time::secs(1), &readiness, &Registry::default()).await.unwrap();
    let alive = async |authority: &Authority| {
        let target = Target::tls(opening.address(), "localhost", &authority.pem());
        let mut connection = target.connect().await.ok()?;
        Some(Call::get("/healthz").send(&mut connection).await.ok()?.status)
    };
    assert_eq!(alive(&files.servers).await, Some(200));
    let renewed = Authority::new("renewed");
    files.put(&renewed.issue(&["localhost"]));
    eventually("the renewed certificate is shown", async || alive(&renewed).await == Some(200)).await;
    assert_eq!(alive(&files.servers).await, None);
}

#[tokio::test]
async fn probes_are_answered_over_tls_too() {
    let files = Files::new();
    let (readiness, metrics) = (Readiness::starting(settings::Database::default().probe_timeout), Arc::default());
    let mut probes = settings::Probes { listen: gateway::settings().server.listen, ..settings::Probes::default() };
    files.name_in_section(&mut probes.tls);
    let probes = Probes::start(&probes, Time::secs(1), &readiness, metrics).await.unwrap();
    let mut connection = Target::tls(probes.address(), "localhost", &files.servers.pem()).connect().await.unwrap();
    for (path, status) in [("/healthz", 200), ("/readyz", 503), ("/metrics", 200)] {
        assert_eq!(Call::get(path).send(&mut connection).await.unwrap().status, status, "{path}");
    }
    assert!(Call::get("/healthz").to(probes.address()).await.is_err(), "no plain HTTP");
}

#[tokio::test]
async fn with_authorities_of_clients_nobody_else_comes_in() {
    let files = Files::new();
    let gw = files.dashboard(true).await;
    let (operator, other) = (files.people.issue(&["ann"]), files.servers.issue(&["bob"]));
    assert_eq!(status(&target(&gw, &files.servers, Some(&operator))).await, Some(200));
    assert_eq!(status(&target(&gw, &files.servers, None)).await, None);
    assert_eq!(status(&target(&gw, &files.servers, Some(&other))).await, None);
}

/// Asks over a connection of its own; whether its session was resumed.
async fn resumed(address: SocketAddr, client: &Arc<ClientConfig>) -> bool {
    let socket = TcpStream::connect(address).await.unwrap();
    let connector = TlsConnector::from(client.clone());
    let mut stream = connector.connect("localhost".try_into().unwrap(), socket).await.unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer).await);
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", answer.escape_ascii());
    stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed)
}

/// It would be resumed with the certificate that it began with, whatever the client has by now.
#[tokio::test]
async fn no_session_is_resumed_where_clients_must_show_certificates() {
    let files = Files::new();
    let operator = files.people.issue(&["ann"]);
    let readiness = Readiness::starting(settings::Database::default().probe_timeout);
    for mutual in [false, true] {
        let mut probes = settings::Probes { listen: gateway::settings().server.listen, ..settings::Probes::default() };
        files.name_in_section(&mut probes.tls);
        probes.tls.client_ca_file = Some(files.dir.path().join("people.pem")).filter(|_| mutual);
        let probes = Probes::start(&probes, Time::secs(1), &readiness, Arc::default()).await.unwrap();
        for version in [&TLS12, &TLS13] {
            let client = client_config_in(&[version], &files.servers.pem(), Some(&operator), &[]);
            assert!(!resumed(probes.address(), &client).await, "{version:?}");
            assert_eq!(resumed(probes.address(), &client).await, !mutual, "{version:?}");
        }
    }
}

#[tokio::test]
async fn every_answer_tells_browsers_to_be_strict() {
    let gw = Gateway::sqlite().await;
    for path in ["/", "/healthz", "/metrics", "/nothing", "/api/version", "/api/nodes", "/apisix/admin/routes"] {
        let answer = Call::get(path).to(gw.address()).await.unwrap();
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
            ("referrer-policy", "no-referrer"),
            ("cache-control", "no-store"),
            ("strict-transport-security", ""),
        ] {
            assert_eq!(answer.header(name), value, "{path}");
        }
    }
    let files = Files::new();
    let gw = files.dashboard(false).await;
    let mut connection = target(&gw, &files.servers, None).connect().await.unwrap();
    let body = r#"{"name":"nobody","password":"x"}"#;
    let login = Call::post("/api/session", body).header("content-type", "application/json");
    let answer = login.send(&mut connection).await.unwrap();
    assert_eq!((answer.status, &*answer.header("strict-transport-security")), (401, "max-age=31536000"));
}
