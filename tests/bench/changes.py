#!/usr/bin/env python3
"""Configuration changes while wrk runs: does any request fail, is any connection opened anew?

`milecastle up` serves the scenario `gateway` (1,000 routes, key auth, limits, metrics) to wrk over kept connections, while
the Admin API changes other objects: routes are put, patched and deleted, upstreams, consumers and certificates too. It
fails if a request did, or if the gateway accepted another number of connections than wrk opened.

  changes.py [--changes 1000] [--connections 64] [--seconds 60]

MILECASTLE_BIN names the binary; `cargo xtask bench changes` builds it and sets that.
"""
import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import compare
import milecastle
from memory import Up
from milecastle import GATEWAY, PROMETHEUS, ROUTES, Admin, expect, get, until


def accepted():
    """Connections that all workers have accepted, as on the metrics page; it is made anew every 15 s."""
    page = get(PROMETHEUS, "/apisix/prometheus/metrics")[2].decode()
    made = re.search(r"^apisix_process_cpu_seconds (\S+)", page, re.M)[1]
    return made, sum(int(n) for n in re.findall(r"^apisix_worker_accepted_connections_total\{[^}]*\} (\d+)", page, re.M))


def settled():
    """The count once a page was made after this call. Nothing else may connect meanwhile."""
    before = accepted()[0]
    return until("a new metrics page", lambda: (now := accepted())[0] != before and now)[1]


def change(admin, n, run):
    """The change of number `n`: ten kinds in turn."""
    own, turn = n // 10 % 50, n % 10
    certificate = {"cert": (run / "cert.pem").read_text(), "key": (run / "key.pem").read_text(), "sni": f"h{n}.test"}
    route = {"uri": f"/changed/{own}/*", "upstream_id": "changing", "desc": f"change {n}"}
    steps = [
        lambda: admin.put(f"/routes/changed-{own}", route),
        lambda: admin.call("PATCH", f"/routes/changed-{own}", {"priority": n}),
        lambda: admin.put("/upstreams/changing", {"nodes": {f"127.0.0.1:{19000 + n % 2}": 1 + n}}),
        lambda: admin.put(f"/routes/changed-{own}", {**route, "plugins": {"request-id": {}, "prometheus": {}}}),
        lambda: admin.put(f"/consumers/changed{own}", {"username": f"changed{own}", "plugins": {"key-auth": {"key": f"changed-{n}"}}}),
        lambda: admin.put(f"/ssls/changed-{own}", certificate),
        lambda: admin.put("/global_rules/changing", {"plugins": {"ip-restriction": {"blacklist": [f"10.0.{n % 256}.0/24"]}}}),
        lambda: admin.put("/services/changing", {"upstream_id": "changing", "desc": f"change {n}"}),
        lambda: admin.call("DELETE", f"/ssls/changed-{own}"),
        lambda: admin.call("DELETE", f"/routes/changed-{own}"),
    ]
    steps[turn]()


def run_changes(opt, run):
    os.environ.update(BENCH_CERT=str(run / "cert.pem"), BENCH_KEY=str(run / "key.pem"), BENCH_ORIGIN=compare.ORIGIN,
                      BENCH_GRPC_ORIGIN=compare.GRPC_ORIGIN,
                      BENCH_ROUTES=str(ROUTES), BENCH_APIKEY="key-7")
    directory = run / "milecastle"
    directory.mkdir()
    origin = compare.Child("origin", compare.nginx_argv("origin.conf", run), None, run, log=run / "origin.log")
    up = None
    try:
        compare.wait_port(compare.ORIGIN, origin)
        up = Up(directory, milecastle.HTTP)
        milecastle.configure(directory)
        admin = Admin(directory)
        admin.put("/upstreams/changing", {"nodes": {"127.0.0.1:19000": 1}})
        before = settled()
        wrk = subprocess.Popen(["wrk", "-t", "1", "-c", str(opt.connections), "-d", f"{opt.seconds}s", "--latency", "-s", "report.lua",
                                f"http://127.0.0.1:{GATEWAY}/"], cwd=run, stdout=subprocess.PIPE, text=True)
        began = time.monotonic()
        for n in range(opt.changes):
            change(admin, n, run)
        took = time.monotonic() - began
        expect(wrk.poll() is None, "wrk runs longer than the changes; raise --seconds", took)
        report = json.loads(re.search(r"^JSON (.*)$", wrk.communicate()[0], re.M)[1])
        opened = settled() - before
    finally:
        if up:
            up.stop()
        origin.stop()
    print(f"{opt.changes:,} changes in {took:.1f} s ({opt.changes / took:,.0f}/s), meanwhile and after "
          f"{report['requests']:,} requests over {opt.connections} connections in {opt.seconds} s, p99 {report['p99'] / 1000:.1f} ms: "
          f"{report['err']} failed, {report['status']} with a status of 400 or more, {opened} connections accepted ({opt.connections} and wrk's first look at the address)")
    # Before it begins, wrk makes sure that the address can be connected to, over a connection of its own.
    return report["err"] == 0 and report["status"] == 0 and opened == opt.connections + 1


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--changes", type=int, default=1000)
    ap.add_argument("--connections", type=int, default=64)
    ap.add_argument("--seconds", type=int, default=60)
    opt = ap.parse_args()
    for tool in ("nginx", "wrk", "openssl"):
        if not shutil.which(tool):
            sys.exit(f"changes.py: {tool} is not installed (see setup.sh)")
    with tempfile.TemporaryDirectory(prefix="changes-bench-") as directory:
        run = Path(directory)
        compare.prepare(run)
        sys.exit(0 if run_changes(opt, run) else 1)


if __name__ == "__main__":
    main()
