//! What hostile clients can make the gateway hold and do: replays of known attacks on HTTP/2, and clients that are slow or many.
//! Meanwhile others are served, memory and CPU time stay within bounds, and a metric tells what has happened.

mod connections;
mod http2;
mod slow;
mod windows;

use crate::bystanders::{Bystanders, Door, Watched};
use milecastle_testkit::{Call, Echo, wait_for};
use milecastle_tests::{Up, full};
use serde_json::json;
use std::time::Duration;

/// What an attack may cost of memory. A debug build takes more than others.
const MEMORY: u64 = 150 << 20;
/// What an attack may cost of CPU time; the long ones send more.
fn affordable() -> Duration {
    Duration::from_secs(if full() { 60 } else { 6 })
}

/// A gateway in front of an upstream that answers everything.
struct Site {
    up: Up,
    echo: Echo,
}

impl Site {
    async fn start(settings: &[(&str, &str)]) -> Self {
        let (up, echo) = (Up::start_with(settings), Echo::start());
        up.put("/routes/1", json!({ "uri": "/*", "upstream": { "nodes": { echo.address().to_string(): 1 } } })).await;
        up.answers("/", 200).await;
        Self { up, echo }
    }

    /// An honest client of its traffic.
    fn bystanders(&self) -> Bystanders {
        Bystanders::start(&[Door { name: "traffic", address: self.up.http, target: "/", status: 200 }])
    }

    /// Memory and CPU time from now on.
    fn watched(&mut self) -> Watched<'_> {
        Watched::new([&mut self.up.process], MEMORY)
    }

    async fn stop(self) {
        tokio::task::spawn_blocking(move || self.up.stop()).await.unwrap();
    }
}

/// The number on a line of the metrics page; 0 where there is none.
async fn metric(page: std::net::SocketAddr, line: &str) -> u64 {
    let text = Call::get("/apisix/prometheus/metrics").to(page).await.unwrap().text();
    let number = text.lines().find_map(|text| text.strip_prefix(line)?.trim().parse::<f64>().ok());
    number.unwrap_or_default() as u64
}

/// Waits until a metric shows so many.
async fn counts(page: std::net::SocketAddr, line: &str, number: u64) {
    let what = format!("{line} to come to {number}");
    wait_for(&what, crate::bystanders::LONG, async || (metric(page, line).await >= number).then_some(())).await;
}
