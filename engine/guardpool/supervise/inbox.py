"""What the callers' threads hand to the supervisor's. Safe from any thread."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from guardpool.errors import PoolClosed
from guardpool.supervise.commands import Ask, Cancel, Command, Drop, Forget, Queue, Resume
from guardpool.supervise.owner import Owner
from guardpool.supervise.scheduler import Task


class Inbox:
    """The way in for jobs.

    Args:
        check_open: raises if the pool takes no jobs any more.
        post: hands a command to the supervisor's thread and wakes it.
        post_lazily: hands in a command that can wait while every worker has enough to do.
    """

    def __init__(
        self,
        check_open: Callable[[], None],
        post: Callable[[Command], None],
        post_lazily: Callable[[Command], None],
    ) -> None:
        self._check_open = check_open
        self._post = post
        self._post_lazily = post_lazily
        self._pid = os.getpid()

    @property
    def is_foreign(self) -> bool:
        """Whether this process is a fork of the one that made the pool. It has its memory and not its threads: a lock may be
        held by one that is not there, and what is written to the pool's pipes would be written into the other process."""
        return os.getpid() != self._pid

    def check_process(self) -> None:
        """Raise `PoolClosed` in a fork of the process that made the pool."""
        if self.is_foreign:
            raise PoolClosed("this pool belongs to the process that made it: make a new one after a fork")

    def check_open(self) -> None:
        """Raise `PoolClosed` or `PoolBroken` if no job can be taken."""
        self.check_process()
        self._check_open()

    def queue(self, owner: Owner, tasks: list[Task], taken: Callable[[], None] | None = None) -> None:
        """Queue tasks that all belong to one owner, and say when they are queued; see `Queue`.

        Raises:
            PoolClosed, PoolBroken: the pool takes no jobs.
        """
        self.check_open()
        post = self._post_lazily if taken is None else self._post
        post(Queue(owner, tasks, taken))

    def ask(self, guard: int, tool: str, args: bytes, told: Callable[[bytes | None], None]) -> None:
        """Have a guard's backend asked; see `Ask`. Raises `PoolClosed` or `PoolBroken`."""
        self.check_open()
        self._post(Ask(guard, tool, args, told))

    def resume(self, owner: Owner, from_index: int | None = None) -> None:
        """The owner's consumer keeps up again; or, with an index, only jobs from there on still wait."""
        self._post_lazily(Resume(owner, from_index))

    def cancel(self, owner: Owner) -> None:
        """Give every queued job of the owner a `cancelled` outcome."""
        self._post(Cancel(owner))

    def drop(self, owner: Owner, indexes: Iterable[int]) -> None:
        """Give these jobs of the owner a `cancelled` outcome, as far as they are queued."""
        self._post(Drop(owner, frozenset(indexes)))

    def forget(self, owner: Owner) -> None:
        """Forget an owner that is gone: it is not told of the pool's end."""
        self._post(Forget(owner))
