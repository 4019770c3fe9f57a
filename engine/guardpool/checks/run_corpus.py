"""A corpus run: each case is labelled by its guard, decided, and compared with what it expects.

Labels are made with deterministic clocks and random bytes, so that a golden label is the same in the next run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec import UNSET

from guardpool.checks.corpus import Broken, Case, Corpus, CorpusError, parse
from guardpool.contract import expand
from guardpool.contract.text import shown
from guardpool.decide import DecidedItem, Decision, Failure, Guarded, Session, split_policy
from guardpool.decide.words import POISONING
from guardpool.errors import ContractError
from guardpool.guard import Backend, Guard
from guardpool.jobs import Job, Op
from guardpool.labels import AgentLabels, Labels, ResourceLabel, ResponseLabel, label_to_json
from guardpool.limits import Limits
from guardpool.outcomes import Outcome, Status
from guardpool.pool import GuardPool
from guardpool.printable import option_name

_SHOWN_TAGS = 6


class Result(NamedTuple):
    """What became of a case.

    Attributes:
        case: the case.
        guard: who labelled it.
        differences: in what it differs from what is expected, one line each; empty: in nothing.
        resource: the outcome of `label_resource`.
        response: the outcome of `label_response`; None if the case has no result.
        decision: what becomes of the call.
    """

    case: Case
    guard: str
    differences: tuple[str, ...]
    resource: Outcome
    response: Outcome | None
    decision: Decision

    @property
    def passed(self) -> bool:
        """Whether all that is expected is so."""
        return not self.differences

    def against(self, case: Case) -> Result:
        """The same outcomes compared with what another form of the case expects, e.g. the one that `--update` wrote."""
        differences = tuple(_differences(case, self.resource, self.response, self.decision))
        return self._replace(case=case, differences=differences)

    @property
    def failures(self) -> tuple[Outcome, ...]:
        """The outcomes without a label."""
        return tuple(
            each for each in (self.resource, self.response) if each is not None and each.status is not Status.OK
        )

    def golden(self) -> dict[str, Any]:
        """What the case would have to expect: what it expects already, or all of it if it expects nothing yet.

        A label that the guard failed to give is not made an expectation; a case may be written so by hand.
        """
        expect = self.case.expect
        found: dict[str, Any] = {}
        if not self.resource.error and (not expect or expect.resource is not UNSET):
            found["resource"] = msgspec.Raw(label_to_json(self.resource.label))
        if self.response is not None and not self.response.error and (not expect or expect.response is not UNSET):
            found["response"] = msgspec.Raw(label_to_json(self.response.label))
        if not self.failures and (not expect or expect.decision is not UNSET):
            whole = decision_form(self.decision)
            wanted = expect.decision if isinstance(expect.decision, dict) else _GOLDEN
            found["decision"] = {name: whole[name] for name in wanted}
        return found


_GOLDEN = ("coarse", "verdict", "failed", "filtered", "unsafe")


class CorpusResult(NamedTuple):
    """What became of one corpus.

    Attributes:
        corpus: the corpus.
        results: of the cases that were run, in their order.
        not_run: cases that could not be, and why.
        agent: what `label_agent` of each guard answered otherwise than expected, one line each.
    """

    corpus: Corpus
    results: list[Result]
    not_run: list[Broken]
    agent: list[str]

    @property
    def failed(self) -> list[Result]:
        """The results that are not as expected."""
        return [result for result in self.results if not result.passed]

    def updated(self) -> tuple[bytes, CorpusResult] | None:
        """The corpus written again with what its cases give, and the same outcomes compared with that.

        What is compared is what was written, read again: so what is still not as expected is what an update cannot mend, such
        as a label that is missing. None if there is nothing to be written.
        """
        golden = {
            each.case.at: expectations
            for each in self.results
            if (each.differences or not each.case.expect) and (expectations := each.golden())
        }
        if not golden:
            return None
        text = self.corpus.rewritten(golden)
        corpus = parse(text, self.corpus.path)
        cases = {case.at: case for case in corpus.cases}
        return text, self._replace(corpus=corpus, results=[each.against(cases[each.case.at]) for each in self.results])


class Setup(NamedTuple):
    """How corpora are run.

    Attributes:
        guards: each with the policy that was given for it, None: the corpus's.
        backends: who answers a guard, by its name; a guard that is not among them is answered by the corpus.
        rules, mode: how cases are decided that do not say it themselves; no mode: the guard's own.
        workers, limits, engine: as those of `GuardPool`.
    """

    guards: Sequence[Guard]
    backends: Mapping[str, Backend | None] = {}
    rules: str = "gateway"
    mode: str | None = None
    workers: int | None = None
    limits: Limits | None = None
    engine: str = "auto"


def run(corpora: Iterable[Corpus], setup: Setup) -> Iterator[CorpusResult]:
    """Run each corpus, one after the other, in a pool that is made anew where another policy or another backend is needed.

    Raises:
        CorpusError: neither the corpus nor the caller has a policy for a guard.
        GuardPoolError: a guard cannot be used; see `GuardPool`.
    """
    pool: GuardPool | None = None
    made_of: object = None
    try:
        for corpus in corpora:
            given = [_guard_for(corpus, guard, setup) for guard in setup.guards]
            split = [split_policy(guard.policy) for guard in given]
            guards = [guard.but(policy=each.policy) for guard, each in zip(given, split)]
            limits = {guard.name: each.limits for guard, each in zip(guards, split)}
            key = [(guard.policy, id(guard.backend)) for guard in guards]
            if pool is None or key != made_of:
                if pool is not None:
                    pool.close()
                made_of = key
                pool = GuardPool(
                    guards,
                    workers=setup.workers,
                    limits=setup.limits,
                    engine=setup.engine,
                    log_level="off",
                    deterministic=True,
                )
            yield _run(corpus, pool, guards, limits, setup)
    except BaseException:
        if pool is not None:
            pool.kill()
        raise
    if pool is not None:
        pool.close()


def policy_for(corpus: Corpus, guard: Guard) -> Any:
    """The policy that a guard gets: the one that was given for it, else the corpus's.

    Raises:
        CorpusError: there is no policy.
    """
    policy = guard.policy if guard.policy is not None else corpus.policy
    if policy is None:
        raise CorpusError(
            f"{corpus.path}: there is no policy for guard {guard.name!r}: add --policy {option_name(guard.name)}=POLICY.json, "
            "or 'policy' in the first line of the corpus"
        )
    return policy


def _guard_for(corpus: Corpus, guard: Guard, setup: Setup) -> Guard:
    backend = setup.backends.get(guard.name, corpus.replies)  # None if it is said that nobody answers
    return guard.but(policy=policy_for(corpus, guard), backend=backend)


def _run(
    corpus: Corpus, pool: GuardPool, guards: Sequence[Guard], limits: Mapping[str, dict[str, int]], setup: Setup
) -> CorpusResult:
    only = guards[0].name if len(guards) == 1 else None
    by_name = {guard.name: guard for guard in guards}
    cases: list[tuple[Case, str]] = []
    not_run = []
    for case in corpus.cases:
        name = case.guard or only
        if name in by_name:
            cases.append((case, name))
        else:
            not_run.append(Broken(case.place, _no_guard(name, by_name)))
    outcomes = pool.map(_jobs(cases))
    servers = {name: Guarded(pool.agents[name], limits[name]) for name in by_name}
    sessions: dict[tuple[str, str | None, str | None], Session] = {}
    results = []
    for case, name in cases:
        resource = next(outcomes)
        response = None if case.tool_result is UNSET else next(outcomes)
        session = _session_of(case, sessions, servers, setup)
        decision = _decide(session, case, name, resource, response)
        differences = tuple(_differences(case, resource, response, decision))
        results.append(Result(case, name, differences, resource, response, decision))
    expected = (
        [] if corpus.agent is None else [agent_differences(name, corpus.agent, pool.agents[name]) for name in by_name]
    )
    return CorpusResult(corpus, results, not_run, [line for lines in expected for line in lines])


def _no_guard(name: str | None, by_name: Mapping[str, Guard]) -> str:
    if name is None:
        return f"it names no guard, and there are {len(by_name)}: add 'guard'"
    return f"its guard {shown(name)} is not given: add --guard {option_name(name)}=FILE.wasm"


def _jobs(cases: Iterable[tuple[Case, str]]) -> Iterator[Job]:
    for case, name in cases:
        yield Job(
            case.name, Op.LABEL_RESOURCE, case.tool_name, case.tool_args, capabilities=case.capabilities, guard=name
        )
        if case.tool_result is not UNSET:
            yield Job(
                case.name,
                Op.LABEL_RESPONSE,
                case.tool_name,
                case.tool_args,
                case.tool_result,
                capabilities=case.capabilities,
                guard=name,
            )


def _session_of(
    case: Case,
    sessions: dict[tuple[str, str | None, str | None], Session],
    servers: Mapping[str, Guarded],
    setup: Setup,
) -> Session:
    rules, mode = case.rules or setup.rules, case.mode or setup.mode
    if case.session is None:
        return Session(servers, rules=rules, mode=mode)
    key = (case.session, rules, mode)
    if key not in sessions:
        sessions[key] = Session(servers, rules=rules, mode=mode)
    return sessions[key]


def _decide(session: Session, case: Case, name: str, resource: Outcome, response: Outcome | None) -> Decision:
    label = resource.label
    answer = None if response is None else response.label
    return session.decide(
        name,
        case.tool_name,
        resource=label if isinstance(label, ResourceLabel) else None,
        response=answer if isinstance(answer, ResponseLabel) else None,
        tool_result=case.tool_result,
        resource_error=_why(resource),
        response_error=_why(response),
        trapped=any(each is not None and each.status in POISONING for each in (resource, response)),
    )


def _why(outcome: Outcome | None) -> str | None:
    if outcome is None or outcome.error is None:
        return None
    return f"{outcome.status}: {outcome.error.message}"


def _differences(case: Case, resource: Outcome, response: Outcome | None, decision: Decision) -> Iterator[str]:
    expect = case.expect
    if expect.resource is not UNSET:
        yield from _resource_differences(expect.resource, resource)
    if expect.response is not UNSET:
        if response is None:
            yield "response: a label is expected, and the case has no tool_result"
        else:
            yield from _response_differences(expect.response, response, case.tool_result)
    if expect.decision is not UNSET:
        have = decision_form(decision)
        for name, wanted in expect.decision.items():
            if have[name] == _sorted_form(name, wanted):
                continue
            if name == "filtered" and _are_items(wanted):
                yield from _filtered_differences(wanted, decision)
            else:
                yield f"decision: {name}: expected {_shown(wanted)}, got {_shown(have[name])}"


def _resource_differences(wanted: Any, outcome: Outcome) -> Iterator[str]:
    if isinstance(wanted, Status) or outcome.status is not Status.OK:
        yield from _status_differences("resource", wanted, outcome)
        return
    have = outcome.label
    assert isinstance(have, ResourceLabel)
    yield from _label_differences("resource", wanted, have)
    if wanted.operation != have.operation:
        yield f"resource: operation: expected {wanted.operation}, got {have.operation}"


def _response_differences(wanted: Any, outcome: Outcome, result: Any) -> Iterator[str]:
    """Labels are compared as they fall on the items, not as paths: two that say the same of each item are equal."""
    if isinstance(wanted, Status) or outcome.status is not Status.OK:
        yield from _status_differences("response", wanted, outcome)
        return
    have = outcome.label
    if wanted == have:
        return
    if wanted is None or have is None:
        words = {True: "no fine-grained labels", False: "labels of items"}
        yield f"response: expected {words[wanted is None]}, got {words[have is None]}"
        return
    expected, got = _items(wanted, result), _items(have, result)
    if isinstance(expected, str) or isinstance(got, str):
        if expected != got:
            yield f"response: expected {_items_shown(expected)}, got {_items_shown(got)}"
        return
    if len(expected) != len(got):
        yield f"response: expected labels of {len(expected)} items, got those of {len(got)}"
        return
    for at, (one, other) in enumerate(zip(expected, got)):
        yield from _label_differences(f"item {at} ({shown(one.description)})", one, other)


def _items(label: Any, result: Any) -> list[Labels] | str:
    try:
        return [item.labels for item in expand(label, result)]
    except ContractError as error:
        return str(error)


def _items_shown(items: list[Labels] | str) -> str:
    return f"a label that does not fit ({items})" if isinstance(items, str) else f"labels of {len(items)} items"


def _status_differences(what: str, wanted: Any, outcome: Outcome) -> Iterator[str]:
    if isinstance(wanted, Status):
        if wanted is not outcome.status:
            yield f"{what}: expected {wanted}, got {outcome.status}"
    else:
        yield f"{what}: expected a label, and the guard gave none: {_why(outcome)}"


def _label_differences(what: str, wanted: Any, have: Any) -> Iterator[str]:
    if wanted.description != have.description:
        yield f"{what}: description: expected {shown(wanted.description)}, got {shown(have.description)}"
    for name in ("secrecy", "integrity"):
        expected, got = getattr(wanted, name), getattr(have, name)
        if expected != got:
            yield f"{what}: {name}: {_tags_differ(expected, got)}"


def _tags_differ(wanted: frozenset[str], have: frozenset[str]) -> str:
    parts = [
        f"{word} {', '.join(map(shown, sorted(tags)[:_SHOWN_TAGS]))}"
        for word, tags in (("missing", wanted - have), ("not expected", have - wanted))
        if tags
    ]
    return "; ".join(parts)


def agent_differences(name: str, wanted: Mapping[str, Any], have: AgentLabels) -> list[str]:
    """In what `label_agent` differs from what is expected; of the policy what is written there is compared."""
    got: dict[str, Any] = {
        "secrecy": sorted(have.secrecy),
        "integrity": sorted(have.integrity),
        "mode": str(have.mode),
        "normalized_policy": have.normalized_policy,
    }
    lines = []
    for key, value in wanted.items():
        if key == "normalized_policy" and isinstance(value, dict) and isinstance(got[key], dict):
            differs = any(got[key].get(each) != value[each] for each in value)
        else:
            differs = got.get(key) != (sorted(value) if key in ("secrecy", "integrity") else value)
        if differs:
            lines.append(f"guard {name}: label_agent: {key}: expected {_shown(value)}, got {_shown(got.get(key))}")
    return lines


def decision_form(decision: Decision) -> dict[str, Any]:
    """A decision as a case expects it: plain values, without tags."""
    return {
        "rules": decision.rules.value if hasattr(decision.rules, "value") else decision.rules,
        "mode": str(decision.mode),
        "operation": str(decision.operation),
        "coarse": str(decision.coarse),
        "verdict": str(decision.verdict),
        "failed": _rules_of(decision.failed),
        "filtered": [_item_form(item) for item in decision.filtered],
        "shown": None if decision.items is None else decision.allowed,
        "unsafe": sorted(decision.unsafe),
        "lost": sorted(decision.lost),
    }


def _are_items(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(item, dict) and item.keys() == {"index", "failed"} for item in value
    )


def _filtered_differences(wanted: Iterable[Mapping[str, Any]], decision: Decision) -> Iterator[str]:
    """Which items are filtered otherwise than expected, one line each."""
    expected = {item["index"]: item["failed"] for item in wanted}
    got = {item.index: _rules_of(item.failed) for item in decision.filtered}
    names = {item.index: item.description for item in decision.items or ()}
    for index in sorted(expected.keys() | got.keys(), key=str):
        one, other = (_fate(fates.get(index)) for fates in (expected, got))
        if one != other:
            what = f"item {index} ({shown(names[index])})" if index in names else f"item {index}, which there is not"
            yield f"decision: {what}: expected {one}, got {other}"


def _fate(failed: Any) -> str:
    return "shown" if failed is None else f"filtered by {', '.join(map(str, failed))}"


def _item_form(item: DecidedItem) -> dict[str, Any]:
    return {"index": item.index, "failed": _rules_of(item.failed)}


def _rules_of(failures: Iterable[Failure]) -> list[str]:
    return [str(failure.rule) for failure in failures]


def _sorted_form(name: str, wanted: Any) -> Any:
    return sorted(wanted) if name in ("unsafe", "lost") and isinstance(wanted, list) else wanted


def _shown(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 200 else f"{text[:199]}…"
