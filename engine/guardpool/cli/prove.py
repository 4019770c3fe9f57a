"""`guardpool label --prove N`: whether labels depend on more than the job, and which ones."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from guardpool.cli.render import complain, make_console, safe
from guardpool.cli.tables import Table
from guardpool.jobs import Prepared
from guardpool.outcomes import Outcome
from guardpool.printable import ELLIPSIS, printable
from guardpool.proving import AGAIN, DETERMINISTIC, FIRST, ISOLATED, MORE_WORKERS, SHUFFLED, Difference, Proof, Sample

_LABEL_CHARS = 400
# Before the place where two labels part, if they are too long to be shown whole.
_BEFORE_CHARS = 60

_MEANINGS = {
    FIRST: "one worker, in the order of the input, with these options",
    AGAIN: "the same again, in new processes",
    SHUFFLED: "in another order",
    MORE_WORKERS: "by four workers",
    ISOLATED: "each job on a copy of the guard (--isolation job)",
    DETERMINISTIC: "with clocks and random bytes that follow from the job (--deterministic)",
}


def draw_from(portion: Sequence[Prepared], sample: Sample) -> None:
    """Draw from jobs that are read. Lines that are not jobs are not drawn."""
    for job in portion:
        if job.error is None:
            sample.add(job)


def print_proof(proof: Proof, seed: int, *, to_stderr: bool) -> None:
    """Print which jobs got different labels, and a table of the runs; the last line says how many, on stderr.

    Args:
        proof: what came out.
        seed: that drew the jobs.
        to_stderr: print all of it on stderr, since standard output has outcomes.
    """
    stream = sys.stderr if to_stderr else sys.stdout
    for difference in proof.differences:
        for line in _lines(difference):
            stream.write(line + "\n")
        stream.write("\n")
    for guard, runs in proof.agents.items():
        stream.write(f"guard {printable(guard)}: label_agent answered otherwise: {', '.join(runs)}\n\n")
    table = Table("run", "what was changed", "other labels>", "hash over the labels")
    counts = proof.counts
    for name, digest in proof.hashes.items():
        counted = f"{counts[name]:,}" if name in counts else ""
        table.add_row(name, _MEANINGS.get(name, f"with the engine {name}"), safe(counted), digest)
    stream.flush()
    table.print(make_console(stderr=to_stderr))
    for name, why in proof.skipped.items():
        stream.write(f"not made: {name}: {printable(why, 300)}\n")
    stream.flush()
    complain(_summary(proof, seed))


def _summary(proof: Proof, seed: int) -> str:
    drawn = f"{proof.jobs:,} jobs (seed {seed}) were labelled {len(proof.hashes)} times"
    if proof.jobs == 1:
        drawn = f"1 job was labelled {len(proof.hashes)} times"
    if proof.found_nothing:
        return f"{drawn}, and got the same labels each time"
    counts = proof.counts
    which = ", ".join(f"{name} {count:,}" for name, count in counts.items() if count)
    agents = f"; label_agent of {', '.join(proof.agents)} answered otherwise" if proof.agents else ""
    if not which:
        return f"{drawn}{agents}"
    many = "1 label depends" if len(proof.differences) == 1 else f"{len(proof.differences):,} labels depend"
    return f"{drawn}: {many} on more than the job ({which}){agents}"


def _lines(difference: Difference) -> Iterator[str]:
    first = difference.first
    tool = printable(first.tool_name or "", 80)
    yield f"job {printable(str(first.id), 80)}: {first.op} {tool}, guard {first.guard}: {', '.join(difference.others)}"
    # One pair is shown: the other runs most often differ for the same reason.
    name, other = next(iter(difference.others.items()))
    width = max(len(FIRST), len(name)) + 1
    before, now = _parted(_told(first), _told(other))
    yield f"  {FIRST + ':':{width}} {before}"
    yield f"  {name + ':':{width}} {now}"


def _told(outcome: Outcome) -> str:
    label = outcome.label_json.decode()
    return (
        label if outcome.status == "ok" else f"{outcome.status.value}: {outcome.error.message if outcome.error else ''}"
    )


def _parted(first: str, other: str) -> tuple[str, str]:
    """Two texts that differ, cut to what can be shown of them: around the place where they part."""
    at = next((at for at, (one, two) in enumerate(zip(first, other)) if one != two), min(len(first), len(other)))
    if max(len(first), len(other)) <= _LABEL_CHARS or at < _LABEL_CHARS // 2:
        return printable(first, _LABEL_CHARS), printable(other, _LABEL_CHARS)
    start = at - _BEFORE_CHARS
    return tuple(ELLIPSIS + printable(text[start:], _LABEL_CHARS) for text in (first, other))  # type: ignore[return-value]
