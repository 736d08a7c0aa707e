use super::proto::collector::metrics::v1::ExportMetricsServiceRequest;
use super::proto::metrics::v1::metric::Data;
use super::{OtlpClient, OtlpSettings, collector, push_metrics, text};
use crate::{Background, Tls};
use http::HeaderMap;
use milecastle_telemetry::metrics::{Options, Registry};
use prost::Message as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);

/// A collector that answers with `statuses` in turn, the last one for ever; hands over the bodies that it gets.
fn listening(statuses: &'static [u16]) -> (SocketAddr, Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, told) = channel();
    std::thread::spawn(move || {
        let mut statuses = statuses.iter().chain(std::iter::repeat(statuses.last().unwrap()));
        for stream in listener.incoming().map_while(Result::ok) {
            let mut reader = BufReader::new(stream);
            loop {
                let mut length = 0;
                let mut line = String::new();
                while reader.read_line(&mut line).is_ok_and(|read| read > 2) {
                    if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                        length = value.trim().parse().unwrap();
                    }
                    line.clear();
                }
                let mut body = vec![0; length];
                if length == 0 || reader.read_exact(&mut body).is_err() || tell.send(body).is_err() {
                    break;
                }
                let status = statuses.next().unwrap();
                write!(reader.get_mut(), "HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n").unwrap();
            }
        }
    });
    (address, told)
}

fn settings(to: SocketAddr) -> OtlpSettings {
    let target = collector(&to.to_string(), "/v1/metrics", true).unwrap();
    OtlpSettings { target, headers: HeaderMap::new(), timeout: SOON }
}

#[test]
fn addresses_of_collectors() {
    let read =
        |text| collector(text, "/v1/traces", true).map(|target| (target.to_string(), target.path, target.endpoint.tls));
    let plain = |host: &str, path: &str| Ok((host.to_owned(), path.to_owned(), Tls::None));
    assert_eq!(read("127.0.0.1:4318"), plain("http://127.0.0.1:4318", "/v1/traces"));
    assert_eq!(read("http://c.test/own?a=1"), plain("http://c.test:80", "/own?a=1"));
    assert_eq!(read("https://c.test").unwrap(), ("https://c.test:443".into(), "/v1/traces".into(), Tls::Verified));
    for bad in ["", "ftp://c.test", "http://", "a b"] {
        assert!(read(bad).is_err(), "{bad}");
    }
}

#[tokio::test]
async fn what_is_refused_is_sent_three_times_and_a_dead_collector_is_left_alone() {
    let (address, bodies) = listening(&[503, 429, 200, 500]);
    let mut client = OtlpClient::new(Arc::default(), settings(address));
    // With something in it: a message of nothing has no bytes.
    let message = ExportMetricsServiceRequest { resource_metrics: vec![Default::default()] };
    assert_eq!(client.export(&message).await, Ok(()));
    assert_eq!(bodies.try_iter().count(), 3, "refused, refused, taken");
    for _ in 0..5 {
        let reason = client.export(&message).await.unwrap_err();
        assert!(reason.ends_with("answered 500"), "{reason}");
    }
    assert_eq!(bodies.try_iter().count(), 15);
    let reason = client.export(&message).await.unwrap_err();
    assert!(reason.contains("left alone"), "{reason}");
    assert_eq!(bodies.try_iter().count(), 0);
}

#[tokio::test]
async fn metrics_are_pushed_again_and_at_the_end() {
    let (address, bodies) = listening(&[200]);
    let registry = Arc::new(Registry::new("m_", 1));
    registry.counter("hits", "Hits", &["who"], Options::default()).unwrap().with(&["amy"]).add(3);
    registry.gauge("level", "Level", &[], Options::default()).unwrap().get().set(1.5);
    registry.histogram("took", "Time", &[], &[1.0, 5.0], Options::default()).unwrap().get().observe(2.0);
    let failures = registry.counter("failures", "Failures", &[], Options::default()).unwrap().get();
    let background = Arc::new(Background::default());
    let collect = {
        let registry = registry.clone();
        move || registry.snapshot()
    };
    push_metrics(
        &background,
        settings(address),
        Duration::from_millis(1),
        vec![text("a", "b")],
        failures.clone(),
        collect,
    );
    let read = |body: Vec<u8>| ExportMetricsServiceRequest::decode(&*body).unwrap().resource_metrics.remove(0);
    let pushed = read(bodies.recv_timeout(SOON).unwrap());
    assert_eq!(pushed.resource.unwrap().attributes, [text("a", "b")]);
    let metrics = &pushed.scope_metrics[0].metrics;
    let named = |name: &str| metrics.iter().find(|metric| metric.name == name).unwrap();
    let Some(Data::Sum(hits)) = &named("m_hits").data else { panic!("{metrics:?}") };
    assert!(hits.is_monotonic && hits.data_points[0].attributes == [text("who", "amy")]);
    assert!(hits.data_points[0].start_time_unix_nano <= hits.data_points[0].time_unix_nano);
    let Some(Data::Gauge(level)) = &named("m_level").data else { panic!("{metrics:?}") };
    assert_eq!(level.data_points.len(), 1);
    let Some(Data::Histogram(took)) = &named("m_took").data else { panic!("{metrics:?}") };
    assert_eq!(took.data_points[0].bucket_counts, [0, 1, 0]);
    assert_eq!((took.data_points[0].sum, took.data_points[0].count), (Some(2.0), 1));
    bodies.recv_timeout(SOON).unwrap();

    registry.gauge("level", "Level", &[], Options::default()).unwrap().get().set(7.0);
    assert!(background.end(SOON).await);
    let last = read(bodies.try_iter().last().unwrap());
    assert!(format!("{last:?}").contains("AsDouble(7.0)"), "the last push has the newest figures");
    assert_eq!(failures.get(), 0);
}
