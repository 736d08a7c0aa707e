#!/usr/bin/env python3
"""How long a gateway takes to its first answer, from its last good configuration, with no control plane anywhere.

For each number of routes a `milecastle up` is started on an empty directory, given N routes through the Admin API, and
killed. Then a `milecastle gateway` is started on what its node left behind, again and again, and killed each time. The
time is from before the process is made to the first answer on the last route: program start, reading, opening, checking
and building the configuration, opening the ports.

  cold_start.py [--routes 1000,10000,100000] [--rounds 7] [--fold-at SIZE] [--json FILE]

With a small `--fold-at` (`state.fold_at` of the node that is killed) nearly everything stands in a checkpoint, without it all
of up to 16 MiB in changes.

MILECASTLE_BIN names the binary; `cargo xtask bench cold-start` builds it and sets that.
"""
import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import milecastle
from milecastle import HTTP, STATUS, Admin, get, until

HERE = Path(__file__).resolve().parent
POLL = 0.001  # seconds between two tries


def route(n):
    return f"/routes/r{n}", {"uri": f"/api/r{n}/*", "upstream_id": "origin"}


def fill(directory, count, fold_at):
    """Leaves behind a node with so many routes, killed as by a power cut."""
    log = open(directory / "up.log", "ab")
    environment = {**os.environ, "BENCH_DIR": str(directory), "MILECASTLE__GATEWAY__STATE__FOLD_AT": fold_at}
    up = subprocess.Popen([sys.executable, str(HERE / "milecastle.py"), "start"], env=environment,
                          stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        # They open with the first configuration: by then the control plane is ready.
        until("the traffic ports", lambda: get(HTTP, "/"))
        admin = Admin(directory)
        # Nothing listens on the upstream's port: 502 tells that the route is there.
        admin.put("/upstreams/origin", {"nodes": {"127.0.0.1:1": 1}})
        admin.put_all(route(n) for n in range(count))
        # Over a new connection: the one of before was idle for long.
        Admin(directory).put("/routes/last", {"uri": "/last", "upstream_id": "origin"})
        until("the last route", lambda: get(HTTP, "/last")[0] == 502)
    finally:
        up.kill()
        up.wait()
        log.close()


def settings(directory):
    """The gateway alone, on the same listeners; its control plane is not there."""
    gateway = milecastle.settings("unused")["gateway"]
    state = {"dir": str(directory / "data" / "gateway")}
    control_plane = {"endpoints": ["https://127.0.0.1:1"]}
    path = directory / "gateway.yaml"
    path.write_text(json.dumps({"log": {"level": "error"}, "state": state, "control_plane": control_plane, **gateway}))
    return path


def files(directory):
    """Bytes of checkpoints and of changes."""
    state = directory / "data" / "gateway"
    size = lambda kind: sum(path.stat().st_size for path in state.glob(f"generation-*.{kind}"))
    return size("checkpoint"), size("changes")


def start(path, log):
    """Seconds to the first answer on the last route, and RSS in KiB then."""
    binary = os.environ["MILECASTLE_BIN"]
    began = time.perf_counter()
    process = subprocess.Popen([binary, "gateway", "--config", str(path)], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        while True:
            try:
                status = get(HTTP, "/last")[0]
                break
            except OSError:
                if process.poll() is not None:
                    raise RuntimeError(f"milecastle ended; see {log.name}")
                time.sleep(POLL)
        took = time.perf_counter() - began
        if status != 502:
            raise RuntimeError(f"the first answer is {status}: not from the last good configuration")
        if get(STATUS, "/status/ready")[0] != 200:
            raise RuntimeError("the first answer came before the node was ready")
        rss = int(re.search(r"^VmRSS:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text(), re.M)[1])
        return took, rss
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--routes", default="1000,10000,100000")
    ap.add_argument("--rounds", type=int, default=7)
    ap.add_argument("--fold-at", default="16m")
    ap.add_argument("--json", help="also write every figure here")
    opt = ap.parse_args()
    milecastle.PATIENCE = 600
    results = []
    print("| routes | to the first answer, median (least–most) | RSS | checkpoints on disk | changes on disk |")
    print("| --- " * 5 + "|", flush=True)
    for count in (int(n) for n in opt.routes.split(",")):
        with tempfile.TemporaryDirectory(prefix="cold-start-bench-") as name:
            directory = Path(name)
            fill(directory, count, opt.fold_at)
            checkpoints, changes = files(directory)
            path = settings(directory)
            with open(directory / "gateway.log", "ab") as log:
                rounds = [start(path, log) for _ in range(opt.rounds)]
        seconds = [took for took, _ in rounds]
        results.append({"routes": count, "seconds": seconds, "rss_kib": [rss for _, rss in rounds],
                        "checkpoint_bytes": checkpoints, "changes_bytes": changes})
        print(f"| {count:,} | {statistics.median(seconds) * 1000:,.0f} ms ({min(seconds) * 1000:,.0f}–{max(seconds) * 1000:,.0f}) "
              f"| {statistics.median(rss for _, rss in rounds) / 1024:,.0f} MiB | {checkpoints / 1024:,.0f} KiB "
              f"| {changes / 1024:,.0f} KiB |", flush=True)
    if opt.json:
        Path(opt.json).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
