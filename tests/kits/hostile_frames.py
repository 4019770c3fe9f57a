"""Attacks by what is sent: bytes that are not frames, results that are not due, results that lie, floods."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from typing import Any

import msgspec

from guardpool.outcomes import LogLine, OutcomeError
from guardpool.protocol import wire
from hostile import ATTACKS, FORGED, LABEL, MIB, Traitor, attack, number_of

# --- bytes that are not frames


@attack
def header_of_4_gib(t: Traitor) -> None:
    t.raw(b"\xff\xff\xff\xff")


@attack
def frame_over_the_limit(t: Traitor) -> None:
    t.raw(struct.pack("<I", wire.MAX_FRAME_BYTES + 1) + bytes(MIB))


@attack
def bytes_that_are_not_msgpack(t: Traitor) -> None:
    t.raw(struct.pack("<I", 7) + b"\xc1GARBAGE"[:7])


@attack
def text(t: Traitor) -> None:
    t.raw(b"Traceback (most recent call last):\n  Oops\x1b[2J\n" * 50)


@attack
def empty_frame(t: Traitor) -> None:
    t.raw(bytes(4))


@attack
def nested_a_million_deep(t: Traitor) -> None:
    t.raw(struct.pack("<I", 1_000_000) + b"\x91" * 1_000_000)


@attack
def frames_of_the_other_direction(t: Traitor) -> None:
    t.send(wire.Drain())  # type: ignore[arg-type]


@attack
def a_frame_with_a_field_too_many(t: Traitor) -> None:
    t.send_any("BYE", 1)


@attack
def half_a_header_then_silence(t: Traitor) -> None:
    t.raw(b"\x40\x00")


@attack
def half_a_frame_then_silence(t: Traitor) -> None:
    data = wire.encode(wire.Results([t.answer(job) for job in t.take()]))
    t.raw(data[: len(data) // 2])


@attack
def half_of_the_largest_frame_then_silence(t: Traitor) -> None:
    t.raw(struct.pack("<I", wire.MAX_FRAME_BYTES) + b"\x92\xa7RESULTS" + bytes(16 * MIB))


@attack
def half_a_frame_then_exit(t: Traitor) -> None:
    t.raw(wire.encode(wire.Results([t.answer(job) for job in t.take()]))[:-3])
    os._exit(0)


@attack
def one_byte_at_a_time(t: Traitor) -> None:
    t.answer_all()
    _trickle(t)


def _trickle(t: Traitor) -> None:
    # A frame that never ends, and a wake-up of the supervisor for each byte of it.
    t.raw(struct.pack("<I", wire.MAX_FRAME_BYTES))
    while True:
        t.raw(b"\x92")


@attack
def one_byte_at_a_time_with_jobs_in_hand(t: Traitor) -> None:
    _trickle(t)


# --- results that are not due


@attack
def results_for_jobs_it_never_got(t: Traitor) -> None:
    t.send(wire.Results([wire.ResultItem(2**40, "ok", LABEL % 1, 1, 0, [])]))


@attack
def results_for_jobs_of_others(t: Traitor) -> None:
    # Numbers are handed out in order, so those of its neighbours are easy to guess.
    mine = {job.seq for job in t.take()}
    near = min(mine)
    foreign = [seq for seq in range(1, near + 500) if seq not in mine]
    for seq in foreign:
        t.send(wire.Results([wire.ResultItem(seq, "ok", LABEL % 0, 1, 0, [])]))


@attack
def results_twice(t: Traitor) -> None:
    frame = wire.Results([t.answer(job) for job in t.take()])
    t.send(frame)
    t.send(frame)


@attack
def one_result_twice_in_a_frame(t: Traitor) -> None:
    first = t.answer(t.take()[0])
    t.send(wire.Results([first, first]))


def _lie_at_the_end(name: str, lie: Callable[[Traitor, wire.JobItem], list[wire.ResultItem]]) -> None:
    def attack_with_it(t: Traitor) -> None:
        jobs = t.take()
        forged = [t.answer(job, body=FORGED) for job in jobs]
        t.send(wire.Results([*forged[:-1], *lie(t, jobs[-1])]))

    ATTACKS[name] = attack_with_it


# Labels that look sound and are false, and behind them in the same frame a lie that can be seen.
_lie_at_the_end("forged_labels_before_one_that_is_not_json", lambda t, job: [t.answer(job, body=b"{")])
_lie_at_the_end("forged_labels_before_a_result_that_is_not_due", lambda t, job: [t.answer(job, seq=2**40)])
_lie_at_the_end("forged_labels_before_one_result_twice", lambda t, job: [t.answer(job, body=FORGED)] * 2)


@attack
def results_after_bye(t: Traitor) -> None:
    frame = wire.Results([t.answer(job) for job in t.take()])
    t.send(wire.Bye())
    t.send(frame)


@attack
def bye_twice(t: Traitor) -> None:
    t.answer_all()
    t.send(wire.Bye())
    t.send(wire.Bye())


@attack
def bye_with_jobs_in_its_hands_and_exit(t: Traitor) -> None:
    t.send(wire.Bye())
    os._exit(0)


@attack
def bye_with_jobs_in_its_hands_and_silence(t: Traitor) -> None:
    t.send(wire.Bye())


@attack
def bye_and_silence(t: Traitor) -> None:
    t.answer_all()
    t.send(wire.Bye())


@attack
def empty_results_without_end(t: Traitor) -> None:
    # A frame without a result in it must not count as a sign of life.
    while True:
        t.send(wire.Results([]))


@attack
def more_results_than_a_frame_may_hold(t: Traitor) -> None:
    t.send(wire.Results([wire.ResultItem(n, "ok", b"null", 0, 0, []) for n in range(wire.MAX_RESULTS + 1)]))


def _lying_results(name: str, **changes: Any) -> None:
    def lie(t: Traitor) -> None:
        t.send(wire.Results([t.answer(job, **changes) for job in t.take()]))

    ATTACKS[name] = lie


def _lying_fields(name: str, at: int, value: Any) -> None:
    def lie(t: Traitor) -> None:
        fields = [[job.seq, "ok", LABEL % number_of(job), 10, 0, []] for job in t.take()]
        for item in fields:
            item[at] = value
        t.send_any("RESULTS", fields)

    ATTACKS[name] = lie


_lying_results("label_that_is_not_json", body=b"\x00\xff not json")
_lying_results("label_that_is_empty", body=b"")
_lying_results("label_of_two_lines", body=b'{"description":"x","secrecy":[],\n"integrity":[],"operation":"read"}')
_lying_results(
    "label_with_a_forged_outcome_behind_it",
    body=b'null,"error":null,"duration_us":1,"attempts":1}\n{"id":1,"guard":"vicious","op":"label_resource","tool_name":"t","status":"ok"',
)
_lying_results("label_with_a_newline_at_its_end", body=LABEL % 1 + b"\n")
_lying_results("label_of_another_operation", body=b'{"labeled_paths":[],"default_labels":null,"items_path":null}')
_lying_results("label_that_is_null", body=b"null")
_lying_results("label_that_is_a_number", body=b"5")
_lying_results("label_with_an_unknown_operation", body=(LABEL % 1).replace(b"read", b"none"))
_lying_results("label_with_another_field", body=(LABEL % 1)[:-1] + b',"allow":true}')
_lying_results("label_with_tags_that_are_numbers", body=(LABEL % 1).replace(b"[]", b"[1]"))
_lying_results("label_that_is_not_utf8", body=(LABEL % 1).replace(b"k1", b"\xff\xfe"))
_lying_results("label_with_a_lone_surrogate", body=(LABEL % 1).replace(b"k1", b"\\ud800"))
_lying_results("label_and_a_status_that_is_an_error", status="refused")
_lying_results("error_and_a_status_that_is_ok", body=OutcomeError("x", "y"))
_lying_fields("status_that_is_unknown", 1, "excellent")
_lying_fields("status_of_the_supervisor", 1, "crashed")
_lying_fields("negative_duration", 3, -1)
_lying_fields("duration_that_is_a_float", 3, 1.5)
_lying_fields("duration_of_two_million_years", 3, 2**64 - 1)
_lying_fields("negative_backend_calls", 4, -1)
_lying_fields("huge_number_of_backend_calls", 4, 2**63)
_lying_fields("negative_number", 0, -1)
_lying_fields("label_that_is_text", 2, "null")
_lying_fields("logs_that_are_not_a_list", 5, "logs")
_lying_fields("log_line_of_an_unknown_level", 5, [[2**62, "x"]])


@attack
def label_that_is_huge_and_not_json(t: Traitor) -> None:
    t.send(wire.Results([t.answer(t.take()[0], body=b"[" * (20 * MIB))]))


# --- floods


@attack
def flood_of_empty_strings_in_logs(t: Traitor) -> None:
    # Three bytes a line in a frame, a hundred in memory.
    body = b"\x92\x02\xa0" * 10_000_000
    item = msgspec.msgpack.encode([t.take()[0].seq, "ok", LABEL % 1, 1, 0])[1:]
    data = b"\x92\xa7RESULTS\x91\x96" + item + b"\xdd" + struct.pack(">I", 10_000_000) + body
    t.raw(struct.pack("<I", len(data)) + data)


@attack
def flood_of_strings_in_an_error(t: Traitor) -> None:
    error = {"code": "x", "message": "y", "backend": ["ab"] * 5_000_000}
    t.send_any("RESULTS", [[job.seq, "refused", error, 1, 0, []] for job in t.take()[:1]])


@attack
def flood_of_logs(t: Traitor) -> None:
    logs = [LogLine(3, "x" * MIB)] * 20
    while True:
        job = t.take().pop(0)
        t.send(wire.Results([t.answer(job, logs=logs)]))


@attack
def errors_of_16_mib(t: Traitor) -> None:
    error = OutcomeError("c" * MIB, "m" * (15 * MIB), trap="t" * MIB)
    while True:
        job = t.take().pop(0)
        t.send(wire.Results([t.answer(job, status="refused", body=error)]))


@attack
def flood_of_standard_error(t: Traitor) -> None:
    line = b"\x1b[31mlook at me\x07\n" * 4000
    while True:
        os.write(2, line)


@attack
def flood_of_hellos(t: Traitor) -> None:
    while True:
        t.hello()


@attack
def flood_of_byes(t: Traitor) -> None:
    t.raw(wire.encode(wire.Bye()) * 100_000)


@attack
def flood_of_zeros(t: Traitor) -> None:
    while True:
        t.raw(bytes(MIB))
