"""Everything a guard does works in the sandbox as it does outside."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import enginekit
from guardpool import samples
from guardpool_worker import sandbox
from guardpool_worker.engine.bundle import LoadedGuard
from guardpool_worker.engine.seam import EngineTrap
from guardpool_worker.instance import GuardInstance, InstanceSettings
from sandboxkit import LIMITS, MIB, Child, in_child, in_sandbox, read_in_time, whole_sandbox

pytestmark = whole_sandbox


WORK = """(module
  (import "env" "host" (func $host (param i32) (result i32)))
  (memory (export "memory") 2 512)
  (table 4 funcref)
  (type $t (func))
  (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1)))
  (func (export "host") (param i32) (result i32) (call $host (local.get 0)))
  (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0)))
  (func (export "fill") (memory.fill (i32.const 0) (i32.const 7) (i32.const 6000000)))
  (func (export "unreachable") unreachable)
  (func (export "outside") (drop (i32.load (i32.const 0x7fffffff))))
  (func (export "divide") (drop (i32.div_u (i32.const 1) (i32.const 0))))
  (func (export "null") (call_indirect (type $t) (i32.const 2)))
  (func $deep (export "deep") (param i32) (result i32)
    (i32.add (i32.const 1) (call $deep (i32.add (local.get 0) (i32.const 1))))))"""


def do_guards_work(loaded: LoadedGuard) -> dict[str, Any]:
    """All that a worker asks of the engine and of Python between its first job and its last, twice over."""

    def host(number: int) -> int:
        if number < 0:
            raise LookupError("from the host")
        return number + 1

    seen: dict[str, Any] = {}
    for turn in range(2):
        instance = loaded.guard.instantiate({"env": {"host": enginekit.host_function(host, "i", "i")}})
        call = {name: instance.function(name) for name in ("add", "host", "grow", "fill", "deep")}
        seen[f"add {turn}"] = call["add"](2, 3), call["host"](41)
        seen[f"grow {turn}"] = call["grow"](100), len(instance.memory_view()), call["grow"](1000)
        call["fill"]()
        seen[f"memory {turn}"] = bytes(instance.memory_view()[5_999_999:6_000_001]).hex()
        for name in ("unreachable", "outside", "divide", "null"):
            seen[f"{name} {turn}"] = _trap(instance.function(name))
        seen[f"deep {turn}"] = _trap(lambda call=call: call["deep"](0))
        try:
            call["host"](-1)
        except LookupError as error:
            seen[f"host error {turn}"] = str(error)
        seen[f"after {turn}"] = call["add"](2, 3)
    blocks = [bytes(10 * MIB) for _ in range(10)]
    seen["allocated"] = sum(map(len, blocks))
    seen["random"] = len(os.urandom(32))
    seen["time"] = time.monotonic_ns() > 0 and time.time() > 0 and time.process_time() >= 0
    return seen


def _trap(call: Callable[[], object]) -> str:
    try:
        call()
    except EngineTrap as trap:
        return trap.kind
    return "none"


def test_a_guard_works_in_the_sandbox_as_it_does_outside() -> None:
    loaded = enginekit.load_bundle(enginekit.compile_bundle(enginekit.wat_to_wasm(WORK)))
    inside = in_sandbox(lambda: do_guards_work(loaded))
    outside = in_child(lambda: do_guards_work(loaded))
    assert inside == outside
    assert inside["deep 1"] == "stack_overflow"
    assert inside["outside 0"] == "memory_out_of_bounds"
    assert inside["grow 0"] == [2, 102 * 65536, -1]


def test_the_sample_guard_labels_in_the_sandbox_as_it_does_outside() -> None:
    loaded = enginekit.load_bundle(enginekit.compile_bundle(Path(samples.GUARD).read_bytes()))
    jobs = list(samples.jobs(40, seed=5))
    policy = json.dumps(samples.POLICY).encode()

    def label() -> list[list[str]]:
        guard = GuardInstance(loaded, InstanceSettings(name="sample", log_threshold=0, has_backend=False), None)
        answers = [["agent", guard.label_agent(policy).decode()]]
        for job in jobs:
            payload = {"tool_name": job.tool_name, "tool_args": job.tool_args, "tool_result": job.tool_result}
            result = guard.call(str(job.op), json.dumps(payload).encode())
            answers.append([result.status, (result.label or b"").decode()])
        return answers

    inside = in_sandbox(label)
    assert inside == in_child(label)
    assert [status for status, _ in inside[1:]].count("ok") > 30


def nested(depth: int, inner: str = "1") -> str:
    """JSON in which `inner` stands in that many arrays and objects."""
    return '[{"a":' * (depth // 2) + inner + "}]" * (depth // 2)


def test_the_sandboxs_stack_is_deep_enough_for_deep_input() -> None:
    """The guard parses 24 levels and scans what is below them; the input's limit is its size alone."""
    loaded = enginekit.load_bundle(enginekit.compile_bundle(samples.GUARD.read_bytes()))
    issues = '[{"number": 1, "user": {"login": "a"}, "author_association": "MEMBER", "body": %s}]'
    policy = json.dumps(samples.POLICY).encode()

    def label() -> list[list[str]]:
        guard = GuardInstance(loaded, InstanceSettings(name="sample", log_threshold=0, has_backend=False), None)
        guard.label_agent(policy)
        answers = []
        for depth in (2, 22, 24, 26, 200, 10_000, 400_000):
            for result in (nested(depth), issues % nested(depth), nested(depth, "")[: 3 * depth]):
                payload = '{"tool_name": "list_issues", "tool_args": {"owner": "o", "repo": "r"}, "tool_result": %s}'
                answer = guard.call("label_response", (payload % result).encode())
                answers.append([answer.status, (answer.label or b"").decode()])
        return answers

    inside = in_sandbox(label)
    assert inside == in_child(label)
    assert len(inside) == 21
    assert [status for status, _ in inside].count("ok") >= 14
    assert "trap" not in {status for status, _ in inside}


@pytest.mark.parametrize(("depth", "status"), [(480, "ok"), (600, "invalid"), (40_000, "invalid")])
def test_the_sandboxs_stack_is_deep_enough_to_judge_a_deep_answer(depth: int, status: str) -> None:
    item = '{"data": %s, "labels": {"secrecy": ["s"], "integrity": []}}'
    answer = '{"items": [%s]}' % (item % nested(depth))
    agent = '{"agent": {"secrecy": [], "integrity": []}, "difc_mode": "filter", "normalized_policy": {}}'
    parts = {"label_agent": (0, agent), "label_response": (1024, answer), "label_resource": (0, agent)}
    functions = "".join(
        f"""(func (export "{name}") (param i32 i32 i32 i32) (result i32)
        (memory.copy (local.get 2) (i32.const {at}) (i32.const {len(text)})) (i32.const {len(text)}))"""
        for name, (at, text) in parts.items()
    )
    escaped = {at: text.replace('"', '\\"') for at, text in parts.values()}
    data = "".join(f'(data (i32.const {at}) "{text}")' for at, text in escaped.items())
    wasm = enginekit.wat_to_wasm(f'(module (memory (export "memory") 10) {data} {functions})')
    loaded = enginekit.load_bundle(enginekit.compile_bundle(wasm))

    def judge() -> list[str]:
        guard = GuardInstance(loaded, InstanceSettings(name="deep", log_threshold=0, has_backend=False), None)
        guard.label_agent(b"{}")
        result = guard.call("label_response", b"{}")
        return [result.status, (result.label or b"").decode()]

    inside = in_sandbox(judge)
    assert inside == in_child(judge)
    assert inside[0] == status


def test_no_memory_is_writable_and_executable_when_the_sandbox_closes(tmp_path: Path) -> None:
    # Memory that is executable then stays executable: no page of it may be writable.
    bundle = tmp_path / "bundle"
    bundle.write_bytes(enginekit.compile_bundle(enginekit.wat_to_wasm(WORK)))
    script = (
        "import sys, pathlib; from guardpool_worker import host, sandbox, linux\n"
        "from guardpool_worker.engine.bundle import load_bundle\n"
        "from guardpool_worker.engine.choice import load_engine\n"
        f"engine = load_engine({enginekit.ENGINE_NAME!r}); engine.prepare(host.signatures()); engine.seal()\n"
        "loaded = load_bundle(engine, pathlib.Path(sys.argv[1]).read_bytes())\n"
        "print(linux.thread_count()); print(open('/proc/self/maps').read())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(bundle)], capture_output=True, text=True, timeout=30, check=True
    )
    threads, _, maps = done.stdout.partition("\n")
    assert threads == "1", (
        "Landlock and seccomp hold for one thread: the process that loads artifacts must have no other"
    )
    assert re.search(r"^\S+ r-xp \S+ \S+ 0\s*$", maps, re.MULTILINE), "the guard's code is not there"
    assert not re.findall(r"^\S+ .wx. .*$", maps, re.MULTILINE)


def test_a_thread_is_refused_with_an_error_and_not_a_death() -> None:
    import threading

    def start() -> str:
        try:
            threading.Thread(target=print).start()
        except RuntimeError as error:
            return str(error)
        return "started"

    assert in_sandbox(start) == "can't start new thread"


def test_an_abort_is_seen_as_an_abort() -> None:
    def abort(writer: int) -> None:
        sandbox.close_sandbox("require", {writer}, LIMITS)
        os.abort()

    assert Child(abort).wait() == -signal.SIGABRT


def test_a_stopped_worker_goes_on_where_it_was() -> None:
    ready, go = os.pipe(), os.pipe()

    def wait(writer: int) -> list[tuple[int, int]]:
        poll = select.poll()
        poll.register(go[0], select.POLLIN)
        sandbox.close_sandbox("require", {2, writer, ready[1], go[0]}, LIMITS)
        os.write(ready[1], b"r")
        return poll.poll(20_000)  # a poll with a timeout is resumed by restart_syscall

    child = Child(wait)
    assert read_in_time(ready[0]) == b"r"
    status = Path(f"/proc/{child.pid}/stat")
    while status.read_text().rpartition(") ")[2][0] != "S":  # until it is in its poll
        os.sched_yield()
    for _ in range(3):
        os.kill(child.pid, signal.SIGSTOP)
        os.waitpid(child.pid, os.WUNTRACED)
        os.kill(child.pid, signal.SIGCONT)
        os.waitpid(child.pid, os.WCONTINUED)
    os.write(go[1], b"g")
    assert child.result() == [[go[0], select.POLLIN]]
    for fd in (*ready, *go):
        os.close(fd)


def test_memory_past_the_limit_is_a_memory_error() -> None:
    def allocate() -> list[str]:
        seen = []
        for size in (8 * MIB, 6144 * MIB):
            try:
                seen.append(str(len(bytearray(size))))
            except MemoryError:
                seen.append("MemoryError")
        return seen

    assert in_sandbox(allocate) == [str(8 * MIB), "MemoryError"]
