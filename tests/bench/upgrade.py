#!/usr/bin/env python3
"""A cluster goes from one binary to another under load: is a write lost, does a request fail?

PostgreSQL, two replicas of the control plane and a gateway run the old binary. Writers put and delete routes through both replicas, as
clients behind a load balancer do: what one of them does not take is tried at the other, at once, and after the `Retry-After` of a 503 where
both refuse. Clients ask the gateway over kept connections. Meanwhile the new binary takes the place of one replica after the other,
stopped with SIGTERM, and then of the gateway, with `--upgrade`. It fails unless

- every write that was acknowledged is in the state, and none that was refused,
- there is one revision for each of them, without a gap,
- the gateway serves that state, and answered every request with 200.

  upgrade.py --from OLD_BINARY [--writers 4] [--seconds 5]

`--seconds` is how long the load goes on before, between and after the steps. MILECASTLE_BIN names the new binary; `cargo xtask bench upgrade`
builds it and sets that.
"""
import argparse
import http.client
import json
import os
import signal
import sys
import threading
import time
from http.server import ThreadingHTTPServer
from pathlib import Path

import milecastle
from cluster import ADMIN, SECOND_DASHBOARD, STATUS, Cluster
from milecastle import Admin, Echo, get, until

GATEWAY = 19461
CLIENTS = 2  # of the gateway
ROUTES = 8  # of each writer
PAUSE = 0.01  # seconds between the writes of one, and the requests of a client
PAGE = 50  # revisions that are read at once


class Load(threading.Thread):
    """Does the same until it is told to end; what went wrong in it is in `faults`."""

    def __init__(self):
        super().__init__(daemon=True)
        self.over, self.faults = threading.Event(), []
        self.start()

    def run(self):
        while not self.over.wait(PAUSE):
            try:
                self.step()
            except Exception as e:
                self.faults.append(repr(e))

    def end(self):
        self.over.set()
        self.join()


class Writer(Load):
    """Puts routes of its own, each time with another word, and deletes some."""

    def __init__(self, number, key, upstream):
        self.number, self.key, self.upstream = number, key, upstream
        self.replica, self.turn, self.words = number % 2, 0, 0
        self.state, self.acknowledged, self.refused, self.unreached, self.unsure = {}, [], 0, 0, 0
        super().__init__()

    def ask(self, method, path, body):
        """Status and headers, at the replica whose turn it is; `None` where it cannot be connected to."""
        connection = http.client.HTTPConnection("127.0.0.1", (ADMIN, SECOND_DASHBOARD)[self.replica], timeout=milecastle.TIMEOUT)
        try:
            try:
                connection.connect()
            except OSError:
                return None
            connection.request(method, "/apisix/admin" + path, body, {"X-API-KEY": self.key})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def step(self):
        name = f"w{self.number}-{self.turn % ROUTES}"
        delete = self.turn % 5 == 4 and name in self.state
        self.turn += 1
        word, sent, in_a_row = None, False, 0
        while True:
            # What may have been done is repeated as it was; what was refused is given up, and must not be found.
            if not sent:
                self.words += 1
                word = f"{self.number}-{self.words}"
            try:
                answer = self.ask("DELETE", f"/routes/{name}", None) if delete else self.ask("PUT", f"/routes/{name}", self.route(name, word))
            except (OSError, http.client.HTTPException):
                sent, answer = True, ()
                self.unsure += 1
            if answer is None:
                self.unreached += 1
            if answer:
                status, headers, said = answer
                if status in (200, 201) or (delete and sent and status == 404):
                    break
                if status != 503:
                    raise RuntimeError(f"{name}: {status} {said[:300]!r}")
                self.refused += 1
            self.replica, in_a_row = 1 - self.replica, in_a_row + 1
            if in_a_row % 2 == 0:
                time.sleep(float(answer[1].get("Retry-After", 1)) if answer else 0.1)
        self.acknowledged.append(time.monotonic())
        if delete:
            del self.state[name]
        else:
            self.state[name] = word

    def route(self, name, word):
        tell = {"proxy-rewrite": {"headers": {"set": {"X-Word": word}}}}
        return json.dumps({"uri": f"/{name}", "upstream_id": self.upstream, "plugins": tell})


class Client(Load):
    """Asks the gateway, over a connection that it keeps for as long as it may."""

    def __init__(self):
        self.requests, self.connection = 0, http.client.HTTPConnection("127.0.0.1", GATEWAY, timeout=10)
        super().__init__()

    def step(self):
        self.requests += 1
        try:
            self.connection.request("GET", "/served")
            answer = self.connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException):
            self.connection.close()
            raise
        if answer.status != 200:
            raise RuntimeError(f"the gateway answered {answer.status}")


def replace(cluster, n, binary):
    """Stops a replica and starts the other binary in its place."""
    old = cluster.replicas[n]
    cluster.processes.remove(old)
    old.send_signal(signal.SIGTERM)
    if old.wait(milecastle.PATIENCE) != 0:
        raise RuntimeError(f"replica {n} ended with {old.returncode}")
    cluster.replicas[n] = cluster.run(f"control-{n}", [binary, "control", "-c", str(cluster.directory / f"control-{n}.yaml")])
    until("the replica", lambda: cluster.is_up(lambda: get((ADMIN, SECOND_DASHBOARD)[n], "/readyz")[0] == 200))


def take_over(cluster, binary):
    """Starts the other binary as the gateway's next process; it has taken over when the one before has ended."""
    [old] = cluster.gateways
    cluster.processes.remove(old)
    config = str(cluster.directory / f"gateway-{GATEWAY}.yaml")
    cluster.gateways = [cluster.run(f"gateway-{GATEWAY}", [binary, "gateway", "-c", config, "--upgrade"])]
    until("the gateway before to end", lambda: cluster.is_up(lambda: old.poll() is not None))
    if old.returncode != 0:
        raise RuntimeError(f"the gateway ended with {old.returncode}")
    until("the gateway", lambda: cluster.is_up(lambda: get(GATEWAY + STATUS, "/status")[0] == 200))


def revisions(admin):
    """The numbers of all of them, newest first."""
    found, query = [], ""
    while True:
        answer, said = admin.ask("GET", f"/api/gateway_groups/default/revisions?limit={PAGE}{query}", None)
        if answer.status != 200:
            raise RuntimeError(f"revisions: {answer.status} {said[:300]!r}")
        page = [revision["revision"] for revision in json.loads(said)["list"]]
        if not page:
            return found
        found += page
        query = f"&before={page[-1]}"


def stored(admin):
    """The word of each route that writers have put."""
    answer, said = admin.ask("GET", "/apisix/admin/routes", None)
    if answer.status != 200:
        raise RuntimeError(f"routes: {answer.status} {said[:300]!r}")
    routes = (route["value"] for route in json.loads(said)["list"])
    return {route["id"]: route["plugins"]["proxy-rewrite"]["headers"]["set"]["X-Word"] for route in routes if route["id"] != "served"}


def served(name):
    """The word of the route that the gateway has; `None` without one."""
    status, _, body = get(GATEWAY, f"/{name}")
    return None if status == 404 else json.loads(body)["headers"].get("x-word")


def faults(admin, writers, clients, before):
    """What is not as it must be; the load has ended."""
    found = [fault for load in writers + clients for fault in load.faults]
    state = {name: word for writer in writers for name, word in writer.state.items()}
    seen = stored(admin)
    found += [f"{name}: {seen.get(name)} is stored, {state.get(name)} was acknowledged"
              for name in sorted(state.keys() | seen.keys()) if seen.get(name) != state.get(name)]
    numbers = revisions(admin)
    if numbers != list(range(len(numbers), 0, -1)):
        found.append(f"revisions have a gap: {numbers}")
    # What was repeated since its answer did not come made a revision the first time or the second.
    made, acknowledged = len(numbers) - before, sum(len(writer.acknowledged) for writer in writers)
    if made != acknowledged:
        found.append(f"{made} revisions of {acknowledged} writes that were acknowledged")
    names = [f"w{writer.number}-{n}" for writer in writers for n in range(ROUTES)]
    try:
        until("the gateway serves the last state", lambda: all(served(name) == state.get(name) for name in names))
    except RuntimeError as e:
        found.append(str(e))
    return found


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--from", dest="old", required=True, help="the binary that runs before")
    ap.add_argument("--writers", type=int, default=4)
    ap.add_argument("--seconds", type=float, default=5)
    opt = ap.parse_args()
    old, new = str(Path(opt.old).resolve()), os.environ["MILECASTLE_BIN"]
    milecastle.PATIENCE, milecastle.ADMIN = 120, ADMIN
    echo = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=echo.serve_forever, daemon=True).start()
    with Cluster([(GATEWAY, 0)], old) as cluster:
        print(cluster.version)
        admin = Admin(cluster.directory)
        admin.put("/upstreams/echo", {"nodes": {f"127.0.0.1:{echo.server_port}": 1}})
        admin.put("/routes/served", {"uri": "/served", "upstream_id": "echo"})
        until("the route", lambda: get(GATEWAY, "/served")[0] == 200)
        before, began = len(revisions(admin)), time.monotonic()
        writers = [Writer(n, admin.key, "echo") for n in range(opt.writers)]
        clients = [Client() for _ in range(CLIENTS)]
        time.sleep(opt.seconds)
        for step in (lambda: replace(cluster, 0, new), lambda: replace(cluster, 1, new), lambda: take_over(cluster, new)):
            step()
            time.sleep(opt.seconds)
        for load in writers + clients:
            load.end()
        times = sorted([began, *(at for writer in writers for at in writer.acknowledged)])
        gap = max((after - at for at, after in zip(times, times[1:])), default=0)
        total = lambda name: sum(getattr(writer, name) for writer in writers)
        print(f"{len(times) - 1:,} writes acknowledged in {times[-1] - began:.1f} s, at most {gap:.2f} s without one; {total('refused')} refused with 503, "
              f"{total('unreached')} not connected, {total('unsure')} without an answer; "
              f"{sum(client.requests for client in clients):,} requests at the gateway, {sum(len(client.faults) for client in clients)} failed")
        found = faults(Admin(cluster.directory), writers, clients, before)
    for fault in found:
        print(fault)
    sys.exit(1 if found or len(times) == 1 else 0)


if __name__ == "__main__":
    main()
