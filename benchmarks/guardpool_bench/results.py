"""The report of a run: programs read it by its JSON schema, and the tables and plots are made of it."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Union

import msgspec

from guardpool.errors import CallerError
from guardpool_bench import FORMAT
from guardpool_bench.run_statistics import Summary, summarise

Better = Literal["higher", "lower", "neither"]
Fact = Union[str, int, float, bool]
SCHEMA_FILE = Path(__file__).with_name("schema.json")


class ReportError(CallerError):
    """A file that is not a report of this suite, or cannot be read."""


class Series(msgspec.Struct, frozen=True):
    """One quantity, run by run.

    Attributes:
        key: its name for programs, the same in every report: `case.what.of whom`.
        case: the case it belongs to.
        title: its name for people.
        unit: e.g. `"jobs/s"`, `"us"`, `"MiB"`, `"ratio"`.
        better: which way is good.
        values: one number a run, in the order they were measured.
        median, mad, low, high: of the values; mad is the median absolute deviation.
        about: what distinguishes it from its neighbours: `{"jobs": "mixed", "who": "guardpool"}`.
    """

    key: str
    case: str
    title: str
    unit: str
    better: Better
    values: list[float]
    median: float
    mad: float
    low: float
    high: float
    about: dict[str, Fact] = {}

    @property
    def summary(self) -> Summary:
        """Median and spread."""
        return Summary(self.median, self.mad, self.low, self.high, len(self.values))


class Curve(msgspec.Struct, frozen=True):
    """One quantity over another, of a single run."""

    key: str
    case: str
    title: str
    x_name: str
    y_name: str
    x: list[float]
    y: list[float]


class GoalResult(msgspec.Struct, frozen=True):
    """One goal beside what was measured.

    Attributes:
        name: what is measured.
        against: what it is compared with.
        goal: the goal, in words.
        limit: the goal, as a number.
        better: `"higher"`: at least the limit; `"lower"`: at most.
        key: the series that decides; empty if it was not measured.
        measured: its median, or None.
        unit: of both.
        passed: None if it was not measured.
        margin: by how much, as a share of the limit: positive if it is better than it had to be.
        runs_passed: how many runs passed by themselves.
        runs: how many there were.
        remark: what a reader has to know to weigh it.
    """

    name: str
    against: str
    goal: str
    limit: float
    better: Better
    key: str
    unit: str
    measured: Union[float, None] = None
    passed: Union[bool, None] = None
    margin: Union[float, None] = None
    runs_passed: int = 0
    runs: int = 0
    remark: str = ""


class Layer(msgspec.Struct, frozen=True):
    """A part of what a job costs: `us` microseconds of CPU in `where`, measured as `how` says."""

    where: Literal["caller", "supervisor", "worker"]
    name: str
    us: float
    how: str


class Profile(msgspec.Struct, frozen=True):
    """Where a microsecond goes.

    Attributes:
        jobs: which jobs.
        layers: parts, each measured by itself.
        totals: microseconds of CPU a job took in each place, from the kernel's accounts of a real run.
        wall_us: wall-clock microseconds a job took in that run, over all workers.
    """

    jobs: str
    layers: list[Layer]
    totals: dict[str, float]
    wall_us: float


class Machine(msgspec.Struct, frozen=True):
    """The machine of a run; loads are averages of one minute."""

    cpu: str
    cores: int
    memory_mib: int
    kernel: str
    python: str
    versions: dict[str, str]
    load_before: float
    load_after: float
    governor: str = ""


class Subject(msgspec.Struct, frozen=True):
    """The guard and the jobs that were measured."""

    guard: str
    sha256: str
    wasm_bytes: int
    jobs: str


class Report(msgspec.Struct, frozen=True):
    """A whole run of the suite.

    Attributes:
        format: `guardpool-bench/1`.
        created: when it began, ISO 8601 in UTC.
        guardpool: the version.
        finished: False if it was interrupted or a case failed.
        seconds: how long it took.
        options: how it was called.
        foreign_load: cores that other programs used just before each case.
        stolen: share of the cores' time that a hypervisor gave to others during the run, as far as it tells.
        notes: what a reader has to know: peers that are missing, jobs that were not labelled.
    """

    format: str
    created: str
    guardpool: str
    finished: bool
    seconds: float
    options: dict[str, Fact]
    machine: Machine
    subject: Subject
    series: list[Series]
    curves: list[Curve]
    goals: list[GoalResult]
    profile: Union[Profile, None]
    foreign_load: dict[str, float]
    stolen: float
    notes: list[str]

    def find(self, key: str) -> Series | None:
        """The series of that key; None if it was not measured."""
        return next((each for each in self.series if each.key == key), None)


def make_series(
    key: str, case: str, title: str, unit: str, better: Better, values: Sequence[float], about: dict[str, Fact]
) -> Series:
    """A series with its summary."""
    found = summarise(values)
    return Series(key, case, title, unit, better, list(values), found.median, found.mad, found.low, found.high, about)


def report_to_json(report: Report) -> bytes:
    """The report as indented JSON with a newline at its end."""
    return msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n"


def report_from_json(raw: bytes, name: str) -> Report:
    """Read a report back.

    Raises:
        ReportError: it is not a report, or one of another format; `name` is in the message.
    """
    try:
        report = msgspec.json.decode(raw, type=Report)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ReportError(f"{name}: not a report of guardpool bench: {error}") from error
    if report.format != FORMAT:
        raise ReportError(f"{name}: a report of format {report.format!r}; this release reads {FORMAT!r}")
    return report


def load_report(path: str | Path) -> Report:
    """Read a report from a file. Raises ReportError if it cannot be read or is not a report."""
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise ReportError(f"{path}: cannot be read: {error.strerror or error}") from error
    return report_from_json(raw, str(path))


def schema() -> dict[str, Any]:
    """The JSON schema of a report; `schema.json` is a copy of it."""
    found = _cleaned(msgspec.json.schema(Report))
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": FORMAT, **found}


def _cleaned(schema: Any) -> Any:
    """A schema whose descriptions, which are docstrings, have no indentation: Python takes it away from 3.13 on."""
    if isinstance(schema, list):
        return [_cleaned(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: inspect.cleandoc(value) if key == "description" and isinstance(value, str) else _cleaned(value)
        for key, value in schema.items()
    }


def schema_text() -> bytes:
    """What `schema.json` holds."""
    return msgspec.json.format(msgspec.json.encode(schema(), order="sorted"), indent=1) + b"\n"
