"""OpenTelemetry's own gRPC instrumentation over both clients."""

from __future__ import annotations

import grpc
import numpy as np
import pytest
from scripted_server import LinearModel

from saliency_client import InvalidArgument, RetryPolicy

pytest.importorskip("opentelemetry.sdk")
instrumentation = pytest.importorskip("opentelemetry.instrumentation.grpc")

from opentelemetry import trace  # noqa: E402
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider  # noqa: E402
from opentelemetry.sdk.trace.export import SimpleSpanProcessor  # noqa: E402
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter  # noqa: E402
from opentelemetry.trace import StatusCode  # noqa: E402

IMAGES = np.zeros((1, LinearModel.height, LinearModel.width, 3), np.uint8)
PREDICT = "/tensorflow.serving.PredictionService/Predict"


@pytest.fixture(scope="module")
def exporter():
    """Receives the spans of the process: the synchronous instrumentation knows no other provider."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


@pytest.fixture
def spans(exporter):
    """The spans of this test's Predict calls, in the order of their ends."""
    exporter.clear()
    instrumentors = [instrumentation.GrpcInstrumentorClient(), instrumentation.GrpcAioInstrumentorClient()]
    for one in instrumentors:
        one.instrument()
    yield lambda: [span for span in exporter.get_finished_spans() if span.name == PREDICT]
    for one in instrumentors:
        one.uninstrument()


def status(span: ReadableSpan) -> int:
    return span.attributes["rpc.grpc.status_code"]


def test_every_attempt_is_a_span_whose_trace_the_server_sees(spans, server, connect):
    server.fail(grpc.StatusCode.UNAVAILABLE, "going away")
    connect(server, retry=RetryPolicy(initial_backoff=0.01)).explain(IMAGES)

    failed, answered = spans()

    assert failed.status.status_code is StatusCode.ERROR
    assert status(answered) == 0
    sent = [metadata["traceparent"].split("-")[2] for metadata in server.metadata]
    assert sent == [f"{span.context.span_id:016x}" for span in (failed, answered)]


def test_a_refused_call_is_a_span_with_its_error(spans, server, connect):
    with pytest.raises(InvalidArgument):
        connect(server).explain(IMAGES, class_index=99)

    (span,) = spans()
    assert span.status.status_code is StatusCode.ERROR


def test_the_requests_of_explain_many_are_spans_too(spans, server, connect):
    results = list(connect(server).explain_many(np.repeat(IMAGES, 3, axis=0), batch_size=1))

    assert [result.error for result in results] == [None] * 3
    assert len(spans()) == 3
