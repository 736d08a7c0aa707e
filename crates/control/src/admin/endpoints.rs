//! Every endpoint of the Admin API with the right that it takes, as the table of `/api` has them.

use http::Method;
use milecastle_model::Kind;
use milecastle_settings::Declarative;

use super::kinds::Rules;
use super::target::{BASE, Target};
use crate::api::Declared;

/// What an endpoint is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum About {
    Probe,
    PluginNames,
    PluginReload,
    Plugins,
    Plugin,
    Schema,
    ValidateSchema,
    ConfigsHead,
    ConfigsGet,
    ConfigsPut,
    ValidateConfigs,
    List(Kind),
    Show(Kind),
    Put(Kind),
    Post(Kind),
    Patch(Kind),
    PatchInside(Kind),
    Delete(Kind),
    /// All paths that lead to nothing.
    Unknown,
}

impl About {
    /// The kind of object that it is about.
    pub(crate) fn kind(self) -> Option<Kind> {
        match self {
            About::List(kind)
            | About::Show(kind)
            | About::Put(kind)
            | About::Post(kind)
            | About::Patch(kind)
            | About::PatchInside(kind)
            | About::Delete(kind) => Some(kind),
            _ => None,
        }
    }
}

/// Endpoints that belong to no kind of object.
const GENERAL: [(Method, &str, About); 13] = [
    (Method::HEAD, "", About::Probe),
    (Method::GET, "/plugins/list", About::PluginNames),
    (Method::PUT, "/plugins/reload", About::PluginReload),
    (Method::GET, "/plugins", About::Plugins),
    (Method::GET, "/plugins/{name}", About::Plugin),
    (Method::GET, "/schema/{kind}", About::Schema),
    (Method::GET, "/schema/plugins/{name}", About::Plugin),
    (Method::POST, "/schema/validate/{collection}", About::ValidateSchema),
    (Method::HEAD, "/configs", About::ConfigsHead),
    (Method::GET, "/configs", About::ConfigsGet),
    (Method::PUT, "/configs", About::ConfigsPut),
    (Method::POST, "/configs/validate", About::ValidateConfigs),
    (Method::GET, "/{unknown}", About::Unknown),
];

/// Every endpoint with the right that it takes.
pub(crate) fn declared() -> Vec<Declared> {
    documented().into_iter().map(|(declared, _)| declared).collect()
}

/// The same with what each is about.
pub(crate) fn documented() -> Vec<(Declared, About)> {
    let general = GENERAL.into_iter().map(|(method, path, about)| (method, path.to_owned(), about));
    let kinds = Kind::ALL.iter().copied().filter(|kind| kind.is_resource());
    general.chain(kinds.flat_map(of_kind)).map(|(method, path, about)| (of(method, &path), about)).collect()
}

/// The endpoints of a kind: its collection, an object of it, and places inside of that.
fn of_kind(kind: Kind) -> Vec<(Method, String, About)> {
    let collection = match kind.parent() {
        Some(parent) => format!("/{}/{{parent}}/{}", parent.collection(), kind.collection()),
        None => format!("/{}", kind.collection()),
    };
    let object = match kind {
        Kind::Secret => format!("{collection}/{{manager}}/{{id}}"),
        _ => format!("{collection}/{{id}}"),
    };
    let rules = Rules::of(kind);
    let mut all = vec![
        (Method::GET, collection.clone(), About::List(kind)),
        (Method::GET, object.clone(), About::Show(kind)),
        (Method::PUT, object.clone(), About::Put(kind)),
        (Method::DELETE, object.clone(), About::Delete(kind)),
    ];
    if rules.takes(&Method::POST) {
        all.push((Method::POST, collection, About::Post(kind)));
    }
    if rules.takes(&Method::PATCH) {
        all.push((Method::PATCH, object.clone(), About::Patch(kind)));
        if rules.patch_inside {
            all.push((Method::PATCH, format!("{object}/{{inside}}"), About::PatchInside(kind)));
        }
    }
    all
}

fn of(method: Method, path: &str) -> Declared {
    let path = format!("{BASE}{path}");
    let target = Target::of(&method, &path, Declarative::Beside).expect("the route table knows what is declared");
    let right = target.need(&method).map(|need| need.to_string());
    let open = target == Target::Probe;
    Declared { method, path, right, open }
}
