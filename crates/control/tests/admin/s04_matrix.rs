//! §4: which methods each kind takes.

use crate::gateway::{Gateway, on_both};

on_both!(s4_methods_of_each_kind);

async fn s4_methods_of_each_kind(gw: Gateway) {
    // Collection, word, whether POST and PATCH are taken.
    for (collection, word, post, patch) in [
        ("routes", "route", true, true),
        ("services", "service", true, true),
        ("upstreams", "upstream", true, true),
        ("ssls", "ssl", true, true),
        ("consumers", "consumer", false, false),
        ("consumers/jack/credentials", "credential", false, false),
        ("consumer_groups", "consumer group", false, true),
        ("plugin_configs", "plugin config", false, true),
        ("global_rules", "global rule", false, true),
        ("plugin_metadata", "plugin_metadata", false, false),
        ("protos", "proto", true, false),
        ("secrets", "secret", false, true),
        ("services/s/graphql_cost_decorations", "graphql cost decoration", true, true),
    ] {
        let empty = if collection.contains('/') { 404 } else { 200 };
        assert_eq!(gw.send(&format!("GET /{collection}")).await.status, empty, "{collection}");
        assert_eq!(gw.send(&format!("GET /{collection}/x/y")).await.status, 404);
        for (method, taken) in [("POST", post), ("PATCH", patch)] {
            let line = format!("{method} /{collection} {{}}");
            if taken {
                assert_ne!(gw.send(&line).await.status, 405, "{line}");
            } else {
                gw.refused(&line, 405, &format!("not supported `{method}` method for {word}")).await;
            }
        }
    }
}
