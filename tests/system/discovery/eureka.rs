//! The registry `eureka`.

use super::{dump, fails, route, served_by, serving, up};
use milecastle_testkit::registry::{Eureka, Fault};
use milecastle_testkit::{Echo, eventually};
use serde_json::json;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resources_14_eureka_instances_that_are_up_are_followed_and_failures_take_nothing_away() {
    // "eureka:s@cret"
    let mut eureka = Eureka::start(Some("Basic ZXVyZWthOnNAY3JldA=="));
    let (a, b) = (Echo::named("a"), Echo::named("b"));
    eureka.set("WEB", &[(a.address(), "UP", "UNKNOWN"), (b.address(), "STARTING", "UNKNOWN")]);
    let url = eureka.url().replace("http://", "http://eureka:s%40cret@");
    let up = up(&json!({ "eureka": { "host": [url], "fetch_interval": 1, "timeout": { "send": 500, "read": 500 } } }));
    route(&up, "eureka", "WEB", json!({})).await;
    up.answers("/", 200).await;
    served_by(&up, &["a"]).await;
    eureka.set("WEB", &[(a.address(), "UP", "UNKNOWN"), (b.address(), "UP", "UNKNOWN")]);
    served_by(&up, &["a", "b"]).await;
    // An operator has taken it out; it is still up.
    eureka.set("WEB", &[(a.address(), "UP", "OUT_OF_SERVICE"), (b.address(), "UP", "UNKNOWN")]);
    served_by(&up, &["b"]).await;
    drop(a);
    assert_eq!(serving(&up, 20).await.len(), 1);
    let metadata = json!({ "management.port": "1" });
    let shown = json!([{ "host": "127.0.0.1", "port": b.port(), "weight": 100, "metadata": metadata }]);
    assert_eq!(dump(&up, "eureka").await["services"], json!({ "WEB": shown }));
    for fault in [Fault::Garbage, Fault::Long(10 << 20), Fault::Status(500), Fault::Silence] {
        eureka.fail(Some(fault));
        fails(&up, "eureka", "WEB", true).await;
        assert_eq!(serving(&up, 10).await.len(), 1, "{fault:?}");
        eureka.fail(None);
        fails(&up, "eureka", "WEB", false).await;
    }
    eureka.stop();
    fails(&up, "eureka", "WEB", true).await;
    assert_eq!(serving(&up, 10).await.len(), 1);
    eureka.set("WEB", &[]);
    eureka.start();
    eventually("no instance", async || up.get("/").await.status == 503).await;
    assert!(up.process.log().iter().all(|line| !line.contains("cret")), "no log shows the password");
}
