"""A guard that does real work, a policy for it, jobs to label and a backend to ask.

`GUARD` is the path of a GitHub guard written in Zig (source and recipe are beside it), `POLICY` a policy it accepts,
`jobs` an endless variety of realistic jobs, and `backend` answers the guard's questions about repositories; `replies` are the
same answers as a table. `recording` is such traffic as a gateway's log has it, and `recording_truth` says what it stands for.

    from guardpool import Guard, GuardPool, samples

    guard = Guard.from_file(samples.GUARD, policy=samples.POLICY, backend=samples.backend)
    with GuardPool([guard]) as pool:
        for outcome in pool.map(samples.jobs(1000)):
            print(outcome)
"""

from __future__ import annotations

from pathlib import Path

from guardpool.samples.make_jobs import jobs
from guardpool.samples.policy import POLICY
from guardpool.samples.recording import recording, recording_truth
from guardpool.samples.repositories import backend, replies

GUARD: Path = Path(__file__).with_name("github_guard.wasm")

__all__ = ["GUARD", "POLICY", "backend", "jobs", "recording", "recording_truth", "replies"]
