"""The pool of guards: the public face of the supervisor."""

from __future__ import annotations

import hashlib
import os
import weakref
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from itertools import islice
from types import MappingProxyType, TracebackType
from typing import Any, NamedTuple, NoReturn, Protocol

import msgspec

from guardpool.artifacts.cache import ModuleCache
from guardpool.errors import CallerError, InvalidJob, LimitsError, PolicyError, check_kind
from guardpool.guard import Guard
from guardpool.jobs import Job, Op, Prepared
from guardpool.labels import AgentLabels
from guardpool.limits import Limits
from guardpool.machine import capacity
from guardpool.machine.engines import choose_engine
from guardpool.machine.requirements import check_process
from guardpool.outcomes import Outcome
from guardpool.protocol import control
from guardpool.protocol.wire import MAX_GUARDS
from guardpool.sizes import MIB, PAGE_BYTES, ROOM_BYTES
from guardpool.stats import PoolStats
from guardpool.submit.calls import Calls
from guardpool.submit.intake import AnyJob, Intake, not_a_job
from guardpool.submit.stream import WINDOW_JOBS, Ahead, Bell, JobStream
from guardpool.supervise.thread import SupervisorThread
from guardpool.supervise.witness import Witness

__all__ = ["GuardPool", "JobStream", "Prepared"]

# The contract's limit for the input of any call; label_agent's is the policy, and no limit of the pool's bears on it.
MAX_POLICY_BYTES = 8 * MIB

_LOG_LEVELS = {"debug": 0, "info": 1, "warning": 2, "error": 3, "off": 4}
ISOLATIONS = ("none", "job")
_SANDBOX_MODES = ("auto", "require", "off")
# `map` looks for outcomes after this many jobs of its input, or about this many bytes; the first time, when it does not know
# yet how large jobs are, after a few.
_MAP_SLICE = 256
_MAP_SLICE_BYTES = MIB
_MAP_FIRST_SLICE = 16
_JOB_TYPES = {Job, dict}

# What all random bytes of deterministic pools follow from. Another one changes the labels of every guard that draws any.
_SEED = b"guardpool 1"


class Observer(Protocol):
    """Sees what comes of each `map`."""

    def watch(self, outcomes: Iterator[Outcome]) -> Iterator[Outcome]:
        """The same outcomes, seen as they are taken."""

    def watch_async(self, outcomes: AsyncIterator[Outcome]) -> AsyncIterator[Outcome]:
        """`watch` for an `AsyncGuardPool`."""


_LONGEST_WAIT_S = 1e9  # locks take no more than ten times that

NOT_PICKLED = (
    "a pool can be neither copied nor sent to another process, because its workers belong to this one: send the guards, "
    "and make a pool of them there"
)


class GuardPool:
    """Guards in supervised worker processes.

    Making a pool checks every module and policy, compiles what is not in the cache, starts the workers and returns when
    all of them are ready. Every method may be called from any thread. Use it as a context manager: leaving the block
    closes the pool, leaving it by an exception kills it.

    Args:
        guards: one or more, with names that differ.
        workers: how many processes; None: as many as this process may use cores, by its affinity and the quota of its
            container, and as have room with `max_rss_bytes` each in the memory of the machine and of the container.
        limits: see `Limits`.
        sandbox: `"auto"` takes what the kernel has, `"require"` fails without all of it, `"off"` is for debugging.
        cache: where compiled guards are kept; None: the user's cache.
        log_level: guards' messages below it are dropped inside the guard's process: `"debug"`, `"info"`, `"warning"`,
            `"error"` or `"off"`. The rest goes to the logger `guardpool.guard.NAME`, as `guard NAME, job ID: TEXT`. A line that
            a guard logged in the last 10 s, in whatever job, is counted, and told with the count: `TEXT (19,999 times more)`.
        engine: the WebAssembly engine: `"wasmtime"`, `"wasmer"` (CPython 3.10 only) or `"auto"`, which is wasmer on
            CPython 3.10 and wasmtime elsewhere, and the other one if that cannot be used.
        isolation: `"none"`: a worker's instance of a guard lives on, and what a job leaves in it the next one finds, as in the
            gateway; `"job"`: each job runs on a copy of the guard as it was after `label_agent`, so that no job sees what
            another left behind, and none finds what the guard would have kept for it. A copy takes some 20 us; more after a
            job that made the guard's memory grow, or if the guard changes its tables.
        deterministic: guards get random bytes that follow from the guard and the job (operation and input), and clocks that
            begin at `Job.time`, else 0, and are 1 us later at each reading; `label_agent` begins at 0. So a job is told the
            same in every worker, order and run, on either engine. What still differs: what jobs before left in the guard,
            answers of backends that are asked live, and which jobs pass a limit of time or of a worker's memory.
        witness: is told which worker labelled what, and how the worker ended; for `guardpool.batch`, which keeps labels.

    Attributes:
        workers, limits, engine, isolation: what holds in this pool, also where the caller left it open.

    Raises:
        EngineMissing: the engine cannot be used in this Python; the message names the command to type.
        EngineUnknown: `engine` is another word.
        ModuleError, PolicyError, GuardInitError, CompileError: a guard cannot be used.
        CallerError, LimitsError: an argument cannot be used.
        SandboxUnavailable, HostError: the machine lacks something.
    """

    def __init__(
        self,
        guards: Sequence[Guard],
        *,
        workers: int | None = None,
        limits: Limits | None = None,
        sandbox: str = "auto",
        cache: ModuleCache | str | os.PathLike[str] | None = None,
        log_level: str = "warning",
        engine: str = "auto",
        isolation: str = "none",
        deterministic: bool = False,
        witness: Witness | None = None,
    ) -> None:
        check_process()
        guards = checked_guards(guards)
        limits = Limits() if limits is None else limits
        check_kind("limits", limits, Limits, "Limits(...)")
        if not (cache is None or isinstance(cache, (ModuleCache, str, os.PathLike))):
            raise CallerError(f"cache must be a ModuleCache or a path, not {type(cache).__name__}")
        workers = _checked_workers(workers, limits)
        if sandbox not in _SANDBOX_MODES:
            raise CallerError(f"sandbox must be one of {', '.join(_SANDBOX_MODES)}, not {sandbox!r}")
        if log_level not in _LOG_LEVELS:
            raise CallerError(f"log_level must be one of {', '.join(_LOG_LEVELS)}, not {log_level!r}")
        if isolation not in ISOLATIONS:
            raise CallerError(f"isolation must be one of {', '.join(ISOLATIONS)}, not {isolation!r}")
        if not isinstance(deterministic, bool):
            raise CallerError(f"deterministic must be True or False, not {deterministic!r}")
        choice = choose_engine(engine)
        if not isinstance(cache, ModuleCache):
            cache = ModuleCache(cache)
        setup = _setup(guards, limits, cache, sandbox, _LOG_LEVELS[log_level], choice.name, isolation, deterministic)
        setup = msgspec.structs.replace(setup, tells_replies=witness is not None)
        self._supervisor = SupervisorThread(setup, guards, workers, limits, choice.version, witness)
        names = [guard.name for guard in guards]
        supervisor = self._supervisor
        self._inbox = supervisor.inbox
        self._intake = Intake(names, limits.max_input_bytes, passes_time=deterministic)
        self._calls = Calls(self._inbox, self._intake, supervisor.notifier)
        self._observer: Observer | None = None
        self.limits = limits
        self.workers = workers
        self.engine = choice.name
        self.isolation = isolation
        # Runs when the pool is collected and when the interpreter exits: no process outlives its pool.
        self._finalizer = weakref.finalize(self, _kill_in, os.getpid(), self._supervisor)
        try:
            self._supervisor.start()
        except BaseException:
            self._finalizer.detach()
            raise
        self._agents = MappingProxyType(dict(zip(names, self._supervisor.agents)))

    def __reduce__(self) -> NoReturn:
        raise TypeError(NOT_PICKLED)

    # --- facts

    @property
    def agents(self) -> Mapping[str, AgentLabels]:
        """What each guard's `label_agent` answered, by name."""
        return self._agents

    def stats(self) -> PoolStats:
        """Counters, latency, workers and the sandbox in force, at this moment. Raises `PoolClosed` in a fork of the process
        that made the pool."""
        self._inbox.check_process()
        return self._supervisor.stats()

    def flush_logs(self, timeout_s: float = 5.0) -> None:
        """Pass on what guards logged so far, also how often lines came again.

        Args:
            timeout_s: how long to wait for the log handlers, at most. In a fork nothing happens.
        """
        if not self._inbox.is_foreign:
            self._supervisor.notifier.flush_logs(_checked_wait(timeout_s))

    def observe(self, observer: Observer) -> None:
        """Have the outcomes of every later `map` pass through an observer, such as one of `guardpool.telemetry`."""
        self._observer = observer

    def stop_observing(self, observer: Observer) -> None:
        """End that, unless another one took its place."""
        if self._observer is observer:
            self._observer = None

    # --- jobs

    def label_resource(
        self, tool_name: str, tool_args: Any = None, *, capabilities: Any = None, guard: str | None = None
    ) -> Outcome:
        """Label one tool call before it is made; waits for the outcome.

        Raises:
            PoolClosed, PoolBroken: no job can be taken. Everything else is in the outcome.
        """
        return self._calls.call(Job(None, Op.LABEL_RESOURCE.value, tool_name, tool_args, None, capabilities, guard))

    def label_response(
        self,
        tool_name: str,
        tool_result: Any,
        *,
        tool_args: Any = None,
        capabilities: Any = None,
        guard: str | None = None,
    ) -> Outcome:
        """Label what a tool answered; waits for the outcome. Raises as `label_resource`."""
        return self._calls.call(
            Job(None, Op.LABEL_RESPONSE.value, tool_name, tool_args, tool_result, capabilities, guard)
        )

    def submit(self, job: AnyJob) -> Future[Outcome]:
        """Queue one job, a `Job` or a dict with the keys of a job line. Its future always gets an outcome, never an exception,
        unless the pool breaks or is killed at that very moment. All callbacks run one after the other on one thread.

        Raises:
            InvalidJob: it is neither a `Job` nor a dict.
            PoolClosed, PoolBroken: no job can be taken.
        """
        return self._calls.submit(job)

    def map(self, jobs: Iterable[AnyJob], ordered: bool = True) -> Iterator[Outcome]:
        """Label jobs lazily: the input is read as fast as outcomes are taken, and no faster.

        Args:
            jobs: any iterable; it is advanced in the caller's thread only. A job is a `Job`, or a dict with the keys of a job
                line; without `id` a dict has its index as one, and a dict that is not a job is `rejected`.
            ordered: outcomes in the order of the jobs, or as they come.

        Returns:
            An iterator with exactly one outcome for each job. Closing it, or an exception while it is advanced (Ctrl-C
            included), drops what no worker has begun; the pool stays usable. An exception of `jobs` comes out of it after
            the outcomes of the jobs before it.

        Raises:
            PoolClosed: the pool was closed, at once or while the iterator was advanced.
            PoolBroken: the pool gave up; after every outcome.
            InvalidJob: `jobs` is one job, or text; or one of them is neither a `Job` nor a dict, after the outcomes of the
                jobs before it.
        """
        if isinstance(jobs, (Job, Mapping, str, bytes)):
            raise InvalidJob(f"map takes jobs, e.g. pool.map([job]); not one {type(jobs).__name__}")
        if not isinstance(jobs, Iterable):
            raise InvalidJob(f"map takes an iterable of jobs, e.g. pool.map([job]); not {type(jobs).__name__}")
        self._inbox.check_open()
        outcomes = self._map(iter(jobs), self.stream(ordered))
        return outcomes if self._observer is None else self._observer.watch(outcomes)

    def stream(
        self,
        ordered: bool = True,
        *,
        window_jobs: int = WINDOW_JOBS,
        room_bell: Bell | None = None,
        ready_bell: Bell | None = None,
    ) -> JobStream:
        """A stream for jobs that are encoded already, with `put` and `take` on threads of the caller's.

        Args:
            ordered: outcomes in the order of the jobs, or as they come.
            window_jobs: how many jobs may be between the two.
            room_bell, ready_bell: what wakes a waiting caller that is not a thread, such as an event loop.
        """
        self._inbox.check_open()
        return JobStream(
            self._inbox,
            self._intake,
            ordered=ordered,
            window_jobs=window_jobs,
            ahead=Ahead.of(self.workers),
            room_bell=room_bell,
            ready_bell=ready_bell,
        )

    def known_reply(self, guard: int, tool: str, args: bytes) -> bytes | None:
        """What a guard would be told without a call of its backend; None if that is not known, or that there is no answer.

        Args:
            guard: its index.
            tool, args: the question; the arguments canonical, as JSON.
        """
        return self._supervisor.known_reply(guard, tool, args)

    def ask(self, guard: int, tool: str, args: bytes, told: Callable[[bytes | None], None]) -> None:
        """Ask a guard's backend as if the guard had asked; arguments as for `known_reply`.

        Args:
            told: called with the reply as JSON, or None if there is none, on the supervisor's thread; never, if the backend
                does not answer.
        """
        self._inbox.ask(guard, tool, args, told)

    def _map(self, jobs: Iterator[AnyJob], stream: JobStream) -> Iterator[Outcome]:
        put, most = 0, _MAP_FIRST_SLICE
        failure: Exception | None = None
        finished = False
        try:
            while True:
                if not finished and stream.room > 0:
                    part: list[AnyJob] = []
                    try:
                        part.extend(islice(jobs, min(most, stream.room)))
                    except Exception as error:
                        failure = error
                    if not set(map(type, part)) <= _JOB_TYPES:
                        part, failure = _up_to_a_stranger(part, put, failure)
                    if part:
                        size = stream.send(*self._intake.tasks_of(part, stream, put))
                        most = min(_MAP_SLICE, 1 + len(part) * _MAP_SLICE_BYTES // (size + 1))
                        put += len(part)
                    if not part or failure is not None:
                        stream.finish()
                        finished = True
                    if not stream.ready:
                        continue
                outcomes = stream.take()
                if not outcomes:
                    break
                yield from outcomes
        finally:
            stream.close()
        if failure is not None:
            raise failure

    # --- the end

    def close(self, timeout_s: float | None = None) -> bool:
        """Finish the jobs that were handed in, then end the workers.

        Args:
            timeout_s: past it what is left gets a `cancelled` outcome; None, or infinity: as long as it takes.

        Returns:
            Whether all was finished in time. Closing twice is fine. In a fork of the process that made the pool nothing
            happens, and it is False: the pool is the other process's.

        Raises:
            CallerError: `timeout_s` is not a number.
        """
        if self._inbox.is_foreign:
            return False
        in_time = self._supervisor.close(None if timeout_s is None else _checked_wait(timeout_s))
        self._finalizer.detach()
        return in_time

    def kill(self) -> None:
        """End the workers now; every job without an outcome gets a `cancelled` one. In a fork nothing happens."""
        if self._inbox.is_foreign:
            return
        self._supervisor.kill()
        self._finalizer.detach()

    def __enter__(self) -> GuardPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.kill()


def _up_to_a_stranger(
    part: list[AnyJob], first: int, failure: Exception | None
) -> tuple[list[AnyJob], Exception | None]:
    """The jobs before the first value that is not a job, and what is to be raised after their outcomes."""
    for at, job in enumerate(part):
        if not isinstance(job, (Job, Mapping)):
            return part[:at], InvalidJob(f"job {first + at} of the input: {not_a_job(job)}")
    return part, failure


def _kill_in(pid: int, supervisor: SupervisorThread) -> None:
    # A fork of the caller inherits the finalizer, but not the thread and not the right to end anything.
    if os.getpid() == pid:
        supervisor.kill()


def checked_guards(guards: Sequence[Guard]) -> list[Guard]:
    """The guards of a pool. Raises `CallerError` if a pool cannot have them."""
    if isinstance(guards, Guard):
        raise CallerError("guards must be a sequence of Guard, e.g. GuardPool([guard])")
    if not isinstance(guards, Iterable):
        raise CallerError(f"guards must be a sequence of Guard, e.g. GuardPool([guard]), not {type(guards).__name__}")
    checked = list(guards)
    if not checked:
        raise CallerError("a pool needs at least one guard")
    if len(checked) > MAX_GUARDS:
        raise CallerError(f"a pool takes {MAX_GUARDS} guards at most, not {len(checked)}: use several pools")
    names: set[str] = set()
    for guard in checked:
        if not isinstance(guard, Guard):
            raise CallerError(f"guards must be Guard objects, not {type(guard).__name__}")
        if guard.name in names:
            raise CallerError(f"two guards are called {guard.name!r}: names must differ")
        names.add(guard.name)
    return checked


def _checked_wait(timeout_s: float) -> float:
    """How long to wait, as locks take it."""
    if isinstance(timeout_s, bool) or not isinstance(timeout_s, (int, float)) or timeout_s != timeout_s:
        raise CallerError(f"timeout_s must be a number of seconds, not {timeout_s!r}")
    return min(max(0.0, timeout_s), _LONGEST_WAIT_S)


def _seed_of(guard: Guard) -> bytes:
    """What the random bytes of a guard are made of: its name and its module, the same for either engine."""
    module = hashlib.sha256(guard.wasm).digest()
    return hashlib.blake2b(guard.name.encode() + b"\0" + module, key=_SEED, digest_size=32).digest()


def _checked_workers(workers: int | None, limits: Limits) -> int:
    total = capacity.memory_bytes()
    # What workers may use together: each its cap. A guard cannot use more linear memory than that.
    fit = max(1, int(total // limits.max_rss_bytes))
    if workers is None:
        return max(1, min(capacity.cores(), fit))
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise LimitsError(f"workers must be a whole number from 1, not {workers!r}")
    if workers > fit:
        raise LimitsError(
            f"{workers} workers of max_rss_bytes {limits.max_rss_bytes} may need {workers * limits.max_rss_bytes} bytes; "
            f"this machine, or the container, has {total}: ask for at most {fit} workers or lower max_rss_bytes"
        )
    return workers


class _Module(NamedTuple):
    """A guard's module, compiled, with its pages of memory at first and at most; and, if jobs are isolated, with the globals
    that are put back after each."""

    artifact: bytes
    first_pages: int
    pages: int
    settable_globals: list[str] | None


def _policy_of(guard: Guard) -> bytes:
    """The policy as `label_agent` gets it. Raises PolicyError if it gets none."""
    from guardpool.contract import check_policy

    try:
        policy = check_policy(guard.policy, guard.trusted_bots, guard.trusted_users)
    except PolicyError as error:
        raise PolicyError(f"guard {guard.name!r}: {error}") from error
    payload = msgspec.json.encode(policy)
    if len(payload) > MAX_POLICY_BYTES:
        raise PolicyError(f"guard {guard.name!r}: the policy is {len(payload)} bytes as JSON, over {MAX_POLICY_BYTES}")
    return payload


def _module_of(guard: Guard, limits: Limits, cache: ModuleCache, engine: str, isolation: str) -> _Module:
    """Raises what `GuardPool` raises of a module that cannot be used."""
    from guardpool.module.kept_state import settable_globals
    from guardpool.wasm import read_memory

    artifact = cache.get_or_compile(guard.wasm, limits.memory_pages, guard=guard.name, engine=engine)
    memory = read_memory(guard.wasm)
    assert memory is not None  # what has none was refused
    pages = limits.memory_pages if memory.maximum is None else min(memory.maximum, limits.memory_pages)
    names = settable_globals(guard.wasm) if isolation == "job" else None
    return _Module(artifact, memory.minimum, pages, None if names is None else list(names))


def _setup(
    guards: list[Guard],
    limits: Limits,
    cache: ModuleCache,
    sandbox: str,
    threshold: int,
    engine: str,
    isolation: str,
    deterministic: bool,
) -> control.Setup:
    payloads = [_policy_of(guard) for guard in guards]  # all policies before anything is compiled
    modules: dict[bytes, _Module] = {}  # guards may share one
    for guard in guards:
        if guard.wasm not in modules:
            modules[guard.wasm] = _module_of(guard, limits, cache, engine, isolation)
    by_guard = [modules[guard.wasm] for guard in guards]
    places = {wasm: place for place, wasm in enumerate(modules)}
    checked = [
        control.GuardSetup(
            guard.name,
            places[guard.wasm],
            payload,
            guard.backend is not None,
            module.pages,
            seed=_seed_of(guard) if deterministic else None,
            settable_globals=module.settable_globals,
        )
        for guard, payload, module in zip(guards, payloads, by_guard)
    ]
    memories = [module.first_pages * PAGE_BYTES for module in by_guard]
    if isolation == "job":  # a worker keeps what a memory held after `label_agent`, to put it back
        memories = [2 * size + ROOM_BYTES for size in memories]
    data_bytes = limits.data_bytes(memories)
    return control.Setup(
        engine=engine,
        artifacts=[module.artifact for module in modules.values()],
        guards=checked,
        sandbox=sandbox,
        log_threshold=threshold,
        keep_logs=limits.keep_logs,
        max_output_bytes=limits.max_output_bytes,
        max_backend_calls=limits.max_backend_calls,
        max_log_bytes=limits.max_log_bytes,
        data_bytes=data_bytes,
        cpu_s=limits.cpu_s,
        near_bytes=limits.near_bytes,
        isolation=isolation,  # type: ignore[arg-type]  # it is one of the words
    )
