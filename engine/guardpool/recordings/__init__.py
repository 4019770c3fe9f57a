"""Recordings: what people have on disk (a gateway's log, transcripts, captures), read as the calls of an agent.

    from guardpool import recordings

    reader = recordings.read(["mcp-logs/"])
    for call in reader:
        print(call.call, call.server, call.tool, call.pairing)
    print(reader.tally.reasons)

A format is one module of `formats/`; what it must do is in `formats/seam.py`.
"""

from __future__ import annotations

from guardpool.compression import DecoderMissing
from guardpool.recordings.call import Call, CallError, Pairing, Payload, PayloadState, ResultIs, Role
from guardpool.recordings.inputs import InputError
from guardpool.recordings.reader import Reader, UnknownFormat, read
from guardpool.recordings.runs import Fact, Run
from guardpool.recordings.tally import Example, Tally
from guardpool.recordings.to_jobs import jobs

__all__ = [
    "Call",
    "CallError",
    "DecoderMissing",
    "Example",
    "Fact",
    "InputError",
    "Pairing",
    "Payload",
    "PayloadState",
    "Reader",
    "ResultIs",
    "Role",
    "Run",
    "Tally",
    "UnknownFormat",
    "jobs",
    "read",
]
