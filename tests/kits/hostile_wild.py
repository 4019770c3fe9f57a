"""Random attacks: frames that are right, nearly right, or noise, on a page of noise."""

from __future__ import annotations

import os
import struct
from random import Random
from typing import Any

import msgspec

from hostile import LABEL, Traitor, attack

# --- random frames


def _wild_value(random: Random, depth: int = 0) -> Any:
    kind = random.randrange(12 if depth < 4 else 9)
    if kind < 3:
        return random.choice([0, 1, -1, 2**31, 2**63 - 1, 2**64 - 1, -(2**63), random.randrange(1000)])
    if kind < 5:
        return random.choice(
            ["", "ok", "trap", "RESULTS", "HELLO", "BYE", "guard", "x" * random.randrange(300), "\x00\n"]
        )
    if kind < 7:
        return random.choice([b"", b"null", b"{}", LABEL % 1, random.randbytes(random.randrange(100))])
    if kind == 7:
        return random.choice([None, True, False, 1.5, float("nan")])
    if kind == 8:
        return {}
    if kind == 9:
        return {str(_wild_value(random, depth + 4)): _wild_value(random, depth + 1) for _ in range(random.randrange(4))}
    return [_wild_value(random, depth + 1) for _ in range(random.randrange(7))]


def _wild_frame(t: Traitor) -> bytes:
    """The bytes of one frame: a right one, one that is nearly right, or noise."""
    random = t.random
    seqs = [job.seq for job in t.jobs] or [1]
    seq = random.choice([*seqs, random.randrange(1, 2000), 0, 2**63])
    item = [
        seq,
        random.choice(["ok", "refused", "trap"]),
        random.choice([LABEL % 1, b"null", {"code": "c", "message": "m"}]),
    ]
    fields: list[Any] = random.choice(
        [
            ["RESULTS", [[*item, random.randrange(100), 0, []]]],
            ["RESULTS", [[*item, random.randrange(100), 0, [[random.randrange(5), "line"]]]] * random.randrange(4)],
            ["BACKEND_CALL", seq, random.randrange(-1, 2), "ask", random.choice([b"{}", b"", b"{"])],
            ["BYE"],
            ["HELLO", 1, 1, {}, [b"{}"], [], None],
            ["HELLO", 1, 1, {}, [], [], ["guard", 0, "failed"]],
            [random.choice(["RESULTS", "BYE", "JOBS", "DRAIN"]), _wild_value(random)],
            [_wild_value(random) for _ in range(random.randrange(5))],
        ]
    )
    if random.random() < 0.4:  # replace a part of it
        place: Any = fields
        while isinstance(place, list) and place:
            at = random.randrange(len(place))
            if not isinstance(place[at], list) or random.random() < 0.4:
                place[at] = _wild_value(random)
                break
            place = place[at]
    try:
        body = bytearray(msgspec.msgpack.encode(fields))
    except (OverflowError, ValueError, TypeError):
        body = bytearray(b"\xc1")
    if random.random() < 0.3:
        for _ in range(random.randrange(1, 4)):
            if body:
                body[random.randrange(len(body))] = random.randrange(256)
    if random.random() < 0.1:
        body = bytearray(random.randbytes(random.randrange(200)))
    length = len(body) if random.random() < 0.9 else random.choice([0, 1, len(body) + 1, 2**25, 2**32 - 1])
    return struct.pack("<I", length) + body


@attack
def wild(t: Traitor) -> None:
    """Random frames, cut at random, with a random page; then exit, silence, or a closed pipe."""
    random = t.random
    if random.random() < 0.3:
        t.answer_all()
    for _ in range(random.choice([1, 1, 2, 5, 20])):
        if random.random() < 0.3:
            t.page[random.randrange(random.choice([8, 16, len(t.page)]))] = random.choice(
                [0, 1, 2**64 - 1, random.randrange(2000)]
            )
        data = _wild_frame(t)
        while data:
            at = random.choice([len(data), len(data), random.randrange(1, len(data) + 1)])
            t.raw(data[:at])
            data = data[at:]
    end = random.random()
    if end < 0.6:
        os._exit(random.choice([0, 1, 70, 255]))
    if end < 0.8:
        os.close(t.fds.results)
    if end < 0.9:
        t.raw(b"\xff" * 100)
