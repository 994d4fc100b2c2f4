"""Breaks of what is known of a model's input and of its head, and of what an export tells of its bounds."""

from __future__ import annotations

from mutant import Mutant

_WRONG = (
    "test_input_scale.py::test_pixels_that_are_scaled_for_another_input_are_said_with_what_the_network_sees"
)
_RIGHT = "test_input_scale.py::test_of_an_ordinary_model_nothing_is_said"
_LOGITS = "test_head.py::test_the_scores_are_the_logits_wherever_the_softmax_is"


def _scale(name: str, old: str, new: str, test: str) -> Mutant:
    return Mutant(name, "graph/input_scale.py", old, new, test)


MUTANTS = (
    _scale("pixels that were scaled twice are none", "received.most < _NEXT_TO_NOTHING", "False", _WRONG),
    _scale("numbers far beyond pixels are none", "received.least > _BEYOND_PIXELS", "False", _WRONG),
    _scale(
        "no scaling is known",
        "unit = _known_unit(zero, full, learned=_reads_weights(graph, front)) if straight else None",
        "unit = None",
        _WRONG,
    ),
    _scale("a known scaling is wrong whatever it is given", "if not fits(given, unit):", "if True:", _RIGHT),
    _scale("what was learned of -1..1 is a scaling of 0..1", '(learned and name == "tf")', "False", _RIGHT),
    _scale(
        "one's own function has to give all pixels",
        "fits = _like if preprocessing.steps is not None else _apart_like",
        "fits = _like",
        _RIGHT,
    ),
    _scale(
        "what is bounded on the way is straight",
        "straight = np.allclose(",
        "straight = True or np.allclose(",
        _RIGHT,
    ),
    _scale(
        "float input is taken for pixels",
        'if preprocessing.image_dtype != "uint8":',
        'if preprocessing.image_dtype == "uint8" and False:',
        _RIGHT,
    ),
    _scale(
        "of several tensors that a network reads the first is the front",
        "front = next(iter(read)) if len(read) == 1 else None",
        "front = next(iter(read), None)",
        _RIGHT,
    ),
    _scale(
        "the first axis is always that of examples",
        "of_examples = tensors[front].shape.rank and tensors[front].shape[0] is None",
        "of_examples = True",
        "test_input_scale.py::test_what_has_the_time_first_has_no_examples_to_look_at",
    ),
    _scale(
        "frames are examples",
        "if of_examples and len(values) == len(images) else None",
        "if of_examples else None",
        "test_input_scale.py::test_frames_that_were_put_into_one_batch_are_none_either",
    ),
    _scale(
        "a model on whole numbers takes any",
        "return None if right else _sentence(",
        "return None if True else _sentence(",
        "test_input_scale.py::test_a_model_on_whole_numbers_is_given_pixels",
    ),
    Mutant(
        "XLA resizes by itself where a position falls onto a pixel",
        "graph/resizing.py",
        "if step.denominator & (step.denominator - 1) == 0:",
        "if True:",
        "test_resizing.py::test_an_enlargement_by_seven_is_the_interpolation_by_hand",
    ),
    Mutant(
        "rows and columns of a resized picture are exchanged",
        "graph/resizing.py",
        "rows, columns = (_matrix(",
        "columns, rows = (_matrix(",
        "test_resizing.py::test_compiled_scores_and_gradients_are_those_of_tensorflows_own_kernel",
    ),
    Mutant(
        "a volume is padded where its windows begin",
        "graph/portable.py",
        "[window.before, max(window.after, 0)] for window in windows), [0, 0]]\n    # PadV2",
        "[window.before + 1, max(window.after, 0)] for window in windows), [0, 0]]\n    # PadV2",
        "test_portable.py::test_a_volume_whose_last_places_no_window_reads_is_read_from_its_first",
    ),
    Mutant(
        "examples of a batch are not held apart",
        "version/independence.py",
        "if not apart <= bounds.score",
        "if False and not apart <= bounds.score",
        "test_examples_apart.py::test_scores_that_depend_on_the_other_examples_are_refused_with_the_first_op",
    ),
    Mutant(
        "a pooling of one pixel hides the logits",
        "graph/head.py",
        "    graph = _without_reductions_of_one(graph)\n",
        "",
        _LOGITS,
    ),
    Mutant(
        "gray levels of floats are those of pixels",
        "contract/examples.py",
        "return level / 127.5 - 1",
        "return level",
        "test_reference.py::test_gray_levels_are_among_the_images_values",
    ),
    Mutant(
        "the bounds that a call tells are not looked at",
        "version/verify.py",
        "if bounds != expected[name]:",
        "if False:",
        "test_default_tables.py::test_bounds_that_a_call_tells_wrongly_are_found",
    ),
    Mutant(
        "the bounds that the metadata tell are not looked at",
        "version/verify.py",
        "if dict(zip([name.decode() for name in names], table.tolist(), strict=False)) != expected:",
        "if False:",
        "test_default_tables.py::test_bounds_that_the_metadata_tell_wrongly_are_found",
    ),
)
