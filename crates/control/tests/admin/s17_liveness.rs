//! §17: what the Admin listener says of its health.

use crate::gateway::{Gateway, bare, on_sqlite};
use milecastle_testkit::Call;

on_sqlite!(s17_the_probe_is_all_that_the_admin_listener_says_of_its_health);

async fn s17_the_probe_is_all_that_the_admin_listener_says_of_its_health(gw: Gateway) {
    let gw = gw.with_settings(|settings| settings.admin.enable = true).await;
    let listener = gw.dashboard.admin_address().unwrap();
    let probe = bare("HEAD ").to(listener).await.unwrap();
    assert_eq!((probe.status, probe.body.len()), (200, 0));
    for path in ["/status", "/status/ready", "/healthz", "/readyz"] {
        assert_eq!(Call::get(path).to(listener).await.unwrap().status, 404, "{path}");
    }
}
