"""For tests of guards: one guard in a pool of one worker, with calls that fail a test with everything that is known.

    from guardpool.testing import guard

    with guard("github.wasm", policy={"allow-only": {"repos": "all", "min-integrity": "none"}}) as github:
        label = github.label_resource("get_issue", {"owner": "o", "repo": "r", "issue_number": 1})
        assert label.secrecy == {"private:o/r"}

For pytest, `github = guard(...).fixture()` in a test file or in `conftest.py` makes a fixture of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from guardpool.backends.asking import ask
from guardpool.contract import expand
from guardpool.errors import CallerError, ContractError
from guardpool.guard import Backend, Guard
from guardpool.labels import AgentLabels, LabeledItem, ResourceLabel, ResponseLabel
from guardpool.limits import Limits
from guardpool.module.trap_frames import trap_frames, without_frames
from guardpool.outcomes import Outcome, OutcomeError, Status
from guardpool.pool import GuardPool
from guardpool.printable import escaped

_Scope = Literal["session", "package", "module", "class", "function"]
_SHOWN_LINES = 20  # of a guard's log, in the message of a failure: the last ones


def guard(
    wasm: str | os.PathLike[str] | bytes,
    policy: Any,
    *,
    trusted_bots: Sequence[str] = (),
    trusted_users: Sequence[str] = (),
    backend: Backend | None = None,
    limits: Limits | None = None,
    engine: str = "auto",
) -> GuardUnderTest:
    """A guard for tests. Nothing is read or started until its `with` block, or its fixture.

    Args:
        wasm: the path of the module, or its bytes.
        policy, trusted_bots, trusted_users: see `Guard`.
        backend: answers what the guard asks; None: each question gets -1.
        limits: see `Limits`; log lines are kept in any case.
        engine: see `GuardPool`.
    """
    return GuardUnderTest(wasm, policy, trusted_bots, trusted_users, backend, limits or Limits(), engine)


class GuardUnderTest:
    """A guard that is tested; made by `guard`. Each method may be called in its `with` block only.

    Attributes:
        agent: what `label_agent` answered.
        outcome: of the last call: its label or error, its time, its log lines.
        questions: what the guard asked its backend in the last call, tool and arguments of each question.
        pool: the pool, for calls that need not give a label.
    """

    agent: AgentLabels
    outcome: Outcome
    questions: list[tuple[str, Any]]

    def __init__(
        self,
        wasm: str | os.PathLike[str] | bytes,
        policy: Any,
        trusted_bots: Sequence[str],
        trusted_users: Sequence[str],
        backend: Backend | None,
        limits: Limits,
        engine: str,
    ) -> None:
        self._wasm = wasm
        self._policy = policy
        self._trusted_bots = trusted_bots
        self._trusted_users = trusted_users
        self._backend = backend
        self._limits = replace(limits, keep_logs=True)
        self._engine = engine
        self._pool: GuardPool | None = None
        self.questions = []

    # --- a guard that is running

    def __enter__(self) -> GuardUnderTest:
        """Start it.

        Raises:
            OSError: the module cannot be read.
            GuardPoolError: it is not a guard, its policy is not valid, or it cannot be started; see `GuardPool`.
        """
        wasm = self._wasm if isinstance(self._wasm, bytes) else Path(self._wasm).read_bytes()
        made = Guard(
            "guard", wasm, self._policy, self._trusted_bots, self._trusted_users, self._answer, remember="never"
        )
        self._module = wasm
        self._pool = GuardPool([made], workers=1, limits=self._limits, log_level="debug", engine=self._engine)
        self.agent = self._pool.agents["guard"]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pool, self._pool = self._pool, None
        assert pool is not None
        pool.__exit__(kind, error, traceback)

    def fixture(self, scope: _Scope = "module") -> Any:
        """A pytest fixture that starts the guard and gives this object to tests.

        It is to be assigned to a name, in a test file or in `conftest.py`; tests ask for it by that name. A guard may keep
        state from one call to the next: `scope="function"` starts it anew for each test, which takes some 100 ms.
        """
        import pytest

        @pytest.fixture(scope=scope)
        def started() -> Iterator[GuardUnderTest]:
            with self:
                yield self

        return started

    @property
    def pool(self) -> GuardPool:
        """The pool."""
        if self._pool is None:
            raise CallerError("the guard is not running: use it in a `with` block, or by its fixture")
        return self._pool

    # --- calls that give a label, or fail the test

    def label_resource(self, tool_name: str, tool_args: Any = None, *, capabilities: Any = None) -> ResourceLabel:
        """The label of a call before it is made.

        Raises:
            AssertionError: the guard gave none; the message says why, where it trapped, and what it logged.
        """
        __tracebackhide__ = True
        self._ask_resource(tool_name, tool_args, capabilities)
        label = self._label()
        assert isinstance(label, ResourceLabel)
        return label

    def label_response(
        self, tool_name: str, tool_result: Any, *, tool_args: Any = None, capabilities: Any = None
    ) -> ResponseLabel | None:
        """The label of what a tool answered; None if the guard has no fine-grained labels for it.

        Raises:
            AssertionError: as `label_resource`.
        """
        __tracebackhide__ = True
        self._ask_response(tool_name, tool_result, tool_args, capabilities)
        label = self._label()
        assert label is None or isinstance(label, ResponseLabel)
        return label

    def items(
        self, tool_name: str, tool_result: Any, *, tool_args: Any = None, capabilities: Any = None
    ) -> list[LabeledItem]:
        """The items of what a tool answered, each with its labels.

        Raises:
            AssertionError: as `label_resource`; also if the guard has no fine-grained labels, or its label does not fit
                the result.
        """
        __tracebackhide__ = True
        label = self.label_response(tool_name, tool_result, tool_args=tool_args, capabilities=capabilities)
        if label is None:
            raise AssertionError(self._told("it gave no fine-grained labels"))
        try:
            return expand(label, tool_result)
        except ContractError as error:
            raise AssertionError(self._told(f"its label does not fit the result: {error}")) from error

    # --- calls that must not give one

    def resource_fails(
        self, status: str, tool_name: str, tool_args: Any = None, *, capabilities: Any = None
    ) -> OutcomeError:
        """Check that a call before it is made has no label, for the reason `status`: `"refused"`, `"trap"`, ...

        Raises:
            AssertionError: it has one, or another reason.
        """
        __tracebackhide__ = True
        self._ask_resource(tool_name, tool_args, capabilities)
        return self._failure(status)

    def response_fails(
        self, status: str, tool_name: str, tool_result: Any, *, tool_args: Any = None, capabilities: Any = None
    ) -> OutcomeError:
        """Check that what a tool answered has no label, for the reason `status`: `"refused"`, `"trap"`, ...

        Raises:
            AssertionError: it has one, or another reason.
        """
        __tracebackhide__ = True
        self._ask_response(tool_name, tool_result, tool_args, capabilities)
        return self._failure(status)

    @property
    def logs(self) -> list[str]:
        """What the guard logged in the last call, as `"info: text"`."""
        return list(map(str, self.outcome.logs))

    def _ask_resource(self, tool_name: str, tool_args: Any, capabilities: Any) -> None:
        self.questions = []
        self.outcome = self.pool.label_resource(tool_name, tool_args, capabilities=capabilities)

    def _ask_response(self, tool_name: str, tool_result: Any, tool_args: Any, capabilities: Any) -> None:
        self.questions = []
        self.outcome = self.pool.label_response(tool_name, tool_result, tool_args=tool_args, capabilities=capabilities)

    def _answer(self, tool: str, args: Any) -> Any:
        self.questions.append((tool, args))
        if self._backend is None:
            raise LookupError("the test gave the guard no backend")
        return ask(self._backend, tool, args)

    def _label(self) -> ResourceLabel | ResponseLabel | None:
        __tracebackhide__ = True
        if self.outcome.status is not Status.OK:
            raise AssertionError(self._told("it gave no label"))
        return self.outcome.label

    def _failure(self, status: str) -> OutcomeError:
        __tracebackhide__ = True
        words = [each.value for each in Status]
        if status not in words:  # a mistake of the test, not of the guard
            raise ValueError(f"{status!r} is no status: it is one of {', '.join(words)}")
        word = Status(status)
        if self.outcome.status is not word or self.outcome.error is None:
            raise AssertionError(self._told(f"it should have been {word}"))
        return self.outcome.error

    def _told(self, what: str) -> str:
        """What is wrong with the last outcome, and everything that helps to see why; safe to print."""
        outcome, error = self.outcome, self.outcome.error
        lines = [f"{outcome.op} {outcome.tool_name}: {what}; the outcome is {outcome.status}"]
        if error is not None:
            frames = trap_frames(error.message, self._module, self._limits.memory_pages)
            lines.append(f"  {error.code}: {without_frames(error.message) if frames else error.message}")
            lines += [f"  {frame}" for frame in frames]
        elif outcome.label is not None:
            lines.append(f"  {outcome.label}")
        lines += [f"  asked: {tool} {args!r}" for tool, args in self.questions]
        lines += [f"  logged: {line}" for line in outcome.logs[-_SHOWN_LINES:]]
        return "\n".join(map(escaped, lines))
