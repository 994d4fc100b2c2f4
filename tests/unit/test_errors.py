"""What another library's error says, in one line."""

from __future__ import annotations

import pytest

from saliency_exporter.errors import brief


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("shapes differ\nmore about it"), "ValueError: shapes differ"),
        (ValueError("in user code:\n\n  File x\n\n    OSError: no such file"), "OSError: no such file"),
        (
            ValueError("Exception encountered when calling M.call().\n\n\x1b[1mno bool\x1b[0m\n\nArguments"),
            "ValueError: no bool",
        ),
        (KeyError(), "KeyError"),
        (RuntimeError("\n  \n"), "RuntimeError"),
    ],
)
def test_it_is_the_line_that_names_the_fault(error, said):
    assert brief(error) == said


def test_it_is_never_longer_than_300_characters():
    assert len(brief(ValueError("x" * 1000))) <= 300
