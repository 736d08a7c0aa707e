#!/usr/bin/env python3
"""From the Admin API's answer to the new route being served by every gateway; what a change costs on the wire and on a node.

A cluster on this machine: PostgreSQL with its own defaults (every commit is forced to the disk, but while routes are only
filled in), two replicas of the control plane, three gateways with one worker each, two at the first replica and one at the
second. For each number of routes:

- Routes are put through the first replica at a steady rate. From the moment of each answer on, every gateway is asked for the
  new route over a connection of its own, again and again, until it has it; the time of the slowest counts. So half a
  millisecond of the figure is the asking.
- Bytes are what TCP counts on the DP managers' side (`ss`), TLS and HTTP/2 included, without what flows when nothing changes.
- CPU of a node is that of all threads of a gateway while routes are put and nobody asks it anything, without what it takes idle.

  propagation.py [--routes 10,1000,10000,100000] [--writes 300] [--rate 5] [--json FILE]

MILECASTLE_BIN names the binary; `cargo xtask bench propagation` builds it and sets that.
"""
import argparse
import json
import re
import socket
import statistics
import subprocess
import time
from pathlib import Path

import milecastle
from cluster import ADMIN, DP_MANAGERS, Cluster
from milecastle import Admin, until

GATEWAYS = ((19461, 0), (19462, 0), (19463, 1))  # port, and number of the replica
IDLE = 10  # seconds over which idle traffic and work are read
COST_RATE = 20  # writes a second while the cost on a node is read
ABSENT, PRESENT = b"404", b"502"  # nothing listens on the routes' upstream


class Watcher:
    """A kept connection to a gateway, by which one asks for a route."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, path):
        self.socket.sendall(b"GET %s HTTP/1.1\r\nHost: bench\r\n\r\n" % path)
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += self.socket.recv(65536)
        head, _, body = answer.partition(b"\r\n\r\n")
        length = int(re.search(rb"(?i)^content-length: (\d+)", head, re.M)[1])
        while len(body) < length:
            body += self.socket.recv(65536)
        return answer[9:12]


def cpu_seconds(pid):
    """Processor time of a process, of threads that have ended too: its CPU clock, as clock_getcpuclockid(3) names it."""
    return time.clock_gettime_ns((~pid << 3) | 2) / 1e9


def bytes_sent():
    """By the DP managers, over the connections that are open."""
    ports = " or ".join(f"sport = :{port}" for port in DP_MANAGERS)
    said = subprocess.run(["ss", "-tinH", f"( {ports} )"], check=True, capture_output=True, text=True).stdout
    return sum(int(n) for n in re.findall(r"bytes_sent:(\d+)", said))


def route(name):
    return f"/routes/{name}", {"uri": f"/{name}", "upstream": {"nodes": {"127.0.0.1:1": 1}}}


def paced(count, rate):
    """Gives the numbers up to `count`, so many a second."""
    began = time.perf_counter()
    for n in range(count):
        time.sleep(max(0, began + n / rate - time.perf_counter()))
        yield n


def measure(cluster, admin, watchers, routes, opt):
    """One row."""
    idle_began, idle_bytes, idle_cpu = time.perf_counter(), bytes_sent(), [cpu_seconds(g.pid) for g in cluster.gateways]
    time.sleep(IDLE)
    idle = time.perf_counter() - idle_began
    byte_rate = (bytes_sent() - idle_bytes) / idle
    cpu_rate = [(cpu_seconds(g.pid) - before) / idle for g, before in zip(cluster.gateways, idle_cpu)]

    began, sent, delays, waits = time.perf_counter(), bytes_sent(), [], []
    for n in paced(opt.writes, opt.rate):
        path = f"/new-{routes}-{n}".encode()
        put = time.perf_counter()
        admin.put(*route(f"new-{routes}-{n}"))
        answered = time.perf_counter()
        missing, slowest = list(watchers), 0.0
        while missing:
            for watcher in list(missing):
                status = watcher.ask(path)
                if status == PRESENT:
                    missing.remove(watcher)
                    slowest = time.perf_counter() - answered
                elif status != ABSENT:
                    raise RuntimeError(f"a gateway answers {status}")
        delays.append(slowest * 1000)
        waits.append((answered - put) * 1000)
    took = time.perf_counter() - began
    # Acknowledgements and what is still in a buffer.
    time.sleep(1)
    each = (bytes_sent() - sent - byte_rate * (took + 1)) / opt.writes / len(GATEWAYS)

    began, before = time.perf_counter(), [cpu_seconds(g.pid) for g in cluster.gateways]
    for n in paced(opt.writes, COST_RATE):
        admin.put(*route(f"cost-{routes}-{n % 50}"))
    time.sleep(1)
    took = time.perf_counter() - began
    costs = [(cpu_seconds(g.pid) - b - r * took) / opt.writes for g, b, r in zip(cluster.gateways, before, cpu_rate)]
    quantile = lambda values, q: sorted(values)[min(len(values) - 1, int(len(values) * q))]
    row = {"routes": routes, "p50_ms": statistics.median(delays), "p99_ms": quantile(delays, 0.99), "max_ms": max(delays),
           "write_p50_ms": statistics.median(waits), "write_p99_ms": quantile(waits, 0.99), "bytes_per_change": each,
           "node_cpu_ms_per_change": statistics.mean(costs) * 1000, "idle_bytes_per_s": byte_rate / len(GATEWAYS)}
    print("| {routes:,} | {p50_ms:.1f} ms | {p99_ms:.1f} ms | {max_ms:.1f} ms | {write_p50_ms:.1f} / {write_p99_ms:.1f} ms | "
          "{bytes_per_change:,.0f} B | {node_cpu_ms_per_change:.2f} ms |".format(**row), flush=True)
    return {**row, "delays_ms": delays}


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--routes", default="10,1000,10000,100000")
    ap.add_argument("--writes", type=int, default=300)
    ap.add_argument("--rate", type=float, default=5)
    ap.add_argument("--json", help="also write every figure here")
    opt = ap.parse_args()
    milecastle.PATIENCE, milecastle.ADMIN = 120, ADMIN
    results = []
    with Cluster(GATEWAYS) as cluster:
        print(f"{cluster.version}; {opt.writes} writes at {opt.rate:g}/s for each row\n")
        print("| routes | p50 | p99 | slowest | the write itself, p50 / p99 | bytes a change and node | CPU a change and node |")
        print("| --- " * 7 + "|", flush=True)
        loaded = 0
        for routes in (int(n) for n in opt.routes.split(",")):
            admin = Admin(cluster.directory)
            cluster.commits_wait_for_the_disk(False)
            admin.put_all(route(f"r{n}") for n in range(loaded, routes))
            cluster.commits_wait_for_the_disk(True)
            loaded = routes
            # Over a new connection: the one of before was idle for long.
            admin = Admin(cluster.directory)
            watchers = [Watcher(port) for port, _ in GATEWAYS]
            until("the last route", lambda: all(w.ask(b"/r%d" % (routes - 1)) == PRESENT for w in watchers))
            results.append(measure(cluster, admin, watchers, routes, opt))
    if opt.json:
        Path(opt.json).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
