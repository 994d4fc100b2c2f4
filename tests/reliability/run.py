"""The whole campaign, or some of it, each part in a process of its own; records a dated page.

python tests/reliability/run.py                      all of it: an hour on two quiet cores
python tests/reliability/run.py soak overload        these parts
python tests/reliability/run.py --scale 0.1          a tenth of every count and duration
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import inspect
import json
import os
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from lab import Outcome

HERE = Path(__file__).parent
CAMPAIGNS = (
    "fuzz_requests",
    "fuzz_images",
    "kill_server",
    "kill_export",
    "swap_versions",
    "networks",
    "overload",
    "soak",
)
PACKAGES = ("saliency-serving", "tensorflow", "keras", "grpcio", "protobuf", "numpy", "pillow")


def scaled(name: str, scale: float) -> list[str]:
    """The options that scale a campaign's counts and durations."""
    parameters = inspect.signature(importlib.import_module(name).campaign).parameters
    options = []
    for option in ("count", "seconds"):
        if scale != 1 and option in parameters:
            default = parameters[option].default
            options += [f"--{option}", str(max(type(default)(default * scale), 1))]
    return options


def machine() -> str:
    """Processor, cores, memory and load of this machine."""
    info = Path("/proc/cpuinfo").read_text().splitlines()
    processor = next((line.split(":", 1)[1].strip() for line in info if line.startswith("model name")), "?")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    return f"{processor}, {os.cpu_count()} cores, {memory:.0f} GiB; load before: {load}"


def page(machine: str, tables: list[str], violations: list[str], command: str) -> str:
    """The record of a campaign."""
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    lines = [
        f"# What was survived, {datetime.date.today()}",
        "",
        f"{machine}. Python {platform.python_version()}, {versions}.",
        f"Made by `{command}`.",
    ]
    for table in tables:
        lines += ["", table]
    lines += ["", "Every bound held." if not violations else "Violated:", *[f"- {one}" for one in violations]]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the parts, print their tables, record them all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("campaigns", nargs="*", metavar="CAMPAIGN", help=", ".join(CAMPAIGNS))
    parser.add_argument("--scale", type=float, default=1.0, help="of every count and duration")
    parser.add_argument("--record", action="store_true", help="write results/<date>.md")
    parser.add_argument("--models", type=Path, help="where exported models are kept [default: nowhere]")
    options = parser.parse_args()
    unknown = set(options.campaigns) - set(CAMPAIGNS)
    if unknown:
        parser.error(f"no campaign {', '.join(sorted(unknown))}; there are {', '.join(CAMPAIGNS)}")
    before = machine()
    tables, violations = [], []
    with tempfile.TemporaryDirectory() as scratch:
        for name in options.campaigns or CAMPAIGNS:
            print(f"{name} …", flush=True)
            outcome = run(
                name, scaled(name, options.scale), options.models or Path(scratch, "models"), Path(scratch)
            )
            print(outcome.table(), "\n", flush=True)
            tables.append(outcome.table())
            violations += outcome.violations
    if options.record:
        target = HERE / "results" / f"{datetime.date.today()}.md"
        given = " ".join(argument for argument in sys.argv[1:] if argument != "--record")
        command = "make soak" + (f' SOAK="{given}"' if given else "")
        target.write_text(page(before, tables, violations, command))
        print(f"recorded in {target.relative_to(HERE.parents[1])}")
    sys.exit("\n".join(violations) or 0)


def run(name: str, options: list[str], models: Path, scratch: Path) -> Outcome:
    """One campaign in its own process, so that its memory and threads are its own."""
    record = scratch / f"{name}.json"
    command = [
        sys.executable,
        str(HERE / f"{name}.py"),
        *options,
        "--models",
        str(models),
        "--json",
        str(record),
    ]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    if not record.exists():
        return Outcome(
            name, [("ended", f"exit {done.returncode}", "VIOLATED")], [f"{name}: {done.stderr[-2000:]}"]
        )
    return Outcome(**json.loads(record.read_text()))


if __name__ == "__main__":
    main()
