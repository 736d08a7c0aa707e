//! What holds for every registry, with one that answers as it is told.

use super::instance::Instance;
use super::registry::{Answer, AskError, Asking, Position, Registry};
use super::*;
use milecastle_model::{Key, Kind, Object};
use milecastle_plugin_api::{NoSecrets, Registry as Plugins, Shared};
use milecastle_settings::Time;
use milecastle_snapshot::{Compiler, Snapshot};
use milecastle_testkit::{SOON, TempDir, wait_for};
use serde_json::{Map, json};
use std::time::Instant;
use tokio::sync::{Mutex as AsyncMutex, mpsc};

/// What the registry says next: hosts, or that it fails.
type Word = Result<Vec<&'static str>, ()>;

/// The service that was asked for, and since when.
type Question = (String, Option<Position>);

/// A registry that answers each question with the next word, and keeps it waiting until there is one.
struct Scripted {
    words: AsyncMutex<mpsc::UnboundedReceiver<Word>>,
    asked: Arc<Mutex<Vec<Question>>>,
}

impl Registry for Scripted {
    fn ask<'a>(&'a self, service: &'a ServiceQuery, since: Option<Position>) -> Asking<'a> {
        self.asked.lock().unwrap().push((service.name.to_string(), since));
        Box::pin(async move {
            let Some(word) = self.words.lock().await.recv().await else { return std::future::pending().await };
            let hosts = word.map_err(|()| AskError::Reading("told to fail".to_owned()))?;
            let instances = hosts.into_iter().map(|host| Instance::new(host, Some(80), 1)).collect::<Result<_, _>>()?;
            let index = since.map_or(1, |since| since.index + 1);
            Ok(Answer { instances, position: Some(Position { server: 0, index }), ask_again: Duration::ZERO })
        })
    }
}

struct Fixture {
    discovery: Arc<Discovery>,
    words: mpsc::UnboundedSender<Word>,
    asked: Arc<Mutex<Vec<Question>>>,
}

fn settings() -> Settings {
    Settings {
        first_answer: Time::secs(20),
        retry_min: Time::millis(1),
        retry_max: Time::millis(1),
        service_instances: 3,
        write_delay: Time::millis(1),
        ..Settings::default()
    }
}

fn fixture(directory: Option<&Path>) -> Fixture {
    let (words, receiver) = mpsc::unbounded_channel();
    let asked: Arc<Mutex<Vec<_>>> = Arc::default();
    let registry = Scripted { words: AsyncMutex::new(receiver), asked: asked.clone() };
    let registries: BTreeMap<&'static str, Arc<dyn Registry>> = [("scripted", Arc::new(registry) as _)].into();
    let discovery = Discovery::of(registries, &settings(), tokio::runtime::Handle::current(), directory);
    Fixture { discovery, words, asked }
}

/// A snapshot with these upstreams, each of a service of `registry`.
fn snapshot(registry: &str, services: &[(&str, &str)]) -> Snapshot {
    let plugins = Plugins::new(&[], Map::new(), Arc::new(Shared::default()), Arc::new(NoSecrets));
    let object = |(id, service): &(&str, &str)| Object {
        key: Key::new(Kind::Upstream, *id),
        body: json!({ "service_name": service, "discovery_type": registry }).to_string().into(),
        created: 1,
        modified: 1,
    };
    let compiler = Compiler::new(Arc::new(plugins));
    compiler.build("line", 1, services.iter().map(object).collect()).0
}

impl Fixture {
    fn say(&self, hosts: &[&'static str]) {
        self.words.send(Ok(hosts.to_vec())).unwrap();
    }

    fn fail(&self) {
        self.words.send(Err(())).unwrap();
    }

    /// Waits until an upstream is over these hosts.
    async fn over(&self, upstream: &Arc<CompiledUpstream>, hosts: &[&str]) -> Arc<CompiledUpstream> {
        wait_for("the instances", SOON, async || {
            self.discovery.present(upstream).filter(|present| self::hosts(present) == hosts)
        })
        .await
    }

    /// Waits until the registry was asked so often.
    async fn asked(&self, times: usize) {
        wait_for("questions", SOON, async || (self.asked.lock().unwrap().len() >= times).then_some(())).await;
    }
}

fn hosts(upstream: &CompiledUpstream) -> Vec<&str> {
    upstream.nodes.iter().map(|node| &*node.host).collect()
}

#[tokio::test]
async fn the_first_request_waits_and_later_ones_see_what_is_said_last() {
    let fixture = fixture(None);
    let snapshot = snapshot("scripted", &[("u", "web")]);
    let base = snapshot.upstream("u").unwrap();
    assert!(fixture.discovery.present(base).is_none(), "nobody has asked yet");
    let (found, ()) = tokio::join!(fixture.discovery.discover(base), async { fixture.say(&["b", "a", "b"]) });
    let first = found.unwrap();
    assert_eq!(hosts(&first), ["a", "b"]);
    assert_ne!(first.fingerprint, base.fingerprint);
    let mut changes = fixture.discovery.changes();
    fixture.say(&["a", "b"]);
    fixture.asked(3).await;
    let same = fixture.discovery.discover(base).await.unwrap();
    assert!(Arc::ptr_eq(&first, &same), "the same instances change nothing");
    assert!(!changes.has_changed().unwrap());
    fixture.say(&["c"]);
    fixture.over(base, &["c"]).await;
    assert!(changes.has_changed().unwrap());
    changes.borrow_and_update();
    fixture.say(&[]);
    fixture.over(base, &[]).await;
    assert!(changes.has_changed().unwrap());
    let positions: Vec<_> = fixture.asked.lock().unwrap().iter().map(|(_, since)| since.map(|at| at.index)).collect();
    assert_eq!(positions[..4], [None, Some(1), Some(2), Some(3)]);
}

#[tokio::test]
async fn a_failure_takes_nothing_away() {
    let fixture = fixture(None);
    let snapshot = snapshot("scripted", &[("u", "web")]);
    let base = snapshot.upstream("u").unwrap();
    fixture.fail();
    assert!(fixture.discovery.discover(base).await.is_none(), "nothing is known yet");
    fixture.say(&["a"]);
    let known = fixture.over(base, &["a"]).await;
    // More instances than are taken.
    fixture.say(&["a", "b", "c", "d"]);
    fixture.fail();
    fixture.asked(5).await;
    let figures = fixture.discovery.figures().pop().unwrap();
    assert_eq!((figures.failures, figures.instances, figures.service.as_str()), (3, 1, "web"));
    assert!(Arc::ptr_eq(&known, &fixture.discovery.present(base).unwrap()));
    let dump = fixture.discovery.dump("scripted").unwrap();
    assert_eq!(dump["services"], json!({ "web": [{ "host": "a", "port": 80, "weight": 1 }] }));
    assert_eq!(dump["state"]["web"]["error"], "told to fail");
    fixture.say(&["e"]);
    fixture.over(base, &["e"]).await;
    assert_eq!(fixture.discovery.dump("scripted").unwrap()["state"]["web"]["error"], json!(null));
}

#[tokio::test]
async fn what_was_known_before_a_restart_is_used_where_the_registry_fails() {
    let dir = TempDir::new();
    let snapshot = snapshot("scripted", &[("u", "web"), ("v", "other")]);
    let (u, v) = (snapshot.upstream("u").unwrap(), snapshot.upstream("v").unwrap());
    let before = fixture(Some(dir.path()));
    before.say(&["a"]);
    assert_eq!(hosts(&before.discovery.discover(u).await.unwrap()), ["a"]);
    let file = dir.path().join("instances.json");
    wait_for("the file", SOON, async || std::fs::read_to_string(&file).ok().filter(|text| text.contains("web"))).await;
    drop(before);
    let after = fixture(Some(dir.path()));
    after.fail();
    assert_eq!(hosts(&after.discovery.discover(u).await.unwrap()), ["a"]);
    after.say(&["b"]);
    after.over(u, &["b"]).await;
    // The question for the other service that is under way takes the first word.
    after.fail();
    after.fail();
    assert!(after.discovery.discover(v).await.is_none(), "of this one nothing was ever known");
}

#[tokio::test]
async fn one_service_is_asked_for_once_and_as_long_as_an_upstream_names_it() {
    let fixture = fixture(None);
    let both = snapshot("scripted", &[("u", "web"), ("v", "web")]);
    let current = Arc::new(Current::new(Arc::new(both.clone())));
    fixture.discovery.follow(&current);
    let (u, v) = (both.upstream("u").unwrap(), both.upstream("v").unwrap());
    fixture.say(&["a"]);
    assert_eq!(hosts(&fixture.discovery.discover(u).await.unwrap()), ["a"]);
    assert_eq!(hosts(&fixture.discovery.discover(v).await.unwrap()), ["a"]);
    assert_eq!(fixture.discovery.services().len(), 1);
    let other = snapshot("scripted", &[("u", "web"), ("v", "other")]);
    current.publish(Arc::new(other.clone()));
    wait_for("v to be let go", SOON, async || fixture.discovery.present(v).is_none().then_some(())).await;
    assert!(fixture.discovery.present(u).is_some());
    // The question for `web` that is under way takes the first word.
    fixture.say(&["a"]);
    fixture.say(&["c"]);
    assert_eq!(hosts(&fixture.discovery.discover(other.upstream("v").unwrap()).await.unwrap()), ["c"]);
    current.publish(Arc::new(snapshot("scripted", &[])));
    wait_for("all to be let go", SOON, async || fixture.discovery.services().is_empty().then_some(())).await;
}

#[tokio::test]
async fn a_registry_that_is_not_configured_answers_at_once_with_nothing() {
    let fixture = fixture(None);
    let snapshot = snapshot("tars", &[("u", "web")]);
    let begun = Instant::now();
    assert!(fixture.discovery.discover(snapshot.upstream("u").unwrap()).await.is_none());
    assert!(begun.elapsed() < settings().first_answer.get(), "nobody waits for what cannot come");
    assert_eq!(fixture.discovery.dump("tars"), None);
}
