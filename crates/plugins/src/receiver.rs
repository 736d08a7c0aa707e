//! A server for tests that takes what is posted to it, and says 200.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{self, Sender};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);

/// Something posted.
pub(crate) struct Posted {
    pub(crate) target: String,
    /// Names in lower case.
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Posted {
    /// A header; empty if it is not there.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }
}

/// The server.
pub(crate) struct Receiver {
    address: SocketAddr,
    posted: mpsc::Receiver<Posted>,
}

impl Receiver {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (tell, posted) = mpsc::channel();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let tell = tell.clone();
                std::thread::spawn(move || serve(stream, &tell));
            }
        });
        Self { address, posted }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What is posted next.
    pub(crate) fn next(&self) -> Posted {
        self.posted.recv_timeout(SOON).expect("something is posted")
    }
}

fn serve(stream: TcpStream, tell: &Sender<Posted>) {
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if !reader.read_line(&mut line).is_ok_and(|read| read > 0) {
            return;
        }
        let target = line.split(' ').nth(1).unwrap().to_owned();
        let mut headers = Vec::new();
        loop {
            line.clear();
            reader.read_line(&mut line).unwrap();
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let mut posted = Posted { target, headers, body: Vec::new() };
        posted.body.resize(posted.header("content-length").parse().unwrap(), 0);
        reader.read_exact(&mut posted.body).unwrap();
        if tell.send(posted).is_err() {
            return;
        }
        write!(reader.get_mut(), "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
    }
}
