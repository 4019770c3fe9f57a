"""The chaos run of the command line: `guardpool label` with a disk that fills up, and with a slow reader.

Workers are killed meanwhile. What is in the output is compared with a run without faults: whole lines only, in order, each
the same but for how long and how often a job was tried. The command tries a job twice, so that a job whose worker was
killed twice is `crashed`: at most one for two workers killed.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import psutil

import guardkit
from guardpool import samples
from guardpool.jobs import Job
from poolkit import POLICY, wait_until
from saboteur import Saboteur

JOBS = 12_000  # of a long run
TIMEOUT_S = 60.0
_COMMAND = [sys.executable, "-c", "import sys; from guardpool.cli import main; sys.exit(main())"]
_FAULTS = {"kill a worker": 8, "kill two workers at once": 1, "kill the forkserver": 1}


def run(seed: int, jobs: int = JOBS) -> list[str]:
    """Everything that was not as it should be."""
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        return _Files(Path(name), seed, jobs).run()


class _Files:
    def __init__(self, folder: Path, seed: int, jobs: int) -> None:
        self._folder = folder
        self._seed = seed
        self._count = jobs
        self._random = Random(seed)
        self._problems: list[str] = []
        (folder / "github.json").write_bytes(msgspec.json.encode(samples.POLICY))
        (folder / "vicious.wasm").write_bytes(guardkit.wat("vicious"))
        (folder / "vicious.json").write_bytes(msgspec.json.encode(POLICY))
        (folder / "jobs").write_bytes(b"".join(_line(job) for job in self._jobs()))

    def run(self) -> list[str]:
        """All runs; what was wrong with them."""
        reference = self._folder / "reference"
        status, errors, _ = self._label(reference, {})
        if status or errors:
            return [f"the run without faults ended with {status}: {errors[:3]}"]
        expected = reference.read_bytes().splitlines(keepends=True)
        self._full_disk(expected)
        self._slow_reader(expected)
        return self._problems

    def _jobs(self) -> list[Job]:
        jobs = [msgspec.structs.replace(job, guard="github") for job in samples.jobs(self._count, self._seed)]
        for number in self._random.sample(range(self._count), self._count // 40):
            tool = self._random.choice("kkkkktxni") + str(number)
            jobs[number] = Job(number, "label_resource", tool, {"n": number}, guard="vicious")
        return jobs

    def _full_disk(self, expected: list[bytes]) -> None:
        out = self._folder / "full"
        size = sum(map(len, expected))
        limit = self._random.randrange(size // 2, size * 3 // 4)
        status, errors, kills = self._label(out, _FAULTS, limit)
        if status != 1 or len(errors) != 1 or str(out) not in errors[0]:
            self._problems.append(f"a full disk: exit status {status}, said {errors[:3]}")
        part = _part_of(out)
        data = part.read_bytes() if part.exists() else b""
        if len(data) > limit or len(data) < limit - 300_000:
            self._problems.append(f"a full disk: {len(data)} bytes where {limit} fit")
        self._compare("a full disk", data, expected, kills, whole=False)

    def _slow_reader(self, expected: list[bytes]) -> None:
        process = self._start("-", None, subprocess.PIPE)
        assert process.stdout is not None
        data = os.read(process.stdout.fileno(), 16384)
        saboteur = Saboteur(self._seed, psutil.Process(process.pid), _FAULTS)
        saboteur.start()
        while part := os.read(process.stdout.fileno(), 16384):
            data += part
            if len(data) < 1_000_000:
                time.sleep(0.01)  # this is the slow reader
        process.stdout.close()
        status, errors = self._finish(process, saboteur)
        if status or errors:
            self._problems.append(f"a slow reader: exit status {status}, said {errors[:3]}")
        self._compare("a slow reader", data, expected, saboteur.kills, whole=True)

    def _compare(self, what: str, data: bytes, expected: list[bytes], kills: int, whole: bool) -> None:
        lines = data.splitlines(keepends=True)
        if lines and not lines[-1].endswith(b"\n"):
            self._problems.append(f"{what}: the last line is cut: {lines[-1][-80:]!r}")
        if whole and len(lines) != len(expected):
            self._problems.append(f"{what}: {len(lines)} lines instead of {len(expected)}")
        crashed = 0
        for got, wanted in zip(map(_outcome, lines), map(_outcome, expected)):
            if got != wanted:
                if got["status"] == "crashed" and got["id"] == wanted["id"]:
                    crashed += 1
                else:
                    self._problems.append(f"{what}: {str(got)[:200]} instead of {str(wanted)[:200]}")
        if crashed > kills // 2:
            self._problems.append(f"{what}: {crashed} jobs crashed, of {kills} workers killed")

    def _label(self, out: Path, faults: dict[str, int], limit: int | None = None) -> tuple[int, list[str], int]:
        process = self._start(out, limit, None)
        if not faults:
            return *self._finish(process, None), 0
        # Not before the first line: a worker that dies while the pool starts is a pool that cannot be started.
        part = _part_of(out)
        wait_until(lambda: process.poll() is not None or (part.exists() and part.stat().st_size), "the first line")
        saboteur = Saboteur(self._seed, psutil.Process(process.pid), faults)
        saboteur.start()
        return *self._finish(process, saboteur), saboteur.kills

    def _start(self, out: object, limit: int | None, stdout: int | None) -> subprocess.Popen[bytes]:
        folder = self._folder
        arguments = ["label", folder / "jobs", "-o", out, "-w", 2, "--timeout", 30, "--log-level", "error"]
        for name, wasm in (("github", samples.GUARD), ("vicious", folder / "vicious.wasm")):
            arguments += ["-g", f"{name}={wasm}", "-p", f"{name}={folder / name}.json"]

        def before_exec() -> None:
            if limit is not None:  # past this size a write fails as it does on a full disk, in the middle of a line
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        return subprocess.Popen(
            [*_COMMAND, *map(str, arguments)], stdout=stdout, stderr=subprocess.PIPE, preexec_fn=before_exec
        )

    @staticmethod
    def _finish(process: subprocess.Popen[bytes], saboteur: Saboteur | None) -> tuple[int, list[str]]:
        """Exit status and what went wrong in the command's words: without the counts and the warnings of our own faults."""
        try:
            assert process.stderr is not None
            errors = process.stderr.read().decode().splitlines()
            process.stderr.close()
            status = process.wait(TIMEOUT_S)
        finally:
            if saboteur is not None:
                saboteur.finish()
        ours = ("guardpool: warning: worker ", "guardpool: warning: the forkserver ", *_ASKED)
        return status, [line for line in errors if not line.startswith(ours) and " jobs in " not in line]


# No backend answers here.
_ASKED = tuple(
    f"guardpool: {warning}guard {name} ask" for warning in ("", "warning: ") for name in ("github", "vicious")
)


def _part_of(out: Path) -> Path:
    """Where outcomes stand until all of them are there."""
    return out.with_name(f"{out.name}.part")


def _line(job: Job) -> bytes:
    return msgspec.json.encode(job) + b"\n"


def _outcome(line: bytes) -> dict[str, Any]:
    outcome: dict[str, Any] = json.loads(line)
    del outcome["duration_us"], outcome["attempts"]
    outcome.pop("backend", None)  # a guard that knows from an earlier job does not ask
    return outcome
