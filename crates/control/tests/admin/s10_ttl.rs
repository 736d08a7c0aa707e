//! §10: lifetimes.

use crate::gateway::{Gateway, on_both};
use milecastle_testkit::eventually;

on_both!(s10_an_object_with_ttl_disappears, s10_a_patch_gives_a_lifetime_too, s10_a_later_write_makes_it_permanent,);

async fn is_there(gw: &Gateway, id: &str) -> bool {
    gw.send(&format!("GET /upstreams/{id}")).await.status == 200
}

async fn s10_an_object_with_ttl_disappears(gw: Gateway) {
    gw.done(r#"PUT /upstreams/1?ttl=60 {"nodes":{}}"#).await;
    let posted = gw.done(r#"POST /upstreams?ttl=0.5 {"nodes":{}}"#).await;
    gw.done(r#"PUT /upstreams/2 {"nodes":{}}"#).await;
    let posted = posted["id"].as_str().unwrap();
    gw.advance(2);
    eventually("the shorter life ended", async || !is_there(&gw, posted).await).await;
    assert!(is_there(&gw, "1").await);
    gw.advance(60);
    eventually("the longer life ended", async || !is_there(&gw, "1").await).await;
    assert!(is_there(&gw, "2").await);
}

async fn s10_a_patch_gives_a_lifetime_too(gw: Gateway) {
    for id in ["1", "2", "3"] {
        gw.done(&format!(r#"PUT /upstreams/{id} {{"nodes":{{}}}}"#)).await;
    }
    gw.done(r#"PATCH /upstreams/1?ttl=60 {"retries":1}"#).await;
    gw.done(r#"PATCH /upstreams/2/retries?ttl=600 1"#).await;
    gw.advance(61);
    eventually("the patched one's life ended", async || !is_there(&gw, "1").await).await;
    assert!(is_there(&gw, "2").await);
    gw.advance(600);
    eventually("so did that of the one patched inside", async || !is_there(&gw, "2").await).await;
    assert!(is_there(&gw, "3").await);
}

async fn s10_a_later_write_makes_it_permanent(gw: Gateway) {
    for id in ["1", "2", "3"] {
        gw.done(&format!(r#"PUT /upstreams/{id}?ttl=60 {{"nodes":{{}}}}"#)).await;
    }
    gw.done(r#"PUT /upstreams/1 {"nodes":{}}"#).await;
    gw.done(r#"PATCH /upstreams/2 {"retries":1}"#).await;
    gw.advance(61);
    eventually("the other's life ended", async || !is_there(&gw, "3").await).await;
    assert!(is_there(&gw, "1").await && is_there(&gw, "2").await);
}
