import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from common.errors import ConfigError
from gateway.window.otlp import Otlp
from gateway.window.spans import Span
from tests.gateway.bench import COMPLETION, Bench, Client, say
from tests.gateway.happenings import mesh_state, said, story
from tests.gateway.window.test_watching import arrived

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
WHY = "OpenTelemetry is not installed"


class Collector(HTTPServer):
    """Keeps the spans that it gets."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Receiver)
        self.paths: list[str] = []
        self.bodies: list[bytes] = []

    def spans(self) -> dict:
        module = "opentelemetry.proto.collector.trace.v1.trace_service_pb2"
        kind = pytest.importorskip(module, reason=WHY).ExportTraceServiceRequest
        found = {}
        for body in self.bodies:
            for resource in kind.FromString(body).resource_spans:
                for scope in resource.scope_spans:
                    found |= {span.name: span for span in scope.spans}
        return found


class Receiver(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.paths.append(self.path)
        self.server.bodies.append(body)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def collecting() -> Iterator[Collector]:
    with Collector() as collector:
        thread = Thread(target=collector.serve_forever)
        thread.start()
        try:
            yield collector
        finally:
            collector.shutdown()
            thread.join()


def spans() -> Span:
    inside = Span("chunk", 100.25, 100.5, {"tetris.sp": 4}, [Span("balance", 100.25, 100.3, {})])
    return Span("request", 100.0, 101.0, {"tetris.outcome": "error"}, [inside], failed=True)


def test_spans_come_to_the_collector_below_the_clients_own() -> None:
    pytest.importorskip("opentelemetry.sdk", reason=WHY)
    with collecting() as collector:
        otlp = Otlp(f"http://127.0.0.1:{collector.server_port}/", "gateway-0")
        otlp.export(spans(), PARENT)
        otlp.close()
        found = collector.spans()
    assert set(collector.paths) == {"/v1/traces"}
    request, chunk, balance = found["request"], found["chunk"], found["balance"]
    assert {span.trace_id.hex() for span in found.values()} == {PARENT.split("-")[1]}
    assert request.parent_span_id.hex() == PARENT.split("-")[2]
    assert chunk.parent_span_id == request.span_id
    assert balance.parent_span_id == chunk.span_id
    assert (chunk.start_time_unix_nano, chunk.end_time_unix_nano) == (
        100_250_000_000,
        100_500_000_000,
    )
    assert {entry.key: entry.value.int_value for entry in chunk.attributes} == {"tetris.sp": 4}
    assert request.status.code == 2
    assert chunk.status.code == 0


def test_a_request_without_a_trace_begins_one() -> None:
    pytest.importorskip("opentelemetry.sdk", reason=WHY)
    with collecting() as collector:
        otlp = Otlp(f"http://127.0.0.1:{collector.server_port}", "gateway-0")
        otlp.export(spans(), None)
        otlp.close()
        found = collector.spans()
    assert not found["request"].parent_span_id
    assert len({span.trace_id for span in found.values()}) == 1


def test_a_collector_that_is_not_there_holds_nobody_up() -> None:
    pytest.importorskip("opentelemetry.sdk", reason=WHY)
    with collecting() as collector:
        url = f"http://127.0.0.1:{collector.server_port}"
    otlp = Otlp(url, "gateway-0")
    for _ in range(10_000):  # more than are kept
        otlp.export(Span("request", 100.0, 101.0, {}), None)
    otlp.close()
    assert collector.bodies == []


def test_without_the_package_the_start_fails_saying_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [name for name in sys.modules if name.startswith("opentelemetry")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(ConfigError, match=r"gateway.otlp: .*pip install 'tetris-serve\[otlp\]'"):
        Otlp("http://127.0.0.1:4318", "gateway-0")


@pytest.mark.parametrize("url", ["localhost:4318", "ftp://x", "grpc://x:4317"])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"gateway\.otlp: a URL"):
        Otlp(url, "gateway-0")


def test_a_gateway_exports_its_requests_when_it_is_told_to(bench: Bench) -> None:
    pytest.importorskip("opentelemetry.sdk", reason=WHY)

    async def scenario(client: Client) -> None:
        status, *_ = await client.post("/v1/completions", COMPLETION, traceparent=PARENT)
        assert status == 200
        name = client.mesh.submits[0].request
        await arrived(client, said(0, *story(name, 1.0), mesh_state(2.0)))

    with collecting() as collector:
        bench(say("hello", "length"), scenario, otlp=f"http://127.0.0.1:{collector.server_port}")
        found = collector.spans()
    assert set(found) == {"request", "chunk", "balance", "transfer", "decode"}
    assert {span.trace_id.hex() for span in found.values()} == {PARENT.split("-")[1]}
