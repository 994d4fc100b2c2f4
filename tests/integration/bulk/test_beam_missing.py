"""Where an engine is not installed."""

from __future__ import annotations

import sys

from engine_python import run_code


def test_without_beam_the_import_says_what_to_install():
    code = "import sys; sys.modules['apache_beam'] = None; import saliency_client.bulk.beam"
    done = run_code(sys.executable, code)
    assert "pip install 'saliency-serving[bulk-beam]'" in done.stderr.splitlines()[-1]
