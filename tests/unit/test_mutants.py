"""The mutants of tests/mutants still fit the packages: one whose text has gone breaks nothing."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]


def test_each_mutant_replaces_a_text_that_is_there_once_and_names_a_test_that_is_there(monkeypatch):
    monkeypatch.syspath_prepend(str(TESTS / "mutants"))
    spec = importlib.util.spec_from_file_location("mutants_run", TESTS / "mutants" / "run.py")
    mutants = sys.modules["mutants_run"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(mutants)
    assert mutants.MUTANTS
    for mutant in mutants.MUTANTS:
        text = (mutants.PACKAGES[mutant.package] / mutant.file).read_text(encoding="utf-8")
        assert text.count(mutant.old) == 1, mutant.name
        file, _, test = mutant.test.partition("::")
        source = mutants.test_file(file).read_text(encoding="utf-8")
        assert f"def {test.partition('[')[0]}(" in source, mutant.name
