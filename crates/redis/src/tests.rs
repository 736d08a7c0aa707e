//! A server against the real Redis, and against one that misbehaves.

use crate::{Server, Servers, Terms, Unanswered, Value, command};
use milecastle_export::{Background, Endpoint, Tls};
use milecastle_telemetry::metrics::{Counter, Handle, Registry};
use milecastle_testkit::{Redis, eventually, nowhere};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;

fn terms(address: SocketAddr) -> Terms {
    Terms {
        endpoint: Endpoint { host: address.ip().to_string(), port: address.port(), tls: Tls::None },
        username: None,
        password: None,
        database: 0,
        patience: Duration::from_secs(10),
        rest: Duration::from_secs(10),
        pause: Duration::ZERO,
        pending: 64,
    }
}

fn server(terms: &Terms) -> Arc<Server> {
    counted(terms).0
}

/// A server, and what counts the questions for which there is no room.
fn counted(terms: &Terms) -> (Arc<Server>, Handle<Counter>) {
    let refused = Registry::default().limit_hits().unwrap().with(&["pending"]);
    (Servers::new(refused.clone()).get(terms, &Arc::default()), refused)
}

async fn incremented(server: &Arc<Server>) -> Result<Value, Unanswered> {
    server.ask(command(&[b"INCR", b"n"])).await
}

/// Waits until no connection has the server any more.
async fn ended(server: &Arc<Server>) {
    eventually("the connection ends", async || Arc::strong_count(server) == 1).await;
}

#[tokio::test]
async fn answers_come_in_the_order_of_questions() {
    let redis = Redis::start();
    let server = server(&terms(redis.address()));
    let asked: Vec<_> = (0..50)
        .map(|n: usize| {
            let server = server.clone();
            tokio::spawn(async move { server.ask(command(&[b"ECHO", n.to_string().as_bytes()])).await })
        })
        .collect();
    for (n, answer) in asked.into_iter().enumerate() {
        assert_eq!(answer.await.unwrap(), Ok(Value::Text(n.to_string().into())));
    }
    assert_eq!(server.ask(command(&[b"NONSENSE"])).await, Err(Unanswered));
    assert_eq!(incremented(&server).await, Ok(Value::Integer(1)), "a refusal ends no connection");
}

#[tokio::test]
async fn a_connection_that_has_rested_is_closed_and_the_next_question_opens_another() {
    let redis = Redis::start();
    let server = server(&Terms { rest: Duration::from_millis(1), ..terms(redis.address()) });
    for n in 1..=3 {
        assert_eq!(incremented(&server).await, Ok(Value::Integer(n)));
        ended(&server).await;
    }
}

#[tokio::test]
async fn a_connection_that_the_server_closed_is_opened_again() {
    let redis = Redis::start();
    let server = server(&terms(redis.address()));
    for n in 1..=3 {
        assert_eq!(incremented(&server).await, Ok(Value::Integer(n)));
        redis.say(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        ended(&server).await;
    }
}

#[tokio::test]
async fn whoever_does_not_answer_ends_all_questions() {
    assert_eq!(incremented(&server(&terms(nowhere()))).await, Err(Unanswered));
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let impatient = Terms { patience: Duration::from_millis(50), ..terms(silent.local_addr().unwrap()) };
    assert_eq!(incremented(&server(&impatient)).await, Err(Unanswered));
}

#[tokio::test]
async fn a_server_that_lets_nobody_in_is_not_asked_at_once_again() {
    let redis = Redis::start();
    let wrong = Terms { password: Some("wrong".to_owned().into()), ..terms(redis.address()) };
    let connected = || {
        let stats = redis.say(&["INFO", "stats"]);
        let count = stats.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
        count.unwrap().trim().parse::<u64>().unwrap()
    };
    // Whoever says that is one himself.
    for (pause, tries) in [(Duration::ZERO, 6), (Duration::from_secs(3600), 2)] {
        let (server, before) = (server(&Terms { pause, ..wrong.clone() }), connected());
        for _ in 0..5 {
            assert_eq!(incremented(&server).await, Err(Unanswered));
            ended(&server).await;
        }
        assert_eq!(connected() - before, tries, "with a pause of {pause:?}");
    }
}

#[tokio::test]
async fn a_server_that_takes_connections_and_answers_nothing_is_not_asked_at_once_again() {
    let (brief, long) = (Duration::from_millis(50), Duration::from_secs(10));
    for (said, patience) in [(Some(""), long), (Some("-ERR max number of clients reached\r\n"), long), (None, brief)] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let terms = Terms { patience, pause: Duration::from_secs(3600), ..terms(listener.local_addr().unwrap()) };
        let server = server(&terms);
        let other = async {
            let (mut connection, _) = listener.accept().await.unwrap();
            let Some(said) = said else { return Some(connection) };
            connection.write_all(said.as_bytes()).await.unwrap();
            None
        };
        let (answer, _connection) = tokio::join!(incremented(&server), other);
        assert_eq!(answer, Err(Unanswered), "{said:?}");
        ended(&server).await;
        for _ in 0..4 {
            assert_eq!(incremented(&server).await, Err(Unanswered), "{said:?}");
            ended(&server).await;
        }
        let again = listener.into_std().unwrap().accept();
        assert_eq!(again.map(drop).map_err(|e| e.kind()), Err(ErrorKind::WouldBlock), "{said:?}");
    }
}

#[test]
fn a_pause_lasts_no_less_than_the_wait_that_was_in_vain() {
    let pauses = [(Duration::ZERO, false), (Duration::from_millis(1), true), (Duration::MAX, true)];
    for (pause, is_barred) in pauses {
        let server = server(&Terms { pause, ..terms(nowhere()) });
        assert!(!server.is_barred());
        server.bar(Duration::from_secs(3600));
        server.bar(Duration::ZERO);
        assert_eq!(server.is_barred(), is_barred, "{pause:?}");
    }
}

#[tokio::test]
async fn a_server_that_has_become_a_replica_is_left_and_asked_again_after_the_pause() {
    let redis = Redis::start();
    let [at_once, later] =
        [Duration::ZERO, Duration::from_secs(3600)].map(|pause| server(&Terms { pause, ..terms(redis.address()) }));
    assert_eq!(incremented(&at_once).await, Ok(Value::Integer(1)));
    assert_eq!(incremented(&later).await, Ok(Value::Integer(2)));
    redis.say(&["REPLICAOF", "127.0.0.1", &nowhere().port().to_string()]);
    for server in [&at_once, &later] {
        assert_eq!(incremented(server).await, Err(Unanswered));
        ended(server).await;
    }
    redis.say(&["REPLICAOF", "NO", "ONE"]);
    assert_eq!(incremented(&at_once).await, Ok(Value::Integer(3)));
    assert_eq!(incremented(&later).await, Err(Unanswered));
}

#[tokio::test]
async fn a_server_that_has_come_to_ask_for_a_password_is_left() {
    let redis = Redis::start_with(&[], Some("secret"), None);
    let server = server(&terms(redis.address()));
    assert_eq!(incremented(&server).await, Err(Unanswered));
    ended(&server).await;
}

#[tokio::test]
async fn a_server_that_is_not_the_one_to_be_asked_is_left() {
    for said in [
        "-LOADING Redis is loading the dataset in memory\r\n",
        "-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.\r\n",
        // As versions before 7 say it of a script.
        "-ERR Error running script (call to f_0): @user_script:5: @user_script: 5: -READONLY You can't write against a read \
         only replica.\r\n",
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = server(&terms(listener.local_addr().unwrap()));
        let other = std::thread::spawn(move || {
            let (mut connection, _) = listener.accept().unwrap();
            let mut question = [0; 64];
            assert_ne!(connection.read(&mut question).unwrap(), 0);
            connection.write_all(said.as_bytes()).unwrap();
            connection.read(&mut question).unwrap()
        });
        assert_eq!(incremented(&server).await, Err(Unanswered), "{said:?}");
        ended(&server).await;
        assert_eq!(other.join().unwrap(), 0, "{said:?}");
    }
}

#[tokio::test]
async fn what_waits_is_bounded() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let (server, refused) = counted(&Terms { pending: 3, ..terms(silent.local_addr().unwrap()) });
    let ask = || {
        let server = server.clone();
        tokio::spawn(async move { incremented(&server).await })
    };
    let waiting: Vec<_> = (0..20).map(|_| ask()).collect();
    eventually("no more than twice as many wait", async || {
        waiting.iter().filter(|asked| !asked.is_finished()).count() <= 6
    })
    .await;
    assert!(waiting.iter().any(|asked| !asked.is_finished()));
    assert_eq!(refused.get(), waiting.iter().filter(|asked| asked.is_finished()).count() as u64);
}

#[tokio::test]
async fn a_server_that_does_not_speak_the_protocol_is_left() {
    for said in ["HTTP/1.1 400 Bad Request\r\n\r\n", ":1\r\n:2\r\n", ""] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = server(&terms(listener.local_addr().unwrap()));
        let other = std::thread::spawn(move || {
            let (mut connection, _) = listener.accept().unwrap();
            let mut question = [0; 64];
            assert_ne!(connection.read(&mut question).unwrap(), 0);
            connection.write_all(said.as_bytes()).unwrap();
        });
        let answer = incremented(&server).await;
        // One answer too many is found after the first one was given.
        assert_eq!(answer.is_ok(), said.starts_with(':'), "{said:?}");
        other.join().unwrap();
    }
}

#[test]
fn servers_are_one_if_all_of_their_terms_are() {
    let refused = Registry::default().limit_hits().unwrap().with(&["pending"]);
    let (servers, background) = (Servers::new(refused), Arc::new(Background::default()));
    let here = terms("127.0.0.1:6379".parse().unwrap());
    let one = servers.get(&here, &background);
    assert!(Arc::ptr_eq(&one, &servers.get(&here, &background)));
    let others = [
        Terms { database: 1, ..here.clone() },
        Terms { username: Some("a".into()), ..here.clone() },
        Terms { password: Some("a".to_owned().into()), ..here.clone() },
        Terms { endpoint: Endpoint { tls: Tls::Unverified, ..here.endpoint.clone() }, ..here.clone() },
        Terms { endpoint: Endpoint { port: 1, ..here.endpoint.clone() }, ..here.clone() },
        Terms { endpoint: Endpoint { host: "b".into(), ..here.endpoint.clone() }, ..here.clone() },
    ];
    let others = others.map(|terms| servers.get(&terms, &background));
    for (n, other) in others.iter().enumerate() {
        assert!(!Arc::ptr_eq(other, &one));
        assert!(others.iter().skip(n + 1).all(|next| !Arc::ptr_eq(other, next)));
    }
}
