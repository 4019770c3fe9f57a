"""A label that came before is neither checked nor kept a second time, and is sound for its own operation alone."""

from __future__ import annotations

from typing import Any, cast

import pytest

from guardpool.labels import LabeledItem, Labels, Operation, PathLabel, ResourceLabel, ResponseLabel, label_to_json
from guardpool.outcomes import OutcomeError
from guardpool.protocol.wire import ResultItem
from guardpool.supervise import results
from guardpool.supervise.known_labels import KnownLabels
from guardpool.supervise.results import first_unsound, outcomes_of_results
from guardpool.supervise.scheduler import Task

TAGS = frozenset({"private:octo/widgets"})
RESOURCE = label_to_json(ResourceLabel("issue 1", TAGS, TAGS, Operation.READ))
RESPONSE = label_to_json(ResponseLabel((PathLabel("/0", "issue 1", TAGS, TAGS),)))
OLDER = label_to_json(ResponseLabel(items=(LabeledItem({"a": []}, Labels("issue 1", TAGS, TAGS)),)))
OPS = ("label_resource", "label_response")
MOST_LOGS = 1000


def tasks(*ops: str) -> list[Task]:
    return [Task(seq, 0, op, b"{}", 0, cast("Any", None), seq, seq, "t") for seq, op in enumerate(ops, 1)]


def items(*labels: Any, **changed: Any) -> list[ResultItem]:
    return [ResultItem(seq, changed.get("status", "ok"), label, 1, 0, []) for seq, label in enumerate(labels, 1)]


def vet(known: KnownLabels, op: str, *labels: Any) -> str | None:
    return first_unsound(tasks(*[op] * len(labels)), items(*labels), MOST_LOGS, known)


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The labels that were checked."""
    found: list[bytes] = []

    def check(op: str, real: Any) -> Any:
        def noted(raw: bytes) -> object:
            found.append(raw)
            return real(raw)

        return noted

    monkeypatch.setattr(results, "_CHECK", {op: check(op, real) for op, real in results._CHECK.items()})
    return found


def test_a_label_is_checked_once(checked: list[bytes]) -> None:
    known = KnownLabels()
    for _ in range(3):
        assert vet(known, OPS[0], RESOURCE) is None
        assert vet(known, OPS[1], RESPONSE) is None
    assert checked == [RESOURCE, RESPONSE]


@pytest.mark.parametrize(("op", "label"), [(OPS[0], RESPONSE), (OPS[1], RESOURCE)])
def test_a_label_that_is_known_is_sound_for_its_own_operation_alone(op: str, label: bytes) -> None:
    known = KnownLabels()
    assert vet(known, OPS[0], RESOURCE) is None
    assert vet(known, OPS[1], RESPONSE) is None
    assert "holds no label" in (vet(known, op, label) or "")


def test_nothing_is_learned_of_a_frame_that_holds_a_lie(checked: list[bytes]) -> None:
    known = KnownLabels()
    for lie in (b"{}", RESOURCE + b"\n", OutcomeError("trap", "")):
        assert vet(known, OPS[0], RESOURCE, lie) is not None
    assert vet(known, OPS[0], RESOURCE + b"\n") is not None
    del checked[:]
    assert vet(known, OPS[0], RESOURCE) is None
    assert checked == [RESOURCE]


def test_a_status_that_is_an_error_is_not_excused_by_a_label_that_is_known() -> None:
    known = KnownLabels()
    assert vet(known, OPS[0], RESOURCE) is None
    assert first_unsound(tasks(OPS[0]), items(RESOURCE, status="refused"), MOST_LOGS, known) is not None


def outcomes(known: KnownLabels, op: str, label: bytes) -> list[Any]:
    assert vet(known, op, label) is None
    return outcomes_of_results(tasks(op, op), items(label, label), ["g"], False, known=known)


@pytest.mark.parametrize(("op", "label"), [(OPS[0], RESOURCE), (OPS[1], RESPONSE)])
def test_outcomes_share_a_label_that_is_known(op: str, label: bytes) -> None:
    one, other = outcomes(KnownLabels(), op, bytes(bytearray(label)))
    assert one.label_json == label
    assert one.label is other.label
    assert one.label is not None


def test_what_a_reader_may_change_is_not_shared() -> None:
    one, other = outcomes(KnownLabels(), OPS[1], OLDER)
    one.label.items[0].data["a"].append(1)
    assert other.label.items[0].data == {"a": []}


def test_no_label_is_none_for_every_outcome(checked: list[bytes]) -> None:
    known = KnownLabels()
    for _ in range(2):
        assert [outcome.label for outcome in outcomes(known, OPS[1], b"null")] == [None, None]
    assert "holds no label" in (vet(known, OPS[0], b"null") or "")


def test_so_many_bytes_are_known_and_then_all_are_forgotten(checked: list[bytes]) -> None:
    known = KnownLabels(max_bytes=2 * len(RESOURCE) + 1)
    others = [RESOURCE.replace(b"issue 1", b"issue %d" % number) for number in range(2, 5)]
    assert vet(known, OPS[0], RESOURCE, RESOURCE) is None
    assert vet(known, OPS[0], *others) is None  # only the first of these still fits; with the second all are forgotten
    assert sum(map(len, known.by_op[OPS[0]])) <= 2 * len(RESOURCE) + 1
    del checked[:]
    assert vet(known, OPS[0], *others, RESOURCE) is None
    assert checked == [others[0], RESOURCE]


def test_a_long_label_is_not_kept() -> None:
    known = KnownLabels()
    long = label_to_json(ResourceLabel("x" * 20_000, TAGS, TAGS, Operation.READ))
    assert vet(known, OPS[0], long) is None
    assert not known.by_op[OPS[0]]
