//! One case on a connection of its own.

use super::corpus::{Case, Expected};
use milecastle_testkit::frames::{END_HEADERS, END_STREAM, Frames, frame, kind, request};
use milecastle_testkit::raw::Raw;
use std::net::SocketAddr;

/// The request that is sent behind a case whose connection goes on. Its answer shows that the gateway and the client agree on
/// where the case has ended.
pub(super) const BEHIND: &str = "/behind";

/// An answer as far as it matters here.
struct Answer {
    status: u16,
    closes: bool,
}

/// Sends a case and checks that its answers are as expected. Returns the statuses of those that came from the origin.
pub(super) async fn run(gateway: SocketAddr, case: &Case) -> Result<Vec<u16>, String> {
    if case.http2 {
        return run_http2(gateway, case).await;
    }
    let mut client = Raw::connect(gateway).await.map_err(|error| error.to_string())?;
    client.send(&case.bytes).await.map_err(|error| error.to_string())?;
    let mut statuses = Vec::new();
    let mut closed = false;
    for expected in &case.expected {
        match expected {
            Expected::Passed(passed) => {
                let answer = read_answer(&mut client, passed.method == "HEAD").await?;
                statuses.push(answer.status);
                closed = answer.closes;
            }
            Expected::Refused(status) => {
                let answer = read_answer(&mut client, false).await?;
                if (answer.status, answer.closes) != (*status, true) {
                    return Err(format!("answered with {}, closes: {}", answer.status, answer.closes));
                }
                ends(&mut client).await?;
                return Ok(statuses);
            }
            Expected::Rejected => return Err("that is for HTTP/2".to_owned()),
            Expected::End => {
                ends(&mut client).await?;
                return Ok(statuses);
            }
            Expected::Unfinished => {
                client.finish_sending().await.map_err(|error| error.to_string())?;
                let said = client.read_to_end().await.map_err(|error| error.to_string())?;
                let said = String::from_utf8_lossy(&said);
                let nothing_but_400 = said.starts_with("HTTP/1.1 400 ") && said.matches("HTTP/1.1").count() == 1;
                return if said.is_empty() || nothing_but_400 { Ok(statuses) } else { Err(said.into_owned()) };
            }
        }
    }
    if closed {
        return Err("the answer says that the connection ends".to_owned());
    }
    let behind = format!("GET {BEHIND} HTTP/1.1\r\nHost: behind.test\r\nConnection: close\r\n\r\n");
    client.send(behind).await.map_err(|error| error.to_string())?;
    match read_answer(&mut client, false).await?.status {
        200 => ends(&mut client).await.map(|()| statuses),
        status => Err(format!("the request behind is answered with {status}")),
    }
}

/// The same over HTTP/2.
async fn run_http2(gateway: SocketAddr, case: &Case) -> Result<Vec<u16>, String> {
    let mut client = Frames::connect(gateway, &[]).await.map_err(|error| error.to_string())?;
    client.send(&case.bytes).await.map_err(|error| error.to_string())?;
    let answered = client.status(1).await.map_err(|error| error.to_string())?;
    let statuses = match (&case.expected[..], answered) {
        ([Expected::Passed(_)], Ok(status)) => vec![status],
        ([Expected::Rejected], Ok(400 | 405 | 431)) => Vec::new(),
        ([Expected::Rejected], Err(Some(frame))) if frame.kind == kind::RST_STREAM => Vec::new(),
        // The connection is at its end.
        ([Expected::Rejected], Err(_)) => return Ok(Vec::new()),
        (_, answered) => return Err(format!("answered with {answered:?}")),
    };
    let behind = frame(kind::HEADERS, END_HEADERS | END_STREAM, 3, &request("GET", BEHIND, "behind.test"));
    client.send(behind).await.map_err(|error| error.to_string())?;
    match client.status(3).await.map_err(|error| error.to_string())? {
        Ok(200) => Ok(statuses),
        behind => Err(format!("the request behind is answered with {behind:?}")),
    }
}

async fn ends(client: &mut Raw) -> Result<(), String> {
    let rest = client.read_to_end().await.map_err(|error| format!("the connection goes on: {error}"))?;
    if rest.is_empty() { Ok(()) } else { Err(format!("followed by {:?}", String::from_utf8_lossy(&rest))) }
}

/// Reads an answer to its end, and passes over interim ones.
async fn read_answer(client: &mut Raw, to_head: bool) -> Result<Answer, String> {
    loop {
        let head = client.read_head().await.map_err(|error| format!("no answer: {error}"))?;
        let status: u16 = head.split(' ').nth(1).and_then(|word| word.parse().ok()).ok_or_else(|| head.clone())?;
        if status < 200 {
            continue;
        }
        let lower = head.to_ascii_lowercase();
        let field = |name: &str| lower.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        if !to_head && field("transfer-encoding") == Some("chunked") {
            client.read_until(b"0\r\n\r\n").await.map_err(|error| error.to_string())?;
        } else if !to_head {
            let length = field("content-length").and_then(|value| value.parse().ok()).ok_or_else(|| head.clone())?;
            client.read_exact(length).await.map_err(|error| error.to_string())?;
        }
        return Ok(Answer { status, closes: field("connection") == Some("close") });
    }
}
