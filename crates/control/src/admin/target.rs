//! What a path under `/apisix/admin` names (`docs/spec/admin-api.md` §2 steps 3 and 5).

use crate::admin::query::decode;
use crate::rights::{Need, Resource};
use http::Method;
use milecastle_model::{Key, Kind};
use milecastle_settings::Declarative;

/// Where the Admin API lives.
pub(crate) const BASE: &str = "/apisix/admin";

/// A path that the route table knows, together with a method that it takes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// `HEAD /apisix/admin`.
    Probe,
    /// `GET /plugins/list`.
    PluginNames,
    /// Any method on `/plugins/reload`.
    PluginReload,
    /// `POST /schema/validate/{collection}`.
    ValidateSchema(String),
    /// `POST /configs/validate`.
    ValidateConfigs,
    /// `GET`, `HEAD` and `PUT` of `/configs`.
    Configs,
    /// The rest: the segments after the base, the first of which is the type.
    Typed(Vec<String>),
}

impl Target {
    /// Looks up the route table, where configurations are declared as the settings have it; `None` answers with the default 404
    /// page.
    pub(crate) fn of(method: &Method, path: &str, declarative: Declarative) -> Option<Target> {
        let target = Self::listed(method, path)?;
        match (&target, declarative) {
            (Target::Configs, Declarative::Off) if method == Method::HEAD => None,
            (Target::Configs, Declarative::Off) => Some(Target::Typed(vec!["configs".to_owned()])),
            (_, Declarative::Off | Declarative::Beside)
            | (Target::Probe | Target::Configs | Target::ValidateConfigs, _) => Some(target),
            (_, Declarative::Only) => None,
        }
    }

    /// What a call takes; `None`: to be known is enough, for nothing is shown but that there is nothing.
    pub(crate) fn need(&self, method: &Method) -> Option<Need> {
        let reads = [Method::GET, Method::HEAD].contains(method);
        let of = |resource| if reads { Need::read(resource) } else { Need::write(resource) };
        Some(match self {
            Target::Probe => return None,
            Target::PluginNames | Target::ValidateSchema(_) => Need::read(Resource::Schemas),
            Target::PluginReload => of(Resource::Schemas),
            Target::ValidateConfigs => Need::read(Resource::Configuration),
            Target::Configs => of(Resource::Configuration),
            Target::Typed(segments) => match Typed::of(segments)? {
                Typed::Plugins(_) | Typed::Schema(_) => of(Resource::Schemas),
                Typed::Resource(place) => of(Resource::Objects(place.kind)),
            },
        })
    }

    fn listed(method: &Method, path: &str) -> Option<Target> {
        let rest = path.strip_prefix(BASE)?.trim_end_matches('/');
        let generic =
            [Method::GET, Method::PUT, Method::POST, Method::DELETE, Method::PATCH].iter().any(|one| one == method);
        match rest {
            "" => (method == Method::HEAD).then_some(Target::Probe),
            "/plugins/list" if method == Method::GET => Some(Target::PluginNames),
            "/plugins/reload" if generic => Some(Target::PluginReload),
            "/configs/validate" if method == Method::POST => Some(Target::ValidateConfigs),
            "/configs" if [Method::GET, Method::HEAD, Method::PUT].contains(method) => Some(Target::Configs),
            _ => {
                let segments = rest.strip_prefix('/').filter(|_| generic)?;
                if let Some(collection) = segments.strip_prefix("schema/validate/").filter(|_| method == Method::POST) {
                    return Some(Target::ValidateSchema(decode(collection, false)));
                }
                Some(Target::Typed(segments.split('/').map(|segment| decode(segment, false)).collect()))
            }
        }
    }
}

/// What the segments after the base name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Typed {
    /// `plugins[/name]` or `schema/plugins[/name]`.
    Plugins(Option<String>),
    /// `schema[/name]`.
    Schema(Option<String>),
    /// A collection or an object.
    Resource(Place),
}

/// A collection, an object of it, or a place inside an object.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) kind: Kind,
    /// The object below which the collection lives, for sub-resources.
    pub(crate) parent: Option<String>,
    /// The id in the path; of a secret both segments (`vault/1`).
    pub(crate) id: Option<String>,
    /// A secret's manager.
    pub(crate) manager: Option<String>,
    /// What follows the id.
    pub(crate) inside: Vec<String>,
}

impl Place {
    /// Whether the path can name something: the parent is an id, a secret's id too, and what follows the id is wanted.
    pub(crate) fn may_exist(&self, inside: bool) -> bool {
        let is_id = |text: &str| !text.contains('/');
        let secret = self.manager.as_ref().and_then(|manager| self.id.as_ref()?.get(manager.len() + 1..));
        (inside || self.inside.is_empty()) && self.parent.iter().all(|parent| is_id(parent)) && secret.is_none_or(is_id)
    }

    /// The store's key for `id` in this collection.
    pub(crate) fn key(&self, id: &str) -> Key {
        Key::child(self.kind, self.parent.as_deref().unwrap_or_default(), id)
    }
}

impl Typed {
    /// `None` if the type is unknown.
    pub(crate) fn of(segments: &[String]) -> Option<Typed> {
        let mut rest = segments.iter().filter(|segment| !segment.is_empty()).cloned();
        let word = rest.next().unwrap_or_default();
        match word.as_str() {
            "plugins" => return Some(Typed::Plugins(rest.next())),
            "schema" => {
                let name = rest.next();
                let alias = name.as_deref() == Some("plugins");
                return Some(match rest.next() {
                    Some(plugin) if alias => Typed::Plugins(Some(plugin)),
                    _ => Typed::Schema(name),
                });
            }
            _ => {}
        }
        let kind = Kind::from_collection(&word).filter(|kind| kind.parent().is_none())?;
        let sub = Kind::ALL.iter().copied().find(|sub| sub.parent() == Some(kind));
        // `/services//graphql_cost_decorations` names the children of a parent without an id, not a service of that name.
        let orphans = matches!((segments, sub), ([_, parent, below, ..], Some(sub)) if parent.is_empty() && below == sub.collection());
        let first = if orphans { Some(String::new()) } else { rest.next() };
        let mut inside = rest.collect::<Vec<_>>();
        if let Some(sub) = sub.filter(|sub| inside.first().is_some_and(|segment| segment == sub.collection())) {
            let mut inside = inside.drain(1..);
            let id = inside.next();
            return Some(Typed::Resource(Place {
                kind: sub,
                parent: first,
                id,
                manager: None,
                inside: inside.collect(),
            }));
        }
        let mut place = Place { kind, parent: None, id: first, manager: None, inside };
        if kind == Kind::Secret {
            place.manager = place.id.take();
            if let Some(manager) = place.manager.as_ref().filter(|_| !place.inside.is_empty()) {
                place.id = Some(format!("{manager}/{}", place.inside.remove(0)));
            }
        }
        Some(Typed::Resource(place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(path: &str) -> Option<Typed> {
        match Target::listed(&Method::GET, &format!("{BASE}{path}")) {
            Some(Target::Typed(segments)) => Typed::of(&segments),
            other => panic!("{path}: {other:?}"),
        }
    }

    fn place(kind: Kind, parent: Option<&str>, id: Option<&str>, inside: &[&str]) -> Option<Typed> {
        let manager = (kind == Kind::Secret).then(|| "vault".to_owned());
        Some(Typed::Resource(Place {
            kind,
            parent: parent.map(Into::into),
            id: id.map(Into::into),
            manager,
            inside: inside.iter().map(|&segment| segment.to_owned()).collect(),
        }))
    }

    #[test]
    fn the_route_table() {
        let of = |method: Method, path: &str| Target::of(&method, path, Declarative::Beside);
        assert_eq!(of(Method::HEAD, "/apisix/admin"), Some(Target::Probe));
        assert_eq!(of(Method::HEAD, "/apisix/admin//"), Some(Target::Probe));
        assert_eq!(of(Method::GET, "/apisix/admin"), None);
        assert_eq!(of(Method::HEAD, "/apisix/admin/routes"), None);
        assert_eq!(of(Method::TRACE, "/apisix/admin/routes"), None);
        assert_eq!(of(Method::GET, "/apisix/adminroutes"), None);
        assert_eq!(of(Method::GET, "/apisix/admin/plugins/list/"), Some(Target::PluginNames));
        assert!(matches!(of(Method::PUT, "/apisix/admin/plugins/list"), Some(Target::Typed(_))));
        assert_eq!(of(Method::DELETE, "/apisix/admin/plugins/reload"), Some(Target::PluginReload));
        assert_eq!(of(Method::POST, "/apisix/admin/configs/validate"), Some(Target::ValidateConfigs));
        assert_eq!(of(Method::HEAD, "/apisix/admin/configs/"), Some(Target::Configs));
        assert!(matches!(of(Method::POST, "/apisix/admin/configs"), Some(Target::Typed(_))));
        let validate = Some(Target::ValidateSchema("routes".into()));
        assert_eq!(of(Method::POST, "/apisix/admin/schema/validate/routes/"), validate);
        assert!(matches!(of(Method::GET, "/apisix/admin/schema/validate/routes"), Some(Target::Typed(_))));
    }

    #[test]
    fn declaring_alone_or_not_at_all() {
        let of = |method: Method, path: &str, how| Target::of(&method, &format!("{BASE}{path}"), how);
        let unknown = Some(Target::Typed(vec!["configs".into()]));
        assert_eq!(of(Method::GET, "/configs", Declarative::Off), unknown);
        assert_eq!(of(Method::HEAD, "/configs", Declarative::Off), None);
        assert_eq!(of(Method::PUT, "/configs", Declarative::Only), Some(Target::Configs));
        assert_eq!(of(Method::HEAD, "", Declarative::Only), Some(Target::Probe));
        assert_eq!(of(Method::POST, "/configs/validate", Declarative::Only), Some(Target::ValidateConfigs));
        for path in ["/routes", "/plugins/list", "/schema/route", "/plugins/reload"] {
            assert_eq!(of(Method::GET, path, Declarative::Only), None);
        }
    }

    #[test]
    fn the_types() {
        assert_eq!(typed("/routes///"), place(Kind::Route, None, None, &[]));
        assert_eq!(typed("/routes/a%20b"), place(Kind::Route, None, Some("a b"), &[]));
        assert_eq!(typed("/routes/1/methods/0"), place(Kind::Route, None, Some("1"), &["methods", "0"]));
        assert_eq!(typed("/consumers/jack/credentials"), place(Kind::Credential, Some("jack"), None, &[]));
        assert_eq!(typed("/consumers/jack/credentials/c"), place(Kind::Credential, Some("jack"), Some("c"), &[]));
        assert_eq!(
            typed("/services//graphql_cost_decorations/1"),
            place(Kind::GraphqlCostDecoration, Some(""), Some("1"), &[])
        );
        assert_eq!(
            typed("/services/graphql_cost_decorations/1"),
            place(Kind::Service, None, Some("graphql_cost_decorations"), &["1"])
        );
        assert_eq!(typed("/consumers/jack/other"), place(Kind::Consumer, None, Some("jack"), &["other"]));
        assert_eq!(typed("/secrets/vault"), place(Kind::Secret, None, None, &[]));
        assert_eq!(typed("/secrets/vault/1/token"), place(Kind::Secret, None, Some("vault/1"), &["token"]));
        assert_eq!(typed("/schema/plugins/cors"), Some(Typed::Plugins(Some("cors".into()))));
        assert_eq!(typed("/schema/plugins"), Some(Typed::Schema(Some("plugins".into()))));
        assert_eq!(typed("/plugins"), Some(Typed::Plugins(None)));
        assert_eq!((typed("/nope"), typed("/credentials/1")), (None, None));
    }
}
