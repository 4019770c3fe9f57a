"""`guardpool.proving.prove`: labels that depend on more than the job are found, and by which change."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from msgspec import structs

import enginekit
from guardpool import CallerError, Guard, Job, samples
from guardpool.jobs import Prepared
from guardpool.machine.engines import ENGINE_NAMES, engine_problem
from guardpool.proving import Proof, Sample, prove
from poolkit import guard

COUNT = 24
OTHERS = [name for name in ENGINE_NAMES if name != enginekit.ENGINE_NAME]


def jobs() -> Iterator[Job]:
    """For the guard that cheats: in turns it counts, hashes with a random seed, looks at the clock, and is honest."""
    for number in range(COUNT):
        yield Job(number, "label_resource", f"{'crtk'[number % 4]}x", {"n": number}, time=number)


def kinds(proof: Proof, run: str) -> str:
    """The kinds of jobs that got another label in that run."""
    changed = {each.first.tool_name[0] for each in proof.differences if run in each.others and each.first.tool_name}
    return "".join(sorted(changed))


@pytest.fixture(scope="module")
def found() -> Proof:
    return prove(jobs(), [guard("cheats")], COUNT, engine=enginekit.ENGINE_NAME)


def test_what_a_guard_keeps_of_other_jobs_is_found(found: Proof) -> None:
    assert "c" not in kinds(found, "again")
    assert "c" in kinds(found, "shuffled")
    assert "c" in kinds(found, "isolated")


def test_random_seeds_and_clocks_are_found(found: Proof) -> None:
    for run in ("again", "deterministic"):
        assert kinds(found, run) == "rt"
    assert len(found.hashes) == len(set(found.hashes.values()))


def test_a_job_that_depends_on_nothing_else_is_not_among_them(found: Proof) -> None:
    assert not any(kinds(found, run).count("k") for run in found.hashes)
    assert not found.found_nothing
    first = found.differences[0]
    assert all(other.label_json != first.first.label_json for other in first.others.values())
    assert found.counts == {
        run: sum(run in each.others for each in found.differences) for run in found.hashes if run != "first"
    }


def test_isolated_and_deterministic_no_guard_can_cheat() -> None:
    proof = prove(jobs(), [guard("cheats")], COUNT, isolation="job", deterministic=True, engine=enginekit.ENGINE_NAME)
    assert proof.found_nothing
    assert len(set(proof.hashes.values())) == 1
    assert [*proof.hashes][:4] == ["first", "again", "shuffled", "4 workers"]


def test_both_engines_are_compared_where_both_are_here(found: Proof) -> None:
    for name in OTHERS:
        assert (name in found.hashes) == (engine_problem(name) is None)
        assert (name in found.skipped) == (engine_problem(name) is not None)


def test_a_guard_that_draws_its_agent_labels_is_found() -> None:
    proof = prove([], [guard("agent_random")], 1, engine=enginekit.ENGINE_NAME, isolation="job")
    assert {"again", "4 workers"} <= {*proof.agents["agent_random"]}
    assert (proof.jobs, proof.differences, proof.found_nothing) == (0, [], False)


def sample_guard() -> Guard:
    return Guard.from_file(samples.GUARD, name="github", policy=samples.POLICY, backend=samples.backend)


def test_the_sample_guard_depends_on_nothing_else_if_it_is_isolated() -> None:
    options = {"isolation": "job", "deterministic": True}
    proof = prove(samples.jobs(300), [sample_guard()], 40, engine=enginekit.ENGINE_NAME, **options)  # type: ignore[arg-type]
    assert (proof.jobs, proof.differences, proof.agents) == (40, [], {})


def test_what_the_sample_guard_remembers_is_found_where_a_job_is_about_more_than_20_repositories() -> None:
    few, many = list(samples.jobs(511))[500::10]
    jobs = [few, many, structs.replace(many, id="again")]
    proof = prove(jobs, [sample_guard()], 3, engine=enginekit.ENGINE_NAME)
    assert [difference.first.id for difference in proof.differences][-1] == "again"
    assert few.id not in [difference.first.id for difference in proof.differences]
    assert "isolated" in proof.differences[-1].others
    assert proof.differences[-1].others["isolated"].backend.asked == 20


def test_dicts_without_an_id_and_encoded_jobs_are_told_apart_as_they_are() -> None:
    plain = [{"op": "label_resource", "tool_name": "kx", "tool_args": {"n": number}} for number in range(5)]
    encoded = [
        Prepared(n, None, "label_resource", "kx", b'{"tool_name":"kx","tool_args":{"n":%d}}' % n) for n in range(5)
    ]
    hashes = set()
    for some in (plain, encoded):
        proof = prove(some, [guard("cheats")], 5, isolation="job", deterministic=True, engine=enginekit.ENGINE_NAME)
        hashes.update(proof.hashes.values())
    assert len(hashes) == 1


# --- the draw


def test_a_sample_is_drawn_by_its_seed_in_the_order_of_the_input() -> None:
    def drawn(seed: int) -> list[Any]:
        sample = Sample(10, seed)
        for number in range(1000):
            sample.add(number)
        return sample.drawn

    assert drawn(1) == drawn(1) == sorted(drawn(1))
    assert drawn(1) != drawn(2)
    assert len(set(drawn(1))) == 10
    places = [number for seed in range(200) for number in drawn(seed)]
    assert 400 < sum(places) / len(places) < 600, "the beginning or the end is preferred"


def test_few_jobs_are_all_drawn() -> None:
    sample = Sample(10)
    for number in range(3):
        sample.add(number)
    assert sample.drawn == [0, 1, 2]


@pytest.mark.parametrize("size", [0, -1, True, 2.5])
def test_a_sample_of_no_size_is_a_mistake(size: Any) -> None:
    with pytest.raises(CallerError, match="whole number from 1"):
        Sample(size)
