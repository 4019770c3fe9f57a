"""Errors and data cross process pools of the caller's: pickle, copy and deepcopy keep all of them, whole."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest

import guardpool
from guardpool import (
    UNSET,
    AgentLabels,
    BackendUse,
    CompileLimits,
    DifcMode,
    Guard,
    Inspection,
    Job,
    JobError,
    LabeledItem,
    Labels,
    LabelWarning,
    Limits,
    LogLine,
    Operation,
    Outcome,
    OutcomeError,
    PathLabel,
    PoolStats,
    Question,
    ReplaySummary,
    ResourceLabel,
    ResponseLabel,
    Status,
    ToolStats,
    errors,
    outcomes,
)
from guardpool.batch import encode_outcome
from guardpool.decide import read_record
from guardpool.labels import label_to_json
from guardpool.outcomes import StoredLabel

NONE: frozenset[str] = frozenset()
TAGS = frozenset("zyxwabc")
LABELS = Labels("l", TAGS, NONE)
RESOURCE = ResourceLabel("r", TAGS, TAGS, Operation.READ, (LabelWarning("star_from_guard", "resource.secrecy"),))
RESPONSE = ResponseLabel((PathLabel("/0", "p", TAGS, NONE),), LABELS, "/items")
OLDER = ResponseLabel(items=(LabeledItem({"n": [1, None]}, LABELS),))
ERROR = OutcomeError("trap", "unreachable", trap="unreachable", line=3, backend=("b", "a"))


def stored(op: str, label: ResourceLabel | ResponseLabel) -> Outcome:
    """An outcome as a pool makes it."""
    text: Any = StoredLabel(label_to_json(label))
    return Outcome(7, "g", op, "t", Status.OK, text, None, 12, 1, 2, (LogLine(1, "x"),))


FAILED = Outcome("x", "g", "label_resource", "t", Status.TRAP, None, ERROR, 5, 1)
OUTCOMES = {
    "resource": stored("label_resource", RESOURCE),
    "response": stored("label_response", RESPONSE),
    "older": stored("label_response", OLDER),
    "no label": Outcome(1, "g", "label_response", "t", Status.OK),
    "a label of the caller's": Outcome(1, "g", "label_resource", "t", Status.OK, RESOURCE),
    "failed": FAILED,
}

# An example of every public type that holds data.
DATA: dict[str, Any] = {
    "AgentLabels": AgentLabels(TAGS, NONE, DifcMode.FILTER, {"a": [1]}),
    "BackendUse": BackendUse(2, 1, 1, (Question("get", {"a": [1]}),)),
    "CompileLimits": CompileLimits(),
    "DecisionRecord": read_record(
        b'{"v":1,"call":"a#1","session":"s","args":{"a":1},"result_is":"raw","mode":"filter","rules":"gateway","verdict":"whole",'
        b'"agent_before":{"secrecy":[],"integrity":["none:all"]},"agent_after":{"secrecy":[],"integrity":[]},"agrees":"yes"}'
    ),
    "DifcMode": DifcMode.STRICT,
    "Guard": Guard("g", b"\0asm", {"allow-only": {}}, ["bot"], ["user"], path="g.wasm"),
    "Job": Job(1, "label_resource", "t", {"a": 1}, guard="g"),
    "LabelWarning": LabelWarning("a", "b"),
    "LabeledItem": OLDER.items and OLDER.items[0],
    "Labels": LABELS,
    "Limits": Limits(timeout_s=2.0),
    "LogLine": LogLine(1, "x"),
    "Op": guardpool.Op.LABEL_RESOURCE,
    "Operation": Operation.READ_WRITE,
    "Outcome": OUTCOMES["resource"],
    "OutcomeError": ERROR,
    "PathLabel": RESPONSE.labeled_paths[0],
    "ReplaySummary": ReplaySummary(calls=1),
    "ResourceLabel": RESOURCE,
    "ResponseLabel": RESPONSE,
    "Status": Status.OK,
    "UNSET": UNSET,
    "__version__": guardpool.__version__,
    "Question": Question("get", None),
    "ToolStats": ToolStats(3, 2, 1, 1),
}
# What is not data: things that hold processes or files, and functions. A module that was inspected and the statistics of a pool
# have examples of their own below.
NOT_DATA = {"GuardPool", "ModuleCache", "Replay"}
WITH_A_TEST = {"Inspection", "PoolStats"}

WAYS: dict[str, Callable[[Any], Any]] = {
    **{
        f"pickle {n}": lambda value, n=n: pickle.loads(pickle.dumps(value, n))
        for n in range(pickle.HIGHEST_PROTOCOL + 1)
    },
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


def _public() -> Iterator[tuple[str, Any]]:
    for name in guardpool.__all__:
        value = getattr(guardpool, name)
        if not isinstance(value, ModuleType) and not inspect.isfunction(value):
            yield name, value


def _errors() -> list[type[BaseException]]:
    found = {value for _, value in _public() if inspect.isclass(value) and issubclass(value, BaseException)}
    for module in (errors, outcomes):
        found |= {
            value for value in vars(module).values() if inspect.isclass(value) and issubclass(value, BaseException)
        }
    return sorted(found, key=lambda kind: kind.__name__)


def _made(kind: type[BaseException]) -> BaseException:
    """An error of this type with every fact that it can have."""
    facts: dict[str, Any] = {}
    for name in inspect.signature(kind.__init__).parameters:
        if name in ("guard", "stderr"):
            facts[name] = f"the {name}"
        elif name == "problems":
            facts[name] = ("one", "two")
        elif name == "exit_status":
            facts[name] = -9
        elif name == "outcome":
            facts[name] = FAILED
    error = kind("what happened", **facts)
    error.note = "set later"  # type: ignore[attr-defined]
    return error


def test_every_public_name_is_tried_here() -> None:
    kinds = {kind.__name__ for kind in _errors()}
    assert {name for name, _ in _public()} - kinds == set(DATA) | NOT_DATA | WITH_A_TEST


@pytest.mark.parametrize("kind", _errors())
@pytest.mark.parametrize("way", WAYS)
def test_every_error_comes_through_whole(kind: type[BaseException], way: str) -> None:
    error = _made(kind)
    again = WAYS[way](error)
    assert type(again) is kind
    assert str(again) == str(error) == "what happened"
    assert again.args == error.args
    assert vars(again) == vars(error)


class CallersOwn(JobError):
    """A child of an error of ours, with an argument more."""

    def __init__(self, first: str, second: int, *, outcome: Outcome) -> None:
        super().__init__(f"{first} {second}", outcome=outcome)
        self.second = second


@pytest.mark.parametrize("way", WAYS)
def test_an_error_that_a_caller_made_of_ours_comes_through(way: str) -> None:
    again = WAYS[way](CallersOwn("a", 2, outcome=FAILED))
    assert (str(again), again.second, again.outcome, again.job_id) == ("a 2", 2, FAILED, "x")


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Guard):
        return all(getattr(one, name) == getattr(other, name) for name in Guard.__slots__)
    return type(one) is type(other) and bool(one == other) and repr(one) == repr(other)


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("way", WAYS)
def test_every_type_of_data_comes_through_whole(name: str, way: str) -> None:
    assert _same(WAYS[way](DATA[name]), DATA[name])


@pytest.mark.parametrize("way", WAYS)
def test_what_unset_is_stays_one_object(way: str) -> None:
    assert WAYS[way](Job(1, "label_response", "t")).tool_result is UNSET


@pytest.mark.parametrize("way", WAYS)
def test_an_inspection_and_statistics_come_through_whole(way: str) -> None:
    inspection = guardpool.inspect(b"\0asm\1\0\0\0")
    assert isinstance(inspection, Inspection)
    assert WAYS[way](inspection) == inspection
    hints = PoolStats.__annotations__
    stats = PoolStats(**{name: {} for name in hints})
    assert WAYS[way](stats) == stats


@pytest.mark.parametrize("name", OUTCOMES)
@pytest.mark.parametrize("way", WAYS)
def test_an_outcome_comes_through_whether_its_label_was_read_or_not(name: str, way: str) -> None:
    outcome = copy.copy(OUTCOMES[name])
    before = WAYS[way](outcome)
    label = outcome.label
    after = WAYS[way](outcome)
    assert before == after == outcome
    assert before.label == after.label == label
    assert encode_outcome(before) == encode_outcome(after) == encode_outcome(outcome)


@pytest.mark.parametrize("name", OUTCOMES)
def test_an_outcome_is_the_same_dict_before_and_after_its_label_was_read(name: str) -> None:
    outcome = WAYS["pickle 5"](OUTCOMES[name])
    line = json.loads(encode_outcome(outcome))
    plain, encoded = msgspec.to_builtins(outcome), msgspec.json.encode(outcome)
    assert outcome.to_dict() == line
    assert outcome.label == outcome.label
    assert outcome.to_dict() == line
    assert list(outcome.to_dict()) == list(line)
    assert json.loads(encode_outcome(outcome)) == line
    assert msgspec.to_builtins(outcome) == plain
    assert msgspec.json.encode(outcome) == encoded
    if name != "a label of the caller's":  # its sets are the caller's; to_dict sorts them
        assert plain["label"] == json.loads(encoded)["label"] == line["label"]


def test_a_label_is_decoded_once() -> None:
    outcome = stored("label_resource", RESOURCE)
    assert outcome.label is outcome.label


# A program of a caller's. In a process of its own, because `multiprocessing` leaves a helper process behind that lives as long.
PROGRAM = """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from guardpool import JobError, Outcome, OutcomeError, Status

ERROR = OutcomeError("trap", "unreachable", trap="unreachable", backend=("b", "a"))

def fail(status):
    Outcome("id", "g", "label_resource", "t", Status(status), None, ERROR, 1, 1).raise_for_status()

if __name__ == "__main__":
    failures = [status for status in Status if status is not Status.OK]
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        for status, future in [(status, executor.submit(fail, status.value)) for status in failures]:
            error = future.exception(timeout=60)
            assert isinstance(error, JobError), repr(error)
            assert (error.outcome.status, error.outcome.error) == (status, ERROR)
            assert (error.job_id, error.guard) == ("id", "g")
            print(type(error).__name__, error)
"""


def test_job_errors_cross_a_process_pool(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM, encoding="utf-8")
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=120, check=False)
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == len(Status) - 1
    assert "GuardTrapped job 'id': trap: unreachable" in done.stdout
