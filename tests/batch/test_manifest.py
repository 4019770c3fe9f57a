"""The hash over all labels of a run tells two runs apart if, and only if, a job got another label."""

from __future__ import annotations

import random
from hashlib import sha256, shake_128

import msgspec
import pytest
from hypothesis import given, strategies as st

from guardpool.batch import ManifestHash, manifest_hash
from guardpool.labels import ResourceLabel
from guardpool.outcomes import Outcome, OutcomeError, Status, StoredLabel

LABEL = b'{"description":"%b","secrecy":["a","b"],"integrity":[],"operation":"read"}'


def outcome(
    job_id: object = 1, text: bytes = b"x", guard: str = "g", op: str = "label_resource", us: int = 5
) -> Outcome:
    return Outcome(job_id, guard, op, "t", Status.OK, StoredLabel(LABEL % text), None, us, 1)  # type: ignore[arg-type]


def without_label(status: Status, job_id: int = 1) -> Outcome:
    return Outcome(job_id, "g", "label_resource", "t", status, None, OutcomeError("x", "x"))


@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from([b"x", b"y"])), max_size=8), st.randoms(), st.integers(0, 8)
)
def test_neither_order_nor_portions_count(pairs: list[tuple[int, bytes]], draw: random.Random, portion: int) -> None:
    outcomes = [outcome(*pair) for pair in pairs]
    expected = manifest_hash(outcomes)
    draw.shuffle(outcomes)
    made = ManifestHash()
    made.add(outcomes[:portion])
    made.hexdigest()
    made.add(outcomes[portion:])
    assert made.hexdigest() == expected


def test_whatever_makes_another_label_of_a_job_makes_another_hash() -> None:
    one, two = outcome(1, b"x"), outcome(2, b"y")
    runs = [
        *([], [one], [two], [one, one], [one, two]),
        *([outcome(1, b"y"), outcome(2, b"x")], [one, outcome(2, b"z")], [one, two, two]),
        *([outcome("1")], [outcome(True)], [outcome(1.0)], [outcome(None)]),
        *([outcome(guard="h")], [outcome(op="label_response")], [without_label(Status.TRAP)]),
    ]
    assert len({manifest_hash(run) for run in runs}) == len(runs)


def test_times_and_reasons_do_not_count() -> None:
    assert manifest_hash([outcome(us=1)]) == manifest_hash([outcome(us=2)])
    assert manifest_hash([without_label(Status.TRAP)]) == manifest_hash([without_label(Status.TIMEOUT)])


def test_a_label_counts_alike_whether_it_was_read_or_not() -> None:
    read, plain = outcome(), outcome()
    assert isinstance(read.label, ResourceLabel)
    assert manifest_hash([read]) == manifest_hash([plain])


def test_the_hash_is_what_others_can_compute() -> None:
    pairs = [
        b'[1,"g","label_resource",{"description":"x","secrecy":["a","b"],"integrity":[],"operation":"read"}]',
        b'["two","g","label_resource",{"description":"y","secrecy":["a","b"],"integrity":[],"operation":"read"}]',
        b'[3,"g","label_resource",null]',
        b'[1e999,"g","label_resource",{"description":"x","secrecy":["a","b"],"integrity":[],"operation":"read"}]',
    ]
    total = sum(int.from_bytes(shake_128(pair).digest(512), "little") for pair in pairs) % 2**4096
    expected = sha256(total.to_bytes(512, "little") + bytes([4, 0, 0, 0, 0, 0, 0, 0])).hexdigest()
    outcomes = [outcome(1), outcome("two", b"y"), without_label(Status.REFUSED, 3), outcome(msgspec.Raw(b"1e999"))]
    assert manifest_hash(outcomes) == expected


def test_an_id_that_is_no_scalar_of_json_is_an_error() -> None:
    with pytest.raises(TypeError):
        manifest_hash([outcome(object())])
