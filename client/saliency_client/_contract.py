"""Names and rules of the serving contract that the client and the exporter share. Imports nothing."""

from __future__ import annotations

from collections.abc import Mapping

EXPLAIN_PREFIX = "explain_"
"""Of the signature of an explanation method; the method's name follows."""
DEFAULT_SIGNATURE = "serving_default"
IMAGES_SIGNATURE = "serving_images"
"""The predictions of a model that came with a `serving_default` of its own."""
CLASS_LABELS = "class_labels"
"""The signature of the names of all classes."""
PARAMETER_DEFAULTS = "parameter_defaults"
"""The signature of the defaults of all parameters, outputs `<signature>/<parameter>`."""
PARAMETER_BOUNDS = "parameter_bounds"
"""The signature of the bounds of all parameters, its input `parameter` naming `<signature>/<parameter>`."""
SIGNED_MAPS = ("gradients", "attributions")
"""What a method's own signed map is called: a derivative of the score, or shares of the score."""

COARSE_MAP = "cam"
"""What a coarse map of places is called, [B, h, w]."""

SALIENCY = "saliency"
"""How much each pixel counts: what every method gives."""

MAPS = (*SIGNED_MAPS, COARSE_MAP, SALIENCY)
"""A method's own map is the first of these that it gives; `saliency` is made of it."""

CLASS_INDEX = "class_index"
"""Parameter and output of every method: the class that is explained; −1 asks for the predicted one."""

OF_THE_CLASS = (CLASS_INDEX, "label", "score", "probability")
"""What every method says of the class, which is that of the image without noise or masks."""

COUNTS = {"num_samples": "samples", "num_masks": "masks", "num_steps": "steps"}
"""Parameters that say how many of what a map is made of, at most."""
FIRST_SAMPLE, TARGET_ERROR = "first_sample", "target_error"
"""Parameters: the number of a call's first sample; the error at which a call takes no more of them."""
VARIANCE, SAMPLES_USED = "variance", "samples_used"
RELATIVE_ERROR, STANDARD_ERROR = "relative_error", "standard_error"
"""Outputs of a method that averages over samples: how sure its map is."""
COMPLETENESS_ERROR, STEPS_USED = "completeness_error", "steps_used"
"""Outputs of a method that integrates: by how much shares do not add up."""

INTERNAL_PREFIX = "__saved_model_"
"""Of TensorFlow's own signatures, which every SavedModel has; nobody calls them."""

CALL_ARGUMENTS = ("images", "method", "class_index", "outputs", "timeout", "batch_size", "max_in_flight")
"""Arguments of the client's calls, which no parameter of a method may be named like."""
REGION_ENTRIES = ("region_saliency", "region_ranks")
"""What the client's files hold of regions, beside a method's outputs."""
FILE_ENTRIES = ("file", "box", *REGION_ENTRIES)
"""Names in the client's files that no output of a method may have."""


def large_outputs(images: int | None, outputs: Mapping[str, int | None]) -> set[str]:
    """The outputs of an explain signature that are as large as its images.

    They have as many dimensions as the images: a map of [B, H, W, C] beside one of [B, H, W] and numbers of
    [B]. A client asks for them by name alone, and an export warms a server up for that. `saliency` is none of
    them, although it has as many dimensions as images without channels, [B, H, W].

    Args:
        images: how many dimensions the input `images` has; None where it does not say.
        outputs: the same of each output.
    """
    known = {name: rank for name, rank in outputs.items() if rank is not None}
    large = set() if images is None else {name for name, rank in known.items() if rank >= images}
    return large - {SALIENCY}
