"""What operators see: metrics of Prometheus, and spans of OpenTelemetry where its API is installed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from .. import timing

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """Metrics of one application, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = r = CollectorRegistry()
        self.requests = Counter("rdeic_rt_requests", "Requests answered.", ("route", "code"), registry=r)
        self.seconds = Histogram(
            "rdeic_rt_stage_seconds", "Wall time of a stage.", ("route", "stage"), buckets=_SECONDS, registry=r
        )
        self.queue = Gauge("rdeic_rt_queue_length", "Requests that wait for a worker.", registry=r)
        self.working = Gauge("rdeic_rt_working", "Requests that a worker is doing.", registry=r)
        self.pixels = Counter("rdeic_rt_pixels", "Pixels decoded or encoded.", ("route",), registry=r)
        self.bytes_in = Counter("rdeic_rt_received_bytes", "Bytes of request bodies.", ("route",), registry=r)
        self.bytes_out = Counter("rdeic_rt_sent_bytes", "Bytes of images and files sent.", ("route",), registry=r)
        self.device_bytes = Gauge(
            "rdeic_rt_device_peak_bytes", "Peak of device memory; GPU backends.", ("bundle",), registry=r
        )


@contextlib.contextmanager
def span(name: str, attributes: dict[str, Any]) -> Iterator[timing.StageTimes]:
    """Collect stage times of the block, and let a span of it and one a stage be exported.

    Without OpenTelemetry's API, or its SDK, there are no spans.
    """
    tracer = _tracer()
    with contextlib.ExitStack() as stack:
        if tracer is not None:
            stack.enter_context(tracer.start_as_current_span(name, attributes=attributes))
        times = stack.enter_context(timing.collect(around=None if tracer is None else tracer.start_as_current_span))
        yield times


def _tracer() -> Any:
    try:
        from opentelemetry import trace
    except ImportError:
        return None
    return trace.get_tracer("rdeic_rt")


def server_timing(times: timing.StageTimes) -> str:
    """Return the value of a ``Server-Timing`` header: a field a stage, in ms."""
    return ", ".join(f"{name};dur={ms:.1f}" for name, ms in times.total_ms().items())
