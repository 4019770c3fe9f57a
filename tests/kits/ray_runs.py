"""Runs on a cluster of Ray, each in a process of its own: `python ray_runs.py NAME FOLDER` prints what became of it as JSON.

A process of its own, because Ray leaves threads and open files in the one that joined a cluster.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil

import guardkit
import poolkit
import raykit
from guardpool import Guard, Limits
from guardpool.outcomes import Outcome

JOBS = 3000
# Of jobs whose guard asks, one in ten: some seconds of work in all, so that something is always running at a kill.
_ASKS_EVERY = 10
_ANSWER_S = 0.01
_LIMITS = Limits(timeout_s=20.0)


def jobs(count: int = JOBS, asks_every: int = _ASKS_EVERY) -> list[dict[str, Any]]:
    """Rows, of which some take a while."""
    rows = []
    for number in range(count):
        guard = "backend" if number % asks_every == 0 else "vicious"
        rows.append(_job(number, guard, f"k{number}"))
    return rows


def _job(number: int, guard: str, tool: str) -> dict[str, Any]:
    args = json.dumps({"n": number})
    return {"id": number, "guard": guard, "op": "label_resource", "tool_name": tool, "tool_args": args}


def answer(notes: str, tool: str, args: Any) -> str:
    """The backend: slow, and it notes which process asks about which job."""
    with open(notes, "a", encoding="ascii") as file:
        file.write(f"{os.getpid()} {args['tool_args']['n']}\n")
    time.sleep(_ANSWER_S)
    return "x"


def guards(folder: Path) -> list[Guard]:
    """A quick guard, and one that asks."""
    backend = functools.partial(answer, str(folder / "notes"))
    return [poolkit.guard("vicious"), poolkit.guard("backend", backend=backend)]


def told(outcomes: Iterable[Outcome], **more: Any) -> dict[str, Any]:
    """What a test looks at."""
    rows = list(outcomes)
    return {
        "ids": sorted(each.id for each in rows),
        "statuses": Counter(f"{each.guard} {each.status}" for each in rows),
        "labels": {each.id: json.loads(each.label_json) for each in rows if each.label is not None},
        **more,
    }


def _dataset(rows: list[dict[str, Any]]) -> Any:
    import pyarrow as pa
    import ray.data

    return ray.data.from_arrow(pa.Table.from_pylist(rows)).repartition(30)


def _with_a_kill(folder: Path, kill: Callable[[Any, list[Any], int], object]) -> dict[str, Any]:
    """Label rows on two nodes, and once the first outcome came kill something of an actor that asks."""
    import guardpool.ray

    with raykit.cluster(2) as (made, nodes):
        labelled = guardpool.ray.label(_dataset(jobs()), guards(folder), batch_rows=100, limits=_LIMITS)
        outcomes = guardpool.ray.outcomes(labelled)
        first = next(outcomes)
        before = _notes(folder)
        asking = int(before[-1].split()[0])
        kill(made, nodes, asking)
        result = told(_behind(first, outcomes), killed=asking)
    after = _notes(folder)[len(before) :]
    return {**result, "asked_before": _by_process(before), "asked_after": _by_process(after)}


def killed_within_a_piece(folder: Path) -> dict[str, Any]:
    """The process that labels a packed file, which is one piece, is killed when some of its outcomes were taken."""
    import formatkit
    import guardpool.ray

    rows = [{**each, "tool_args": json.loads(each["tool_args"])} for each in jobs(40_000, 40)]
    path = formatkit.write(folder / "jobs.jsonl.gz", rows)
    with raykit.cluster(2):
        outcomes = guardpool.ray.label_files([str(path)], guards(folder), limits=_LIMITS)
        taken = [next(outcomes)]
        before = _notes(folder)
        asking = int(before[-1].split()[0])
        os.kill(asking, signal.SIGKILL)
        result = told(_behind(taken[0], outcomes), killed=asking)
    after = _notes(folder)[len(before) :]
    return {**result, "asked_before": _by_process(before), "asked_after": _by_process(after)}


def _behind(first: Outcome, others: Iterator[Outcome]) -> Iterator[Outcome]:
    yield first
    yield from others


def _notes(folder: Path) -> list[str]:
    return (folder / "notes").read_text(encoding="ascii").splitlines()


def _by_process(notes: list[str]) -> dict[str, int]:
    return Counter(note.split()[0] for note in notes)


def node_killed(folder: Path) -> dict[str, Any]:
    """One of two nodes dies, with all its processes."""

    def kill(made: Any, nodes: list[Any], asking: int) -> None:
        above = {each.pid for each in psutil.Process(asking).parents()}
        [node] = [each for each in nodes if above & {raylet.process.pid for raylet in each.all_processes["raylet"]}]
        made.remove_node(node, allow_graceful=False)

    return _with_a_kill(folder, kill)


def actor_killed(folder: Path) -> dict[str, Any]:
    """The process of one of two actors is killed."""
    return _with_a_kill(folder, lambda _made, _nodes, asking: os.kill(asking, signal.SIGKILL))


# What the vicious guard does for these letters: it traps, spins for ever, exits.
POISON = "tsx"


def poisoned(folder: Path) -> dict[str, Any]:
    """Some jobs make their guard trap or spin."""
    import guardpool.ray

    rows = [_job(number, "vicious", f"k{number}") for number in range(400)]
    for number, letter in enumerate(POISON):
        rows[number * 100 + 50]["tool_name"] = f"{letter}{number}"
    with raykit.cluster(2):
        limits = Limits(timeout_s=1.0)
        return told(guardpool.ray.outcomes(guardpool.ray.label(_dataset(rows), [poolkit.guard()], limits=limits)))


def versions_differ(folder: Path) -> dict[str, Any]:
    """The program believes that it is of another version than the nodes."""
    import guardpool
    import guardpool.ray

    with raykit.cluster(1):
        guardpool.__version__ = "0.0.9"
        try:
            told(guardpool.ray.outcomes(guardpool.ray.label(_dataset(jobs(10)), [poolkit.guard()])))
        except Exception as error:
            return {"type": type(error).__name__, "message": str(error)}
    raise AssertionError("no error")


def command(folder: Path) -> dict[str, Any]:
    """`guardpool label --ray`, on lines and Parquet, to lines and Parquet, here and by URL."""
    import ray

    import formatkit
    from guardpool.cli import main

    os.chdir(folder)
    rows = [{"id": number, "op": "label_resource", "tool_name": f"k{number}"} for number in range(300)]
    formatkit.write(Path("jobs.jsonl"), rows)
    formatkit.write(Path("jobs.parquet"), rows)
    Path("odd.jsonl").write_bytes(b'{"id": "a", "op": "label_resource", "tool_name": "ka"}\nnot a job\n\n')
    Path("g.wasm").write_bytes(guardkit.wat("vicious"))
    Path("p.json").write_text(json.dumps(poolkit.POLICY), encoding="utf-8")
    join = ray.init
    with raykit.cluster(2) as (made, _):
        ray.shutdown()
        ray.init = lambda *given, **more: join(*given, **more, _node_ip_address="127.0.0.1")
        statuses = {}
        for name, *jobs_and_out in (
            ("lines", "jobs.jsonl", "-o", "lines.jsonl"),
            ("columns", "jobs.parquet", "odd.jsonl", "-o", f"file://{folder}/columns.parquet"),
            ("no jobs", "nothing/*.jsonl", "-o", "none.jsonl"),
        ):
            statuses[name] = main(["label", "--ray", made.address, *jobs_and_out, "-g", "g=g.wasm", "-p", "g=p.json"])
    return {"statuses": statuses}


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](Path(sys.argv[2]))))
