from __future__ import annotations

import shutil

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from saliency_exporter.runtime.servable import ServableError, load_servable
from saliency_exporter.version.slimming import slim


class Doubled(tf.Module):
    """Uses one constant many times, computes what nobody reads, and asserts."""

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.float32, name="x")])
    def __call__(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        tf.debugging.Assert(tf.reduce_all(x < 100.0), ["x is too large"])
        _ = tf.exp(x)
        y = x
        for _ in range(5):
            y = y * tf.constant(2.0) + tf.constant(1.0)
        return {"y": y, "constant": tf.constant(2.0) + 0 * x}


def saved(directory) -> saved_model_pb2.SavedModel:
    return saved_model_pb2.SavedModel.FromString((directory / "saved_model.pb").read_bytes())


def body(directory):
    functions = saved(directory).meta_graphs[0].graph_def.library.function
    return max(functions, key=lambda function: sum(node.op == "Mul" for node in function.node_def))


def test_equal_constants_are_one_and_unread_nodes_are_gone_and_answers_stay(tmp_path):
    module = Doubled()
    tf.saved_model.save(module, str(tmp_path / "1"), signatures=module.__call__)
    shutil.copytree(tmp_path / "1", tmp_path / "2")
    slim(tmp_path / "2")
    before, after = body(tmp_path / "1"), body(tmp_path / "2")
    assert "Exp" in {node.op for node in before.node_def}
    assert "Exp" not in {node.op for node in after.node_def}
    values = [node.attr["value"].SerializeToString() for node in after.node_def if node.op == "Const"]
    assert len(values) == len(set(values))
    assert not any("_output_shapes" in node.attr for node in after.node_def)
    x = np.array([1.0, -2.0], np.float32)
    for version in ("1", "2"):
        servable = load_servable(tmp_path / version)
        got = servable.predict("serving_default", {"x": x})
        # Five times doubled and incremented: 2⁵x + 2⁵ − 1.
        np.testing.assert_array_equal(got["y"], 32 * x + 31)
        np.testing.assert_array_equal(got["constant"], [2, 2])
        servable.close()


def test_assertions_survive(tmp_path):
    module = Doubled()
    tf.saved_model.save(module, str(tmp_path), signatures=module.__call__)
    slim(tmp_path)
    servable = load_servable(tmp_path)
    with pytest.raises(ServableError, match="x is too large"):
        servable.predict("serving_default", {"x": np.array([1000.0], np.float32)})
    servable.close()


class Compiled(tf.Module):
    """A compiled core with a loop and a function that is not inlined, called by a plain signature."""

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.float32, name="x")])
    def __call__(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        @tf.function(jit_compile=True, autograph=False)
        def core(x: tf.Tensor) -> tf.Tensor:
            return tf.while_loop(lambda i, _: i < 3, lambda i, y: (i + 1, y * y), (0, x))[1]

        @tf.function(autograph=False, experimental_attributes={"_noinline": True})
        def called(x: tf.Tensor) -> tf.Tensor:
            return tf.while_loop(lambda i, _: i < 2, lambda i, y: (i + 1, y + 1.0), (0, x))[1]

        return {"y": called(core(x))}


def test_what_is_optimized_elsewhere_is_kept_from_grappler_and_nothing_else_is(tmp_path):
    module = Compiled()
    tf.saved_model.save(module, str(tmp_path), signatures=module.__call__)
    slim(tmp_path)
    functions = saved(tmp_path).meta_graphs[0].graph_def.library.function
    marked = {f.signature.name for f in functions if f.attr["_tf_data_function"].b}
    kinds = {name.split("inference_")[-1].rsplit("_", 1)[0].removeprefix("__") for name in marked}
    assert any("core" in kind for kind in kinds)
    assert any("called" in kind for kind in kinds)
    # The loop that is compiled; the one of the called function becomes part of it before it is optimized.
    assert sum("body" in kind for kind in kinds) == 1
    assert not any("signature_wrapper" in kind or "save" in kind for kind in kinds)
    servable = load_servable(tmp_path)
    x = np.array([2.0, -0.5], np.float32)
    np.testing.assert_array_equal(servable.predict("serving_default", {"x": x})["y"], x**8 + 2)
    servable.close()


class Rectified(tf.Module):
    """Rectifiers with their gradients in a compiled core, in two dtypes, and one in what is not compiled."""

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.float32, name="x")])
    def __call__(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        @tf.function(jit_compile=True, autograph=False)
        def core(x: tf.Tensor) -> dict[str, tf.Tensor]:
            y = tf.nn.relu(x)
            z = tf.cast(tf.nn.relu6(tf.cast(x, tf.bfloat16)), tf.float32)
            return {"relu": y, "relu6": z, "gradient": tf.gradients([y, tf.nn.relu6(x)], x, [x, 2 * x])[0]}

        @tf.function(autograph=False, experimental_attributes={"_noinline": True})
        def called(x: tf.Tensor) -> tf.Tensor:
            return tf.nn.relu(x)

        return {**core(x), "uncompiled": called(x)}


def test_rectifiers_are_maxima_and_clamps_where_xla_compiles_with_the_same_bits(tmp_path):
    module = Rectified()
    tf.saved_model.save(module, str(tmp_path / "1"), signatures=module.__call__)
    shutil.copytree(tmp_path / "1", tmp_path / "2")
    slim(tmp_path / "2")
    functions = saved(tmp_path / "2").meta_graphs[0].graph_def.library.function
    ops = {f.signature.name: [node.op for node in f.node_def] for f in functions}
    core, called = (next(v for k, v in ops.items() if f"_{name}_" in k) for name in ("core", "called"))
    assert not {"Relu", "Relu6"} & set(core)
    assert (core.count("Maximum"), core.count("ClipByValue"), core.count("Relu6Grad")) == (1, 2, 1)
    assert "Relu" in called
    below_six = np.nextafter(np.float32(6), np.float32(0))
    x = np.array([-np.inf, -7, -1e-40, -0.0, 0, 1e-40, 0.5, below_six, 6, 6.5, np.inf, np.nan], np.float32)
    answers = []
    for version in ("1", "2"):
        servable = load_servable(tmp_path / version)
        answers.append(servable.predict("serving_default", {"x": x}))
        servable.close()
    before, after = answers
    assert before.keys() == after.keys()
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value)
    np.testing.assert_array_equal(after["relu"][6:10], [0.5, below_six, 6, 6.5])
