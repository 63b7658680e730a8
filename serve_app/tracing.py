"""Where Serve's request traces go: an OpenTelemetry collector.

Serve makes the spans (proxy, router, replica) and loads what exports them by a path. In variables of every
node it traces all of them:

    RAY_SERVE_TRACING_EXPORTER_IMPORT_PATH=serve_app.tracing:otlp
    RAY_SERVE_TRACING_SAMPLING_RATIO=0.01

In a file's `tracing_config` it reaches the proxies too late: Serve 2.60 starts them before it reads the file.
The collector's address and headers are those of OpenTelemetry's own variables, OTEL_EXPORTER_OTLP_ENDPOINT
and its like. A WebSocket is one request, so its span ends with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from serve_app.errors import AvatarError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor

EXTRA = "tracing"


def otlp() -> list[SpanProcessor]:
    """Return what sends spans in batches over OTLP/HTTP; Serve calls it in each of its processes.

    Raises:
        AvatarError: the extra `tracing` is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise AvatarError(
            f"expected OpenTelemetry's OTLP exporter, found none; install serve-app[{EXTRA}]"
        ) from error
    return [BatchSpanProcessor(OTLPSpanExporter())]
