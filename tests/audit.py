"""Lists known vulnerabilities of the pinned dependencies, or says plainly that nothing could be checked.

    python tests/audit.py

pip-audit asks the package index, whose vulnerability database mirrors often lack. Exit code 0: none is known;
1: some are; 2: nothing, or not everything, could be checked.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

SECONDS = 600
CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"


def main() -> int:
    """Run pip-audit over the constraints and tell what it says."""
    command = [
        sys.executable,
        "-m",
        "pip_audit",
        "--requirement",
        str(CONSTRAINTS),
        "--disable-pip",
        "--no-deps",
    ]
    command += ["--progress-spinner", "off", "--format", "json"]
    if find_spec("pip_audit") is None:
        print("nothing was checked: pip-audit is not installed; `make audit` installs it")
        return 2
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
        dependencies = json.loads(done.stdout)["dependencies"]
    except subprocess.TimeoutExpired:
        print(f"nothing was checked: the vulnerability database did not answer within {SECONDS} s")
        return 2
    except (ValueError, KeyError):
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        print(f"nothing was checked: the vulnerability database cannot be reached ({reason})")
        print("run it where https://pypi.org can be reached, directly or by HTTPS_PROXY")
        return 2
    text, code = verdict(dependencies)
    print(text)
    return code


def verdict(dependencies: list[dict[str, Any]]) -> tuple[str, int]:
    """What pip-audit's list of dependencies comes to, and the exit code."""
    skipped = [one["name"] for one in dependencies if "skip_reason" in one]
    lines = [
        f"{one['name']} {one['version']}: {vulnerability['id']}, "
        f"fixed in {', '.join(vulnerability['fix_versions']) or 'no version yet'}"
        for one in dependencies
        for vulnerability in one.get("vulns", ())
    ]
    checked = len(dependencies) - len(skipped)
    if not checked:
        return "nothing was checked: the package index has no vulnerability data for any dependency", 2
    lines.append(f"{checked} dependencies checked, {len(lines)} vulnerabilities known")
    if skipped:
        lines.append(f"not checked, because the index does not know them: {', '.join(skipped)}")
    return "\n".join(lines), 1 if len(lines) - 1 - bool(skipped) else 2 if skipped else 0


if __name__ == "__main__":
    sys.exit(main())
