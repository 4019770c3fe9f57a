"""`guardpool diff`: two files of decisions on the same calls, what became more open, and what more closed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from guardpool.batch.files import STANDARD, Output, refuse_clashes
from guardpool.checks import baseline as baselines
from guardpool.checks.diff import CHANGED, CLOSED, KINDS, OPEN, Diff, DiffError, Group, Side, diff
from guardpool.cli.findings import exit_status
from guardpool.cli.outputs import tell_of_update_in_ci
from guardpool.cli.redaction import redaction
from guardpool.cli.render import UsageError, complain, make_console, print_json, safe
from guardpool.cli.tables import Table
from guardpool.plurals import number_of
from guardpool.report import read_decisions

if TYPE_CHECKING:
    from rich.console import Console

_DIGITS = 12
_SHOWN_OPEN = 20
_TITLES = {OPEN: "more open", CLOSED: "more closed", CHANGED: "changed"}
_STYLES = {OPEN: "bold red", CLOSED: "bold yellow", CHANGED: ""}


@dataclass(frozen=True)
class Options:
    """The command line of `diff`, as typed."""

    old: str
    new: str
    baseline: str | None
    update: bool
    show_all: bool
    as_json: bool
    redact: bool
    redact_key: str | None


def run(options: Options) -> int:
    """Compare two files and print how they differ; exit status 1 if something became more open that no baseline accepts.

    Raises:
        UsageError: `--update-baseline` without a baseline.
        DecisionsError, RecordError: a file cannot be read, or a line is not a decision of this version.
        DiffError: they have no call in common, the baseline is for other guards, or what is to be replaced is not a baseline.
    """
    if options.update and options.baseline is None:
        raise UsageError("diff: --update-baseline needs --baseline FILE, which it writes")
    if options.baseline is not None and options.redact and options.redact_key is None:
        raise UsageError(
            "diff: a baseline needs --redact-key FILE: with a new key each time none of it would be found again"
        )
    if options.old == options.new == STANDARD:
        raise UsageError("diff: standard input holds one of the two: name - once")
    with ExitStack() as stack:
        output = _output(options, stack) if options.update else None
        redacted = redaction(options.redact, options.redact_key)
        found = diff(*(redacted.records(read_decisions(path)) for path in (options.old, options.new)))
        accepted: frozenset[str] = frozenset()
        if options.baseline is not None and not options.update:
            known = baselines.load(options.baseline)
            known.check(found.old, options.baseline)
            accepted = known.fingerprints
        if output is not None:
            accepted = baselines.of_diff(found).fingerprints
            output.begin()
            output.write(baselines.to_json(baselines.of_diff(found)))
            output.finish()
            tell_of_update_in_ci("--update-baseline", output.path)
    left = {key: group for key, group in found.groups.items() if key not in accepted}
    if options.as_json:
        print_json(_facts(found, left, accepted))
    else:
        _print(make_console(), found, found.groups if options.update else left, options)
        _tell_of_baseline(found, accepted, options)
    return exit_status(any(group.example.direction == OPEN for group in left.values()), found.is_complete)


def _output(options: Options, stack: ExitStack) -> Output:
    assert options.baseline is not None
    output = Output(options.baseline, "the baseline", is_private=True)
    stack.callback(output.close)
    refuse_clashes([output], (options.old, options.new), [options.redact_key])
    if output.replaces and os.path.getsize(options.baseline):
        try:
            baselines.load(options.baseline)
        except DiffError as error:  # named by mistake, it may be all that there is of it
            raise DiffError(f"{error}; --update-baseline replaces nothing but a baseline") from error
    return output


def _print(console: Console, found: Diff, left: Mapping[str, Group], options: Options) -> None:
    table = Table("", "", header=False)
    for word, side, path in (("old", found.old, options.old), ("new", found.new, options.new)):
        table.add_row(word, safe(f"{path}: {_side(side)}", 1000))
    table.print(console)
    console.print()
    counts = [f"{number_of(found.compared, 'call')} compared", f"{found.same:,} the same"]
    counts += [
        f"{count:,} {what}"
        for count, what in (
            (found.not_comparable, "undecided in one of the two"),
            (found.undecided_in_both, "undecided in both"),
            (found.only_old, f"only in {options.old}"),
            (found.only_new, f"only in {options.new}"),
        )
        if count
    ]
    console.print(safe(", ".join(counts), 1000), soft_wrap=True)
    for direction in (OPEN, CLOSED, CHANGED):
        groups = {key: group for key, group in left.items() if group.example.direction == direction}
        if groups:
            _print_direction(console, direction, groups)
    opened = {key: group for key, group in left.items() if options.show_all or group.example.direction == OPEN}
    if opened:
        _print_groups(console, opened, None if options.show_all else _SHOWN_OPEN)
    elif not left:
        if not found.compared:
            console.print(safe("nothing could be compared", style="bold yellow"))
            return
        console.print(
            safe("nothing differs" if not found.groups else "nothing differs that is not accepted", style="bold green")
        )


def _print_direction(console: Console, direction: str, groups: Mapping[str, Group]) -> None:
    """How many of each kind, server and tool."""
    counts: dict[tuple[str, str, str], list[int]] = {}
    for group in groups.values():
        change = group.example
        count = counts.setdefault((change.kind, change.server, change.tool), [0, 0])
        count[0] += 1
        count[1] += group.items
    console.print()
    table = Table(_TITLES[direction], "server", "tool", "different>", "all>", "what it is")
    for (kind, server, tool), (different, items) in sorted(counts.items(), key=lambda each: -each[1][1]):
        row = (safe(kind, style=_STYLES[direction]), safe(server), safe(tool), f"{different:,}", f"{items:,}")
        table.add_row(*row, KINDS[kind])
    table.print(console)


def _print_groups(console: Console, groups: Mapping[str, Group], most: int | None) -> None:
    console.print()
    for key, group in list(groups.items())[:most]:
        change = group.example
        by = f" by {change.author}" if change.author else ""
        times = f" ({group.items:,} times)" if group.items > 1 else ""
        subject = f"{change.server} {change.tool}: {change.what}{by}: {change.detail}{times}"
        console.print(safe(f"{key}  {change.kind}  {subject}, in {change.call}", 1000), soft_wrap=True)
    if most is not None and len(groups) > most:
        console.print(f"and {len(groups) - most:,} more: --all shows them")


def _side(side: Side) -> str:
    """The guards, modes and rules that the decisions of a run were made with."""
    guards = [
        f"guard {name} {_short(facts.guard_sha256)}, policy {_short(facts.policy_sha256)}"
        for name, all_facts in sorted(side.guards.items())
        for facts in sorted(all_facts)
    ]
    modes = f"mode {' '.join(sorted(side.modes))}" if side.modes else ""
    rules = f"rules {' '.join(sorted(side.rules))}" if side.rules else ""
    undecided = f"{side.undecided:,} undecided" if side.undecided else ""
    told = (number_of(side.decisions, "decision"), undecided, *guards, modes, rules)
    return "; ".join(each for each in told if each)


def _short(digest: str | None) -> str:
    return (digest or "none")[:_DIGITS]


def _tell_of_baseline(found: Diff, accepted: frozenset[str], options: Options) -> None:
    if options.baseline is None:
        return
    counts, unused = baselines.split(found, accepted)
    told = ", ".join(f"{count:,} {_TITLES[direction]}" for direction, count in counts.items() if count) or "none"
    if options.update:
        complain(f"{options.baseline}: written; it accepts {told}")
        return
    complain(f"{options.baseline}: accepted differences that occur: {told}")
    if unused:
        complain(f"{options.baseline}: {len(unused):,} accepted do not occur any more: --update-baseline drops them")


def _facts(found: Diff, left: Mapping[str, Group], accepted: frozenset[str]) -> dict[str, Any]:
    counts, unused = baselines.split(found, accepted)
    return {
        "old": _side_facts(found.old),
        "new": _side_facts(found.new),
        "compared": found.compared,
        "same": found.same,
        "not_comparable": found.not_comparable,
        "undecided_in_both": found.undecided_in_both,
        "only_old": found.only_old,
        "only_new": found.only_new,
        "accepted": counts,
        "unused": unused,
        "changes": [
            {
                "fingerprint": key,
                "direction": group.example.direction,
                **{name: getattr(group.example, name) for name in ("kind", "server", "tool", "what", "detail", "call")},
                "author": group.example.author,
                "items": group.items,
                "calls": group.calls,
            }
            for key, group in left.items()
        ],
    }


def _side_facts(side: Side) -> dict[str, Any]:
    return {
        "decisions": side.decisions,
        "undecided": side.undecided,
        "guards": baselines.guards_of(side),
        "modes": dict(side.modes),
        "rules": dict(side.rules),
    }
