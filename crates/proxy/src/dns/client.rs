//! Asking resolvers.

use super::message::{BadMessage, Data, Kind, Message, Record};
use super::name::Name;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};

/// Aliases that are followed one after the other.
const MOST_ALIASES: usize = 8;
/// How much of a UDP message is read: more than we ask for.
const UDP_ROOM: usize = 4096;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DnsError {
    /// No resolver is configured.
    #[error("no resolver is configured")]
    NoServers,
    /// It took too long.
    #[error("{0} does not answer")]
    Late(SocketAddr),
    /// The network says why.
    #[error("{0}: {1}")]
    Network(SocketAddr, io::Error),
    /// The resolver cannot tell.
    #[error("{0} answers with error {1}")]
    Refused(SocketAddr, u8),
    /// What it sent is no answer.
    #[error("{0}: {1}")]
    Malformed(SocketAddr, BadMessage),
    /// Aliases lead on and on.
    #[error("more than {MOST_ALIASES} aliases lead from one to the next")]
    Aliases,
}

/// What there is of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    /// Records of the kind that was asked for, at the end of all aliases; empty if there are none, or no such name.
    pub(crate) records: Vec<Record>,
    /// Addresses that came along.
    pub(crate) additional: Vec<(Name, IpAddr)>,
    /// How long this holds; `None` if nobody says.
    pub(crate) ttl: Option<Duration>,
}

/// Asks a list of resolvers.
#[derive(Debug)]
pub(crate) struct Client {
    servers: Vec<SocketAddr>,
    timeout: Duration,
    tries: u32,
}

impl Client {
    /// `timeout` is for one try at one of the `servers`, `tries` are over all of them.
    pub(crate) fn new(servers: Vec<SocketAddr>, timeout: Duration, tries: u32) -> Self {
        Self { servers, timeout, tries }
    }

    /// The records of one kind that a name has; aliases are followed.
    ///
    /// # Errors
    /// No resolver could tell. That a name does not exist is no error.
    pub(crate) async fn find(&self, name: &Name, kind: Kind) -> Result<Found, DnsError> {
        let mut wanted = name.clone();
        let mut holds: Option<u32> = None;
        for _ in 0..=MOST_ALIASES {
            let answer = self.ask(&wanted, kind).await?;
            // An answer has its aliases in it, as a rule down to the records.
            let mut aliases = 0;
            while let Some((target, ttl)) = alias(&answer, &wanted) {
                aliases += 1;
                if aliases > MOST_ALIASES {
                    return Err(DnsError::Aliases);
                }
                holds = least(holds, ttl);
                wanted = target.clone();
            }
            let negative = answer.negative_ttl();
            let of_it = |record: &&Record| record.name == wanted && is(&record.data, kind);
            let records: Vec<Record> = answer.records.iter().filter(of_it).cloned().collect();
            let ends_in_alias = records.is_empty() && aliases > 0 && answer.code == 0 && negative.is_none();
            if ends_in_alias {
                continue;
            }
            let ttl = records.iter().map(|record| record.ttl).min().or(negative);
            let holds = ttl.map_or(holds, |ttl| least(holds, ttl));
            let additional = answer.records.iter().filter_map(|record| match record.data {
                Data::Address(ip) => Some((record.name.clone(), ip)),
                _ => None,
            });
            return Ok(Found {
                records,
                additional: additional.collect(),
                ttl: holds.map(|secs| Duration::from_secs(secs.into())),
            });
        }
        Err(DnsError::Aliases)
    }

    /// One question, to one resolver after the other.
    async fn ask(&self, name: &Name, kind: Kind) -> Result<Message, DnsError> {
        let mut failed = DnsError::NoServers;
        let tries = usize::try_from(self.tries).unwrap_or(usize::MAX);
        for server in self.servers.iter().cycle().take(if self.servers.is_empty() { 0 } else { tries }) {
            match tokio::time::timeout(self.timeout, exchange(*server, name, kind)).await {
                Ok(Ok(answer)) if matches!(answer.code, 0 | 3) => return Ok(answer),
                Ok(Ok(answer)) => failed = DnsError::Refused(*server, answer.code),
                Ok(Err(error)) => failed = error,
                Err(_) => failed = DnsError::Late(*server),
            }
        }
        Err(failed)
    }
}

/// Where a name leads, and how long that holds.
fn alias<'a>(answer: &'a Message, name: &Name) -> Option<(&'a Name, u32)> {
    answer.records.iter().filter(|record| record.name == *name).find_map(|record| match &record.data {
        Data::Alias(target) => Some((target, record.ttl)),
        _ => None,
    })
}

fn least(known: Option<u32>, other: u32) -> Option<u32> {
    Some(known.map_or(other, |known| known.min(other)))
}

/// Whether a record is of a kind.
fn is(data: &Data, kind: Kind) -> bool {
    match data {
        Data::Address(IpAddr::V4(_)) => kind == Kind::A,
        Data::Address(IpAddr::V6(_)) => kind == Kind::Aaaa,
        Data::Service { .. } => kind == Kind::Srv,
        Data::Alias(_) | Data::Negative(_) => false,
    }
}

/// One question to one resolver, by UDP, and by TCP where the answer does not fit. Port and number are new for each question,
/// so that nobody who does not see it can answer in the resolver's place.
async fn exchange(server: SocketAddr, name: &Name, kind: Kind) -> Result<Message, DnsError> {
    let network = |error| DnsError::Network(server, error);
    let mut id = [0; 2];
    aws_lc_rs::rand::fill(&mut id).map_err(|_| network(io::Error::other("no random numbers")))?;
    let id = u16::from_be_bytes(id);
    let question = Message::question(id, name, kind);
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await.map_err(network)?;
    socket.connect(server).await.map_err(network)?;
    socket.send(&question).await.map_err(network)?;
    let mut room = vec![0; UDP_ROOM];
    let answer = loop {
        let length = socket.recv(&mut room).await.map_err(network)?;
        match Message::answer(&room[..length], id, name, kind) {
            Ok(answer) => break answer,
            // Late answers to other questions, and forged ones: the right one may still come.
            Err(BadMessage::Other) => {}
            Err(bad) => return Err(DnsError::Malformed(server, bad)),
        }
    };
    if !answer.truncated {
        return Ok(answer);
    }
    let mut stream = TcpStream::connect(server).await.map_err(network)?;
    let length = u16::try_from(question.len()).expect("a question holds one name");
    stream.write_all(&[&length.to_be_bytes()[..], &question].concat()).await.map_err(network)?;
    let mut whole = vec![0; usize::from(stream.read_u16().await.map_err(network)?)];
    stream.read_exact(&mut whole).await.map_err(network)?;
    Message::answer(&whole, id, name, kind).map_err(|bad| DnsError::Malformed(server, bad))
}
