"""What a served model offers, as its server's metadata tells it."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field

from google.protobuf.message import DecodeError

from saliency_client._errors import AnswerError
from saliency_client._proto import saliency_client_tfs_pb2 as tfs
from saliency_client._tensors import Array, decode, dtype_name

EXPLAIN_PREFIX = "explain_"
DEFAULT_SIGNATURE = "serving_default"
IMAGES_SIGNATURE = "serving_images"
CLASS_LABELS = "class_labels"


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

    def __str__(self) -> str:
        if self.shape is None:
            return f"{self.dtype}[…]"
        return f"{self.dtype}[{','.join('?' if size is None else str(size) for size in self.shape)}]"


@dataclass(frozen=True)
class Signature:
    """One signature of a served model: what goes in, what comes out, what is filled in if left out.

    Example:
        >>> for name, signature in client.signatures().items():
        ...     print(name, list(signature.inputs), signature.method)
        class_labels ['labels'] None
        explain_gradients ['class_index', 'images'] gradients
        explain_smooth ['class_index', 'images', 'noise_level', 'num_samples', 'seed'] smooth
        serving_default ['images'] None
    """

    name: str
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    defaults: Mapping[str, Array] = field(default_factory=dict)

    @property
    def method(self) -> str | None:
        """The explanation method, such as 'smooth' of 'explain_smooth'; None for any other signature."""
        return self.name[len(EXPLAIN_PREFIX) :] if self.name.startswith(EXPLAIN_PREFIX) else None


@dataclass(frozen=True)
class Metadata:
    """All signatures of one version of a model."""

    version: int
    signatures: Mapping[str, Signature]

    @property
    def methods(self) -> tuple[str, ...]:
        """The explanation methods on offer, sorted."""
        return tuple(sorted(s.method for s in self.signatures.values() if s.method))

    @property
    def labels(self) -> tuple[str, ...] | None:
        """The names of all classes, in class order; None where the model was exported without."""
        signature = self.signatures.get(CLASS_LABELS)
        table = signature.defaults.get("labels") if signature else None
        if table is None or table.ndim != 1 or table.dtype != object:
            return None
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
    return Metadata(version=response.model_spec.version.value, signatures=signatures)


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
