"""What a served model offers, as its server's metadata tells it."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from google.protobuf.message import DecodeError

from saliency_client._contract import (
    CLASS_LABELS,
    DEFAULT_SIGNATURE,
    EXPLAIN_PREFIX,
    IMAGES_SIGNATURE,
    INTERNAL_PREFIX,
    PARAMETER_BOUNDS,
    PARAMETER_DEFAULTS,
    SALIENCY,
    SIGNED_MAPS,
    large_outputs,
)
from saliency_client._errors import AnswerError, InputError, UnknownParameter
from saliency_client._proto import saliency_client_tfs_pb2 as tfs
from saliency_client._tensors import Array, decode, dtype_name

Number = int | float
Bounds = tuple[Number | None, Number | None]
"""The least and the greatest value of a parameter, both allowed; None where it has no bound."""


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a signature.

    `dtype` is TensorFlow's name, such as 'uint8', 'float32' or 'string'. `shape` has None where a size is
    free, as the batch is; it is None as a whole where even the rank is.

    Example:
        >>> print(TensorSpec("images", "uint8", (None, 224, 224, 3)))
        uint8[?,224,224,3]
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None

    @property
    def rank(self) -> int | None:
        """How many dimensions it has; None where that is not known."""
        return None if self.shape is None else len(self.shape)

    def __str__(self) -> str:
        if self.shape is None:
            return f"{self.dtype}[…]"
        return f"{self.dtype}[{','.join('?' if size is None else str(size) for size in self.shape)}]"


@dataclass(frozen=True)
class Signature:
    """One signature of a served model: what goes in, what comes out, what is filled in if left out.

    Some servers return no defaults; `defaults` then has those that the model keeps in a table of its own.
    `bounds` has the least and the greatest value of each parameter, None where it has no bound; it is empty
    where the model does not tell them, as an export of a release before they were told.

    Example:
        >>> for name, signature in client.signatures().items():
        ...     print(name, list(signature.inputs), signature.method)
        class_labels ['class_index', 'labels'] None
        explain_gradients ['class_index', 'images'] gradients
        explain_smooth ['class_index', 'images', 'noise_level', 'num_samples', 'seed'] smooth
        parameter_bounds ['bounds', 'parameter'] None
        parameter_defaults ['rows'] None
        serving_default ['images'] None
    """

    name: str
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    defaults: Mapping[str, Array] = field(default_factory=dict)
    bounds: Mapping[str, Bounds] = field(default_factory=dict)

    @property
    def method(self) -> str | None:
        """The explanation method, such as 'smooth' of 'explain_smooth'; None for any other signature."""
        return self.name[len(EXPLAIN_PREFIX) :] if self.name.startswith(EXPLAIN_PREFIX) else None

    @property
    def parameters(self) -> tuple[str, ...]:
        """The inputs beside `images`: `class_index` and the method's own."""
        return tuple(name for name in self.inputs if name != "images")

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images that it takes.

        Raises:
            InputError: its input is not images [B, H, W, C], or [B, H, W] without channels, of a fixed size.

        Example:
            >>> client.signatures()["explain_gradients"].image_size
            (224, 224)
        """
        spec = self.inputs.get("images")
        shape = spec.shape if spec is not None else None
        axes = 4 if self.has_channels else 3
        if shape is None or len(shape) != axes or shape[1] is None or shape[2] is None:
            raise InputError(
                f"{self.name} takes {spec or 'no images'}, not images [B, H, W, C] of a fixed size",
                signature=self.name,
            )
        return shape[1], shape[2]

    @property
    def has_channels(self) -> bool:
        """Whether the last axis of its images holds channels, over which `saliency` is taken.

        Images [B, H, W] without channels have a `saliency` and a map of their own size.

        Example:
            >>> client.signatures()["explain_gradients"].has_channels
            True
        """
        images, saliency = self.inputs.get("images"), self.outputs.get(SALIENCY)
        if images is None or saliency is None or images.rank is None:
            return True
        return images.rank != saliency.rank

    @property
    def signed_map(self) -> str | None:
        """The output that holds the method's own signed map, [B, H, W, C]; None where there is none."""
        known = [name for name in SIGNED_MAPS if name in self.outputs]
        large = self.large
        return known[0] if known else min(large) if len(large) == 1 else None

    @property
    def large(self) -> set[str]:
        """The outputs that are as large as the images, which come when they are asked for by name alone."""
        images = self.inputs.get("images")
        return large_outputs(
            images.rank if images else None, {name: output.rank for name, output in self.outputs.items()}
        )


@dataclass(frozen=True)
class Metadata:
    """All signatures of one version of a model.

    Attributes:
        version: its number.
        signatures: by name.
        withheld: whether the server returned no default at all, so that nobody may rely on its filling them
            in.
        names: the names of all classes, where they were asked for because no default has them.
    """

    version: int
    signatures: Mapping[str, Signature]
    withheld: bool = False
    names: tuple[str, ...] | None = None

    @property
    def methods(self) -> tuple[str, ...]:
        """The explanation methods on offer, sorted."""
        return tuple(sorted(s.method for s in self.signatures.values() if s.method))

    @property
    def labels(self) -> tuple[str, ...] | None:
        """The names of all classes, in class order; None where the model was exported without.

        Of a server that returns no defaults they are None until they are asked for.
        """
        if self.names is not None:
            return self.names
        signature = self.signatures.get(CLASS_LABELS)
        table = signature.defaults.get("labels") if signature else None
        if table is None or table.ndim != 1 or table.dtype != object:
            return None
        return class_names(table)

    @property
    def withheld_names(self) -> tuple[Signature, int] | None:
        """The signature that names classes, and how many there are; None unless it has to be called."""
        signature = self.signatures.get(CLASS_LABELS)
        classes = number_of_classes(self.signatures)
        if not self.withheld or self.names is not None or signature is None or classes is None:
            return None
        return (signature, classes) if set(signature.inputs) == {"labels", "class_index"} else None

    @property
    def defaults_table(self) -> Signature | None:
        """The signature that tells the defaults of all others; None where there is none, or another so named.

        Its outputs are `<signature>/<parameter>`, one row for each of its input `rows`.
        """
        table = self.signatures.get(PARAMETER_DEFAULTS)
        if table is None or set(table.inputs) != {"rows"}:
            return None
        parameters = (_parameter_of(output) for output in table.outputs)
        known = all(
            signature in self.signatures and name in self.signatures[signature].inputs
            for signature, name in parameters
        )
        return table if known else None

    def with_defaults(self, table: Mapping[str, Array]) -> Metadata:
        """The same with the defaults that the model's table told, the first row of each output."""
        defaults: dict[str, dict[str, Array]] = {}
        for output, values in table.items():
            signature, name = _parameter_of(output)
            defaults.setdefault(signature, {})[name] = values[:1].reshape(())
        completed = {
            name: replace(signature, defaults={**signature.defaults, **defaults.get(name, {})})
            for name, signature in self.signatures.items()
        }
        return replace(self, signatures=completed)

    @property
    def bounds_table(self) -> Signature | None:
        """The signature that tells the bounds of parameters; None where there is none, or another so named.

        Its default of `parameter` names them, as `<signature>/<parameter>`, and that of `bounds` has the
        least and the greatest value of each; of a server without defaults its output `bounds` has.
        """
        table = self.signatures.get(PARAMETER_BOUNDS)
        if table is None or set(table.inputs) != {"parameter", "bounds"} or "bounds" not in table.outputs:
            return None
        return table

    def with_bounds(self, names: Sequence[str], table: Array) -> Metadata:
        """The same with the bounds that the model's table told.

        Args:
            names: of parameters, as `<signature>/<parameter>`; those that are not there are left out.
            table: float64 [N, 2], of each the least and the greatest value.
        """
        bounds: dict[str, dict[str, Bounds]] = {}
        for output, (least, greatest) in zip(names, table.tolist(), strict=True):
            signature, name = _parameter_of(output)
            if signature in self.signatures and name in self.signatures[signature].inputs:
                dtype = self.signatures[signature].inputs[name].dtype
                bounds.setdefault(signature, {})[name] = _bounds(least, greatest, dtype)
        completed = {
            name: replace(signature, bounds=bounds.get(name, {}))
            for name, signature in self.signatures.items()
        }
        return replace(self, signatures=completed)


def check_parameters(
    signature: Signature, names: Iterable[str], signatures: Mapping[str, Signature] | None = None
) -> None:
    """Refuse a parameter that a signature does not have.

    Args:
        signature: of a method.
        names: the parameters that are given.
        signatures: all that the model has, to say which other method takes a parameter.

    Raises:
        UnknownParameter: with the parameters that exist, and their defaults.
    """
    for name in names:
        if name not in signature.parameters:
            raise UnknownParameter(
                f"{signature.name} takes no {name}; it takes {_listed_parameters(signature)}",
                hint=_where_else(name, signature, signatures or {}),
                signature=signature.name,
            )


def _listed_parameters(signature: Signature) -> str:
    """Names and defaults: `class_index=-1, seed=0`; those without a known default by name alone."""
    listed = [
        f"{name}={signature.defaults[name][()]!s}" if name in signature.defaults else name
        for name in signature.parameters
    ]
    return ", ".join(listed) or "no parameters"


def _where_else(name: str, signature: Signature, signatures: Mapping[str, Signature]) -> str | None:
    from difflib import get_close_matches

    near = get_close_matches(name, signature.parameters, n=1)
    if near:
        return f"did you mean {near[0]}?"
    methods = [one.method for one in signatures.values() if one.method and name in one.parameters]
    return f"{name} is a parameter of {', '.join(methods)}" if methods else None


def _parameter_of(output: str) -> tuple[str, str]:
    """The signature and the parameter that an output of the table of defaults is for."""
    signature, _, name = output.rpartition("/")
    return signature, name


def _bounds(least: float, greatest: float, dtype: str) -> Bounds:
    """Bounds in a parameter's own type; what its dtype cannot be beyond is no bound."""
    if dtype.startswith(("int", "uint")):
        whole = np.iinfo(dtype)
        low, high = int(least), int(greatest)
        return (low if low > whole.min else None, high if high < whole.max else None)
    limit = float(np.finfo(np.float32).max)

    def real(value: float) -> float | None:
        # float32's 0.15 is 0.15000000596 as a Python float.
        return float(str(np.float32(value))) if abs(value) < limit else None

    return real(least), real(greatest)


def class_names(table: Array) -> tuple[str, ...]:
    """Names as text; bytes that are no UTF-8 become the replacement character."""
    return tuple(name.decode("utf-8", "replace") for name in table)


def parse_metadata(answer: bytes) -> Metadata:
    """What a GetModelMetadataResponse says.

    Raises:
        AnswerError: the bytes are not such an answer.
    """
    try:
        response = tfs.GetModelMetadataResponse.FromString(answer)
        # The value's type name is TensorFlow's, so Any.Unpack would refuse it.
        map_ = tfs.SignatureDefMap.FromString(response.metadata["signature_def"].value)
    except DecodeError as error:
        raise AnswerError("the answer is not a GetModelMetadataResponse") from error
    signatures = {name: _signature(name, map_.signature_def[name]) for name in sorted(map_.signature_def)}
    withheld = not any(signature.defaults for signature in signatures.values())
    metadata = Metadata(response.model_spec.version.value, signatures, withheld)
    told = metadata.bounds_table.defaults if metadata.bounds_table else {}
    names, table = told.get("parameter"), told.get("bounds")
    if names is None or table is None or names.dtype != object or table.shape != (*names.shape, 2):
        return metadata
    return metadata.with_bounds(class_names(names), table)


def _signature(name: str, proto: tfs.SignatureDef) -> Signature:
    return Signature(
        name=name,
        inputs={key: _spec(key, proto.inputs[key]) for key in sorted(proto.inputs)},
        outputs={key: _spec(key, proto.outputs[key]) for key in sorted(proto.outputs)},
        defaults={key: decode(proto.defaults[key], key, fill=True) for key in sorted(proto.defaults)},
    )


def _spec(name: str, proto: tfs.TensorInfo) -> TensorSpec:
    shape = None
    if not proto.tensor_shape.unknown_rank:
        shape = tuple(None if dim.size < 0 else dim.size for dim in proto.tensor_shape.dim)
    return TensorSpec(name=name, dtype=dtype_name(proto.dtype), shape=shape)


def predictions_signature(signatures: Container[str]) -> str:
    """The signature that predicts from the images that explain signatures take.

    `serving_images` where a model has it, since then it came with a `serving_default` of its own, which may
    take anything; else `serving_default`.
    """
    return IMAGES_SIGNATURE if IMAGES_SIGNATURE in signatures else DEFAULT_SIGNATURE


def is_internal(signature: str) -> bool:
    """Whether a signature's name is TensorFlow's own."""
    return signature.startswith(INTERNAL_PREFIX)


def listed_signatures(signatures: Iterable[str]) -> str:
    """The names for an error, without TensorFlow's own: `explain_smooth, serving_default`, or `none`."""
    return ", ".join(name for name in signatures if not is_internal(name)) or "none"


def number_of_classes(signatures: Mapping[str, Signature]) -> int | None:
    """How many classes the model tells apart, from the server's metadata; None where that does not say."""
    signature = signatures.get(predictions_signature(signatures))
    outputs = signature.outputs if signature else {}
    named = [outputs[name] for name in ("logits", "probabilities") if name in outputs]
    sizes = {spec.shape[1] for spec in named or outputs.values() if spec.shape and len(spec.shape) == 2}
    return sizes.pop() if len(sizes) == 1 else None
