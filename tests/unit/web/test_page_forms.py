"""Fields of a form from a signature, values back, and bounds from a server's refusal."""

from __future__ import annotations

import numpy as np
import pytest

from saliency_client import InputError, Signature, TensorSpec
from saliency_client.web.live import forms


def signature(**dtypes: str) -> Signature:
    inputs = {"images": TensorSpec("images", "uint8", (None, 8, 8, 3))}
    inputs |= {name: TensorSpec(name, dtype, None) for name, dtype in dtypes.items()}
    defaults = {"amount": np.array(0.15, np.float32), "count": np.array(7, np.int32)}
    outputs = {"saliency": TensorSpec("saliency", "float32", (None, 8, 8))}
    return Signature("explain_new", inputs, outputs, {k: v for k, v in defaults.items() if k in inputs})


def test_a_parameter_that_no_client_has_heard_of_has_a_field():
    made = forms.fields(signature(class_index="int32", count="int32", amount="float32", needed="int64"))
    found = {field["name"]: field for field in made}
    assert set(found) == {"count", "amount", "needed"}
    assert (found["count"]["kind"], found["count"]["default"]) == ("whole", 7)
    assert (found["amount"]["kind"], found["amount"]["default"]) == ("real", 0.15)
    assert found["needed"]["default"] is None
    assert found["count"]["label"] == "Count"
    assert all(field["help"] for field in made)


def test_what_is_no_number_is_left_to_its_default():
    assert forms.fields(signature(text="string", flag="bool")) == []


def test_known_parameters_come_first_with_their_bounds_and_help():
    made = forms.fields(signature(other="float32", seed="int32", target_error="float32", num_samples="int32"))
    assert [field["name"] for field in made] == ["num_samples", "target_error", "seed", "other"]
    assert (made[0]["least"], made[1]["least"], made[2]["least"]) == (1, 0, None)


def test_numbers_come_back_as_the_parameter_takes_them():
    taken = forms.parameters({"count": 3.0, "amount": 1}, signature(count="int32", amount="float32"))
    assert taken == {"count": 3, "amount": 1}
    assert isinstance(taken["count"], int)


@pytest.mark.parametrize("value", [1.5, "7", None, True, [1], float("nan"), float("inf")])
def test_what_is_no_such_number_is_refused(value):
    with pytest.raises(InputError, match="Count is"):
        forms.parameters({"count": value}, signature(count="int32"))


@pytest.mark.parametrize(
    ("details", "expected"),
    [
        ("num_samples is 5000; it must be in [1, 1000]", ("num_samples", 1, 1000)),
        ("noise_level is -0.5; it must be in [0.0, 1.0]", ("noise_level", 0, 1)),
        ("target_error is -1; it must be a finite number, at least 0", ("target_error", 0, None)),
        ("assertion failed: [seed is -3; it must be at least 0] [Op]", ("seed", 0, None)),
        ("share is 7; it must be at most 5", ("share", None, 5)),
        ("amount is nan; it must be a finite number", None),
        ("", None),
        (None, None),
    ],
)
def test_a_refusal_teaches_the_field_its_bounds(details, expected):
    """The sentences are those of `contract/checks.py`, which every exported signature says."""
    found = forms.learned(details)
    assert (found and (found["name"], found["least"], found["most"])) == expected
