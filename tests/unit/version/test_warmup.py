"""Warmup records: the bytes, the limits and the replay."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from saliency_exporter.errors import ExportError
from saliency_exporter.runtime.servable import ServableError, load_servable
from saliency_exporter.version.warmup import read_warmup, replay_warmup, warmup_path, write_warmup

IMAGES = np.array([[1.0, 2.0]], np.float32)
RECORDS = [
    ("explain", {"images": IMAGES, "class_index": np.array([2], np.int32)}),
    ("serving_default", {"images": np.repeat(IMAGES, 4, 0)}),
]


def test_the_file_is_a_TFRecord_of_PredictionLog_that_names_model_and_signature(tmp_path):
    assert write_warmup(tmp_path, RECORDS, "small") == 2
    path = tmp_path / "assets.extra" / "tf_serving_warmup_requests"
    logs = [
        prediction_log_pb2.PredictionLog.FromString(record.numpy()).predict_log.request
        for record in tf.data.TFRecordDataset(str(path))
    ]
    assert [(log.model_spec.name, log.model_spec.signature_name) for log in logs] == [
        ("small", "explain"),
        ("small", "serving_default"),
    ]
    np.testing.assert_array_equal(tf.make_ndarray(logs[1].inputs["images"]), np.repeat(IMAGES, 4, 0))


def test_the_same_records_give_the_same_bytes(tmp_path):
    inputs = {f"input_{index}": IMAGES for index in range(20)}
    for directory, ordered in (("a", inputs.items()), ("b", reversed(inputs.items()))):
        write_warmup(tmp_path / directory, [("explain", dict(ordered))], "small")
    assert warmup_path(tmp_path / "a").read_bytes() == warmup_path(tmp_path / "b").read_bytes()


def test_reading_gives_back_the_requests_in_order(tmp_path):
    write_warmup(tmp_path, RECORDS, "small")
    assert [request.model_spec.signature_name for request in read_warmup(tmp_path)] == [
        "explain",
        "serving_default",
    ]


def test_a_directory_without_the_file_has_no_requests(tmp_path):
    assert list(read_warmup(tmp_path)) == []


def test_a_thousand_records_are_the_most_and_more_leave_no_file(tmp_path):
    assert write_warmup(tmp_path / "most", RECORDS[:1] * 1000, "small") == 1000
    with pytest.raises(ExportError, match="more than 1000 warmup records"):
        write_warmup(tmp_path / "more", RECORDS[:1] * 1001, "small")
    assert list((tmp_path / "more" / "assets.extra").iterdir()) == []


def test_a_file_with_more_than_a_thousand_records_is_refused_as_the_server_refuses_it(tmp_path):
    log = prediction_log_pb2.PredictionLog()
    log.predict_log.request.model_spec.name = "small"
    warmup_path(tmp_path).parent.mkdir()
    with tf.io.TFRecordWriter(str(warmup_path(tmp_path))) as writer:
        for _ in range(1001):
            writer.write(log.SerializeToString())
    with pytest.raises(ServableError, match=r"Number of warmup records exceeds the maximum \(1000\)"):
        list(read_warmup(tmp_path))


def test_replay_runs_every_record_and_reports_each(model_dir):
    write_warmup(model_dir / "1", RECORDS, "small")
    servable = load_servable(model_dir / "1")
    requests = []
    assert replay_warmup(servable, progress=requests.append) == 2
    servable.close()
    assert [request.model_spec.signature_name for request in requests] == ["explain", "serving_default"]


def test_a_record_that_fails_fails_the_replay(model_dir):
    write_warmup(model_dir / "1", [("explain", {"images": IMAGES[:, :1]})], "small")
    servable = load_servable(model_dir / "1")
    with pytest.raises(ServableError) as raised:
        replay_warmup(servable)
    servable.close()
    assert raised.value.code == tf.errors.INVALID_ARGUMENT


def test_threads_run_records_side_by_side_each_once_and_tell_them_in_order(model_dir):
    rows = [np.repeat(IMAGES, count, 0) for count in range(1, 7)]
    write_warmup(model_dir / "1", [("serving_default", {"images": images}) for images in rows], "small")
    servable = load_servable(model_dir / "1")
    run, meeting, sizes, told = servable.session_run, threading.Barrier(3, timeout=60), [], []

    def meet_and_run(feeds, fetches, timeout):
        # Nobody goes on before three are inside.
        meeting.wait()
        (images,) = feeds.values()
        sizes.append(len(images))
        return run(feeds, fetches, timeout)

    servable.session_run = meet_and_run
    assert replay_warmup(servable, progress=told.append, threads=3) == 6
    servable.close()
    assert sorted(sizes) == [1, 2, 3, 4, 5, 6]
    assert [request.inputs["images"].tensor_shape.dim[0].size for request in told] == [1, 2, 3, 4, 5, 6]


def test_a_record_that_fails_in_one_thread_fails_the_replay_and_no_further_one_begins(model_dir):
    bad = ("explain", {"images": IMAGES[:, :1]})
    write_warmup(model_dir / "1", [bad, bad, *RECORDS * 400], "small")
    servable = load_servable(model_dir / "1")
    requests = []
    with pytest.raises(ServableError) as raised:
        replay_warmup(servable, progress=requests.append, threads=2)
    servable.close()
    assert raised.value.code == tf.errors.INVALID_ARGUMENT
    assert len(requests) < 802


@pytest.mark.parametrize("damage", [lambda data: data[:-5], lambda data: data[:20] + b"?" + data[21:]])
def test_a_damaged_file_is_a_data_loss_that_names_it(tmp_path, damage):
    write_warmup(tmp_path, RECORDS, "small")
    path = warmup_path(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ServableError, match=f"{path} is damaged") as raised:
        list(read_warmup(tmp_path))
    assert raised.value.code == tf.errors.DATA_LOSS


def test_a_record_that_is_no_prediction_log_is_named_by_its_place(tmp_path):
    warmup_path(tmp_path).parent.mkdir()
    with tf.io.TFRecordWriter(str(warmup_path(tmp_path))) as writer:
        writer.write(b"\xff\xff\xff")
    with pytest.raises(ServableError, match="Failed to parse warmup record 1"):
        list(read_warmup(tmp_path))
