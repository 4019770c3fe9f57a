"""A guard outside a pool: loaded from its artifact, and an instance of it as a worker makes one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from guardpool_bench import asking

# Calls by the workers' code before the plain loop begins: an answer that needs a larger buffer gets it then.
_FIRST_CALLS = 64


@dataclass(frozen=True)
class Loadable:
    """A guard for `GuardInstance`.

    Attributes:
        name: for the loops and peers that hold it.
        engine: the engine that made its machine code.
        artifact: its machine code.
        agent_payload: what `label_agent` gets.
        replies: how many different questions of `guardpool_bench.asking` a look-up in the same process answers; 0: the guard
            has no backend.
    """

    name: str
    engine: str
    artifact: bytes
    agent_payload: bytes
    replies: int = 0


def load(guard: Loadable) -> Any:
    """The guard's modules, for any number of instances. The artifact's digest was checked by the cache."""
    from guardpool_worker.engine.bundle import load_bundle
    from guardpool_worker.engine.choice import load_engine

    return load_bundle(load_engine(guard.engine), guard.artifact)


def make_instance(guard: Loadable, loaded: Any = None, log_threshold: int = 2) -> Any:
    """An instance with its policy.

    Args:
        guard: the guard.
        loaded: what `load` made of it, perhaps with meters around it; None: load it here.
        log_threshold: as in `InstanceSettings`.
    """
    from guardpool_worker.instance import GuardInstance, InstanceSettings

    settings = InstanceSettings(guard.name, log_threshold=log_threshold, has_backend=guard.replies > 0)
    instance = GuardInstance(load(guard) if loaded is None else loaded, settings, _look_up(guard.replies))
    instance.label_agent(guard.agent_payload)
    if guard.replies:
        # The table has questions only: a look-up in it needs no other check, which would cost half a microsecond.
        instance._backend._is_question = _is_question  # type: ignore[method-assign]
    return instance


def _is_question(question: tuple[bytes, bytes]) -> bool:
    return True


def _look_up(replies: int) -> Callable[[str, bytes], bytes] | None:
    if not replies:
        return None
    table = asking.table(replies)
    return lambda tool, args: table[tool, args]


class Plain(NamedTuple):
    """What a loop needs that has nothing of guardpool's around the guard; addresses are in its memory.

    Attributes:
        memory: the guard's linear memory.
        input_at: where a payload is written.
        answer_at: where the answer is read.
        answer_room: bytes there.
        functions: the guard's functions by operation, called as `function(input_at, size, answer_at, answer_room) -> size`.
        instance: held, because wasmer drops what the guard imports with it, and then calls of the functions trap.
    """

    memory: memoryview
    input_at: int
    answer_at: int
    answer_room: int
    functions: dict[str, Callable[[int, int, int, int], int]]
    instance: Any


def make_plain(guard: Loadable, requests: Sequence[tuple[str, bytes]]) -> Plain:
    """An instance with its policy, buffers that are large enough for every request, and log lines dropped inside wasm."""
    instance = make_instance(guard, log_threshold=4)
    longest = max(requests, key=lambda request: len(request[1]))
    for op, payload in [*requests[:_FIRST_CALLS], longest]:
        instance.label(op, payload)
    instance._prepare(len(longest[1]))
    buffers = instance._buffers
    memory = instance.memory.view(max(buffers.in_ptr + buffers.in_size, buffers.out_ptr + buffers.out_size))
    functions = {op: instance.guard.function(op) for op in {op for op, _ in requests}}
    return Plain(memory, buffers.in_ptr, buffers.out_ptr, buffers.out_size, functions, instance)
