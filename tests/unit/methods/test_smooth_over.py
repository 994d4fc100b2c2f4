"""SmoothGrad over other methods: `smooth(guided)` and its like."""

from __future__ import annotations

from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from antithetic import antithetic_normal
from built_signatures import Signatures
from callables import source_of
from mean_error import relative_error_of_pairs
from numpy_net import NumpyNet
from rounding import assert_equal_to_rounding

from saliency_exporter.contract.build import build_signatures
from saliency_exporter.contract.settings import Settings
from saliency_exporter.errors import ExportError
from saliency_exporter.graph.feature_layers import with_feature_layer
from saliency_exporter.graph.replay import Forward
from saliency_exporter.graph.trace import trace
from saliency_exporter.methods import registry
from saliency_exporter.methods.declarations import Parameter
from saliency_exporter.methods.smooth import METHOD, over
from saliency_exporter.sources.preprocessing import builtin

SHAPE = (12, 10, 3)
INNER = [
    method.name
    for method in registry.find_methods(registry.OWN)
    if method.needs_gradients and method.kind != "masking" and method is not METHOD
]
FEW = ("guided", "integrated_gradients", "grad_cam")
EACH = [name if name in FEW else pytest.param(name, marks=pytest.mark.slow) for name in INNER]
"""Each method; one of each sort where tests are to be fast, since every signature is traced."""

PARAMETERS = {
    "class_index": np.array([2, -1, 0, 3], np.int32),
    "num_steps": np.array([1, 3, 2, 14], np.int32),
    "baseline": np.array([0.0, -1.0, 0.5, 0.25], np.float32),
    "num_samples": np.array([3, 1, 12, 5], np.int32),
    "noise_level": np.array([0.2, 0.3, 0.1, 0.5], np.float32),
    "seed": np.array([5, 6, 2**31 - 1, -4], np.int32),
    "first_sample": np.array([0, 4, 2**30, 7], np.int32),
    "target_error": np.zeros(4, np.float32),
}


def network() -> keras.Model:
    """Rectifiers for guided backpropagation, and a grid of 4 × 3 cells for cams; smooth at its end."""
    keras.utils.set_random_seed(4)
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input(SHAPE),
            layers.Conv2D(6, 3, strides=2, activation="relu", padding="same"),
            layers.Conv2D(5, 3, activation="swish"),
            layers.Flatten(),
            layers.Dense(4, activation="softmax"),
        ]
    )


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (4, *SHAPE)).astype(np.float32)


def signatures(**settings: object) -> Signatures:
    graph = trace(source_of(network(), SHAPE), score="auto")
    return Signatures(with_feature_layer(graph, "model"), **settings)


@pytest.fixture(scope="module")
def built():
    return signatures(methods=(*INNER, "smooth", *(f"smooth({name})" for name in INNER)))


@pytest.fixture(scope="module")
def call(built):
    def answer(signature: str, images: np.ndarray, **parameters: object) -> dict[str, np.ndarray]:
        taken = {spec.name for spec in built.functions[signature].input_signature}
        chosen = {**PARAMETERS, **parameters}
        return built(signature, images, **{name: chosen[name] for name in taken - {"images"}})

    return answer


def map_of(name: str) -> str:
    (method,) = registry.find_methods([name])
    return method.map_kind.output


@pytest.mark.parametrize("inner", EACH)
def test_without_noise_it_is_the_method_with_the_parameters_of_each_example(call, images, inner):
    want = call(f"explain_{inner}", images)
    got = call(f"explain_smooth_{inner}", images, noise_level=np.zeros(4, np.float32))
    for output in (map_of(inner), "saliency", "score", "probability", "class_index"):
        assert_equal_to_rounding(got[output], want[output], name=output)
    # The second example asks for one sample, whose spread is not known.
    size = np.abs(want[map_of(inner)]).max()
    np.testing.assert_allclose(got["variance"][[0, 2, 3]], 0, atol=(1e-6 * size) ** 2)
    assert np.isnan(got["variance"][1]).all()


@pytest.mark.parametrize("inner", EACH)
def test_it_is_the_mean_of_the_methods_maps_of_noisy_copies_one_by_one(call, images, inner):
    name = map_of(inner)
    clean = call(f"explain_{inner}", images)
    got = call(f"explain_smooth_{inner}", images)
    np.testing.assert_array_equal(got["class_index"], clean["class_index"])
    np.testing.assert_allclose(got["score"], clean["score"], rtol=1e-5)
    sigma = PARAMETERS["noise_level"] * np.ptp(images, axis=(1, 2, 3))
    maps = []
    for sample in range(PARAMETERS["num_samples"].max()):
        number = tf.constant(PARAMETERS["first_sample"] + sample)
        noise = antithetic_normal(tf.constant(PARAMETERS["seed"]), number, SHAPE).numpy()
        noisy = images + sigma[:, None, None, None] * noise
        maps.append(call(f"explain_{inner}", noisy, class_index=clean["class_index"])[name])
    for b, n in enumerate(PARAMETERS["num_samples"]):
        samples = np.stack(maps)[:n, b].astype(np.float64)
        size = np.abs(samples).max()
        np.testing.assert_allclose(got[name][b], samples.mean(axis=0), rtol=2e-5, atol=4e-6 * size)
        if n > 1:
            variance = samples.var(axis=0, ddof=1)
            np.testing.assert_allclose(got["variance"][b], variance, rtol=1e-3, atol=1e-5 * size**2)
        if n > 2:
            # Where little is left of the mean, the difference below the root is of few digits.
            error = relative_error_of_pairs(samples)
            np.testing.assert_allclose(got["relative_error"][b], error, rtol=1e-3 * max(1, error**2))
        assert got["samples_used"][b] == n


def test_the_noise_changes_the_class_of_some_copies_and_the_explained_one_stays(call, images):
    sigma = 0.5 * np.ptp(images, axis=(1, 2, 3))[:, None, None, None]
    noise = [antithetic_normal(tf.range(4), tf.constant(i), SHAPE).numpy() for i in range(10)]
    predicted = np.full(4, -1, np.int32)
    clean = call("explain_grad_cam", images, class_index=predicted)["class_index"]
    noisy = [
        call("explain_grad_cam", images + sigma * e, class_index=predicted)["class_index"] for e in noise
    ]
    assert (np.stack(noisy) != clean).any()
    parameters = {
        "num_samples": np.full(4, 10),
        "noise_level": np.full(4, 0.5),
        "seed": np.arange(4),
        "first_sample": np.zeros(4),
        "class_index": predicted,
    }
    got = call("explain_smooth_grad_cam", images, **parameters)
    np.testing.assert_array_equal(got["class_index"], clean)
    asked = call("explain_smooth_grad_cam", images, **{**parameters, "class_index": clean})
    assert_equal_to_rounding(got["cam"], asked["cam"])


def test_saliency_is_that_of_the_mean_map(call, images):
    """The mean of rectified cams is another map: what is averaged is signed."""
    got = call("explain_smooth_grad_cam", images)
    assert got["cam"].shape == got["variance"].shape == (4, 4, 3)
    rectified = np.maximum(got["cam"], 0)
    assert (got["cam"] < 0).any()
    expected = tf.image.resize(rectified[..., None], SHAPE[:2]).numpy()[..., 0]
    np.testing.assert_allclose(got["saliency"], expected, atol=1e-5 * rectified.max())


@pytest.mark.slow
def test_smooth_over_gradients_is_smooth(call, images):
    want, got = (call(signature, images) for signature in ("explain_smooth", "explain_smooth_gradients"))
    for output in ("gradients", "saliency", "relative_error", "score", "class_index"):
        assert_equal_to_rounding(got[output], want[output], name=output)


def test_smooth_guided_is_the_mean_of_the_guided_passes_written_out(signatures_of):
    net = NumpyNet.random(("relu", "relu6"))
    layers = [
        keras.layers.Conv2D(kernel.shape[3], kernel.shape[0], activation=activation)
        for kernel, activation in zip(net.kernels, net.activations, strict=True)
    ]
    dense = keras.layers.Dense(4, use_bias=False)
    model = keras.Sequential([keras.Input(net.input_shape), *layers, keras.layers.Flatten(), dense])
    for layer, weights in zip(layers, zip(net.kernels, net.biases, strict=True), strict=True):
        layer.set_weights(list(weights))
    dense.set_weights([net.dense])
    image = np.random.default_rng(3).normal(size=(1, *net.input_shape)).astype(np.float32)
    noise = [
        antithetic_normal(tf.constant([7]), tf.constant(i), net.input_shape).numpy()[0] for i in range(6)
    ]
    sigma = 0.2 * np.ptp(image)
    signals = [net.backward(image[0] + sigma * e.astype(np.float64), 2, guided=True) for e in noise]
    parameters = {"class_index": 2, "num_samples": 6, "noise_level": 0.2, "seed": 7}
    for compile in ("none", "xla"):
        built = signatures_of(model, net.input_shape, compile=compile, methods=("smooth(guided)",))
        got = built("explain_smooth_guided", image, **parameters)
        expected = np.mean(signals, axis=0)
        np.testing.assert_allclose(
            got["gradients"][0], expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max()
        )


@pytest.mark.slow
@pytest.mark.parametrize("inner", ["guided_grad_cam", "integrated_gradients"])
def test_compiled_it_is_what_it_is_uncompiled(call, images, inner):
    compiled = signatures(compile="xla", batch_sizes=(4,), methods=(f"smooth({inner})",))
    signature = f"explain_smooth_{inner}"
    taken = {spec.name for spec in compiled.functions[signature].input_signature} - {"images"}
    got = compiled(signature, images, **{name: PARAMETERS[name] for name in taken})
    want = call(signature, images)
    for output in (map_of(inner), "saliency", "score", "class_index"):
        assert_equal_to_rounding(got[output], want[output], name=output)


def test_an_answer_depends_on_its_own_example_and_parameters_alone(call, images):
    signature = "explain_smooth_integrated_gradients"
    together = call(signature, images)
    for b in range(4):
        alone = call(signature, images[[b]], **{name: values[[b]] for name, values in PARAMETERS.items()})
        for output in ("attributions", "saliency", "variance", "score", "class_index"):
            assert_equal_to_rounding(together[output][[b]], alone[output], name=output)


def test_it_declares_what_the_method_does_and_its_own_parameters_and_outputs():
    (inner,) = registry.find_methods(["integrated_gradients"])
    method = over(inner)
    assert method.signature == "explain_smooth_integrated_gradients"
    assert method.kind == inner.kind
    names = [parameter.name for parameter in method.parameters]
    own = ["num_samples", "noise_level", "seed", "first_sample", "target_error"]
    assert names == ["num_steps", "baseline", *own]
    assert method.outputs == METHOD.outputs
    (guided_cam,) = registry.find_methods(["guided_grad_cam"])
    method = over(guided_cam)
    assert method.needs_features
    assert method.replacements is guided_cam.replacements
    assert method.facts is guided_cam.facts
    assert method.over is None


def test_smooth_of_smooth_is_refused():
    for text in ("smooth(smooth)", "smooth(smooth(guided))"):
        with pytest.raises(ExportError, match="both have the parameters num_samples") as error:
            registry.find_methods([text])
        assert error.value.hint in ("ask for smooth itself", "ask for smooth(guided) itself")


def test_a_parameter_of_the_same_name_is_refused():
    (guided,) = registry.find_methods(["guided"])
    seeded = replace(
        guided, parameters=(Parameter("seed", "int32", default=0, examples=(1, 2), help="of masks"),)
    )
    with pytest.raises(ExportError, match=r"smooth\(guided\): smooth and guided both have the"):
        over(seeded)


def test_the_target_of_the_error_is_that_of_the_mean_and_an_inner_one_stays_at_its_default():
    """Of a method with a parameter of that name, which another stops by: 0.25 is what the inner one gets."""
    (inner,) = registry.find_methods(["gradient_x_input"])
    target = Parameter("target_error", "float32", default=0.25, examples=(1, 2), help="of its own")

    def explain(model, x, parameters):
        explained = inner.explain(model, x, parameters)
        factor = tf.reshape(parameters["target_error"], [-1] + [1] * (x.shape.rank - 1))
        return explained._replace(map=tf.zeros_like(x) + factor)

    method = over(replace(inner, explain=explain, parameters=(target,)))
    assert [p.default for p in method.parameters if p.name == "target_error"] == [0]
    settings = Settings(methods=(method,), batch_sizes=(2,), compile="none", target="cpu")
    forward = Forward(trace(source_of(lambda x: tf.reduce_sum(x, axis=1), (2, 3))))
    built = build_signatures(forward, builtin("none"), settings, "model")[method.signature]
    got = built(tf.ones((2, 2, 3)), target_error=tf.constant([0.0, 8.0]), num_samples=tf.constant(3))
    np.testing.assert_array_equal(got["attributions"], np.full((2, 2, 3), 0.25))


def test_a_method_that_takes_no_gradient_is_refused():
    (guided,) = registry.find_methods(["guided"])
    for changes in ({"needs_gradients": False}, {"kind": "masking"}):
        with pytest.raises(ExportError, match="guided takes no gradient, and SmoothGrad is a mean"):
            over(replace(guided, name="guided", **changes))
