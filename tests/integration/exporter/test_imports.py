"""What an import or a command loads, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache

import pytest
from small_manifest import EXPORT

from saliency_exporter.version.manifest import write_manifest


@pytest.mark.parametrize("command", ["serving-config", "from-vertex"])
def test_the_command_does_not_wait_for_tensorflow(tmp_path, command):
    given = tmp_path / "lite0" / "7"
    given.mkdir(parents=True)
    write_manifest(given, EXPORT)
    if command == "from-vertex":
        given = tmp_path / "spec.json"
        given.write_text('{"parameters": {"xraiAttribution": {"stepCount": 50}}}')
    code = (
        "import sys; from saliency_exporter.cli import main\n"
        f"main([{command!r}, {str(given)!r}], standalone_mode=False)\n"
        "assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)


_IMPORT = """
from saliency_exporter.runtime.quiet import import_tensorflow; import_tensorflow()
import gc; assert gc.isenabled() and gc.get_freeze_count() > 100_000
import saliency_exporter.sources, keras; print(keras.backend.backend())
from saliency_exporter.runtime.kernels import running_kernels; print(running_kernels())
"""
_POOL = """
from saliency_exporter.runtime.quiet import pool_cpu_memory; pool_cpu_memory()
"""
_CALLS = """
import resource
import tensorflow as tf

with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    megabytes = tf.compat.v1.placeholder(tf.int32)
    run = session.make_callable(tf.reduce_sum(tf.fill([megabytes, 2**18], 1.0) + 1.0), [megabytes])
    run(64), run(64)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        run(64)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 10)
"""


@cache
def _said(code: str, onednn: str) -> list[str]:
    """What a new interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={
            **os.environ,
            "KERAS_BACKEND": "torch",
            "TF_ENABLE_ONEDNN_OPTS": onednn,
            "TF_CPP_MIN_LOG_LEVEL": "3",
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("code", "onednn", "expected"), [(_IMPORT + _CALLS, "0", "eigen"), (_IMPORT, "1", "onednn")]
)
def test_the_kernels_are_those_that_tensorflow_was_started_with_and_the_users_keras_backend_does_not_matter(
    code, onednn, expected
):
    assert _said(code, onednn)[:2] == ["tensorflow", expected]


@pytest.mark.parametrize("start", [_IMPORT, _POOL], ids=["import_tensorflow", "pool_cpu_memory"])
def test_a_call_takes_the_memory_of_the_one_before(start):
    """In pages that the operating system gives to a call which makes a tensor of 64 MiB."""
    assert int(_said(start + _CALLS, "0")[-1]) < 1000


def test_whoever_sets_the_variables_decides():
    code = "import os\nfrom saliency_exporter.runtime.quiet import pool_cpu_memory\npool_cpu_memory()\n"
    code += "print(os.environ['TF_CPU_ALLOCATOR_USE_BFC'], os.environ['TF_CPU_BFC_MEM_LIMIT_IN_MB'])"
    environment = {**os.environ, "TF_CPU_ALLOCATOR_USE_BFC": "false", "TF_CPU_BFC_MEM_LIMIT_IN_MB": "5"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ["false", "5"]
