"""Kill −9 of one of two replicas at random moments under a bulk client.

Every image gets its right answer or a typed error; none twice, none missing. The same for the command, whose
picture files are whole or absent. The replica that was killed comes back on its port before the next kill.
"""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from lab import MODEL, Lab, Outcome, images, main, same
from PIL import Image
from server_process import ServerProcess

from saliency_client import RetryPolicy, SaliencyClient, SaliencyError

# Enough that a kill finds some of them under way, few enough that a round is short.
ROUND = 240


class Replicas:
    """Two servers of one model; one at a time is killed and started again on its port."""

    def __init__(self, version: Path) -> None:
        self._version = version
        self._servers = [self._start(0), self._start(0)]
        self.targets = [server.wait_for(r"^listening on (\S+)", 300)[1] for server in self._servers]

    def kill(self, which: int) -> None:
        """Kill one at once."""
        process = self._servers[which].process
        process.send_signal(signal.SIGKILL)
        process.wait(30)
        process.stderr.close()

    def restart(self, which: int) -> None:
        """Start the one that was killed, on its old port, and wait until it answers."""
        self._servers[which] = self._start(int(self.targets[which].rpartition(":")[2]))
        self._servers[which].wait_for("^listening on", 300)

    def close(self) -> None:
        """Kill both."""
        for server in self._servers:
            with contextlib.suppress(ProcessLookupError):
                server.process.kill()
            server.process.wait(30)
            server.process.stderr.close()

    def _start(self, port: int) -> ServerProcess:
        return ServerProcess(f"{MODEL}={self._version.parent}", "--port", str(port), "--no-warmup")


def campaign(
    lab: Lab, *, count: int = 50, seconds: float = 3600.0, command_rounds: int = 5, seed: int = 7
) -> Outcome:
    """So many kills under bulk calls, or as many as the time allows; then some under the command."""
    outcome = Outcome("kill -9 of a replica")
    rng = random.Random(seed)
    replicas = Replicas(lab.uncompiled)
    try:
        _bulk(outcome, replicas, rng, count, time.monotonic() + seconds)
        if command_rounds:
            _command(outcome, replicas, rng, command_rounds)
    finally:
        replicas.close()
    return outcome


def _bulk(outcome: Outcome, replicas: Replicas, rng: random.Random, count: int, end: float) -> None:
    pictures = images(ROUND)
    with SaliencyClient(replicas.targets, model=MODEL, timeout=60, retry=RetryPolicy(attempts=8)) as client:
        # One image a request, so that an answer does not depend on which others it came with.
        unloaded = [client.explain(one) for one in pictures]
        started = time.monotonic()
        list(client.explain_many(pictures, batch_size=1, max_in_flight=8))
        round_seconds = time.monotonic() - started
        seen: Counter[str] = Counter()
        wrong: list[str] = []
        during = kills = 0
        while kills < count and time.monotonic() < end:
            kills += 1
            which = rng.randrange(2)
            taken = [0]
            killer = threading.Timer(rng.uniform(0, round_seconds), replicas.kill, [which])
            killer.start()
            at_kill = None
            indices = []
            for result in client.explain_many(pictures, batch_size=1, max_in_flight=8):
                taken[0] += 1
                if at_kill is None and not killer.is_alive():
                    at_kill = taken[0]
                indices.append(result.index)
                if result.error is None:
                    seen["answers"] += 1
                    if not same(result.unwrap().outputs, unloaded[result.index].outputs):
                        wrong.append(f"image {result.index} has another answer")
                elif isinstance(result.error, SaliencyError) and result.error.code is not None:
                    seen[type(result.error).__name__] += 1
                else:
                    wrong.append(f"image {result.index} has the error {result.error!r}")
            during += at_kill is not None
            killer.join()
            if indices != list(range(ROUND)):
                wrong.append(f"{ROUND} images gave {len(indices)} results, out of order or not once each")
            replicas.restart(which)
    outcome.fact("kills, of these while images were under way", f"{kills}, {during}")
    outcome.fact("images", kills * ROUND)
    outcome.fact("results", ", ".join(f"{what} {n}" for what, n in seen.most_common()))
    outcome.check("wrong, missing, twice or untyped", wrong[:3] or "none", "none", not wrong)


def _command(outcome: Outcome, replicas: Replicas, rng: random.Random, rounds: int) -> None:
    torn: list[str] = []
    written = failed = 0
    with tempfile.TemporaryDirectory() as scratch:
        photos = Path(scratch, "photos")
        photos.mkdir()
        for index, content in enumerate(images(60)):
            Image.fromarray(content).save(photos / f"{index:03}.png")
        for round_number in range(rounds):
            out = Path(scratch, f"out-{round_number}")
            which = rng.randrange(2)
            command = [sys.executable, "-m", "saliency_client", "explain", str(photos), "-o", f"{out}/"]
            command += ["--server", ",".join(replicas.targets), "--model", MODEL, "--json"]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            killer = threading.Timer(rng.uniform(0.3, 1.5), replicas.kill, [which])
            killer.start()
            told = [line for line in process.communicate(timeout=300)[0].splitlines() if line]
            killer.join()
            if len(told) != 60:
                torn.append(f"{len(told)} lines for 60 images")
            ok = sum('"status": "ok"' in line or '"status":"ok"' in line for line in told)
            files = list(out.iterdir())
            written, failed = written + len(files), failed + len(told) - ok
            torn += [f"{len(files)} files for {ok} images"] if len(files) != ok else []
            for path in files:
                try:
                    with Image.open(path) as picture:
                        picture.load()
                except OSError as error:
                    torn.append(f"{path.name}: {error}")
            if round_number < rounds - 1:
                replicas.restart(which)
    outcome.fact("command: pictures, failures told", f"{written}, {failed}")
    outcome.check("command: torn, left over, missing or untold", torn[:3] or "none", "none", not torn)


if __name__ == "__main__":
    main(campaign)
