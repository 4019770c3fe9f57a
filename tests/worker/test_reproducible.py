"""What a guard of a deterministic pool is told of time and chance follows from the job alone."""

from __future__ import annotations

from hashlib import blake2b

import pytest
from hypothesis import given, strategies as st

import enginekit
import guardkit
from guardpool.labels import ResourceLabel, label_from_json
from guardpool_worker.instance import CallResult, GuardInstance, InstanceSettings
from guardpool_worker.reproducible import JobWorld
from guardpool_worker.wasi import RANDOM_CHUNK_BYTES, Random
from paths import GUARDS

SEED = b"a guard"
JOB = ("label_resource", b'{"tool_name":"t"}')


class Bytes:
    """A guard's memory."""

    def __init__(self, size: int) -> None:
        self.all = memoryview(bytearray(size))

    def view(self, end: int) -> memoryview:
        return self.all


def drawn(job: tuple[str, bytes], *lengths: int, seed: bytes = SEED) -> bytes:
    """The random bytes of a job that draws so many at each call."""
    memory = Bytes(sum(lengths) + 5)
    world = JobWorld(seed)
    fill = Random(memory, world.draw).fill
    world.begin("label_resource", b"the job before")
    fill(0, 5)
    memory.all[:5] = bytes(5)
    world.begin(*job)
    at = 0
    for length in lengths:
        assert fill(at, length) == 0
        at += length
    assert bytes(memory.all[at:]) == bytes(5), "more than its range was filled"
    return bytes(memory.all[:at])


def test_random_bytes_are_blocks_of_blake2b_over_a_key_and_a_counter() -> None:
    key = blake2b(b"label_resource\0" + JOB[1], key=SEED).digest()
    blocks = [blake2b(key + bytes([number, 0, 0, 0, 0, 0, 0, 0])).digest() for number in range(3)]
    assert drawn(JOB, 150) == b"".join(blocks)[:150]


@given(st.lists(st.integers(0, 200), max_size=12))
def test_one_call_draws_what_several_draw(lengths: list[int]) -> None:
    assert drawn(JOB, *lengths) == drawn(JOB, sum(lengths))


def test_a_long_range_is_one_stream() -> None:
    long = drawn(JOB, 2 * RANDOM_CHUNK_BYTES + 100)
    assert long == drawn(JOB, RANDOM_CHUNK_BYTES - 7, RANDOM_CHUNK_BYTES + 107)
    assert len({long[at : at + 64] for at in range(0, len(long) - 64, 64)}) == len(long) // 64


def test_operation_input_and_guard_give_other_bytes() -> None:
    jobs = [JOB, ("label_response", JOB[1]), (JOB[0], JOB[1] + b" "), ("label_agent", JOB[1])]
    assert len({*(drawn(job, 32) for job in jobs), drawn(JOB, 32, seed=b"another")}) == 5


def test_clocks_begin_at_the_jobs_time_and_are_later_at_each_reading() -> None:
    world = JobWorld(SEED)
    assert [world.read(0), world.read(1)] == [0, 1000]
    world.begin(*JOB, 1_700_000_000_250_000)
    assert [world.read(clock) for clock in (0, 3, 1)] == [1_700_000_000_250_000_000 + 1000 * at for at in range(3)]
    world.begin(*JOB)
    assert world.read(2) == 0


# --- in a guard


def told(instance: GuardInstance, payload: bytes = guardkit.RESOURCE, time_us: int = 0) -> tuple[bytes, int, int]:
    """The random bytes and the two clocks that a job of the guard `tells_the_world` tells of."""
    result = instance.call("label_resource", payload, time_us)
    assert result.label is not None, result.error
    label = label_from_json("label_resource", result.label)
    assert isinstance(label, ResourceLabel)
    raw = bytes.fromhex(label.description.translate({97 + digit: f"{digit:x}" for digit in range(16)}))
    return raw[:16], int.from_bytes(raw[16:24], "little"), int.from_bytes(raw[24:], "little")


@pytest.fixture(scope="module")
def instance() -> GuardInstance:
    made = guardkit.instance("tells_the_world", seed=SEED)
    made.label_agent(guardkit.POLICY)
    return made


def of_two_tries(payload: bytes) -> bytes:
    """What `tells_the_world` draws: 4 bytes in its first try, 12 in its second."""
    job = ("label_resource", payload)
    return drawn(job, 4) + drawn(job, 12)


def test_a_second_try_begins_with_the_jobs_bytes_again(instance: GuardInstance) -> None:
    assert told(instance) == (of_two_tries(guardkit.RESOURCE), 0, 1000)


def test_a_job_is_told_the_same_in_one_try_and_in_two() -> None:
    # The buffer for its answer of 5 MB stays for the next job, which then needs no second try.
    agent = b'{"agent":{"secrecy":[],"integrity":[]},"difc_mode":"filter","normalized_policy":{}}'
    head = b'{"resource":{"description":"'
    answer = head + b'....","secrecy":[],"integrity":[]},"operation":"read"}'
    agent_data, answer_data = ("".join(f"\\{byte:02x}" for byte in data) for data in (agent, answer))
    letters = f"(i32.const {1024 + len(head)})"
    wasm = enginekit.wat_to_wasm(f"""(module
      (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
      (memory (export "memory") 300)
      (data (i32.const 1024) "{answer_data}") (data (i32.const 2048) "{agent_data}")
      (func (export "label_agent") (param i32 i32 i32 i32) (result i32)
        (memory.copy (local.get 2) (i32.const 2048) (i32.const {len(agent)})) (i32.const {len(agent)}))
      (func (export "label_response") (param i32 i32 i32 i32) (result i32) (i32.const 0))
      (func (export "label_resource") (param i32 i32 i32 i32) (result i32)
        (drop (call $random {letters} (i32.const 4)))
        (i32.store {letters} (i32.or (i32.const 0x61616161) (i32.and (i32.const 0x0f0f0f0f) (i32.load {letters}))))
        (if (i32.lt_u (local.get 3) (i32.const 5000000))
          (then (i32.store (local.get 2) (i32.const 5000000)) (return (i32.const -2))))
        (memory.fill (local.get 2) (i32.const 32) (i32.const 5000000))
        (memory.copy (local.get 2) (i32.const 1024) (i32.const {len(answer)})) (i32.const 5000000)))""")
    guard = GuardInstance(guardkit.load(wasm), InstanceSettings("draws", seed=SEED))
    guard.label_agent(guardkit.POLICY)
    labels = [guard.call("label_resource", guardkit.RESOURCE).label for _ in range(3)]
    assert labels[0] is not None
    assert labels == [labels[0]] * 3


def test_a_job_is_told_the_same_whatever_came_before(instance: GuardInstance) -> None:
    first = told(instance, time_us=5_000_000)
    another = guardkit.instance("tells_the_world", seed=SEED)
    assert first[1:] == (5_000_000_000, 5_000_001_000)
    others = [told(instance, b'{"tool_name":"t%d"}' % number, number) for number in range(3)]
    assert len({first, *others}) == 4
    assert told(instance, time_us=5_000_000) == first == told(another, time_us=5_000_000)


def test_what_the_allocator_draws_and_reads_is_not_the_jobs() -> None:
    # A guard whose allocator draws and reads: it runs for the buffers of a large job, and for the larger output of the
    # second try, but only if no job before needed them.
    allocator = """
      (global $heap (mut i32) (i32.const 131072))
      (func (export "dealloc") (param i32 i32))
      (func (export "alloc") (param $size i32) (result i32)
        (local $ptr i32)
        (drop (call $random (i32.const 900) (i32.const 5)))
        (drop (call $clock (i32.const 0) (i64.const 1) (i32.const 912)))
        (local.set $ptr (global.get $heap))
        (global.set $heap (i32.add (local.get $ptr) (i32.and (i32.add (local.get $size) (i32.const 7)) (i32.const -8))))
        (drop (memory.grow (i32.add (i32.const 1) (i32.shr_u (local.get $size) (i32.const 16)))))
        (local.get $ptr))"""
    text = (GUARDS / "tells_the_world.wat").read_text(encoding="utf-8")
    text = text.replace("  (global $is_second", f"{allocator}\n  (global $is_second", 1)
    wasm = enginekit.wat_to_wasm(
        text.replace("(i32.const 70000)", "(i32.const 6000000)")
    )  # more than it is offered first
    instance = GuardInstance(guardkit.load(wasm), InstanceSettings("draws", seed=SEED))
    instance.label_agent(guardkit.POLICY)
    payload = b'{"tool_name":"%b"}' % (b"x" * 300_000)
    expected = (of_two_tries(payload), 0, 1000)
    assert [told(instance, payload), told(instance, payload)] == [expected, expected]
    assert bytes(instance.memory.bytes[900:905]) != bytes(5), "the allocator ran"


def test_a_guard_that_waits_for_time_to_pass_comes_to_an_end(instance: GuardInstance) -> None:
    assert instance.call("label_response", guardkit.RESPONSE) == CallResult("ok", b"null", None, 0, [])


def test_label_agent_draws_the_same_in_every_instance_with_the_same_policy() -> None:
    def answer(policy: bytes, **settings: bytes) -> bytes:
        return guardkit.instance("agent_random", **settings).label_agent(policy)

    other = guardkit.POLICY.replace(b"approved", b"none")
    assert answer(guardkit.POLICY, seed=SEED) == answer(guardkit.POLICY, seed=SEED)
    assert answer(guardkit.POLICY, seed=SEED) != answer(other, seed=SEED)
    assert answer(guardkit.POLICY, seed=SEED) != answer(guardkit.POLICY, seed=b"another")
    assert answer(guardkit.POLICY) != answer(guardkit.POLICY)


def test_without_a_seed_a_guard_has_the_machines_clocks_and_random_bytes() -> None:
    instance = guardkit.instance("tells_the_world")
    first, second = told(instance), told(instance)
    assert first[0] != second[0]
    assert 1_600_000_000 * 10**9 < first[1] < second[1]
