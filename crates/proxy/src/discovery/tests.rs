//! What holds for every registry, with one that answers as it is told.

use super::instance::Instance;
use super::registries::Origin;
use super::registry::{Answer, AskError, Asking, Position, Registry};
use super::*;
use milecastle_model::{Key, Kind, Object};
use milecastle_plugin_api::{NoSecrets, Registry as Plugins, Shared};
use milecastle_settings::{Consul, RegistrySettings, Time};
use milecastle_snapshot::{Compiler, Snapshot};
use milecastle_testkit::{SOON, TempDir, wait_for};
use serde_json::{Map, Value, json};
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
            let position = Some(Position { server: 0, index: since.map_or(1, |since| since.index + 1) });
            Ok(Answer { position, ..Answer::of(instances, Duration::ZERO) })
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

/// With a registry of the node's own.
fn fixture(directory: Option<&Path>) -> Fixture {
    let (script, words, asked) = script();
    let own = Registries { consul: Some(Consul::default()), ..Registries::default() };
    let discovery = discovery(&own, vec![script], directory);
    Fixture { discovery, words, asked }
}

fn script() -> (Arc<Scripted>, mpsc::UnboundedSender<Word>, Arc<Mutex<Vec<Question>>>) {
    let (words, receiver) = mpsc::unbounded_channel();
    let asked: Arc<Mutex<Vec<_>>> = Arc::default();
    (Arc::new(Scripted { words: AsyncMutex::new(receiver), asked: asked.clone() }), words, asked)
}

/// Of several scripts the `weight` of the settings, from 1, chooses. No registry but `consul` can be set up.
fn discovery(own: &Registries, scripts: Vec<Arc<Scripted>>, directory: Option<&Path>) -> Arc<Discovery> {
    let make = move |settings: RegistrySettings<'_>, _: Origin| match settings {
        RegistrySettings::Consul(own) => Ok(scripts[own.weight as usize - 1].clone() as Arc<dyn Registry>),
        _ => Err(DiscoveryError::NoApiServer),
    };
    let maker = Maker::new(own, Box::new(make)).unwrap();
    Discovery::of(maker, &settings(), tokio::runtime::Handle::current(), directory)
}

/// A snapshot with these upstreams, each of a service of `registry`, in a group without registries.
fn snapshot(registry: &str, services: &[(&str, &str)]) -> Snapshot {
    snapshot_of(registry, services, &json!({}))
}

/// The same, in a group with these registries.
fn snapshot_of(registry: &str, services: &[(&str, &str)], registries: &Value) -> Snapshot {
    let plugins = Plugins::new(&[], Map::new(), Arc::new(Shared::default()), Arc::new(NoSecrets));
    let object = |key: Key, body: Value| Object { key, body: body.to_string().into(), created: 1, modified: 1 };
    let upstream = |(id, service): &(&str, &str)| {
        object(Key::new(Kind::Upstream, *id), json!({ "service_name": service, "discovery_type": registry }))
    };
    let settings = object(Key::group_settings(), json!({ "discovery": registries }));
    let (snapshot, rejected) =
        Compiler::new(Arc::new(plugins)).build("line", 1, services.iter().map(upstream).chain([settings]).collect());
    assert_eq!(rejected, []);
    snapshot
}

/// The consul of a group, by its number.
fn consul(weight: u32) -> Value {
    json!({ "consul": { "servers": ["http://consul.test"], "weight": weight } })
}

impl Fixture {
    fn say(&self, hosts: &[&'static str]) {
        self.words.send(Ok(hosts.to_vec())).unwrap();
    }

    fn fail(&self) {
        self.words.send(Err(())).unwrap();
    }

    /// Of a snapshot of a group without registries.
    async fn discover(&self, upstream: &Arc<CompiledUpstream>) -> Option<Arc<CompiledUpstream>> {
        self.discovery.discover(upstream, snapshot("consul", &[]).discovery()).await
    }

    fn dump(&self, registry: &str) -> Option<Value> {
        self.discovery.dump(registry, snapshot("consul", &[]).discovery())
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
    let snapshot = snapshot("consul", &[("u", "web")]);
    let base = snapshot.upstream("u").unwrap();
    assert!(fixture.discovery.present(base).is_none(), "nobody has asked yet");
    let (found, ()) = tokio::join!(fixture.discover(base), async { fixture.say(&["b", "a", "b"]) });
    let first = found.unwrap();
    assert_eq!(hosts(&first), ["a", "b"]);
    assert_ne!(first.fingerprint, base.fingerprint);
    let mut changes = fixture.discovery.changes();
    fixture.say(&["a", "b"]);
    fixture.asked(3).await;
    let same = fixture.discover(base).await.unwrap();
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
    let snapshot = snapshot("consul", &[("u", "web")]);
    let base = snapshot.upstream("u").unwrap();
    fixture.fail();
    assert!(fixture.discover(base).await.is_none(), "nothing is known yet");
    fixture.say(&["a"]);
    let known = fixture.over(base, &["a"]).await;
    // More instances than are taken.
    fixture.say(&["a", "b", "c", "d"]);
    fixture.fail();
    fixture.asked(5).await;
    let figures = fixture.discovery.figures().pop().unwrap();
    assert_eq!((figures.failures, figures.instances, figures.service.as_str()), (3, 1, "web"));
    assert!(Arc::ptr_eq(&known, &fixture.discovery.present(base).unwrap()));
    let dump = fixture.dump("consul").unwrap();
    assert_eq!(dump["services"], json!({ "web": [{ "host": "a", "port": 80, "weight": 1 }] }));
    assert_eq!(dump["state"]["web"]["error"], "told to fail");
    fixture.say(&["e"]);
    fixture.over(base, &["e"]).await;
    assert_eq!(fixture.dump("consul").unwrap()["state"]["web"]["error"], json!(null));
}

#[tokio::test]
async fn what_was_known_before_a_restart_is_used_where_the_registry_fails() {
    let dir = TempDir::new();
    let snapshot = snapshot("consul", &[("u", "web"), ("v", "other")]);
    let (u, v) = (snapshot.upstream("u").unwrap(), snapshot.upstream("v").unwrap());
    let before = fixture(Some(dir.path()));
    before.say(&["a"]);
    assert_eq!(hosts(&before.discover(u).await.unwrap()), ["a"]);
    let file = dir.path().join("instances.json");
    wait_for("the file", SOON, async || std::fs::read_to_string(&file).ok().filter(|text| text.contains("web"))).await;
    drop(before);
    let after = fixture(Some(dir.path()));
    after.fail();
    assert_eq!(hosts(&after.discover(u).await.unwrap()), ["a"]);
    after.say(&["b"]);
    after.over(u, &["b"]).await;
    // The question for the other service that is under way takes the first word.
    after.fail();
    after.fail();
    assert!(after.discover(v).await.is_none(), "of this one nothing was ever known");
}

#[tokio::test]
async fn one_service_is_asked_for_once_and_as_long_as_an_upstream_names_it() {
    let fixture = fixture(None);
    let both = snapshot("consul", &[("u", "web"), ("v", "web")]);
    let current = Arc::new(Current::new(Arc::new(both.clone())));
    fixture.discovery.follow(&current);
    let (u, v) = (both.upstream("u").unwrap(), both.upstream("v").unwrap());
    fixture.say(&["a"]);
    assert_eq!(hosts(&fixture.discover(u).await.unwrap()), ["a"]);
    assert_eq!(hosts(&fixture.discover(v).await.unwrap()), ["a"]);
    assert_eq!(fixture.discovery.services().len(), 1);
    let other = snapshot("consul", &[("u", "web"), ("v", "other")]);
    current.publish(Arc::new(other.clone()));
    wait_for("v to be let go", SOON, async || fixture.discovery.present(v).is_none().then_some(())).await;
    assert!(fixture.discovery.present(u).is_some());
    // The question for `web` that is under way takes the first word.
    fixture.say(&["a"]);
    fixture.say(&["c"]);
    assert_eq!(hosts(&fixture.discover(other.upstream("v").unwrap()).await.unwrap()), ["c"]);
    current.publish(Arc::new(snapshot("consul", &[])));
    wait_for("all to be let go", SOON, async || fixture.discovery.services().is_empty().then_some(())).await;
}

#[tokio::test]
async fn a_registry_that_is_not_configured_answers_at_once_with_nothing() {
    let fixture = fixture(None);
    let snapshot = snapshot("tars", &[("u", "web")]);
    let begun = Instant::now();
    assert!(fixture.discover(snapshot.upstream("u").unwrap()).await.is_none());
    assert!(begun.elapsed() < settings().first_answer.get(), "nobody waits for what cannot come");
    assert_eq!(fixture.dump("tars"), None);
}

#[tokio::test]
async fn registries_of_the_group_come_change_and_go_and_no_request_waits_for_it() {
    let ((one, of_one, asked_one), (two, of_two, asked_two)) = (script(), script());
    let discovery = discovery(&Registries::default(), vec![one, two], None);
    let web = &[("u", "web")];
    let first = Arc::new(snapshot_of("consul", web, &consul(1)));
    let current = Arc::new(Current::new(first.clone()));
    discovery.follow(&current);
    let discover = async |snapshot: &Snapshot| {
        let upstream = snapshot.upstream("u").unwrap();
        discovery.discover(upstream, snapshot.discovery()).await.map(|found| hosts(&found).join(","))
    };
    of_one.send(Ok(vec!["a"])).unwrap();
    assert_eq!(discover(&first).await.as_deref(), Some("a"));

    // Another one: until it has answered, what the former one has told is used.
    let second = Arc::new(snapshot_of("consul", web, &consul(2)));
    current.publish(second.clone());
    assert_eq!(discover(&second).await.as_deref(), Some("a"));
    wait_for("a question", SOON, async || (!asked_two.lock().unwrap().is_empty()).then_some(())).await;
    of_two.send(Ok(vec!["b"])).unwrap();
    wait_for("its answer", SOON, async || (discover(&second).await.as_deref() == Some("b")).then_some(())).await;

    // None any more: at once, but for requests that began before.
    let third = Arc::new(snapshot_of("consul", web, &json!({})));
    current.publish(third.clone());
    assert_eq!(discover(&third).await, None);
    assert_eq!(discovery.dump("consul", third.discovery()), None);
    assert!(discovery.dump("consul", second.discovery()).is_some());
    let served = tokio::join!(discover(&second), async { of_two.send(Ok(vec!["c"])).unwrap() }).0;
    assert_eq!(served.as_deref(), Some("c"));
    assert_eq!(discover(&third).await, None);
    drop((first, second));
    wait_for("former settings to be forgotten", SOON, async || (discovery.sources.load().len() == 1).then_some(()))
        .await;

    // Back again, under other settings that name the same: nothing is known any more, and the first request waits.
    let fourth = Arc::new(snapshot_of("consul", web, &consul(1)));
    current.publish(fourth.clone());
    let before = asked_one.lock().unwrap().len();
    let (found, ()) = tokio::join!(discover(&fourth), async {
        wait_for("a question", SOON, async || (asked_one.lock().unwrap().len() > before).then_some(())).await;
        of_one.send(Ok(vec!["d"])).unwrap();
    });
    assert_eq!(found.as_deref(), Some("d"));
}

#[tokio::test]
async fn the_nodes_own_registry_takes_the_place_of_the_groups_and_others_are_not_touched() {
    let ((own, of_own, asked_own), (of_group, _, asked_of_group)) = (script(), script());
    let registries = Registries { consul: Some(Consul::default()), ..Registries::default() };
    let discovery = discovery(&registries, vec![own, of_group], None);
    let web = &[("u", "web")];
    let mut both = consul(2);
    both["kubernetes"] = json!({});
    let (without, with) = (snapshot_of("consul", web, &json!({})), snapshot_of("consul", web, &both));
    of_own.send(Ok(vec!["a"])).unwrap();
    for snapshot in [&without, &with] {
        let found = discovery.discover(snapshot.upstream("u").unwrap(), snapshot.discovery()).await.unwrap();
        assert_eq!(hosts(&found), ["a"]);
    }
    assert!(asked_of_group.lock().unwrap().is_empty());
    let first_questions = asked_own.lock().unwrap().iter().filter(|(_, since)| since.is_none()).count();
    assert_eq!(first_questions, 1, "it goes on");
    // What cannot be set up here answers nothing, and says why.
    let pods = snapshot_of("kubernetes", web, &both);
    assert!(discovery.discover(pods.upstream("u").unwrap(), pods.discovery()).await.is_none());
    let dump = discovery.dump("kubernetes", pods.discovery()).unwrap();
    let why = dump["state"]["web"]["error"].as_str().unwrap();
    assert!(
        why.starts_with("discovery kubernetes cannot be set up on this node: discovery.kubernetes.service.host"),
        "{why}"
    );
}
