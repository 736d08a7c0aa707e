#!/usr/bin/env python3
"""What simple routes take of memory: of the whole `milecastle up`, and of the gateway's part alone.

For each number of routes a `milecastle up` is started on an empty directory. Its resident memory (RSS) is read when it
has settled: at the start, with N routes put through the Admin API over several connections, with all of them deleted
again, and (`restarted`) with N routes as loaded at a start. The gateway's part comes from the example `memory` of the
crate `snapshot`, whose allocator counts: bytes in use by a snapshot of N routes, without any slack.

  memory.py [--routes 10000,100000] [--json FILE]

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
from milecastle import HTTP, Admin, get, until

HERE = Path(__file__).resolve().parent
SETTLED = 8  # readings in a row, a quarter of a second apart, within half a percent


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


def put_all(admin, count):
    admin.put_all(route(n) for n in range(count))
    # Nothing listens on the upstream's port: 502 tells that the route is there. The last revision comes last.
    admin.put("/routes/last", {"uri": "/last", "upstream_id": "origin"})
    until("the last route", lambda: get(HTTP, "/last")[0] == 502)


def delete_all(admin, count):
    admin.delete_all(route(n)[0] for n in range(count))
    admin.call("DELETE", "/routes/last")
    until("no route", lambda: get(HTTP, "/last")[0] == 404)


def whole(count, directory):
    """RSS in KiB at each stage of a `milecastle up`."""
    seen = {}
    up = Up(directory, HTTP)
    try:
        admin = Admin(directory)
        admin.put("/upstreams/origin", {"nodes": {"127.0.0.1:1": 1}})
        # A first few, so that what is made on first use does not count as the routes'.
        put_all(admin, 100)
        delete_all(admin, 100)
        seen["start"] = settled_kib(up.pid)
        began = time.monotonic()
        put_all(admin, count)
        seen["put_seconds"] = time.monotonic() - began
        seen["with"] = settled_kib(up.pid)
        delete_all(admin, count)
        seen["gone"] = settled_kib(up.pid)
        put_all(admin, count)
        up.stop()
        up = Up(directory, HTTP)
        until("the last route after a start", lambda: get(HTTP, "/last")[0] == 502)
        seen["restarted"] = settled_kib(up.pid)
    finally:
        up.stop()
    return seen


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--routes", default="10000,100000")
    ap.add_argument("--json", help="also write every figure here")
    opt = ap.parse_args()
    milecastle.PATIENCE = 600
    results = []
    print("| routes | node alone, at once / one by one | whole process, as put | as restarted | RSS MiB start / with / gone "
          "| gone vs start | puts/s |")
    print("| --- " * 7 + "|", flush=True)
    for count in (int(n) for n in opt.routes.split(",")):
        done = subprocess.run([os.environ["MEMORY_BIN"], str(count)], check=True, capture_output=True, text=True)
        node = json.loads(done.stdout)
        with tempfile.TemporaryDirectory(prefix="memory-bench-") as directory:
            seen = whole(count, Path(directory))
        results.append({"routes": count, "node": node, "up_kib": seen})
        each = lambda stage: f"{(seen[stage] - seen['start']) / count:.2f} KiB"
        print(f"| {count:,} | {node['at_once']:,} / {node['one_by_one']:,} B | {each('with')} | {each('restarted')} "
              f"| {seen['start'] / 1024:.1f} / {seen['with'] / 1024:.1f} / {seen['gone'] / 1024:.1f} "
              f"| {seen['gone'] / seen['start']:.2f} | {count / seen['put_seconds']:,.0f} |", flush=True)
    if opt.json:
        Path(opt.json).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
