//! `docs/spec/tls.md`.

mod certificates;
mod clients;
mod settings;

use super::{Shared, Site, with};
use crate::openssl::s_client;
use milecastle_testkit::tls::{Authority, Identity};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;

/// A gateway whose upstream `echo` serves every path of every host, and the authorities of its certificates and of its clients.
pub(super) struct Secure {
    site: Site,
    authority: Authority,
    clients: Authority,
}

impl Deref for Secure {
    type Target = Site;

    fn deref(&self) -> &Site {
        &self.site
    }
}

impl Secure {
    async fn start(settings: &[(&str, &str)]) -> Self {
        let announced =
            ["client certificate", "ssl_ciphers names a suite", "a certificate cannot be asked about", "never offered"];
        let site = Site::start(settings, &[], &announced).await;
        let shown = "${ssl_server_name ?? none}|${ssl_client_verify ?? none}|${ssl_client_s_dn ?? none}|${ssl_protocol ?? none}";
        let seen = json!({ "response-rewrite": { "headers": { "set": { "X-Seen": shown } } } });
        site.put([("/routes/all", json!({ "uri": "/*", "upstream_id": "echo", "plugins": seen }))]).await;
        Self { site, authority: Authority::new("servers"), clients: Authority::new("clients") }
    }

    /// An ssl object for these names, whose certificate has the id as its common name.
    fn ssl(&self, id: &str, names: &[&str], more: Value) -> (String, Value) {
        let identity = self.authority.issue(&[&[id][..], names].concat());
        object(id, &identity, with(json!({ "snis": names }), more))
    }

    /// Whether a line of the gateway's log has this level, and all of these texts.
    fn says(&self, level: &str, texts: &[&str]) -> bool {
        let log = self.up.process.log();
        log.iter().any(|line| line.contains(level) && texts.iter().all(|text| line.contains(text)))
    }

    /// The common name of the certificate that a client is shown who asks for this name, or for none.
    fn shown(&self, name: Option<&str>) -> Option<String> {
        let said = handshake(self.up.https, name, &[])?;
        let subject = said.lines().find_map(|line| line.trim().strip_prefix("subject="))?;
        Some(subject.rsplit('=').next()?.trim().to_owned())
    }
}

async fn site() -> Arc<Secure> {
    static SITE: Shared<Secure> = Shared::new();
    SITE.get(async || Secure::start(&[]).await).await
}

fn object(id: &str, identity: &Identity, more: Value) -> (String, Value) {
    (format!("/ssls/{id}"), with(json!({ "cert": identity.cert, "key": identity.key }), more))
}

/// What `openssl s_client` tells of a handshake; `None` if there is none.
fn handshake(at: SocketAddr, name: Option<&str>, options: &[&str]) -> Option<String> {
    s_client(at, name, options, "")
}
