"""A cluster on this machine: PostgreSQL with its own defaults, replicas of the control plane, and gateways with one worker each.

MILECASTLE_BIN names the binary, unless the cluster is given one. Ports from 19450 to 19499, so that it can run beside the other benchmarks.
"""
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from milecastle import get, until

POSTGRES, ADMIN, SECOND_DASHBOARD = 19450, 19451, 19452
DP_MANAGERS = (19453, 19454)
STATUS = 20  # added to a gateway's port


class Cluster:
    """Two replicas, and a gateway for each pair in `gateways`: its port, and the number of its replica. Runs within `with`."""

    def __init__(self, gateways=(), binary=None):
        self.binary = binary or os.environ["MILECASTLE_BIN"]
        self.wanted, self.home = gateways, tempfile.TemporaryDirectory(prefix="cluster-bench-")
        self.directory = Path(self.home.name)
        self.processes, self.replicas, self.gateways = [], [], []

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.stop()
        self.home.cleanup()

    def run(self, name, argv, **options):
        log = open(self.directory / f"{name}.log", "ab")
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.directory, **options)
        self.processes.append(process)
        return process

    def is_up(self, ready):
        """What `ready` gives; an error if a process has ended, which none should before `stop`."""
        ended = [process.args[:2] for process in self.processes if process.poll() is not None]
        if ended:
            raise RuntimeError(f"ended: {ended}; see the logs in {self.directory}")
        return ready()

    def start(self):
        self.start_postgres()
        binary = self.binary
        key = secrets.token_hex(16)
        (self.directory / "admin-key").write_text(key)
        sealing = self.directory / "sealing-key"
        sealing.write_text("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")
        sealing.chmod(0o600)
        environment = {**os.environ, "MILECASTLE_ADMIN_KEY": key, "MILECASTLE_SERVER": f"http://127.0.0.1:{ADMIN}"}
        at = lambda port: {"server": {"listen": {"host": "127.0.0.1", "port": port}}}
        for n, (dashboard, dp_manager) in enumerate(zip((ADMIN, SECOND_DASHBOARD), DP_MANAGERS)):
            config = {"log": {"level": "warn"}, "members": {"name": f"control-{n}"}, "sealing": {"key_file": str(sealing)},
                      "database": {"dsn": f"postgres://postgres@127.0.0.1:{POSTGRES}/postgres"},
                      "dashboard": at(dashboard), "dp_manager": at(dp_manager)}
            path = self.write(f"control-{n}", config)
            self.replicas.append(self.run(f"control-{n}", [binary, "control", "-c", path], env=environment))
            until("the control plane", lambda: self.is_up(lambda: get(dashboard, "/readyz")[0] == 200))
        token = subprocess.run([binary, "token", "create", "default"], env=environment, check=True, capture_output=True, text=True)
        (self.directory / "token").write_text(token.stdout)
        (self.directory / "token").chmod(0o600)
        for port, replica in self.wanted:
            listen = lambda port: {"ip": "127.0.0.1", "port": port}
            config = {"log": {"level": "warn"}, "workers": 1, "state": {"dir": str(self.directory / f"gateway-{port}")},
                      "control_plane": {"endpoints": [f"https://127.0.0.1:{DP_MANAGERS[replica]}"],
                                        "group_token_file": str(self.directory / "token")},
                      "apisix": {"node_listen": [listen(port)], "ssl": {"enable": False}, "status": listen(port + STATUS),
                                 "enable_control": False},
                      "nginx_config": {"http": {"enable_access_log": False}},
                      "plugin_attr": {"prometheus": {"enable_export_server": False}}}
            self.gateways.append(self.run(f"gateway-{port}", [binary, "gateway", "-c", self.write(f"gateway-{port}", config)]))
            until("a gateway", lambda: self.is_up(lambda: get(port + STATUS, "/status")[0] == 200))

    def start_postgres(self):
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
        programs = found[-1].parent if found else Path(shutil.which("initdb") or sys.exit("no PostgreSQL")).parent
        self.programs = programs
        home = self.directory / "postgres"
        home.mkdir()
        self.directory.chmod(0o755)
        user = {}
        if os.geteuid() == 0:
            shutil.chown(home, "postgres", "postgres")
            user = {"user": "postgres", "group": "postgres", "extra_groups": []}
        data = str(home / "data")
        subprocess.run([programs / "initdb", "-A", "trust", "-U", "postgres", "-E", "UTF8", "-D", data], check=True,
                       stdout=subprocess.DEVNULL, cwd=home, **user)
        self.run("postgres-server", [programs / "postgres", "-D", data, "-p", str(POSTGRES), "-c", "listen_addresses=127.0.0.1",
                                     "-c", "unix_socket_directories="], **user)
        until("PostgreSQL", lambda: self.is_up(lambda: socket.create_connection(("127.0.0.1", POSTGRES), 1).close() or True))
        self.version = subprocess.run([programs / "postgres", "--version"], check=True, capture_output=True, text=True).stdout.strip()

    def commits_wait_for_the_disk(self, wait):
        """As they do by default; without it many objects are put sooner."""
        for sql in (f"ALTER SYSTEM SET synchronous_commit = {'on' if wait else 'off'}", "SELECT pg_reload_conf()"):
            subprocess.run([self.programs / "psql", "-XqAt", "-h", "127.0.0.1", "-p", str(POSTGRES), "-U", "postgres", "-c", sql], check=True,
                           stdout=subprocess.DEVNULL)

    def write(self, name, config):
        path = self.directory / f"{name}.yaml"
        path.write_text(json.dumps(config))  # JSON is YAML
        return str(path)

    def stop(self):
        for process in reversed(self.processes):
            process.send_signal(signal.SIGKILL if process in self.gateways else signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
