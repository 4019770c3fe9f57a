"""A gateway's log read as calls, beside raw JSON decoding of the same bytes.

Both use one core. The decoder has the lines in memory already; the reader opens the file, pairs answers with requests, tells
the states of payloads, and makes a call of each pair. The small calls are the sample traffic as its gateway logs it; the large
ones are the same log in which each answer is a list that has it again and again, of 20 KB, in one text as tools give it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from guardpool import recordings, samples
from guardpool.sizes import MIB
from guardpool_bench.context import Context, folder
from guardpool_bench.machine import rss_bytes
from guardpool_bench.measure import take_turns
from guardpool_bench.results import Fact

_LARGE_BYTES = 20_000
# So many calls between two looks at the resident set.
_LOOK_EVERY = 256


def run(context: Context) -> None:
    """Measure both sizes, each beside the decoder, in turns."""
    small = samples.recording(context.scale.log_calls)
    with folder() as own:
        for name, lines in (("small", small), ("large", enlarged(small[: len(small) // 4]))):
            path = own / f"{name}.jsonl"
            path.write_bytes(b"".join(lines_of(lines)))
            _measure(context, name, path)


def _measure(context: Context, name: str, path: Path) -> None:
    lines = path.read_bytes().splitlines()
    megabytes = path.stat().st_size / 1e6
    growths: list[float] = []

    def reading() -> float:
        seconds, growth = read(path)
        growths.append(growth)
        return seconds

    ways: tuple[tuple[str, Callable[[], float]], ...] = (("decoding", lambda: decode(lines)), ("reading", reading))

    def measure(way: tuple[str, Callable[[], float]], turn: int) -> float:
        context.step(f"{name} calls, {megabytes:.0f} MB: {way[0]}, run {turn + 1} of {context.scale.runs}")
        return way[1]()

    read(path)  # the process reaches its size
    growths.clear()
    decoding, taken = take_turns(ways, context.scale.runs, measure)
    about: dict[str, Fact] = {"calls": name, "megabytes": round(megabytes, 1)}
    raw = [megabytes / seconds for seconds in decoding]
    ours = [megabytes / seconds for seconds in taken]
    context.record(f"{name}.msgspec", f"{name} calls, decoded only", "MB/s", "higher", raw, **about)
    context.record(f"{name}.read", f"{name} calls, read as calls", "MB/s", "higher", ours, **about)
    context.record_ratio(f"{name}.ratio", f"{name} calls, reading over decoding", "higher", ours, raw, **about)
    context.record(f"{name}.rss", f"{name} calls, what a reading adds to the memory", "MiB", "lower", growths, **about)


def read(path: Path) -> tuple[float, float]:
    """Read a log as calls.

    Returns:
        Seconds, and by how many MiB the resident set grew from the first calls on.
    """
    began = time.perf_counter()
    first = most = rss_bytes()
    for number, _ in enumerate(recordings.read(path)):
        if number % _LOOK_EVERY == 0:
            most = max(most, rss_bytes())
    return time.perf_counter() - began, (most - first) / MIB


def decode(lines: Iterable[bytes]) -> float:
    """Seconds to decode every line."""
    one = msgspec.json.Decoder().decode
    began = time.perf_counter()
    for line in lines:
        one(line)
    return time.perf_counter() - began


def enlarged(lines: Iterable[str]) -> Iterator[str]:
    """A log whose answers have lists of 20 KB: what each block says, again and again."""
    for line in lines:
        members: dict[str, Any] = msgspec.json.decode(line)
        for block in members.get("payload", {}).get("result", {}).get("content", ()):
            said = block.get("text")
            if said:
                block["text"] = "[" + ",".join([said] * -(-_LARGE_BYTES // (len(said) + 1))) + "]"
        yield msgspec.json.encode(members).decode()


def lines_of(lines: Iterable[str]) -> Iterator[bytes]:
    """The lines as a file has them."""
    for line in lines:
        yield line.encode() + b"\n"
