from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import audit


def test_a_database_out_of_reach_is_told_in_words():
    away = dict.fromkeys(("HTTPS_PROXY", "https_proxy"), "http://127.0.0.1:1")
    environment = {**os.environ, **away, "NO_PROXY": "", "no_proxy": ""}
    command = [sys.executable, audit.__file__]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert done.stdout.startswith("nothing was checked: ")
    assert not done.stderr
