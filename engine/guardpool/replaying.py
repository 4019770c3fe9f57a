"""Replay: recorded calls in, decisions out.

Each call is labelled again by its server's guard (`recorded_labels`), and the decisions of each session are folded over the
labels in order (`guardpool.decide.Session`): under the gateway's rules, the strict ones, or both. What cannot be decided is
`undecided`, with the reason; no call is left out but the guards' own questions, which are counted.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

from guardpool.batch.kept_calls import KeptCalls
from guardpool.contract.text import shown
from guardpool.decide import Rules, Session, Sink
from guardpool.decide.record import DecisionRecord
from guardpool.decide.words import mode_of, strings_of
from guardpool.errors import CallerError
from guardpool.guard import Guard
from guardpool.labels import DifcMode
from guardpool.limits import Limits
from guardpool.machine import capacity
from guardpool.pool import GuardPool
from guardpool.recorded_labels import LabelledCall, RecordedLabels
from guardpool.recordings import Call
from guardpool.replay_fold import BOTH, Fold, ReplayPlan, known_labels
from guardpool.replay_summary import ReplaySummary, moment
from guardpool.sizes import MIB
from guardpool.supervise.witness import Witness

RULES = (Rules.GATEWAY.value, Rules.STRICT.value, BOTH)
ORDERS = ("session", "any")
# Calls are read some at a time, and of a pipe as they come.
_PORTION_CALLS = 64
_PORTION_BYTES = MIB
_PORTION_S = 0.1


class ReplayError(CallerError, ValueError):
    """A replay cannot be made of its arguments."""


class Replay:
    """The decisions of a replay, in the order of the calls; an iterator. Made by `replay`.

    Use it as a context manager, or exhaust it: then its workers have ended.

    Attributes:
        summary: counts so far.
    """

    def __init__(self, several: Replays) -> None:
        self._several = several
        self.summary = several.summaries[0]

    def __iter__(self) -> Iterator[DecisionRecord]:
        return self

    def __next__(self) -> DecisionRecord:
        return next(self._several)[0]

    def __enter__(self) -> Replay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the workers; what was not decided is dropped."""
        self._several.close()


class Replays:
    """Several replays over the same labels, in other modes: an iterator of the decisions on one call after the other.

    Attributes:
        summaries: counts so far of each.
        labels: who labels the calls.
    """

    def __init__(self, calls: Iterable[Call], labels: RecordedLabels, plans: Sequence[ReplayPlan]) -> None:
        self.summaries = [ReplaySummary(taken_off=plan.taken_off) for plan in plans]
        self.labels = labels
        self._plans = plans
        self._folds: dict[tuple[str | None, str], list[Fold]] = {}
        self._known = known_labels()
        self._records = self._decided(calls)

    def __iter__(self) -> Iterator[tuple[DecisionRecord, ...]]:
        return self

    def __next__(self) -> tuple[DecisionRecord, ...]:
        return next(self._records)

    def close(self) -> None:
        """End the workers; what was not decided is dropped."""
        self._records.close()
        self.labels.close()

    def _decided(self, calls: Iterable[Call]) -> Generator[tuple[DecisionRecord, ...], None, None]:
        # Looks at the processor's time at each call took a twelfth of all: so several calls are looked at together.
        summary = self.summaries[0]
        reading = [summary.seconds, summary.processor_seconds]
        try:
            labelled = self.labels.labelled(_portions(calls, summary))
            while True:
                read = [spent["read"] for spent in reading]
                before = moment()
                portion = next(labelled, None)
                after = moment()
                summary.took("label", before, after)
                # To read the calls is a part of getting the next labelled ones.
                for spent, already in zip(reading, read):
                    spent["label"] -= spent["read"] - already
                if portion is None:
                    break
                decided = [self._decide(each) for each in portion]
                summary.took("decide", after, moment())
                yield from decided
        finally:
            self.labels.close()
            for summary in self.summaries:
                summary.enrichment = self.labels.enrichment
                summary.asked, summary.missing = self.labels.asked, self.labels.missing
                summary.conflicts = self.labels.conflicts
                if self.labels.kept is not None:
                    summary.kept_labels, summary.kept_problems = self.labels.kept.taken, self.labels.kept.problems

    def _decide(self, each: LabelledCall) -> tuple[DecisionRecord, ...]:
        call = each.call
        key = (call.run, call.session)
        folds = self._folds.get(key)
        if folds is None:
            folds = self._folds[key] = [Fold(plan, self.labels.agents) for plan in self._plans]
        ready = folds[0].ready(each, self._known)
        return tuple([fold.decide(ready, summary) for fold, summary in zip(folds, self.summaries)])


def _portions(calls: Iterable[Call], summary: ReplaySummary) -> Iterator[list[Call]]:
    """The calls, as many at a time as can be read within a moment; how long it takes to read them is counted."""
    iterator = iter(calls)
    failure = None
    is_over = False
    while not is_over:
        portion: list[Call] = []
        size = 0
        before = moment()
        due = before[0] + _PORTION_S
        try:
            for call in iterator:
                portion.append(call)
                size += len(call.result_json or b"")
                if len(portion) >= _PORTION_CALLS or size >= _PORTION_BYTES or time.perf_counter() >= due:
                    break
            else:
                is_over = True
        except Exception as error:
            failure, is_over = error, True
        summary.took("read", before, moment())
        yield portion
    if failure is not None:  # after the decisions on what was read before
        raise failure


def replay(
    calls: Iterable[Call],
    guards: Sequence[Guard] = (),
    *,
    sinks: Mapping[str, Sink] | None = None,
    unguarded: Collection[str] = (),
    rules: str = BOTH,
    mode: DifcMode | str | None = None,
    default_mode: DifcMode | str = DifcMode.STRICT,
    secrecy: Collection[str] = (),
    integrity: Collection[str] = (),
    allowed_tools: Mapping[str, Collection[str]] | None = None,
    order: str = "session",
    keep_labels: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    limits: Limits | None = None,
    engine: str = "auto",
    sandbox: str = "auto",
    cache: Any = None,
    log_level: str = "warning",
) -> Replay:
    """Decide on recorded calls: label each again, and fold the decisions of each session in order.

    Args:
        calls: in the order of each session, e.g. `guardpool.recordings.read(paths)`.
        guards: a guard's name is its server's id. A guard without a backend is answered from the recording. Keys of its policy
            that no guard takes (`tool-call-limits` and others) are taken off, and limits are counted here.
        sinks: what stands before servers that are only written to.
        unguarded: servers that are known to have no guard. Calls to any other server are `undecided`.
        rules: `gateway`, `strict`, or `both`: the gateway's, and in `differs` what the strict ones would have done.
        mode: a mode in the place of those that the guards answered.
        default_mode: the gateway's own mode, for servers without a guard.
        secrecy, integrity, allowed_tools: as the gateway's configuration gives them to every agent; see `decide.Session`.
        order: `session`: a session's calls are labelled in order by one worker, as a guard's memory depends on what it saw;
            `any`: in any order. A gateway's own log is always read in order.
        keep_labels: a file of kept labels, as for `guardpool.batch.label_file`, whose guards must be such that no label depends
            on the order of jobs. The labels of a gateway's own log are made anew: what guards ask in it tells its calls.
        workers, limits, engine, sandbox, cache, log_level: as of `GuardPool`.

    Returns:
        An iterator of `DecisionRecord`, in the order of the calls. Memory grows with the number of sessions, not of calls.

    Raises:
        ReplayError, DecideError, PolicyError, KeptLabelsError: an argument cannot be used. While it is advanced: whatever
            `GuardPool` raises.
    """
    several = replays(
        calls,
        guards,
        modes=[mode],
        sinks=sinks,
        unguarded=unguarded,
        rules=rules,
        default_mode=default_mode,
        secrecy=secrecy,
        integrity=integrity,
        allowed_tools=allowed_tools,
        order=order,
        keep_labels=keep_labels,
        workers=workers,
        limits=limits,
        engine=engine,
        sandbox=sandbox,
        cache=cache,
        log_level=log_level,
    )
    return Replay(several)


def replays(
    calls: Iterable[Call],
    guards: Sequence[Guard] = (),
    *,
    modes: Sequence[DifcMode | str | None],
    sinks: Mapping[str, Sink] | None = None,
    unguarded: Collection[str] = (),
    rules: str = BOTH,
    default_mode: DifcMode | str = DifcMode.STRICT,
    secrecy: Collection[str] = (),
    integrity: Collection[str] = (),
    allowed_tools: Mapping[str, Collection[str]] | None = None,
    order: str = "session",
    keep_labels: str | os.PathLike[str] | None = None,
    told: bool = False,
    only_tell: bool = False,
    **pool_options: Any,
) -> Replays:
    """As `replay`, in several modes at once: labels do not depend on the mode, so each guard runs once.

    Args:
        modes: see `mode` of `replay`.
        told: whether guards' questions are known for what they are in all of the calls.
        only_tell: decide on no calls but those that have to be labelled to know which are guards' questions.
        pool_options: of `GuardPool`.
    """
    if rules not in RULES:
        raise ReplayError(f"rules must be one of {', '.join(RULES)}, not {rules!r}")
    if order not in ORDERS:
        raise ReplayError(f"order must be one of {', '.join(ORDERS)}, not {order!r}")
    if isinstance(guards, (str, Guard)) or not isinstance(guards, Iterable):
        raise ReplayError(f"guards are a sequence of guardpool.Guard, not {shown(guards)}")
    guards = list(guards)
    _check_servers(guards, sinks or {}, unguarded)
    options: dict[str, Any] = {"default_mode": mode_of(default_mode), "secrecy": secrecy, "integrity": integrity}
    options["allowed_tools"] = allowed_tools
    Session(dict(sinks or {}), **options)  # what it says of these, before the first call is read
    plans = [
        ReplayPlan(guards, sinks or {}, unguarded, str(rules), None if mode is None else mode_of(mode), options)
        for mode in modes
    ]
    workers = pool_options.pop("workers", None)
    limits = pool_options.get("limits") or Limits()
    if not isinstance(limits, Limits):
        raise ReplayError(f"limits must be Limits(...), not {type(limits).__name__}")
    if workers is None:
        workers = max(1, min(capacity.cores(), capacity.memory_bytes() // limits.max_rss_bytes))
    elif isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise ReplayError(f"workers must be a whole number from 1, not {workers!r}")

    def pool(asking: Sequence[Guard], most: int, witness: Witness | None) -> GuardPool:
        return GuardPool(asking, workers=most, witness=witness, **pool_options)

    first = plans[0]
    kept = None if keep_labels is None else KeptCalls(keep_labels, pool_options.get("engine", "auto"), limits)
    labels = RecordedLabels(
        first.guards,
        only_server=first.only_server,
        keep_order=order == "session",
        workers=workers,
        pool=pool,
        told=told,
        kept=kept,
        only_tell=only_tell,
    )
    return Replays(_only_calls(calls), labels, plans)


def _only_calls(calls: Iterable[Call]) -> Iterator[Call]:
    """The same calls. Raises `ReplayError` for what is none; for paths at once."""
    if isinstance(calls, (str, bytes, os.PathLike)):
        raise ReplayError(f"calls are no path: guardpool.recordings.read({calls!r}) reads the calls of a recording")

    def checked() -> Iterator[Call]:
        for call in calls:
            if not isinstance(call, Call):
                raise ReplayError(f"a call is a recordings.Call, not {shown(call)}")
            yield call

    return checked()


def _check_servers(guards: Sequence[Guard], sinks: Mapping[str, Sink], unguarded: Collection[str]) -> None:
    """Make sure that guards are guards, that there are servers, and that each is named once."""
    for each in guards:
        if not isinstance(each, Guard):
            raise ReplayError(f"a guard is a guardpool.Guard, not {shown(each)}")
    if not isinstance(sinks, Mapping):
        raise ReplayError(f"sinks are a mapping by server, not {shown(sinks)}")
    known = [*(guard.name for guard in guards), *sinks, *strings_of(unguarded, "unguarded", "server")]
    for name in known:
        if known.count(name) > 1:
            raise ReplayError(f"server {name!r} is named twice: it has either a guard, or a sink, or none")
    if not known:
        raise ReplayError("no server has a guard, a sink or none: there is nothing to decide by")
