"""What the attempts of the escape kit work on, and the form in which each is written down."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from dataclasses import dataclass, field

from guardpool_worker import linux

SECRET_NAME = "GUARDPOOL_KIT_SECRET"
ALLOWED, KILLED, HUNG = "allowed", "killed", "hung"


@dataclass
class Scene:
    """What an attempt can steal, reach and damage."""

    folder: str
    secret_file: str
    secret_fd: int
    kept_fd: int
    tcp_port: int
    abstract_name: str
    sibling: int
    parent: int
    replies_at: int  # where the replies are mapped for reading, which the forkserver does before the fork
    slots_at: int  # where a worker's slots are mapped for reading, which it does before its sandbox closes
    foreign_code: Callable[[], int] | None
    in_sandbox: bool = False
    report_fd: int = -1
    buffer: ctypes.Array[ctypes.c_char] = field(default_factory=lambda: ctypes.create_string_buffer(4096))

    @property
    def spare_file(self) -> str:
        """A file that an attempt may damage; each attempt finds a new one."""
        return f"{self.folder}/spare"

    @property
    def address(self) -> int:
        return ctypes.addressof(self.buffer)

    def path(self, text: str) -> int:
        """The address of a C string; good until the next call."""
        self.buffer.value = text.encode()
        return self.address

    def report_before_exec(self) -> None:
        """Report success before an exec, because nothing of ours runs after one that works; a failure overwrites it."""
        os.write(self.report_fd, b"allowed\n")


@dataclass(frozen=True)
class Attempt:
    """One thing to try.

    Args:
        name: what it is, in the table.
        do: returns if it worked, raises `OSError` if not.
        expected: what the sandbox answers: "killed" or the name of an errno.
        plain: "allowed" if every process without a sandbox can do it, "root" if root can, "maybe" if that depends on how
            the machine is set up.
        landlock: the name of the errno that Landlock alone answers with; None if Landlock does not cover it.
    """

    name: str
    do: Callable[[Scene], object]
    expected: str
    plain: str = ALLOWED
    landlock: str | None = None


class Kit(list[Attempt]):
    """Attempts, in the order in which they are written down."""

    def attempt(
        self, name: str, expected: str, plain: str = ALLOWED, landlock: str | None = None
    ) -> Callable[[Callable[[Scene], object]], Callable[[Scene], object]]:
        """Add the decorated function; the arguments are those of `Attempt`."""

        def add(do: Callable[[Scene], object]) -> Callable[[Scene], object]:
            self.append(Attempt(name, do, expected, plain, landlock))
            return do

        return add


def call(name: str, *args: int) -> int:
    return linux.syscall(name, *args)


AT_FDCWD = -100
EPERM, EBADF, ENOSYS, EACCES = "EPERM", "EBADF", "ENOSYS", "EACCES"
