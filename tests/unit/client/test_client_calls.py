"""Calls of the synchronous client against a server on TensorFlow Serving's official stubs."""

from __future__ import annotations

import numpy as np
import pytest
from saliency_client import SaliencyClient
from scripted_server import MODEL, ScriptedServer, from_proto


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


def test_every_parameter_is_sent_as_a_vector_over_the_batch(
    server: ScriptedServer, client: SaliencyClient, images
):
    client.explain(images, method="smooth", num_samples=7, seed=[1, 2, 3])

    sent = {name: from_proto(proto) for name, proto in server.requests[0].inputs.items()}
    assert {name: value.tolist() for name, value in sent.items() if name != "images"} == {
        "class_index": [-1, -1, -1],
        "num_samples": [7, 7, 7],
        "noise_level": [pytest.approx(0.15)] * 3,
        "seed": [1, 2, 3],
    }
    np.testing.assert_array_equal(sent["images"], images)
    assert server.requests[0].model_spec.name == MODEL
