//! What a store holds and what a change stream carries.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::Kind;

/// Identity of an object in a store.
///
/// `id` is the id itself, except that a credential's is `<consumer>/credentials/<cid>`, a GraphQL cost decoration's
/// `<service>/graphql_cost_decorations/<id>`, a secret's `<manager>/<id>`, a consumer's its username and plugin
/// metadata's the plugin's name. `Display` and [`Key::path`] give the path below the storage prefix: `/routes/1`,
/// `/consumers/jack/credentials/c1`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The kind.
    pub kind: Kind,
    /// The identity within the kind, see above.
    pub id: Arc<str>,
}

impl Key {
    /// A key from its parts; `id` in the composite form where the kind has one.
    pub fn new(kind: Kind, id: impl Into<Arc<str>>) -> Key {
        Key { kind, id: id.into() }
    }

    /// The key of credential `cid` of `consumer`.
    pub fn credential(consumer: &str, cid: &str) -> Key {
        Key::child(Kind::Credential, consumer, cid)
    }

    /// The key of the one object of [`Kind::GroupSettings`].
    pub fn group_settings() -> Key {
        Key::new(Kind::GroupSettings, "group")
    }

    /// The key of an object of sub-resource `kind` below `parent`; for kinds without a parent the parent is ignored.
    pub fn child(kind: Kind, parent: &str, id: &str) -> Key {
        match kind.parent() {
            Some(_) => Key::new(kind, format!("{parent}/{}/{id}", kind.collection())),
            None => Key::new(kind, id),
        }
    }

    /// Inverse of [`Key::path`]; `None` if the path names no resource of the Admin API.
    pub fn from_path(path: &str) -> Option<Key> {
        let (collection, id) = path.strip_prefix('/')?.split_once('/')?;
        let kind = Kind::from_collection(collection).filter(|kind| kind.parent().is_none())?;
        let sub = Kind::ALL.iter().copied().find(|sub| sub.parent() == Some(kind));
        let key = match (sub, id.split_once('/')) {
            (Some(sub), Some((parent, rest))) => {
                let cid = rest.strip_prefix(sub.collection())?.strip_prefix('/')?;
                Key::child(sub, Some(parent).filter(|p| !p.is_empty())?, Some(cid).filter(|c| !c.is_empty())?)
            }
            _ => Key::new(kind, id),
        };
        (!key.id.is_empty()).then_some(key)
    }

    /// The path below the storage prefix.
    pub fn path(&self) -> String {
        self.to_string()
    }

    /// The id that the object itself carries as `id`: the last segment for sub-resources, otherwise the whole id.
    pub fn own_id(&self) -> &str {
        match (self.kind.parent(), self.id.rsplit_once('/')) {
            (Some(_), Some((_, own))) => own,
            _ => &self.id,
        }
    }

    /// The key of the object below which this one lives: a credential's consumer, a decoration's service.
    pub fn parent(&self) -> Option<Key> {
        let (parent, _) = self.id.split_once('/')?;
        Some(Key::new(self.kind.parent()?, parent))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let top = self.kind.parent().unwrap_or(self.kind);
        write!(f, "/{}/{}", top.collection(), self.id)
    }
}

/// One stored object.
#[derive(Clone, PartialEq, Eq)]
pub struct Object {
    /// Its identity.
    pub key: Key,
    /// The JSON as stored, id and timestamps included; never re-encoded.
    pub body: Bytes,
    /// Revision of the store at which the key was first created.
    pub created: u64,
    /// Revision of the store at which the body last changed.
    pub modified: u64,
}

/// Leaves the body out: it may hold keys and passwords.
impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Object")
            .field("key", &self.key)
            .field("body_bytes", &self.body.len())
            .field("created", &self.created)
            .field("modified", &self.modified)
            .finish()
    }
}

/// One step from a revision of a configuration to a later one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The object now has this form.
    Put(Object),
    /// The object is gone.
    Delete {
        /// Which object.
        key: Key,
        /// Revision of the store that removed it.
        revision: u64,
    },
}

impl Change {
    /// The object concerned.
    pub fn key(&self) -> &Key {
        match self {
            Change::Put(object) => &object.key,
            Change::Delete { key, .. } => key,
        }
    }

    /// The revision of the store that made the change.
    pub fn revision(&self) -> u64 {
        match self {
            Change::Put(object) => object.modified,
            Change::Delete { revision, .. } => *revision,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_back() {
        let check = |key: Key, path: &str, own: &str, parent: Option<&str>| {
            assert_eq!(key.path(), path);
            assert_eq!(Key::from_path(path).as_ref(), Some(&key));
            assert_eq!(key.own_id(), own);
            assert_eq!(key.parent().map(|parent| parent.path()).as_deref(), parent);
        };
        check(Key::new(Kind::Route, "1"), "/routes/1", "1", None);
        check(Key::new(Kind::Consumer, "jack"), "/consumers/jack", "jack", None);
        check(Key::credential("jack", "c1"), "/consumers/jack/credentials/c1", "c1", Some("/consumers/jack"));
        check(Key::new(Kind::PluginMetadata, "http-logger"), "/plugin_metadata/http-logger", "http-logger", None);
        check(Key::new(Kind::Secret, "vault/1"), "/secrets/vault/1", "vault/1", None);
        check(
            Key::child(Kind::GraphqlCostDecoration, "s", "d"),
            "/services/s/graphql_cost_decorations/d",
            "d",
            Some("/services/s"),
        );
    }

    #[test]
    fn paths_that_name_nothing() {
        let paths = ["", "/", "/routes", "/routes/", "/nope/1", "/credentials/c1", "/consumers/jack/credentials/"];
        for path in paths.into_iter().chain(["/consumers/jack/other/c1", "/consumers//credentials/c1", "routes/1"]) {
            assert_eq!(Key::from_path(path), None, "{path}");
        }
    }

    #[test]
    fn debug_hides_the_body() {
        let body = Bytes::from_static(b"{\"key\":\"hush\"}");
        let object = Object { key: Key::new(Kind::Ssl, "1"), body, created: 1, modified: 2 };
        assert!(!format!("{:?}", Change::Put(object)).contains("hush"));
    }
}
