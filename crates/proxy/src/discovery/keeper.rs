//! The last instances of every service on disk, so that a node that starts while a registry is away still has them.
//!
//! One file, written whole beside the old one and put in its place. It holds addresses and what registries tell of them, and
//! no secret. One that cannot be read is no fault of a start: then nothing is known before the registries answer.

use super::Discovery;
use super::figures::full_name;
use super::instance::Instance;
use super::service::Service;
use milecastle_settings::Discovery as Settings;
use milecastle_snapshot::ServiceQuery;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;

/// The file, in the state directory.
const FILE: &str = "instances.json";
/// Most of it that is read back.
const LONGEST: u64 = 256 * 1024 * 1024;
/// Version of the layout; a file of another one is passed over.
const LAYOUT: u32 = 1;

/// What was known of a service before the process began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept {
    /// When its registry had confirmed it.
    pub(super) heard: SystemTime,
    pub(super) instances: Vec<Instance>,
}

/// Reads and writes the file.
pub(super) struct Keeper {
    directory: PathBuf,
    delay: Duration,
    keep_for: Duration,
    /// What the file held at the start.
    found: Mutex<HashMap<ServiceQuery, Kept>>,
}

#[derive(Serialize, Deserialize)]
struct Layout {
    version: u32,
    services: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    registry: Box<str>,
    name: Box<str>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    namespace: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    group: Option<Box<str>>,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    metadata: Vec<(String, String)>,
    /// Seconds since 1970.
    heard: u64,
    instances: Vec<Instance>,
}

impl Keeper {
    /// Reads what an earlier process has left in `directory`.
    pub(super) fn open(directory: &Path, settings: &Settings) -> Self {
        let path = directory.join(FILE);
        let found = read(&path).unwrap_or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(path = %path.display(), %error, "the last instances of services cannot be read and are not used");
            }
            HashMap::new()
        });
        let (delay, keep_for) = (settings.write_delay.get(), settings.keep_for.get());
        let keeper = Self { directory: directory.to_owned(), delay, keep_for, found: Mutex::new(found) };
        keeper.forget_old();
        keeper
    }

    /// When it writes.
    pub(super) fn writer(&self) -> Writer {
        Writer { delay: self.delay, refresh: (self.keep_for / 8).max(self.delay) }
    }

    /// What an earlier process knew of a service.
    pub(super) fn take(&self, query: &ServiceQuery) -> Option<Kept> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).get(query).cloned()
    }

    /// What the file keeps of a registry's services, as far as a start would use it, with the times as seconds. Reads the file.
    ///
    /// # Errors
    /// It keeps nothing of it, or cannot be read; in words for operators.
    pub(super) fn show(&self, registry: &str) -> Result<Value, String> {
        let found = match read(&self.directory.join(FILE)) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => HashMap::new(),
            Err(error) => return Err(format!("the last instances of services cannot be read: {error}")),
        };
        let own = found.into_iter().filter(|(query, kept)| *query.registry == *registry && self.is_young(kept));
        let (mut services, mut last) = (BTreeMap::new(), UNIX_EPOCH);
        for (query, Kept { heard, instances }) in own {
            last = last.max(heard);
            services.insert(full_name(&query), instances);
        }
        if services.is_empty() {
            return Err(format!("no instances of {registry} are kept on disk"));
        }
        let last = last.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Ok(json!({ "services": services, "last_update": last, "expire": self.keep_for.as_secs() }))
    }

    fn forget_old(&self) {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, kept| self.is_young(kept));
    }

    fn is_young(&self, kept: &Kept) -> bool {
        kept.heard.elapsed().unwrap_or_default() <= self.keep_for
    }

    /// Writes what is known of these services, and of those that nobody has asked for since the start.
    fn write(&self, services: &[Arc<Service>]) -> io::Result<()> {
        self.forget_old();
        let mut all = self.found.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for service in services {
            if let (Some(heard), Some(instances)) = (service.news().heard, service.instances()) {
                all.insert((**service.query()).clone(), Kept { heard, instances: instances.to_vec() });
            }
        }
        let path = self.directory.join(FILE);
        if all.is_empty() && !path.exists() {
            return Ok(());
        }
        let mut services: Vec<Entry> = all.into_iter().map(|(query, kept)| Entry::of(query, kept)).collect();
        services.sort_unstable_by(|a, b| (&a.registry, &a.name).cmp(&(&b.registry, &b.name)));
        let text = serde_json::to_vec(&Layout { version: LAYOUT, services })?;
        let new = self.directory.join(unfinished());
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&new, &path)
    }
}

impl Entry {
    fn of(query: ServiceQuery, kept: Kept) -> Self {
        let ServiceQuery { registry, name, namespace, group, metadata } = query;
        let heard = kept.heard.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Self { registry, name, namespace, group, metadata, heard, instances: kept.instances }
    }

    fn parts(self) -> (ServiceQuery, Kept) {
        let Self { registry, name, namespace, group, metadata, heard, instances } = self;
        let heard = UNIX_EPOCH.checked_add(Duration::from_secs(heard)).unwrap_or(UNIX_EPOCH);
        (ServiceQuery { registry, name, namespace, group, metadata }, Kept { heard, instances })
    }
}

/// What the file is called until it is whole; a process that takes over may be writing one as well.
fn unfinished() -> String {
    format!("{FILE}.{}.new", std::process::id())
}

fn read(path: &Path) -> io::Result<HashMap<ServiceQuery, Kept>> {
    let mut text = Vec::new();
    File::open(path)?.take(LONGEST).read_to_end(&mut text)?;
    let layout: Layout = serde_json::from_slice(&text)?;
    if layout.version != LAYOUT {
        return Err(io::Error::other(format!("it is of layout {}, and this version reads {LAYOUT}", layout.version)));
    }
    Ok(layout.services.into_iter().map(Entry::parts).collect())
}

/// When the file is written: after changes, and often enough in between that what is confirmed all the time does not look old.
pub(super) struct Writer {
    delay: Duration,
    refresh: Duration,
}

impl Writer {
    /// Writes as long as there is something to write.
    pub(super) async fn run(self, discovery: Weak<Discovery>, mut changes: watch::Receiver<u64>) {
        let mut failing = false;
        loop {
            match tokio::time::timeout(self.refresh, changes.changed()).await {
                Ok(Err(_)) => return,
                Ok(Ok(())) => tokio::time::sleep(self.delay).await,
                Err(_) => {}
            }
            changes.borrow_and_update();
            let Some(discovery) = discovery.upgrade() else { return };
            let write = move || discovery.keeper.as_ref().map_or(Ok(()), |keeper| keeper.write(&discovery.services()));
            let written = tokio::task::spawn_blocking(write).await;
            let error = written.map_err(io::Error::other).and_then(|written| written).err();
            if let Some(error) = error.as_ref().filter(|_| !failing) {
                tracing::warn!(
                    %error,
                    "the last instances of services cannot be written: a start while a registry is away lacks them"
                );
            }
            failing = error.is_some();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use milecastle_testkit::TempDir;

    fn query(name: &str) -> ServiceQuery {
        let metadata = vec![("a".to_owned(), "1".to_owned())];
        ServiceQuery { registry: "nacos".into(), name: name.into(), namespace: None, group: Some("g".into()), metadata }
    }

    fn kept(seconds_ago: u64) -> Kept {
        let heard = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() - seconds_ago;
        let instances = vec![Instance::new("10.0.0.1", Some(80), 3).unwrap(), Instance::new("::1", None, 1).unwrap()];
        Kept { heard: UNIX_EPOCH + Duration::from_secs(heard), instances }
    }

    #[test]
    fn what_is_written_is_found_again_until_it_is_old() {
        let dir = TempDir::new();
        let settings = Settings::default();
        let keeper = Keeper::open(dir.path(), &settings);
        let (young, old) = (kept(60), kept(settings.keep_for.get().as_secs() + 60));
        *keeper.found.lock().unwrap() = [(query("young"), young.clone()), (query("old"), old)].into();
        keeper.write(&[]).unwrap();
        let again = Keeper::open(dir.path(), &settings);
        assert_eq!((again.take(&query("young")), again.take(&query("old"))), (Some(young), None));
    }

    #[test]
    fn what_is_kept_is_shown_by_registry() {
        let dir = TempDir::new();
        let keeper = Keeper::open(dir.path(), &Settings::default());
        assert_eq!(keeper.show("nacos"), Err("no instances of nacos are kept on disk".to_owned()));
        let (first, last) = (kept(60), kept(5));
        *keeper.found.lock().unwrap() = [(query("a"), first), (query("b"), last.clone())].into();
        keeper.write(&[]).unwrap();
        let instances = json!([{ "host": "10.0.0.1", "port": 80, "weight": 3 }, { "host": "::1", "weight": 1 }]);
        let heard = last.heard.duration_since(UNIX_EPOCH).unwrap().as_secs();
        let expected = json!({
            "services": { "g/a?a=1": instances, "g/b?a=1": instances }, "last_update": heard, "expire": 7 * 86_400,
        });
        assert_eq!(keeper.show("nacos"), Ok(expected));
        assert_eq!(keeper.show("dns"), Err("no instances of dns are kept on disk".to_owned()));
        let keeper = Keeper { keep_for: Duration::ZERO, ..keeper };
        assert_eq!(keeper.show("nacos"), Err("no instances of nacos are kept on disk".to_owned()), "they are too old");
        dir.write(FILE, "{");
        assert!(keeper.show("nacos").unwrap_err().starts_with("the last instances of services cannot be read: "));
    }

    #[test]
    fn damage_is_passed_over() {
        let dir = TempDir::new();
        for text in ["", "{", "[]", "{\"version\":2,\"services\":[]}", "{\"version\":1,\"services\":[{}]}"] {
            dir.write(FILE, text);
            assert_eq!(Keeper::open(dir.path(), &Settings::default()).take(&query("a")), None, "{text}");
        }
    }
}
