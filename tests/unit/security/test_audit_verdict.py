from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

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
