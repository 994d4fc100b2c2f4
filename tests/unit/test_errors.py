"""What another library's error says, in one line."""

from __future__ import annotations

import pytest

from saliency_exporter.errors import brief


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("shapes differ\nmore about it"), "ValueError: shapes differ"),
        (ValueError("in user code:\n\n  File x\n\n    OSError: no such file"), "OSError: no such file"),
        (
            ValueError("Exception encountered when calling M.call().\n\n\x1b[1mno bool\x1b[0m\n\nArguments"),
            "ValueError: no bool",
        ),
        (
            ValueError(
                "Graph execution error:\n\nDetected at node a/MatMul defined at (most recent "
                "call last):\n<stack traces unavailable>\nMatrix size-incompatible: In[0]: [1,3]\n\t [[a]]"
            ),
            "ValueError: Matrix size-incompatible: In[0]: [1,3]",
        ),
        (KeyError(), "KeyError"),
        (RuntimeError("\n  \n"), "RuntimeError"),
    ],
)
def test_it_is_the_line_that_names_the_fault(error, said):
    assert brief(error) == said


_FILES = 'Detected at node add defined at (most recent call last):\n  File "m.py", line 3, in f\n\n'

# Messages of TensorFlow 2.20, Keras 3.15 and tf-keras 2.20 as they were raised; configurations are cut short.
# That of two errors is put together in TensorFlow's form.
_SAID = {
    "a layer of Keras 3": (
        "Exception encountered when calling Reshape.call().\n\n\x1b[1mThe total size of the tensor must be "
        "unchanged. Received: input_shape=(8, 8, 3), target_shape=(5,)\x1b[0m\n\nArguments received by "
        "Reshape.call():\n  • args=('<KerasTensor shape=(None, 8, 8, 3)>',)\n  • kwargs=<class "
        "'inspect._empty'>",
        "The total size of the tensor must be unchanged. Received: input_shape=(8, 8, 3), target_shape=(5,)",
    ),
    "a layer of Keras 2": (
        "Exception encountered when calling layer 'reshape_1' (type Reshape).\n\n{{function_node "
        "__wrapped__Reshape_device_/job:localhost/replica:0/task:0/device:CPU:0}} Input to reshape "
        "is a tensor "
        "with 6 values, but the requested shape has 10 [Op:Reshape]\n\nCall arguments received by layer "
        "'reshape_1' (type Reshape):\n  • inputs=tf.Tensor(shape=(2, 3), dtype=float32)",
        "Input to reshape is a tensor with 6 values, but the requested shape has 10",
    ),
    "an eager op": (
        "{{function_node __wrapped__AddV2_device_/job:localhost/replica:0/task:0/device:CPU:0}} Incompatible "
        "shapes: [2] vs. [3] [Op:AddV2] name: ",
        "Incompatible shapes: [2] vs. [3]",
    ),
    "a graph": (
        f"Graph execution error:\n\n{_FILES}Incompatible shapes: [2] vs. [3]\n\t [[{{{{node add}}}}]] "
        "[Op:__inference_f_246]",
        "Incompatible shapes: [2] vs. [3]",
    ),
    "a session": (
        "Graph execution error:\n\nDetected at node 'Reshape' defined at (most recent call last):\n    File "
        "\"m.py\", line 73, in session\nNode: 'Reshape'\nInput to reshape is a tensor with 2 values, but the "
        "requested shape has 7\n\t [[{{node Reshape}}]]\n\nOriginal stack trace for 'Reshape':\n  "
        'File "m.py"',
        "Input to reshape is a tensor with 2 values, but the requested shape has 7",
    ),
    "a graph with two errors": (
        "Graph execution error:\n\n2 root error(s) found.\n  (0) INVALID_ARGUMENT: Incompatible "
        "shapes: [2] vs. "
        "[3]\n\t [[{{node add}}]]\n  (1) CANCELLED: Function was cancelled\n0 successful operations.",
        "Incompatible shapes: [2] vs. [3]",
    ),
    "user code in user code": (
        'in user code:\n\n    File "training.py", line 2377, in predict_step\n        return self(x)\n\n    '
        "ValueError: Exception encountered when calling layer 'm' (type M).\n    \n    in user code:\n    \n"
        "        File \"m.py\", line 54, in call  *\n            raise ValueError('my own reason')\n    \n"
        "        ValueError: my own reason\n        in two lines\n    \n    \n    Call arguments received by "
        "layer 'm' (type M):\n      • x=tf.Tensor(shape=(None, 3), dtype=float32)\n",
        "my own reason",
    ),
    "a shape that cannot be told": (
        "Could not automatically infer the output shape / dtype of 'kw' (of type Kw). Either the `Kw.call()` "
        "method is incorrect, or you need to implement the `Kw.compute_output_spec() / "
        "compute_output_shape()` method. Error encountered:\n\nThe custom_gradient decorator currently "
        "supports keywords arguments only when eager execution is enabled.",
        "The custom_gradient decorator currently supports keywords arguments only when eager execution is "
        "enabled.",
    ),
    "a configuration": (
        "<class 'keras.src.models.sequential.Sequential'> could not be deserialized properly. "
        "Please ensure that "
        "components that are Python object instances (layers, models, etc.) returned by `get_config()` are "
        "explicitly deserialized in the model's `from_config()` method.\n\nconfig={'module': 'keras'}.\n\n"
        "Exception encountered: Error when deserializing class 'Dense' using config={'name': 'dd'}.\n\n"
        "Exception encountered: Unrecognized keyword arguments passed to Dense: {'nonsense': 3}",
        "Unrecognized keyword arguments passed to Dense: {'nonsense': 3}",
    ),
    "a function": (
        "<class 'keras.src.models.sequential.Sequential'> could not be deserialized "
        "properly.\n\nconfig={'module': "
        "'keras'}.\n\nException encountered: Could not locate function 'myfn'. Make sure custom classes and "
        "functions are decorated with `@keras.saving.register_keras_serializable()`. If they are already "
        "decorated, make sure they are all imported so that the decorator is run before trying to "
        "load them. Full "
        "object config: {'module': 'builtins', 'class_name': 'function', 'config': 'myfn'}",
        "Could not locate function 'myfn'",
    ),
    "weights of another shape": (
        "A total of 1 objects could not be loaded. Example error message for object <Dense "
        "name=dd, built=True>:"
        "\n\nLayer 'dd' expected 2 variables, but received 0 variables during loading. Expected: ['kernel', "
        "'bias']\n\nList of objects that could not be loaded:\n[<Dense name=dd, built=True>]",
        "Layer 'dd' expected 2 variables, but received 0 variables during loading. Expected: "
        "['kernel', 'bias']",
    ),
    "XLA": (
        "Detected unsupported operations when trying to compile graph __inference_f_363[_XlaMustCompile=true,"
        "config_proto=13561319589895757934,executor_type=11160318154034397263] on XLA_CPU_JIT: AsString (No "
        "registered 'AsString' OpKernel for XLA_CPU_JIT devices compatible with node {{node AsString}})"
        '{{node AsString}}\nThe op is created at: \nFile "m.py", line 175, in <module>',
        "Detected unsupported operations when trying to compile graph __inference_f_363 on "
        "XLA_CPU_JIT: AsString "
        "(No registered 'AsString' OpKernel for XLA_CPU_JIT devices compatible with node AsString)AsString",
    ),
}


@pytest.mark.parametrize("case", _SAID)
def test_the_reason_is_found_behind_where_it_happened_and_what_was_read(case):
    message, reason = _SAID[case]
    assert brief(ValueError(message)) == f"ValueError: {reason}"


def test_it_is_never_longer_than_300_characters():
    assert len(brief(ValueError("x" * 1000))) <= 300
