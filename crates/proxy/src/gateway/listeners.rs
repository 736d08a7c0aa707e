//! Opening what a gateway listens on, and spreading the sockets over its workers.

use super::{LocalAddr, Served, StartError};
use crate::config::{self, GatewayConfig, Listen};
use crate::counters::Counters;
use crate::handover::{Address, Inherited, Listening, Transport};
use crate::stream::{StreamListen, UdpDoor};
use crate::worker::{self, Door, Doors, ListenError, Mail, QuicDoor};
use std::net::{SocketAddr, TcpListener, UdpSocket};

/// Everything that is listened on.
pub(super) struct Listeners {
    /// One for each worker.
    pub(super) doors: Vec<Doors>,
    /// In the order of the configuration.
    pub(super) addrs: Vec<LocalAddr>,
    /// What another process needs that takes them over.
    pub(super) listening: Vec<Listening>,
}

impl Listeners {
    /// Opens all of them, or takes sockets that are `inherited`.
    ///
    /// # Errors
    /// An address is taken, or the system gives no descriptor.
    pub(super) fn open(
        config: &GatewayConfig,
        counters: &Counters,
        inherited: &mut Inherited,
    ) -> Result<Self, StartError> {
        let doors = (0..config.workers).map(|_| Doors::default()).collect();
        let mut all = Self { doors, addrs: Vec::new(), listening: Vec::new() };
        for listen in &config.listens {
            all.tcp(listen, config, counters, inherited)?;
        }
        for &configured in &config.udp {
            all.udp(configured, counters, inherited)?;
        }
        Ok(all)
    }

    /// A listener of HTTP or TCP sessions, with HTTP/3 on the UDP port of the same number where that is configured.
    fn tcp(
        &mut self,
        listen: &Listen,
        config: &GatewayConfig,
        counters: &Counters,
        inherited: &mut Inherited,
    ) -> Result<(), StartError> {
        let (addr, sockets, datagrams) = sockets(listen, config.workers, inherited)?;
        let address =
            Address { transport: Transport::Tcp, key: listen.key.to_owned(), configured: listen.addr, bound: addr };
        self.listening.push(Listening::of(address, &sockets)?);
        let (served, stream) = match listen.served {
            config::Served::Http => (Served::Http, None),
            config::Served::Stream { proxy_protocol_to_upstream } => {
                let counters = counters.stream_listener(addr);
                (Served::Tcp, Some(StreamListen { proxy_protocol_to_upstream, counters }))
            }
        };
        self.addrs.push(LocalAddr { addr, tls: listen.tls, served, proxy_protocol: listen.proxy_protocol });
        let alternative = if listen.http3 { config.http3.alternative(addr.port()) } else { None };
        let listen = Listen { addr, alternative, ..listen.clone() };
        for (socket, worker) in sockets.into_iter().zip((0..config.workers).cycle()) {
            self.doors[worker].tcp.push(Door { listen: listen.clone(), socket, stream: stream.clone() });
        }
        if listen.http3 {
            self.quic(&listen, datagrams)?;
        }
        Ok(())
    }

    /// The sockets of HTTP/3 beside an opened listener of TCP.
    fn quic(&mut self, listen: &Listen, sockets: Vec<UdpSocket>) -> Result<(), StartError> {
        let addr = listen.addr;
        let address = Address { transport: Transport::Udp, key: listen.key.to_owned(), configured: addr, bound: addr };
        self.listening.push(Listening::of(address, &sockets)?);
        self.addrs.push(LocalAddr { addr, tls: true, served: Served::Http3, proxy_protocol: false });
        let mail = Mail::new(sockets.len());
        let workers = self.doors.len();
        for (place, socket) in sockets.into_iter().enumerate() {
            let door = QuicDoor { listen: listen.clone(), socket, place, mail: mail.clone() };
            self.doors[place % workers].quic.push(door);
        }
        Ok(())
    }

    /// A listener of UDP sessions.
    fn udp(
        &mut self,
        configured: SocketAddr,
        counters: &Counters,
        inherited: &mut Inherited,
    ) -> Result<(), StartError> {
        const KEY: &str = "apisix.stream_proxy.udp";
        let workers = self.doors.len();
        let (addr, sockets) = worker::listen_udp(configured, KEY, workers, inherited)?;
        let address = Address { transport: Transport::Udp, key: KEY.to_owned(), configured, bound: addr };
        self.listening.push(Listening::of(address, &sockets)?);
        let counters = counters.stream_listener(addr);
        self.addrs.push(LocalAddr { addr, tls: false, served: Served::Udp, proxy_protocol: false });
        for (socket, worker) in sockets.into_iter().zip((0..workers).cycle()) {
            self.doors[worker].udp.push(UdpDoor { addr, socket, counters: counters.clone() });
        }
        Ok(())
    }
}

/// Opens the sockets of a TCP listener, and where it has HTTP/3 those of the UDP port of the same number.
fn sockets(
    listen: &Listen,
    workers: usize,
    inherited: &mut Inherited,
) -> Result<(SocketAddr, Vec<TcpListener>, Vec<UdpSocket>), ListenError> {
    // A port that the system has chosen may be taken by other datagrams.
    const TRIES: usize = 10;
    let chosen = listen.addr.port() == 0 && !inherited.has(Transport::Tcp, listen.key, listen.addr);
    let mut tries = 0;
    loop {
        let (addr, streams) = worker::listen(listen.addr, listen.key, workers, inherited)?;
        if !listen.http3 {
            return Ok((addr, streams, Vec::new()));
        }
        tries += 1;
        match worker::listen_udp(addr, listen.key, workers, inherited) {
            Ok((_, datagrams)) => return Ok((addr, streams, datagrams)),
            Err(_) if chosen && tries < TRIES => {}
            Err(error) => return Err(error),
        }
    }
}
