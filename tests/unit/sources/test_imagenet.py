"""The names of ImageNet's classes."""

from __future__ import annotations

from saliency_exporter.sources import imagenet


def test_imagenet_names_are_in_class_order_and_distinct() -> None:
    names = imagenet.labels()
    assert len(names) == len(set(names)) == 1000
    # Spot checks against ILSVRC 2012's own list.
    known = {0: "tench", 1: "goldfish", 207: "golden retriever", 281: "tabby", 282: "tiger cat"}
    known |= {285: "Egyptian cat", 340: "zebra", 404: "airliner", 504: "coffee mug", 657: "missile"}
    known |= {817: "sports car", 954: "banana", 967: "espresso", 999: "toilet tissue"}
    assert {index: names[index] for index in known} == known
