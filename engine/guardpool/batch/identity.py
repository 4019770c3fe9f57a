"""What shapes the labels of a run, as digests: its guards with their policies and replies, the engine, and how it writes.

A run that goes on where another stopped must not differ from it in any of that, and the manifest names it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec

from guardpool import __version__
from guardpool.backends.known import known_replies
from guardpool.backends.replies import BackendFailed
from guardpool.contract import check_policy
from guardpool.guard import Guard
from guardpool.machine.engines import choose_engine

_encode = msgspec.json.Encoder().encode


class GuardIdentity(msgspec.Struct, frozen=True):
    """One guard.

    Args:
        name: its name.
        module: SHA-256 of the wasm file.
        policy: SHA-256 of what `label_agent` gets: the policy with its bots and users, as JSON.
        replies: SHA-256 of the table that answers it; None: no table does.
        is_live: who answers it is asked while the run goes on; what is answered then is not known here.
        on_backend_failure: what becomes of a job whose question had no answer.
    """

    name: str
    module: str
    policy: str
    replies: str | None
    is_live: bool
    on_backend_failure: str

    @classmethod
    def of(cls, guard: Guard) -> GuardIdentity:
        """A guard's. Raises PolicyError if its policy is not valid."""
        policy = check_policy(guard.policy, guard.trusted_bots, guard.trusted_users)
        replies, is_live = None, False
        if guard.backend is not None:
            known, is_all = known_replies(guard.backend)
            replies, is_live = _digest_of_replies(known) if known else None, not is_all
        return cls(
            guard.name,
            hashlib.sha256(guard.wasm).hexdigest(),
            hashlib.sha256(_encode(policy)).hexdigest(),
            replies,
            is_live,
            guard.on_backend_failure,
        )


class RunIdentity(msgspec.Struct, frozen=True):
    """One run: its guards, engine and guardpool with their versions, and the options that shape the lines of its output."""

    guards: tuple[GuardIdentity, ...]
    engine: str
    guardpool: str
    ordered: bool
    each_guard: bool
    timing: bool
    isolation: str
    deterministic: bool

    @classmethod
    def of(
        cls,
        guards: Sequence[Guard],
        engine: str,
        *,
        ordered: bool,
        each_guard: bool,
        timing: bool,
        isolation: str,
        deterministic: bool,
    ) -> RunIdentity:
        """A run's. `engine` is as for `GuardPool`. Raises what a pool raises that cannot be made with it."""
        return cls(
            tuple(map(GuardIdentity.of, guards)),
            choose_engine(engine).version,
            __version__,
            ordered,
            each_guard,
            timing,
            isolation,
            deterministic,
        )

    def difference(self, before: RunIdentity) -> str | None:
        """How this run differs from an interrupted one, in words that follow "it cannot go on: "; None if it does not."""
        ours, theirs = ([guard.name for guard in run.guards] for run in (self, before))
        if ours != theirs:
            return f"the guards are {', '.join(ours)}, and those of the interrupted run {', '.join(theirs)}"
        for now, then in zip(self.guards, before.guards):
            for field, what in _OF_GUARDS.items():
                if getattr(now, field) != getattr(then, field):
                    return f"guard {now.name} has {what} than in the interrupted run"
        for field, what in _OF_RUNS.items():
            if getattr(self, field) != getattr(before, field):
                return f"{what} is {_word(getattr(self, field))}, and was {_word(getattr(before, field))}"
        return None


_OF_GUARDS = {
    "module": "another module",
    "policy": "another policy",
    "replies": "other replies",
    "is_live": "another backend",
    "on_backend_failure": "another rule for questions without an answer",
}
_OF_RUNS = {
    "engine": "the engine",
    "guardpool": "guardpool's version",
    "ordered": "ordered",
    "each_guard": "the labelling by each guard",
    "timing": "the writing of durations",
    "isolation": "the isolation",
    "deterministic": "deterministic",
}


def _word(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)


def _digest_of_replies(replies: dict[bytes, bytes | BackendFailed]) -> str:
    """The same for equal tables, whatever the order of their lines."""
    digest = hashlib.sha256()
    for question in sorted(replies):
        answer = replies[question]
        failed = isinstance(answer, BackendFailed)
        digest.update(_encode((question.decode(), failed, str(answer) if failed else bytes(answer).decode())))  # type: ignore[arg-type]
    return digest.hexdigest()
