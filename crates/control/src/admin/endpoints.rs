//! Every endpoint of the Admin API with the right that it takes, as the table of `/api` has them.

use http::Method;
use milecastle_model::Kind;
use milecastle_settings::Declarative;

use super::kinds::Rules;
use super::target::{BASE, Target};
use crate::api::Declared;

/// Endpoints that belong to no kind of object.
const GENERAL: [(Method, &str); 13] = [
    (Method::HEAD, ""),
    (Method::GET, "/plugins/list"),
    (Method::PUT, "/plugins/reload"),
    (Method::GET, "/plugins"),
    (Method::GET, "/plugins/{name}"),
    (Method::GET, "/schema/{kind}"),
    (Method::GET, "/schema/plugins/{name}"),
    (Method::POST, "/schema/validate/{collection}"),
    (Method::HEAD, "/configs"),
    (Method::GET, "/configs"),
    (Method::PUT, "/configs"),
    (Method::POST, "/configs/validate"),
    (Method::GET, "/{unknown}"),
];

/// Every endpoint with the right that it takes.
pub(crate) fn declared() -> Vec<Declared> {
    let general = GENERAL.into_iter().map(|(method, path)| (method, path.to_owned()));
    let kinds = Kind::ALL.iter().copied().filter(|kind| kind.is_resource());
    general.chain(kinds.flat_map(of_kind)).map(|(method, path)| of(method, &path)).collect()
}

/// The endpoints of a kind: its collection, an object of it, and places inside of that.
fn of_kind(kind: Kind) -> Vec<(Method, String)> {
    let collection = match kind.parent() {
        Some(parent) => format!("/{}/{{parent}}/{}", parent.collection(), kind.collection()),
        None => format!("/{}", kind.collection()),
    };
    let object = match kind {
        Kind::Secret => format!("{collection}/{{manager}}/{{id}}"),
        _ => format!("{collection}/{{id}}"),
    };
    let rules = Rules::of(kind);
    let mut all = vec![(Method::GET, collection.clone()), (Method::GET, object.clone())];
    all.extend([Method::PUT, Method::DELETE].map(|method| (method, object.clone())));
    if rules.takes(&Method::POST) {
        all.push((Method::POST, collection));
    }
    if rules.takes(&Method::PATCH) {
        all.push((Method::PATCH, object.clone()));
        if rules.patch_inside {
            all.push((Method::PATCH, format!("{object}/{{inside}}")));
        }
    }
    all
}

fn of(method: Method, path: &str) -> Declared {
    let path = format!("{BASE}{path}");
    let target = Target::of(&method, &path, Declarative::Beside).expect("the route table knows what is declared");
    let right = target.need(&method).map(|need| need.to_string());
    Declared { method, path, right }
}
