"""Which servers can serve an export: each sentence from a graph that makes it true, and one that does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf
from tensorflow.core.framework import op_def_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow.python.client import pywrap_tf_session

from saliency_exporter.runtime.versions import minor
from saliency_exporter.version import server_needs as module
from saliency_exporter.version.inspection import summary
from saliency_exporter.version.manifest import GraphVersions, read_manifest
from saliency_exporter.version.server_needs import describe_server, newer_than_image, releases, server_needs

GPU_XLA = "2.18 is the first whose GPU server can run XLA"
TESTED = "2.18 is the oldest TensorFlow that the exporter is tested with"


def meta_graph(*ops: str, compiled: bool = False, **attributes: object) -> meta_graph_pb2.MetaGraphDef:
    """A graph of one function with these ops, where `compiled` one that XLA must compile."""
    meta = meta_graph_pb2.MetaGraphDef()
    meta.graph_def.versions.producer, meta.graph_def.versions.min_consumer = 2288, 12
    function = meta.graph_def.library.function.add()
    for op in ("Relu", *ops):
        node = function.node_def.add(name=op.lower(), op=op)
        node.attr["T"].type = tf.float32.as_datatype_enum
        for name, value in attributes.items():
            if isinstance(value, tf.DType):
                node.attr[name].type = value.as_datatype_enum
            elif isinstance(value, bool):
                node.attr[name].b = value
            else:
                node.attr[name].s = value
    if compiled:
        function.node_def.add(name="core", op="PartitionedCall").attr["_XlaMustCompile"].b = True
    return meta


def needs(meta: meta_graph_pb2.MetaGraphDef, target: str = "cpu", made_with: str = "2.20.0") -> dict:
    return server_needs([meta], target=target, made_with=made_with)


def test_what_xla_compiles_for_a_gpu_needs_2_18_and_the_flag():
    found = needs(meta_graph(compiled=True), "gpu")
    assert (found.oldest, found.flag) == ("2.18", "--xla_gpu_compilation_enabled")
    assert found.why[0] == GPU_XLA
    assert describe_server(found) == (
        "TensorFlow Serving 2.18 or newer, started with --xla_gpu_compilation_enabled"
    )


def test_what_xla_compiles_for_a_cpu_needs_the_flag_of_the_cpu():
    found = needs(meta_graph(compiled=True), "cpu")
    assert (found.oldest, found.flag) == ("2.18", "--xla_cpu_compilation_enabled")
    assert found.why[0].startswith(TESTED)


@pytest.mark.parametrize("target", ["gpu", "cpu"])
def test_what_is_not_compiled_needs_no_flag(target):
    found = needs(meta_graph(), target)
    assert (found.oldest, found.flag) == ("2.18", None)
    assert found.why[0].startswith(TESTED)
    assert describe_server(found) == "TensorFlow Serving 2.18 or newer, without a flag for XLA"


def test_a_mark_that_is_false_compiles_nothing():
    meta = meta_graph(compiled=True)
    meta.graph_def.library.function[0].node_def[-1].attr["_XlaMustCompile"].b = False
    assert needs(meta).flag is None


@pytest.mark.parametrize(
    ("meta", "oldest", "what"),
    [
        (meta_graph("DecodeWebP"), "2.20", "the op DecodeWebP"),
        (meta_graph("DecodeJxl"), "2.21", "the op DecodeJxl"),
        (
            meta_graph("TensorListGetItem", Tshape=tf.int64),
            "2.21",
            "the attribute Tshape of the op TensorListGetItem",
        ),
        (
            meta_graph("Range", Tidx=tf.uint64),
            "2.20",
            "the value DT_UINT64 of the attribute Tidx of the op Range",
        ),
        (
            meta_graph("BatchFunction", mixed_priority_policy=b"priority_merge"),
            "2.19",
            "the value priority_merge of the attribute mixed_priority_policy of the op BatchFunction",
        ),
        (
            meta_graph("XlaCallModule", use_shardy_partitioner=False),
            "2.20",
            "the attribute use_shardy_partitioner of the op XlaCallModule",
        ),
    ],
    ids=["op", "newer op", "attribute", "type", "string", "bool"],
)
def test_what_older_versions_do_not_know_asks_for_the_first_that_does(meta, oldest, what):
    found = needs(meta, made_with="2.21.0")
    assert found.oldest == oldest
    assert found.why[0] == f"{oldest} is the first that knows {what}"


@pytest.mark.parametrize(
    "meta", [meta_graph("TensorListGetItem"), meta_graph("Range", Tidx=tf.int32), meta_graph("Conv2D")]
)
def test_what_older_versions_know_asks_for_none(meta):
    assert needs(meta, made_with="2.21.0").oldest == "2.18"


def test_a_node_outside_every_function_counts_too():
    meta = meta_graph()
    meta.graph_def.node.add(name="photo", op="DecodeWebP")
    assert needs(meta).oldest == "2.20"


def test_the_newest_of_several_reasons_decides_and_those_of_older_versions_are_left_out():
    found = needs(meta_graph("DecodeWebP", "DecodeJxl", compiled=True), "gpu", "2.21.0")
    assert found.oldest == "2.21"
    assert not [sentence for sentence in found.why if "DecodeWebP" in sentence or "GPU" in sentence]


@pytest.mark.parametrize(("asked", "oldest"), [(1994, "2.18"), (1995, "2.19"), (2289, "2.21")])
def test_a_graph_names_the_oldest_reader_that_it_allows(asked, oldest):
    meta = meta_graph()
    meta.graph_def.versions.min_consumer = asked
    found = needs(meta, made_with="2.21.0")
    assert (found.oldest, found.graph) == (oldest, GraphVersions(producer=2288, min_consumer=asked))
    reading = [f"{oldest} is the first that reads graphs of version {asked}, as this one asks for"]
    assert [sentence for sentence in found.why if "reads graphs" in sentence] == (
        reading if asked > 1994 else []
    )


def test_what_tensorflow_promises_and_what_it_does_not_is_said():
    promise = "TensorFlow promises that servers of {0}, which made the export, and newer can load it"
    assert needs(meta_graph(), made_with="2.18.1").why[-1] == promise.format("2.18")
    assert needs(meta_graph(), made_with="2.20.0").why[-1] == (
        promise.format("2.20") + ", and not that older ones can"
    )
    assert needs(meta_graph()).why[1] == (
        "the graph has no op, attribute or value that TensorFlow added after 2.18"
    )
    assert "the graph has no op, attribute or value that TensorFlow added after 2.20" in (
        needs(meta_graph("DecodeWebP")).why
    )


def test_of_a_tensorflow_that_is_not_in_the_table_nothing_older_is_said_to_do():
    found = needs(meta_graph(), made_with="2.99.0rc1")
    assert found.oldest == "2.99"
    assert found.why[0] == "which ops TensorFlow 2.99 has and older versions lack is not known here"
    assert not any("added after" in sentence for sentence in found.why)


def test_an_export_that_is_newer_than_the_newest_image_says_so_and_the_way_out():
    note = newer_than_image(needs(meta_graph(), made_with="2.21.0"), "2.20.0")
    assert note == (
        "TensorFlow 2.21 made this export, and the newest published image of TensorFlow Serving is 2.20; "
        "TensorFlow does not promise that an older server can load it. It has nothing that was added after "
        "2.20. Where it does not load, export with TensorFlow 2.20: pip install 'tensorflow==2.20.*'"
    )


def test_an_export_that_the_newest_image_cannot_load_says_why():
    note = newer_than_image(needs(meta_graph("DecodeJxl"), made_with="2.21.0"), "2.20.0")
    assert note.endswith(
        "an older server can load it, and 2.20 cannot: 2.21 is the first that knows the op DecodeJxl. "
        "For that image export with TensorFlow 2.20: pip install 'tensorflow==2.20.*'"
    )


@pytest.mark.parametrize("made_with", ["2.18.1", "2.20.0"])
def test_an_export_that_is_not_newer_than_the_image_has_no_note(made_with):
    assert newer_than_image(needs(meta_graph(), made_with=made_with), "2.20.0") is None


def test_the_table_is_that_of_the_installed_tensorflow():
    ops = op_def_pb2.OpList.FromString(pywrap_tf_session.TF_GetBuffer(pywrap_tf_session.TF_GetAllOpList()))
    attributes = {op.name: {attribute.name for attribute in op.attr} for op in ops.op}
    installed = minor(tf.__version__)
    assert releases()[installed]["graph_version"] == tf.version.GRAPH_DEF_VERSION
    for version, facts in releases().items():
        for name in facts["new"]:
            op, _, attribute = name.partition("=")[0].partition(".")
            if "=" not in name:
                here = op in attributes and (not attribute or attribute in attributes[op])
                assert here == (list(releases()).index(version) <= list(releases()).index(installed)), name


def test_the_manifest_of_an_export_says_it_and_inspect_shows_it(uncompiled_version):
    manifest = read_manifest(uncompiled_version)
    server = manifest.server
    assert (server.oldest, server.flag) == ("2.18", None)
    assert server.made_with == minor(tf.__version__)
    assert server.graph == GraphVersions(producer=tf.version.GRAPH_DEF_VERSION, min_consumer=12)
    shown = [value for name, value in summary(uncompiled_version, manifest) if name == "server"]
    assert shown == ["TensorFlow Serving 2.18 or newer, without a flag for XLA", *server.why]


def test_a_compiled_export_needs_the_flag_of_its_target(exported_version):
    assert read_manifest(exported_version).server.flag == "--xla_cpu_compilation_enabled"


def test_it_is_shown_without_tensorflow():
    script = "import sys, saliency_exporter.version.server_needs; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
    assert Path(module.__file__).with_name("tensorflow_releases.json").is_file()
