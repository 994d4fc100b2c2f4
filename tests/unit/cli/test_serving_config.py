from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from google.protobuf import text_format
from server_messages import MESSAGES
from small_manifest import EXPORT
from tensorflow_serving.config import model_server_config_pb2

from saliency_exporter.cli import main
from saliency_exporter.cli.serving_config import batching_config, configuration, write_serving_config
from saliency_exporter.errors import ExportError

MANIFEST = {**EXPORT.to_json(), "batch_sizes": [1, 3, 12], "target": "gpu"}


def version(base_path: Path, number: str = "7", **changes: object) -> Path:
    directory = base_path / number
    (directory / "assets.extra").mkdir(parents=True)
    (directory / "assets.extra" / "saliency.json").write_text(json.dumps({**MANIFEST, **changes}))
    return directory


def parsed(text: str, message: object):
    return text_format.Parse(text, message)


def batching(version_dir: Path):
    return parsed(configuration(version_dir)["batching.config"], MESSAGES["BatchingParameters"]())


def models(version_dir: Path):
    text = configuration(version_dir)["models.config"]
    (config,) = parsed(text, model_server_config_pb2.ModelServerConfig()).model_config_list.config
    return config


def test_the_server_pads_to_the_compiled_batch_sizes_and_to_no_other(tmp_path):
    parameters = batching(version(tmp_path / "lite0"))
    assert list(parameters.allowed_batch_sizes) == [1, 3, 12]


def test_the_last_allowed_size_is_the_largest_batch_without_which_the_server_does_not_start(tmp_path):
    parameters = batching(version(tmp_path / "lite0"))
    assert parameters.max_batch_size.value == parameters.allowed_batch_sizes[-1] == 12


def test_the_queue_is_bounded_and_the_wait_is_milliseconds(tmp_path):
    parameters = batching(version(tmp_path / "lite0"))
    assert 1 <= parameters.max_enqueued_batches.value <= 10
    assert 0 < parameters.batch_timeout_micros.value <= 10_000


@pytest.mark.parametrize(("target", "threads_are_set"), [("gpu", True), ("cpu", False)])
def test_batch_threads_are_bounded_on_a_gpu_and_the_servers_choice_on_a_cpu(
    tmp_path, target, threads_are_set
):
    parameters = batching(version(tmp_path / "lite0", target=target))
    assert parameters.HasField("num_batch_threads") == threads_are_set


def test_the_model_is_served_from_its_directory_by_number_and_label(tmp_path):
    config = models(version(tmp_path / "some-folder", "42"))
    assert (config.name, config.base_path) == ("lite0", "/models/some-folder")
    assert config.model_platform == "tensorflow"
    assert list(config.model_version_policy.specific.versions) == [42]
    assert dict(config.version_labels) == {"stable": 42}


def test_any_name_survives_the_text_form(tmp_path):
    name = 'a "quoted" \\ näme\n'
    assert models(version(tmp_path / "lite0", model=name)).name == name


@pytest.mark.parametrize("sizes", [None, [], [0, 1], [4, 1], [1, 1], ["1"]])
def test_a_manifest_with_other_batch_sizes_is_refused(tmp_path, sizes):
    with pytest.raises(ExportError, match="batch_sizes"):
        configuration(version(tmp_path / "lite0", batch_sizes=sizes))


def test_a_directory_whose_name_is_no_version_number_is_refused(tmp_path):
    with pytest.raises(ExportError, match="not a positive number"):
        configuration(version(tmp_path, "latest"))


def test_existing_files_are_kept_and_nothing_is_written(tmp_path):
    out = tmp_path / "config"
    out.mkdir()
    (out / "batching.config").write_text("mine")
    with pytest.raises(ExportError, match=r"batching\.config exist"):
        write_serving_config(version(tmp_path / "lite0"), out)
    assert [path.name for path in out.iterdir()] == ["batching.config"]
    assert (out / "batching.config").read_text() == "mine"


def test_overwrite_replaces_them(tmp_path):
    out = tmp_path / "config"
    directory = version(tmp_path / "lite0")
    write_serving_config(directory, out)
    (out / "models.config").write_text("old")
    written = write_serving_config(directory, out, overwrite=True)
    assert sorted(out.iterdir()) == sorted(written)
    assert {path.name: path.read_text() for path in written} == configuration(directory)


def test_the_command_writes_the_files_and_names_them(tmp_path):
    out = tmp_path / "config"
    directory = version(tmp_path / "lite0")
    done = CliRunner().invoke(main, ["serving-config", str(directory), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert done.output.split() == [str(out / "models.config"), str(out / "batching.config")]
    assert {path.name: path.read_text() for path in out.iterdir()} == configuration(directory)


def test_the_command_shows_the_files_without_out(tmp_path):
    directory = version(tmp_path / "lite0")
    done = CliRunner().invoke(main, ["serving-config", str(directory)])
    assert all(text in done.output for text in configuration(directory).values())


def test_a_model_base_path_is_answered_with_the_version_to_name(tmp_path):
    version(tmp_path / "lite0", "7")
    done = CliRunner().invoke(main, ["serving-config", str(tmp_path / "lite0")])
    assert done.exit_code == 1
    assert "lite0/7" in done.output
    assert "Traceback" not in done.output


def test_the_shipped_batching_file_is_what_a_default_export_gets():
    from saliency_exporter.cli.export import BATCH_SIZES

    shipped = Path(__file__).parents[3] / "docker" / "config" / "batching.config"
    assert shipped.read_text() == batching_config(BATCH_SIZES, "gpu")
