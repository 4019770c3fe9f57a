"""`guardpool.replay`: every call has its decision, and what is not known is undecided."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from guardpool import CallerError, DecisionRecord, Guard, Limits, ReplayError, recordings, replay, samples
from guardpool.decide import Sink
from guardpool.recordings import Call, Payload, PayloadState, ResultIs
from replaykit import POLICY, call, guard, replayed, without_result


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gateway's log of 300 sample calls."""
    path = tmp_path_factory.mktemp("replay") / "rpc-messages.jsonl"
    path.write_text("\n".join(samples.recording(300, seed=3)) + "\n")
    return path


@pytest.fixture(scope="module")
def sample_guard() -> Guard:
    return Guard.from_file(samples.GUARD, name="github", policy=samples.POLICY)


@pytest.fixture(scope="module")
def sample(log: Path, sample_guard: Guard) -> list[DecisionRecord]:
    return replayed(recordings.read(log), [sample_guard])[0]


# --- the sample recording


def test_every_call_of_the_log_is_decided_on_or_counted(log: Path, sample: list[DecisionRecord]) -> None:
    truth = {f"rpc-messages.jsonl{each['call']}": each for each in samples.recording_truth(300, seed=3)}
    decided = {record.call for record in sample}
    asked = {name for name, each in truth.items() if each["role"] == "enrichment"}
    assert truth.keys() - decided <= asked
    # A question about a call whose arguments are lost cannot be told from the agent's.
    assert len(decided & asked) <= 0.1 * len(asked)
    assert [record.call for record in sample] == sorted(decided, key=lambda name: int(name.partition("#")[2]))


def test_the_replay_agrees_with_the_events_of_the_log(sample: list[DecisionRecord]) -> None:
    agrees = Counter(record.agrees for record in sample)
    assert agrees["yes"] > 200
    assert agrees["no"] <= 0.02 * agrees["yes"]


def test_a_call_without_a_recorded_result_is_undecided_and_says_which(sample: list[DecisionRecord]) -> None:
    undecided = [record for record in sample if record.is_undecided]
    assert {record.why for record in undecided} == {"no-recorded-result", "arguments-not-known"}
    for record in undecided:
        if record.why == "no-recorded-result":
            assert record.result_is in ("lost", "no-response")
            assert record.coarse in ("allowed", "bypass")


def test_the_same_replay_twice_gives_the_same_bytes(
    log: Path, sample_guard: Guard, sample: list[DecisionRecord]
) -> None:
    again, _ = replayed(recordings.read(log), [sample_guard], workers=2)
    assert [record.to_line() for record in again] == [record.to_line() for record in sample]


def test_items_say_whose_they_are_and_what_would_admit_them(sample: list[DecisionRecord]) -> None:
    items = [item for record in sample for item in record.filtered]
    assert {item.association for item in items} >= {"NONE", "MEMBER", "CONTRIBUTOR"}
    assert all(item.author for item in items if item.association)
    lowered = [item for item in items if item.would_pass_with == {"min-integrity": "unapproved"}]
    assert lowered
    for item in lowered:
        assert not item.secrecy
        assert "unapproved:all" in item.integrity
        assert "approved:all" not in item.integrity
    for record in sample:
        if record.items is not None:
            assert sum(seen.total for seen in record.seen) == record.items.total
            assert sum(seen.shown for seen in record.seen) == record.items.shown


def test_calls_imported_with_their_guards_are_decided_alike(
    log: Path, sample_guard: Guard, sample: list[DecisionRecord]
) -> None:
    """What guards asked is answered from the calls themselves, and two workers share the calls."""
    kept: list[Call] = []
    from_log = replay(recordings.read(log), [sample_guard], limits=Limits(timeout_s=30), workers=1)
    from_log._several.labels.keep(lambda each, _is_passed_on: kept.append(each))
    for _ in from_log:
        pass
    again, summary = replayed(map(Call.from_json, [each.to_json() for each in kept]), [sample_guard], workers=2)
    assert summary.enrichment == from_log.summary.enrichment == sum(each.role == "enrichment" for each in kept)
    assert summary.asked == from_log.summary.asked
    assert summary.asked.total() == sum(record.enrichment.asked for record in again if record.enrichment)
    assert [record.call for record in again] == [record.call for record in sample]
    same = sum(one.to_line() == other.to_line() for one, other in zip(again, sample))
    # The visibility of a repository may be unknown at first; a table has its first answer only.
    assert same > 0.9 * len(sample)


def test_sessions_on_several_workers_give_the_same_bytes_each_time(log: Path, sample_guard: Guard) -> None:
    """Which questions a guard asks depends on what it labelled before: each session has its worker, in every run."""
    calls = [
        msgspec.structs.replace(each, source="json-rpc", session=str(number // 7), role="agent")
        for number, each in enumerate(recordings.read(log))
    ]
    first, _ = replayed(calls, [sample_guard], workers=2)
    assert any(record.enrichment for record in first)
    again, _ = replayed(iter(calls), [sample_guard], workers=2)
    assert [record.to_line() for record in first] == [record.to_line() for record in again]


# --- what is not known


def test_a_server_of_which_nothing_is_known_is_undecided() -> None:
    records, summary = replayed([call(1), call(2, server="elsewhere"), call(3, server=None)], unguarded=["other"])
    assert [record.why for record in records] == [None, "unknown-server", "unknown-server"]
    assert summary.unknown_servers == {"elsewhere": 1, "": 1}
    assert not summary.is_complete
    assert records[1].coarse is None


def test_a_call_without_a_server_is_the_only_guards() -> None:
    records, _ = replayed([call(1, server=None)])
    assert (records[0].server, records[0].verdict) == ("g", "whole")


@pytest.mark.parametrize("why", [each for each in ResultIs if each not in (ResultIs.RAW, ResultIs.UNKNOWN)])
def test_without_what_the_server_answered_nothing_is_shown(why: ResultIs) -> None:
    filtered = {"result_json": b"{}"} if why is ResultIs.FILTERED else {}
    records, summary = replayed([call(1, result_is=why, **{"result_json": None, **filtered})])
    assert (records[0].verdict, records[0].why, records[0].result_is) == ("undecided", "no-recorded-result", why.value)
    assert summary.results == {why.value: 1}


def test_lost_arguments_and_a_missing_tool_are_undecided() -> None:
    lost = call(1, args_json=None, payload=Payload(PayloadState.LOST, PayloadState.INTACT))
    nameless = call(2, None)  # type: ignore[arg-type]
    records, _ = replayed([lost, nameless])
    assert [(record.verdict, record.why) for record in records] == [("undecided", "arguments-not-known")] * 2
    assert records[0].payload == {"args": "lost"}


def test_an_empty_recording_has_no_decisions() -> None:
    records, summary = replayed([])
    assert (records, summary.calls, summary.is_complete) == ([], 0, True)


# --- guards that fail


def test_a_guard_that_traps_in_the_middle_of_a_session_shows_nothing_of_that_call() -> None:
    records, summary = replayed([call(1), call(2, "trap_it"), call(3), call(4, "refuse_it"), call(5)])
    assert [record.verdict for record in records] == ["whole", "labelling-error", "whole", "labelling-error", "whole"]
    assert records[1].labelling is not None
    assert (records[1].labelling.resource, records[3].labelling and records[3].labelling.resource) == (
        "trap",
        "refused",
    )
    # In the gateway every later call would fail, and here the guard has forgotten what it knew.
    assert ["B29" in record.unsafe for record in records] == [False, True, True, True, True]
    assert [record.restarts for record in records] == [0, 0, 1, 1, 1]
    assert summary.guard_failures["g", "trap"] == 1
    assert not summary.is_complete


def test_a_deadline_is_the_guards_fault_and_a_job_too_large_is_not() -> None:
    slow, _ = replayed([call(1, "spin")], limits=Limits(timeout_s=0.5))
    assert (slow[0].verdict, slow[0].labelling and slow[0].labelling.resource) == ("labelling-error", "timeout")
    large, _ = replayed(
        [call(1, args_json=msgspec.json.encode({"a": "x" * 3000}))], limits=Limits(max_input_bytes=2000)
    )
    assert (large[0].verdict, large[0].why) == ("undecided", "not-labelled")
    assert "rejected" in (large[0].error or "")


# --- rules, modes, sinks, limits, sessions


def test_strict_rules_stand_beside_those_of_the_gateway() -> None:
    both, _ = replayed([call(1)])
    assert (both[0].verdict, both[0].coarse, both[0].unsafe) == ("whole", "bypass", ("B1", "B26"))
    assert isinstance(both[0].differs, msgspec.Struct)
    assert both[0].differs.verdict != "whole"
    gateway, _ = replayed([call(1)], rules="gateway")
    assert gateway[0].differs is msgspec.UNSET
    strict, _ = replayed([call(1)], rules="strict")
    assert (strict[0].rules, strict[0].verdict) == ("strict", both[0].differs.verdict)


def test_a_mode_takes_the_place_of_the_guards() -> None:
    records, _ = replayed([call(1)], mode="Strict")
    assert (records[0].mode, "B4" in records[0].unsafe) == ("strict", True)


def test_a_sink_and_a_server_without_a_guard_are_decided_on() -> None:
    sinks = {"safeoutputs": Sink(["private:acme/web"], None)}
    calls = [call(1, "add_comment", server="safeoutputs"), call(2, server="linear"), call(3)]
    records, summary = replayed([calls[2], *calls[:2]], sinks=sinks, unguarded=["linear"])
    assert summary.unguarded == {"linear": 1}
    sink, linear = records[1], records[2]
    assert (sink.verdict, sink.operation, sink.guard) == ("whole", "write", None)
    assert sink.sink is not None
    assert sink.sink.accept == ("private:acme/web",)
    # The agent demands integrity since it met the guard, and nothing has any at a server without one.
    assert (linear.verdict, linear.unsafe) == ("denied", ("B23",))


def test_a_guard_that_is_first_called_late_gives_its_tags_all_the_same() -> None:
    calls = [call(number, "add_comment", server="s") for number in range(1500)]
    records, _ = replayed([*calls, call(1500), *calls[:1]], sinks={"s": Sink(["*"])})
    assert records[1500].verdict == "whole"
    assert [record.agent_before.integrity for record in (records[1499], records[1501])] == [(), ("approved:all",)]


def test_limits_are_counted_in_order_and_keys_that_no_guard_takes_are_taken_off() -> None:
    policy = {"allow-only": {**POLICY["allow-only"], "tool-call-limits": {"get_issue": 2}, "demotion-label": "x"}}
    records, summary = replayed([call(number) for number in range(4)], [guard(policy=policy)])
    assert [record.verdict for record in records] == ["whole", "whole", "denied", "denied"]
    assert records[2].failed[0].rule == "call-limit"
    assert summary.taken_off == {"g": ("tool-call-limits", "demotion-label")}
    other, _ = replayed([call(1)])
    assert other[0].policy_sha256 != records[0].policy_sha256


def test_sessions_are_folded_apart_and_come_out_in_the_order_of_the_calls() -> None:
    policy = {"allow-only": {**POLICY["allow-only"], "tool-call-limits": {"get_issue": 1}}}
    calls = [call(1, session="a"), call(2, session="b"), call(3, session="a"), call(4, session="b", run="2")]
    records, _ = replayed(calls, [guard(policy=policy)], workers=2)
    assert [(record.call, record.verdict) for record in records] == [
        ("log.jsonl#1", "whole"),
        ("log.jsonl#2", "whole"),
        ("log.jsonl#3", "denied"),
        ("log.jsonl#4", "whole"),
    ]


@pytest.mark.parametrize("order", ["session", "any"])
def test_many_calls_of_several_servers_keep_their_order(order: str) -> None:
    calls = [call(number, server="gh"[number % 2], session=str(number % 7)) for number in range(500)]
    calls[100] = without_result(100)
    calls[200] = call(200, server="elsewhere")
    records, _ = replayed(iter(calls), [guard("g"), guard("h")], workers=2, order=order)
    assert [record.call for record in records] == [each.call for each in calls]
    assert {record.guard for record in records} == {"g", "h", None}


# --- denials from the log


def denied(reason: str, agent: list[str], integrity: list[str]) -> Call:
    event = {
        "description": "issue:acme/web#7",
        "reason": f"issue:acme/web#7 {reason}",
        "secrecy_tags": [],
        "integrity_tags": integrity,
        "agent_secrecy_tags": [],
        "agent_integrity_tags": agent,
    }
    return without_result(1, "issue_write", ResultIs.NOT_RECORDED, args_json=None, observed={"denied": event})


def test_a_denial_is_decided_on_by_the_labels_of_the_log() -> None:
    records, _ = replayed([denied("lacks required integrity to write", ["approved:all"], ["merged:all"])])
    record = records[0]
    assert (record.verdict, record.operation, record.labels_from, record.agrees) == ("denied", "write", "log", "yes")
    assert record.failed[0].rule == "write-integrity"


def test_a_denial_that_this_policy_would_not_make_is_undecided() -> None:
    records, _ = replayed([denied("lacks required integrity to write", ["none:all"], ["approved:all"])])
    assert (records[0].verdict, records[0].why) == ("undecided", "no-recorded-result")


def test_labels_of_a_denial_under_another_scope_are_not_used() -> None:
    records, _ = replayed([denied("has secrecy requirements", ["approved:acme/web"], ["merged:acme/web"])])
    assert (records[0].verdict, records[0].why) == ("undecided", "denied-under-another-policy")


def test_a_label_of_the_server_that_is_stricter_than_the_guards_is_a_finding() -> None:
    labels = [{"confidentiality": "private", "integrity": "untrusted"}, {"confidentiality": "public"}]
    calls = [call(number, "example", observed={"ifc": label}) for number, label in enumerate(labels)]
    records, summary = replayed(calls)
    assert [record.contradicts for record in records] == [("private",), ()]
    assert records[0].is_finding
    assert summary.contradicted == 1


# --- arguments


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rules": "lax"}, "rules must be one of gateway, strict, both"),
        ({"order": "none"}, "order must be one of session, any"),
        ({"unguarded": ["g"]}, "'g' is named twice"),
        ({"mode": "loose"}, "a mode is strict, filter or propagate"),
        ({"guards": []}, "no server has a guard"),
        ({"guards": guard()}, "guards are a sequence of guardpool.Guard, not a Python Guard"),
        ({"guards": ["g"]}, "a guard is a guardpool.Guard, not 'g'"),
        ({"workers": 0}, "workers must be a whole number from 1, not 0"),
        ({"workers": "2"}, "workers must be a whole number from 1, not '2'"),
        ({"limits": 5}, r"limits must be Limits\(...\), not int"),
        ({"sinks": ["a"]}, "sinks are a mapping by server, not an array of 1"),
        ({"sinks": {"a": 5}}, "server 'a' is a Guarded, a Sink or NoGuard, not 5"),
        ({"unguarded": "linear"}, "unguarded is a set of servers, not 'linear'"),
        ({"unguarded": [1]}, "unguarded holds 1; a server is a string"),
        ({"secrecy": "private:o/r"}, "secrecy is a set of tags, not 'private:o/r'"),
        ({"allowed_tools": ["a"]}, "allowed_tools is a mapping by server, not an array of 1"),
        ({"allowed_tools": {"g": "get_me"}}, r"allowed_tools\['g'\] is a set of tools, not 'get_me'"),
        ({"calls": "rpc-messages.jsonl"}, r"guardpool.recordings.read\('rpc-messages.jsonl'\) reads"),
    ],
)
def test_wrong_arguments_are_refused_at_once(options: dict[str, Any], words: str) -> None:
    guards = options.pop("guards", [guard()])
    with pytest.raises(CallerError, match=words) as caught:
        replay(options.pop("calls", []), guards, **options)
    assert isinstance(caught.value, (ReplayError, ValueError))


def test_what_is_no_call_is_refused_by_what_it_is() -> None:
    with (
        replay(iter([{"tool": "x"}]), [guard()]) as decisions,
        pytest.raises(ReplayError, match="not an object of 1 key"),
    ):
        next(decisions)


def test_a_replay_that_is_given_up_ends_its_workers() -> None:
    decisions = replay((call(number) for number in range(10_000)), [guard()], workers=1)
    assert next(decisions).verdict == "whole"
    decisions.close()
    assert next(decisions, None) is None


def test_calls_before_one_that_cannot_be_read_are_decided_on_first() -> None:
    def calls() -> Iterator[Call]:
        yield call(1)
        yield call(2)
        raise OSError("the disk is gone")

    decisions = replay(calls(), unguarded=["g"])
    assert [next(decisions).call, next(decisions).call] == ["log.jsonl#1", "log.jsonl#2"]
    with pytest.raises(OSError, match="gone"):
        next(decisions)
