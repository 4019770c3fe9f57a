"""A guard's instance: each rule of the contract about calls, answers, buffers, the backend and the log."""

from __future__ import annotations

import gc
import json
import re
import weakref
from collections.abc import Iterator

import pytest

import enginekit
import guardkit
from guardpool.errors import GuardInitError, HostError
from guardpool.outcomes import LogLine, OutcomeError
from guardpool.protocol.wire import MAX_RESULT_BYTES
from guardpool_worker.backend import MAX_ARGS_BYTES, BackendError
from guardpool_worker.instance import CallResult, GuardInstance

MIB = 1024 * 1024
RESOURCE_OK = b'{"description":"ok","secrecy":[],"integrity":[],"operation":"read"}'


def resource(guard: GuardInstance, payload: bytes = guardkit.RESOURCE) -> CallResult:
    return guard.call("label_resource", payload)


def error(result: CallResult) -> OutcomeError:
    assert result.label is None
    assert result.error is not None
    assert result.error.message
    assert "\n" not in result.error.message
    return result.error


def padded(size: int) -> bytes:
    """An input of exactly `size` bytes."""
    frame = b'{"tool_name":"t","tool_args":""}'
    return frame[:-2] + b"x" * (size - len(frame)) + frame[-2:]


# ---- a plain call ----


@pytest.mark.parametrize("name", ["good", "no_alloc"])
def test_guard_is_initialised_and_labels(name: str) -> None:
    guard = guardkit.instance(name)
    assert json.loads(guard.label_agent(guardkit.POLICY))["difc_mode"] == "filter"
    result = resource(guard)
    assert (result.status, result.error, result.logs, result.backend_calls) == ("ok", None, [], 0)
    assert result.label is not None
    assert json.loads(result.label)["operation"] == "read"
    assert guard.call("label_response", guardkit.RESPONSE).status == "ok"
    assert not guard.dead


def test_labels_come_in_their_canonical_form() -> None:
    label = guardkit.instance("good").call("label_response", guardkit.RESPONSE).label
    assert label == (
        b'{"labeled_paths":[{"path":"/items/0","description":"","secrecy":["a","b"],"integrity":[]}],'
        b'"default_labels":null,"items_path":"/items"}'
    )


def test_empty_answer_of_label_response_is_null() -> None:
    result = guardkit.instance("no_alloc").call("label_response", guardkit.RESPONSE)
    assert (result.status, result.label) == ("ok", b"null")


def test_payload_may_be_a_view() -> None:
    assert resource(guardkit.instance("no_alloc"), memoryview(b"--" + guardkit.RESOURCE)[2:]).status == "ok"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "code"),
    [("answer_not_json", "not JSON"), ("answer_empty", "empty answer"), ("answer_no_resource", "resource")],
)
def test_answer_that_breaks_the_contract_is_invalid(name: str, code: str) -> None:
    guard = guardkit.instance(name)
    result = resource(guard)
    assert (result.status, error(result).code) == ("invalid", "invalid_answer")
    assert code in error(result).message
    assert not guard.dead


def test_response_without_labels_is_ok() -> None:
    result = guardkit.instance("answer_no_resource").call("label_response", guardkit.RESPONSE)
    assert (result.status, result.label) == ("ok", b"null")


@pytest.mark.parametrize(("op", "code"), [("label_resource", -7), ("label_response", -(2**31))])
def test_negative_code_is_a_refusal(op: str, code: int) -> None:
    guard = guardkit.instance("refuse")
    result = guard.call(op, guardkit.RESPONSE)
    assert (result.status, error(result).code, error(result).guard_code) == ("refused", "guard_refused", code)
    assert resource(guard).status == "refused"


@pytest.mark.parametrize("name", ["answer_past_buffer", "answer_huge_length"])
def test_length_past_the_buffer_is_invalid(name: str) -> None:
    result = resource(guardkit.instance(name))
    assert (result.status, error(result).code) == ("invalid", "answer_past_buffer")


def test_length_of_the_whole_buffer_is_read() -> None:
    result = resource(guardkit.instance("too_small_hint"))
    assert (result.status, result.label) == ("ok", RESOURCE_OK)


# ---- initialisation ----


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("refuse_agent", "label_agent: label_agent returned -3"),
        ("agent_bad_answer", "label_agent: .* not JSON"),
        ("agent_empty", "label_agent: .* empty answer"),
        ("agent_traps", r"label_agent: trapped \(unreachable\)"),
    ],
)
def test_label_agent_that_fails_is_an_init_error(name: str, message: str) -> None:
    guard = guardkit.instance(name)
    with pytest.raises(GuardInitError, match=message) as failed:
        guard.label_agent(guardkit.POLICY)
    assert failed.value.guard == name
    assert name in str(failed.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("start_traps", r"the start function: trapped \(unreachable\)"),
        ("data_outside", r"the start function: trapped \(memory_out_of_bounds\)"),
        ("initialize_traps", r"_initialize: trapped \(unreachable\)"),
        ("initialize_exits", r"_initialize: the guard called proc_exit\(0\)"),
        ("alloc_traps", r"alloc: trapped \(unreachable\)"),
        ("alloc_zero", "no room for an input buffer .*raise memory_pages"),
        ("alloc_outside", r"alloc\(65536\) returned 131064, but its memory has only 131072 bytes"),
        ("alloc_negative", r"alloc\(65536\) returned 4294967295"),
        ("alloc_overlap", "that it had given out already"),
        ("no_room", "no room for an input buffer .*raise memory_pages"),
    ],
)
def test_instance_that_cannot_be_made_is_an_init_error(name: str, message: str) -> None:
    with pytest.raises(GuardInitError, match=message) as failed:
        guardkit.instance(name)
    assert failed.value.guard == name


def test_lines_logged_while_initialising_are_kept_apart() -> None:
    guard = guardkit.instance("agent_logs")
    guard.label_agent(guardkit.POLICY)
    lines = [LogLine(1, "initialize"), LogLine(2, "agent")]
    assert [line for line in guard.init_logs if "alloc" not in line.text] == lines[:1] + lines[1:]
    assert resource(guard).logs == []


def test_start_function_may_call_the_host_before_it_is_linked() -> None:
    guard = guardkit.instance("start_logs", backend=lambda tool, args: b"1")
    assert resource(guard).status == "ok"
    assert resource(guard).logs == []


def test_last_line_before_a_fatal_trap_is_in_the_message() -> None:
    wasm = enginekit.wat_to_wasm(
        """(module (import "env" "host_log" (func $log (param i32 i32 i32))) (memory (export "memory") 1)
        (data (i32.const 0) "panicked: no policy")
        (func (export "_initialize") (call $log (i32.const 3) (i32.const 0) (i32.const 19)) unreachable)
        (func (export "label_agent") (export "label_resource") (export "label_response")
          (param i32 i32 i32 i32) (result i32) (i32.const 0)))"""
    )
    with pytest.raises(GuardInitError, match="it last logged: panicked: no policy"):
        GuardInstance(guardkit.load(wasm), guardkit.InstanceSettings("g"))


# ---- traps and exits ----


def test_trap_ends_the_instance() -> None:
    guard = guardkit.instance("trap_unreachable")
    result = resource(guard)
    assert (result.status, error(result).code, error(result).trap) == ("trap", "trap", "unreachable")
    assert guard.dead
    with pytest.raises(HostError, match="cannot be called again"):
        resource(guard)


def test_lines_logged_before_a_trap_are_kept() -> None:
    result = resource(guardkit.instance("logs_then_traps"))
    assert (result.status, result.logs) == ("trap", [LogLine(2, "last word")])


@pytest.mark.parametrize(("name", "code"), [("exit_nonzero", 3), ("exit_negative", 2**32 - 1)])
def test_exit_with_a_code_ends_the_instance(name: str, code: int) -> None:
    guard = guardkit.instance(name)
    result = resource(guard)
    assert (result.status, error(result).trap, error(result).exit_code) == ("trap", "exit", code)
    assert guard.dead


def test_exit_with_code_0_costs_the_answer_only() -> None:
    guard = guardkit.instance("exit_zero")
    for _ in range(20):
        result = resource(guard, padded(100))
        assert (result.status, error(result).code, error(result).exit_code) == ("invalid", "exited", 0)
        assert not guard.dead
        assert resource(guard, padded(60)).status == "ok"
    result = resource(guard, padded(1001))
    assert (result.status, error(result).trap) == ("trap", "unreachable"), "an exit is not remembered"


def test_trap_in_dealloc_ends_the_instance() -> None:
    guard = guardkit.instance("dealloc_traps")
    assert resource(guard).status == "ok"
    result = resource(guard, padded(100_000))
    assert (result.status, error(result).trap) == ("trap", "unreachable")
    assert guard.dead


# ---- memory ----


@pytest.mark.parametrize("pages", [100, 512])
def test_memory_never_grows_past_the_cap(pages: int) -> None:
    guard = guardkit.instance("pages", memory_pages=pages)
    assert error(resource(guard)).guard_code == -pages
    assert guard.memory.size() == pages * 65536


def test_guard_that_fills_its_memory_still_answers() -> None:
    guard = guardkit.instance("memory_bomb")
    for _ in range(3):
        assert resource(guard).status == "ok"


# ---- the input buffer ----


def sizes() -> Iterator[int]:
    for power in (6, 16, 17, 20, 21):
        yield from (2**power - 1, 2**power, 2**power + 1)
    yield from (100, 8 * MIB, 100)


@pytest.mark.parametrize("name", ["no_alloc", "no_alloc_grows", "backend"])
def test_inputs_of_every_size_arrive_whole(name: str) -> None:
    seen = []

    def backend(tool: str, args: bytes) -> bytes:
        seen.append(args)
        return b"0"

    guard = guardkit.instance(name, backend=backend)
    for size in sizes():
        result = resource(guard, padded(size))
        if name == "backend":
            assert error(result).guard_code == 1 - 100_000 if size <= MAX_ARGS_BYTES else -100_001
        else:
            assert (size, result.status) == (size, "ok")
    if name == "backend":
        assert seen == [padded(size) for size in sizes() if size <= MAX_ARGS_BYTES]


def test_empty_input_reaches_the_guard() -> None:
    assert resource(guardkit.instance("good"), b"").status == "ok"


def test_input_too_large_for_the_guard_is_invalid_and_the_next_is_ok() -> None:
    guard = guardkit.instance("alloc_small")
    assert resource(guard).status == "ok"
    result = resource(guard, padded(300_000))
    assert (result.status, error(result).code) == ("invalid", "no_room")
    assert "300000 bytes" in error(result).message
    assert resource(guard).status == "ok"
    assert not guard.dead


def test_buffer_of_a_huge_input_goes_back_to_the_guard() -> None:
    guard = guardkit.instance("alloc_frees")
    ordinary = error(resource(guard)).guard_code
    assert error(resource(guard, padded(8 * MIB))).guard_code == -(8 + 4) * MIB
    assert error(resource(guard)).guard_code == ordinary == -(64 * 1024 + 4 * MIB)


def test_buffers_above_two_gigabytes_work() -> None:
    guard = guardkit.instance("alloc_high", memory_pages=65536)
    assert guard._buffers.out_ptr > 2**31
    assert resource(guard).label == RESOURCE_OK
    assert resource(guard, padded(200_000)).label == RESOURCE_OK


def test_guard_without_an_allocator_is_warned_of_once() -> None:
    guard = guardkit.instance("no_alloc", log_threshold=2)
    assert [line.level for line in guard.init_logs] == [2]
    assert "alloc" in guard.init_logs[0].text
    assert resource(guard).logs == []
    assert guardkit.instance("good").init_logs == []


def test_buffers_of_a_guard_without_an_allocator_are_new_memory() -> None:
    guard = guardkit.instance("no_alloc")
    buffers = guard._buffers
    assert min(buffers.in_ptr, buffers.out_ptr) >= 2 * 65536
    assert guard.memory.size() == (2 + 1 + 64 + 1) * 65536


def test_memory_that_a_guard_grew_itself_is_left_to_it() -> None:
    guard = guardkit.instance("no_alloc_grows")
    resource(guard)
    page = guard.memory.size() - 65536
    for size in (100_000, 3 * MIB, 50, 6 * MIB):
        assert resource(guard, padded(size)).status == "ok"
        assert bytes(guard.memory.bytes[page : page + 65536]) == b"\xaa" * 65536


def test_buffers_grow_in_place_at_the_end_of_memory() -> None:
    guard = guardkit.instance("too_small_no_hint")
    for _ in range(20):
        assert resource(guard).status == "ok"
        assert resource(guard, padded(2 * MIB)).status == "ok"
    assert guard.memory.size() < 24 * MIB


def test_buffers_of_a_memory_that_cannot_grow_are_at_its_end() -> None:
    guard = guardkit.instance("no_alloc_fixed")
    assert resource(guard).label == RESOURCE_OK
    assert guard._buffers.in_ptr >= 65536
    assert resource(guard, padded(400_000)).label == RESOURCE_OK
    assert error(resource(guard, padded(MIB))).code == "no_room"
    assert resource(guard).label == RESOURCE_OK


def test_guard_with_three_pages_of_memory_works() -> None:
    guard = guardkit.instance("tiny")
    assert resource(guard).label == RESOURCE_OK
    assert error(resource(guard, padded(200_000))).code == "no_room"
    assert resource(guard).label == RESOURCE_OK


# ---- the output buffer and -2 ----


def calls(guard: GuardInstance) -> int:
    """How often the guard was called; the guards of this section count it at address 1024."""
    return int.from_bytes(guard.memory.bytes[1024:1028], "little")


def test_buffer_grows_to_the_size_the_guard_asks_for() -> None:
    guard = guardkit.instance("too_small_hint")
    assert resource(guard).label == RESOURCE_OK
    assert calls(guard) == 2
    assert guard._buffers.out_size == 6 * MIB
    assert resource(guard).label == RESOURCE_OK
    assert calls(guard) == 3, "the larger buffer is kept while it is needed"


def test_buffer_doubles_if_the_guard_names_no_size() -> None:
    guard = guardkit.instance("too_small_no_hint")
    assert resource(guard).label == RESOURCE_OK
    assert calls(guard) == 3
    assert guard._buffers.out_size == 16 * MIB


def test_buffer_that_grew_goes_back_when_it_is_not_needed() -> None:
    guard = guardkit.instance("too_small_no_hint")
    resource(guard)
    guard.call("label_response", guardkit.RESPONSE)
    resource(guard, padded(60))
    assert calls(guard) == 6, "the answer in between was short"


def test_guard_gets_three_tries_to_fit_its_answer() -> None:
    guard = guardkit.instance("too_small_forever")
    result = resource(guard)
    assert (result.status, error(result).code) == ("invalid", "output_too_large")
    assert calls(guard) == 3
    result = resource(guardkit.instance("too_small_creeping"))
    assert (result.status, error(result).code) == ("invalid", "output_too_large")
    assert "4194306" in error(result).message


def test_guard_cannot_ask_for_more_than_the_ceiling() -> None:
    result = resource(guardkit.instance("too_small_over_ceiling"))
    assert (result.status, error(result).code) == ("invalid", "output_too_large")
    assert "16777217" in error(result).message


def test_hint_of_an_earlier_call_is_not_taken_for_this_one() -> None:
    guard = guardkit.instance("too_small_forever")
    out = guard._buffers.out_ptr
    guard.memory.bytes[out : out + 4] = (0x1000001).to_bytes(4, "little")
    resource(guard)
    assert calls(guard) == 3


def test_guard_that_asks_for_a_smaller_buffer_gets_one() -> None:
    guard = guardkit.instance("too_small_smaller")
    result = resource(guard)
    assert (result.status, error(result).code) == ("invalid", "answer_past_buffer")
    assert "1000 bytes" in error(result).message
    whole = guard.call("label_response", guardkit.RESPONSE)
    assert error(whole).guard_code == -4 * MIB, "the next call gets the whole buffer again"


def test_input_is_written_again_for_each_try() -> None:
    assert resource(guardkit.instance("too_small_input_changed")).label == RESOURCE_OK


def test_larger_buffer_that_does_not_fit_into_memory_is_invalid() -> None:
    guard = guardkit.instance("too_small_hint", memory_pages=80)
    result = resource(guard)
    assert (result.status, error(result).code) == ("invalid", "no_room")


def test_answer_longer_than_the_limit_is_invalid() -> None:
    assert resource(guardkit.instance("no_alloc", max_output_bytes=80)).status == "ok"
    result = resource(guardkit.instance("no_alloc", max_output_bytes=79))
    assert (result.status, error(result).code) == ("invalid", "output_too_large")
    assert "79" in error(result).message
    result = resource(guardkit.instance("too_small_hint", max_output_bytes=5 * MIB))
    assert (result.status, error(result).code) == ("invalid", "output_too_large")


def test_a_label_leaves_room_for_the_log_in_its_frame() -> None:
    label = resource(guardkit.instance("good")).label
    room = MAX_RESULT_BYTES - len(label or b"")
    assert resource(guardkit.instance("good", max_log_bytes=room)).status == "ok"
    result = resource(guardkit.instance("good", max_log_bytes=room + 1))
    assert (result.status, error(result).code) == ("invalid", "output_too_large")


def test_answer_of_millions_of_objects_is_invalid_before_it_is_decoded() -> None:
    guard = guardkit.instance("label_grows")
    result = guard.call("label_response", padded(300))
    assert (result.status, error(result).code) == ("invalid", "output_too_large")
    assert "more than 1000000 objects and arrays" in error(result).message


# ---- call_backend ----


def test_backend_gets_tool_and_arguments_and_its_result_arrives() -> None:
    asked = []

    def backend(tool: str, args: bytes) -> bytes:
        asked.append((tool, args))
        return b'{"private":true}'

    guard = guardkit.instance("backend", backend=backend)
    result = resource(guard)
    assert asked == [("get_issue", guardkit.RESOURCE)]
    assert error(result).guard_code == 16 - 100_000
    assert bytes(guard.memory.bytes[2048:2064]) == b'{"private":true}'
    assert result.backend_calls == 1
    assert resource(guard).backend_calls == 1


@pytest.mark.parametrize(
    ("size", "answer"), [(64, 64), (65, -2), (5 * MIB, -2)], ids=["exactly", "one byte too many", "far too large"]
)
def test_backend_result_that_does_not_fit_is_minus_two(size: int, answer: int) -> None:
    guard = guardkit.instance("backend", backend=lambda tool, args: b"1" * size)
    assert error(resource(guard)).guard_code == answer - 100_000
    if answer == -2:
        assert int.from_bytes(guard.memory.bytes[2048:2052], "little") == size
        assert bytes(guard.memory.bytes[2052:2056]) == b"\0" * 4


def test_call_backend_without_a_backend_is_minus_one() -> None:
    result = resource(guardkit.instance("backend"))
    assert error(result).guard_code == -1 - 100_000
    assert result.backend_calls == 0


@pytest.mark.parametrize("exception", [BackendError("HTTP 503"), ValueError("HTTP 503"), RecursionError("HTTP 503")])
def test_backend_that_fails_is_minus_one_and_in_the_result(exception: Exception) -> None:
    def backend(tool: str, args: bytes) -> bytes:
        raise exception

    guard = guardkit.instance("backend", backend=backend)
    result = resource(guard)
    assert error(result).guard_code == -1 - 100_000
    assert result.backend_calls == 1
    assert error(result).backend == result.backend_errors
    assert len(result.backend_errors) == 1
    assert result.backend_errors[0].startswith("get_issue: ")
    assert "HTTP 503" in result.backend_errors[0]
    assert resource(guardkit.instance("good")).backend_errors == ()


def test_last_backend_error_comes_first() -> None:
    count = iter(range(100))

    def backend(tool: str, args: bytes) -> bytes:
        raise BackendError(f"failure {next(count)}")

    result = resource(guardkit.instance("backend_flood", backend=backend, max_backend_calls=3))
    assert result.backend_errors == ("ask: failure 2", "ask: failure 1", "ask: failure 0")


def test_job_may_call_its_backend_fifty_times() -> None:
    guard = guardkit.instance("backend_flood", backend=lambda tool, args: b"1")
    for _ in range(2):
        result = resource(guard)
        assert error(result).guard_code == -50
        assert result.backend_calls == 50


def test_backend_calls_are_counted_over_all_tries() -> None:
    asked = []
    guard = guardkit.instance("backend_retries", backend=lambda tool, args: asked.append(args) or b"1")  # type: ignore[func-returns-value]
    assert resource(guard).backend_calls == len(asked) == 50
    assert asked[0] == b"null", "a call without arguments passes null"


@pytest.mark.parametrize("payload", [b"{", b"[1,]", b"\xff", b'{"a":"\xff"}', b"[" * 100_000, b"nul"])
def test_arguments_that_are_not_json_do_not_reach_the_backend(payload: bytes) -> None:
    asked = []
    guard = guardkit.instance("backend", backend=lambda tool, args: asked.append(args) or b"1")  # type: ignore[func-returns-value]
    result = resource(guard, payload)
    assert error(result).guard_code == -1 - 100_000
    assert (result.backend_calls, asked) == (0, [])


def probe(imports: str, call: str) -> bytes:
    """A guard that refuses with the result of `call`, minus 100,000."""
    label = "(param $in i32) (param $len i32) (param $out i32) (param $cap i32) (result i32)"
    return enginekit.wat_to_wasm(
        f"""(module {imports} (memory (export "memory") 2) (data (i32.const 1024) "tool") (data (i32.const 1030) "\\ff")
        (func (export "label_agent") {label} (i32.const 0)) (func (export "label_response") {label} (i32.const 0))
        (func (export "label_resource") {label} (i32.sub {call} (i32.const 100000))))"""
    )


BACKEND = '(import "env" "call_backend" (func $backend (param i32 i32 i32 i32 i32 i32) (result i32)))'
END = "(i32.shl (memory.size) (i32.const 16))"


@pytest.mark.parametrize(
    ("arguments", "answer", "calls"),
    [
        ("(i32.const 1024) (i32.const 4) (i32.const 0) (i32.const 0) (i32.const 2048) (i32.const 64)", 3, 1),
        ("(i32.const -4) (i32.const 4) (i32.const 0) (i32.const 0) (i32.const 2048) (i32.const 64)", -1, 0),
        ("(i32.const 1024) (i32.const -1) (i32.const 0) (i32.const 0) (i32.const 2048) (i32.const 64)", -1, 0),
        ("(i32.const 1024) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 2048) (i32.const 64)", -1, 0),
        ("(i32.const 4096) (i32.const 256) (i32.const 0) (i32.const 0) (i32.const 2048) (i32.const 64)", 3, 1),
        ("(i32.const 4096) (i32.const 257) (i32.const 0) (i32.const 0) (i32.const 2048) (i32.const 64)", -1, 0),
        ("(i32.const 1030) (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 2048) (i32.const 64)", -1, 0),
        ("(i32.const 1024) (i32.const 4) (i32.const -9) (i32.const 10) (i32.const 2048) (i32.const 64)", -1, 0),
        ("(i32.const 1024) (i32.const 4) (i32.const 0) (i32.const -1) (i32.const 2048) (i32.const 64)", -1, 0),
        (f"(i32.const 1024) (i32.const 4) {END} (i32.const 1) (i32.const 2048) (i32.const 64)", -1, 0),
        ("(i32.const 1024) (i32.const 4) (i32.const 0) (i32.const 0) (i32.const -1) (i32.const 64)", -1, 0),
        (
            f"(i32.const 1024) (i32.const 4) (i32.const 0) (i32.const 0) (i32.sub {END} (i32.const 2)) (i32.const 9)",
            -1,
            1,
        ),
        (
            f"(i32.const 1024) (i32.const 4) (i32.const 0) (i32.const 0) (i32.sub {END} (i32.const 3)) (i32.const 9)",
            3,
            1,
        ),
        ("(i32.const 1024) (i32.const 4) (i32.const 0) (i32.const 0) (i32.const 2048) (i32.const 2)", -2, 1),
        (f"(i32.const 1024) (i32.const 4) (i32.const 0) (i32.const 0) {END} (i32.const 0)", -2, 1),
    ],
)
def test_addresses_and_lengths_of_a_backend_call_are_checked(arguments: str, answer: int, calls: int) -> None:
    loaded = guardkit.load(probe(BACKEND, f"(call $backend {arguments})"))
    settings = guardkit.InstanceSettings("g", has_backend=True)
    result = resource(GuardInstance(loaded, settings, lambda tool, args: b"123"))
    assert error(result).guard_code == answer - 100_000
    assert result.backend_calls == calls
    assert result.backend_errors == ()


# ---- host_log ----


LINES = [(0, "debug"), (1, "info"), (2, "warning"), (3, "error"), (0, "low"), (3, "high")]


@pytest.mark.parametrize("threshold", [0, 1, 2, 3, 4])
def test_log_lines_below_the_threshold_are_dropped(threshold: int) -> None:
    result = resource(guardkit.instance("logs", log_threshold=threshold))
    assert result.logs == [LogLine(*line) for line in LINES if line[0] >= threshold]


def test_dropped_lines_do_not_reach_python() -> None:
    guard = guardkit.instance("logs", log_threshold=4)
    guard._log.log = None  # type: ignore[method-assign,assignment]
    assert resource(guard).status == "ok"
    assert not guard._log.dirty


def test_log_messages_outside_memory_are_dropped() -> None:
    assert resource(guardkit.instance("logs_outside")).logs == [LogLine(3, "fine")]


def test_log_messages_that_are_not_utf8_are_repaired() -> None:
    assert resource(guardkit.instance("logs_not_utf8")).logs == [LogLine(2, "a��b�"), LogLine(2, "")]


def test_log_messages_in_memory_that_just_grew_are_read() -> None:
    guard = guardkit.instance("logs_after_growing")
    for _ in range(3):
        assert resource(guard).logs == [LogLine(2, "new!")]


def test_log_of_a_job_is_limited_and_says_how_much_is_missing() -> None:
    guard = guardkit.instance("logs_flood")
    for _ in range(2):
        logs = resource(guard).logs
        kept = 64 * 1024 // 101
        assert len(logs) == kept + 1
        assert {len(line.text) for line in logs[:-1]} == {100}
        assert logs[-1] == LogLine(1, f"{2000 - kept} more lines dropped")


def test_a_line_that_comes_again_and_again_is_one_line_with_a_count() -> None:
    guard = guardkit.instance("logs_repeated")
    said = "no rule for this tool, taken for private"
    for _ in range(2):
        assert resource(guard).logs == [
            LogLine(2, f"{said} (8,000 times)"),
            LogLine(2, "done (2 times)"),
            LogLine(3, "done"),
            LogLine(2, said),
        ]


def test_lines_that_come_again_do_not_reach_python_each() -> None:
    guard, calls = guardkit.instance("logs_repeated"), []
    tell, guard._log._tail.repeat = guard._log._tail.repeat, None  # type: ignore[method-assign,assignment]
    guard._log._tail.repeat = lambda *numbers: (calls.append(numbers), tell(*numbers))  # type: ignore[method-assign,assignment,func-returns-value]
    resource(guard)
    assert len(calls) < 20


@pytest.mark.parametrize("room", range(40, 140))
def test_counts_of_lines_fit_into_the_log_limit(room: int) -> None:
    logs = resource(guardkit.instance("logs_repeated", max_log_bytes=room)).logs
    kept, last = (logs[:-1], logs[-1]) if "dropped" in logs[-1].text else (logs, None)
    assert sum(len(line.text) + 1 for line in kept) <= room
    dropped = int(last.text.split()[0]) if last else 0
    counts = [re.search(r"\(([0-9,]+) times\)$", line.text) for line in kept]
    assert sum(int(count[1].replace(",", "")) if count else 1 for count in counts) + dropped == 8004


def test_log_limit_counts_what_invalid_bytes_become() -> None:
    assert resource(guardkit.instance("logs_not_utf8", max_log_bytes=11)).logs == [LogLine(2, "2 more lines dropped")]
    assert len(resource(guardkit.instance("logs_not_utf8", max_log_bytes=13)).logs) == 2


def test_log_limit_of_zero_keeps_no_line() -> None:
    assert resource(guardkit.instance("logs", max_log_bytes=0)).logs == [LogLine(3, "6 more lines dropped")]


def test_instances_do_not_share_anything() -> None:
    guards = [guardkit.instance("backend", backend=lambda tool, args, n=n: b"1" * n) for n in range(1, 11)]
    for _ in range(2):
        assert [error(resource(guard)).guard_code for guard in guards] == [n - 100_000 for n in range(1, 11)]


def test_an_instance_that_nobody_holds_is_freed() -> None:
    instance = guardkit.instance("logs", log_threshold=0)
    instance.call("label_resource", guardkit.RESOURCE)
    log = weakref.ref(instance._log)  # its host functions hold it, and would hold the engine's instance through it
    del instance
    gc.collect()
    assert log() is None
