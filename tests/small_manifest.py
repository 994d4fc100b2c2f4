"""The manifest of a small export, for tests that change a part of it."""

from __future__ import annotations

from saliency_exporter.version.manifest import (
    Activations,
    GradientAgreement,
    GraphVersions,
    Images,
    Manifest,
    PreprocessingSteps,
    Score,
    ServerNeeds,
    Verification,
)

EXPORT = Manifest(
    model="lite0",
    source="a test",
    input=Images("images", (None, 4, 4, 3), "uint8"),
    preprocessing=PreprocessingSteps("pixels", "uint8", ()),
    score=Score("scores:0", "softmax", False),
    classes=2,
    labels=None,
    batch_sizes=(1,),
    max_samples=10,
    compile="none",
    compile_choices=(),
    target="cpu",
    kernels="eigen",
    foldings=(),
    lowering=(),
    activations=Activations((), ()),
    predictions="serving_default",
    methods={},
    kept_signatures={},
    warmup_records=0,
    gradient_agreement=GradientAgreement(0.0, 2),
    server=ServerNeeds("2.18", ("it is the oldest",), "2.20", None, GraphVersions(1, 1)),
    tensorflow="2.20.0",
    exporter="0.1.0",
    verification=Verification(True, 0, 1e-3, 2e-2, ()),
)
