//! A successor that is killed, at each step of taking over.

use super::site::{START, Site};
use crate::tunnels::{open_at, say};
use milecastle_testkit::eventually;
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::Command;

/// What a successor says first.
fn take() -> Vec<u8> {
    let ask = json!({ "message": "take", "protocol": 1, "version": "0" }).to_string();
    [&u32::try_from(ask.len()).unwrap().to_le_bytes(), ask.as_bytes()].concat()
}

/// Reads a message; the sockets beside it are closed by the system, as those of a process that is killed are.
fn hear(channel: &mut UnixStream) -> Value {
    let mut length = [0; 4];
    channel.read_exact(&mut length).unwrap();
    let mut message = vec![0; u32::from_le_bytes(length) as usize];
    channel.read_exact(&mut message).unwrap();
    serde_json::from_slice(&message).unwrap()
}

/// To the process that runs, one that is killed is a conversation that ends: here after so many words of both sides.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wherever_the_conversation_ends_the_process_serves_on() {
    let site = Site::new("").await;
    let mut first = site.first().await;
    first.announce("did not take over");
    let mut tunnel = open_at(site.http).await;
    let socket = site.up.data.path().join("second-gateway/upgrade.sock");
    let connect = || {
        let channel = UnixStream::connect(&socket).unwrap();
        channel.set_read_timeout(Some(START)).unwrap();
        channel
    };
    for step in 0..4_usize {
        let mut channel = connect();
        match step {
            // It has said nothing.
            0 => {}
            // In the middle of its first word.
            1 => channel.write_all(&take()[..10]).unwrap(),
            // Before it has read anything.
            2 => channel.write_all(&take()).unwrap(),
            // It has the sockets, and builds its configuration.
            _ => {
                channel.write_all(&take()).unwrap();
                while hear(&mut channel)["message"] != "directory" {}
            }
        }
        drop(channel);
        // Of those that had said what they want, the process says that it serves on.
        let given_up = step.saturating_sub(1);
        let serves_on = || first.log().iter().filter(|line| line.contains("did not take over")).count();
        eventually("the process has noticed", async || serves_on() == given_up).await;
        // Changes are followed again, so nothing rests any more.
        site.put_answer(&format!("step-{step}"), "").await;
        site.answers(&format!("/step-{step}"), 202).await;
        say(&mut tunnel, b"still here").await;
        assert_eq!(site.census().await["process"]["pid"], first.id());
    }
    // One that lives takes over after all of them.
    site.replace(first, tunnel, "/step-3").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_successor_that_is_killed_with_the_sockets_in_its_hands_changes_nothing() {
    let site = Site::new("").await;
    let mut first = site.first().await;
    first.announce("did not take over");
    let mut tunnel = open_at(site.http).await;
    // Opening a pipe that nobody reads takes for ever: the successor has the sockets by then, and is not ready.
    let pipe = site.up.data.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let file = std::fs::read_to_string(&site.config).unwrap();
    let stuck = format!("{file}nginx_config: {{ http: {{ access_log: {} }} }}\n", pipe.display());
    std::fs::write(&site.config, stuck).unwrap();
    let mut successor = site.process("is killed", &["--upgrade"]);
    let asks = "a process asks for the sockets";
    first.wait_for_line(asks, START, |line| line.contains(asks).then_some(()));
    let pid = successor.id();
    // It has as many sockets as there are: of two workers on each of three TCP addresses, and those of the side servers.
    eventually("it has the sockets", async || {
        let open = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        let links = open.filter_map(|entry| std::fs::read_link(entry.path()).ok());
        links.filter(|link| link.to_string_lossy().starts_with("socket:")).count() > 6
    })
    .await;
    successor.kill();
    std::fs::write(&site.config, file).unwrap();
    let serves_on = "the other process did not take over; this one serves on";
    first.wait_for_line(serves_on, START, |line| line.contains(serves_on).then_some(()));
    site.put_answer("new", "").await;
    site.answers("/new", 202).await;
    say(&mut tunnel, b"still here").await;
    site.replace(first, tunnel, "/new").await;
}
