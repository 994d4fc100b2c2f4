"""Calls of both clients that succeed, against a server on TensorFlow Serving's official stubs."""

from __future__ import annotations

import numpy as np
import pytest
import scripted_server
from scripted_server import CLASSES, MODEL, LinearModel, from_proto, serving
from tensorflow_serving.apis.get_model_status_pb2 import ModelVersionStatus

from saliency_client import InputError, MissingOutput, UnknownMethod, UnknownParameter, VersionStatus


@pytest.mark.parametrize("typed", [True, False], ids=["typed fields", "tensor_content"])
def test_explain_returns_the_maps_that_the_server_computed(server, client, images, typed):
    server.typed_answers = typed

    explanation = client.explain(images, class_index=[0, 1, 2], outputs="all")

    np.testing.assert_array_equal(explanation.gradients, server.model.weights[:3])
    np.testing.assert_array_equal(explanation.saliency, np.abs(server.model.weights[:3]).max(axis=-1))
    np.testing.assert_array_equal(explanation.class_index, [0, 1, 2])
    assert list(explanation.label) == ["class 0", "class 1", "class 2"]
    np.testing.assert_array_equal(explanation.score, np.diagonal(server.model.scores(images)))
    assert explanation.version == 1
    assert ("variance" in explanation, "relative_error" in explanation) == (False, False)


def test_every_parameter_is_sent_as_a_vector_over_the_batch(server, client, images):
    client.explain(images, method="smooth", num_samples=7, seed=[1, 2, 3])

    sent = {name: from_proto(proto) for name, proto in server.requests[0].inputs.items()}
    np.testing.assert_array_equal(sent.pop("images"), images)
    assert {name: (value.dtype.name, value.tolist()) for name, value in sent.items()} == {
        "class_index": ("int32", [-1, -1, -1]),
        "num_samples": ("int32", [7, 7, 7]),
        "noise_level": ("float32", [pytest.approx(0.15)] * 3),
        "seed": ("int32", [1, 2, 3]),
    }


def test_gradients_and_variance_are_left_on_the_server_unless_asked_for(server, client, images):
    explanation = client.explain(images, method="smooth")

    assert "gradients" not in server.requests[0].output_filter
    assert set(explanation.outputs) == {
        "class_index", "label", "probability", "relative_error", "saliency", "score",
    }  # fmt: skip
    with pytest.raises(
        MissingOutput, match="this explanation has no gradients; it has class_index"
    ) as caught:
        explanation.gradients  # noqa: B018
    assert "outputs=[…, 'gradients']" in caught.value.hint
    with pytest.raises(MissingOutput, match="method 'smooth' of model 'linear' has no output 'attributions'"):
        explanation["attributions"]


LIGHT = {"class_index", "label", "probability", "relative_error", "saliency", "score"}


@pytest.mark.parametrize(
    ("outputs", "heavy"),
    [("score", set()), (["gradients", "label"], {"gradients"}), ("all", {"gradients", "variance"})],
)
def test_light_outputs_come_along_so_that_servers_see_few_sets_of_outputs(
    server, client, images, outputs, heavy
):
    client.explain(images, method="smooth", outputs=outputs)

    assert list(server.requests[0].output_filter) == sorted(LIGHT | heavy)


def test_one_image_without_a_batch_axis_gives_a_batch_of_one(client, images):
    assert client.explain(images[0]).saliency.shape == (1, LinearModel.height, LinearModel.width)


def test_a_float_signature_takes_any_float_and_sends_float32(connect, images):
    with serving(LinearModel(dtype="float32")) as server:
        client = connect(server)

        client.explain(images.astype(np.float64) / 255)

        sent = from_proto(server.requests[0].inputs["images"])
        np.testing.assert_array_equal(sent, (images / 255).astype(np.float32))


def test_version_and_label_choose_the_model_in_every_request(server, connect, images):
    connect(server, version=1).explain(images)

    assert server.requests[0].model_spec.version.value == 1
    assert server.requests[0].model_spec.name == MODEL


def test_predict_returns_every_output_of_serving_default(server, client, images):
    predictions = client.predict(images)

    assert set(predictions) == {"logits", "probabilities"}
    np.testing.assert_array_equal(predictions["logits"], server.model.scores(images))


def test_predict_asks_for_each_output_once_and_in_one_order(server, client, images):
    client.predict(images, outputs=["probabilities", "logits", "probabilities"])

    assert list(server.requests[0].output_filter) == ["logits", "probabilities"]


def test_predict_runs_any_signature_from_a_mapping_of_inputs(server, client, images):
    outputs = client.predict(
        {"images": images, "class_index": np.array([3, 3, 3], np.int32)},
        signature="explain_gradients",
        outputs=["label"],
    )

    assert outputs["label"].tolist() == [b"class 3"] * 3


def test_signatures_tell_shapes_dtypes_and_defaults(client):
    smooth = client.signatures()["explain_smooth"]

    assert str(smooth.inputs["images"]) == "uint8[?,6,5,3]"
    assert smooth.inputs["seed"].shape is None
    assert smooth.outputs["label"].dtype == "string"
    assert {name: value.item() for name, value in smooth.defaults.items()} == {
        "class_index": -1, "num_samples": 50, "noise_level": pytest.approx(0.15), "seed": 0,
    }  # fmt: skip
    assert smooth.method == "smooth"
    assert client.signatures()["serving_default"].method is None


def test_methods_are_what_the_server_offers_and_not_a_list_of_the_clients(client):
    assert client.methods() == ("gradients", "smooth")


def test_labels_are_the_names_of_all_classes(server, client):
    assert client.labels() == ("class 0", "class 1", "class 2", "class 3")
    server.hidden = {"class_labels"}
    client.wait_ready(5)
    assert client.labels() is None


def test_what_a_version_offers_is_asked_for_once_whoever_asks(server, client, images):
    client.signatures(), client.methods(), client.labels(), client.explain(images)
    assert server.metadata_calls == 1


def test_status_that_sees_a_newer_version_makes_the_client_ask_for_its_signatures(server, client):
    client.status(), client.methods(), client.status(), client.methods()
    assert server.metadata_calls == 1
    server.model = LinearModel(8, 5, version=2)
    server.statuses = [(1, 50, 0, ""), (2, 30, 0, "")]
    client.status()
    assert str(client.signatures()["serving_default"].inputs["images"]) == "uint8[?,8,5,3]"


def test_metadata_is_asked_for_once_for_many_calls(server, client, images):
    for _ in range(3):
        client.explain(images)

    assert server.metadata_calls == 1


def test_a_new_version_with_another_input_size_is_noticed_without_a_restart(server, client, images):
    client.explain(images)
    server.model = LinearModel(height=8, width=9, version=2)
    client._calls._known_since -= 10  # ten seconds later

    explanation = client.explain(np.zeros((1, 8, 9, 3), np.uint8))

    assert explanation.version == 2
    assert explanation.saliency.shape == (1, 8, 9)


def test_an_answer_of_another_version_makes_the_next_call_ask_again(server, client, images):
    client.explain(images)
    server.model = LinearModel(version=2)

    client.explain(images)
    client.explain(images)

    assert server.metadata_calls == 2


def test_status_lists_the_versions_newest_first(server, client):
    server.statuses = [
        (3, ModelVersionStatus.END, 13, "no such file"),
        (4, ModelVersionStatus.AVAILABLE, 0, ""),
    ]

    versions = client.status()

    assert versions == (VersionStatus(4, "AVAILABLE"), VersionStatus(3, "END", 13, "no such file"))
    assert [(version.available, version.failed) for version in versions] == [(True, False), (False, True)]


def test_an_unknown_method_is_refused_with_the_ones_on_offer(client, images):
    with pytest.raises(UnknownMethod, match=r"'linear' offers no method 'lime'; it offers gradients, smooth"):
        client.explain(images, method="lime")


@pytest.mark.parametrize(
    ("method", "wrong", "hint"),
    [
        ("smooth", "num_sample", "did you mean num_samples?"),
        ("gradients", "noise_level", "noise_level is a parameter of smooth"),
        ("smooth", "baseline", None),
    ],
)
def test_an_unknown_parameter_is_refused_with_those_of_the_method_and_their_defaults(
    server, client, images, method, wrong, hint
):
    with pytest.raises(UnknownParameter) as caught:
        client.explain(images, method=method, **{wrong: 1})

    listed = {
        "smooth": "class_index=-1, noise_level=0.15, num_samples=50, seed=0",
        "gradients": "class_index=-1",
    }
    assert str(caught.value) == f"explain_{method} takes no {wrong}; it takes {listed[method]}"
    assert caught.value.hint == hint
    assert server.requests == []


def test_an_unknown_parameter_of_many_images_is_each_images_error_and_nothing_is_sent(server, client, images):
    results = list(client.explain_many(images, method="smooth", steps=3))

    assert [type(result.error) for result in results] == [UnknownParameter] * 3
    assert server.requests == []


@pytest.mark.parametrize("number", [np.float32(5), np.int64(5), 5])
def test_a_timeout_may_be_any_kind_of_number(client, images, number):
    assert client.explain(images, timeout=number).version == 1


IMAGES = np.zeros((2, 6, 5, 3), np.uint8)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"images": IMAGES.astype(np.float32)}, "images is float32; the model takes uint8"),
        ({"images": IMAGES.astype(np.int64)}, "images is int64; the model takes uint8"),
        ({"images": np.array([["a cat"]])}, "images is string; the model takes uint8"),
        ({"images": IMAGES[:, :4]}, r"images is \[2,4,5,3\]; the model takes \[B,6,5,3\]"),
        ({"images": IMAGES[..., 0]}, r"images is \[1,2,6,5\]; the model takes \[B,6,5,3\]"),
        ({"images": IMAGES[:0]}, r"images holds no image: its shape is \[0,6,5,3\]"),
        ({"images": [[1, 2], [3]]}, "images does not form one array"),
        ({"images": np.array(7, np.uint8)}, r"images is \[\]; the model takes \[B,6,5,3\]"),
        ({"class_index": [1, 2, 3]}, r"class_index has shape \[3\]; give one value, or one for each of 2"),
        ({"class_index": 1.0}, "class_index is 1.0; it takes whole numbers"),
        ({"class_index": True}, "class_index is True; it takes whole numbers"),
        ({"class_index": "cat"}, "class_index is 'cat'; it takes whole numbers"),
        ({"class_index": 2**31}, "class_index is 2147483648; it must be within"),
        ({"method": "smooth", "noise_level": "loud"}, "noise_level is 'loud'; it takes numbers"),
        ({"num_samples": 3}, "explain_gradients takes no num_samples; it takes class_index=-1"),
        ({"num_samples": None}, "explain_gradients takes no num_samples"),
        ({"parameters": {"seed": 3}}, "explain_gradients takes no parameters; it takes class_index=-1"),
        ({"method": "smooth", "seed": True}, "seed is True; it takes whole numbers"),
        ({"method": 5}, "offers no method 5; it offers gradients, smooth"),
        ({"outputs": 5}, "outputs is 5; it takes names of outputs"),
        ({"outputs": [["score"]]}, "outputs is .* it takes names of outputs"),
        ({"timeout": float("-inf")}, "timeout is -inf; it must be seconds above 0"),
        ({"timeout": float("nan")}, "timeout is nan; it must be seconds above 0"),
        ({"timeout": np.float32("nan")}, r"timeout is .*nan.*; it must be seconds above 0"),
        ({"timeout": True}, "timeout is True; it must be seconds above 0"),
        ({"timeout": "5"}, "timeout is '5'; it must be seconds above 0"),
        ({"outputs": "heat"}, "explain_gradients has no output 'heat'; there are class_index"),
        ({"outputs": []}, "outputs is empty"),
        ({"timeout": 0}, "timeout is 0; it must be seconds above 0"),
    ],
)
def test_input_that_does_not_fit_is_refused_before_it_is_sent(server, client, arguments, words):
    with pytest.raises(InputError, match=words) as caught:
        client.explain(**{"images": IMAGES, **arguments})

    assert server.requests == []
    assert caught.value.attempts == 0


def test_an_input_error_says_which_model_and_what_to_do_next(client):
    with pytest.raises(InputError) as caught:
        client.explain(IMAGES.astype(np.float32))

    assert caught.value.model == MODEL
    assert "(255 * images).round().astype('uint8')" in caught.value.hint


@pytest.mark.parametrize("images", ["cat.png", ["cat.png"], [object()]])
def test_what_is_no_picture_gets_the_hint_how_to_read_one(client, images):
    with pytest.raises(InputError, match="images is string; the model takes uint8") as caught:
        client.explain(images)
    assert "load_image(path, size=(height, width)).array" in caught.value.hint


def test_images_with_channels_first_get_the_hint_to_transpose(client):
    with pytest.raises(InputError) as caught:
        client.explain(np.zeros((1, 3, 6, 5), np.uint8))

    assert caught.value.hint == "channels come last: images.transpose(0, 2, 3, 1)"


def test_numpy_integers_are_taken_as_parameters(server, client, images):
    explanation = client.explain(images, class_index=np.uint8(CLASSES - 1))

    assert explanation.class_index.tolist() == [3, 3, 3]


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ({"pictures": IMAGES}, "serving_default has no input 'pictures'; it has images"),
        ({}, "serving_default needs images"),
        (IMAGES.astype(np.float32), "images is float32; the model takes uint8"),
    ],
)
def test_predict_refuses_inputs_that_the_signature_does_not_have(client, images, words):
    with pytest.raises(InputError, match=words):
        client.predict(images)


def test_predict_refuses_a_signature_that_the_model_does_not_have(client):
    with pytest.raises(
        InputError, match="has no signature 'classify'; it has class_labels, explain_gradients"
    ):
        client.predict(IMAGES, signature="classify")


def test_a_signature_of_tensorflows_own_is_not_listed(client, monkeypatch):
    original = scripted_server.signature_defs

    def with_own(model):
        return {**original(model), "__saved_model_init_op": scripted_server.signature_def({}, {}, {})}

    monkeypatch.setattr(scripted_server, "signature_defs", with_own)
    assert "__saved_model_init_op" in client.signatures()
    with pytest.raises(InputError, match="has no signature 'classify'") as error:
        client.predict(IMAGES, signature="classify")
    assert "__saved_model" not in str(error.value)


def test_wait_ready_returns_when_the_model_becomes_available(server, client):
    loading = [(1, ModelVersionStatus.LOADING, 0, "")]
    server.next_statuses.extend([loading, loading])

    client.wait_ready(10)

    assert not server.next_statuses
