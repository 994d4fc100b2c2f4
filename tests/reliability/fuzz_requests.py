"""Mutated Predict requests: each gets a right code, and the server neither dies, hangs nor grows.

Two kinds. Structured mutations break one known thing, so that the code is known as well; byte mutations break
anything, and only have to be answered sanely. Unloaded answers are
compared before and after, to float32 rounding.
"""

from __future__ import annotations

import math
import random
import struct
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator

import grpc
import numpy as np
from lab import METHODS, MODEL, Lab, Outcome, encode, images, main, resident_mib, same
from server_process import ServerProcess

from saliency_client import SaliencyClient
from saliency_client._proto import saliency_client_tfs_pb2 as tfs
from saliency_client._requests import METADATA, PREDICT, STATUS
from saliency_client._tensors import decode

Code = grpc.StatusCode
OK, INVALID = {Code.OK}, {Code.INVALID_ARGUMENT}
SANE = {Code.OK, Code.INVALID_ARGUMENT, Code.NOT_FOUND, Code.FAILED_PRECONDITION}
# The answer to bytes that are no such message.
UNPARSABLE = "The request is not a message of this method"
DEADLINE = 60.0
UNDER_WAY = 16
MEBI = 1 << 20

PROBE = images(1)
Mutation = Callable[[random.Random, tfs.PredictRequest], set[grpc.StatusCode]]
"""Changes a good request in place and tells the codes that are right for it."""


def good_request(method: str = "smooth") -> tfs.PredictRequest:
    request = tfs.PredictRequest()
    request.model_spec.name = MODEL
    request.model_spec.signature_name = f"explain_{method}"
    request.inputs["images"].CopyFrom(encode(PROBE))
    request.inputs["class_index"].CopyFrom(encode(np.array([-1], np.int32)))
    if method == "smooth":
        request.inputs["num_samples"].CopyFrom(encode(np.array([2], np.int32)))
        request.inputs["noise_level"].CopyFrom(encode(np.array([0.1], np.float32)))
        # Batching takes no scalars, and this input's default is one.
        request.inputs["seed"].CopyFrom(encode(np.array([3], np.int32)))
    return request


def nothing(rng: random.Random, request: tfs.PredictRequest) -> set[grpc.StatusCode]:
    return OK


def another_dtype(rng: random.Random, request: tfs.PredictRequest) -> set[grpc.StatusCode]:
    name = rng.choice(sorted(request.inputs))
    tensor = request.inputs[name]
    # Same values in another dtype, or the same bytes under another name.
    other = rng.choice(["float64", "int64", "int8", "bool", "str", "complex64"])
    if rng.random() < 0.5:
        tensor.CopyFrom(encode(decode(tensor, name).astype(other)))
    else:
        tensor.dtype = rng.choice([n for n in tfs.DataType.values() if n != tensor.dtype])
    return INVALID


def impossible_dtype(rng: random.Random, request: tfs.PredictRequest) -> set[grpc.StatusCode]:
    # 20 and 21 are resources and variants, above 100 are references: none of them is a value to feed.
    number = rng.choice([0, 11, 12, 13, 15, 16, 20, 21, 24, 25, 29, 30, 101, 104, 121, 999, -1, 2**31 - 1])
    request.inputs[rng.choice(sorted(request.inputs))].dtype = number
    return INVALID


def impossible_shape(rng: random.Random, request: tfs.PredictRequest) -> set[grpc.StatusCode]:
    tensor = request.inputs[rng.choice(sorted(request.inputs))]
    shape = rng.choice(
        [
            [-1],
            [-(2**63)],
            [1, -32, -32, 3],
            [2**62, 2**62],
            [2**31, 2**31, 2**31, 2**31],
            [2**63 - 1],
            [2**63 - 1, 0],
            [0, 2**62, 2**62],
            [1] * 300,
            [2**16] * 4,
            [1, 32, 32, 2**40],
        ]
    )
    del tensor.tensor_shape.dim[:]
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)
    if rng.random() < 0.5:
        tensor.tensor_content = b""
    return INVALID


def unknown_rank(rng: random.Random, request: tfs.PredictRequest) -> set[grpc.StatusCode]:
    request.inputs[rng.choice(sorted(request.inputs))].tensor_shape.unknown_rank = True
    return INVALID


def content_of_another_size(rng: random.Random, request: tfs.PredictRequest) -> set[grpc.StatusCode]:
    tensor = request.inputs[rng.choice(sorted(request.inputs))]
    content = tensor.tensor_content
    size = rng.choice([1, 3, len(content) - 1, len(content) + 1, 2 * len(content)])
    tensor.tensor_content = (content * 2)[:size]
    return INVALID if size != len(content) else OK


def few_bytes_for_much(rng: random.Random, request: tfs.PredictRequest) -> set[grpc.StatusCode]:
    # One typed value stands for a whole tensor: the server must not make up gigabytes.
    tensor = request.inputs["images"]
    tensor.tensor_content = b""
    tensor.int_val.append(7)
    tensor.tensor_shape.dim[0].size = rng.choice([2**20, 2**25, 2**33])
    return INVALID


def value_out_of_bounds(rng: random.Random, request: tfs.PredictRequest) -> set[grpc.StatusCode]:
    request.model_spec.signature_name = "explain_smooth"
    name, dtype, values = rng.choice(
        [
            ("noise_level", np.float32, [math.nan, math.inf, -math.inf, -0.01, 1.01, 3e38]),
            ("num_samples", np.int32, [0, -1, 201, 2**31 - 1, -(2**31)]),
            ("class_index", np.int32, [5, -2, 2**31 - 1, -(2**31)]),
        ]
    )
    request.inputs[name].CopyFrom(encode(np.array([rng.choice(values)], dtype)))
    return INVALID


def parameters_of_another_length(rng: random.Random, request: tfs.PredictRequest) -> set[grpc.StatusCode]:
    name = rng.choice(sorted(set(request.inputs) - {"images"}))
    value = decode(request.inputs[name], name)
    request.inputs[name].CopyFrom(encode(np.repeat(value, rng.choice([2, 7, 1000]))))
    return INVALID


def no_images(rng: random.Random, request: tfs.PredictRequest) -> set[grpc.StatusCode]:
    del request.inputs["images"]
    return INVALID


def empty_name(rng: random.Random, request: tfs.PredictRequest) -> set[grpc.StatusCode]:
    match rng.randrange(4):
        case 0:
            request.model_spec.name = ""
        case 1:
            request.inputs[""].CopyFrom(request.inputs["images"])
        case 2:
            request.output_filter.append("")
        case 3:
            request.ClearField("model_spec")
    return INVALID


def megabyte_string(rng: random.Random, request: tfs.PredictRequest) -> set[grpc.StatusCode]:
    long = rng.choice(["x", "é", "\x1b[2J", "\0", "%s", "\n"]) * rng.choice([2**10, MEBI])
    match rng.randrange(6):
        case 0:
            request.model_spec.name = long
            return {Code.NOT_FOUND}
        case 1:
            request.model_spec.signature_name = long
            return {Code.FAILED_PRECONDITION}
        case 2:
            request.model_spec.version_label = long
        case 3:
            request.output_filter.append(long)
        case 4:
            request.inputs[long].CopyFrom(request.inputs["images"])
        case 5:
            request.inputs["images"].CopyFrom(encode(np.array([long.encode()], object)))
    return INVALID


def another_model(rng: random.Random, request: tfs.PredictRequest) -> set[grpc.StatusCode]:
    match rng.randrange(4):
        case 0:
            request.model_spec.name = rng.choice(
                ["../classifier", "classifier/1", "CLASSIFIER", "/etc/passwd"]
            )
            return {Code.NOT_FOUND}
        case 1:
            request.model_spec.version.value = rng.choice([0, 2, -1, 2**63 - 1, -(2**63)])
            return {Code.NOT_FOUND}
        case 2:
            request.model_spec.signature_name = rng.choice(["explain", "__saved_model_init_op", "a" * 9])
            return {Code.FAILED_PRECONDITION} | INVALID
        case _:
            request.output_filter.extend(["saliency", "saliency"])
    return INVALID


MUTATIONS: tuple[Mutation, ...] = (
    nothing,
    another_dtype,
    impossible_dtype,
    impossible_shape,
    unknown_rank,
    content_of_another_size,
    few_bytes_for_much,
    value_out_of_bounds,
    parameters_of_another_length,
    no_images,
    empty_name,
    megabyte_string,
    another_model,
)


def varint(number: int) -> bytes:
    number &= 2**64 - 1
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def unknown_fields(rng: random.Random) -> bytes:
    """Fields that no version of the message has, of every wire type; parsers skip them."""
    number = rng.randrange(1000, 2**20)
    return rng.choice(
        [
            varint(number << 3) + varint(rng.getrandbits(64)),
            varint(number << 3 | 1) + rng.randbytes(8),
            varint(number << 3 | 5) + rng.randbytes(4),
            field(number, rng.randbytes(rng.randrange(200))),
        ]
    )


def odd_tensor(rng: random.Random) -> bytes:
    """A request whose images are what the private messages cannot say: variants, resources, nested deep."""
    any_type = field(1, b"type.googleapis.com/tensorflow.PredictRequest")
    inner = {
        "variant": varint(1 << 3) + varint(21) + field(15, any_type + field(2, rng.randbytes(9))),
        "resource": varint(1 << 3) + varint(20) + field(14, field(3, any_type)),
        "nested": varint(1 << 3) + varint(21) + _nested(rng.choice([10, 90, 200, 5000])),
    }[rng.choice(["variant", "resource", "nested"])]
    entry = field(1, b"images") + field(2, inner)
    spec = field(1, MODEL.encode()) + field(3, b"explain_gradients")
    return field(1, spec) + field(2, entry)


def _nested(depth: int) -> bytes:
    content = b""
    for _ in range(depth):  # VariantTensorDataProto.tensors holds TensorProtos, whose variant_val holds …
        content = field(15, field(3, content))
    return content


def broken_bytes(rng: random.Random, payload: bytes, others: list[bytes]) -> bytes:
    """Some bytes flipped, cut out, put in, repeated or taken from another request."""
    broken = bytearray(payload)
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        at = rng.randrange(len(broken) + 1)
        # Most of a request is pixels; what steers the parser lies at the ends of the message.
        if rng.random() < 0.7:
            at = min(rng.choice([at % 120, max(len(broken) - 1 - at % 120, 0)]), len(broken))
        match rng.randrange(7):
            case 0 if at < len(broken):
                broken[at] ^= 1 << rng.randrange(8)
            case 1:
                broken[at:at] = rng.randbytes(rng.randrange(1, 9))
            case 2:
                del broken[at : at + rng.choice([1, 2, 8, 1000])]
            case 3:
                broken[at:at] = varint(rng.choice([0, 127, 2**31, 2**32 - 1, 2**63, 2**64 - 1]))
            case 4:
                broken[at:] = rng.choice(others)[at:]
            case 5:
                broken[at : at + 4] = struct.pack("<I", rng.choice([0, 0x7F800000, 0x7FC00000, 2**32 - 1]))
            case _:
                broken[at:at] = broken[at : at + rng.randrange(64)]
    return bytes(broken)


def cases(rng: random.Random, count: int) -> Iterator[tuple[str, str, bytes, set[grpc.StatusCode]]]:
    """(kind, method, bytes, right codes) of so many requests."""
    seeds = [good_request(method).SerializeToString() for method in METHODS]
    for _ in range(count):
        draw = rng.random()
        if draw < 0.5:
            request = good_request(rng.choice(METHODS))
            mutation = rng.choice(MUTATIONS)
            codes = mutation(rng, request)
            yield mutation.__name__, PREDICT, request.SerializeToString(), codes
        elif draw < 0.55:
            yield "unknown_fields", PREDICT, rng.choice(seeds) + unknown_fields(rng), OK
        elif draw < 0.6:
            yield "odd_tensor", PREDICT, odd_tensor(rng), SANE - OK
        elif draw < 0.95:
            yield "bytes", PREDICT, broken_bytes(rng, rng.choice(seeds), seeds), SANE
        else:
            path = rng.choice([STATUS, METADATA])
            yield "other_methods", path, broken_bytes(rng, rng.choice(seeds), seeds), SANE


def answers(client: SaliencyClient) -> dict[str, dict[str, np.ndarray]]:
    """What the server says to the probe, by method, in full."""
    return {method: client.explain(PROBE, method=method, outputs="all").outputs for method in METHODS}


def campaign(lab: Lab, *, count: int = 100_000, merged: int = 20_000, seed: int = 7) -> Outcome:
    """Send so many requests to a plain server, then so many to one that merges requests."""
    outcome = Outcome("fuzz of requests")
    for name, share, options in (("plain", count, ()), ("batching", merged, ("--batching",))):
        if not share:
            continue
        with lab.server(lab.uncompiled, *options) as server:
            _attack(outcome, name, server, share, random.Random(seed), batching=bool(options))
    return outcome


def _attack(
    outcome: Outcome, name: str, server: ServerProcess, count: int, rng: random.Random, *, batching: bool
) -> None:
    warm_up = count // 2  # the allocator takes a while to have met every size from every thread
    seen: Counter[str] = Counter()
    wrong: list[str] = []
    slowest = 0.0
    warm = 0.0
    under_way: deque = deque()
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    with (
        grpc.insecure_channel(server.target, options) as channel,
        SaliencyClient(server.target, model=MODEL) as client,
    ):
        before = answers(client)
        paths = {path: channel.unary_unary(path) for path in (PREDICT, STATUS, METADATA)}

        def finish() -> None:
            nonlocal slowest
            kind, codes, started, payload, call = under_way.popleft()
            error = call.exception()
            code, details = (Code.OK, "") if error is None else (error.code(), error.details())
            slowest = max(slowest, time.monotonic() - started)
            seen[code.name] += 1
            unparsable = (code, details) == (Code.INTERNAL, UNPARSABLE)
            if code not in codes and not (unparsable and codes >= SANE - OK):
                wrong.append(f"{kind}: {code.name} {details[:200]!r} for {payload[:400]!r}")

        for index, (kind, path, payload, codes) in enumerate(cases(rng, count)):
            if index == warm_up:
                warm = resident_mib(server.process.pid)
            if index % 5000 == 0:
                print(name, index, f"{resident_mib(server.process.pid):.0f} MiB", file=sys.stderr)
            if batching:
                # As in TensorFlow Serving, a request that fails in the graph fails its whole batch.
                codes = codes | SANE | {Code.INTERNAL}
            under_way.append(
                (kind, codes, time.monotonic(), payload, paths[path].future(payload, timeout=DEADLINE))
            )
            if len(under_way) >= UNDER_WAY:
                finish()
        while under_way:
            finish()
        after = answers(client)
        grown = resident_mib(server.process.pid) / warm - 1
    outcome.fact(f"{name}: requests", count)
    outcome.fact(f"{name}: answers", ", ".join(f"{code} {n}" for code, n in seen.most_common()))
    outcome.check(f"{name}: wrong codes", len(wrong), "0", not wrong)
    for line in wrong[:20]:
        print(f"{name}: {line}", file=sys.stderr)
    outcome.check(f"{name}: slowest answer", f"{slowest:.1f} s", f"< {DEADLINE:.0f} s", slowest < DEADLINE)
    alive = server.process.poll() is None
    outcome.check(f"{name}: the server lives", alive, "True", alive)
    equal = all(same(before[method], after[method]) for method in METHODS)
    outcome.check(f"{name}: answers afterwards equal to rounding", equal, "True", equal)
    outcome.check(
        f"{name}: resident memory {warm:.0f} MiB, then",
        f"{grown:+.1%}",
        "≤ +5 %",
        grown <= 0.05 or count < 5000,
    )


if __name__ == "__main__":
    main(campaign)
