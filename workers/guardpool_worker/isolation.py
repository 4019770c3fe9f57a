"""A guard whose jobs do not see one another: each runs on a copy of it as it was after `label_agent`.

The copy is made in one of three ways, the cheapest that gives all of the guard's state back (see `module.kept_state`):

- in place: memory, globals and the places of the buffers are what they were. It takes some 10 us and runs nothing of the
  guard. What tables hold and which segments were dropped has not changed, because the module has no instruction for it.
- a new instance that memory and globals are put into, if the job has grown the memory: that cannot shrink.
- a new instance that is initialised again, if the guard keeps state that cannot be put back. So what it draws of random bytes
  then is not what it drew the first time, unless the pool is deterministic.

A copy is made when it is needed: before the next job, or when no job is left. What is run again to make one is the
guard's own code, so it has the time of the job that it is made for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from guardpool.errors import GuardInitError
from guardpool.outcomes import OutcomeError
from guardpool.sizes import ROOM_BYTES
from guardpool_worker.engine.seam import EngineGlobal
from guardpool_worker.instance import CallResult, GuardInstance
from guardpool_worker.kept_memory import KeptMemory


class MakeInstance(Protocol):
    """Makes another instance of the guard."""

    def __call__(self, *, bare: bool = False) -> GuardInstance: ...


class IsolatedGuard:
    """A guard's instances, one job each, behind the methods of one that the worker calls.

    Args:
        instance: initialised, and without a job so far.
        make: makes another one.
        policy: the input of `label_agent`.
        global_names: under which the module exports its mutable globals; None: it has state that cannot be put back.

    Attributes:
        dead: the instance ended: the process has to end.
        full: always 0: no job meets memory that others have filled.
    """

    full = 0

    def __init__(
        self, instance: GuardInstance, make: MakeInstance, policy: bytes, global_names: Sequence[str] | None
    ) -> None:
        self._make = make
        self._policy = policy
        if global_names is not None and not instance.make_room(ROOM_BYTES):
            instance = self._make_again()
        self._instance = instance
        self._kept = None if global_names is None else _Kept(instance, global_names)
        self._is_used = False
        self._has_failed = False

    @property
    def dead(self) -> bool:
        return self._has_failed or self._instance.dead

    def label(self, op: str, payload: bytes, time_us: int = 0) -> bytes | CallResult:
        """As `GuardInstance.label`, on a copy."""
        if self._is_used:
            self.clean()
            if self._is_used:
                failure = self._renew()
                if failure is not None:
                    return failure
        self._is_used = True
        return self._instance.label(op, payload, time_us)

    def clean(self) -> None:
        """Remove what the last job left behind, if that runs nothing of the guard."""
        if self._is_used and self._kept is not None and not self._instance.dead:
            self._is_used = not self._kept.put_back(self._instance)

    def _renew(self) -> CallResult | None:
        """Replace the instance; the result of the job that is in hand if that fails."""
        self._instance.let_go()
        del self._instance  # before the new one takes its memory: both together may be more than the worker has
        try:
            if self._kept is not None:
                self._kept.let_go()
                self._instance = self._kept.put_into(self._make(bare=True))
            else:
                self._instance = self._make_again()
        except GuardInitError as error:
            self._has_failed = True
            return CallResult("invalid", None, OutcomeError("no_copy", f"no copy of the guard: {error}"), 0, [])
        return None

    def _make_again(self) -> GuardInstance:
        instance = self._make()
        instance.label_agent(self._policy)
        return instance


class _Kept:
    """The state of an instance, to be put back into it or into a bare one."""

    def __init__(self, instance: GuardInstance, global_names: Sequence[str]) -> None:
        self._names = global_names
        self._globals = self._globals_of(instance)
        self._values = [each.value for each in self._globals]
        self._places = instance.places()
        instance.memory.size()
        self._memory = KeptMemory(instance.memory.bytes)

    def _globals_of(self, instance: GuardInstance) -> list[EngineGlobal]:
        return [instance.guard.global_(name) for name in self._names]

    def let_go(self) -> None:
        """Hold no part of the instance any longer."""
        self._globals = []
        self._memory.let_go()

    def put_back(self, instance: GuardInstance) -> bool:
        """Have the instance be as it was; False: it is another one's turn, as its memory has grown."""
        if not instance.memory.has_size(self._memory.size):
            return False
        self._memory.put_back()
        self._put_back_the_rest(instance)
        return True

    def put_into(self, instance: GuardInstance) -> GuardInstance:
        """Have a bare instance be what the first one was.

        Raises:
            MemoryError: there is no room for its memory.
        """
        if not instance.grow(self._memory.size - instance.memory.size()):
            raise MemoryError(f"guard {instance.name!r}: no room for a copy of its memory")
        instance.memory.size()
        self._memory.use(instance.memory.bytes)
        self._globals = self._globals_of(instance)
        self._put_back_the_rest(instance)
        return instance

    def _put_back_the_rest(self, instance: GuardInstance) -> None:
        for each, value in zip(self._globals, self._values):
            each.value = value
        instance.take_over(self._places)
