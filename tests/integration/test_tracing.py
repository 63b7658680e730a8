"""Requests are traced through proxy and replica to an OpenTelemetry collector, when that is switched on."""

from __future__ import annotations

import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.server import animator, running

pytestmark = pytest.mark.integration

EXPORTED_S = 30.0
"""OpenTelemetry sends every five seconds."""


class Collector(BaseHTTPRequestHandler):
    """Takes spans over OTLP/HTTP, as a collector's port 4318 does."""

    spans: list[tuple[str, bytes]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.path == "/v1/traces":
            request = ExportTraceServiceRequest.FromString(body)
            for resource in request.resource_spans:
                for scope in resource.scope_spans:
                    self.spans += [(span.name, span.trace_id) for span in scope.spans]
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent."""


@pytest.fixture
def collector() -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    spans: list[tuple[str, bytes]] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Collector,), {"spans": spans}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", spans
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_request_leaves_one_trace_of_proxy_and_gateway(
    collector: tuple[str, list[tuple[str, bytes]]],
) -> None:
    endpoint, spans = collector
    environ = {
        "RAY_SERVE_TRACING_EXPORTER_IMPORT_PATH": "serve_app.tracing:otlp",
        "RAY_SERVE_TRACING_SAMPLING_RATIO": "1.0",
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
    }
    with running({"model": "tracer", "animators": {"tracer": animator()}}, environ=environ) as server:
        urllib.request.urlopen(f"{server.http}/v1/avatars", timeout=10).close()
        deadline_s = time.monotonic() + EXPORTED_S
        while not _through_both(spans):
            assert time.monotonic() < deadline_s, sorted({name for name, _ in spans})
            time.sleep(0.5)


def _through_both(spans: list[tuple[str, bytes]]) -> set[bytes]:
    """Return the traces that have a span of the proxy and one of the gateway's replica."""
    proxied = {trace for name, trace in spans if name.startswith("proxy_http_request")}
    served = {trace for name, trace in spans if name.startswith("replica_handle_request Gateway")}
    return proxied & served
