"""A guard of the suite's own that asks its backend: as often as a job says, and of as many different questions as it says.

A job's tool name is `QUESTIONS-FIRST-DIFFERENT-TURNS`, each padded with zeros: the guard asks so many questions, beginning with
the question of number FIRST and going on with FIRST + 1 ..., all modulo DIFFERENT; then it counts down from TURNS, which is its
work, and answers a constant. It refuses the job if a question was not answered, so that a run of failed questions cannot pass
for a quick one.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from guardpool import Job
from guardpool_bench.workguard import POLICY

LOOP_CALLS = (0, 1, 2, 19)
"""Questions a job of `loop`: GitHub's guard asks twice for a resource and up to 19 times for a page of issues."""

TOOL = "search_repositories"
MOST_DIFFERENT = 9_999_999
_ARGS_HEAD = b'{"query":"repo:octo/widgets-'
_DIGITS = 7

_AGENT = b'{"agent":{"secrecy":[],"integrity":[]},"difc_mode":"filter","normalized_policy":{}}'
_ANSWER = b'{"resource":{"description":"issue 1 of o/r","secrecy":[],"integrity":["none:o/r"]},"operation":"read"}'

# The input begins with {"tool_name":" so that the name is at offset 14.
_NAME_AT = 14
_QUESTIONS_AT, _FIRST_AT, _DIFFERENT_AT, _TURNS_AT = (_NAME_AT + offset for offset in (0, 3, 11, 19))

_MODULE = """(module
  (import "env" "call_backend" (func $ask (param i32 i32 i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (data (i32.const 1024) "{agent}") (data (i32.const 2048) "{answer}")
  (data (i32.const 4096) "{tool}") (data (i32.const 4352) "{args}")
  (func (export "label_agent") (param i32 i32 i32 i32) (result i32)
    (memory.copy (local.get 2) (i32.const 1024) (i32.const {agent_size})) (i32.const {agent_size}))
  (func $read (param $at i32) (param $digits i32) (result i32)
    (local $number i32)
    (loop $more
      (local.set $number (i32.add
        (i32.mul (i32.const 10) (local.get $number))
        (i32.sub (i32.load8_u (local.get $at)) (i32.const 48))))
      (local.set $at (i32.add (local.get $at) (i32.const 1)))
      (br_if $more (local.tee $digits (i32.sub (local.get $digits) (i32.const 1)))))
    (local.get $number))
  ;; the number of a question, in digits, into the arguments
  (func $write (param $number i32)
    (local $at i32)
    (local.set $at (i32.const {last_digit_at}))
    (loop $more
      (i32.store8 (local.get $at) (i32.add (i32.const 48) (i32.rem_u (local.get $number) (i32.const 10))))
      (local.set $number (i32.div_u (local.get $number) (i32.const 10)))
      (local.set $at (i32.sub (local.get $at) (i32.const 1)))
      (br_if $more (i32.ge_u (local.get $at) (i32.const {first_digit_at})))))
  (func (export "label_resource") (param $in i32) (param i32) (param $out i32) (param i32) (result i32)
    (local $left i32) (local $number i32) (local $different i32) (local $turns i32)
    (local.set $left (call $read (i32.add (local.get $in) (i32.const {questions_at})) (i32.const 2)))
    (local.set $number (call $read (i32.add (local.get $in) (i32.const {first_at})) (i32.const {digits})))
    (local.set $different (call $read (i32.add (local.get $in) (i32.const {different_at})) (i32.const {digits})))
    (local.set $turns (call $read (i32.add (local.get $in) (i32.const {turns_at})) (i32.const {digits})))
    (block $done (loop $more
      (br_if $done (i32.eqz (local.get $left)))
      (local.set $left (i32.sub (local.get $left) (i32.const 1)))
      (call $write (local.get $number))
      (local.set $number (i32.rem_u (i32.add (local.get $number) (i32.const 1)) (local.get $different)))
      (if (i32.lt_s (i32.const 0)
            (call $ask (i32.const 4096) (i32.const {tool_size}) (i32.const 4352) (i32.const {args_size})
              (i32.const 8192) (i32.const 8192)))
        (then (br $more)))
      (return (i32.const -1))))
    (if (local.get $turns)
      (then (loop $again
        (br_if $again (local.tee $turns (i32.sub (local.get $turns) (i32.const 1)))))))
    (memory.copy (local.get $out) (i32.const 2048) (i32.const {answer_size})) (i32.const {answer_size}))
  (func (export "label_response") (param i32 i32 i32 i32) (result i32) (i32.const 0)))
"""


def asking_wasm() -> bytes:
    """The guard's module, made by the engine that `auto` takes."""
    from guardpool.machine.engines import choose_engine
    from guardpool_worker.engine.choice import load_engine

    return load_engine(choose_engine().name).wat_to_wasm(_wat())


def _wat() -> str:
    parts = {"agent": _AGENT, "answer": _ANSWER, "tool": TOOL.encode(), "args": args_of(0)}
    text = {name: "".join(f"\\{byte:02x}" for byte in part) for name, part in parts.items()}
    first_digit = 4352 + len(_ARGS_HEAD)
    return _MODULE.format(
        **text,
        **{f"{name}_size": len(part) for name, part in parts.items()},
        first_digit_at=first_digit,
        last_digit_at=first_digit + _DIGITS - 1,
        questions_at=_QUESTIONS_AT,
        first_at=_FIRST_AT,
        different_at=_DIFFERENT_AT,
        turns_at=_TURNS_AT,
        digits=_DIGITS,
    )


# --- jobs


def job(questions: int, first: int = 0, different: int = 1, turns: int = 0, id: int = 0) -> Job:
    """A job that asks `questions` of `different` ones, beginning with number `first`, and counts down from `turns`."""
    name = f"{questions:02d}-{first % different:07d}-{different:07d}-{turns:07d}"
    return Job(id, "label_resource", name, {"owner": "octo", "repo": "widgets", "issue_number": 1 + id % 9000})


def jobs(questions: int, different: int, turns: int, least: int) -> list[Job]:
    """At least so many jobs that together ask every one of `different` questions, in an order that no cache can guess."""
    count = max(least, -(-different // questions))
    found = [job(questions, at * questions, different, turns, at) for at in range(count)]
    random.Random(1).shuffle(found)
    return found


# --- questions and answers


def args_of(number: int) -> bytes:
    """The arguments of the question of that number, as the guard writes them."""
    return b'%b%07d"}' % (_ARGS_HEAD, number)


def reply_of(number: int) -> bytes:
    """Its answer: a result of MCP with one repository, some 300 bytes."""
    return msgspec.json.encode(_answer(number))


def _answer(number: int) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": text_of(number)}], "isError": False}


def text_of(number: int) -> str:
    """What the answer says."""
    name = f"widgets-{number:07d}"
    return (
        f'{{"total_count":1,"incomplete_results":false,"items":[{{"id":{number},"name":"{name}",'
        f'"full_name":"octo/{name}","private":true,"visibility":"private","fork":false,"default_branch":"main"}}]}}'
    )


def number_of(args: Any) -> int:
    """The number of the question with these arguments."""
    return int(args["query"].rpartition("-")[2])


def table(different: int) -> dict[tuple[str, bytes], bytes]:
    """The answers of so many questions, for a look-up in the same process."""
    return {(TOOL, args_of(number)): reply_of(number) for number in range(different)}


def lines(different: int) -> Iterator[bytes]:
    """The same as lines of a table of replies."""
    tool = msgspec.json.encode(TOOL)
    for number in range(different):
        yield b'{"tool":%b,"args":%b,"result":%b}\n' % (tool, args_of(number), reply_of(number))


class Answerer:
    """A backend that is a callable: it answers every question, and notes which ones it was asked.

    Args:
        takes_s: how long each answer takes, asleep; 0: it comes at once.
    """

    def __init__(self, takes_s: float = 0.0) -> None:
        self._takes_s = takes_s
        self._lock = threading.Lock()
        self.asked = 0
        self.different: set[int] = set()

    def __call__(self, tool: str, args: Any) -> Any:
        """The answer to `{"query": "repo:octo/widgets-NUMBER"}`."""
        number = number_of(args)
        with self._lock:
            self.asked += 1
            self.different.add(number)
        if self._takes_s:
            time.sleep(self._takes_s)
        return _answer(number)


# --- a loop of both engines in one process


def loop(engine: str) -> Callable[[int, float], float]:
    """A loop of the guard on that engine, with the answers in the same process, which are a look-up.

    It is called with the questions a job and the seconds to run, and gives jobs a second. The module is compiled here,
    because both engines have to be in one process to take turns.
    """
    from guardpool_worker.engine import bundle
    from guardpool_worker.engine.choice import load_engine
    from guardpool_worker.instance import GuardInstance, InstanceSettings

    made = load_engine(engine)
    loaded = bundle.load_bundle(made, bundle.compile_bundle(made, made.wat_to_wasm(_wat()), has_start=False))
    settings = InstanceSettings("asks", has_backend=True, max_backend_calls=max(LOOP_CALLS))
    reply = reply_of(0)
    instance = GuardInstance(loaded, settings, lambda tool, args: reply)
    instance.label_agent(msgspec.json.encode(POLICY))

    def rate(calls: int, run_s: float) -> float:
        payload = b'{"tool_name":"%b"}' % job(calls).tool_name.encode()
        assert instance.call("label_resource", payload).backend_calls == calls
        label, clock, done = instance.label, time.perf_counter, 0
        began = now = clock()
        while now - began < run_s:
            for _ in range(16):
                label("label_resource", payload)
            done += 16
            now = clock()
        return done / (now - began)

    return rate
