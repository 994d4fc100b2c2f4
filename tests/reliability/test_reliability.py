"""A short version of every campaign; `make soak` runs them at length."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# Their helper processes import these modules by name.
sys.path.insert(0, str(Path(__file__).parent))

import fuzz_images
import fuzz_requests
import kill_export
import kill_server
import networks
import overload
import soak
import swap_versions
from lab import Lab, Outcome


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, uncompiled_version: Path) -> Lab:
    return Lab(tmp_path_factory.mktemp("lab"), uncompiled=uncompiled_version)


def held(outcome: Outcome) -> None:
    assert not outcome.violations, f"{outcome.table()}"


def test_mutated_requests_get_right_codes_and_leave_the_server_as_it_was(lab):
    held(fuzz_requests.campaign(lab, count=600, merged=0))


def test_mutated_images_give_a_picture_or_a_clear_error(lab):
    held(fuzz_images.campaign(lab, count=150, through_command=20))


# The quick part are e2e/test_replicas.py's kills, and the interrupts of integration/client_cli.
@pytest.mark.slow
def test_a_killed_replica_costs_no_image_and_tears_no_file(lab):
    held(kill_server.campaign(lab, count=1, command_rounds=1))


# The quick part has integration/exporter/test_saved_model.py's kills.
@pytest.mark.slow
def test_a_killed_export_shows_no_broken_version(lab):
    held(kill_export.campaign(lab, count=2, file_system=0))


@pytest.mark.slow
def test_version_swaps_under_load_cost_no_call(lab):
    # tests/integration/serving/test_versions.py has the short version of it.
    held(swap_versions.campaign(lab, seconds=8))


@pytest.mark.slow
def test_bad_networks_and_many_clients_are_survived(lab):
    held(networks.campaign(lab, count=8))


@pytest.mark.slow
def test_overload_is_refused_and_nobody_starves(lab):
    held(overload.campaign(lab, seconds=5))


@pytest.mark.slow
def test_mixed_work_at_saturation_gives_the_unloaded_answers(lab):
    # tests/conformance asks servers of all kinds for everything at once, for a moment.
    lab.compiled = lab.uncompiled  # compiling is not the point here
    held(soak.campaign(lab, seconds=1))


def test_a_violated_bound_is_a_violation():
    outcome = Outcome("a campaign")
    outcome.check("errors", 1, "0", False)
    assert outcome.violations == ["a campaign: errors is 1, and the bound is: 0"]
    with pytest.raises(AssertionError, match="VIOLATED"):
        held(outcome)
