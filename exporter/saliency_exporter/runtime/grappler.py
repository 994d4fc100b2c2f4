"""What an export says of Grappler, TensorFlow's graph optimizer, to the servers that load it.

Where XLA compiles all cores, there is nothing for Grappler to do: XLA optimizes what it compiles, and around
it are checks and slices. But a server runs Grappler for each set of outputs that a request asks for, and
then again for each function that is called. Two switches, and each leaves the other's part of the work:

- `assets.extra/saved_model_config.pb`, which TensorFlow Serving reads since 2.19
  (`LoadSavedModelConfigOrDefault` in tensorflow_serving/servables/tensorflow/saved_model_config_util.cc);
  2.18 does not look at it;
- the configuration that a call of a function carries, which TensorFlow reads where the call is not inlined.
"""

from __future__ import annotations

from pathlib import Path

from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.protobuf.config_pb2 import ConfigProto

WITHOUT_GRAPPLER = b"\x0a\x02\x18\x01"
"""A tensorflow.serving.SavedModelConfig: session_overrides { disable_meta_optimizer: true }."""


def config_path(version_dir: Path | str) -> Path:
    """Where a version directory may override a server's session options."""
    return Path(version_dir) / "assets.extra" / "saved_model_config.pb"


def keep_grappler_away(version_dir: Path) -> None:
    """Tells servers to load a version without Grappler's optimizers."""
    config_path(version_dir).write_bytes(WITHOUT_GRAPPLER)


def session_config(version_dir: Path | str, config: ConfigProto) -> ConfigProto:
    """The options of a session for a version directory, as TensorFlow Serving overrides them: in place."""
    path = config_path(version_dir)
    if path.exists() and path.read_bytes() == WITHOUT_GRAPPLER:
        config.graph_options.rewrite_options.disable_meta_optimizer = True
    return config


def calls_without_grappler(graph: GraphDef) -> None:
    """Gives every call of a function in a graph the option to be prepared without Grappler, in place."""
    for nodes in (graph.node, *(function.node_def for function in graph.library.function)):
        for node in nodes:
            # Reading an absent key of the map would add it.
            if "config_proto" in node.attr:
                config = ConfigProto.FromString(node.attr["config_proto"].s)
                config.graph_options.rewrite_options.disable_meta_optimizer = True
                node.attr["config_proto"].s = config.SerializeToString(deterministic=True)
