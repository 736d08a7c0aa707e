//! Which other objects an object names.

use serde_json::Value;

use crate::{Id, Key, Kind, pointer};

/// One reference of an object to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// JSON pointer of the attribute that holds the id.
    pub path: String,
    /// Kind of the object referred to.
    pub kind: Kind,
    /// Its id, in string form.
    pub id: Id,
    /// The plugin whose configuration holds the reference; `None` for an attribute of the object itself. References of
    /// plugins are not looked up on write (§11.1); some of them hinder deletion (§11.2).
    pub plugin: Option<&'static str>,
}

impl Reference {
    /// The answer to a write whose reference leads nowhere (`docs/spec/admin-api.md` §11.1).
    pub fn missing_text(&self) -> String {
        let id = &self.id;
        match self.kind {
            Kind::StreamRoute => format!("failed to fetch stream routes[{id}], response code: 404"),
            kind => {
                let word = kind.word();
                format!("failed to fetch {word} info by {word} id [{id}], response code: 404")
            }
        }
    }

    /// The answer to a deletion of the object referred to while `holder` has this reference
    /// (`docs/spec/admin-api.md` §11.2); `None` if the table does not let this reference hinder the deletion.
    pub fn hindrance_text(&self, holder: &Key) -> Option<String> {
        let (target, directly, user) = match (self.kind, self.plugin, holder.kind) {
            (Kind::Upstream, None, Kind::Route | Kind::Service) => ("upstream", "", holder.kind.name()),
            (Kind::Upstream, Some(_), Kind::GlobalRule) => ("upstream", "", "plugin in global_rules"),
            (Kind::Upstream, Some(_), Kind::Route) => ("upstream", "", "plugin in route"),
            (Kind::Upstream, Some(_), Kind::Service) => ("upstream", "", "plugin in service"),
            (Kind::Upstream, Some(_), Kind::PluginConfig) => ("upstream", "", "plugin in plugin_config"),
            (Kind::Upstream, Some(_), Kind::Consumer) => ("upstream", "", "plugin in consumer"),
            (Kind::Upstream, Some(_), Kind::ConsumerGroup) => ("upstream", "", "plugin in consumer_group"),
            (Kind::Service, None, Kind::Route | Kind::StreamRoute) => ("service", " directly", holder.kind.name()),
            (Kind::PluginConfig, None, Kind::Route) => ("plugin config", "", "route"),
            (Kind::ConsumerGroup, None, Kind::Consumer) => ("consumer group", "", "consumer"),
            (Kind::Proto, Some(_), Kind::Route | Kind::Service) => ("proto", "", holder.kind.name()),
            (Kind::StreamRoute, None, Kind::StreamRoute) => {
                let id = &holder.id;
                return Some(format!(
                    "can not delete this stream route directly, stream route [{id}] is still using it as superior_id"
                ));
            }
            _ => return None,
        };
        Some(format!("can not delete this {target}{directly}, {user} [{}] is still using it now", holder.id))
    }
}

/// Every reference in `body`, in the order of the attributes below. Values that are no ids are left out: the schema
/// reports them.
pub fn references(kind: Kind, body: &Value) -> Vec<Reference> {
    let mut found = Vec::new();
    let mut attribute = |path: &str, target: Kind| {
        if let Some(id) = body.pointer(path).and_then(|id| Id::from_value(id).ok()) {
            found.push(Reference { path: path.to_owned(), kind: target, id, plugin: None });
        }
    };
    match kind {
        Kind::Upstream => attribute("/tls/client_cert_id", Kind::Ssl),
        Kind::Route | Kind::Service | Kind::StreamRoute => {
            attribute("/upstream_id", Kind::Upstream);
            if kind != Kind::Service {
                attribute("/service_id", Kind::Service);
            }
            if kind == Kind::Route {
                attribute("/plugin_config_id", Kind::PluginConfig);
            }
            attribute("/upstream/tls/client_cert_id", Kind::Ssl);
            if kind == Kind::StreamRoute {
                attribute("/protocol/superior_id", Kind::StreamRoute);
            }
        }
        Kind::Consumer => attribute("/group_id", Kind::ConsumerGroup),
        _ => {}
    }
    of_plugins(body, &mut found);
    found
}

/// References held by plugins whose configuration names other objects.
fn of_plugins(body: &Value, found: &mut Vec<Reference>) {
    let Some(Value::Object(plugins)) = body.get("plugins") else { return };
    let mut add = |path: String, kind: Kind, id: Option<&Value>, plugin: &'static str| {
        if let Some(id) = id.and_then(|id| Id::from_value(id).ok()) {
            found.push(Reference { path, kind, id, plugin: Some(plugin) });
        }
    };
    if let Some(split) = plugins.get("traffic-split") {
        for (r, rule) in members(split, "rules") {
            for (u, weighted) in members(rule, "weighted_upstreams") {
                let path = format!("/plugins/traffic-split/rules/{r}/weighted_upstreams/{u}/upstream_id");
                add(path, Kind::Upstream, weighted.get("upstream_id"), "traffic-split");
            }
        }
    }
    if let Some(transcode) = plugins.get("grpc-transcode") {
        let path = pointer::join("/plugins/grpc-transcode", "proto_id");
        add(path, Kind::Proto, transcode.get("proto_id"), "grpc-transcode");
    }
}

/// The items of array `name` of `value`, with their positions; none if there is no such array.
fn members<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = (usize, &'a Value)> {
    value.get(name).and_then(Value::as_array).into_iter().flatten().enumerate()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(kind: Kind, body: Value, expected: &[(&str, Kind, &str)]) {
        let found = references(kind, &body);
        let found: Vec<_> = found.iter().map(|r| (r.path.as_str(), r.kind, r.id.as_str())).collect();
        assert_eq!(found, expected, "{body}");
    }

    #[test]
    fn attributes_that_refer() {
        check(
            Kind::Route,
            json!({"service_id": 3, "upstream_id": "u", "plugin_config_id": "p", "upstream": {"tls": {"client_cert_id": "s"}}}),
            &[
                ("/upstream_id", Kind::Upstream, "u"),
                ("/service_id", Kind::Service, "3"),
                ("/plugin_config_id", Kind::PluginConfig, "p"),
                ("/upstream/tls/client_cert_id", Kind::Ssl, "s"),
            ],
        );
        check(Kind::Service, json!({"upstream_id": 1, "service_id": 2}), &[("/upstream_id", Kind::Upstream, "1")]);
        check(Kind::Upstream, json!({"tls": {"client_cert_id": 5}}), &[("/tls/client_cert_id", Kind::Ssl, "5")]);
        check(Kind::Consumer, json!({"group_id": "g"}), &[("/group_id", Kind::ConsumerGroup, "g")]);
        check(
            Kind::StreamRoute,
            json!({"service_id": "x", "protocol": {"name": "redis", "superior_id": "9"}}),
            &[("/service_id", Kind::Service, "x"), ("/protocol/superior_id", Kind::StreamRoute, "9")],
        );
        check(Kind::Route, json!({"upstream_id": true, "service_id": null}), &[]);
        check(Kind::Ssl, json!(null), &[]);
    }

    #[test]
    fn plugins_that_refer() {
        let body = json!({"plugins": {
            "traffic-split": {"rules": [{"weighted_upstreams": [{"weight": 1}, {"upstream_id": 7}]}]},
            "grpc-transcode": {"proto_id": "p1"},
        }});
        let found = references(Kind::GlobalRule, &body);
        assert_eq!(found[0].path, "/plugins/traffic-split/rules/0/weighted_upstreams/1/upstream_id");
        assert_eq!(
            (found[0].kind, found[0].id.as_str(), found[0].plugin),
            (Kind::Upstream, "7", Some("traffic-split"))
        );
        assert_eq!((found[1].kind, found[1].id.as_str()), (Kind::Proto, "p1"));
        assert_eq!(body.pointer(&found[0].path), Some(&json!(7)));
        check(Kind::Route, json!({"plugins": {"traffic-split": {"rules": {"0": 1}}}}), &[]);
    }

    #[test]
    fn texts_of_missing_references() {
        let text = |kind, body: Value| references(kind, &body)[0].missing_text();
        assert_eq!(
            text(Kind::Route, json!({"upstream_id": "9"})),
            "failed to fetch upstream info by upstream id [9], response code: 404"
        );
        assert_eq!(
            text(Kind::Route, json!({"plugin_config_id": "9"})),
            "failed to fetch plugin config info by plugin config id [9], response code: 404"
        );
        assert_eq!(
            text(Kind::StreamRoute, json!({"protocol": {"superior_id": "9"}})),
            "failed to fetch stream routes[9], response code: 404"
        );
    }

    #[test]
    fn texts_of_hindered_deletions() {
        let split = json!({"plugins": {"traffic-split": {"rules": [{"weighted_upstreams": [{"upstream_id": 1}]}]}}});
        let text = |holder: Kind, body: &Value| references(holder, body)[0].hindrance_text(&Key::new(holder, "h"));
        let check = |holder, body: &Value, expected: &str| assert_eq!(text(holder, body).as_deref(), Some(expected));
        check(Kind::Route, &json!({"upstream_id": 1}), "can not delete this upstream, route [h] is still using it now");
        check(
            Kind::GlobalRule,
            &split,
            "can not delete this upstream, plugin in global_rules [h] is still using it now",
        );
        check(
            Kind::ConsumerGroup,
            &split,
            "can not delete this upstream, plugin in consumer_group [h] is still using it now",
        );
        check(
            Kind::StreamRoute,
            &json!({"service_id": 1}),
            "can not delete this service directly, stream_route [h] is still using it now",
        );
        check(
            Kind::StreamRoute,
            &json!({"protocol": {"superior_id": 1}}),
            "can not delete this stream route directly, stream route [h] is still using it as superior_id",
        );
        check(
            Kind::Consumer,
            &json!({"group_id": 1}),
            "can not delete this consumer group, consumer [h] is still using it now",
        );
        check(
            Kind::Service,
            &json!({"plugins": {"grpc-transcode": {"proto_id": 1}}}),
            "can not delete this proto, service [h] is still using it now",
        );
        assert_eq!(text(Kind::StreamRoute, &json!({"upstream_id": 1})), None);
        assert_eq!(text(Kind::Upstream, &json!({"tls": {"client_cert_id": 1}})), None);
        assert_eq!(text(Kind::Credential, &split), None);
    }
}
