"""A pool seen by OpenTelemetry: its counters as metrics, a span for each `map`, guards' lines as log records.

    with GuardPool([guard]) as pool, telemetry.instrument(pool):
        for outcome in pool.map(jobs):
            ...

Needs the extra `guardpool[otel]`. Where the data goes is the program's own choice: the providers' exporters, Prometheus's too.
Names and units are made as the semantic conventions have it: names in singular with dots, counts in `{thing}`, seconds, bytes.
"""

from __future__ import annotations

import contextlib
import logging
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Union

from guardpool.errors import GuardPoolError, HostError
from guardpool.outcomes import Outcome
from guardpool.stats import PoolStats

try:
    from opentelemetry import metrics, trace
    from opentelemetry._logs import LogRecord, SeverityNumber, get_logger
    from opentelemetry.metrics import CallbackOptions, Observation
    from opentelemetry.trace import StatusCode
except ImportError as error:
    raise HostError(f"OpenTelemetry is not here ({error}): run: pip install 'guardpool[otel]'") from error

if TYPE_CHECKING:
    from guardpool.async_pool import AsyncGuardPool
    from guardpool.pool import GuardPool

    AnyPool = Union[GuardPool, AsyncGuardPool]

SCOPE = "guardpool"
GUARD_LOGGER = "guardpool.guard"

_SEVERITIES = (
    (logging.ERROR, SeverityNumber.ERROR),
    (logging.WARNING, SeverityNumber.WARN),
    (logging.INFO, SeverityNumber.INFO),
    (logging.NOTSET, SeverityNumber.DEBUG),
)

_Values = Iterable["tuple[float, dict[str, str]]"]


def instrument(
    pool: AnyPool, *, meter_provider: Any = None, tracer_provider: Any = None, logger_provider: Any = None
) -> Telemetry:
    """Tell OpenTelemetry of a pool, until the result is closed or the pool is gone.

    Args:
        pool: a `GuardPool`, or an `AsyncGuardPool` that was entered.
        meter_provider, tracer_provider, logger_provider: None: the program's global ones.

    Raises:
        HostError: when this module is imported without the extra `guardpool[otel]`.
    """
    return Telemetry(pool, meter_provider, tracer_provider, logger_provider)


class Telemetry:
    """What `instrument` gives: a context manager that ends it.

    Metrics, which do not tell one pool from another (give each a meter provider of its own): `guardpool.job` (by
    `guardpool.job.status`), `guardpool.job.queued`, `guardpool.job.active`, `guardpool.job.duration` (by
    `guardpool.quantile`: over the latest results), `guardpool.worker`, `guardpool.worker.memory.usage`,
    `guardpool.worker.replacement` (by `guardpool.worker.replacement.cause`), `guardpool.backend.question` (by guard, tool and
    `guardpool.backend.answer`), `guardpool.backend.call` (by guard and tool).
    """

    def __init__(self, pool: AnyPool, meter_provider: Any, tracer_provider: Any, logger_provider: Any) -> None:
        self._pool = weakref.ref(pool)  # the program's meters live as long as it does, and must not keep a pool
        self._tracer = trace.get_tracer(SCOPE, tracer_provider=tracer_provider)
        self._guards = sorted(pool.agents)
        self._engine = pool.stats().engine
        self._make_meters(metrics.get_meter(SCOPE, meter_provider=meter_provider))
        self._handler = _LogHandler(get_logger(SCOPE, logger_provider=logger_provider), self._guards)
        logger = logging.getLogger(GUARD_LOGGER)
        logger.addHandler(self._handler)
        weakref.finalize(pool, logger.removeHandler, self._handler)
        pool.observe(self)

    def close(self) -> None:
        """Tell nothing of the pool any more. Closing twice is fine."""
        logging.getLogger(GUARD_LOGGER).removeHandler(self._handler)
        pool = self._pool()
        if pool is not None:
            pool.stop_observing(self)
        self._pool = lambda: None  # type: ignore[assignment]

    def __enter__(self) -> Telemetry:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # --- spans

    def watch(self, outcomes: Iterator[Outcome]) -> Iterator[Outcome]:
        """The outcomes of a `map`, and a span from the first time that it is advanced to its end."""
        with self._span() as statuses, contextlib.closing(outcomes):  # type: ignore[type-var]
            for outcome in outcomes:
                statuses[outcome.status.value] += 1
                yield outcome

    async def watch_async(self, outcomes: AsyncIterator[Outcome]) -> AsyncIterator[Outcome]:
        """`watch` for an `AsyncGuardPool`."""
        async with contextlib.aclosing(outcomes):  # type: ignore[type-var]
            with self._span() as statuses:
                async for outcome in outcomes:
                    statuses[outcome.status.value] += 1
                    yield outcome

    @contextlib.contextmanager
    def _span(self) -> Iterator[Counter[str]]:
        statuses: Counter[str] = Counter()
        span = self._tracer.start_span("guardpool.map")
        span.set_attribute("guardpool.guard.name", self._guards)
        span.set_attribute("guardpool.engine", self._engine)
        try:
            yield statuses
        except GeneratorExit:
            span.set_attribute("guardpool.map.abandoned", True)
            raise
        except BaseException as error:
            span.set_attribute("error.type", type(error).__qualname__)
            span.set_status(StatusCode.ERROR, str(error))
            raise
        finally:
            span.set_attribute("guardpool.job.count", sum(statuses.values()))
            for status, count in statuses.items():
                span.set_attribute(f"guardpool.job.count.{status}", count)
            span.end()

    # --- metrics

    def _make_meters(self, meter: Any) -> None:
        def observe(read: Callable[[PoolStats], _Values]) -> list[Callable[[CallbackOptions], Iterable[Observation]]]:
            def callback(_options: CallbackOptions) -> Iterable[Observation]:
                pool = self._pool()
                try:
                    return [] if pool is None else [Observation(*each) for each in read(pool.stats())]
                except GuardPoolError:  # in a fork
                    return []

            return [callback]

        counter, up_down, gauge = (
            meter.create_observable_counter,
            meter.create_observable_up_down_counter,
            meter.create_observable_gauge,
        )
        counter("guardpool.job", observe(_jobs), "{job}", "Jobs that have their outcome.")
        up_down("guardpool.job.queued", observe(lambda stats: [(stats.queued, {})]), "{job}", "Jobs no worker has yet.")
        up_down("guardpool.job.active", observe(lambda stats: [(stats.in_flight, {})]), "{job}", "Jobs a worker has.")
        gauge("guardpool.job.duration", observe(_durations), "s", "Time in the guard, over the latest results.")
        up_down("guardpool.worker", observe(lambda stats: [(len(stats.workers), {})]), "{worker}", "Workers ready.")
        gauge("guardpool.worker.memory.usage", observe(_memory), "By", "Resident memory of all workers.")
        counter("guardpool.worker.replacement", observe(_replacements), "{worker}", "Workers that were replaced.")
        counter("guardpool.backend.question", observe(_questions), "{question}", "Questions that guards asked.")
        counter("guardpool.backend.call", observe(_calls), "{call}", "Questions that a backend was asked live.")


def _jobs(stats: PoolStats) -> _Values:
    return [(count, {"guardpool.job.status": status}) for status, count in stats.outcomes.items()]


def _durations(stats: PoolStats) -> _Values:
    return [(us / 1e6, {"guardpool.quantile": quantile}) for quantile, us in stats.latency_us.items()]


def _memory(stats: PoolStats) -> _Values:
    return [(sum(worker.rss_bytes for worker in stats.workers), {})]


def _replacements(stats: PoolStats) -> _Values:
    return [(count, {"guardpool.worker.replacement.cause": cause}) for cause, count in stats.respawns.items()]


def _questions(stats: PoolStats) -> _Values:
    for guard, tools in stats.backend.items():
        for tool, counts in tools.items():
            of = {"guardpool.guard.name": guard, "guardpool.tool.name": tool}
            yield counts.answered, {**of, "guardpool.backend.answer": "answered"}
            yield counts.failed, {**of, "guardpool.backend.answer": "failed"}


def _calls(stats: PoolStats) -> _Values:
    for guard, tools in stats.backend.items():
        for tool, counts in tools.items():
            yield counts.live, {"guardpool.guard.name": guard, "guardpool.tool.name": tool}


class _LogHandler(logging.Handler):
    """Passes lines of these guards on as log records that name guard and job."""

    def __init__(self, logger: Any, guards: Sequence[str]) -> None:
        super().__init__()
        self._logger = logger
        self._guards = frozenset(guards)

    def emit(self, record: logging.LogRecord) -> None:
        guard = getattr(record, "guard", None)
        if guard not in self._guards:
            return
        of: dict[str, Any] = {"guardpool.guard.name": guard}
        job_id = getattr(record, "job_id", None)
        if job_id is not None:
            of["guardpool.job.id"] = job_id
        self._logger.emit(
            LogRecord(
                timestamp=int(record.created * 1e9),
                severity_number=next(number for level, number in _SEVERITIES if record.levelno >= level),
                severity_text=record.levelname,
                body=getattr(record, "line", record.getMessage()),
                attributes=of,
            )
        )
