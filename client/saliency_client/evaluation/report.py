"""The report of an evaluation: one page, with its curves and rankings as pictures in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from saliency_client._files import write_all
from saliency_client.evaluation import charts
from saliency_client.evaluation.ranking import Pair, Standing
from saliency_client.evaluation.registry import MEASURES

PAGE = "index.html"
_NUMERIC = " class='n'"
_LIGHT = """
--paper: #fbfbfa; --raised: #ffffff; --ink: #1c1d1f; --faint: #5e6268; --line: #e3e3df; --warn: #8a5200;
--c0: #0072b2; --c1: #d55e00; --c2: #009e73; --c3: #b8578e; --c4: #3a93c9; --c5: #9467bd; --c6: #b98a00;
--c7: #8c564b; --k0: #8f8f8f; --k1: #5a5a5a;
"""
_DARK = """
--paper: #131416; --raised: #1b1d20; --ink: #ececea; --faint: #a3a7ae; --line: #2e3136; --warn: #f0b45c;
--c0: #4aa8e0; --c1: #ff8c42; --c2: #2cc79a; --c3: #e29cc4; --c4: #8fd0f5; --c5: #bfa2e0; --c6: #f0c840;
--c7: #c9988c; --k0: #858585; --k1: #b5b5b5;
"""
"""Methods have the colors of Okabe and Ito first, which any color vision tells apart; lighter on black."""
_NAMES = (*(f"c{number}" for number in range(charts.COLORS)), "k0", "k1")
_STYLE = (
    f":root {{ color-scheme: light dark; {_LIGHT} }}"
    f"@media (prefers-color-scheme: dark) {{ :root {{ {_DARK} }} }}"
    + "".join(f".{name} {{ --color: var(--{name}); }}" for name in _NAMES)
    + """
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1240px; padding: 1.75rem clamp(16px, 3.2vw, 40px) 3rem;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; background: var(--paper);
  color: var(--ink); font-variant-numeric: tabular-nums; overflow-wrap: anywhere;
  -webkit-text-size-adjust: 100%; }
h1 { font-size: clamp(21px, 2.2vw, 27px); line-height: 1.2; margin: 0; letter-spacing: -.015em; }
h2 { font-size: 1.2rem; margin: 0; } p { margin: .4rem 0 0; max-width: 46rem; }
.faint { color: var(--faint); } .warn { color: var(--warn); } .small { font-size: .85rem; }
section { margin: 1.5rem 0 0; padding: clamp(14px, 2.4vw, 20px); border-radius: 10px;
  border: 1px solid var(--line); background: var(--raised); }
.charts { display: flex; flex-wrap: wrap; gap: 1rem 2.5rem; margin: 1rem 0 .5rem; }
figure { flex: 1 1 320px; max-width: 560px; min-width: 0; margin: 0; }
figcaption { font-size: .85rem; color: var(--faint); margin-bottom: .4rem; }
.chart { display: block; width: 100%; height: auto; overflow: visible; }
.chart text { font-size: 13px; fill: var(--faint); } .chart text.ink { fill: var(--ink); }
.chart polyline { fill: none; stroke: var(--color); stroke-width: 2.5; stroke-linejoin: round; }
.chart .grid { stroke: var(--line); stroke-width: 1; }
.chart .curve.k0, .chart .curve.k1 { stroke-dasharray: 5 3; }
.chart .interval { stroke-width: 3.5; }
.chart circle { fill: var(--color); stroke: var(--raised); stroke-width: 1.5; }
.legend { display: flex; flex-wrap: wrap; gap: .1rem 1rem; margin: .4rem 0 0; padding: 0; list-style: none;
  font-size: .85rem; }
.legend li::before { content: ""; display: inline-block; width: 18px; height: 3px; margin: 0 .45em .25em 0;
  background: var(--color); }
.scroll { overflow-x: auto; } details { margin-top: .5rem; } summary { cursor: pointer; color: var(--faint); }
:focus-visible { outline: 3px solid var(--c0); outline-offset: 2px; border-radius: 4px; }
table { border-collapse: collapse; margin: .5rem 0; font-size: .93rem; white-space: nowrap; }
th { text-align: left; font-weight: 600; color: var(--faint); vertical-align: bottom; }
th, td { padding: .25rem .9rem .25rem 0; } th:last-child, td:last-child { padding-right: 0; }
td.n, th.n { text-align: right; } tbody tr { border-top: 1px solid var(--line); }
@media print { section { break-inside: avoid; } }
"""
)


def write_report(
    folder: Path,
    records: Sequence[Mapping[str, Any]],
    standing: Sequence[Standing],
    pairing: Sequence[Pair],
    load: Mapping[str, Any],
) -> Path:
    """Write the page into a folder that exists, and give its path; that of an earlier run is replaced.

    Raises:
        OSError: it cannot be written; then the earlier one is left.
    """
    path = folder / PAGE
    content = page(records, standing, pairing, load).encode("utf-8", "replace")
    write_all({path: lambda file: file.write(content)}, overwrite=True)
    return path


def _charts(measure: str, rows: Sequence[Standing], colors: Mapping[str, str], quantity: str) -> str:
    """The ranking of a measure's methods, and their curves where it has them."""
    means = [
        charts.Row(one.method, colors[one.method], one.summary.mean, one.summary.low, one.summary.high)
        for one in rows
    ]
    said = ", ".join(f"{one.name.removeprefix('control:')} {_number(one.mean)}" for one in means)
    images = max(one.summary.images for one in rows)
    heading = f"mean over {_count(images, 'image')}, 95 % bootstrap interval"
    figures = [_figure(heading, charts.ranking(f"{measure}, {heading}: {said}", means))]
    lines = {one.method: (colors[one.method], one.curve) for one in rows if one.curve}
    if lines:
        share = "pixels added" if "added" in MEASURES[measure].summary else "pixels removed"
        heading = f"mean {quantity} of the class"
        drawn = charts.curves(f"{measure}, {heading} by {share}: a line for each method", lines, across=share)
        names = "".join(f"<li class='{color}'>{_method(name)}</li>" for name, (color, _) in lines.items())
        figures.append(_figure(heading, f"{drawn}<ul class='legend'>{names}</ul>"))
    return f"<div class='charts'>{''.join(figures)}</div>"


def _figure(caption: str, content: str) -> str:
    return f"<figure><figcaption>{escape(caption)}</figcaption>{content}</figure>"


def page(
    records: Sequence[Mapping[str, Any]],
    standing: Sequence[Standing],
    pairing: Sequence[Pair],
    load: Mapping[str, Any],
) -> str:
    """One HTML page that needs nothing beside itself."""
    made = records[0]["made_with"]
    images = len({one["image"] for one in records})
    colors = charts.colors(list(dict.fromkeys(one["method"] for one in records)))
    version = "" if made["version"] is None else f", version {made['version']}"
    parts = [
        f"<h1>How good are the maps of {escape(str(made['model']))}{version}?</h1>",
        f"<p class='faint'>{_count(images, 'image')}; {load['predictions']} predictions and "
        f"{load['explanations']} explanations in {load['seconds']:.1f} s"
        + (f"; {load['kept']} results are of an earlier run" if load["kept"] else "")
        + ".</p>",
        "<p>Methods are compared on the same images. The random map and the edge detector (sobel) are "
        "controls: they know nothing of the model. Values hold for the settings that stand beside them, "
        "and for these images; they rank maps by one property each, and none says that a map is right.</p>",
    ]
    for name in dict.fromkeys(one.measure for one in standing):
        measure, rows = MEASURES[name], [one for one in standing if one.measure == name]
        quantity = next(one["settings"].get("quantity", "") for one in records if one["measure"] == name)
        parts += [
            f"<section id='{name}'><h2>{name}</h2>",
            f"<p>{escape(measure.summary.capitalize())}; "
            f"{measure.better + ' is better' if measure.better else 'neither end is better'}.</p>",
            f"<p class='faint small'>{escape(measure.source)}. {escape(_settings(records, name))}</p>",
            _charts(name, rows, colors, quantity),
            _standing_table(rows),
            _pair_table([one for one in pairing if one.measure == name]),
            _image_table([one for one in records if one["measure"] == name]),
            "</section>",
        ]
    title = f"Evaluation of {escape(str(made['model']))}"
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        "<meta name='color-scheme' content='light dark'><meta name='generator' content='saliency-client'>"
        f"<title>{title}</title><style>{_STYLE}</style></head><body>"
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
                f"<span class='warn'>not shown to be better than {escape(worse)}</span>" if worse else "",
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
            f"<{tag}{_NUMERIC if number and (number < 4 or len(head) > 5) else ''}>{cell}</{tag}>"
            for number, cell in enumerate(cells)
        )

    body = "".join(f"<tr>{row('td', cells)}</tr>" for cells in lines)
    top = f"<thead><tr>{row('th', head)}</tr></thead>"
    return f"<div class='scroll' tabindex='0'><table>{top}<tbody>{body}</tbody></table></div>"


def _method(name: str) -> str:
    shown = escape(name.removeprefix("control:"))
    return f"<span class='faint'>{shown}</span>" if name.startswith("control:") else shown


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
