#!/usr/bin/env python3
"""What large configurations take of the control plane: two replicas on a PostgreSQL of this machine with its own defaults.

- `apply`: `PUT /apisix/admin/configs` with 10,000 objects, from the call to the answer: into an empty group, again with a
  hundredth of them changed, and again as it was.
- `changes`, in a cluster of its own that has 10,000 routes and a gateway at the second replica: one change set of 10,000 edits, from
  the call to the answer and to the gateway serving what is in it; what differs from the revision before, and the rollback to that one.
- `list`: pages of a hundred of many routes, with and without filters, each asked for a hundred times.
- `keys`: many consumers with a key each, in change sets of 10,000; one more whose key is free, and one whose key another has
  (refused with 400), one after the other; the same as dry runs, which check the key in the database and commit nothing; and a
  consumer looked up.
- Memory (RSS) of the replica that was asked and of the one that only follows, as they stand after each load.

  control.py [--routes 100000] [--consumers 100000] [--json FILE]

MILECASTLE_BIN names the binary; `cargo xtask bench control` builds it and sets that.
"""
import argparse
import json
import math
import statistics
import time
from pathlib import Path

import milecastle
from cluster import ADMIN, Cluster
from memory import rss_kib
from milecastle import Admin, until
from propagation import PRESENT, Watcher

OBJECTS = 10_000  # of `apply` and of a change set
GATEWAY = 19461, 1  # port, and number of the replica
TIMES = 100  # that each question is asked
SERVICES = 50  # that many routes are divided among


def route(n, upstream="1"):
    return {"id": f"r{n}", "name": f"route-{n}", "uri": f"/api/r{n}/*", "labels": {"team": f"t{n % 50}"}, "upstream_id": upstream}


def consumer(name, key):
    return {"username": name, "plugins": {"key-auth": {"key": key}}}


UPSTREAM = {"id": "1", "nodes": {"127.0.0.1:1": 1}}


def filling():
    return [route(n) for n in range(OBJECTS - 1)]


def apply(admin):
    routes = filling()
    first = admin.declare("first", upstreams=[UPSTREAM], routes=routes)
    for changed in routes[::100]:
        changed["name"] += "-changed"
    hundredth = admin.declare("hundredth", upstreams=[UPSTREAM], routes=routes)
    same = admin.declare("same", upstreams=[UPSTREAM], routes=routes)
    print(f"apply {OBJECTS:,} objects: {first:.2f} s; a hundredth changed: {hundredth:.2f} s; nothing changed: {same:.2f} s", flush=True)
    return {"first_s": first, "hundredth_s": hundredth, "same_s": same}


def timed(admin, method, path, body=None, headers=None):
    """The seconds that a call about the group takes, and its answer."""
    began = time.perf_counter()
    answer, said = admin.ask(method, "/api/gateway_groups/default" + path, None if body is None else json.dumps(body), headers)
    took = time.perf_counter() - began
    if answer.status not in (200, 201):
        raise RuntimeError(f"{method} {path}: {answer.status} {said[:500]!r}")
    return took, json.loads(said)


def is_served(watcher, n):
    return watcher.ask(b"/api/r%d/x" % n) == PRESENT


def changes(admin):
    admin.declare("filled", upstreams=[UPSTREAM], routes=filling())
    watcher = Watcher(GATEWAY[0])
    until("the gateway serves what was there before", lambda: is_served(watcher, 0))
    head = lambda: timed(admin, "GET", "/revisions?limit=1")[1]["list"][0]["revision"]
    before = head()
    bodies = ({k: v for k, v in route(n).items() if k != "id"} for n in range(OBJECTS, 2 * OBJECTS))
    edits = [{"op": "put", "kind": "route", "id": f"r{OBJECTS + n}", "body": body} for n, body in enumerate(bodies)]
    began = time.perf_counter()
    publish, _ = timed(admin, "POST", "/changes", {"edits": edits})
    # It is in force as a whole or not at all.
    until("the gateway serves the change set", lambda: is_served(watcher, 2 * OBJECTS - 1))
    served = time.perf_counter() - began
    diff, differs = timed(admin, "GET", f"/revisions/{before}/diff/head")
    if differs["total"] != OBJECTS:
        raise RuntimeError(f"{differs['total']} objects differ, not {OBJECTS}")
    rollback, _ = timed(admin, "POST", f"/revisions/{before}/rollback", headers={"If-Match": f'"{head()}"'})
    print(f"a change set of {OBJECTS:,} edits: {publish:.2f} s, served by the gateway after {served:.2f} s; its diff: {diff:.2f} s; "
          f"its rollback: {rollback:.2f} s", flush=True)
    return {"publish_s": publish, "served_s": served, "diff_s": diff, "rollback_s": rollback}


def figures(waits):
    """Median and 99th percentile in milliseconds; of fewer than a hundred the latter is the longest."""
    return {"p50_ms": statistics.median(waits), "p99_ms": sorted(waits)[math.ceil(len(waits) * 0.99) - 1]}


def times(name, ask):
    """Asks so many times; gives and prints median and 99th percentile."""
    waits = []
    for n in range(TIMES):
        began = time.perf_counter()
        ask(n)
        waits.append((time.perf_counter() - began) * 1000)
    row = figures(waits)
    print(f"| {name} | {row['p50_ms']:.1f} ms | {row['p99_ms']:.1f} ms |", flush=True)
    return row


def expect(admin, status, method, path, body=None):
    answer, said = admin.ask(method, "/apisix/admin" + path, None if body is None else json.dumps(body))
    if answer.status != status:
        raise RuntimeError(f"{method} {path}: {answer.status} instead of {status}: {said[:500]!r}")
    return json.loads(said)


def page(admin, query, total):
    said = expect(admin, 200, "GET", "/routes?page_size=100&" + query)
    if said["total"] != total or len(said["list"]) != min(100, total):
        raise RuntimeError(f"{query}: {said['total']} of {total}, {len(said['list'])} on the page")


def listing(admin, routes):
    services = [{"id": f"s{n}"} for n in range(SERVICES)]
    objects = [{**route(n), "service_id": f"s{n % SERVICES}"} for n in range(routes)]
    took = admin.declare("routes", upstreams=[UPSTREAM], services=services, routes=objects)
    print(f"\n{routes:,} routes, put as one in {took:.1f} s\n\n| page of 100 | p50 | p99 |\n| --- | --- | --- |", flush=True)
    last = -(-routes // 100)
    digits = sum("77" in str(n) for n in range(routes))
    return {
        "first": times("the first", lambda _: page(admin, "page=1", routes)),
        "any": times("any", lambda n: page(admin, f"page={n * last // TIMES + 1}", routes)),
        "name": times("`name=77`", lambda _: page(admin, "page=1&name=77", digits)),
        "uri": times("`uri=` of one", lambda n: page(admin, f"page=1&uri=/api/r{n * routes // TIMES}/", 1)),
        "label": times("`label=team`, which all have", lambda n: page(admin, f"page={n * last // TIMES + 1}&label=team", routes)),
        "name_label": times("`name=77&label=team`", lambda _: page(admin, "page=1&name=77&label=team", digits)),
        "service": times(f"`filter=service_id%3D…`, of {SERVICES}", lambda n: page(
            admin, f"page=1&filter=service_id%3Ds{n % SERVICES}", len(range(n % SERVICES, routes, SERVICES)))),
    }


def keys(admin, consumers):
    took = []
    for first in range(0, consumers, OBJECTS):
        these = range(first, min(first + OBJECTS, consumers))
        edits = [{"op": "put", "kind": "consumer", "id": f"c{n}", "body": consumer(f"c{n}", f"k{n}")} for n in these]
        took.append(timed(admin, "POST", "/changes", {"edits": edits})[0])
    sets = figures([1000 * seconds for seconds in took])
    print(f"\n{consumers:,} consumers, put in {sum(took):.1f} s; {OBJECTS:,} of them in {took[0]:.2f} s at first and "
          f"{took[-1]:.2f} s in the end\n\n| call | p50 | p99 |\n| --- | --- | --- |\n"
          f"| a change set of {OBJECTS:,}, of {len(took)} | {sets['p50_ms']:.0f} ms | {sets['p99_ms']:.0f} ms |", flush=True)
    some = lambda n: n * consumers // TIMES
    put = lambda status, name, key: expect(admin, status, "PUT", f"/consumers/{name}", consumer(name, key))

    def check(faults, name, key):
        edits = [{"op": "put", "kind": "consumer", "id": name, "body": consumer(name, key)}]
        _, said = timed(admin, "POST", "/changes?dry_run=true", {"edits": edits})
        if len(said["faults"]) != faults:
            raise RuntimeError(f"{name}: {said['faults']} instead of {faults} faults")

    return {
        "put_s": took,
        "sets": sets,
        "free": times("`PUT`, a key that is free", lambda n: put(201, f"new{n}", f"new-key-{n}")),
        "taken": times("`PUT`, a key that another has", lambda n: put(400, f"other{n}", f"k{some(n)}")),
        "free_checked": times("dry run, a key that is free", lambda n: check(0, f"none{n}", f"no-key-{n}")),
        "taken_checked": times("dry run, a key that another has", lambda n: check(1, f"none{n}", f"k{some(n)}")),
        "get": times("`GET` of one", lambda n: expect(admin, 200, "GET", f"/consumers/c{some(n)}")),
    }


def memory(cluster):
    asked, following = (rss_kib(replica.pid) / 1024 for replica in cluster.replicas)
    print(f"\nRSS: {asked:.0f} MiB, the replica that follows {following:.0f} MiB", flush=True)
    return {"asked_mib": asked, "following_mib": following}


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--routes", type=int, default=100_000)
    ap.add_argument("--consumers", type=int, default=100_000)
    ap.add_argument("--json", help="also write every figure here")
    opt = ap.parse_args()
    milecastle.PATIENCE, milecastle.TIMEOUT, milecastle.ADMIN = 120, 1800, ADMIN
    with Cluster() as cluster:
        print(cluster.version)
        admin = Admin(cluster.directory)
        results = {"start": memory(cluster), "apply": apply(admin)}
        results |= {"list": listing(admin, opt.routes), "routes": memory(cluster)}
        results |= {"keys": keys(admin, opt.consumers), "consumers": memory(cluster)}
    with Cluster((GATEWAY,)) as cluster:
        results["changes"] = changes(Admin(cluster.directory))
    if opt.json:
        Path(opt.json).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
