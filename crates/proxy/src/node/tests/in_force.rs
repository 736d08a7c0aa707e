//! What is in force while secrets change, with a Vault of the testkit.

use super::super::certificates::CertificateEnds;
use super::super::holdings::{Holdings, SnapshotHead};
use super::super::in_force::InForce;
use super::super::{Alarm, StatusCell};
use super::{LINEAGE, certificate, compiler_with, delete, delta, digest, manager_of, object, pair, put, route};
use crate::secrets::NodeSecrets;
use crate::secrets::tests::background;
use milecastle_pki::chain_ends;
use milecastle_settings::{Secrets as Settings, Time};
use milecastle_snapshot::Compiler;
use milecastle_testkit::registry::{Fault, Server};
use milecastle_testkit::tls::{Authority, Identity};
use milecastle_testkit::{Vault, eventually};
use milecastle_wire::pb;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};
use tokio::runtime::Handle;

struct Site {
    vault: Server<Vault>,
    compiler: Compiler,
    status: StatusCell,
    in_force: Arc<InForce>,
}

impl Site {
    /// Asks for each secret again and again, and waits for it as long as it takes.
    fn start() -> Self {
        Self::with(Settings::default())
    }

    fn with(settings: Settings) -> Self {
        let settings = Settings { ttl: Time::millis(10), timeout: Time::secs(3600), ..settings };
        let secrets = NodeSecrets::new(&settings, &Handle::current(), background(None));
        let compiler = compiler_with(secrets.clone());
        let status = StatusCell { own: Arc::default(), last_good: Arc::default() };
        let in_force = InForce::new(Box::new(|_| {}), status.clone(), secrets);
        tokio::spawn(in_force.clone().follow_secrets());
        Self { vault: Vault::start("t0ken"), compiler, status, in_force }
    }

    /// The first configuration: a certificate that is kept at `kv/tls`. Gives it as it is in force.
    async fn begin(&self) -> (Holdings, [pb::Object; 2]) {
        let objects = [manager_of(&self.vault), certificate("tls")];
        (self.put_all(1, &objects).await, objects)
    }

    /// A whole configuration. Gives it as it is in force.
    async fn put_all(&self, revision: u64, objects: &[pb::Object]) -> Holdings {
        let digest = digest(objects).into();
        let head = SnapshotHead { lineage: LINEAGE.into(), revision, digest, mark: String::new() };
        let built = Holdings::from_objects(&self.compiler, None, &head, objects).unwrap();
        self.in_force.put(built).await
    }

    fn serves(&self, identity: &Identity) -> bool {
        self.serves_at("a.test", identity)
    }

    fn serves_at(&self, name: &str, identity: &Identity) -> bool {
        let held = self.in_force.held().unwrap();
        let served = held.snapshot().certificate(name).and_then(|ssl| ssl.keys.first());
        let expected = CertificateDer::from_pem_slice(identity.cert.as_bytes()).unwrap();
        served.is_some_and(|pair| pair.cert.first() == Some(&expected))
    }
}

#[tokio::test]
async fn the_end_of_a_certificate_that_is_kept_elsewhere_is_told_as_it_is_in_force() {
    let (site, authority) = (Site::start(), Authority::new("a"));
    let [first, second] = [1, 2].map(|days| authority.issue_for(&["a.test"], Duration::from_secs(days * 86_400)));
    site.vault.set("kv/tls", pair(&first));
    site.begin().await;
    let mut ends = CertificateEnds::default();
    let mut told = |of: &Identity| {
        let end = chain_ends(&of.cert).unwrap().duration_since(UNIX_EPOCH).unwrap();
        let key = Some(pb::ObjectKey { kind: "ssl".into(), id: "1".into() });
        let expected = pb::CertificateEnd { key, not_after: end.as_secs().try_into().unwrap() };
        ends.of(site.in_force.held().unwrap().snapshot()) == [expected]
    };
    assert!(told(&first));
    site.vault.set("kv/tls", pair(&second));
    eventually("the second one", async || told(&second)).await;
}

#[tokio::test]
async fn a_change_brings_no_value_back_that_is_older_than_the_one_in_force() {
    let (site, authority) = (Site::start(), Authority::new("a"));
    let [first, second, third] = [(); 3].map(|()| authority.issue(&["a.test"]));
    site.vault.set("kv/tls", pair(&first));
    let (before, objects) = site.begin().await;
    assert!(site.serves(&first), "from the beginning");
    site.vault.set("kv/tls", pair(&second));
    eventually("the second one", async || site.serves(&second)).await;
    let regraded = site.in_force.regraded();
    site.vault.set("kv/tls", json!({ "cert": third.cert, "key": second.key }));
    eventually("it is in quarantine", async || regraded.has_changed().unwrap()).await;
    assert!(site.serves(&second) && site.status.read().quarantined == 1);

    // One that was built before the values changed, then one that was built since.
    let mut after = objects.to_vec();
    for (revision, id) in [(1, "1"), (2, "2")] {
        let base = if revision == 1 { before.clone() } else { site.in_force.held().unwrap() };
        let other = route(id, "/a");
        after.push(other.clone());
        let next = base.after(&site.compiler, &delta(revision, revision + 1, vec![put(&other)], &after)).unwrap();
        site.in_force.put(next).await;
        assert_eq!(site.in_force.held().unwrap().position().revision, revision + 1);
        assert!(site.serves(&second));
    }
    site.vault.set("kv/tls", pair(&third));
    eventually("the third one", async || site.serves(&third)).await;
}

#[tokio::test]
async fn what_does_not_come_into_force_leaves_the_secrets_of_what_is() {
    let (site, authority) = (Site::start(), Authority::new("a"));
    let [first, second] = [(); 2].map(|()| authority.issue(&["a.test"]));
    site.vault.set("kv/tls", pair(&first));
    let (before, objects) = site.begin().await;
    // Its secret does not come, and it is given up.
    let after = [objects[0].clone(), certificate("other")];
    let next = before.after(&site.compiler, &delta(1, 2, vec![put(&after[1])], &after)).unwrap();
    site.vault.fail(Some(Fault::Silence));
    let asks = async || site.vault.asked().iter().any(|asked| asked.target.path().ends_with("/other"));
    tokio::select! {
        _ = site.in_force.put(next) => panic!("it waits for its secret"),
        () = eventually("the new secret is asked for", asks) => {}
    }
    site.vault.fail(None);
    assert_eq!(site.in_force.held().unwrap().position().revision, 1);
    site.vault.set("kv/tls", pair(&second));
    eventually("the second one", async || site.serves(&second)).await;
}

#[tokio::test]
async fn where_there_is_not_room_for_all_secrets_what_was_written_last_goes_without_also_after_a_start() {
    // Room for one certificate.
    let settings = Settings { entries: 2, ..Settings::default() };
    let (site, authority) = (Site::with(settings.clone()), Authority::new("a"));
    let names = ["a.test", "b.test", "c.test"];
    let identities = names.map(|name| authority.issue(&[name]));
    let kept = |name: &str, modified: u64| {
        let (cert, key) = (format!("$secret://vault/1/{name}/cert"), format!("$secret://vault/1/{name}/key"));
        let body = json!({ "sni": name, "cert": cert, "key": key, "labels": { "written": modified.to_string() } });
        pb::Object { modified, ..object("ssl", name, &body.to_string()) }
    };
    for (name, identity) in names.iter().zip(&identities) {
        site.vault.set(&format!("kv/{name}"), pair(identity));
    }
    let served = |site: &Site| {
        let served = names.iter().zip(&identities).filter(|(name, identity)| site.serves_at(name, identity));
        served.map(|(name, _)| *name).collect::<Vec<_>>()
    };
    let alarm = |site: &Site| site.status.read().alarms.get(&Alarm::Secrets).cloned().unwrap_or_default();

    let mut objects = vec![manager_of(&site.vault), kept("a.test", 1)];
    let before = site.put_all(1, &objects).await;
    assert_eq!((served(&site), &*alarm(&site)), (vec!["a.test"], ""));
    objects.extend([kept("c.test", 2), kept("b.test", 2)]);
    let changes = objects.iter().skip(2).map(put).collect();
    let before = site.in_force.put(before.after(&site.compiler, &delta(1, 2, changes, &objects)).unwrap()).await;
    assert_eq!(served(&site), ["a.test"]);
    let expected = "(2): 4 are not resolved, the first of them in /ssls/b.test,";
    assert!(alarm(&site).contains(expected), "{}", alarm(&site));

    // One that is written again goes to the end.
    objects[1] = kept("a.test", 3);
    let changes = vec![put(&objects[1])];
    site.in_force.put(before.after(&site.compiler, &delta(2, 3, changes, &objects)).unwrap()).await;
    let anew = Site::with(settings);
    let before = anew.put_all(3, &objects).await;
    for site in [&site, &anew] {
        assert_eq!(served(site), ["b.test"]);
        assert!(alarm(site).contains("the first of them in /ssls/c.test,"), "{}", alarm(site));
    }

    let gone = objects.split_off(2);
    let changes = gone.iter().map(|object| delete("ssl", &object.key.as_ref().unwrap().id)).collect();
    anew.in_force.put(before.after(&anew.compiler, &delta(3, 4, changes, &objects)).unwrap()).await;
    assert_eq!((served(&anew), &*alarm(&anew)), (vec!["a.test"], ""));
}
