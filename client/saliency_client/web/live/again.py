"""How a map of the page is made again: a command, lines of Python, and the files that the command writes."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from saliency_client import regions
from saliency_client._numbers import MOST_SECONDS
from saliency_client.cli import marks, pictures
from saliency_client.cli.connection import DEFAULT_TIMEOUT, TOKEN_VARIABLE, Connection, is_path
from saliency_client.cli.looks import Look
from saliency_client.cli.parameters import SHORTHANDS, option_name
from saliency_client.cli.signatures import default_of
from saliency_client.cli.version import release
from saliency_client.images import DEFAULT_MAX_PIXELS, Photo, Resize
from saliency_client.web.live.explaining import Map

_UNTOLD = {
    "SALIENCY_SERVER": "the server's address",
    "VERSION_DIR": "the directory of the exported version",
    "CA": "the file of the authority that signed the server's certificate",
    "CERT": "the file of the client's certificate",
    "KEY": "the file of the client's key",
    "TOKEN_FILE": "the file of the token",
    "METADATA": "the metadata that the server asks for, KEY=VALUE",
}
"""What the page does not show, as it is a path of this machine or may be a secret: variables stand for it."""

_INDENT = " \\\n  "


@dataclass(frozen=True)
class Lines:
    """Text to copy.

    Attributes:
        command: for a shell.
        python: a program.
        fill_in: by the names of variables that have to be set first, what they hold.
    """

    command: str
    python: str
    fill_in: Mapping[str, str]


@dataclass(frozen=True)
class Source:
    """A photo, as the person who uploaded it has it.

    Attributes:
        name: of the file, without its folder.
        is_array: it is a model input in NumPy's format.
        resize, max_pixels: how it was read.
    """

    name: str
    is_array: bool
    resize: Resize
    max_pixels: int


def lines(connection: Connection, model: str, source: Source, one: Map, look: Look) -> Lines:
    """The command and the program that make a map again, and its picture.

    They name the version and the class that answered, so that they give the same map when another is served.

    Args:
        connection: the options that the page was started with.
        model: its name on the server.
        source: the photo.
        one: the map.
        look: how it is drawn.
    """
    fill_in: dict[str, str] = {}
    command = ["saliency-client explain " + shlex.quote(_typed(source.name))]
    command += _connection_words(connection, model, one.explanation.version, fill_in)
    changed = {
        name: value for name, value in one.parameters.items() if value != default_of(one.signature, name)
    }
    command.append(
        f"--method {shlex.quote(one.explanation.method)} --class-index {int(one.explanation.class_index[0])}"
    )
    command += [_parameter_words(name, value) for name, value in changed.items()]
    if source.resize != "crop":
        command.append(f"--resize {source.resize}")
    if source.max_pixels > DEFAULT_MAX_PIXELS:
        command.append(f"--max-pixels {source.max_pixels}")
    command += _look_words(look)
    command.append(f"-o {shlex.quote(file_stem(source.name, one) + '.png')}")
    program = _python(connection, model, source, one, changed, look, fill_in)
    return Lines(_INDENT.join(command), program, fill_in)


def picture(photo: Photo, source: Source, one: Map, look: Look) -> bytes:
    """The PNG that the command writes.

    Raises:
        CommandError: the map holds NaN or infinity.
    """
    return pictures.encode(
        [_answer(photo, one)], photo, look, "png", made_with(source, one, look), f"{marks.NAME} {release()}"
    )


def array(photo: Photo, one: Map, look: Look) -> bytes:
    """The `.npy` file that the command writes: float32 [H, W], before scaling."""
    return pictures.encode([_answer(photo, one)], photo, look, "npy", {}, "")


def made_with(source: Source, one: Map, look: Look) -> dict[str, Any]:
    """The options that the command writes into its files, as `explainer.made_with` gives them."""
    drawn = {
        "resize": source.resize,
        "clip": look.clip,
        "colormap": look.colormap,
        "opacity": look.opacity,
        **({"photo_colors": True} if look.photo_colors else {}),
    }
    return {"parameters": {name: one.parameters[name] for name in sorted(one.parameters)}, "drawn": drawn}


def file_stem(name: str, one: Map) -> str:
    """What files of a map are called, without a suffix: of the photo and the method, safe in any folder."""
    parts = [PurePath(name).stem, one.explanation.method]
    plain = [re.sub(r"[\W_]+", "-", part, flags=re.ASCII).strip("-").lower() for part in parts]
    return "-".join(part or "photo" for part in plain)[:100]


def _answer(photo: Photo, one: Map) -> pictures.Answer:
    return pictures.Answer(
        one.explanation,
        one.signature.signed_map,
        {**one.facts, "baselines": None},
        lambda: regions.segment(photo.array),
    )


def _typed(name: str) -> str:
    """A file's name as an argument: it is no option, and does not act on a terminal."""
    if not name.isprintable():
        suffix = PurePath(name).suffix
        return "photo" + (suffix if suffix.isascii() and suffix.isprintable() else ".png")
    return f"./{name}" if name.startswith("-") else name


def _connection_words(
    connection: Connection, model: str, version: int | None, fill_in: dict[str, str]
) -> list[str]:
    def variable(name: str) -> str:
        fill_in[name] = _UNTOLD[name]
        return f'"${name}"'

    if connection.local is not None:
        return [f"--local {variable('VERSION_DIR')}"]
    server = connection.server or ""
    told = variable("SALIENCY_SERVER") if is_path(server) else shlex.quote(server)
    words = [
        f"--server {told}",
        f"--model {shlex.quote(model)}" + (f" --version {version}" if version else ""),
    ]
    if connection.tls:
        words.append("--tls")
    files = {
        "--ca": ("CA", connection.ca),
        "--cert": ("CERT", connection.cert),
        "--key": ("KEY", connection.key),
    }
    words += [f"{option} {variable(name)}" for option, (name, path) in files.items() if path is not None]
    if connection.server_name is not None:
        words.append(f"--server-name {shlex.quote(connection.server_name)}")
    if connection.token_file is not None:
        words.append(f"--token-file {variable('TOKEN_FILE')}")
    if connection.metadata:
        words.append(f"--metadata {variable('METADATA')}")
    if connection.timeout != DEFAULT_TIMEOUT:
        words.append(
            f"--timeout {connection.timeout:g}" if connection.timeout < MOST_SECONDS else "--timeout inf"
        )
    return words


def _parameter_words(name: str, value: int | float) -> str:
    return f"{option_name(name)} {value!r}" if name in SHORTHANDS else f"--param {name}={value!r}"


def _look_words(look: Look) -> list[str]:
    words = []
    if look.style != "overlay":
        words.append(f"--style {look.style}")
    if look.signed:
        words.append("--signed")
    if look.colormap is not None:
        words.append(f"--colormap {shlex.quote(look.colormap)}")
    if look.opacity is not None:
        words.append(f"--opacity {look.opacity:g}")
    if look.photo_colors:
        words.append("--photo-colors")
    return words


def _python(
    connection: Connection,
    model: str,
    source: Source,
    one: Map,
    changed: Mapping[str, int | float],
    look: Look,
    fill_in: Mapping[str, str],
) -> str:
    method, stem = one.explanation.method, file_stem(source.name, one)
    class_index = int(one.explanation.class_index[0])
    client = _client_arguments(connection, model, one.explanation.version)
    given = "".join(f", {name}={value!r}" for name, value in changed.items())
    images = one.signature.inputs["images"]
    shape = images.shape or ()
    channels = shape[3] if one.signature.has_channels and len(shape) == 4 else None
    options = f", channels={channels or 1}" if channels != 3 else ""
    options += f', resize="{source.resize}"' if source.resize != "crop" else ""
    options += f", max_pixels={source.max_pixels}" if source.max_pixels > DEFAULT_MAX_PIXELS else ""
    if source.is_array:
        reader, read = "load_array", f"load_array({source.name!r}, {shape[1:]!r}, {images.dtype!r})"
    else:
        reader = "load_image"
        read = f"load_image({source.name!r}, size={shape[1:3]!r}{options})"
    array = "photo.array" if source.is_array or channels is not None else "photo.array[..., 0]"
    outputs = ', outputs="all"' if look.signed else ""
    values = "explanation.saliency[0]"
    if look.signed:
        own = f"explanation[{one.signature.signed_map!r}][0]"
        values = f"maps.signed({own})" if one.explanation.has_channels else f"maps.signed({own}[..., None])"
    drawn = "heatmap" if look.style == "heatmap" else "overlay"
    drawing = f", colormap={look.colormap!r}" if look.colormap is not None else ""
    drawing += f", opacity={look.opacity:g}" if look.opacity is not None and drawn == "overlay" else ""
    drawing += ", signed=True" if look.signed else ""
    drawing += ", photo_colors=True" if look.photo_colors else ""
    tls = client.find("TLS(") >= 0
    needs_os = "os.environ" in client
    text = [
        *(["import os", ""] if needs_os else []),
        "import numpy",
        "",
        f"from saliency_client import {'TLS, ' if tls else ''}SaliencyClient, "
        f"{'maps, ' if look.signed else ''}render",
        f"from saliency_client.images import {reader}",
        "",
        f"photo = {read}",
        f"with SaliencyClient({client}) as client:",
        "    explanation = client.explain(",
        f"        {array}, method={method!r}, class_index={class_index}{given}{outputs}",
        "    )",
        f"values = {values}",
        f"numpy.save({stem + '.npy'!r}, values)",
        f"render.{drawn}(photo.picture, values, photo.box{drawing}).save({stem + '.png'!r})",
    ]
    return "\n".join(text) + "\n"


def _client_arguments(connection: Connection, model: str, version: int | None) -> str:
    """What `SaliencyClient` is made of; os.environ has what the page does not show."""
    server = connection.server or ""
    targets = [one.strip() for one in server.split(",") if one.strip()]
    if connection.local is not None or is_path(server):
        target = 'os.environ["SALIENCY_SERVER"]'
    else:
        target = repr(targets if len(targets) > 1 else server)
    arguments = [target, f"model={model!r}"] + ([f"version={version}"] if version else [])
    if connection.ca or connection.cert or connection.key or connection.server_name:
        files = {
            "ca": ("CA", connection.ca),
            "certificate": ("CERT", connection.cert),
            "key": ("KEY", connection.key),
        }
        given = [f'{name}=os.environ["{variable}"]' for name, (variable, path) in files.items() if path]
        given += [f"server_name={connection.server_name!r}"] if connection.server_name else []
        arguments.append(f"tls=TLS({', '.join(given)})")
    elif connection.tls:
        arguments.append("tls=True")
    if connection.token_file is not None:
        arguments.append('token=open(os.environ["TOKEN_FILE"]).read().strip()')
    elif _has_token():
        arguments.append('token=os.environ["SALIENCY_TOKEN"]')
    if connection.metadata:
        arguments.append('metadata=[tuple(os.environ["METADATA"].split("=", 1))]')
    if connection.timeout != DEFAULT_TIMEOUT:
        arguments.append(
            f"timeout={connection.timeout!r}" if connection.timeout < MOST_SECONDS else "timeout=None"
        )
    return ", ".join(arguments)


def _has_token() -> bool:
    return bool(os.environ.get(TOKEN_VARIABLE))
