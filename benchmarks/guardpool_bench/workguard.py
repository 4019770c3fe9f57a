"""A guard of the suite's own: its jobs take as long as they are told to, and its module can be made as large as wanted.

A real guard's jobs differ in length, so a pool's share of them would depend on the mix. This one counts down from a
number in the job and answers a constant: its jobs last what they are calibrated to last, on any machine.

A job's tool name is `wNUMBER` (count down from NUMBER), `t` (trap) or `s` (spin for ever).
"""

from __future__ import annotations

from functools import cache

import msgspec

from guardpool import Job
from guardpool.sizes import PAGE_BYTES

POLICY = {"allow-only": {"repos": "all", "min-integrity": "none"}}

# The input begins with {"tool_name":" so that the name is at offset 14.
_NAME_AT = 14

_AGENT = {
    "agent": {"secrecy": [], "integrity": ["approved:all"]},
    "difc_mode": "filter",
    "normalized_policy": {},
}
_RESOURCE = {
    "resource": {
        "description": "issue 4711 of octo/widgets",
        "secrecy": ["private:octo/widgets"],
        "integrity": ["none:octo/widgets", "unapproved:octo/widgets"],
    },
    "operation": "read",
}
_RESPONSE = {
    "labeled_paths": [
        {
            "path": f"/items/{at}",
            "labels": {
                "description": f"issue {4000 + at} of octo/widgets",
                "secrecy": ["private:octo/widgets"],
                "integrity": ["none:octo/widgets", "unapproved:octo/widgets"],
            },
        }
        for at in range(30)
    ],
    "default_labels": {"description": "unlabeled", "secrecy": [], "integrity": []},
    "items_path": "/items",
}

_DATA_AT = 32768  # behind the answers

_MODULE = """(module
  (memory (export "memory") {pages})
  (global $heap (mut i32) (i32.const {heap_at}))
  {data}
  (func (export "alloc") (param $size i32) (result i32)
    (local $ptr i32) (local $end i32)
    (local.set $ptr (global.get $heap))
    (local.set $end (i32.and (i32.add (i32.add (local.get $ptr) (local.get $size)) (i32.const 7)) (i32.const -8)))
    (if (i32.gt_u (local.get $end) (i32.shl (memory.size) (i32.const 16)))
      (then (if (i32.eq (i32.const -1) (memory.grow (i32.add (i32.const 1)
          (i32.shr_u (i32.sub (local.get $end) (i32.shl (memory.size) (i32.const 16))) (i32.const 16)))))
        (then (return (i32.const 0))))))
    (global.set $heap (local.get $end))
    (local.get $ptr))
  ;; Buffers are given back in the order in which they were taken last: only the last one is ever reused.
  (func (export "dealloc") (param $ptr i32) (param $size i32)
    (if (i32.eq (global.get $heap)
          (i32.and (i32.add (i32.add (local.get $ptr) (local.get $size)) (i32.const 7)) (i32.const -8)))
      (then (global.set $heap (local.get $ptr)))))
  (func $work (param $in i32)
    (local $at i32) (local $digit i32) (local $turns i32)
    (local.set $at (i32.add (local.get $in) (i32.const {name_at})))
    (if (i32.eq (i32.load8_u (local.get $at)) (i32.const 116)) (then unreachable))
    (if (i32.eq (i32.load8_u (local.get $at)) (i32.const 115)) (then (loop $ever (br $ever))))
    (loop $more
      (local.set $at (i32.add (local.get $at) (i32.const 1)))
      (local.set $digit (i32.sub (i32.load8_u (local.get $at)) (i32.const 48)))
      (if (i32.lt_u (local.get $digit) (i32.const 10))
        (then
          (local.set $turns (i32.add (i32.mul (local.get $turns) (i32.const 10)) (local.get $digit)))
          (br $more))))
    (if (local.get $turns)
      (then (loop $again
        (local.set $turns (i32.sub (local.get $turns) (i32.const 1)))
        (br_if $again (local.get $turns))))))
  (func $answer (param $from i32) (param $len i32) (param $out i32) (param $cap i32) (result i32)
    (if (i32.gt_u (local.get $len) (local.get $cap)) (then (return (i32.const -2))))
    (memory.copy (local.get $out) (local.get $from) (local.get $len))
    (local.get $len))
  (func (export "label_agent") (param i32 i32 i32 i32) (result i32)
    (call $answer (i32.const {agent_at}) (i32.const {agent_size}) (local.get 2) (local.get 3)))
  (func (export "label_resource") (param i32 i32 i32 i32) (result i32)
    (call $work (local.get 0))
    (call $answer (i32.const {resource_at}) (i32.const {resource_size}) (local.get 2) (local.get 3)))
  (func (export "label_response") (param i32 i32 i32 i32) (result i32)
    (call $work (local.get 0))
    (call $answer (i32.const {response_at}) (i32.const {response_size}) (local.get 2) (local.get 3)))
  {filler})
"""

# About what one filler function below takes in the module.
_FILLER_BYTES = 110


def work_wasm(size_bytes: int = 0, data_bytes: int = 0) -> bytes:
    """The guard's module, padded with functions that are never called to about `size_bytes`.

    Args:
        data_bytes: what its memory holds at the start beside its answers, all of it other than zero.
    """
    from guardpool.machine.engines import choose_engine
    from guardpool_worker.engine.choice import load_engine

    answers = {name: msgspec.json.encode(value) for name, value in
               (("agent", _AGENT), ("resource", _RESOURCE), ("response", _RESPONSE))}  # fmt: skip
    at = 1024
    data = []
    heap_at = _DATA_AT + data_bytes
    fields: dict[str, object] = {"name_at": _NAME_AT, "heap_at": heap_at, "pages": 1 + heap_at // PAGE_BYTES}
    for name, text in answers.items():
        fields[f"{name}_at"], fields[f"{name}_size"] = at, len(text)
        escaped = "".join(f"\\{byte:02x}" for byte in text)
        data.append(f'(data (i32.const {at}) "{escaped}")')
        at += len(text)
    if data_bytes:
        data.append(f'(data (i32.const {_DATA_AT}) "{"x" * data_bytes}")')
    filler = "\n  ".join(_filler(number) for number in range(size_bytes // _FILLER_BYTES))
    return load_engine(choose_engine().name).wat_to_wasm(
        _MODULE.format(data="\n  ".join(data), filler=filler, **fields)
    )


def _filler(number: int) -> str:
    steps = "".join(
        f"(local.set 0 (i32.rotl (i32.add (local.get 0) (i32.const {number * 7919 + step * 104729})) (i32.const {step})))"
        for step in range(1, 10)
    )
    return f'(func (export "filler{number}") (param i32) (result i32) {steps} (local.get 0))'


def resource_job(turns: int, id: int = 0) -> Job:
    """A `label_resource` job of the ordinary size, some 500 bytes, that counts down from `turns`."""
    args = {
        "owner": "octo",
        "repo": "widgets",
        "issue_number": 1 + id % 9000,
        "title": "Wrong colours after a resize",
        "body": "Steps: open two windows, resize one, look at the other. The palette of the first one is used. " * 3,
        "labels": ["bug", "ui", "needs-triage"],
    }
    return Job(id, "label_resource", f"w{turns}", args)


def tiny_job(id: int = 0) -> Job:
    """A job of almost no work."""
    return Job(id, "label_resource", "w0", {"owner": "octo", "repo": "widgets", "issue_number": 1 + id % 9000})


def response_job(turns: int, id: int = 0) -> Job:
    """A `label_response` job with a page of 30 issues, some 30 KB, that counts down from `turns`."""
    page = [_issue(number) for number in range(id, id + 30)]
    return Job(id, "label_response", f"w{turns}", {"owner": "octo", "repo": "widgets"}, {"items": page})


@cache
def _issue(number: int) -> dict[str, object]:
    """An issue, which is part of 30 pages: two thousand pages of their own would take hundreds of megabytes as objects."""
    return {
        "number": number,
        "title": "Wrong colours after a resize",
        "state": "open",
        "user": {"login": f"user-{number % 7}", "id": 1000 + number, "type": "User"},
        "author_association": "CONTRIBUTOR",
        "labels": [{"name": "bug", "color": "d73a4a"}, {"name": "ui", "color": "a2eeef"}],
        "body": "Steps: open two windows, resize one, look at the other. The palette of the first one is used. " * 6,
    }


def trap_job() -> Job:
    """A job that traps."""
    return Job(0, "label_resource", "t", {})


def spin_job() -> Job:
    """A job that never ends."""
    return Job(0, "label_resource", "s", {})
