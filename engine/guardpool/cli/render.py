"""What the commands print: one-line errors, tables, sizes and times, and nothing that could harm a terminal."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection
from typing import TYPE_CHECKING

from guardpool.errors import CallerError
from guardpool.printable import printable, terminal_json, without_commands

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_MESSAGE_CHARS = 2000
UNLIMITED_COLUMNS = 1 << 20
_SIZE = re.compile(r"\s*(\d+)\s*([kmgt]?)(i?b)?\s*", re.IGNORECASE)
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


class UsageError(CallerError):
    """An option cannot be used as it was given: exit status 2."""

    exit_status_of_command = 2


def complain(message: str) -> None:
    """One line on stderr, whatever `message` holds."""
    try:
        sys.stderr.write(f"guardpool: {printable(message, _MESSAGE_CHARS)}\n")
        sys.stderr.flush()
    except OSError:
        pass  # stderr has no reader; the exit status still tells


def make_console(*, stderr: bool = False) -> Console:
    """A console that takes no markup and no emoji codes from what it prints, and wraps lines on a terminal only."""
    from rich.console import Console

    console = Console(stderr=stderr, markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        console.width = UNLIMITED_COLUMNS
    return console


def safe(text: object, limit: int = 200, style: str = "") -> Text:
    """Text from any source as one printable line for a table."""
    from rich.text import Text

    return Text(printable(str(text), limit), style=style)


def print_json(value: object) -> None:
    """A value for a program: indented JSON on stdout, in ASCII where a terminal would see it."""
    import msgspec

    print_json_bytes(msgspec.json.encode(value))


def print_json_bytes(text: bytes) -> None:
    """A value that is JSON already, printed like `print_json` does."""
    import msgspec

    pretty = without_commands(msgspec.json.format(text, indent=2))
    sys.stdout.write(terminal_json(pretty).decode() if sys.stdout.isatty() else pretty.decode())
    sys.stdout.write("\n")


def print_json_line(text: bytes) -> None:
    """A value that is JSON already, as one line."""
    text = without_commands(text)
    sys.stdout.write((terminal_json(text) if sys.stdout.isatty() else text).decode() + "\n")


def parse_size(text: str, option: str) -> int:
    """The number of bytes that `123`, `256M` or `1GiB` means; `option` is named in the error.

    Raises:
        UsageError: `text` is not a size.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise UsageError(f"{option} must be a number of bytes, or like 64K, 256M, 2G; not {text!r}")
    return int(match[1]) * _UNITS[match[2].lower()]


def show_tags(tags: Collection[str]) -> str:
    """A set of tags for people, sorted; `-` for none."""
    return ", ".join(sorted(tags)) or "-"


def show_bytes(count: float) -> str:
    """A number of bytes for people: `640 B`, `1.5 MiB`."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def show_seconds(seconds: float) -> str:
    """A time span for people: `0.42 s`, `12.3 s`, `4:05`, `1:02:03`, `3 d 04:05`."""
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours:02}:{minutes:02}"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def show_duration(us: int) -> str:
    """How long one job took, for people: `94 us`, `12.3 ms`, `2.50 s`."""
    if us < 1000:
        return f"{us} us"
    return f"{us / 1000:.1f} ms" if us < 1_000_000 else show_seconds(us / 1_000_000)


def show_rate(per_s: float) -> str:
    """A rate for people: `16,260/s`; one decimal below ten."""
    return f"{per_s:,.0f}/s" if per_s >= 10 else f"{per_s:.1f}/s"
