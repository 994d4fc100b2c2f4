"""Which kernels TensorFlow runs on this machine what XLA does not compile."""

from __future__ import annotations

from typing import Literal

from tensorflow.python.util import _pywrap_util_port

from saliency_exporter.errors import ExportError

Kernels = Literal["onednn", "eigen"]
"""Which set of TensorFlow's CPU kernels runs what XLA does not compile."""

_SWITCH = {"onednn": 1, "eigen": 0}


def running_kernels() -> Kernels:
    """The kernels of this process: "onednn" where oneDNN's are switched on, else "eigen".

    TensorFlow switches oneDNN's on where the processor has AVX-512 VNNI or better, unless
    TF_ENABLE_ONEDNN_OPTS says 0 or 1 before it is imported.
    """
    return "onednn" if _pywrap_util_port.IsMklEnabled() else "eigen"


def resolve_kernels(asked: Kernels | Literal["auto"], *, measured: bool) -> Kernels:
    """The kernels that an export is made for.

    Args:
        asked: "onednn", "eigen", or "auto" for those of this process.
        measured: whether the export chooses by measuring in this process.

    Raises:
        ExportError: it measures, and this process runs other kernels than were asked for.
    """
    here = running_kernels()
    if asked == "auto":
        return here
    if measured and asked != here:
        raise ExportError(
            f"--compile auto measures the kernels of this machine, {here}, and --kernels is {asked}",
            hint=f"set TF_ENABLE_ONEDNN_OPTS={_SWITCH[asked]} for the export, or --compile xla or none",
        )
    return asked
