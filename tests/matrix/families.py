"""Families of image classifiers with random weights: which of them export with all methods.

python tests/matrix/families.py            writes tests/matrix/FAMILIES.md; needs keras-hub
python tests/matrix/families.py MEMBER…    prints the rows of these members
python tests/matrix/families.py --export MEMBER…   exports these by the command line, and verifies them

One member of each family of keras.applications, and each image classifier of keras-hub, is built with random
weights for small images, traced, folded and given its signatures; nothing is downloaded. Its gradients and
its scores are held against TensorFlow's own tape on the Keras model. `make families-table` installs keras-hub
into an environment of its own.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras_applications import MEMBERS

from saliency_exporter.contract.build import build_signatures
from saliency_exporter.contract.settings import Settings
from saliency_exporter.errors import ExportError
from saliency_exporter.graph.activations.find import find_activations
from saliency_exporter.graph.feature_layers import with_feature_layer
from saliency_exporter.graph.folding import fold
from saliency_exporter.graph.replay import Forward
from saliency_exporter.graph.trace import trace
from saliency_exporter.methods.registry import OWN, find_methods
from saliency_exporter.sources.keras_model import source_from_keras
from saliency_exporter.sources.preprocessing import builtin
from saliency_exporter.version.describe import describe_activations

PAGE = Path(__file__).with_name("FAMILIES.md")
CLASSES = 10
_SIZE = 64
_LARGE = {"InceptionResNetV2": 75, "InceptionV3": 75, "Xception": 71}
_BOUND = 2e-2
"""Of ‖difference‖₂ / ‖expected‖₂ of maps: in a deep net, some rectifiers are near their kink."""


def _hub() -> dict[str, Callable[[], keras.Model]]:
    """Each image classifier of keras-hub, as large as its smallest published member, or smaller."""
    if importlib.util.find_spec("keras_hub") is None:
        return {}
    from keras_hub import models as hub

    shape = (_SIZE, _SIZE, 3)

    def classifier(kind: str, **config: Any) -> Callable[[], keras.Model]:
        def make() -> keras.Model:
            options = {"image_shape": shape, **config}
            head = options.pop("head", {})
            backbone = getattr(hub, f"{kind}Backbone")(**options)
            return getattr(hub, f"{kind}ImageClassifier")(backbone=backbone, num_classes=CLASSES, **head)

        return make

    csp_darknet = {
        "stem_filters": 32,
        "stem_kernel_size": 3,
        "stem_strides": 1,
        "stem_padding": "same",
        "stackwise_depth": [1, 2, 8, 8, 4],
        "stackwise_strides": [2, 2, 2, 2, 2],
        "stackwise_num_filters": [64, 128, 256, 512, 1024],
        "bottle_ratio": (0.5, 1.0),
        "block_ratio": (1.0, 0.5),
        "expand_ratio": (2.0, 1.0),
        "stage_type": "csp",
        "block_type": "dark_block",
        "down_growth": True,
    }
    csp_resnext = {
        "stem_filters": 64,
        "stem_kernel_size": 7,
        "stem_strides": 4,
        "stem_pooling": "max",
        "stackwise_depth": [3, 3, 5, 2],
        "stackwise_strides": [1, 2, 2, 2],
        "stackwise_num_filters": [256, 512, 1024, 2048],
        "block_ratio": [0.5],
        "groups": 32,
        "stage_type": "csp",
        "block_type": "bottleneck_block",
    }

    def resnet(block: str, v2: bool) -> Callable[[], keras.Model]:
        return classifier(
            "ResNet",
            input_conv_filters=[64],
            input_conv_kernel_sizes=[7],
            stackwise_num_filters=[64, 128, 256, 512],
            stackwise_num_blocks=[3, 4, 6, 3] if block == "bottleneck_block" else [2, 2, 2, 2],
            stackwise_num_strides=[1, 2, 2, 2],
            block_type=block,
            use_pre_activation=v2,
        )

    def transformer(kind: str, mlp: str) -> Callable[[], keras.Model]:
        sizes = {"num_layers": 12, "num_heads": 3, "hidden_dim": 192, mlp: 768}
        patch = (16, 16) if kind == "ViT" else 16
        return classifier(kind, patch_size=patch, **sizes)

    efficientnet = {
        "stackwise_width_coefficients": [1.0] * 7,
        "stackwise_depth_coefficients": [1.0] * 7,
        "stackwise_kernel_sizes": [3, 3, 5, 3, 5, 5, 3],
        "stackwise_num_repeats": [1, 2, 2, 3, 3, 4, 1],
        "stackwise_input_filters": [32, 16, 24, 40, 80, 112, 192],
        "stackwise_output_filters": [16, 24, 40, 80, 112, 192, 320],
        "stackwise_expansion_ratios": [1, 6, 6, 6, 6, 6, 6],
        "stackwise_squeeze_and_excite_ratios": [0.25] * 7,
        "stackwise_strides": [1, 2, 2, 2, 1, 2, 1],
    }
    mobilenet = {
        "stackwise_expansion": [[40, 56], [64, 144, 144], [72, 72], [144, 288, 288]],
        "stackwise_num_blocks": [2, 3, 2, 3],
        "stackwise_num_filters": [[16, 16], [24, 24, 24], [24, 24], [48, 48, 48]],
        "stackwise_kernel_size": [[3, 3], [5, 5, 5], [5, 5], [5, 5, 5]],
        "stackwise_num_strides": [[2, 1], [2, 1, 1], [1, 1], [2, 1, 1]],
        "stackwise_se_ratio": [[None, None], [0.25, 0.25, 0.25], [0.3, 0.3], [0.3, 0.25, 0.25]],
        "stackwise_activation": [
            ["relu", "relu"],
            ["hard_swish"] * 3,
            ["hard_swish"] * 2,
            ["hard_swish"] * 3,
        ],
        "stackwise_padding": [[1, 1], [2, 2, 2], [2, 2], [2, 2, 2]],
        "output_num_filters": 288,
        "input_activation": "hard_swish",
        "output_activation": "hard_swish",
        "input_num_filters": 16,
        "depthwise_filters": 8,
        "depthwise_stride": 2,
        "depthwise_residual": False,
        "last_layer_filter": 1024,
        "squeeze_and_excite": 0.5,
    }
    two = [[0], [0, 0]]
    mobilenet_v5 = {
        "stackwise_block_types": [["er"], ["uir", "uir"]],
        "stackwise_num_blocks": [1, 2],
        "stackwise_num_filters": [[24], [48, 48]],
        "stackwise_strides": [[2], [2, 1]],
        "stackwise_act_layers": [["relu"], ["relu", "relu"]],
        "stackwise_exp_ratios": [[4.0], [6.0, 6.0]],
        "stackwise_se_ratios": [[0.0], [0.0, 0.0]],
        "stackwise_dw_kernel_sizes": [[0], [5, 5]],
        "stackwise_dw_start_kernel_sizes": two,
        "stackwise_dw_end_kernel_sizes": two,
        "stackwise_exp_kernel_sizes": [[3], [0, 0]],
        "stackwise_pw_kernel_sizes": [[1], [0, 0]],
        "stackwise_num_heads": two,
        "stackwise_key_dims": two,
        "stackwise_value_dims": two,
        "stackwise_kv_strides": two,
        "stackwise_use_cpe": [[False], [False, False]],
        "use_msfa": False,
    }
    return {
        "CSPDarkNet53": classifier("CSPNet", **csp_darknet),
        "CSPResNeXt50": classifier("CSPNet", **csp_resnext),
        "DeiT": transformer("DeiT", "intermediate_dim"),
        "DenseNet": classifier("DenseNet", stackwise_num_repeats=[6, 12, 24, 16]),
        "EfficientNet": classifier(
            "EfficientNet",
            stackwise_block_types=["v1"] * 7,
            input_shape=shape,
            **efficientnet,
        ),
        "EfficientNetV2": classifier(
            "EfficientNet",
            stackwise_block_types=["fused"] * 3 + ["unfused"] * 4,
            input_shape=shape,
            **efficientnet,
        ),
        "HGNetV2": classifier(
            "HGNetV2",
            depths=[1, 2, 4],
            embedding_size=32,
            hidden_sizes=[64, 128, 256],
            stem_channels=[3, 16, 32],
            hidden_act="relu",
            use_learnable_affine_block=False,
            stackwise_stage_filters=[
                (32, 16, 64, 1, 1, 3),
                (64, 32, 128, 2, 1, 3),
                (128, 64, 256, 4, 1, 3),
            ],
            apply_downsample=[False, True, True],
            use_lightweight_conv_block=[False, False, False],
            head={"preprocessor": None},
        ),
        "MiT (SegFormer)": classifier(
            "MiT",
            layerwise_depths=[2, 2, 2, 2],
            num_layers=4,
            layerwise_num_heads=[1, 2, 5, 8],
            layerwise_sr_ratios=[8, 4, 2, 1],
            max_drop_path_rate=0.1,
            layerwise_patch_sizes=[7, 3, 3, 3],
            layerwise_strides=[4, 2, 2, 2],
            hidden_dims=[32, 64, 160, 256],
        ),
        "MobileNet (V3)": classifier("MobileNet", **mobilenet),
        "MobileNetV5": classifier("MobileNetV5", **mobilenet_v5),
        "ResNet18": resnet("basic_block", v2=False),
        "ResNet50": resnet("bottleneck_block", v2=False),
        "ResNet50V2": resnet("bottleneck_block", v2=True),
        "SwinTransformer": classifier(
            "SwinTransformer",
            embed_dim=96,
            depths=(2, 2, 6, 2),
            num_heads=(3, 6, 12, 24),
            window_size=4,
            patch_size=2,
        ),
        "VGG16": classifier(
            "VGG",
            # Its head begins with a convolution of 7 × 7.
            image_shape=(224, 224, 3),
            stackwise_num_repeats=[2, 2, 3, 3, 3],
            stackwise_num_filters=[64, 128, 256, 512, 512],
            head={"pooling_hidden_dim": 512},
        ),
        "ViT": transformer("ViT", "mlp_dim"),
        "Xception": classifier(
            "Xception",
            stackwise_conv_filters=[[32, 64], [64, 128], [256, 256], [728, 728]],
            stackwise_pooling=[True, True, True, False],
        ),
    }


def _application(member: str, **options: Any) -> Callable[[], keras.Model]:
    size = _LARGE.get(member, _SIZE)

    def make() -> keras.Model:
        model = getattr(keras.applications, member)
        return model(weights=None, classes=CLASSES, input_shape=(size, size, 3), **options)

    return make


MODELS: dict[tuple[str, str], Callable[[], keras.Model]] = {
    **{("keras.applications", member): _application(member) for member in MEMBERS},
    **{("keras-hub", member): make for member, make in _hub().items()},
}


def differences(model: keras.Model, logits: keras.Model, name: str) -> tuple[str, float, float]:
    """What was found in the model, and how far scores and gradients are from the tape's, relative."""
    source = source_from_keras(model, name=name, origin="random weights")
    graph = with_feature_layer(trace(source), name)
    found = ", ".join(
        f"{kind.count} × {kind.kind}" for kind in describe_activations(find_activations(graph)).recognised
    )
    settings = Settings(methods=find_methods(OWN), batch_sizes=(2,), compile="none", target="cpu")
    signatures = build_signatures(Forward(fold(graph)), builtin("none"), settings, name)
    low, high = (0, 255) if _rescales(model) else (-1, 1)
    images = np.random.default_rng(0).uniform(low, high, (2, *source.input_shape)).astype(np.float32)
    classes = np.array([1, 2], np.int32)

    # In a graph, gradients of weights are left out; TensorFlow 2.20's kernel for those of a strided 1×1
    # convolution writes past its memory.
    @tf.function(autograph=False)
    def tape(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape(watch_accessed_variables=False) as recorded:
            recorded.watch(x)
            scores = logits(x, training=False)
            chosen = tf.gather(scores, classes, batch_dims=1)
        return chosen, recorded.gradient(chosen, x)

    score, gradients = (t.numpy() for t in tape(tf.constant(images)))
    got = {
        signature: signatures[signature](tf.constant(images), class_index=tf.constant(classes))
        for signature in ("explain_gradients", "explain_guided", "explain_grad_cam")
    }
    plain = got["explain_gradients"]
    assert np.all(np.isfinite(got["explain_guided"]["gradients"].numpy()))
    assert np.any(got["explain_grad_cam"]["cam"].numpy())
    layer = graph.features
    found += f" | {layer.name}, {' × '.join(map(str, layer.sizes))}"
    return found, _distance(plain["score"], score), _distance(plain["gradients"], gradients)


def without_head(library: str, member: str, model: keras.Model) -> keras.Model:
    """The same model, whose output is the logits."""
    if library == "keras-hub":
        return model
    twin = _application(member, classifier_activation=None)()
    twin.set_weights(model.get_weights())
    return twin


def _rescales(model: keras.Model) -> bool:
    return any(isinstance(layer, keras.layers.Rescaling) for layer in model.layers)


def _distance(got: tf.Tensor, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(np.asarray(got) - wanted) / np.linalg.norm(wanted))


def row(library: str, member: str) -> tuple[str, bool]:
    """The line of one model in the table, and whether it exports."""
    keras.utils.set_random_seed(0)
    begun = time.monotonic()
    model = MODELS[library, member]()
    size, parameters = model.input_shape[1], model.count_params() / 1e6
    try:
        found, score, gradients = differences(model, without_head(library, member, model), member)
        right = score <= 1e-3 and gradients <= _BOUND
        verdict = "all methods" if right else "WRONG"
        errors = f"{score:.0e} | {gradients:.0e}"
    except ExportError as error:
        found, right, verdict, errors = " | ", False, f"refused: {error}", "– | –"
    print(f"  {time.monotonic() - begun:.0f} s", file=sys.stderr)
    cells = f"{library} | {member} | {size} | {parameters:.1f} | {found} | {verdict} | {errors}"
    return f"| {cells} |\n", right


def page() -> str:
    """The whole page."""
    rows, right = [], {}
    for library, member in MODELS:
        line, good = row(library, member)
        rows.append(line)
        right.setdefault(library, []).append(good)
        print(line, end="", flush=True)
        keras.backend.clear_session()
    counts = "; ".join(f"{sum(good)} of {len(good)} of {library}" for library, good in right.items())
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("tensorflow", "keras", "keras-hub")
    )
    return _HEAD.format(counts=counts, versions=versions) + "".join(rows)


_HEAD = """# Families of image classifiers

With random weights and small images, these export with all methods: {counts}. `make families-table` writes
this page; it was made with {versions}.
The last columns say how far the export's scores and gradients are from those of TensorFlow's own tape on the
Keras model, relative to their norms: float32 rounding, and in deep models of ReLUs the few units within
rounding of their kink.

| library | member | size | million weights | activations | feature layer | exports with | score | gradients |
|---|---|---|---|---|---|---|---|---|
"""


def export(member: str) -> int:
    """Saves a classifier of keras-hub as .keras and exports the file by the command line, verified."""
    with tempfile.TemporaryDirectory() as folder:
        keras.utils.set_random_seed(0)
        file = Path(folder, "model.keras")
        MODELS["keras-hub", member]().save(file)
        command = [sys.executable, "-m", "saliency_exporter", "export", str(file), f"{folder}/served"]
        command += ["--import", "keras_hub", "--preprocessing", "none", "--compile", "none"]
        command += ["--target", "cpu", "--batch-sizes", "1"]
        return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    chosen = sys.argv[1:]
    if chosen[:1] == ["--export"]:
        sys.exit(max(export(member) for member in chosen[1:]))
    if chosen:
        for library, member in MODELS:
            if member in chosen:
                print(row(library, member)[0], end="", flush=True)
    else:
        PAGE.write_text(page(), encoding="utf-8")
