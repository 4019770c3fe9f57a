"""The chaos run: sample jobs and vicious jobs, several callers, and a saboteur among the pool's processes.

    python tests/kits/chaos.py --seconds 120 --seed 1

Every job is one of a corpus that a pool labelled before, without faults. What comes back under fire is compared with that:
each job has exactly one outcome, and the same one, down to the label's bytes. Two differences are accounted for:

- A worker that is stopped (SIGSTOP) while it runs a job hits the deadline like any other: there may be as many outcomes
  `timeout` too many as there were SIGSTOPs, and no more.
- A job may be tried again as often as workers were killed or stopped, and no more often: the attempts that outcomes tell
  add up to at most that, but for those of `memory`, which may need a second one to know whose memory it was.
  (`max_attempts` is out of reach, so that no job is `crashed`.)

A guard keeps state, so a label might depend on the jobs before it. The corpus holds only jobs whose label does not: they
get the same one from a fresh instance and in the middle of all others.

The seed fixes the corpus, the pools, the jobs of each caller and the plan of faults; which job a fault
hits it cannot fix.
"""

from __future__ import annotations

import argparse
import faulthandler
import logging
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from random import Random

import msgspec
import psutil

import chaos_files
import enginekit
import guardkit
from chaos_books import Answer, Books, Ledger, answer_of
from guardpool import Guard, GuardPool, Job, Limits, samples
from guardpool.contract import check_policy
from guardpool.submit.payload import encode_job
from guardpool_worker.instance import GuardInstance, InstanceSettings
from poolkit import POLICY
from saboteur import Saboteur

MIB = 1024 * 1024
SAMPLE_JOBS = 800
JOIN_S = 120.0
ROUND_S = 4.0
# What the vicious guard does by the first letter of a tool's name, and how often it is asked to, in jobs out of 10,000.
VICIOUS = {"s": 0.5, "m": 2, "o": 2, "f": 6, "h": 8, "x": 10, "t": 20, "i": 40, "n": 40, "b": 100, "w": 300, "k": 1500}
# A spinning or stopped job costs a worker this long. The slowest honest one, a stack overflow, takes 0.4 s of processor
# time: four workers on one busy core must get there.
TIMEOUT_S = 3.0
# Filling its memory takes a guard past the cap; what a stack overflow's backtrace takes, some 140 MiB, does not.
LIMITS = Limits(
    timeout_s=TIMEOUT_S,
    max_rss_bytes=208 * MIB,
    memory_pages=208 * 16,
    max_attempts=1000,
    backend_timeout_s=60.0,
)


def vicious_guard() -> Guard:
    """The vicious guard, with answers that just fit its first buffer: it never frees one."""
    source = (guardkit.GUARDS / "vicious.wat").read_text(encoding="utf-8")
    wasm = enginekit.wat_to_wasm(source.replace("(i32.const 8388608)", "(i32.const 4190000)"))
    return Guard("vicious", wasm, POLICY, backend=lambda _tool, _args: {"fine": True})


def guards() -> list[Guard]:
    """Both guards of the run."""
    sample = Guard.from_file(samples.GUARD, name="github", policy=samples.POLICY, backend=samples.backend)
    return [sample, vicious_guard()]


# --- the corpus


@dataclass
class Corpus:
    """Jobs and the outcomes they have without faults."""

    jobs: list[Job]
    weights: list[float]
    answers: list[Answer] = field(default_factory=list)

    def draw(self, seed: object, name: str) -> Iterator[tuple[int, Job]]:
        """Endless jobs with ids of their own, each with its place in the corpus."""
        random = Random(f"{seed}/{name}")
        places = range(len(self.jobs))
        number = 0
        while True:
            for place in random.choices(places, self.weights, k=256):
                yield place, msgspec.structs.replace(self.jobs[place], id=f"{name}-{number}")
                number += 1


def make_corpus(seed: int, sample_jobs: int = SAMPLE_JOBS) -> Corpus:
    """Sample jobs and vicious ones, labelled in peace."""
    sample = [msgspec.structs.replace(job, guard="github") for job in samples.jobs(sample_jobs, seed)]
    sample = [job for job, same in zip(sample, _labels_of_fresh_instances(sample)) if same]
    jobs: list[Job] = []
    weights: list[float] = []
    for letter, weight in VICIOUS.items():
        several = 40 if letter == "k" else 1
        jobs += [Job(None, "label_resource", f"{letter}{n}", {"n": n}, guard="vicious") for n in range(several)]
        weights += [weight / several] * several
    jobs += sample
    weights += [(10_000 - sum(VICIOUS.values())) / len(sample)] * len(sample)
    corpus = Corpus(jobs, weights)
    with GuardPool(guards(), workers=3, limits=LIMITS, log_level="off") as pool:
        corpus.answers = [answer_of(outcome) for outcome in pool.map(corpus.jobs)]
    return corpus


def _labels_of_fresh_instances(jobs: list[Job]) -> list[bool]:
    """For each job: whether a fresh instance gives the same label as one that has seen every repository."""

    def ask(tool: str, args: bytes) -> bytes:
        return msgspec.json.encode(samples.backend(tool, msgspec.json.decode(args)))

    loaded = guardkit.load(samples.GUARD.read_bytes())
    policy = msgspec.json.encode(check_policy(samples.POLICY))

    def fresh() -> GuardInstance:
        instance = GuardInstance(loaded, InstanceSettings("github", log_threshold=4, has_backend=True), ask)
        instance.label_agent(policy)
        return instance

    payloads = [encode_job(job) for job in jobs]
    seasoned = fresh()
    for job, payload in zip(jobs, payloads):
        seasoned.call(job.op, payload)
    return [
        fresh().call(job.op, payload).label == seasoned.call(job.op, payload).label
        for job, payload in zip(jobs, payloads)
    ]


# --- the callers

Jobs = Iterator[tuple[int, Job]]


def map_in_order(pool: GuardPool, jobs: Jobs, ledger: Ledger, end: threading.Event) -> None:
    while not end.is_set():
        first = ledger.asked
        for number, outcome in enumerate(pool.map(_some(2000, jobs, ledger)), first):
            if not outcome.id.endswith(f"-{number}"):
                ledger.wrong.append(f"{outcome.id}: out of order, in the place of number {number}")
            ledger.gets(outcome)


def map_and_read_slowly(pool: GuardPool, jobs: Jobs, ledger: Ledger, end: threading.Event) -> None:
    while not end.is_set():
        for number, outcome in enumerate(pool.map(_some(1000, jobs, ledger), ordered=False)):
            ledger.gets(outcome)
            if number % 64 == 0:
                end.wait(0.02)


def submit_in_waves(pool: GuardPool, jobs: Jobs, ledger: Ledger, end: threading.Event) -> None:
    while not end.is_set():
        futures = [pool.submit(ledger.asks(*next(jobs))) for _ in range(100)]
        for future in reversed(futures):
            ledger.gets(future.result(JOIN_S))


def call_one_by_one(pool: GuardPool, jobs: Jobs, ledger: Ledger, end: threading.Event) -> None:
    while not end.is_set():
        place, job = next(jobs)
        ledger.asks(place, job)
        options = {"capabilities": job.capabilities, "guard": job.guard}
        if job.op == "label_resource":
            outcome = pool.label_resource(job.tool_name, job.tool_args, **options)
        else:
            outcome = pool.label_response(job.tool_name, job.tool_result, tool_args=job.tool_args, **options)
        ledger.gets(outcome, job.id)


def leave_early(pool: GuardPool, jobs: Jobs, ledger: Ledger, end: threading.Event) -> None:
    ledger.left_early = True
    random = Random(0)
    while not end.is_set():
        outcomes = pool.map(_some(1000, jobs, ledger))
        for _ in range(random.randrange(1, 400)):
            ledger.gets(next(outcomes))
        outcomes.close()  # type: ignore[attr-defined]
        end.wait(0.05)


CALLERS: list[Callable[[GuardPool, Jobs, Ledger, threading.Event], None]] = [
    map_in_order,
    map_and_read_slowly,
    submit_in_waves,
    call_one_by_one,
    leave_early,
]


def _some(count: int, jobs: Jobs, ledger: Ledger) -> Iterator[Job]:
    return (ledger.asks(place, job) for place, job in islice(jobs, count))


# --- the run


@dataclass
class Report:
    """What happened in a run."""

    seed: int
    books: Books
    faults: Counter[str] = field(default_factory=Counter)
    kills: int = 0
    stops: int = 0
    respawns: Counter[str] = field(default_factory=Counter)
    forkserver_restarts: int = 0
    rounds: int = 0
    seconds: float = 0.0
    files: str = "left out"
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Nothing lost, nothing twice, nothing wrong."""
        books = self.books
        accounted = books.stopped_jobs <= self.stops and books.retries <= self.kills + self.stops
        return accounted and not (books.lost or books.duplicated or books.wrong or self.problems)

    def __str__(self) -> str:
        books = self.books
        rows = [
            ("seed", self.seed),
            ("duration", f"{self.seconds:.1f} s in {self.rounds} rounds"),
            ("jobs", f"{books.asked:,} asked, {books.labelled:,} outcomes, {books.abandoned:,} left by their caller"),
            *((f"  {status}", f"{count:,}") for status, count in books.statuses.most_common()),
            ("faults", sum(self.faults.values())),
            *((f"  {kind}", count) for kind, count in self.faults.most_common()),
            ("respawns", sum(self.respawns.values())),
            *((f"  {cause}", count) for cause, count in self.respawns.most_common()),
            ("  forkserver", self.forkserver_restarts),
            ("retries", f"{books.retries} for {self.kills} workers killed and {self.stops} stopped"),
            ("timeouts of stopped workers", f"{books.stopped_jobs} for {self.stops} workers stopped"),
            ("a full disk, a slow reader", self.files),
            ("lost", books.lost),
            ("duplicated", books.duplicated),
            ("wrong", len(books.wrong)),
            *(("  ", text) for text in [*books.wrong[:10], *self.problems]),
            ("verdict", "ok" if self.ok else "NOT OK"),
        ]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def run(seconds: float, seed: int, sample_jobs: int = SAMPLE_JOBS, isolation: str = "none") -> Report:
    """Rounds of chaos for about so long, each with a pool of its own; what is compared with was labelled without isolation."""
    began = time.monotonic()
    corpus = make_corpus(seed, sample_jobs)
    report = Report(seed, Books(corpus.answers))
    random = Random(seed)
    end = time.monotonic() + seconds
    while (left_s := end - time.monotonic()) > 0 and not report.problems:
        _round(report, corpus, random, min(ROUND_S, max(1.0, left_s)), isolation)
        report.rounds += 1
    report.seconds = time.monotonic() - began
    return report


def _round(report: Report, corpus: Corpus, random: Random, seconds: float, isolation: str) -> None:
    workers = (2, 4, 1, 3)[report.rounds % 4]
    recycle = random.choice([None, 40, 400])
    limits = replace(LIMITS, max_jobs_per_worker=recycle)
    seed = f"{report.seed}/{report.rounds}"
    end = threading.Event()
    open_before = len(os.listdir("/proc/self/fd"))
    with GuardPool(guards(), workers=workers, limits=limits, log_level="off", isolation=isolation) as pool:
        threads = []
        for caller in CALLERS:
            jobs = corpus.draw(seed, f"{report.rounds}.{caller.__name__}")
            threads.append(_start(caller, pool, jobs, report, end))
        saboteur = Saboteur(random.getrandbits(32), ready=lambda: {worker.pid for worker in pool.stats().workers})
        saboteur.start()
        end.wait(seconds)
        saboteur.finish()
        end.set()
        for thread in threads:
            thread.join(JOIN_S)
            if thread.is_alive():
                report.problems.append(f"{thread.name} hangs; {pool.stats()}")
                faulthandler.dump_traceback()
        if report.problems:
            pool.kill()
    stats = pool.stats()
    report.faults += saboteur.done
    report.kills += saboteur.kills
    report.stops += saboteur.stops
    report.respawns.update(stats.respawns)
    report.forkserver_restarts += stats.forkserver_restarts
    if stats.queued or stats.in_flight:
        report.problems.append(f"jobs left in a closed pool: {stats}")
    left = psutil.wait_procs(psutil.Process().children(recursive=True), timeout=10)[1]
    if left:
        report.problems.append(f"processes left behind: {left}")
    if len(os.listdir("/proc/self/fd")) > open_before:
        report.problems.append("descriptors left open")


def _start(
    caller: Callable[[GuardPool, Jobs, Ledger, threading.Event], None],
    pool: GuardPool,
    jobs: Jobs,
    report: Report,
    end: threading.Event,
) -> threading.Thread:
    ledger = report.books.caller()

    def body() -> None:
        try:
            caller(pool, jobs, ledger, end)
        except BaseException as error:
            report.problems.append(f"{caller.__name__}: {type(error).__name__}: {error}")
            end.set()
        finally:
            report.books.close(ledger)

    thread = threading.Thread(target=body, name=caller.__name__, daemon=True)
    thread.start()
    return thread


def main(arguments: list[str]) -> int:
    """Run and print the summary; 1 when anything is not as it should be."""
    parser = argparse.ArgumentParser(description="Label jobs while workers are killed and stopped, and compare.")
    parser.add_argument("--seconds", type=float, default=120.0, help="how long (default: 120)")
    parser.add_argument("--seed", type=int, default=None, help="fixes jobs and faults (default: another each time)")
    parser.add_argument("--isolation", choices=("none", "job"), default="none", help="of the pools (default: none)")
    options = parser.parse_args(arguments)
    seed = time.time_ns() % 1_000_000 if options.seed is None else options.seed
    logging.getLogger("guardpool").addHandler(logging.NullHandler())
    logging.getLogger("guardpool").propagate = False
    report = run(options.seconds, seed, isolation=options.isolation)
    problems = chaos_files.run(seed)
    report.problems += problems
    report.files = f"{len(problems)} problems with {chaos_files.JOBS:,} jobs each, while workers are killed"
    print(report)
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
