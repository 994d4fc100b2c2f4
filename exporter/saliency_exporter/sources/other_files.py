"""What is named in place of a model, and the next step: an address, an archive, a file of another framework.

Needs no TensorFlow, so that it is said at once.
"""

from __future__ import annotations

import json
import re
import tarfile
import zipfile
from pathlib import Path

from saliency_exporter.errors import ExportError

SAVED_MODEL_FILES = ("saved_model.pb", "saved_model.pbtxt")

_ADDRESS = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]+)://(.*)")
_BY_ONNX = (
    "convert it to a SavedModel (onnx2tf -i MODEL.onnx -o DIR -osd, of the package onnx2tf), or build the "
    "network in Keras and set its weights; then export that"
)
_KINDS = {
    (".tflite", ".lite"): (
        "a TensorFlow Lite model, which has no gradients",
        "export what it was converted from: the .keras file, the SavedModel or the frozen graph",
    ),
    (".onnx",): ("an ONNX model", _BY_ONNX),
    (".pt", ".pth", ".ptl", ".torchscript"): (
        "a PyTorch model",
        "write it as ONNX with torch.onnx.export and " + _BY_ONNX,
    ),
    (".safetensors", ".npz", ".pkl", ".pickle", ".ckpt", ".index", ".meta", ".weights"): (
        "a file of weights, without the network",
        "write a function that builds the network, loads these weights and returns it, and export that as "
        "module:function",
    ),
    (".mlmodel", ".mlpackage", ".engine", ".plan", ".xml", ".caffemodel", ".prototxt"): (
        "a model of another runtime, which has no gradients here",
        "export what it was converted from, or build the network in Keras and set its weights",
    ),
}
_ARCHIVES = (".tar.gz", ".tgz", ".tar", ".tar.bz2", ".tar.xz", ".zip")


def refuse_address(model: str) -> None:
    """Refuses the address of a model: nothing is downloaded here.

    Raises:
        ExportError: with the command that downloads it.
    """
    found = _ADDRESS.fullmatch(model)
    if found is None:
        return
    scheme, rest = found[1].lower(), found[2]
    name = rest.rstrip("/").rpartition("/")[2].partition("?")[0] or "model"
    if scheme == "file":
        hint = f"give its path: {'/' + rest.lstrip('/')}"
    elif scheme == "gs":
        hint = f"download it first: gcloud storage cp -r {model} . and export {name}"
    elif scheme == "s3":
        many = not Path(name).suffix
        hint = (
            f"download it first: aws s3 cp {'--recursive ' if many else ''}{model} {name} and export {name}"
        )
    elif scheme == "hf":
        owner = "/".join(rest.split("/")[:2])
        hint = f"download it first: hf download {owner} --local-dir {owner.rpartition('/')[2]}"
    elif "tfhub.dev" in rest:
        hint = (
            "download it first, which prints the directory to export: python -c "
            f"\"import tensorflow_hub; print(tensorflow_hub.resolve('{model}'))\""
        )
    elif scheme in ("http", "https"):
        hint = f"download it first: curl -L -o {name} '{model}' and export {name}"
    else:
        hint = "copy it to this machine first, and give its path"
    raise ExportError(f"{model} is an address; a model is exported from this machine's disk", hint=hint)


def refuse_other_file(path: Path) -> None:
    """Refuses a file that holds no whole model for TensorFlow.

    Raises:
        ExportError: it is one, with the next step.
    """
    name = path.name.lower()
    if not path.exists() or (path.is_dir() and not name.endswith(".mlpackage")):
        return
    if name.endswith(_ARCHIVES):
        raise _archive(path)
    if name.endswith((".json", ".yaml", ".yml")):
        raise _architecture(path)
    if re.search(r"\.data-\d+-of-\d+$", name):
        name += ".ckpt"
    for suffixes, (kind, hint) in _KINDS.items():
        if name.endswith(suffixes):
            raise ExportError(f"{path} is {kind}", hint=hint)


def model_inside(directory: Path) -> Path | None:
    """A model that lies one or two levels inside a directory, which was named in its place."""
    for pattern in ("*/saved_model.pb", "*/*/saved_model.pb"):
        for found in sorted(directory.glob(pattern)):
            return found.parent
    for pattern in ("*.keras", "*.h5", "*.hdf5", "*.pb", "*/*.keras", "*/*.pb"):
        for found in sorted(directory.glob(pattern)):
            return found
    return None


def _archive(path: Path) -> ExportError:
    zipped = path.suffix.lower() == ".zip"
    try:
        if zipped:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
        else:
            with tarfile.open(path) as archive:
                names = archive.getnames()
    except (OSError, tarfile.TarError, zipfile.BadZipFile) as error:
        return ExportError(
            f"{path} is an archive that cannot be read: {error}", hint="copy or download it again"
        )
    if zipped and "config.json" in names and any(name.endswith(".weights.h5") for name in names):
        return ExportError(f"{path} is a .keras file by another name", hint=f"name it {path.stem}.keras")
    folder = re.sub(r"(\.tar)?\.\w+$", "", path.name)
    unpack = f"unzip {path} -d {folder}" if zipped else f"mkdir {folder} && tar -xf {path} -C {folder}"
    inside = next((Path(folder, name).parent for name in names if Path(name).name in SAVED_MODEL_FILES), None)
    if inside is None:
        whole = (".keras", ".h5", ".hdf5", ".pb")
        inside = next((Path(folder, name) for name in names if name.endswith(whole)), None)
    if inside is None:
        return ExportError(
            f"{path} is an archive without a model: no SavedModel, .keras, .h5 or .pb file",
            hint="export a file or directory of one of these kinds",
        )
    return ExportError(f"{path} is an archive", hint=f"unpack it, {unpack}, and export {inside}")


def _architecture(path: Path) -> ExportError:
    kind = "yaml" if path.suffix.lower() != ".json" else "json"
    if kind == "json" and _is_of_tensorflow_js(path):
        return ExportError(
            f"{path} is a model of TensorFlow.js",
            hint=f"convert it with the package tensorflowjs: tensorflowjs_converter "
            f"--input_format=tfjs_layers_model --output_format=keras {path} model.h5; export model.h5",
        )
    made = "keras.models.model_from_json" if kind == "json" else "tf_keras.models.model_from_config"
    read = "open(…).read()" if kind == "json" else "yaml.safe_load(open(…))"
    return ExportError(
        f"{path} holds at most the architecture of a model, without its weights",
        hint=f"write a function that returns the whole model, and export it as module:function: "
        f"model = {made}({read}); model.load_weights(…); return model",
    )


def _is_of_tensorflow_js(path: Path) -> bool:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and "weightsManifest" in content
