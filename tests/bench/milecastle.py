#!/usr/bin/env python3
"""Milecastle as a proxy under test: the whole product, `milecastle up` with one worker, or with BENCH_WORKERS of them.

  milecastle.py start       writes a configuration file and becomes `milecastle up`
  milecastle.py configure   puts the benchmark's configuration through the Admin API, waits until it is in force, and
                            checks that every answer is right: a benchmark must not leave work out

compare.py runs the first as `cmd` and the second as `setup`. Both read from the environment: BENCH_DIR (where the
files of this run are), BENCH_ORIGIN, BENCH_CERT, BENCH_KEY, and MILECASTLE_BIN (the binary).
"""
import http.client
import json
import os
import re
import secrets
import ssl
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

HTTP, HTTPS, GATEWAY = 19301, 19302, 19303
ADMIN, CONTROL, PROMETHEUS, STATUS, DASHBOARD, DP_MANAGER = 19390, 19391, 19392, 19385, 19380, 19379
ROUTES = 1000
CONSUMERS = 1000
WRITERS = 8  # connections that configure at once
LIMIT = 1_000_000_000  # requests a window: more than any run makes
PATIENCE = 120  # seconds until a configuration must be in force
TIMEOUT = 60  # seconds that a call to the Admin API may take


# ---------------------------------------------------------------- start
def settings(admin_key):
    """The configuration file. As the peers: as many workers, no access log, connections kept for an hour, and nobody asked for a
    sign of life meanwhile."""
    at = lambda port: {"ip": "127.0.0.1", "port": port}
    return {
        "log": {"level": "warn"},
        "dashboard": {
            "server": {"listen": {"host": "127.0.0.1", "port": DASHBOARD}},
            "admin": {"admin_listen": at(ADMIN), "admin_key": [{"name": "bench", "key": admin_key, "role": "admin"}]},
        },
        "dp_manager": {"server": {"listen": {"host": "127.0.0.1", "port": DP_MANAGER}}},
        "gateway": {
            "workers": int(os.environ.get("BENCH_WORKERS", "1")),
            "apisix": {
                "node_listen": [at(HTTP), at(GATEWAY)],
                "ssl": {"listen": [at(HTTPS)], "fallback_sni": "localhost", "ssl_num_tickets": 0},
                "status": at(STATUS),
                "control": at(CONTROL),
            },
            "nginx_config": {"http": {"enable_access_log": False, "keepalive_timeout": "1h"}},
            "plugin_attr": {"prometheus": {"export_addr": at(PROMETHEUS)}},
            "limits": {"connections": 16384, "http2_streams": 256},
            "timeouts": {"http2_ping": "1h"},
            "shutdown": {"grace": "0", "drain": "2s"},
        },
    }


def start(directory):
    """Becomes `milecastle up`, so that compare.py measures that process and no other."""
    directory.mkdir(parents=True, exist_ok=True)
    admin_key = secrets.token_hex(16)
    (directory / "admin-key").write_text(admin_key)
    # JSON is YAML.
    (directory / "up.yaml").write_text(json.dumps(settings(admin_key), indent=1))
    binary = os.environ.get("MILECASTLE_BIN", str(Path(__file__).parents[2] / "target/dist/milecastle"))
    os.execv(binary, [binary, "up", "--no-demo", "--config", str(directory / "up.yaml"), "--data", str(directory / "data")])


# ---------------------------------------------------------------- Admin API
class Admin:
    """The Admin API; one connection for each thread that calls."""

    def __init__(self, directory):
        self.key = (directory / "admin-key").read_text()
        self.local = threading.local()

    def call(self, method, path, body=None):
        text = None if body is None else json.dumps(body)
        answer, said = self.ask(method, "/apisix/admin" + path, text)
        if answer.status not in (200, 201):
            raise RuntimeError(f"{method} {path}: {answer.status} {said.decode(errors='replace')}")
        return json.loads(said)

    def ask(self, method, target, text, headers=None):
        """Over the thread's connection, or a new one where that was closed while it rested. Every call may be repeated."""
        try:
            return self.over(self.local.connection, method, target, text, headers)
        except (AttributeError, http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
            self.local.connection = http.client.HTTPConnection("127.0.0.1", ADMIN, timeout=TIMEOUT)
            return self.over(self.local.connection, method, target, text, headers)

    def over(self, connection, method, target, text, headers):
        connection.request(method, target, text, {"X-API-KEY": self.key, **(headers or {})})
        answer = connection.getresponse()
        return answer, answer.read()

    def put(self, path, body):
        return self.call("PUT", path, body)

    def declare(self, digest, status=202, **collections):
        """Puts a whole configuration; gives the seconds it took."""
        text, began = json.dumps(collections, separators=(",", ":")), time.perf_counter()
        answer, said = self.ask("PUT", "/apisix/admin/configs", text, {"X-Digest": digest})
        took = time.perf_counter() - began
        if answer.status != status:
            raise RuntimeError(f"PUT /configs: {answer.status} {said[:500]!r}")
        return took

    def put_all(self, objects):
        """Puts pairs of path and body over several connections at once."""
        with ThreadPoolExecutor(WRITERS) as pool:
            for _ in pool.map(lambda o: self.put(*o), objects):
                pass

    def delete_all(self, paths):
        with ThreadPoolExecutor(WRITERS) as pool:
            for _ in pool.map(lambda p: self.call("DELETE", p), paths):
                pass


def get(port, path, headers=None, tls=None):
    """(status, headers, body) of a GET over a new connection; the names of headers are in lower case."""
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=tls) if tls \
        else http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def until(what, ready):
    """Calls `ready` until it gives something true, and gives that."""
    end, last = time.monotonic() + PATIENCE, None
    while time.monotonic() < end:
        try:
            if found := ready():
                return found
        except (OSError, http.client.HTTPException) as e:
            last = e
        time.sleep(0.05)
    raise RuntimeError(f"after {PATIENCE} s still not: {what}" + (f" ({last})" if last else ""))


# ---------------------------------------------------------------- configure
def upstream(url):
    return {"nodes": {urlsplit(url).netloc: 1},
            "keepalive_pool": {"size": 512, "idle_timeout": 3600, "requests": 100_000_000}}


SERVICE = {
    "upstream_id": "origin",
    "plugins": {
        "key-auth": {"header": "apikey"},
        "limit-count": {"count": LIMIT, "time_window": 60, "key": "consumer_name", "rejected_code": 429},
        "request-id": {},
        "proxy-rewrite": {"headers": {"set": {"X-Consumer": "$consumer_name"}}},
        "prometheus": {},
    },
}


class Echo(BaseHTTPRequestHandler):
    """An upstream that answers with the headers it received."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = json.dumps({"target": self.path, "headers": {k.lower(): v for k, v in self.headers.items()}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Echo", "yes")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def expect(right, what, seen):
    if not right:
        raise RuntimeError(f"wrong: {what}: {seen}")


def check_gateway():
    """The work of the scenario `gateway` is done, and seen by the upstream."""
    for n in (0, 7, ROUTES - 1):
        name, key = f"consumer-{n}", {"apikey": f"key-{n}"}
        left = []
        for _ in range(2):
            answer = get(GATEWAY, f"/api/svc{n}/items/1", key)
            status, headers, body = answer
            expect(status == 200, f"{name} is served", answer)
            sent = json.loads(body)
            expect(sent["target"] == f"/api/svc{n}/items/1", "the target arrives", sent)
            expect(sent["headers"].get("x-consumer") == name, "X-Consumer arrives", sent)
            request_id = headers.get("x-request-id")
            expect(request_id and sent["headers"].get("x-request-id") == request_id,
                   "one X-Request-Id on request and answer", (sent, headers))
            expect(sent["headers"].get("x-forwarded-for") == "127.0.0.1", "X-Forwarded-For arrives", sent)
            expect(headers.get("x-ratelimit-limit") == str(LIMIT), "the limit is told", headers)
            left.append(int(headers["x-ratelimit-remaining"]))
        expect(left[1] == left[0] - 1, "each request counts once", left)
    expect(get(GATEWAY, "/api/svc7/")[0] == 401, "no key, no service", "")
    expect(get(GATEWAY, "/api/svc7/", {"apikey": "key-x"})[0] == 401, "a wrong key is refused", "")


def check_https():
    tls = ssl.create_default_context(cafile=os.environ["BENCH_CERT"])
    tls.minimum_version = ssl.TLSVersion.TLSv1_3
    for offered in ("h2", "http/1.1"):
        tls.set_alpn_protocols([offered])
        connection = http.client.HTTPSConnection("127.0.0.1", HTTPS, timeout=10, context=tls)
        connection.connect()
        expect(connection.sock.selected_alpn_protocol() == offered, f"{offered} is chosen", "")
        if offered == "http/1.1":
            connection.request("GET", "/")
            expect(connection.getresponse().read(), "HTTPS answers", "")
            session = connection.sock.session
            expect(not (session and session.has_ticket), "no session ticket", session)
        connection.close()


def check_metrics():
    """The plugin `prometheus` counted the requests of `check_gateway`."""
    def counted():
        page = get(PROMETHEUS, "/apisix/prometheus/metrics")[2].decode()
        return re.search(r'^apisix_http_status\{[^}]*route="svc7"[^}]*\} [1-9]', page, re.M)
    until("requests on the metrics page", counted)


def configure(directory):
    origin = os.environ["BENCH_ORIGIN"]
    admin = Admin(directory)
    echo = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=echo.serve_forever, daemon=True).start()
    admin.put("/upstreams/origin", upstream(f"http://127.0.0.1:{echo.server_port}"))
    admin.put("/services/gateway", SERVICE)
    admin.put("/ssls/bench", {"cert": Path(os.environ["BENCH_CERT"]).read_text(),
                              "key": Path(os.environ["BENCH_KEY"]).read_text(), "sni": "*"})
    admin.put_all((f"/consumers/consumer-{i}", {"username": f"consumer-{i}", "plugins": {"key-auth": {"key": f"key-{i}"}}})
                  for i in range(CONSUMERS))
    admin.put_all((f"/routes/svc{i}", {"uri": f"/api/svc{i}/*", "service_id": "gateway"}) for i in range(ROUTES))
    grpc = upstream(os.environ["BENCH_GRPC_ORIGIN"]) | {"scheme": "grpc"}
    admin.put("/routes/grpc", {"uri": "/grpc/*", "upstream": grpc})
    # Revisions come into force in order: with this last one, all are.
    admin.put("/routes/all", {"uri": "/*", "upstream_id": "origin"})
    until("the last route serves", lambda: get(HTTP, "/")[0] == 200)
    check_gateway()
    check_https()
    check_metrics()
    admin.put("/upstreams/origin", upstream(origin))
    until("the origin serves", lambda: "x-echo" not in get(HTTP, "/")[1])
    direct = get(urlsplit(origin).port, "/")[2]
    for port in (HTTP, GATEWAY):
        answer = get(port, "/api/svc7/x", {"apikey": "key-7"})
        expect(answer[0] == 200 and answer[2] == direct, "the origin's answer", answer)


if __name__ == "__main__":
    commands = {"start": start, "configure": configure}
    if len(sys.argv) != 2 or sys.argv[1] not in commands:
        sys.exit(__doc__)
    commands[sys.argv[1]](Path(os.environ["BENCH_DIR"]))
