"""The outcome of the randomisation test: verdicts, and the files that it is kept in."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from saliency_exporter.errors import ExportError, NotWritten
from saliency_exporter.evaluation.card import Card, MethodOutcome, Row, read_card, sentence, write_card


def card_of(*spearman: Row, layers: int = 4) -> Card:
    """One method; depths 1, 2, … up to all layers."""
    images = len(spearman[0])
    rest: tuple[Row, ...] = tuple((0.5,) * images for _ in spearman)
    outcome = MethodOutcome(tuple(spearman), rest, rest, (1.0,) * images, {"num_samples": 20})
    names = tuple("abcdefgh"[:layers])
    return Card(
        images=tuple(f"image {number}" for number in range(images)),
        seed=0,
        layers=names,
        unchanged=(),
        depths=tuple(range(1, len(spearman) + 1)),
        methods={"one": outcome},
        seconds=1.0,
    )


def test_the_verdict_is_of_the_upper_half_and_over_images() -> None:
    card = card_of((0.9, 1.0), (0.9, 0.8), (0.0, 0.0), (0.0, 0.0))
    # Means of the images 0.9 and 0.9.
    assert card.similarity("one") == (pytest.approx(0.9), pytest.approx(0.0))
    assert card.verdict("one") == "fails"
    assert sentence(card, "one").startswith("fails: its maps stay as they are")


def test_maps_that_change_pass_though_the_lower_half_is_alike() -> None:
    assert card_of((0.3, 0.4), (0.3, 0.2), (1.0, 1.0), (1.0, 1.0)).verdict("one") == "passes"


def test_less_than_two_standard_errors_from_the_threshold_it_is_unclear() -> None:
    # Means 0.5 and 0.9: mean 0.7, standard error 0.2.
    assert card_of((0.5, 0.9)).similarity("one") == (pytest.approx(0.7), pytest.approx(0.2))
    assert card_of((0.5, 0.9)).verdict("one") == "unclear"


def test_maps_that_are_alike_by_their_draws_alone_do_not_fail() -> None:
    """All maps of a test share their draws: of maps that are noise, that makes them alike."""
    card = card_of((0.98, 1.0), (0.99, 0.98))
    assert card.verdict("one") == "fails"
    for seeds, verdict in (((0.9, 0.8), "fails"), ((0.1, 0.0), "unclear")):
        outcome = replace(card.methods["one"], other_seed=seeds)
        assert replace(card, methods={"one": outcome}).verdict("one") == verdict
    told = sentence(replace(card, methods={"one": outcome}), "one")
    assert "with another seed its maps are not alike either (0.05); more --samples" in told
    # What has changed has changed, for all that is shared.
    changed = card_of((0.1, 0.2), (0.1, 0.2))
    outcome = replace(changed.methods["one"], other_seed=(0.1, 0.0))
    assert replace(changed, methods={"one": outcome}).verdict("one") == "passes"


def test_one_image_has_no_error_and_no_verdict() -> None:
    assert card_of((0.1,), (0.1,)).verdict("one") == "unclear"


def test_maps_without_an_order_are_left_out_and_nothing_is_made_up_for_them() -> None:
    card = card_of((None, 0.2, 0.4), (None, 0.4, None))
    assert card.similarity("one") == (pytest.approx((0.3 + 0.4) / 2), pytest.approx(0.05))
    nothing = card_of((None, None), (None, None))
    assert nothing.verdict("one") == "unclear"
    assert sentence(nothing, "one").endswith("with random weights, its maps are the same everywhere")
    constant = replace(nothing.methods["one"], trained_entropy=(0.0, 0.0))
    told = sentence(replace(nothing, methods={"one": constant}), "one")
    assert told.endswith("with the trained weights, its maps are the same everywhere")
    assert nothing.to_json()["methods"]["one"]["similarity"] is None


def test_what_is_written_is_read_again_and_is_a_picture_too(tmp_path: Path) -> None:
    card = card_of((0.9, None), (0.9, 0.8))
    write_card(tmp_path, card)
    assert read_card(tmp_path) == card
    assert (tmp_path / "sanity.png").read_bytes().startswith(b"\x89PNG")
    method = json.loads((tmp_path / "sanity.json").read_text())["methods"]["one"]
    assert method["verdict"] == card.verdict("one")
    assert "NaN" not in (tmp_path / "sanity.json").read_text()


def test_there_is_no_card_where_there_is_none(tmp_path: Path) -> None:
    assert read_card(tmp_path) is None


def test_neither_file_is_written_where_one_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "sanity.png").mkdir()
    (tmp_path / "sanity.png" / "in the way").touch()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(NotWritten, match=r"cannot be written"):
        write_card(tmp_path, card_of((0.1, 0.2)))
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("text", ["{", "{}", '{"format": 2}', "[1]"])
def test_another_file_is_refused_with_the_next_step(tmp_path: Path, text: str) -> None:
    (tmp_path / "sanity.json").write_text(text)
    with pytest.raises(
        ExportError, match=r"sanity\.json is not as saliency-exporter sanity writes it"
    ) as error:
        read_card(tmp_path)
    assert "saliency-exporter sanity" in str(error.value.hint)


def test_a_table_that_lacks_a_value_is_refused() -> None:
    card = card_of((0.1, 0.2))
    with pytest.raises(ValueError, match="one has no value for each"):
        replace(card, images=("only one",))


def test_the_rise_of_the_entropy_is_relative_to_the_trained_maps() -> None:
    # 1 nat trained, 0.5 nats with all weights random.
    assert card_of((0.1, 0.2)).entropy_rise("one") == pytest.approx(-0.5)
    assert card_of((0.1, 0.2)).to_json()["methods"]["one"]["entropy_rise"] == pytest.approx(-0.5)
