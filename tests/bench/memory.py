#!/usr/bin/env python3
"""What simple routes take of memory: of the whole `milecastle up`, of the control plane and a gateway apart, and of the
gateway's part alone; and what many changes leave behind.

For each number of routes a `milecastle up` is started on an empty directory, and where asked a cluster: PostgreSQL, two
replicas of the control plane, one gateway. The resident memory (RSS) of each process is read when it has settled: at the
start, with N routes put through the Admin API over several connections, with all of them deleted again, and (`restarted`, of
`milecastle up`) with N routes as loaded at a start. The gateway's part comes from the example `memory` of the crate
`snapshot`, whose allocator counts: bytes in use by a snapshot of N routes, without any slack.

  memory.py [--routes 10000,100000] [--as-one] [--cluster] [--changes 200000] [--json FILE]

With `--as-one` the routes come and go each time by one declaration (`PUT /apisix/admin/configs`). With `--changes` as many changes of a hundred routes follow, and RSS is read ten times on the way. With `--parts` it is also
told what kinds of mappings the memory is in.

MILECASTLE_BIN and MEMORY_BIN name the two binaries; `cargo xtask bench memory` builds them and sets both.
"""
import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import milecastle
from cluster import ADMIN as CLUSTER_ADMIN
from cluster import Cluster
from milecastle import HTTP, Admin, get, until

HERE = Path(__file__).resolve().parent
GATEWAY = 19461
ORIGIN = {"nodes": {"127.0.0.1:1": 1}}
# How long what a change has replaced is kept for nodes that are one revision behind (`stream.past_age`), in seconds.
PAST_AGE = 30
# Readings in a row, a quarter of a second apart, within half a percent. For longer than threads of the runtime are kept that have
# nothing to do (10 s): what was freed in the pages of a thread goes back to the system when it ends.
SETTLED = 60


def rss_kib(pid):
    return int(re.search(r"^VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.M)[1])


def settled_kib(pid):
    """RSS once it stays: logs are folded, freed pages are given back."""
    seen = []

    def steady():
        seen.append(rss_kib(pid))
        last = seen[-SETTLED:]
        time.sleep(0.25)
        return len(last) == SETTLED and max(last) - min(last) <= max(last) / 200 and last[-1]
    return until("steady memory", steady)


def parts_kib(pid):
    """RSS by kind of mapping: `libc`, heaps of the C library (the first one, and its arenas, of 64 MiB at most and aligned to that);
    `allocator` and other anonymous memory; stacks; files."""
    parts, kind, arena = {}, None, 64 << 20
    for line in open(f"/proc/{pid}/smaps"):
        if mapping := re.match(r"([0-9a-f]+)-([0-9a-f]+) (....) \S+ \S+ \S+ *(.*)", line):
            start, end, name = int(mapping[1], 16), int(mapping[2], 16), mapping[4].strip()
            is_arena = not name and start % arena == 0 and end - start <= arena
            kind = "stack" if name == "[stack]" else "files" if name.startswith("/") else \
                "libc" if name == "[heap]" or is_arena else "allocator"
        elif line.startswith("Rss:"):
            parts[kind] = parts.get(kind, 0) + int(line.split()[1])
    return parts


class Up:
    """A running `milecastle up`."""

    def __init__(self, directory, tries_port):
        self.log = open(directory / "up.log", "ab")
        environment = {**os.environ, "BENCH_DIR": str(directory)}
        self.process = subprocess.Popen([sys.executable, str(HERE / "milecastle.py"), "start"], env=environment,
                                        stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        self.pid = self.process.pid
        until("a listener", lambda: self.alive() and get(tries_port, "/"))

    def alive(self):
        if self.process.poll() is not None:
            raise RuntimeError(f"milecastle ended; see {self.log.name}")
        return True

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)
        self.log.close()


def route(n):
    return f"/routes/r{n}", {"uri": f"/api/r{n}/*", "upstream_id": "origin"}


def put_all(admin, port, count):
    admin.put_all(route(n) for n in range(count))
    # Nothing listens on the upstream's port: 502 tells that the route is there. The last revision comes last.
    admin.put("/routes/last", {"uri": "/last", "upstream_id": "origin"})
    until("the last route", lambda: get(port, "/last")[0] == 502)


def delete_all(admin, port, count):
    admin.delete_all(route(n)[0] for n in range(count))
    admin.call("DELETE", "/routes/last")
    until("no route", lambda: get(port, "/last")[0] == 404)


def declare_all(admin, port, count):
    """Has so many routes and no others, by one declaration."""
    routes = [{"id": path.rsplit("/", 1)[1], **body} for path, body in map(route, range(count))]
    last = [{"id": "last", "uri": "/last", "upstream_id": "origin"}] if count else []
    admin.declare(f"{count} at {time.time()}", upstreams=[{"id": "origin", **ORIGIN}], routes=routes + last)
    until("the declared routes", lambda: get(port, "/last")[0] == (502 if count else 404))


class Readings:
    """RSS of processes at each stage, in KiB."""

    def __init__(self, pids, parts):
        self.pids, self.parts, self.seen = pids, parts, {name: {} for name in pids}

    def read(self, stage):
        for name, pid in self.pids.items():
            self.seen[name][stage] = settled_kib(pid)
            if self.parts:
                told = ", ".join(f"{kind} {kib / 1024:.1f}" for kind, kib in sorted(parts_kib(pid).items()))
                print(f"{name}, {stage}: {self.seen[name][stage] / 1024:.1f} MiB ({told})", file=sys.stderr, flush=True)


def come_and_go(admin, port, count, readings, as_one):
    """Puts so many routes and deletes them again."""
    if as_one:
        put, delete = declare_all, lambda admin, port, _: declare_all(admin, port, 0)
    else:
        put, delete = put_all, delete_all
    admin.put("/upstreams/origin", ORIGIN)
    # A first few, so that what is made on first use does not count as the routes'.
    put(admin, port, 100)
    delete(admin, port, 100)
    readings.read("start")
    began = time.monotonic()
    put(admin, port, count)
    rate = count / (time.monotonic() - began)
    readings.read("with")
    delete(admin, port, count)
    if as_one:
        time.sleep(PAST_AGE)
    readings.read("gone")
    return rate


def change(admin, port, changes, readings):
    """As many changes of a hundred routes; RSS ten times on the way."""
    for tenth in range(10):
        admin.put_all((f"/routes/c{n % 100}", {"uri": f"/api/c{n}/*", "upstream_id": "origin"})
                      for n in range(tenth * changes // 10, (tenth + 1) * changes // 10))
        put_all(admin, port, 0)
        readings.read(f"{(tenth + 1) * changes // 10} changes")


def whole(count, directory, opt):
    """A `milecastle up`: readings, and writes a second."""
    up = Up(directory, HTTP)
    readings = Readings({"up": up.pid}, opt.parts)
    try:
        admin = Admin(directory)
        rate = come_and_go(admin, HTTP, count, readings, opt.as_one)
        if opt.changes:
            change(admin, HTTP, opt.changes, readings)
        put_all(admin, HTTP, count)
        up.stop()
        up = Up(directory, HTTP)
        until("the last route after a start", lambda: get(HTTP, "/last")[0] == 502)
        readings.pids["up"] = up.pid
        readings.read("restarted")
    finally:
        up.stop()
    return readings.seen, rate


def apart(count, opt):
    """A control plane and a gateway: the same."""
    usual = milecastle.ADMIN
    with Cluster([(GATEWAY, 0)]) as cluster:
        milecastle.ADMIN = CLUSTER_ADMIN
        try:
            cluster.commits_wait_for_the_disk(False)
            pids = {f"control-{n}": replica.pid for n, replica in enumerate(cluster.replicas)}
            readings = Readings({**pids, "gateway": cluster.gateways[0].pid}, opt.parts)
            admin = Admin(cluster.directory)
            rate = come_and_go(admin, GATEWAY, count, readings, opt.as_one)
            if opt.changes:
                change(admin, GATEWAY, opt.changes, readings)
        finally:
            milecastle.ADMIN = usual
    return readings.seen, rate


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--routes", default="10000,100000")
    ap.add_argument("--as-one", action="store_true", help="routes come and go by one declaration")
    ap.add_argument("--cluster", action="store_true", help="also a control plane and a gateway apart")
    ap.add_argument("--changes", type=int, default=0, help="changes that follow")
    ap.add_argument("--parts", action="store_true", help="also tell kinds of mappings, on standard error")
    ap.add_argument("--json", help="also write every figure here")
    opt = ap.parse_args()
    milecastle.PATIENCE = 600
    results = []
    print("| routes | process | RSS MiB at the start | with the routes | gone | gone vs start | per route | per route, restarted "
          "| after all changes vs gone | puts/s |")
    print("| --- " * 10 + "|", flush=True)
    for count in (int(n) for n in opt.routes.split(",")):
        done = subprocess.run([os.environ["MEMORY_BIN"], str(count)], check=True, capture_output=True, text=True)
        node = json.loads(done.stdout)
        print(f"| {count:,} | the gateway's part, in use | – | – | {node['left'] / 1024:.1f} KiB | – | {node['at_once']:,} B at once, "
              f"{node['one_by_one']:,} B one by one | – | – | – |", flush=True)
        with tempfile.TemporaryDirectory(prefix="memory-bench-") as directory:
            runs = [whole(count, Path(directory), opt)]
        if opt.cluster:
            runs.append(apart(count, opt))
        for seen, rate in runs:
            for name, kib in seen.items():
                mib = lambda stage: f"{kib[stage] / 1024:.1f}"
                each = lambda stage: f"{(kib[stage] - kib['start']) / count:.2f} KiB" if stage in kib else "–"
                changed = f"{kib[f'{opt.changes} changes'] / kib['gone']:.2f}" if opt.changes else "–"
                print(f"| {count:,} | {name} | {mib('start')} | {mib('with')} | {mib('gone')} | {kib['gone'] / kib['start']:.2f} "
                      f"| {each('with')} | {each('restarted')} | {changed} | {rate:,.0f} |", flush=True)
        results.append({"routes": count, "node": node, "kib": [seen for seen, _ in runs]})
    if opt.json:
        Path(opt.json).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
