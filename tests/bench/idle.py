#!/usr/bin/env python3
"""What kept connections take of memory while nothing happens on them.

Each proxy is given N connections, of HTTP/1.1, of HTTP/1.1 over TLS, and of HTTP/2 over TLS; one request is answered on
each, and then they rest. Its memory (PSS of the process tree) is read before and after; what the kernel keeps for the
sockets is not in it, and is the same for all.

  idle.py [--connections 10000] [--tls-connections 10000] [--peers nginx,haproxy,envoy] [--proxy SPEC] [--json FILE]

SPEC is as in compare.py. `cargo xtask bench idle` runs this with Milecastle as the proxy.
"""
import argparse
import json
import resource
import shutil
import socket
import ssl
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

from compare import GRPC_ORIGIN, ORIGIN, PEERS, Child, need_free, nginx_argv, prepare, rss_mib, start_proxies, wait_port

TOGETHER = 100  # connections whose requests are under way at once
SETTLED = 6  # readings in a row, half a second apart, within half a percent


class Http1:
    """A client's connection."""

    def __init__(self, url, tls):
        at = urlsplit(url)
        stream = socket.create_connection((at.hostname, at.port), 30)
        self.url, self.got = url, b""
        self.stream = tls.wrap_socket(stream, server_hostname="localhost") if tls else stream

    def ask(self):
        self.stream.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")

    def more(self):
        piece = self.stream.recv(65536)
        if not piece:
            raise RuntimeError(f"{self.url} closed a connection instead of answering")
        self.got += piece

    def take(self, count):
        """The next so many bytes."""
        while len(self.got) < count:
            self.more()
        taken, self.got = self.got[:count], self.got[count:]
        return taken

    def answered(self):
        """Reads one answer to its end."""
        while b"\r\n\r\n" not in self.got:
            self.more()
        head, _, self.got = self.got.partition(b"\r\n\r\n")
        fields = dict(line.split(b": ", 1) for line in head.lower().split(b"\r\n")[1:])
        if not head.startswith(b"HTTP/1.1 200") or fields.get(b"connection") == b"close":
            raise RuntimeError(f"{self.url} answered {head!r}")
        self.take(int(fields[b"content-length"]))


class Http2(Http1):
    """The same, by frames (RFC 9113) written by hand."""

    PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    DATA, HEADERS, RST_STREAM, SETTINGS, GOAWAY = 0, 1, 3, 4, 7
    ACK = END_STREAM = 1
    END_HEADERS = 4
    # `GET https /` of the static table, and an authority that is put into the dynamic one, as clients do (RFC 7541 §6).
    FIELDS = b"\x82\x87\x84\x41\x09localhost"
    OK = b"\x88"  # `:status 200` of the static table

    def __init__(self, url, tls):
        super().__init__(url, tls)
        if self.stream.selected_alpn_protocol() != "h2":
            raise RuntimeError(f"{url} does not speak HTTP/2")
        self.number = -1
        self.stream.sendall(self.PREFACE + self.frame(self.SETTINGS, 0, 0))

    @staticmethod
    def frame(kind, flags, number, payload=b""):
        return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + number.to_bytes(4, "big") + payload

    def ask(self):
        self.number += 2
        flags = self.END_STREAM | self.END_HEADERS
        self.stream.sendall(self.frame(self.HEADERS, flags, self.number, self.FIELDS))

    def answered(self):
        while True:
            head = self.take(9)
            kind, flags, payload = head[3], head[4], self.take(int.from_bytes(head[:3], "big"))
            if kind == self.SETTINGS and not flags & self.ACK:
                self.stream.sendall(self.frame(self.SETTINGS, self.ACK, 0))
            if kind in (self.RST_STREAM, self.GOAWAY) or kind == self.HEADERS and payload[:1] != self.OK:
                raise RuntimeError(f"{self.url} answered with a frame of type {kind}: {payload!r}")
            if kind in (self.DATA, self.HEADERS) and flags & self.END_STREAM:
                return


def opened(url, count, tls, speak):
    """`count` connections, on each of which a request was answered."""
    clients = []
    for _ in range(0, count, TOGETHER):
        new = [speak(url, tls) for _ in range(min(TOGETHER, count - len(clients)))]
        for client in new:
            client.ask()
        for client in new:
            client.answered()
        clients += new
    return clients


def settled_mib(pid):
    seen = []
    while len(seen) < SETTLED or max(seen[-SETTLED:]) - min(seen[-SETTLED:]) > seen[-1] / 200:
        seen.append(rss_mib(pid))
        time.sleep(0.5)
    return seen[-1]


def measure(url, pid, count, tls, speak):
    # What is made once for all is made by a first few.
    for client in opened(url, TOGETHER, tls, speak):
        client.stream.close()
    before = settled_mib(pid)
    clients = opened(url, count, tls, speak)
    after = settled_mib(pid)
    # All of them are still open: a proxy that closed some would have less to keep.
    for client in clients:
        client.ask()
        client.answered()
        client.stream.close()
    return {"connections": count, "before_mib": before, "after_mib": after, "bytes": (after - before) * 2**20 / count}


def enough_files(connections):
    """Lets this process and its children have a descriptor for each connection, and some more."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < connections + 2_000:
        raise SystemExit(f"idle.py: {hard} open files are too few for {connections} connections; raise `ulimit -Hn`")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def stop(proxies):
    while proxies:
        if child := proxies.pop().child:
            child.stop()


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--connections", type=int, default=10_000)
    ap.add_argument("--tls-connections", type=int, default=10_000)
    ap.add_argument("--peers", default="nginx,haproxy,envoy")
    ap.add_argument("--proxy", action="append", default=[])
    ap.add_argument("--workers", type=int, default=1, help="workers of each proxy")
    ap.add_argument("--proxy-cpus", default="1")
    ap.add_argument("--load-cpus", default="0")
    ap.add_argument("--json")
    opt = ap.parse_args()
    opt.peers = [p for p in opt.peers.split(",") if p in PEERS]
    enough_files(max(opt.connections, opt.tls_connections))

    run = Path(tempfile.mkdtemp(prefix="proxy-idle-"))
    origin, proxies, results = None, [], {}
    try:
        prepare(run, opt.workers)
        need_free([ORIGIN, GRPC_ORIGIN])
        origin = Child("origin", nginx_argv("origin.conf", run), opt.load_cpus, run, log=run / "origin.log")
        wait_port(ORIGIN, origin)
        tls = ssl.create_default_context(cafile=run / "cert.pem")
        h2 = ssl.create_default_context(cafile=run / "cert.pem")
        h2.set_alpn_protocols(["h2"])
        print("| proxy | connections | before MiB | after MiB | bytes a connection |\n| --- | --- | --- | --- | --- |")
        for name, address, count, context, speak in [
            ("http", "http", opt.connections, None, Http1),
            ("https", "https", opt.tls_connections, tls, Http1),
            ("h2", "https", opt.tls_connections, h2, Http2),
        ]:
            # New processes: what the connections before have freed would be used again.
            stop(proxies)
            proxies = start_proxies(opt, run)
            for proxy in proxies:
                found = measure(proxy.urls[address], proxy.pid, count, context, speak)
                results[f"{proxy.name}/{name}"] = found
                print(f"| {proxy.name} {name} | {count} | {found['before_mib']:.1f} | {found['after_mib']:.1f} "
                      f"| {found['bytes']:,.0f} |", flush=True)
        if opt.json:
            Path(opt.json).write_text(json.dumps(results, indent=1))
    finally:
        stop(proxies)
        if origin:
            origin.stop()
        shutil.rmtree(run, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
