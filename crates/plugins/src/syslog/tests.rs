use super::STREAM;
use milecastle_plugin_api::testing::{Sessions, Setup};
use milecastle_plugin_api::{NoSecrets, Shared};
use milecastle_telemetry::metrics::Registry;
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(20);

fn logged(to: SocketAddr, members: Value) -> Value {
    let mut config = json!({ "host": "127.0.0.1", "port": to.port(), "log_format": { "ip": "$remote_addr", "n": 3 } });
    config.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
    json!({ "syslog": config })
}

fn end(sessions: &Sessions, client: &str) {
    sessions.begin(client).0.end();
}

/// The entry of a line, which must be one of RFC 5424.
fn entry(line: &str) -> Value {
    let (head, entry) = line.split_once(" - - ").unwrap();
    let words: Vec<&str> = head.split(' ').collect();
    assert_eq!((words[0], words[2], words[3]), ("<46>1", "-", "apisix"), "{line}");
    assert!(words[1].ends_with('Z') && words[1].len() == "2026-11-22T17:05:09.000Z".len(), "{line}");
    assert_eq!(words[4], std::process::id().to_string());
    serde_json::from_str(entry).unwrap()
}

/// A server that hands over the lines it gets.
fn tcp_server() -> (SocketAddr, std::sync::mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let lines = BufReader::new(stream).lines().map_while(Result::ok);
            if lines.into_iter().any(|line| tell.send(line).is_err()) {
                return;
            }
        }
    });
    (address, told)
}

#[test]
fn lines_over_tcp() {
    let (server, lines) = tcp_server();
    let sessions = Setup::new(&[&STREAM]).sessions(logged(server, json!({ "flush_limit": 1, "batch_max_size": 1 })));
    for client in ["10.0.0.1", "10.0.0.2"] {
        end(&sessions, client);
        let line = lines.recv_timeout(SOON).unwrap();
        assert_eq!(entry(&line), json!({ "ip": client, "n": 3, "route_id": "1" }));
    }
}

#[test]
fn datagrams_with_the_format_of_the_metadata() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    server.set_read_timeout(Some(SOON)).unwrap();
    let members = json!({ "sock_type": "udp", "flush_limit": 1, "batch_max_size": 1, "log_format": null });
    let mut config = logged(server.local_addr().unwrap(), members);
    config["syslog"].as_object_mut().unwrap().remove("log_format");
    let setup = Setup::new(&[&STREAM]).metadata("syslog", json!({ "log_format": { "port": "$server_port" } }));
    let sessions = setup.sessions(config);
    end(&sessions, "10.0.0.1");
    let mut room = [0; 1024];
    let len = server.recv(&mut room).unwrap();
    let line = std::str::from_utf8(&room[..len]).unwrap();
    assert_eq!(entry(line.trim_end()), json!({ "port": "9100", "route_id": "1" }));
}

#[test]
fn what_is_gathered_is_sent_when_it_is_enough_and_at_the_end() {
    let (server, lines) = tcp_server();
    let sessions = Setup::new(&[&STREAM]).sessions(logged(server, json!({ "batch_max_size": 3, "flush_limit": 1 })));
    (0..7).for_each(|_| end(&sessions, "10.0.0.1"));
    let count = |most: usize| std::iter::from_fn(|| lines.recv_timeout(SOON).ok()).take(most).count();
    assert_eq!(count(6), 6);
    assert!(lines.try_recv().is_err(), "the seventh waits");
    drop(sessions);
    assert_eq!(count(1), 1);
}

#[test]
fn a_server_that_comes_back_is_connected_anew() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = listener.local_addr().unwrap();
    let sessions = Setup::new(&[&STREAM]).sessions(logged(server, json!({ "flush_limit": 1, "batch_max_size": 1 })));
    for _ in 0..2 {
        end(&sessions, "10.0.0.1");
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        entry(line.trim_end());
    }
}

/// Sessions of this configuration, and the metrics of their node.
fn counted(config: Value) -> (Sessions, Arc<Registry>) {
    let shared: Arc<Shared> = Arc::default();
    let registry = crate::exporting::registry(&shared, None);
    (Setup::with(&[&STREAM], &Value::Null, Arc::new(NoSecrets), shared).sessions(config), registry)
}

/// How many lines have come to this end, of `sent` and `dropped`.
fn count(registry: &Registry, end: &str) -> u64 {
    let series = format!("apisix_exporter_{end}_total{{exporter=\"syslog\"}} ");
    registry.render().lines().find_map(|line| line.strip_prefix(&series)?.parse().ok()).unwrap_or(0)
}

/// Waits until so many lines are sent and dropped.
fn wait_for(registry: &Registry, sent: u64, dropped: u64) {
    let until = Instant::now() + SOON;
    while (count(registry, "sent"), count(registry, "dropped")) != (sent, dropped) {
        assert!(Instant::now() < until, "{}", registry.render());
        std::thread::yield_now();
    }
}

#[test]
fn what_is_more_than_drop_limit_is_dropped_at_once_and_nothing_else() {
    let (server, lines) = tcp_server();
    // Enough for one line, and not for two.
    let members =
        json!({ "drop_limit": 130, "flush_limit": 1, "batch_max_size": 2, "max_retry_count": 1, "retry_delay": 3600 });
    let (sessions, registry) = counted(logged(server, members));
    (0..2).for_each(|_| end(&sessions, "10.0.0.1"));
    entry(&lines.recv_timeout(SOON).unwrap());
    wait_for(&registry, 1, 1);
}

#[test]
fn lines_count_as_sent_once_they_are_and_as_dropped_if_the_end_loses_them() {
    let (server, lines) = tcp_server();
    let (sessions, registry) = counted(logged(server, json!({ "flush_limit": 200, "batch_max_size": 1 })));
    (0..3).for_each(|_| end(&sessions, "10.0.0.1"));
    // Two are less than what is sent, and go with the third.
    (0..3).for_each(|_| drop(entry(&lines.recv_timeout(SOON).unwrap())));
    wait_for(&registry, 3, 0);
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (sessions, registry) = counted(logged(nobody, json!({ "flush_limit": 1_000_000, "batch_max_size": 1 })));
    end(&sessions, "10.0.0.1");
    drop(sessions);
    wait_for(&registry, 0, 1);
}

#[test]
fn where_there_is_no_tls_nothing_is_sent_in_the_clear() {
    let (server, lines) = tcp_server();
    let (sessions, registry) = counted(logged(server, json!({ "tls": true, "flush_limit": 1, "batch_max_size": 1 })));
    end(&sessions, "10.0.0.1");
    wait_for(&registry, 0, 1);
    assert!(lines.try_recv().is_err());
}

#[test]
fn faults_are_found_on_write() {
    let check = |members: Value, path: &str| {
        let faults = Setup::new(&[&STREAM]).faults(logged(([127, 0, 0, 1], 514).into(), members.clone()));
        assert!(faults.iter().any(|fault| fault.path == format!("/syslog{path}")), "{members}: {faults:?}");
    };
    check(json!({ "port": "514" }), "/port");
    check(json!({ "sock_type": "tls" }), "/sock_type");
    check(json!({ "pool_size": 4 }), "/pool_size");
    check(json!({ "flush_limit": 0 }), "/flush_limit");
    check(json!({ "timeout": 0 }), "/timeout");
    check(json!({ "tls": true, "sock_type": "udp" }), "/tls");
    check(json!({ "batch_max_size": 0 }), "/batch_max_size");
}
