"""The report of an evaluation: curves and ranking as pictures, and one page that holds them."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from saliency_client._files import write_all
from saliency_client.evaluation import charts
from saliency_client.evaluation.ranking import Pair, Standing
from saliency_client.evaluation.registry import MEASURES

PAGE = "index.html"
_STYLE = """
:root { color-scheme: light; --ink: #222; --faint: #6e6e6e; --line: #e4e4e4; --warn: #9a5b00; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); max-width: 960px; margin: 2rem auto; }
body { padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.25rem; margin: 2.5rem 0 .25rem; }
p.faint, td.faint, .faint { color: var(--faint); } img { max-width: 100%; height: auto; display: block; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: .75rem 0; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; color: var(--faint); } th, td { padding: .25rem .9rem .25rem 0; }
td.n, th.n { text-align: right; } tbody tr { border-top: 1px solid var(--line); }
.warn { color: var(--warn); } summary { cursor: pointer; color: var(--faint); }
code { background: #f5f5f5; padding: .1rem .3rem; border-radius: 3px; }
"""


def write_report(
    folder: Path,
    records: Sequence[Mapping[str, Any]],
    standing: Sequence[Standing],
    pairing: Sequence[Pair],
    load: Mapping[str, Any],
) -> list[Path]:
    """Write the page and the pictures into a folder that exists; those of an earlier run are replaced.

    Returns:
        The files: the page first.

    Raises:
        OSError: a file cannot be written; then none is.
    """
    pictures = {name: _png(picture) for name, picture in drawn(records, standing).items()}
    files = {folder / PAGE: page(records, standing, pairing, load, pictures).encode()}
    files |= {folder / name: content for name, content in pictures.items()}
    write_all({path: _writes(content) for path, content in files.items()}, overwrite=True)
    return list(files)


def drawn(records: Sequence[Mapping[str, Any]], standing: Sequence[Standing]) -> dict[str, Image.Image]:
    """The pictures by file name: a ranking of each measure, and curves of those that have them."""
    colors = charts.colors(list(dict.fromkeys(one["method"] for one in records)))
    pictures: dict[str, Image.Image] = {}
    for name in dict.fromkeys(one.measure for one in standing):
        measure, rows = MEASURES[name], [one for one in standing if one.measure == name]
        images = max(one.summary.images for one in rows)
        end = f"{measure.better} is better" if measure.better else "neither end is better"
        settings = _settings(records, name)
        subtitle = f"{end}; mean over {images} images, 95 % bootstrap interval; {settings}"
        pictures[f"{name}.png"] = charts.ranking(
            name,
            subtitle,
            [
                charts.Row(
                    one.method, colors[one.method], one.summary.mean, one.summary.low, one.summary.high
                )
                for one in rows
            ],
        )
        lines = {one.method: (colors[one.method], one.curve) for one in rows if one.curve}
        if lines:
            quantity = next(one["settings"]["quantity"] for one in records if one["measure"] == name)
            share = "pixels added" if "added" in measure.summary else "pixels removed"
            pictures[f"{name}-curves.png"] = charts.curves(
                f"{name}: mean {quantity} of the class",
                f"{end}; {images} images; {settings}",
                lines,
                across=share,
                up=quantity,
            )
    return pictures


def page(
    records: Sequence[Mapping[str, Any]],
    standing: Sequence[Standing],
    pairing: Sequence[Pair],
    load: Mapping[str, Any],
    pictures: Mapping[str, bytes],
) -> str:
    """One HTML page that needs nothing beside itself."""
    made = records[0]["made_with"]
    images = len({one["image"] for one in records})
    version = "" if made["version"] is None else f", version {made['version']}"
    parts = [
        f"<h1>How good are the maps of {escape(str(made['model']))}{version}?</h1>",
        f"<p class=faint>{_count(images, 'image')}; {load['predictions']} predictions and "
        f"{load['explanations']} explanations in {load['seconds']:.1f} s"
        + (f"; {load['kept']} results are of an earlier run" if load["kept"] else "")
        + ".</p>",
        "<p>Methods are compared on the same images. The random map and the edge detector (sobel) are "
        "controls: they know nothing of the model. Values hold for the settings that stand beside them, "
        "and for these images; they rank maps by one property each, and none says that a map is right.</p>",
    ]
    for name in dict.fromkeys(one.measure for one in standing):
        measure = MEASURES[name]
        parts.append(f"<h2 id={name}>{name}</h2>")
        parts.append(
            f"<p class=faint>{escape(measure.summary)}; "
            f"{measure.better + ' is better' if measure.better else 'neither end is better'}. "
            f"{escape(measure.source)}. <code>{escape(_settings(records, name))}</code></p>"
        )
        parts += [
            _image(pictures[file], file) for file in (f"{name}.png", f"{name}-curves.png") if file in pictures
        ]
        parts.append(_standing_table([one for one in standing if one.measure == name]))
        parts.append(_pair_table([one for one in pairing if one.measure == name]))
        parts.append(_image_table([one for one in records if one["measure"] == name]))
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width,initial-scale=1'>"
        f"<title>Evaluation of {escape(str(made['model']))}</title><style>{_STYLE}</style></head><body>"
        + "\n".join(part for part in parts if part)
        + "</body></html>\n"
    )


def _standing_table(rows: Sequence[Standing]) -> str:
    lines = []
    for one in rows:
        found = one.summary
        worse = " and ".join(name.removeprefix("control:") for name in one.no_better_than)
        lines.append(
            [
                _method(one.method),
                _number(found.mean),
                f"{_number(found.low)} to {_number(found.high)}" if found.low == found.low else "",
                f"{found.images}" + (f" ({found.undefined} undefined)" if found.undefined else ""),
                f"<span class=warn>no better than {escape(worse)}</span>" if worse else "",
            ]
        )
    return _table(["method", "mean", "95 % interval", "images", ""], lines)


def _pair_table(rows: Sequence[Pair]) -> str:
    lines = [
        [
            f"{_method(one.first)} − {_method(one.second)}",
            _number(one.comparison.difference),
            f"{_number(one.comparison.low)} to {_number(one.comparison.high)}"
            if one.comparison.low == one.comparison.low
            else "",
            f"{one.comparison.wins} of {one.comparison.images}"
            + (f", {one.comparison.ties} ties" if one.comparison.ties else ""),
        ]
        for one in rows
        if one.comparison.images
    ]
    table = _table(["methods in pairs", "mean difference", "95 % interval", "the first is better on"], lines)
    return f"<details><summary>in pairs</summary>{table}</details>" if lines else ""


def _image_table(records: Sequence[Mapping[str, Any]]) -> str:
    methods = list(dict.fromkeys(one["method"] for one in records))
    by_image: dict[str, dict[str, Mapping[str, Any]]] = {}
    for one in records:
        by_image.setdefault(one["image"], {})[one["method"]] = one
    lines = []
    for image, found in by_image.items():
        cells = [_cell(found.get(method)) for method in methods]
        lines.append([escape(image), *cells])
    table = _table(["image", *(_method(method) for method in methods)], lines)
    return f"<details><summary>by image</summary>{table}</details>"


def _cell(record: Mapping[str, Any] | None) -> str:
    if record is None:
        return ""
    note = escape(record["note"] or "", quote=True)
    shown = "undefined" if record["value"] is None else _number(record["value"])
    return f"<span title='{note}'>{shown}*</span>" if note else shown


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    def row(tag: str, cells: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{' class=n' if number and (number < 4 or len(head) > 5) else ''}>{cell}</{tag}>"
            for number, cell in enumerate(cells)
        )

    body = "".join(f"<tr>{row('td', cells)}</tr>" for cells in lines)
    top = f"<thead><tr>{row('th', head)}</tr></thead>"
    return f"<div class=scroll><table>{top}<tbody>{body}</tbody></table></div>"


def _method(name: str) -> str:
    shown = escape(name.removeprefix("control:"))
    return f"<span class=faint>{shown}</span>" if name.startswith("control:") else shown


def _settings(records: Sequence[Mapping[str, Any]], measure: str) -> str:
    """Those of a measure's first result, without what differs by image."""
    found = next(one["made_with"]["settings"] for one in records if one["measure"] == measure)
    shown = {name: value for name, value in found.items() if name not in ("class_index", "baseline")}
    return ", ".join(f"{name} {_plain(value)}" for name, value in shown.items()) or "no settings"


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(_plain, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _number(value: float) -> str:
    return f"{value:.4g}" if value == value else "undefined"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _image(content: bytes, name: str) -> str:
    data = base64.b64encode(content).decode()
    return f"<img alt='{escape(name.removesuffix('.png'))}' src='data:image/png;base64,{data}'>"


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _writes(content: bytes) -> Any:
    return lambda file: file.write(content)
