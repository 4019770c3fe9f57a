"""A guard: a wasm module, the policy it is initialised with, and a name."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Union

from guardpool.errors import CallerError, ModuleError, check_kind

Backend = Callable[[str, Any], Any]

Remember = Union[str, float, None]
"""How long an answer of a backend is kept: `"pool"`, `"never"`, seconds, or None for what is usual."""

ON_BACKEND_FAILURE = ("label", "withhold")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Guard:
    """A guard under a name. Nothing is compiled or run until a `GuardPool` is made of it.

    Args:
        name: letters, digits, `.`, `_`, `-`, a letter or digit first; 64 at most. Jobs name the guard by it.
        wasm: the module's bytes.
        policy: what `label_agent` gets: an object, or a string holding one. A pool refuses None, because the contract
            asks for a policy that says what is allowed.
        trusted_bots: user names that take the place of the policy's `trusted-bots`, as in the gateway; empty: the policy's
            own stay.
        trusted_users: user names that take the place of the policy's `trusted-users`; empty: the policy's own stay.
        backend: called as `backend(tool, args)` in the caller's process, on a thread of its own, for each
            `call_backend` of the guard; returns any JSON value, or is an async function. If it raises, or returns what is not
            JSON (NaN, a date, bytes), the guard gets -1, and the reason is logged and stands in the outcome. It may be called
            from several threads at once. `guardpool.backends` has tables of replies and live MCP servers. One question is
            asked once, however many workers ask it at the same time, and its answer is kept for the next time. It is closed
            with the pool if it has a `close`.
        remember: how long an answer is kept: `"pool"`, `"never"` or seconds; None: a table's as long as the pool, 300
            seconds for what is asked live. That a question had no answer is kept for a second, unless it is `"never"`.
            An answer whose time is over while a job runs may still be given to that job.
        on_backend_failure: `"label"`: the guard decides what a question without an answer means, as in the gateway;
            `"withhold"`: then the outcome is `unanswered` and has no label. A guard that remembers what it then assumed
            does not ask for later jobs, which are labelled.

    Raises:
        CallerError: the name or the types are wrong.
    """

    __slots__ = (
        *(
            "backend",
            "name",
            "on_backend_failure",
            "path",
            "policy",
            "remember",
            "trusted_bots",
            "trusted_users",
            "wasm",
        ),
    )

    def __init__(
        self,
        name: str,
        wasm: bytes,
        policy: Any = None,
        trusted_bots: Sequence[str] = (),
        trusted_users: Sequence[str] = (),
        backend: Backend | None = None,
        *,
        remember: Remember = None,
        on_backend_failure: str = "label",
        path: str | None = None,
    ) -> None:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise CallerError(
                f"a guard's name must be 1 to 64 letters, digits, '.', '_' or '-', a letter or digit first; not {name!r}"
            )
        if not isinstance(wasm, (bytes, bytearray, memoryview)):
            raise CallerError(
                f"guard {name!r}: wasm must be bytes, not {type(wasm).__name__}; use Guard.from_file for a file"
            )
        if backend is not None and not callable(backend):
            raise CallerError(f"guard {name!r}: backend must be callable, not {type(backend).__name__}")
        _check_remember(name, remember)
        if on_backend_failure not in ON_BACKEND_FAILURE:
            raise CallerError(
                f"guard {name!r}: on_backend_failure must be 'label' or 'withhold', not {on_backend_failure!r}"
            )
        for names, argument in ((trusted_bots, "trusted_bots"), (trusted_users, "trusted_users")):
            if isinstance(names, (str, bytes)):
                raise CallerError(f"guard {name!r}: {argument} must be a list of names, not one name: [{names!r}]")
            if not isinstance(names, Iterable):
                raise CallerError(f"guard {name!r}: {argument} must be a list of names, not {type(names).__name__}")
        self.name = name
        self.wasm = bytes(wasm)
        self.policy = policy
        self.trusted_bots = tuple(trusted_bots)
        self.trusted_users = tuple(trusted_users)
        self.backend = backend
        self.remember = remember
        self.on_backend_failure = on_backend_failure
        self.path = path

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str],
        name: str | None = None,
        policy: Any = None,
        trusted_bots: Sequence[str] = (),
        trusted_users: Sequence[str] = (),
        backend: Backend | None = None,
        *,
        remember: Remember = None,
        on_backend_failure: str = "label",
    ) -> Guard:
        """A guard from a `.wasm` file; its name is the file's without the suffix unless one is given.

        Raises:
            ModuleError: the file cannot be read.
            CallerError: as for `Guard`.
        """
        check_kind("path", path, (str, os.PathLike), "a path")
        file = Path(path)
        try:
            wasm = file.read_bytes()
        except OSError as error:
            raise ModuleError(f"{file}: cannot be read: {error.strerror or error}", guard=name) from error
        return cls(
            name or file.stem,
            wasm,
            policy,
            trusted_bots,
            trusted_users,
            backend,
            remember=remember,
            on_backend_failure=on_backend_failure,
            path=str(file),
        )

    def but(self, **changes: Any) -> Guard:
        """The same guard with other arguments."""
        return Guard(**{**self.__getstate__(), **changes})

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)

    def __repr__(self) -> str:
        return f"Guard({self.name!r}, {len(self.wasm)} bytes of wasm)"


def _check_remember(name: str, remember: object) -> None:
    if remember is None or remember in ("pool", "never"):
        return
    if isinstance(remember, bool) or not isinstance(remember, (int, float)) or not 0 < remember < math.inf:
        raise CallerError(
            f"guard {name!r}: remember must be 'pool', 'never' or a number of seconds above 0, not {remember!r}"
        )
