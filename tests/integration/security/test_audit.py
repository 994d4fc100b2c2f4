from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

import audit
from audit import verdict

GOOD = {"name": "numpy", "version": "2.0", "vulns": []}
BAD = {"name": "pillow", "version": "9", "vulns": [{"id": "PYSEC-1", "fix_versions": ["10.0"]}]}
UNKNOWN = {"name": "mine", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("dependencies", "code", "words"),
    [
        ([GOOD], 0, "1 dependencies checked, 0 vulnerabilities known"),
        ([GOOD, BAD], 1, "pillow 9: PYSEC-1, fixed in 10.0"),
        ([GOOD, BAD, UNKNOWN], 1, "not checked, because the index does not know them: mine"),
        ([GOOD, UNKNOWN], 2, "not checked, because the index does not know them: mine"),
        ([UNKNOWN], 2, "nothing was checked"),
        ([], 2, "nothing was checked"),
    ],
)
def test_an_audit_that_checked_nothing_never_passes_for_a_clean_one(dependencies, code, words):
    text, given = verdict(dependencies)
    assert given == code
    assert words in text


def test_a_database_out_of_reach_is_told_in_words():
    away = dict.fromkeys(("HTTPS_PROXY", "https_proxy"), "http://127.0.0.1:1")
    environment = {**os.environ, **away, "NO_PROXY": "", "no_proxy": ""}
    command = [sys.executable, audit.__file__]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert done.stdout.startswith("nothing was checked: ")
    assert not done.stderr
