"""A pool seen by OpenTelemetry: read by its in-memory exporters, and by a real scrape of Prometheus's."""

from __future__ import annotations

import asyncio
import re
import urllib.request
from collections.abc import Iterator
from typing import Any

import prometheus_client
import pytest
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from guardpool import AsyncGuardPool, GuardPool, Limits, telemetry
from poolkit import WAIT_S, guard, job, jobs, pool


class Seen:
    """Providers whose exporters keep everything in memory."""

    def __init__(self) -> None:
        self.metric_reader = InMemoryMetricReader()
        self.spans, self.logs = InMemorySpanExporter(), InMemoryLogRecordExporter()
        self.meters = MeterProvider([self.metric_reader])
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.spans))
        self.loggers = LoggerProvider()
        self.loggers.add_log_record_processor(SimpleLogRecordProcessor(self.logs))

    def of(self, of_pool: GuardPool | AsyncGuardPool) -> telemetry.Telemetry:
        return telemetry.instrument(
            of_pool, meter_provider=self.meters, tracer_provider=self.tracers, logger_provider=self.loggers
        )

    def metrics(self) -> dict[str, dict[tuple[str, ...], Any]]:
        """Values by metric and by the values of its attributes."""
        data = self.metric_reader.get_metrics_data()
        found: dict[str, dict[tuple[str, ...], Any]] = {}
        for resource in data.resource_metrics if data is not None else ():
            for scope in resource.scope_metrics:
                assert scope.scope.name == "guardpool"
                for metric in scope.metrics:
                    found[metric.name] = {
                        tuple(str(value) for _, value in sorted(point.attributes.items())): point.value
                        for point in metric.data.data_points
                    }
        return found

    def close(self) -> None:
        for provider in (self.meters, self.tracers, self.loggers):
            provider.shutdown()


@pytest.fixture
def seen() -> Iterator[Seen]:
    made = Seen()
    yield made
    made.close()


def test_counters_of_a_pool_are_metrics(seen: Seen) -> None:
    with pool(guard(backend=lambda tool, args: True), workers=1) as p, seen.of(p):
        assert len(list(p.map(jobs(100, {7: "t", 9: "b"})))) == 100
        found = seen.metrics()
        stats = p.stats()
    assert found["guardpool.job"] == {("ok",): 99, ("trap",): 1}
    assert found["guardpool.worker.replacement"] == {("trap",): 1}
    assert found["guardpool.worker"] == {(): 1}
    assert (found["guardpool.job.queued"], found["guardpool.job.active"]) == ({(): 0}, {(): 0})
    assert found["guardpool.job.duration"] == {(name,): us / 1e6 for name, us in stats.latency_us.items()}
    assert sum(found["guardpool.backend.question"].values()) == 1
    assert sum(found["guardpool.backend.call"].values()) == 1
    assert {key[0] for key in found["guardpool.backend.call"]} == {"vicious"}


def test_what_is_closed_or_gone_is_not_told_of(seen: Seen) -> None:
    with pool(workers=1) as p:
        told = seen.of(p)
        told.close()
        told.close()
        assert list(p.map(jobs(3)))
        assert seen.metrics() == {}
        assert seen.spans.get_finished_spans() == ()
        assert p.submit(job(1, "f")).result(WAIT_S).status == "ok"
    assert seen.logs.get_finished_logs() == ()


def test_each_map_is_a_span_with_what_came_of_it(seen: Seen) -> None:
    def failing() -> Iterator[Any]:
        yield from jobs(5)
        raise KeyError("no more")

    with pool() as p, seen.of(p):
        assert seen.spans.get_finished_spans() == ()
        list(p.map(jobs(50, {3: "t"})))
        with pytest.raises(KeyError):
            list(p.map(failing()))
        outcomes = p.map(jobs(1000))
        next(outcomes)
        outcomes.close()  # type: ignore[attr-defined]
    whole, failed, left = seen.spans.get_finished_spans()
    assert {span.name for span in (whole, failed, left)} == {"guardpool.map"}
    assert dict(whole.attributes or {}) == {
        "guardpool.guard.name": ("vicious",),
        "guardpool.engine": p.stats().engine,
        "guardpool.job.count": 50,
        "guardpool.job.count.ok": 49,
        "guardpool.job.count.trap": 1,
    }
    assert (failed.status.status_code, (failed.attributes or {})["error.type"]) == (StatusCode.ERROR, "KeyError")
    assert (failed.attributes or {})["guardpool.job.count"] == 5
    assert (left.attributes or {})["guardpool.map.abandoned"] is True


def test_lines_of_guards_are_records_that_name_guard_and_job(seen: Seen) -> None:
    with pool(workers=1, limits=Limits(timeout_s=WAIT_S, max_log_bytes=500)) as p, seen.of(p):
        assert p.submit(job(41, "f")).result(WAIT_S).status == "ok"
        p.flush_logs()
    records = [each.log_record for each in seen.logs.get_finished_logs()]
    assert records
    for record in records:
        assert dict(record.attributes or {}) == {"guardpool.guard.name": "vicious", "guardpool.job.id": 41}
        assert "vicious" not in str(record.body)


def test_a_pool_of_an_event_loop_is_told_of_as_well(seen: Seen) -> None:
    async def work() -> None:
        async with AsyncGuardPool([guard()], workers=1) as p:
            with seen.of(p):
                assert [outcome.status async for outcome in p.map(jobs(20))] == ["ok"] * 20
                assert seen.metrics()["guardpool.job"] == {("ok",): 20}

    asyncio.run(work())
    (span,) = seen.spans.get_finished_spans()
    assert (span.attributes or {})["guardpool.job.count"] == 20


def test_prometheus_scrapes_it() -> None:
    reader = PrometheusMetricReader()
    meters = MeterProvider([reader])
    server, thread = prometheus_client.start_http_server(0, addr="127.0.0.1")
    try:
        with pool(workers=1) as p, telemetry.instrument(p, meter_provider=meters):
            assert len(list(p.map(jobs(30)))) == 30
            with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/metrics", timeout=WAIT_S) as answer:
                text = answer.read().decode()
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        meters.shutdown()
    assert re.search(r'^guardpool_job_total\{.*guardpool_job_status="ok".*\} 30\.0$', text, re.MULTILINE), text
    assert re.search(r"^guardpool_worker_memory_usage_bytes\{.*\} \d", text, re.MULTILINE)
    assert re.search(r'^guardpool_job_duration_seconds\{.*guardpool_quantile="p50".*\} ', text, re.MULTILINE)
