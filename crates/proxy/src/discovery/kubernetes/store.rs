//! What was read of a cluster.

use super::objects::Object;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// Versions that are remembered of services that nobody asks for at the moment.
const MOST_IDLE: usize = 1024;

/// How the reading stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    /// The first list is not there yet.
    Unread,
    /// The store follows the cluster.
    Read,
    /// It does not, for this reason.
    Failing(Arc<str>),
}

/// Namespace and name.
type Key = (Box<str>, Box<str>);

/// All objects, by service.
pub(super) struct Store {
    content: Mutex<Content>,
    state: watch::Sender<State>,
}

#[derive(Default)]
struct Content {
    objects: HashMap<Key, Object>,
    /// The names of the objects of each service.
    of_service: HashMap<Key, BTreeSet<Box<str>>>,
    /// A number for each service that somebody asks for, which changes with its objects.
    versions: HashMap<Key, watch::Sender<u64>>,
    last_version: u64,
}

impl Default for Store {
    fn default() -> Self {
        Self { content: Mutex::default(), state: watch::Sender::new(State::Unread) }
    }
}

impl Store {
    /// Takes in a list of everything there is.
    pub(super) fn replace(&self, all: Vec<Object>) {
        let mut content = self.content();
        content.objects.clear();
        content.of_service.clear();
        for object in all {
            content.insert(object);
        }
        let keys: Vec<Key> = content.versions.keys().cloned().collect();
        keys.iter().for_each(|key| content.turn(key));
    }

    /// Takes in an object that is new or has changed.
    pub(super) fn put(&self, object: Object) {
        let mut content = self.content();
        content.remove(&(object.namespace.clone(), object.name.clone()));
        let service = (object.namespace.clone(), object.service.clone());
        content.insert(object);
        content.turn(&service);
    }

    /// Forgets an object.
    pub(super) fn delete(&self, object: &Object) {
        self.content().remove(&(object.namespace.clone(), object.name.clone()));
    }

    /// The addresses of a service's port.
    pub(super) fn places(&self, namespace: &str, name: &str, port: &str) -> Vec<(Box<str>, u16)> {
        let content = self.content();
        let names = content.of_service.get(&(namespace.into(), name.into()));
        let objects =
            names.into_iter().flatten().filter_map(|name| content.objects.get(&(namespace.into(), name.clone())));
        let places = objects.flat_map(|object| &object.places).filter(|place| *place.label == *port);
        places.map(|place| (place.host.clone(), place.port)).collect()
    }

    /// A number that changes with a service.
    pub(super) fn versions(&self, namespace: &str, name: &str) -> watch::Receiver<u64> {
        let mut content = self.content();
        if content.versions.len() > MOST_IDLE {
            content.versions.retain(|_, version| version.receiver_count() > 0);
        }
        content.last_version += 1;
        let first = content.last_version;
        content.versions.entry((namespace.into(), name.into())).or_insert_with(|| watch::Sender::new(first)).subscribe()
    }

    /// How the reading stands.
    pub(super) fn state(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    pub(super) fn set_state(&self, state: State) {
        self.state.send_if_modified(|now| {
            let changes = *now != state;
            *now = state;
            changes
        });
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Content {
    fn insert(&mut self, object: Object) {
        let service = (object.namespace.clone(), object.service.clone());
        self.of_service.entry(service).or_default().insert(object.name.clone());
        self.objects.insert((object.namespace.clone(), object.name.clone()), object);
    }

    fn remove(&mut self, key: &Key) {
        let Some(object) = self.objects.remove(key) else { return };
        let service = (object.namespace, object.service);
        if let Some(names) = self.of_service.get_mut(&service) {
            names.remove(&object.name);
            if names.is_empty() {
                self.of_service.remove(&service);
            }
        }
        self.turn(&service);
    }

    /// Tells whoever asks for a service that it has changed.
    fn turn(&mut self, service: &Key) {
        if let Some(version) = self.versions.get(service) {
            self.last_version += 1;
            version.send_replace(self.last_version);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::objects::Place;
    use super::*;

    fn object(name: &str, service: &str, host: &str) -> Object {
        let place = Place { label: "http".into(), host: host.into(), port: 80 };
        Object { namespace: "ns".into(), name: name.into(), service: service.into(), places: vec![place] }
    }

    fn hosts(store: &Store, service: &str) -> Vec<String> {
        store.places("ns", service, "http").into_iter().map(|(host, _)| host.into()).collect()
    }

    #[test]
    fn slices_of_a_service_add_up_and_changes_are_told() {
        let store = Store::default();
        let mut versions = store.versions("ns", "web");
        let mut told = || {
            std::mem::take(&mut versions.has_changed().unwrap()) && {
                versions.borrow_and_update();
                true
            }
        };
        store.replace(vec![object("web-1", "web", "a"), object("web-2", "web", "b"), object("x", "other", "c")]);
        assert_eq!((hosts(&store, "web"), told()), (vec!["a".to_owned(), "b".to_owned()], true));
        store.put(object("x", "other", "d"));
        assert!(!told());
        store.put(object("web-1", "web", "e"));
        assert_eq!((hosts(&store, "web"), told()), (vec!["e".to_owned(), "b".to_owned()], true));
        store.put(object("web-2", "other", "b"));
        assert_eq!((hosts(&store, "web"), told()), (vec!["e".to_owned()], true));
        store.delete(&object("web-1", "web", ""));
        assert_eq!((hosts(&store, "web"), told()), (vec![], true));
        assert_eq!(store.places("ns", "other", "grpc"), []);
        store.replace(Vec::new());
        assert_eq!(hosts(&store, "other"), Vec::<String>::new());
    }
}
