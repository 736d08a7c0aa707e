//! The cases of HTTP/2 over HTTP/3, with aioquic as the client.
//!
//! A case that is illegal may be refused where over HTTP/2 a library drops what is wrong with it.

use super::corpus::{self, Case, Expected, Part};
use super::{canonical, compare, exchange};
use crate::http3::Site;
use crate::http3::client::Client;
use milecastle_testkit::eventually;
use serde_json::{Value, json};
use std::fmt::Write as _;

const DATA: u8 = 0;
const HEADERS: u8 = 1;

/// The stream of a request.
pub(super) fn lay_out(parts: &[Part]) -> Vec<u8> {
    let fields = |trailers: bool| {
        let mut block = vec![0, 0];
        for part in parts {
            match part {
                Part::Field(name, value) if !trailers => put_field(&mut block, name, value),
                Part::Trailer(name, value) if trailers => put_field(&mut block, name, value),
                _ => {}
            }
        }
        frame(HEADERS, &block)
    };
    let data = parts.iter().filter_map(|part| if let Part::Data(data) = part { Some(frame(DATA, data)) } else { None });
    let has_trailers = parts.iter().any(|part| matches!(part, Part::Trailer(..)));
    let trailers = if has_trailers { fields(true) } else { Vec::new() };
    [fields(false), data.collect::<Vec<_>>().concat(), trailers].concat()
}

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap() | 0x8000_0000;
    [&[kind][..], &length.to_be_bytes(), payload].concat()
}

/// A field with a literal name (RFC 9204 §4.5.6), without Huffman coding.
fn put_field(block: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    put_number(block, 0x20, 3, name.len());
    block.extend(name);
    put_number(block, 0, 7, value.len());
    block.extend(value);
}

/// A number behind the `sign` in its first byte, which leaves `bits` for it (RFC 7541 §5.1).
fn put_number(block: &mut Vec<u8>, sign: u8, bits: u32, number: usize) {
    let most = (1 << bits) - 1;
    let Some(mut rest) = number.checked_sub(most) else { return block.push(sign | number as u8) };
    block.push(sign | most as u8);
    while rest >= 128 {
        block.push((rest % 128) as u8 | 128);
        rest /= 128;
    }
    block.push(rest as u8);
}

/// What became of a case.
enum Outcome {
    Answered,
    Rejected,
}

/// Sends a case. The client is given back if its connection goes on.
fn run(mut client: Client, case: &Case, stream: &[u8]) -> (Result<Outcome, String>, Option<Client>) {
    let head = matches!(&case.expected[..], [Expected::Passed(passed)] if passed.method == "HEAD");
    let mut bytes = String::new();
    stream.iter().for_each(|byte| write!(bytes, "{byte:02x}").unwrap());
    let told = client.ask(json!({ "do": "raw", "bytes": [bytes], "end": true, "head": head }));
    let (closed, reset) = (told["closed"] != Value::Null, told["reset"] != Value::Null);
    let outcome = match (told["status"].as_u64(), &case.expected[..]) {
        (Some(200), [Expected::Passed(_)]) if !closed && !reset => Ok(Outcome::Answered),
        (Some(400 | 405 | 431), [Expected::Rejected]) => Ok(Outcome::Rejected),
        (_, [Expected::Rejected]) if closed || reset => Ok(Outcome::Rejected),
        (Some(400 | 405 | 431), _) if !case.legal => Ok(Outcome::Rejected),
        (_, _) if !case.legal && (closed || reset) => Ok(Outcome::Rejected),
        _ => Err(format!("answered with {told}")),
    };
    if closed {
        return (outcome, None);
    }
    let behind = client.request(exchange::BEHIND, json!({ "authority": "behind.test" }));
    match behind["status"].as_u64() {
        Some(200) => (outcome, Some(client)),
        _ => (Err(format!("the request behind is answered with {behind}")), None),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_http3_the_recorder_gets_what_was_meant() {
    let site = Site::start(&[("MILECASTLE_LOG", "warn,milecastle=info")]).await;
    site.route("all", "/*", json!({ "proxy-rewrite": { "headers": { "set": { "X-Gateway": "1" } } } })).await;
    eventually("the route is in force", async || {
        site.up.get("/").await;
        site.echo.take().iter().any(|request| !request.header("x-gateway").is_empty())
    })
    .await;
    let (mut faults, mut open, mut tried) = (Vec::new(), None, 0);
    for mut case in corpus::read() {
        let Some(stream) = case.http3.take() else { continue };
        let (outcome, goes_on) = run(open.take().unwrap_or_else(|| site.client()), &case, &stream);
        (open, tried) = (goes_on, tried + 1);
        let received = site.echo.take();
        match outcome {
            Err(fault) => faults.push(format!("{}: {fault}", case.at)),
            Ok(Outcome::Rejected) => case.expected = vec![Expected::Rejected],
            Ok(Outcome::Answered) => {}
        }
        as_over_tls(&mut case);
        faults.extend(compare(&case, &received).map(|fault| format!("{}: {fault}", case.at)));
        let odd = received.iter().filter_map(|request| canonical::check(request).err());
        faults.extend(odd.map(|fault| format!("{}: {fault}", case.at)));
    }
    eprintln!("{tried} cases over HTTP/3");
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
    site.stop().await;
}

/// What the gateway says of the connection differs: cases are written for cleartext.
fn as_over_tls(case: &mut Case) {
    for expected in &mut case.expected {
        if let Expected::Passed(passed) = expected {
            let said = passed.fields.iter_mut().filter(|(name, _)| name == "x-forwarded-proto");
            said.for_each(|(_, value)| *value = "https".to_owned());
        }
    }
}
