//! Bodies of any length pass in bounded memory.

use milecastle_testkit::{Call, Target};
use milecastle_tests::Up;
use serde_json::json;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

/// Bytes of a body.
const SIZE: usize = 384 << 20;
/// What all of them together may cost of memory: less than a quarter of one. What the allocator has yet to give back comes to some
/// tens of MiB, however long a body is.
const ROOM: u64 = (SIZE / 4) as u64;
/// Bytes that are sent at once, and of a chunk.
const PIECE: usize = 64 << 10;
/// How long an exchange may take on a busy machine.
const LONG: Duration = Duration::from_secs(120);

/// Reads up to the empty line behind a head; `None` if the connection has ended.
fn read_head(reader: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Ok(None);
        }
    }
    Ok(Some(head.to_ascii_lowercase()))
}

/// Reads the body behind a head, and gives its length.
fn read_body(reader: &mut impl BufRead, head: &str) -> io::Result<u64> {
    if !head.contains("transfer-encoding: chunked") {
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        return io::copy(&mut reader.by_ref().take(length.unwrap_or(0)), &mut io::sink());
    }
    let mut all = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let size = u64::from_str_radix(line.trim_end(), 16).map_err(io::Error::other)?;
        // The end of the line belongs to the chunk, or ends the body.
        io::copy(&mut reader.by_ref().take(size + 2), &mut io::sink())?;
        if size == 0 {
            return Ok(all);
        }
        all += size;
    }
}

/// Sends what stands before the framing fields of a head, these, and the body.
fn send(stream: &mut impl Write, head: &str, chunked: bool) -> io::Result<()> {
    if !chunked {
        write!(stream, "{head}Content-Length: {SIZE}\r\n\r\n")?;
        return (0..SIZE / PIECE).try_for_each(|_| stream.write_all(&[b'z'; PIECE]));
    }
    write!(stream, "{head}Transfer-Encoding: chunked\r\n\r\n")?;
    let chunk = [format!("{PIECE:x}\r\n").as_bytes(), &[b'z'; PIECE], b"\r\n"].concat();
    (0..SIZE / PIECE).try_for_each(|_| stream.write_all(&chunk))?;
    stream.write_all(b"0\r\n\r\n")
}

/// An upstream that reads a body and sends one: in chunks, if the target says so.
fn upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || serve(stream));
        }
    });
    address
}

fn serve(mut stream: TcpStream) -> io::Result<()> {
    let mut reader = BufReader::with_capacity(PIECE, stream.try_clone()?);
    while let Some(head) = read_head(&mut reader)? {
        let got = read_body(&mut reader, &head)?;
        if head.starts_with("get ") {
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n")?;
        } else {
            send(&mut stream, &format!("HTTP/1.1 200 OK\r\nX-Got: {got}\r\n"), head.starts_with("post /chunked "))?;
        }
    }
    Ok(())
}

/// Sends a body and reads the answer's, whose length it gives, over HTTP/1.1.
fn exchange(gateway: SocketAddr, target: &str, chunked: bool) -> io::Result<u64> {
    let mut stream = TcpStream::connect(gateway)?;
    send(&mut stream, &format!("POST {target} HTTP/1.1\r\nHost: h\r\n"), chunked)?;
    let mut reader = BufReader::with_capacity(PIECE, stream);
    let head = read_head(&mut reader)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    assert!(head.starts_with("http/1.1 200 ") && head.contains(&format!("x-got: {SIZE}\r\n")), "{head}");
    read_body(&mut reader, &head)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_pass_in_bounded_memory() {
    let up = Up::start();
    let upstream = json!({ "nodes": { upstream().to_string(): 1 } });
    up.put("/routes/r", json!({ "uri": "/*", "upstream": upstream })).await;
    up.answers("/length", 204).await;
    let before = up.process.resident_bytes();
    let bounded = |way: &str| {
        let grown = up.process.resident_bytes().saturating_sub(before);
        eprintln!("{} MiB both ways, {way}: resident memory grew by {grown} bytes", SIZE >> 20);
        assert!(grown < ROOM, "{way}: {grown} bytes");
    };
    for (target, chunked) in [("/length", false), ("/chunked", true)] {
        let gateway = up.http;
        let exchanged = tokio::task::spawn_blocking(move || exchange(gateway, target, chunked)).await.unwrap();
        assert_eq!(exchanged.unwrap(), SIZE as u64, "{target}");
        bounded(target);
    }
    let mut connection = Target::plain(up.http).http2().connect().await.unwrap();
    for target in ["/length", "/chunked"] {
        let call = Call::post(target, vec![b'z'; SIZE]).within(LONG);
        let answer = call.send(&mut connection).await.unwrap();
        assert_eq!((answer.status, answer.header("x-got"), answer.body.len()), (200, SIZE.to_string(), SIZE));
        bounded(&format!("HTTP/2 {target}"));
    }
    drop(up.stop());
}
