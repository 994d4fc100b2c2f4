from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from built_signatures import signatures_of

from saliency_exporter.errors import ExportError
from saliency_exporter.graph.trace import trace
from saliency_exporter.sources.load import load_source

MODEL = """
import keras
import tensorflow as tf

def make():
    return keras.Sequential([keras.Input((8, 8, 3)), keras.layers.GlobalMaxPooling2D()])

def make_without_shape():
    return keras.Sequential([keras.layers.Conv2D(3, 1, kernel_initializer="ones"),
                             keras.layers.GlobalMaxPooling2D()])

class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.scale = self.add_weight(shape=(), initializer="ones", name="scale")
    def call(self, x, training=None):
        assert training is False
        return tf.reduce_max(x, [1, 2]) * self.scale

class Module(tf.Module):
    def __init__(self):
        super().__init__()
        self.inner = tf.Variable(1.0)
    @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 3])])
    def __call__(self, x):
        return self.by_name(x)
    @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 3])])
    def by_name(self, x):
        return tf.reduce_max(x, [1, 2]) * self.inner

model = make()
subclassed = Subclassed()
module = Module()
concrete = module.by_name.get_concrete_function()
factor = tf.Variable(1.0)
layer = keras.layers.GlobalMaxPooling2D()

@tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 3])])
def traced(x):
    return tf.reduce_max(x, [1, 2]) * factor

@tf.function
def traced_without_shape(x):
    return tf.reduce_max(x, [1, 2]) * factor

def forward(x, training=True):
    if training:
        return x
    if tf.reduce_sum(factor) > 0:  # AutoGraph
        return tf.reduce_max(x, [1, 2]) * factor
    return tf.zeros_like(x[:, 0, 0])

def make_forward():
    return traced

class holder:
    model = model
"""


@pytest.mark.parametrize(
    ("name", "sized", "variables"),
    [
        ("make", True, 0),
        ("model", True, 0),
        ("holder.model", True, 0),
        ("make_without_shape", False, 2),
        ("layer", False, 0),
        ("Subclassed", False, 1),
        ("subclassed", False, 1),
        ("Module", True, 1),
        ("module", True, 1),
        ("module.by_name", True, 1),
        ("concrete", True, 1),
        ("traced", True, 1),
        ("traced_without_shape", False, 1),
        ("forward", False, 1),
        ("make_forward", True, 1),
    ],
)
def test_every_form_of_a_model_gives_its_forward_pass(
    module, images, specification, name: str, sized: bool, variables: int
) -> None:
    reference = f"{module(MODEL)}:{name}"
    if not sized:
        with pytest.raises(ExportError, match="any size") as error:
            load_source(reference)
        assert "--image-size" in error.value.hint
    source = load_source(reference, image_size=None if sized else (8, 8))
    assert source.input_shape == (8, 8, 3)
    assert source.origin == f"Python callable {reference}"
    # Every one of them is the largest value per channel, but for the convolution of ones: their sum.
    expected = images.sum(-1, keepdims=True).repeat(3, -1) if name == "make_without_shape" else images
    np.testing.assert_allclose(source.call(tf.constant(images)), expected.max((1, 2)), rtol=1e-5)
    traced = tf.function(source.call, autograph=False).get_concrete_function(specification(source))
    assert traced.structured_outputs.shape.as_list() == [None, 3]
    assert len(source.variables) == variables
    assert {id(v) for v in traced.variables} == {id(v) for v in source.variables}


def test_the_variables_live_as_long_as_the_source(module, images) -> None:
    name = module(
        """
        import tensorflow as tf
        def make():
            weight = tf.Variable(2.0)
            return tf.function(lambda x: tf.reduce_max(x, [1, 2]) * weight)
        """
    )
    source = load_source(f"{name}:make", image_size=(8, 8))
    np.testing.assert_allclose(source.call(tf.constant(images)), images.max((1, 2)) * 2, rtol=1e-6)
    assert [float(variable) for variable in source.variables] == [2.0]


GRAPHS = """
import tensorflow as tf

v1 = tf.compat.v1

def graph_def():
    with tf.Graph().as_default() as graph:
        x = v1.placeholder(tf.float32, [None, 8, 8, 3], "x")
        tf.nn.softmax(tf.reduce_mean(tf.nn.relu(x), [1, 2]), name="y")
    return graph.as_graph_def()

def wrapped():
    # TensorFlow's guide to migrating frozen graphs.
    function = v1.wrap_function(lambda: tf.graph_util.import_graph_def(graph_def(), name=""), [])
    return function.prune(function.graph.get_tensor_by_name("x:0"), function.graph.get_tensor_by_name("y:0"))

def in_a_graph_alone(x):
    return tf.graph_util.import_graph_def(graph_def(), input_map={"x:0": x}, return_elements=["y:0"])[0]

module = tf.Module()
module.f = tf.function(lambda photo: {"y": tf.nn.softmax(tf.reduce_mean(tf.nn.relu(photo), [1, 2]))},
                       input_signature=[tf.TensorSpec([None, 8, 8, 3], name="photo")])

def signature():
    tf.saved_model.save(module, "DIRECTORY", module.f)
    return tf.saved_model.load("DIRECTORY").signatures["serving_default"]
"""


@pytest.mark.parametrize("name", ["wrapped", "in_a_graph_alone", "signature"])
def test_functions_of_graphs_are_forward_passes(module, images, tmp_path, name: str) -> None:
    source = load_source(
        f"{module(GRAPHS.replace('DIRECTORY', str(tmp_path / 'net')))}:{name}",
        image_size=(8, 8) if name == "in_a_graph_alone" else None,
    )
    exponentials = np.exp(np.maximum(images, 0).mean((1, 2)))
    want = exponentials / exponentials.sum(1, keepdims=True)
    np.testing.assert_allclose(source.call(tf.constant(images)), want, rtol=1e-5)
    assert [node.op for node in trace(source).nodes if node.op != "Const"] == ["Placeholder", "Relu", "Mean"]


def test_the_wrong_size_for_a_function_of_a_graph_is_told_as_tensorflow_says_it(module) -> None:
    name = module(
        """
        import numpy as np
        import tensorflow as tf

        dense = np.ones((192, 5), np.float32)

        @tf.function
        def model(x):
            return tf.matmul(tf.reshape(x, [tf.shape(x)[0], tf.size(x[0])]), dense)
        """
    )
    with pytest.raises(
        ExportError, match=r"failed on one example of shape \[1, 9, 8, 3\].*\[1,216\]"
    ) as error:
        load_source(f"{name}:model", image_size=(9, 8))
    assert "Graph execution" not in str(error.value)


@pytest.mark.parametrize("name", ["of_two", "of_a_mapping"])
def test_a_model_that_takes_more_than_one_tensor_is_told_to_be_wrapped(module, images, name: str) -> None:
    """The hint is a way that works, and says nothing of sizes."""
    name_of_module = module(
        """
        import keras
        import tensorflow as tf

        class OfTwo(keras.Model):
            def call(self, image, other):
                return tf.reduce_max(image, [1, 2]) + other

        class OfAMapping(keras.Model):
            def call(self, inputs):
                return tf.reduce_max(inputs["image"], [1, 2])

        of_two, of_a_mapping = OfTwo(), OfAMapping()

        def of_two_wrapped(x):
            return of_two(x, tf.zeros([tf.shape(x)[0], 3]))

        def of_a_mapping_wrapped(x):
            return of_a_mapping({"image": x})
        """
    )
    with pytest.raises(ExportError, match=f"{name} failed on one example") as error:
        load_source(f"{name_of_module}:{name}", image_size=(8, 8))
    assert 'return model({"image": x})' in error.value.hint
    assert "--image-size" not in error.value.hint
    wrapped = load_source(f"{name_of_module}:{name}_wrapped", image_size=(8, 8))
    np.testing.assert_allclose(wrapped.call(tf.constant(images)), images.max((1, 2)), rtol=1e-6)


def test_loading_a_model_that_counts_its_calls_counts_none(module, images) -> None:
    name = module(
        """
        import tensorflow as tf

        count = tf.Variable(0.0)

        @tf.function
        def model(x):
            count.assign_add(1.0)
            return tf.reduce_max(x, [1, 2]) + count
        """
    )
    source = load_source(f"{name}:model", image_size=(8, 8))
    (count,) = source.variables
    graph = trace(source)
    assert float(count) == 0.0
    assert not any(node.op.startswith("Assign") for node in graph.nodes)
    got = signatures_of(source.call, source.input_shape, methods=("gradients",))("serving_default", images)
    np.testing.assert_allclose(got["logits"], images.max((1, 2)) + 1.0, rtol=1e-6)


@pytest.mark.parametrize(
    ("source", "name", "message"),
    [
        ("", "nothing", "has no 'nothing'"),
        ("model = 3", "model", "is a int, not a model"),
        ("def make(): return 3", "make", r"make\(\) is a int, not a model"),
        ("def make(): return None", "make", r"make\(\) is a NoneType"),
        ("def make(): raise OSError('no disk')", "make", r"make\(\) failed: OSError: no disk"),
        ("def f(x, y): return x", "f", r"f has 2 inputs \(x, y\)"),
        ("import tensorflow as tf\ndef make(): return lambda x, y: x", "make", r"make has 2 inputs \(x, y\)"),
        ("def f(x): return {'a': x, 'b': x}", "f", r"returns a, float32 \[B, .*; b, float32"),
        ("def f(x): return 'cat'", "f", "f returns a str; a classifier returns"),
        ("def f(x): return x", "f", r"returns float32 \[B, 8, 8, 3\]; class scores are"),
        ("def f(x): return x @ x", "f", r"failed on one example of shape \[1, 8, 8, 3\]"),
        (
            "import tensorflow as tf\ndef f(x): return tf.constant(x.numpy().max((1, 2)))",
            "f",
            "cannot be traced",
        ),
    ],
)
def test_what_is_not_a_model_is_refused_by_name(module, source: str, name: str, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        load_source(f"{module(source)}:{name}", image_size=(8, 8))


@pytest.mark.parametrize(
    ("signature", "message"),
    [
        ("tf.TensorSpec([None, 8, 8, 3], tf.bool)", "takes bool input"),
        ("tf.TensorSpec([], tf.string)", "takes string input"),
        ("tf.TensorSpec([None, 8, 3])", r"shape \[B, 8, 3\]; --image-size is for images"),
        ("tf.TensorSpec([None, 1, 1, 1, 1, 1])", "inputs of 1 to 4 axes"),
        ("tf.TensorSpec([None, 4, 4, 3])", r"not of --image-size 8 8"),
        ("tf.TensorSpec([None]), tf.TensorSpec([None])", r"2 inputs \(input_0, input_1\)"),
    ],
)
def test_an_input_signature_of_another_form_is_refused(module, signature: str, message: str) -> None:
    name = module(
        f"import tensorflow as tf\n@tf.function(input_signature=[{signature}])\ndef f(*x): return x[0]\n"
    )
    with pytest.raises(ExportError, match=message):
        load_source(f"{name}:f", image_size=(8, 8))


def test_a_module_that_cannot_be_imported_is_refused(module) -> None:
    with pytest.raises(ExportError, match="no Python module 'no_such_module'"):
        load_source("no_such_module:make")
    with pytest.raises(ExportError, match=r"no Python module 'keras\.no_such_module'"):
        load_source("keras.no_such_module:make")
    with pytest.raises(ExportError, match="needs 'no_such_package', which is not installed"):
        load_source(f"{module('import no_such_package')}:make")
    with pytest.raises(ExportError, match="is not of the form module:name"):
        load_source("my module:make")


def test_an_error_while_importing_is_told(module) -> None:
    with pytest.raises(ExportError, match="failed: ZeroDivisionError"):
        load_source(f"{module('1 / 0')}:make")


def test_a_syntax_error_is_told(module) -> None:
    with pytest.raises(ExportError, match="failed: SyntaxError"):
        load_source(f"{module('def make(')}:make")


def test_a_keras_of_another_backend_is_refused(module, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = f"{module(MODEL)}:make"
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ExportError, match="'jax' backend") as error:
        load_source(reference)
    assert "KERAS_BACKEND=tensorflow" in error.value.hint
