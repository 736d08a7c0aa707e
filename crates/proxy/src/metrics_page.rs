//! The Prometheus page (`docs/spec/plugins/prometheus.md`, rules 7 to 9).
//!
//! One task makes the page anew at each refresh; a scrape gets the last one made, whatever it costs to make. A page that
//! was not made anew for twice the interval is not shown any more: figures that stand still look like a quiet node.

use crate::side_http::{self, Answer, SideListener, SideServer, answer};
use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::{Method, StatusCode};
use milecastle_settings::Prometheus;
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The last page made.
#[derive(Default)]
struct Page {
    made: ArcSwapOption<(Instant, Bytes)>,
}

impl Page {
    fn put(&self, text: String, now: Instant) {
        self.made.store(Some(Arc::new((now, text.into()))));
    }

    /// The text, unless it is older than `keep`.
    fn get(&self, now: Instant, keep: Duration) -> Option<Bytes> {
        let made = self.made.load();
        let (at, text) = made.as_deref()?;
        (now.saturating_duration_since(*at) <= keep).then(|| text.clone())
    }

    fn answer(&self, now: Instant, keep: Duration) -> Answer {
        match self.get(now, keep) {
            Some(text) => answer(StatusCode::OK, "text/plain", text),
            None => {
                let message = json!({ "message": "Failed to retrieve metrics: no data available" });
                side_http::json(StatusCode::INTERNAL_SERVER_ERROR, &message)
            }
        }
    }
}

/// The listener of the page, and the task that makes it. Both end when this is dropped.
pub(crate) struct MetricsServer {
    server: SideServer,
    refresh: tokio::task::JoinHandle<()>,
}

impl MetricsServer {
    /// Serves; `render` makes a page and may take its time. The first one is there before anybody is let in.
    pub(crate) async fn start(
        listener: SideListener,
        settings: &Prometheus,
        render: impl Fn() -> String + Send + Sync + 'static,
    ) -> Self {
        let page = Arc::new(Page::default());
        let every = settings.refresh_interval.get();
        let render = Arc::new(render);
        refresh(&page, &render).await;
        let server = {
            let (page, path) = (page.clone(), settings.export_uri.clone());
            SideServer::start(listener, move |request| {
                let known = request.method() == Method::GET && request.uri().path() == path;
                std::future::ready(if known { page.answer(Instant::now(), 2 * every) } else { side_http::not_found() })
            })
        };
        let refresh = tokio::spawn(async move {
            loop {
                // The pause begins when the page is made, so that no second one is begun beside it.
                tokio::time::sleep(every).await;
                refresh(&page, &render).await;
            }
        });
        Self { server, refresh }
    }

    /// The server.
    pub(crate) fn server(&self) -> &SideServer {
        &self.server
    }
}

impl Drop for MetricsServer {
    fn drop(&mut self) {
        self.refresh.abort();
    }
}

/// Makes the page, apart from the tasks of the runtime.
async fn refresh<R: Fn() -> String + Send + Sync + 'static>(page: &Page, render: &Arc<R>) {
    let render = render.clone();
    match tokio::task::spawn_blocking(move || render()).await {
        Ok(text) => page.put(text, Instant::now()),
        Err(error) => tracing::error!(%error, "the metrics page could not be made; the one before stays for a while"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;
    use milecastle_settings::Time;
    use milecastle_testkit::{Call, eventually};
    use std::sync::atomic::{AtomicU32, Ordering};

    #[tokio::test]
    async fn a_page_is_kept_for_a_while() {
        let (page, keep, now) = (Page::default(), Duration::from_secs(30), Instant::now());
        let none = page.answer(now, keep);
        assert_eq!(none.status(), 500);
        assert_eq!(
            none.into_body().collect().await.unwrap().to_bytes(),
            r#"{"message":"Failed to retrieve metrics: no data available"}"#
        );
        page.put("text".to_owned(), now);
        assert_eq!(page.answer(now + keep, keep).status(), 200);
        assert_eq!(page.answer(now + keep + Duration::from_secs(1), keep).status(), 500);
    }

    async fn server(refresh: Time) -> MetricsServer {
        let settings = Prometheus { export_uri: "/m".to_owned(), refresh_interval: refresh, ..Prometheus::default() };
        let listener = SideListener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let made = AtomicU32::new(0);
        MetricsServer::start(listener, &settings, move || format!("page {}\n", made.fetch_add(1, Ordering::Relaxed)))
            .await
    }

    #[tokio::test]
    async fn scrapes_within_an_interval_get_the_same_bytes() {
        let server = server(Time::secs(3600)).await;
        let addr = server.server().local_addr();
        for target in ["/m", "/m", "/m?x=1"] {
            let answer = Call::get(target).to(addr).await.unwrap();
            assert_eq!((answer.status, answer.text().as_str()), (200, "page 0\n"));
            assert_eq!(answer.header("content-type"), "text/plain");
        }
        assert_eq!(Call::post("/m", "").to(addr).await.unwrap().status, 404);
        assert_eq!(Call::get("/m/").to(addr).await.unwrap().status, 404);
        assert_eq!(Call::get("/").to(addr).await.unwrap().status, 404);
    }

    #[tokio::test]
    async fn the_page_is_made_anew() {
        let server = server(Time::millis(5)).await;
        let addr = server.server().local_addr();
        let newer = async || Call::get("/m").to(addr).await.is_ok_and(|answer| answer.text().as_str() >= "page 3\n");
        eventually("a later page", newer).await;
    }
}
