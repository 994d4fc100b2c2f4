"""`saliency-exporter from-vertex`: an ExplanationSpec of Vertex Explainable AI as commands."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click

from saliency_client.cli.sections import command, option
from saliency_client.cli.text import one_line, printable
from saliency_exporter.errors import ExportError
from saliency_exporter.methods.registry import ON_VERTEX

Fields = Mapping[str, Any]

_HOLDERS = ("explanation_spec", "explanation_spec_override")
_OF_PARAMETERS = (*ON_VERTEX, "examples", "top_k", "output_indices")
_OF_METHOD = ("step_count", "smooth_grad_config", "blur_baseline_config", "path_count")
_OF_SMOOTH = ("noise_sigma", "feature_noise_sigma", "noisy_sample_count")
_OF_VISUALIZATION = (
    *("type", "polarity", "color_map", "clip_percent_upperbound", "clip_percent_lowerbound", "overlay_type"),
)
_OF_DOMAIN = ("min_value", "max_value", "original_mean", "original_stddev")
_OF_METADATA = ("inputs", "outputs", "feature_attributions_schema_uri", "latent_space_source")
_SPEC = ("parameters", "metadata")
# Vertex's defaults, from the comments of its messages.
_SAMPLES, _SIGMA, _CLIP, _CLIP_LOW = 3, 0.1, 99.9, 62.0
_COLOR_MAPS = {
    # Of both signs, of the positive, and of the negative.
    "PINK_GREEN": ("PiYG", "Greens", "RdPu"),
    "PINK_WHITE_GREEN": ("PiYG", "Greens", "RdPu"),
    "RED_GREEN": ("RdYlGn", "Greens", "Reds"),
    "VIRIDIS": ("viridis",) * 3,
    "RED": ("Reds",) * 3,
    "GREEN": ("Greens",) * 3,
}
_NOT_NEEDED = {
    "input_tensor_name": "the export finds the model's input by itself",
    "encoded_tensor_name": "gradients are taken of what the network receives after its preprocessing",
    "encoding": "images are one feature",
}
_NO_EQUIVALENT = {
    "indices_tensor_name": "sparse inputs are not explained",
    "dense_shape_tensor_name": "sparse inputs are not explained",
    "index_feature_mapping": "inputs are images, whose features are pixels",
    "encoded_baselines": "a baseline is a gray level of the image: --baseline",
    "group_name": "there is one input, and so one group",
    "feature_attributions_schema_uri": "`saliency-client signatures` shows what an answer holds",
    "latent_space_source": "explanations by examples are not offered",
}


@dataclass
class Plan:
    """What replaces a specification.

    Attributes:
        methods: for --methods of the export.
        options: of `saliency-client explain`.
        classes: options of one command for each class; at least one, which may be empty.
        notes: a sentence for each field that has no equivalent, or whose meaning differs.
        labels: names of the classes, for a file.
        preprocessing: for --preprocessing of the export: what happens to pixels.
        name: what the model is called.
    """

    methods: str = next(iter(ON_VERTEX.values()))
    options: list[str] = field(default_factory=list)
    classes: list[list[str]] = field(default_factory=lambda: [[]])
    notes: list[str] = field(default_factory=list)
    labels: tuple[str, ...] = ()
    preprocessing: str = "pixels"
    name: str = "my-model"

    def note(self, where: str, text: str) -> None:
        """Say something of a field."""
        self.notes.append(f"{where}: {text}")


def read(path: Path) -> tuple[Fields, str, Fields]:
    """The ExplanationSpec of a file, where in the file it is, and the whole file.

    The file holds the specification itself, its `parameters` or its `metadata` alone, or anything that has
    one
    inside: a model, an endpoint, a request that uploads or explains.

    Raises:
        ExportError: it cannot be read, is no JSON object, or holds no specification, or several that differ.
    """
    shown = printable(str(path))
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ExportError(f"{shown} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ExportError(f"{shown} is not UTF-8 text: {error.reason} at byte {error.start}") from error
    how = "gcloud ai models describe MODEL --format=json writes such a file"
    try:
        whole = json.loads(text)
    except json.JSONDecodeError as error:
        raise ExportError(
            f"{shown} is not JSON: {error.msg} in line {error.lineno}, column {error.colno}", hint=how
        ) from error
    except ValueError as error:
        raise ExportError(f"{shown} is not JSON: {error}", hint=how) from error
    except RecursionError as error:
        raise ExportError(f"{shown} is nested too deeply", hint=how) from error
    if not isinstance(whole, dict):
        raise ExportError(f"{shown} holds {_kind(whole)}, not a JSON object", hint=how)
    found = list(_specifications(whole, ""))
    if found:
        where, spec = found[0]
        for other_where, other in found[1:]:
            if other != spec:
                raise ExportError(
                    f"{shown} holds specifications that differ, at {where} and at {other_where}",
                    hint="put the one that is meant into a file of its own",
                )
        return _fields(spec, where), where, whole
    fields = _fields(whole, "")
    if fields.keys() & {"parameters", "metadata"}:
        return fields, "", whole
    if fields.keys() & {"inputs", "outputs"}:
        return {"metadata": whole}, "", whole
    if fields.keys() & set(_OF_PARAMETERS):
        return {"parameters": whole}, "", whole
    raise ExportError(
        f"{shown} holds no ExplanationSpec: neither parameters nor metadata, but "
        f"{', '.join(map(printable, sorted(whole))) or 'nothing'}",
        hint=how,
    )


def plan_of(spec: Fields, where: str = "", whole: Fields | None = None) -> Plan:
    """What replaces a specification, and what nothing replaces.

    Raises:
        ExportError: a value of a wrong type or out of its bounds, two methods, or one that has no equivalent.
    """
    plan = Plan()
    at = f"{where}." if where else ""
    _tell_unknown(plan, spec, _SPEC, where)
    if where.endswith(("Override", "override")):
        plan.note(
            where, "what it leaves out comes from the deployed model's own explanationSpec; merge them first"
        )
    parameters = _message(spec, "parameters", where)
    metadata = _message(spec, "metadata", where)
    name, image = _image_input(plan, metadata, f"{at}metadata")
    path = f"{at}metadata.inputs.{name}"
    _preprocessing(plan, image, path if image is not None else f"{at}metadata.inputs")
    method = _method(plan, parameters, f"{at}parameters", image, path)
    _classes(plan, parameters, f"{at}parameters")
    if image is not None:
        _baselines(plan, image, path, method)
        _visualization(plan, _message(image, "visualization", path), f"{path}.visualization", method)
    elif method == "integrated_gradients_attribution":
        plan.options += ["--baseline", "black"]
    _outputs(plan, metadata, f"{at}metadata")
    _surroundings(plan, whole or {})
    return plan


def commands_of(plan: Plan, model: str, image: str) -> list[str]:
    """The lines to type: export, serve, explain."""
    name = plan.name
    export = ["saliency-exporter", "export", model, f"models/{name}", "--methods", plan.methods]
    export += ["--preprocessing", plan.preprocessing]
    if plan.labels:
        export += ["--labels", "labels.txt"]
    explain = ["saliency-client", "explain", image, "--server", "localhost:8500", "--model", name]
    return [
        shlex.join(export),
        shlex.join(["saliency-exporter", "serve", f"{name}=models/{name}"]),
        *(shlex.join([*explain, *plan.options, *chosen]) for chosen in plan.classes),
    ]


def _specifications(value: Any, where: str) -> Iterator[tuple[str, Any]]:
    """The specifications inside of anything, with their places."""
    if isinstance(value, list):
        for index, one in enumerate(value):
            yield from _specifications(one, f"{where}[{index}]")
    if isinstance(value, dict):
        for key, one in value.items():
            place = f"{where}.{key}" if where else key
            if _snake(key) in _HOLDERS:
                yield place, one
            else:
                yield from _specifications(one, place)


def _method(plan: Plan, parameters: Fields, where: str, image: Fields | None, image_at: str) -> str:
    """Which of Vertex's methods it is; sets the method and its parameters."""
    _tell_unknown(plan, parameters, _OF_PARAMETERS, where)
    given = [name for name in (*ON_VERTEX, "examples") if parameters.get(name) is not None]
    if len(given) > 1:
        raise ExportError(f"{where} has two methods, {' and '.join(map(_camel, given))}; one is allowed")
    if given == ["examples"]:
        raise ExportError(
            f"{where}.examples asks for similar examples of a data set, which is not offered here",
            hint="give a specification with integratedGradientsAttribution or xraiAttribution",
        )
    if not given:
        plan.note(
            where,
            "no method is given, as gcloud takes it from --explanation-method; integrated gradients are "
            "taken, and "
            "--regions makes XRAI of them",
        )
    method = given[0] if given else "integrated_gradients_attribution"
    settings, at = _message(parameters, method, where), f"{where}.{_camel(method)}"
    _tell_unknown(plan, settings, _OF_METHOD, at)
    plan.methods = ON_VERTEX[method]
    if method == "sampled_shapley_attribution":
        plan.options += ["--method", plan.methods]
        plan.note(
            at,
            "Shapley values of sampled paths are for tables, and are not offered; for images, occlusion "
            "needs "
            "no gradients either",
        )
        if settings.get("path_count") is not None:
            plan.note(f"{at}.pathCount", "occlusion has no such number: a patch visits every place once")
        return method
    smooth = settings.get("smooth_grad_config")
    plan.options += ["--method", f"smooth_{plan.methods}" if smooth is not None else plan.methods]
    if settings.get("step_count") is not None:
        steps = _whole(settings["step_count"], f"{at}.stepCount", 1, 100)
        plan.options += ["--param", f"num_steps={steps}"]
    if smooth is not None:
        plan.methods = f"smooth({plan.methods})"
        _smooth(plan, _message(settings, "smooth_grad_config", at), f"{at}.smoothGradConfig", image, image_at)
    if settings.get("blur_baseline_config") is not None:
        plan.note(
            f"{at}.blurBaselineConfig",
            "there is no blurred baseline; a gray level is taken, and black,white together have no blind "
            "spot",
        )
    if method == "xrai_attribution":
        plan.options += ["--regions"]
    return method


def _smooth(plan: Plan, settings: Fields, where: str, image: Fields | None, image_at: str) -> None:
    _tell_unknown(plan, settings, _OF_SMOOTH, where)
    count, sigma = settings.get("noisy_sample_count"), settings.get("noise_sigma")
    samples = _SAMPLES if count is None else _whole(count, f"{where}.noisySampleCount", 1, 50)
    plan.options += ["--num-samples", str(samples)]
    at = f"{where}.noiseSigma"
    if settings.get("feature_noise_sigma") is not None:
        if sigma is not None:
            raise ExportError(f"{where} has noiseSigma and featureNoiseSigma; one is allowed")
        at = f"{where}.featureNoiseSigma"
        features = _message(settings, "feature_noise_sigma", where).get("noise_sigma")
        if not isinstance(features, list) or not features:
            raise ExportError(f"{at}.noiseSigma is {_kind(features)}; it is a list of names with their sigma")
        if len(features) > 1:
            plan.note(at, "there is one input, and so one noise level: that of the first feature is taken")
        sigma = _fields(features[0], f"{at}.noiseSigma[0]").get("sigma")
        at += ".noiseSigma[0].sigma"
    deviation = _SIGMA if sigma is None else _number(sigma, at)
    if deviation <= 0:
        raise ExportError(f"{at} is {deviation:g}; it must be above 0")
    low, high, told = _range(image, image_at, [])
    plan.options += ["--noise-level", f"{deviation / (high - low):.4g}"]
    how = (
        f"the range {told}"
        if told
        else "a range from 0 to 1, which is a guess (of -1 to 1 it is half as much)"
    )
    plan.note(
        at,
        f"it is in the unit of the model's input, and --noise-level is a share of its range: {deviation:g} "
        "was "
        f"divided by {how}; noise is added to the image before all steps, not at each step",
    )


def _range(image: Fields | None, where: str, values: Sequence[float]) -> tuple[float, float, str]:
    """Black and white in the unit of the model's input, and where they are told; empty: they are a guess."""
    domain = _message(image or {}, "feature_value_domain", where)
    low, high = domain.get("min_value"), domain.get("max_value")
    if high is not None:
        at = f"{where}.featureValueDomain"
        # A field that is 0 is not written.
        low = _number(0 if low is None else low, f"{at}.minValue")
        high = _number(high, f"{at}.maxValue")
        if not low < high:
            raise ExportError(f"{at}.minValue is {low:g}; it must be below maxValue, which is {high:g}")
        return low, high, f"of featureValueDomain, {low:g} to {high:g}"
    if any(value < 0 for value in values):
        return -1.0, 1.0, ""
    return 0.0, 255.0 if any(value > 1 for value in values) else 1.0, ""


def _preprocessing(plan: Plan, image: Fields | None, where: str) -> None:
    """What happens to pixels before the model: the range of its input says it."""
    given = (image or {}).get("input_baselines")
    numbers = [_uniform(one, f"{where}.inputBaselines") for one in given] if isinstance(given, list) else []
    low, high, told = _range(image, where, [one for one in numbers if one is not None])
    domain = _message(image or {}, "feature_value_domain", where)
    mean, deviation = (
        None
        if domain.get(name) is None
        else _number(domain[name], f"{where}.featureValueDomain.{_camel(name)}")
        for name in ("original_mean", "original_stddev")
    )
    if mean is not None or deviation is not None:
        plan.preprocessing, formula = "scaling:scaled", f"(pixels - {mean or 0:g}) / {deviation or 1:g}"
        told = "of originalMean and originalStddev, if these are of pixels from 0 to 255"
    elif (low, high) == (0, 255):
        plan.preprocessing, formula = "pixels", ""
    elif (low, high) == (-1, 1):
        plan.preprocessing, formula = "tf", ""
    else:
        scale = f"pixels / {255 / (high - low):.6g}"
        plan.preprocessing, formula = "scaling:scaled", scale if low == 0 else f"{scale} + {low:g}"
    if formula:
        plan.note(
            where,
            "clients send pixels, 0 to 255; write a file scaling.py with `def scaled(pixels): return "
            f"{formula}`" + ("" if told else "; that the model's input is 0 to 1 is a guess"),
        )
    elif not told:
        plan.note(where, f"that the model's input is {low:g} to {high:g} is a guess, from its baselines")


def _classes(plan: Plan, parameters: Fields, where: str) -> None:
    top, indices = parameters.get("top_k"), parameters.get("output_indices")
    if indices is not None:
        flat = _indices(indices, f"{where}.outputIndices")
        if flat is None:
            plan.note(
                f"{where}.outputIndices",
                "the model's output is one row of classes, with one index for each; left out",
            )
        else:
            plan.classes = [["--class-index", str(index)] for index in flat]
            if top is not None:
                plan.note(f"{where}.topK", "outputIndices decide, as they do there")
            return
    if top is None:
        return
    count = _whole(top, f"{where}.topK", -1, 2**31 - 1)
    if count == -1:
        plan.note(f"{where}.topK", "-1 asks for all classes; give their number to --top")
    elif count > 1:
        plan.classes = [["--top", str(count)]]


def _indices(value: Any, where: str) -> list[int] | None:
    """[3, 5] or [[3], [5]]; None for anything that is not one index for a class."""
    if not isinstance(value, list) or not value:
        raise ExportError(f"{where} is {_kind(value)}; it is a list of whole numbers")
    flat = [one[0] if isinstance(one, list) and len(one) == 1 else one for one in value]
    if any(isinstance(one, list) for one in flat):
        return None
    return [_whole(one, where, 0, 2**31 - 1) for one in flat]


def _image_input(plan: Plan, metadata: Fields, where: str) -> tuple[str, Fields | None]:
    """The input that holds the image; tells of the others."""
    _tell_unknown(plan, metadata, (*_OF_METADATA, "framework"), where)
    for name in ("feature_attributions_schema_uri", "latent_space_source"):
        if metadata.get(name) is not None:
            plan.note(f"{where}.{_camel(name)}", _NO_EQUIVALENT[name])
    inputs = metadata.get("inputs")
    if inputs is None:
        return "", None
    if not isinstance(inputs, dict):
        raise ExportError(f"{where}.inputs is {_kind(inputs)}; it is an object with the inputs by name")
    known = {name: _fields(one, f"{where}.inputs.{name}") for name, one in inputs.items()}
    images = [name for name, one in known.items() if one.get("modality") == "image"]
    if len(images) > 1:
        raise ExportError(
            f"{where}.inputs has {len(images)} images, {', '.join(map(printable, images))}; one is explained",
            hint="leave the one that shall be explained, and hold the others at export: --hold NAME=VALUE",
        )
    if not images and len(known) == 1:
        images = list(known)
        if known[images[0]].get("modality") not in (None, "image"):
            plan.note(f"{where}.inputs.{images[0]}.modality", "what is explained here are images")
    for name in sorted(known.keys() - set(images)):
        plan.note(
            f"{where}.inputs.{name}",
            "one image is explained; other inputs are held at export: --hold NAME=VALUE",
        )
    if not images:
        return "", None
    name, image = images[0], known[images[0]]
    path = f"{where}.inputs.{name}"
    for key, why in (_NOT_NEEDED | _NO_EQUIVALENT).items():
        if image.get(key) in (None, [], "") or (key == "encoding" and image[key] == "IDENTITY"):
            continue
        plan.note(f"{path}.{_camel(key)}", f"{'not needed: ' if key in _NOT_NEEDED else ''}{why}")
    others = ("modality", "input_baselines", "visualization", "feature_value_domain")
    _tell_unknown(plan, image, (*others, *_NOT_NEEDED, *_NO_EQUIVALENT), path)
    domain = _message(image, "feature_value_domain", path)
    _tell_unknown(plan, domain, _OF_DOMAIN, f"{path}.featureValueDomain")
    return name, image


def _baselines(plan: Plan, image: Fields, where: str, method: str) -> None:
    at = f"{where}.inputBaselines"
    given = image.get("input_baselines")
    if given is None or given == []:
        # Vertex's own default is black; that of --regions is black and white.
        if method == "integrated_gradients_attribution":
            plan.options += ["--baseline", "black"]
        return
    if not isinstance(given, list):
        raise ExportError(f"{at} is {_kind(given)}; it is a list of baselines")
    uniform = [_uniform(one, at) for one in given]
    values = [one for one in uniform if one is not None]
    if len(values) < len(uniform):
        plan.note(
            at,
            f"{len(uniform) - len(values)} of {len(uniform)} baselines are pictures; a baseline here is one "
            "gray "
            "level for all pixels, such as --baseline gray",
        )
    if not values:
        plan.options += ["--baseline", "black"]
        return
    low, high, told = _range(image, where, values)
    levels = [_level((value - low) / (high - low)) for value in values]
    plan.options += ["--baseline", ",".join(dict.fromkeys(levels))]
    if not told:
        plan.note(
            at,
            f"in the unit of the model's input, taken as {low:g} (black) to {high:g} (white), which is a "
            "guess; "
            "--baseline is in the image's own, 0 to 255",
        )


def _uniform(value: Any, where: str) -> float | None:
    """The number that a baseline is everywhere; None where it differs."""
    if isinstance(value, list):
        numbers = {_uniform(one, where) for one in value}
        return numbers.pop() if len(numbers) == 1 else None
    return _number(value, where)


def _level(share: float) -> str:
    return {0.0: "black", 0.5: "gray", 1.0: "white"}.get(share, f"{255 * share:.5g}")


def _visualization(plan: Plan, settings: Fields, where: str, method: str) -> None:
    if not settings:
        return
    _tell_unknown(plan, settings, _OF_VISUALIZATION, where)
    choices = {
        "type": ("PIXELS", "OUTLINES"),
        "polarity": ("POSITIVE", "NEGATIVE", "BOTH"),
        "color_map": tuple(_COLOR_MAPS),
        "overlay_type": ("NONE", "ORIGINAL", "GRAYSCALE", "MASK_BLACK"),
    }
    said = {name: _choice(settings, name, where, known) for name, known in choices.items()}
    upper, lower = (
        default if settings.get(name) is None else _number(settings[name], f"{where}.{_camel(name)}")
        for name, default in (("clip_percent_upperbound", _CLIP), ("clip_percent_lowerbound", _CLIP_LOW))
    )
    if not 0 <= lower < upper <= 100:
        raise ExportError(
            f"{where}.clipPercentLowerbound is {lower:g} and clipPercentUpperbound {upper:g}; they are "
            "percentiles, "
            "the lower one first"
        )
    regions = method == "xrai_attribution"
    polarity, overlay = said["polarity"] or "POSITIVE", said["overlay_type"] or "NONE"
    if regions:
        for name in ("type", "polarity"):
            if said[name]:
                plan.note(f"{where}.{_camel(name)}", "XRAI has none: regions are ranked by the whole map")
    outlines = not regions and said["type"] != "PIXELS"
    if outlines and said["overlay_type"] not in (None, "ORIGINAL"):
        plan.note(f"{where}.overlayType", "outlines are drawn over the photo in its colors")
    if not regions and not outlines and overlay == "MASK_BLACK" and polarity == "BOTH":
        plan.note(f"{where}.polarity", "a masked photo shows no sign: the positive part is taken")
        polarity = "POSITIVE"
    style = "outlines" if outlines else {"NONE": "heatmap", "MASK_BLACK": "masked"}.get(overlay, "overlay")
    plan.options += ["--style", style]
    if not regions:
        plan.options += ["--polarity", polarity.lower()]
    if style == "overlay" and overlay == "ORIGINAL":
        plan.options += ["--photo-colors"]
    if style != "masked":
        name = said["color_map"] or ("VIRIDIS" if regions else "PINK_GREEN")
        place = 1 if regions else ("BOTH", "POSITIVE", "NEGATIVE").index(polarity)
        plan.options += ["--colormap", _COLOR_MAPS[name][place]]
    elif said["color_map"]:
        plan.note(f"{where}.colorMap", "a masked photo keeps its colors")
    if regions:
        plan.options += ["--top-regions", f"{100 - lower:g}"]
    if not (outlines or (regions and style == "masked")):
        plan.options += ["--clip", f"{upper:g}"]
    elif settings.get("clip_percent_upperbound") is not None:
        plan.note(
            f"{where}.clipPercentUpperbound", f"--style {style} shows areas, which have no hottest color"
        )
    if not regions:
        plan.options += ["--clip-low", f"{lower:g}"]


def _outputs(plan: Plan, metadata: Fields, where: str) -> None:
    outputs = metadata.get("outputs")
    if outputs is None:
        return
    if not isinstance(outputs, dict):
        raise ExportError(f"{where}.outputs is {_kind(outputs)}; it is an object with the outputs by name")
    if len(outputs) > 1:
        plan.note(f"{where}.outputs", "one output, the classes' scores, is explained")
    for name, one in outputs.items():
        at = f"{where}.outputs.{name}"
        fields = _fields(one, at)
        _tell_unknown(
            plan, fields, ("output_tensor_name", "index_display_name_mapping", "display_name_mapping_key"), at
        )
        if fields.get("output_tensor_name"):
            plan.note(f"{at}.outputTensorName", "not needed: the export finds the classes' scores by itself")
        if fields.get("display_name_mapping_key"):
            plan.note(
                f"{at}.displayNameMappingKey", "names are part of the export, in class order: --labels FILE"
            )
        names = fields.get("index_display_name_mapping")
        if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
            plan.labels = plan.labels or tuple(names)
            plan.note(
                f"{at}.indexDisplayNameMapping",
                f"write its {len(names)} names to labels.txt, one a line (or the list itself, as JSON)",
            )
        elif names is not None:
            plan.note(f"{at}.indexDisplayNameMapping", "names are one list, in class order: --labels FILE")


def _surroundings(plan: Plan, whole: Fields) -> None:
    """What a model around the specification says of itself."""
    model = whole.get("model")
    for one in (whole, model if isinstance(model, dict) else {}):
        for key, value in one.items():
            if not isinstance(value, str):
                continue
            if _snake(key) == "display_name" and (name := re.sub(r"[^\w.-]+", "-", value).strip("-.")):
                plan.name = name
            if _snake(key) == "artifact_uri":
                plan.note(
                    key,
                    f"gcloud storage cp -r {shlex.quote(value)} . brings the SavedModel; export that folder",
                )


def _message(holder: Fields, name: str, where: str) -> Fields:
    """A message that is a field of another; empty where it is absent."""
    value = holder.get(name)
    return {} if value is None else _fields(value, f"{where}.{_camel(name)}" if where else _camel(name))


def _fields(value: Any, where: str) -> dict[str, Any]:
    """A message's fields by their names in snake_case, whichever way they are written."""
    if not isinstance(value, dict):
        raise ExportError(f"{where} is {_kind(value)}; it is an object")
    fields: dict[str, Any] = {}
    for key, one in value.items():
        name = _snake(key)
        if name in fields:
            raise ExportError(
                f"{where or 'the file'} has {_camel(name)} and {name}, which are the same field"
            )
        fields[name] = one
    return fields


def _tell_unknown(plan: Plan, fields: Fields, known: Sequence[str], where: str) -> None:
    for name in sorted(fields.keys() - set(known)):
        near = get_close_matches(name, known, n=1)
        like = f"; did you mean {_camel(near[0])}?" if near else ""
        plan.note(
            f"{where}.{_camel(name)}" if where else _camel(name), f"no such field is known; left out{like}"
        )


def _choice(fields: Fields, name: str, where: str, known: Sequence[str]) -> str | None:
    value = fields.get(name)
    if value is None or (isinstance(value, str) and value.upper().endswith("_UNSPECIFIED")):
        return None
    if not isinstance(value, str) or value.upper() not in known:
        raise ExportError(f"{where}.{_camel(name)} is {json.dumps(value)}; it is one of {', '.join(known)}")
    return value.upper()


def _whole(value: Any, where: str, low: int, high: int) -> int:
    number = _number(value, where)
    if number != int(number) or not low <= number <= high:
        raise ExportError(f"{where} is {number:g}; it is a whole number from {low} to {high}")
    return int(number)


def _number(value: Any, where: str) -> float:
    """A number; JSON of protocol buffers may hold it as text."""
    try:
        number = (
            float(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else None
        )
    except (ValueError, OverflowError):
        number = None
    if number is None or not math.isfinite(number):
        raise ExportError(f"{where} is {_kind(value)}; it is a number")
    return number


def _kind(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else "a list"
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:39]}…"


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(part.capitalize() for part in others)


@command(short_help="Say which commands replace a Vertex ExplanationSpec.")
@click.argument("spec", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="SPEC.json")
@option("--model", default="MODEL", show_default=True, help="The model to export, as `export` takes it.")
@option("--image", default="IMAGE", show_default=True, help="What to explain: a file, a folder or a pattern.")
def from_vertex(spec: Path, model: str, image: str) -> None:
    """Print the commands that replace an ExplanationSpec of Vertex Explainable AI.

    SPEC.json holds the specification, in camelCase or snake_case, its parameters or its metadata alone, or
    what has one inside: a model, an endpoint, a request. The commands go to stdout. For each field that has
    no equivalent, or whose meaning differs, a note goes to stderr. Nothing is exported, and no network is
    needed.

    \b
    saliency-exporter from-vertex spec.json
    saliency-exporter from-vertex spec.json --model saved-model/ --image 'photos/*.jpg'
    """
    found, where, whole = read(spec)
    plan = plan_of(found, where, whole)
    for line in commands_of(plan, model, image):
        click.echo(printable(line))
    for note in plan.notes:
        click.echo(f"note: {one_line(note)}", err=True)
