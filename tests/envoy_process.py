"""A real Envoy as a process, with the configuration that docker/ ships and the addresses of a test."""

from __future__ import annotations

import copy
import json
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import yaml

SHIPPED = Path(__file__).parents[1] / "docker" / "envoy"
START_SECONDS = 60


class EnvoyProcess:
    """Envoy on free ports of loopback, in front of servers of two kinds.

    Args:
        binary: the envoy program.
        folder: an empty directory for its files.
        stable: host:port of the servers that the shipped file finds under the name `server`.
        canary: those under the name `canary`.
    """

    def __init__(self, binary: Path, folder: Path, stable: Sequence[str], canary: Sequence[str] = ()) -> None:
        self._folder = folder
        self._log = folder / "envoy.log"
        self._put_routes(0)
        text = (SHIPPED / "envoy.yaml").read_text().replace("/etc/envoy", str(folder))
        (folder / "envoy.yaml").write_text(_with_addresses(text, {"server": stable, "canary": canary}))
        command = [binary, "--config-path", folder / "envoy.yaml", "--disable-hot-restart"]
        command += ["--admin-address-path", folder / "admin", "--concurrency", "2", "--log-level", "warning"]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        self._wait_until_ready()
        listeners = json.loads(self.admin("/listeners?format=json"))["listener_statuses"]
        ports = {one["name"]: one["local_address"]["socket_address"]["port_value"] for one in listeners}
        self.target = f"127.0.0.1:{ports['grpc']}"
        self.metrics_target = f"127.0.0.1:{ports['metrics']}"

    def share(self, canary: int) -> None:
        """Gives the canary so many of 100 calls, and returns when Envoy routes by it."""
        self._put_routes(canary)
        deadline = time.monotonic() + START_SECONDS
        while self._weights() != {"stable": 100 - canary, "canary": canary}:
            assert time.monotonic() < deadline, "Envoy did not take up the new routes"
            time.sleep(0.05)

    @property
    def admin_address(self) -> str:
        """Host:port of the administration interface."""
        return (self._folder / "admin").read_text()

    def admin(self, path: str) -> str:
        """The answer of the administration interface."""
        return _get(self.admin_address + path)

    def metrics(self) -> str:
        """The page that Prometheus reads."""
        return _get(f"{self.metrics_target}/stats/prometheus")

    def answers_of(self, server: str) -> dict[str, int]:
        """How many answers a server has given, among them `rq_success` and `rq_error`."""
        host, _, port = server.rpartition(":")
        clusters = json.loads(self.admin("/clusters?format=json"))["cluster_statuses"]
        for one in (one for cluster in clusters for one in cluster.get("host_statuses", [])):
            if one["address"]["socket_address"] == {"address": host, "port_value": int(port)}:
                return {stat["name"]: int(stat.get("value", 0)) for stat in one["stats"]}
        raise AssertionError(f"Envoy does not know {server}")

    def log(self) -> str:
        """What Envoy has said: nothing, where all is well."""
        return self._log.read_text()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)

    def _put_routes(self, canary: int) -> None:
        """A new routes.yaml, as the shipped one says how: by a rename."""
        routes = (SHIPPED / "routes.yaml").read_text()
        for name, weight, percent in (("stable", 100, 100 - canary), ("canary", 0, canary)):
            shipped = f"name: {name}, weight: {weight} "
            assert shipped in routes
            routes = routes.replace(shipped, f"name: {name}, weight: {percent} ")
        (self._folder / "routes.new").write_text(routes)
        os.replace(self._folder / "routes.new", self._folder / "routes.yaml")

    def _weights(self) -> dict[str, int]:
        dump = self.admin("/config_dump?resource=dynamic_route_configs")
        (routes,) = json.loads(dump)["configs"]
        (host,) = routes["route_config"]["virtual_hosts"]
        (route,) = host["routes"]
        clusters = route["route"]["weighted_clusters"]["clusters"]
        return {cluster["name"]: cluster.get("weight", 0) for cluster in clusters}

    def _all_healthy(self) -> bool:
        clusters = json.loads(self.admin("/clusters?format=json"))["cluster_statuses"]
        hosts = [host for cluster in clusters for host in cluster.get("host_statuses", [])]
        return all(host["health_status"] == {"eds_health_status": "HEALTHY"} for host in hosts)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log()
            try:
                if self.admin("/ready") == "LIVE\n" and self._all_healthy():
                    return
            except OSError:
                pass
            time.sleep(0.05)
        raise AssertionError(f"Envoy was not ready: {self.log()}")


def _with_addresses(text: str, servers: dict[str, Sequence[str]]) -> str:
    """The configuration with the test's servers in place of names, and free ports of loopback.

    Envoy looks at servers four times as often, so that tests wait a quarter of the time for it.
    """
    assert text.count("interval: 2s") == 2
    config = yaml.safe_load(text.replace("interval: 2s", "interval: 0.5s"))
    admin = config["admin"]["address"]["socket_address"]
    admin["port_value"] = _free_port()
    servers = {**servers, admin["address"]: [f"{admin['address']}:{admin['port_value']}"]}
    for listener in config["static_resources"]["listeners"]:
        listener["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": 0}
    for cluster in config["static_resources"]["clusters"]:
        (locality,) = cluster["load_assignment"]["endpoints"]
        (shipped,) = locality["lb_endpoints"]
        name = shipped["endpoint"]["address"]["socket_address"]["address"]
        locality["lb_endpoints"] = [_endpoint(shipped, server) for server in servers.pop(name)]
    assert not servers
    return yaml.safe_dump(config)


def _get(address: str) -> str:
    with urllib.request.urlopen(f"http://{address}", timeout=10) as answer:
        return answer.read().decode()


def _free_port() -> int:
    """A port for the administration interface: another part of the file names it before it is open."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def _endpoint(shipped: dict, server: str) -> dict:
    host, _, port = server.rpartition(":")
    endpoint = copy.deepcopy(shipped)
    endpoint["endpoint"]["address"]["socket_address"] = {"address": host, "port_value": int(port)}
    return endpoint
