#!/usr/bin/env python3
"""What kept connections take of memory while nothing happens on them.

Each proxy is given N connections, one request is answered on each, and then they rest. Its memory (PSS of the process
tree) is read before and after; what the kernel keeps for the sockets is not in it, and is the same for all.

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
REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
SETTLED = 6  # readings in a row, half a second apart, within half a percent


def connect(url, tls):
    at = urlsplit(url)
    stream = socket.create_connection((at.hostname, at.port), 30)
    return tls.wrap_socket(stream, server_hostname="localhost") if tls else stream


def answered(stream, url):
    """Reads one answer to its end."""
    got = b""
    while b"\r\n\r\n" not in got:
        piece = stream.recv(65536)
        if not piece:
            raise RuntimeError(f"{url} closed a connection instead of answering")
        got += piece
    head, _, body = got.partition(b"\r\n\r\n")
    fields = dict(line.split(b": ", 1) for line in head.lower().split(b"\r\n")[1:])
    if not head.startswith(b"HTTP/1.1 200") or fields.get(b"connection") == b"close":
        raise RuntimeError(f"{url} answered {head!r}")
    while len(body) < int(fields[b"content-length"]):
        body += stream.recv(65536)


def opened(url, count, tls):
    """`count` connections, on each of which a request was answered."""
    streams = []
    for _ in range(0, count, TOGETHER):
        new = [connect(url, tls) for _ in range(min(TOGETHER, count - len(streams)))]
        for stream in new:
            stream.sendall(REQUEST)
        for stream in new:
            answered(stream, url)
        streams += new
    return streams


def settled_mib(pid):
    seen = []
    while len(seen) < SETTLED or max(seen[-SETTLED:]) - min(seen[-SETTLED:]) > seen[-1] / 200:
        seen.append(rss_mib(pid))
        time.sleep(0.5)
    return seen[-1]


def measure(proxy, address, count, tls):
    url = proxy.urls[address]
    # What is made once for all is made by a first few.
    for stream in opened(url, TOGETHER, tls):
        stream.close()
    before = settled_mib(proxy.pid)
    streams = opened(url, count, tls)
    after = settled_mib(proxy.pid)
    # All of them are still open: a proxy that closed some would have less to keep.
    for stream in streams:
        stream.sendall(REQUEST)
        answered(stream, url)
        stream.close()
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
    ap.add_argument("--proxy-cpus", default="1")
    ap.add_argument("--load-cpus", default="0")
    ap.add_argument("--json")
    opt = ap.parse_args()
    opt.peers = [p for p in opt.peers.split(",") if p in PEERS]
    enough_files(max(opt.connections, opt.tls_connections))

    run = Path(tempfile.mkdtemp(prefix="proxy-idle-"))
    origin, proxies, results = None, [], {}
    try:
        prepare(run)
        need_free([ORIGIN, GRPC_ORIGIN])
        origin = Child("origin", nginx_argv("origin.conf", run), opt.load_cpus, run, log=run / "origin.log")
        wait_port(ORIGIN, origin)
        tls = ssl.create_default_context(cafile=run / "cert.pem")
        print("| proxy | connections | before MiB | after MiB | bytes a connection |\n| --- | --- | --- | --- | --- |")
        for address, count, context in [("http", opt.connections, None), ("https", opt.tls_connections, tls)]:
            # New processes: what the connections before have freed would be used again.
            stop(proxies)
            proxies = start_proxies(opt, run)
            for proxy in proxies:
                found = results[f"{proxy.name}/{address}"] = measure(proxy, address, count, context)
                print(f"| {proxy.name} {address} | {count} | {found['before_mib']:.1f} | {found['after_mib']:.1f} "
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
