"""What callers' threads hand in: nothing once the pool is closed, and nothing from a fork of the process."""

from __future__ import annotations

import os
from typing import Any, cast

import pytest

from guardpool.errors import PoolClosed
from guardpool.supervise.commands import Cancel, Command, Forget, Queue, Resume
from guardpool.supervise.inbox import Inbox
from guardpool.supervise.owner import Owner

ME = cast("Owner", object())


def test_each_method_posts_its_command_lazily_if_that_can_wait() -> None:
    posted: list[Command] = []
    lazily: list[Command] = []
    inbox = Inbox(lambda: None, posted.append, lazily.append)
    inbox.queue(ME, [])
    inbox.resume(ME, 3)
    inbox.cancel(ME)
    inbox.forget(ME)
    assert lazily == [Queue(ME, []), Resume(ME, 3)]
    assert posted == [Cancel(ME), Forget(ME)]
    assert [type(command) for command in lazily + posted] == [Queue, Resume, Cancel, Forget]


def test_a_closed_pool_takes_nothing() -> None:
    def closed() -> None:
        raise PoolClosed("the pool is closed")

    posted: list[Any] = []
    with pytest.raises(PoolClosed):
        Inbox(closed, posted.append, posted.append).queue(ME, [])
    assert posted == []


def test_after_a_fork_the_pool_belongs_to_the_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    inbox = Inbox(lambda: None, lambda _command: None, lambda _command: None)
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(PoolClosed, match="make a new one after a fork"):
        inbox.check_open()
