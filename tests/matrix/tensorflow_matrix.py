"""The exporter on every TensorFlow that it allows, and on every Python with the default one.

    python tests/matrix/tensorflow_matrix.py [--keep DIR] [--tests PATH…] [TENSORFLOW:PYTHON…]

Makes a throw-away virtual environment for each row, 2.21:3.11 for instance, with the newest of all other
packages that go with it; runs the exporter's tests there, and one round of export, local server and client
(check_tensorflow.py); has it verify the exports of the rows before, which are of newer versions first; and
writes tests/matrix/TENSORFLOW.md. Where every version was run, also
exporter/saliency_exporter/version/tensorflow_releases.json. --keep DIR keeps results and exports there, and
leaves out the rows that it has. Takes minutes for a row, 3 GB while one runs, and needs the Pythons: those on
PATH, and pyenv's. Ends with 1 if a row fails.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from tensorflow_releases import changes

ROOT = Path(__file__).resolve().parents[2]
PAGE = Path(__file__).with_name("TENSORFLOW.md")
RELEASES = ROOT / "exporter/saliency_exporter/version/tensorflow_releases.json"

# Newest first, so that each version meets exports of newer ones: what TensorFlow does not promise to load.
TENSORFLOW = ("2.21", "2.20", "2.19", "2.18")
DEFAULT = "2.20"
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
PYTHON_OF_ALL = "3.11"
# tf-keras and tensorflow-serving-api follow TensorFlow's minor version; of the other packages the newest.
FOLLOWING = ("tensorflow", "tensorflow-serving-api", "tf-keras")
TEST_PACKAGES = ("pytest", "pytest-timeout", "hypothesis", "saliency")
TESTS = (
    "tests/contract",
    "tests/unit/graph",
    "tests/unit/rules",
    "tests/unit/methods",
    "tests/unit/contract",
    "tests/unit/version",
    "tests/unit/runtime",
    "tests/unit/cli",
    "tests/unit/serving",
    "tests/unit/sources",
    "tests/integration/exporter/test_kept.py",
    "tests/integration/exporter/test_server_needs.py",
    "tests/integration/serving/test_predict.py",
    "tests/integration/serving/test_predict_errors.py",
)
FLAGS = ("avx", "avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile")
TEST_SECONDS = 1800


def interpreters() -> dict[str, str]:
    """A Python of each supported minor version that this machine has."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = {}
    for minor in PYTHONS:
        candidates = [f"python{minor}", *map(str, sorted(pyenv.glob(f"{minor}.*/bin/python"), reverse=True))]
        for candidate in filter(shutil.which, candidates):
            code = "import sys, venv; print('%d.%d' % sys.version_info[:2])"
            if run(candidate, "-c", code).stdout.strip() == minor:
                found[minor] = candidate
                break
    return found


def default_rows(pythons: Iterable[str]) -> list[str]:
    """Every TensorFlow on one Python, the default one on the others, and the newest on the newest."""
    others = [minor for minor in pythons if minor != PYTHON_OF_ALL]
    rows = [f"{version}:{PYTHON_OF_ALL}" for version in TENSORFLOW]
    rows += [f"{DEFAULT}:{minor}" for minor in others]
    return rows + [f"{TENSORFLOW[0]}:{minor}" for minor in others[-1:]]


def run(*command: str | Path, seconds: float = 600) -> subprocess.CompletedProcess[str]:
    """A command at the repository's root, on what the environment has installed and TensorFlow's choice."""
    unset = {"PYTHONPATH", "TF_ENABLE_ONEDNN_OPTS"}
    env = {name: value for name, value in os.environ.items() if name not in unset}
    words = list(map(str, command))
    return subprocess.run(
        words, cwd=ROOT, env=env, capture_output=True, text=True, timeout=seconds, check=False
    )


def install(interpreter: str, directory: Path, version: str) -> Path:
    """Make the environment of a row; returns its Python."""
    python = directory / "bin/python"
    pins = [f"{package}=={version}.*" for package in FOLLOWING]
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if uv := shutil.which("uv"):
        # The same packages, in a quarter of the time.
        pip = [uv, "pip", "install", "--quiet", "--python", python]
    for command in (
        [interpreter, "-m", "venv", directory],
        [*pip, f"{ROOT}[demo,page,bulk]", *pins, *TEST_PACKAGES],
    ):
        done = run(*command)
        if done.returncode != 0:
            raise RuntimeError((done.stderr.strip().splitlines() or ["?"])[-1])
    return python


def tests(python: Path, directory: Path, paths: Iterable[str]) -> dict[str, Any]:
    """Numbers of tests that passed, failed and were skipped; names of those that failed; minutes."""
    report = directory / "tests.xml"
    started = time.monotonic()
    run(
        *(python, "-m", "pytest", "-q", "-m", "not slow", "-p", "no:cacheprovider", f"--junitxml={report}"),
        *paths,
        seconds=TEST_SECONDS,
    )
    minutes = (time.monotonic() - started) / 60
    if not report.exists():
        return {"passed": 0, "failed": ["the tests did not run"], "skipped": 0, "minutes": minutes}
    passed, failed, skipped = 0, [], 0
    for case in ElementTree.parse(report).iter("testcase"):
        problem = case.find("failure") if case.find("failure") is not None else case.find("error")
        if problem is not None:
            said = (problem.get("message") or "?").splitlines()[0]
            failed.append(f"{case.get('classname')}::{case.get('name')}: {said[:200]}")
        elif case.find("skipped") is not None:
            skipped += 1
        else:
            passed += 1
    return {"passed": passed, "failed": failed, "skipped": skipped, "minutes": minutes}


def result(row: str, interpreter: str, keep: Path, paths: Iterable[str]) -> dict[str, Any]:
    """Everything that one row shows."""
    version, minor = row.split(":")
    kept = keep / "exports" / f"{version}-{minor}"
    others = sorted(other for other in keep.glob("exports/*/1") if other.parent != kept)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        try:
            python = install(interpreter, directory / "venv", version)
        except RuntimeError as error:
            return {"row": row, "problem": f"not installed: {error}"}
        found: dict[str, Any] = {"row": row, "python": run(python, "--version").stdout.split()[-1]}
        export = directory / kept.name
        done = run(python, "tests/matrix/check_tensorflow.py", export, *others, seconds=1200)
        try:
            found |= json.loads(done.stdout)
        except ValueError:
            found["problem"] = (done.stderr.strip().splitlines() or ["?"])[-1]
        registered = run(python, "tests/matrix/tensorflow_releases.py")
        found["registry"] = json.loads(registered.stdout)
        found["tests"] = tests(python, directory, paths)
        if (export / "1").is_dir():
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(export, kept)
    return found


def processor() -> str:
    """The processor's name, its number of cores, and those of its flags that kernels are chosen by."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    fields = dict(re.findall(r"^(model name|flags)\s*: (.*)$", text, re.MULTILINE))
    flags = set(fields.get("flags", "").split())
    named = " ".join(flag for flag in FLAGS if flag in flags)
    name = fields.get("model name") or platform.processor()
    return f"{name}, {os.cpu_count()} cores ({named or platform.machine()})"


_HEAD = """# TensorFlow and Python: what was run

`make tensorflow-matrix` made this page on {processor}, {system}, with `TF_ENABLE_ONEDNN_OPTS` unset. Each row
is an environment of its own, with the newest packages that go with its TensorFlow.

- *tests*: the exporter's and the local server's, passed / failed / skipped.
- *round*: a Keras model exported, served and explained, by the command lines and in Python, and held against
  a gradient tape over the model itself.
- *loads exports of*: the versions whose exports it loads and answers right from. That it loads those of newer
  versions is nothing that TensorFlow promises.

| TensorFlow | Python | keras | protobuf | grpcio | numpy | tests | minutes | round | loads exports of |
|---|---|---|---|---|---|---|---|---|---|
"""


def page(results: Iterable[Mapping[str, Any]]) -> str:
    """The recorded page."""
    lines, failures = [], []
    for found in results:
        version, minor = found["row"].split(":")
        if "tests" not in found:
            lines.append(f"| {version} | {minor} | {found['problem']} |" + " |" * 7)
            continue
        has, counts, others = found.get("versions", {}), found["tests"], found.get("others", {})
        failures += [f"- {found['row']}: `{name}`" for name in counts["failed"]]
        failures += [
            f"- {found['row']}: an export of {_made_with(p)}" for p, loads in others.items() if not loads
        ]
        cells = [
            has.get("tensorflow", version),
            found["python"],
            *(has.get(name, "?") for name in ("keras", "protobuf", "grpcio", "numpy")),
            f"{counts['passed']} / {len(counts['failed'])} / {counts['skipped']}",
            f"{counts['minutes']:.1f}",
            f"no: {found['problem']}" if "problem" in found else "yes",
            ", ".join(sorted({_made_with(path) for path, loads in others.items() if loads})) or "–",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    if failures:
        lines += ["", "What failed:", "", *failures]
    return _HEAD.format(processor=processor(), system=platform.system()) + "\n".join(lines) + "\n"


def _made_with(path: str) -> str:
    """The TensorFlow of an export, from exports/2.20-3.11/1."""
    return Path(path).parent.name.split("-")[0]


def failed(found: Mapping[str, Any]) -> bool:
    """Whether a row is not as it should be."""
    if "problem" in found or found["tests"]["failed"]:
        return True
    return not all(found["others"].values())


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("rows", nargs="*", metavar="TENSORFLOW:PYTHON", help="such as 2.21:3.11")
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="keep results and exports; skip what is kept"
    )
    parser.add_argument("--tests", nargs="+", default=TESTS, help="tests to run instead of the exporter's")
    arguments = parser.parse_args()
    pythons = interpreters()
    rows = arguments.rows or default_rows(pythons)
    if missing := {row.split(":")[1] for row in rows} - set(pythons):
        parser.error(f"no Python {', '.join(sorted(missing))} on PATH or of pyenv")
    with tempfile.TemporaryDirectory() as temporary:
        keep = arguments.keep or Path(temporary)
        keep.mkdir(parents=True, exist_ok=True)
        for row in rows:
            record = keep / f"{row.replace(':', '-')}.json"
            if not record.exists():
                found = result(row, pythons[row.split(":")[1]], keep, arguments.tests)
                record.write_text(json.dumps(found))
                print(row, "failed" if failed(found) else "as it should be", flush=True)
        return write(keep)


def write(keep: Path) -> int:
    """Write the page, and the table of releases where every version was run; 1 if a row failed."""
    found = {}
    for path in keep.glob("*.json"):
        one = json.loads(path.read_text())
        found[one["row"]] = one
    known = [row for row in default_rows(PYTHONS) if row in found]
    ordered = [found[row] for row in [*known, *sorted(set(found) - set(known))]]
    PAGE.write_text(page(ordered), encoding="utf-8")
    registries = {
        version: row["registry"]
        for version in reversed(TENSORFLOW)
        for row in ordered
        if row["row"].startswith(f"{version}:") and "registry" in row
    }
    if len(registries) == len(TENSORFLOW):
        RELEASES.write_text(json.dumps(changes(registries), indent=2) + "\n", encoding="utf-8")
    return 1 if any(map(failed, ordered)) else 0


if __name__ == "__main__":
    sys.exit(main())
