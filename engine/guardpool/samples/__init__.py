"""A guard that does real work, a policy for it, jobs to label and a backend to ask.

`GUARD` is the path of a GitHub guard written in Zig (source and recipe are beside it), `POLICY` a policy it accepts,
`jobs` an endless variety of realistic jobs, and `backend` answers the guard's questions about repositories.

    from guardpool import Guard, GuardPool, samples

    guard = Guard.from_file(samples.GUARD, policy=samples.POLICY, backend=samples.backend)
    with GuardPool([guard]) as pool:
        for outcome in pool.map(samples.jobs(1000)):
            print(outcome)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from guardpool.samples.make_jobs import jobs
from guardpool.samples.repositories import backend

GUARD: Path = Path(__file__).with_name("github_guard.wasm")

POLICY: dict[str, Any] = {
    "allow-only": {
        "repos": "all",
        "min-integrity": "approved",
        "blocked-users": ["spam-merchant", "mallory-x"],
        "trusted-users": ["octo-lead", "release-captain"],
        "approval-labels": ["ready-for-agent", "accepted"],
        "refusal-labels": ["needs-triage", "suspicious"],
    },
    "trusted-bots": ["renovate[bot]", "octo-ci[bot]"],
}

__all__ = ["GUARD", "POLICY", "backend", "jobs"]
