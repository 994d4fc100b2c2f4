"""The step that engines run over a data set, and the processes that decode pictures for a job."""

from __future__ import annotations

import asyncio
import io
import multiprocessing
import pickle
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from fatal_decoding import Fatal
from PIL import Image
from scripted_server import MODEL, LinearModel, from_proto

from saliency_client import (
    InvalidArgument,
    ItemError,
    OptionError,
    SaliencyClient,
    Unavailable,
    UnknownMethod,
)
from saliency_client.bulk import ExplainBatch, VersionChanged, read_map
from saliency_client.bulk.decoders import Decoders
from saliency_client.images import load_image

SIZE = (LinearModel.height, LinearModel.width)


def picture(red: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (50, 60), (red, 10, 20)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def step(server) -> ExplainBatch:
    return ExplainBatch(server.target, MODEL, patience=0.5)


def test_rows_say_what_explain_says(step, server):
    pictures = [picture(red) for red in range(0, 250, 12)]

    rows = step.rows(pictures)

    with SaliencyClient(server.target, model=MODEL) as client:
        asked = client.explain(np.stack([load_image(one, SIZE).array for one in pictures]))
    for index, row in enumerate(rows):
        assert row["label"] == asked.label[index]
        assert row["class_index"] == asked.class_index[index]
        assert row["score"] == pytest.approx(asked.score[index], rel=1e-6)
        assert (row["error"], row["version"], row["relative_error"]) == (None, 1, None)
        stored = read_map(row["map"], row["map_scale"], row["map_shape"], "float16")
        np.testing.assert_allclose(stored, asked.saliency[index], rtol=2.0**-11)


def test_a_batch_of_columns_keeps_the_others_and_gives_arrays(step):
    images = np.empty(3, object)
    images[:] = [picture(9), b"no picture", picture(200)]

    batch = step({"image": images, "path": np.array(["a", "b", "c"])})

    assert list(batch["path"]) == ["a", "b", "c"]
    assert "image" not in batch
    assert (batch["class_index"].dtype, batch["score"].dtype) == (np.int32, np.float32)
    assert batch["class_index"][1] == -1
    assert np.isnan(batch["score"][1])
    assert list(batch["error"]) == [None, "the file is not an image", None]
    assert batch["map_shape"].tolist() == [[6, 5], [0, 0], [6, 5]]
    assert all(len(value) == 3 for value in batch.values())


def test_arrays_of_pixels_are_taken_as_they_are(step, server):
    pixels = np.random.default_rng(1).integers(0, 256, (3, *SIZE, 3), np.uint8)

    step({"image": pixels})

    np.testing.assert_array_equal(from_proto(server.requests[-1].inputs["images"]), pixels)


def test_it_is_used_in_other_processes_and_from_several_threads(step):
    pictures = [picture(red) for red in (3, 200)]
    expected = step.rows(pictures)

    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as processes:
        assert list(processes.map(step.rows, [pictures] * 2)) == [expected] * 2
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(step.rows, [pictures] * 8)) == [expected] * 8
    assert pickle.loads(pickle.dumps(step)) == step
    step.close()
    assert step.rows(pictures) == expected


def test_images_go_in_requests_of_the_batch_size(server):
    step = ExplainBatch(server.target, MODEL, batch_size=2)

    step.rows([picture(red) for red in range(5)])

    assert [from_proto(one.inputs["images"]).shape[0] for one in server.requests] == [2, 2, 1]


@pytest.mark.usefixtures("hasty")
def test_a_server_that_stays_away_is_an_error_of_no_image(step, server):
    step.rows([picture(1)])
    server.fail(grpc.StatusCode.UNAVAILABLE, "gone", times=100)

    with pytest.raises(Unavailable, match="gone"):
        step.rows([picture(1), b"no picture"])


def test_what_the_model_does_not_offer_is_said_at_the_first_batch(server):
    with pytest.raises(UnknownMethod, match="magic"):
        ExplainBatch(server.target, MODEL, method="magic").rows([picture(1)])
    with pytest.raises(OptionError, match="explain_gradients has no map 'cam'"):
        ExplainBatch(server.target, MODEL, map="cam").rows([picture(1)])


def test_another_version_than_was_asked_for_is_refused(server):
    step = ExplainBatch(server.target, MODEL, version=1)
    step.rows([picture(1)])
    server.model.version = 2

    with pytest.raises(VersionChanged, match="version 2 of the model answers"):
        step.rows([picture(1)])


def test_a_refusal_of_all_images_is_raised_where_none_was_taken_before(server):
    step = ExplainBatch(server.target, MODEL, parameters={"class_index": 50})

    with pytest.raises(InvalidArgument, match="class_index 50 is outside"):
        step.rows([picture(1)] * 40)


def test_options_that_cannot_work_are_refused_where_the_step_is_made():
    with pytest.raises(OptionError, match="map_format is 'jpg'"):
        ExplainBatch("a:1", "m", map_format="jpg")
    with pytest.raises(OptionError, match="batch_size is 0"):
        ExplainBatch("a:1", "m", batch_size=0)
    with pytest.raises(OptionError, match="numbers names score"):
        ExplainBatch("a:1", "m", numbers=("score",))


def test_columns_that_are_missing_or_would_be_replaced_are_refused(step):
    with pytest.raises(OptionError, match="the batch has no column 'image'; it has bytes"):
        step({"bytes": [picture(1)]})
    with pytest.raises(OptionError, match="would replace: label"):
        step({"image": [picture(1)], "label": ["cat"]})


def test_a_picture_that_ends_its_decoder_is_an_error_and_the_others_are_decoded():
    decoding = Fatal((*SIZE, 3), "uint8")

    async def decode():
        with Decoders(2) as decoders:
            batches = [[picture(1), b"kill", picture(2)], [picture(3)], [picture(4), picture(5)]]
            some = await asyncio.gather(*(decoders.decode(decoding, batch) for batch in batches))
            return some, await decoders.decode(decoding, [picture(6)])

    (first, *others), later = asyncio.run(decode())

    assert isinstance(first[1], ItemError)
    assert "the process that decoded the image ended" in str(first[1])
    expected = [decoding.decode(picture(n))[0, 0, 0] for n in range(1, 7)]
    found = [first[0], first[2], *[one for batch in others for one in batch], *later]
    assert [one[0, 0, 0] for one in found] == expected
    assert threading.active_count() < 30
