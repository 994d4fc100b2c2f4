"""What an export says of Grappler to the servers that load it."""

from __future__ import annotations

import tensorflow as tf
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from tensorflow.core.protobuf.config_pb2 import ConfigProto

from saliency_exporter.runtime.grappler import (
    WITHOUT_GRAPPLER,
    calls_without_grappler,
    keep_grappler_away,
    session_config,
)


def saved_model_config_class():
    """tensorflow.serving.SavedModelConfig, as TensorFlow Serving 2.20 declares it; what is used."""
    file = descriptor_pb2.FileDescriptorProto(name="saved_model_config.proto", syntax="proto3")
    overrides = file.message_type.add(name="SessionOverrides")
    overrides.field.add(name="disable_meta_optimizer", number=3, type=8, label=1)
    config = file.message_type.add(name="SavedModelConfig")
    config.field.add(name="session_overrides", number=1, type=11, label=1, type_name=".SessionOverrides")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("SavedModelConfig"))


def test_the_file_says_what_tensorflow_serving_reads():
    config = saved_model_config_class()()
    config.session_overrides.disable_meta_optimizer = True
    assert config.SerializeToString() == WITHOUT_GRAPPLER


def test_a_session_of_a_version_with_the_file_has_no_meta_optimizer_and_keeps_other_options(tmp_path):
    (tmp_path / "assets.extra").mkdir()
    before = ConfigProto(intra_op_parallelism_threads=3)
    assert not session_config(tmp_path, before).graph_options.rewrite_options.disable_meta_optimizer
    keep_grappler_away(tmp_path)
    after = session_config(tmp_path, ConfigProto(intra_op_parallelism_threads=3))
    assert after.graph_options.rewrite_options.disable_meta_optimizer
    assert after.intra_op_parallelism_threads == 3


def test_calls_carry_the_option_and_keep_the_others():
    inner = tf.function(lambda x: x + 1)
    outer = tf.function(lambda x: inner(x) * 2).get_concrete_function(tf.TensorSpec((2,)))
    graph = outer.graph.as_graph_def()
    (call,) = (node for node in graph.node if "config_proto" in node.attr)
    before = ConfigProto.FromString(call.attr["config_proto"].s)
    assert not before.graph_options.rewrite_options.disable_meta_optimizer
    calls_without_grappler(graph)
    after = ConfigProto.FromString(call.attr["config_proto"].s)
    before.graph_options.rewrite_options.disable_meta_optimizer = True
    assert after == before
