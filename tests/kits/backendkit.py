"""Backends that a test holds in its hands, guards that ask them, and jobs for those."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import enginekit
from guardpool import GuardPool, Job, Outcome
from poolkit import WAIT_S


def label(p: GuardPool, name: str, args: Any = None) -> Outcome:
    return p.submit(Job(0, "label_resource", "get_issue", {} if args is None else args, guard=name)).result(WAIT_S)


def code(outcome: Outcome) -> int | None:
    """The code that the guard refused with."""
    assert outcome.status == "refused"
    assert outcome.label is None
    assert outcome.error is not None
    return outcome.error.guard_code


def _asking(data: dict[int, str], label_resource: str, more: str = "") -> bytes:
    """A guard that imports the backend as `$ask`.

    Args:
        data: what its memory of two pages holds from which address on. From 8 on there are 22 bytes that `label_agent` answers.
        label_resource: the body, after its four parameters.
        more: what else is in the module.
    """
    held = {8: '{"difc_mode":"strict"}', **data}
    segments = "".join(f'(data (i32.const {at}) "{_escaped(text)}")' for at, text in held.items())
    return enginekit.wat_to_wasm(
        f"""(module (import "env" "call_backend" (func $ask (param i32 i32 i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 2) {segments}
        (func (export "label_agent") (param i32 i32 i32 i32) (result i32)
          (memory.copy (local.get 2) (i32.const 8) (i32.const 22)) (i32.const 22))
        (func (export "label_resource") (param i32 i32 i32 i32) (result i32) {label_resource})
        (func (export "label_response") (param i32 i32 i32 i32) (result i32) (i32.const 0)) {more})"""
    )


def _escaped(text: str) -> str:
    return "".join(f"\\{byte:02x}" for byte in text.encode())


def asks_then(body: str) -> bytes:
    """A guard whose `label_resource` asks its backend, and then does what is in `body` whatever the answer was."""
    return _asking(
        {64: '{"resource":{}}', 96: "ask"},
        f"""(drop (call $ask (i32.const 96) (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 1024) (i32.const 64)))
          {body}""",
    )


def asks_when_initialised() -> bytes:
    """A guard that asks its backend in `_initialize`, and labels every resource alike."""
    label = '{"resource":{"description":"ok","secrecy":[],"integrity":[]},"operation":"read"}'
    return _asking(
        {64: label, 192: "ask"},
        f"(memory.copy (local.get 2) (i32.const 64) (i32.const {len(label)})) (i32.const {len(label)})",
        """(func (export "_initialize") (drop
          (call $ask (i32.const 192) (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 1024) (i32.const 64))))""",
    )


def asks(tool: str, args: str) -> bytes:
    """A guard whose `label_resource` asks this question, and refuses as the guard `backend` does: with 100,000 less than the
    length of what it was answered."""
    return _asking(
        {64: tool, 512: args},
        f"""(i32.sub (call $ask (i32.const 64) (i32.const {len(tool.encode())}) (i32.const 512)
            (i32.const {len(args.encode())}) (i32.const 4096) (i32.const 64)) (i32.const 100000))""",
    )


class Slow:
    """A backend that answers when it is told to.

    Attributes:
        asked: set once it was called.
        go: set by the test; the backend then answers.
    """

    def __init__(self) -> None:
        self.asked, self.go = threading.Event(), threading.Event()

    def __call__(self, _tool: str, _args: Any) -> bool:
        self.asked.set()
        return self.go.wait(WAIT_S)


@contextlib.contextmanager
def released(*backends: Slow) -> Iterator[None]:
    """Whatever fails in the block, no backend is left waiting."""
    try:
        yield
    finally:
        for backend in backends:
            backend.go.set()


def describes_by_answer() -> bytes:
    """A guard whose `label_resource` asks for the tool `who` with its whole input as arguments; the label's description is the
    answer, a string of at most 60 bytes. Without an answer the guard refuses."""
    before, after = '{"resource":{"description":', ',"secrecy":[],"integrity":[]},"operation":"read"}'

    return _asking(
        {64: "who", 128: before, 256: after},
        f"""(local $size i32)
          (memory.copy (local.get 2) (i32.const 128) (i32.const {len(before)}))
          (local.set $size (call $ask (i32.const 64) (i32.const 3) (local.get 0) (local.get 1)
            (i32.add (local.get 2) (i32.const {len(before)})) (i32.const 64)))
          (if (i32.lt_s (local.get $size) (i32.const 0)) (then (return (i32.const -7))))
          (memory.copy (i32.add (local.get 2) (i32.add (local.get $size) (i32.const {len(before)})))
            (i32.const 256) (i32.const {len(after)}))
          (i32.add (local.get $size) (i32.const {len(before) + len(after)}))""",
    )
