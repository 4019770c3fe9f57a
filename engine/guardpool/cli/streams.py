"""Standard streams that were closed before the command began.

The kernel gives the lowest free descriptor to the next file that is opened. With standard output closed that would be the
input or an output file, and whatever is printed would be written into it.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, TextIO

# In the wrong direction for input and output, so that their use fails as if they were closed. Messages go nowhere.
_PLACEHOLDERS = ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_RDWR))


def fill_closed_streams() -> None:
    """Put /dev/null into each closed standard descriptor. To be called before anything else opens a file.

    Reading standard input and writing standard output fail with `OSError` from then on; Python would drop what is printed
    without a word.
    """
    for number, flags in _PLACEHOLDERS:
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, flags)
            os.dup2(null, number)  # the number that it has already, as a rule; for children, too
            if null == number:
                os.set_inheritable(number, True)
            else:
                os.close(null)
    if sys.stdin is None:
        sys.stdin = _stream(0, "r")
    if sys.stdout is None:
        sys.stdout = _stream(1, "w")
    if sys.stderr is None:
        sys.stderr = _stream(2, "w")


def _stream(number: int, mode: Literal["r", "w"]) -> TextIO:
    return os.fdopen(number, mode, encoding="utf-8", errors="backslashreplace", closefd=False)


def name_stdout() -> None:
    """Have what fails in writing standard output, at whatever moment a buffer is full, say so (`StdoutError`)."""
    now = sys.stdout
    # Otherwise a program calls us, and wants what is printed elsewhere.
    if type(now) is io.TextIOWrapper and now.fileno() == 1:
        now.flush()
        sys.stdout = _Stdout(
            io.BufferedWriter(io.FileIO(1, "w", closefd=False)),
            now.encoding,
            now.errors,
            line_buffering=now.line_buffering,
        )


def flush_stdout() -> None:
    """Write what was printed.

    Raises:
        BrokenPipeError: there is no reader.
        StdoutError: it cannot be written. What is left of it is dropped, so that Python does not try again at its exit.
    """
    with _named():
        sys.stdout.flush()


@contextmanager
def _named() -> Iterator[None]:
    try:
        yield
    except (BrokenPipeError, StdoutError):
        raise
    except OSError as error:
        drop_stdout()
        raise StdoutError(error.errno, error.strerror, "standard output: cannot be written") from error


class _Stdout(io.TextIOWrapper):
    def write(self, text: str, /) -> int:
        with _named():
            return super().write(text)

    def flush(self) -> None:
        with _named():
            super().flush()


def drop_stdout() -> None:
    """Let what is still buffered for standard output go nowhere, without a message at exit."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


class StdoutError(OSError):
    """What was printed cannot be written."""
