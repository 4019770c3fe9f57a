"""Several backends, asked one after the other."""

from __future__ import annotations

from typing import Any

from guardpool.backends.asking import ask, check_backend, close
from guardpool.backends.replies import NoReply
from guardpool.errors import CallerError
from guardpool.guard import Backend


class First:
    """The first backend that knows answers. One that raises anything but `NoReply` knows: it has no answer.

    Args:
        backends: in the order in which they are asked.

    Raises:
        CallerError: there is none, or one cannot be called.

    Attributes:
        backends: the same.
    """

    def __init__(self, *backends: Backend) -> None:
        if not backends:
            raise CallerError("First needs at least one backend")
        for backend in backends:
            check_backend(backend)
        self.backends = backends

    def __call__(self, tool: str, args: Any) -> Any:
        """The answer. Raises NoReply if no backend knows."""
        for backend in self.backends[:-1]:
            try:
                return ask(backend, tool, args)
            except NoReply:
                continue
        return ask(self.backends[-1], tool, args)

    def close(self) -> None:
        """Close those backends that can be closed."""
        close(*self.backends)
