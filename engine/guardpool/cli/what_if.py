"""`guardpool what-if`: a table of policies, and the items that change side."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from guardpool.batch.files import Output
from guardpool.batch.signals import Signals, Stopped
from guardpool.cli.files import name_the_file, pairs, policy_of_guard, tell_taken_off_policy
from guardpool.cli.findings import exit_status
from guardpool.cli.outputs import leave_out_own_files, private_outputs
from guardpool.cli.progress import Display, LogBuffer, State
from guardpool.cli.redaction import Redaction, redaction
from guardpool.cli.render import UsageError, complain, make_console, safe
from guardpool.cli.replay import (
    agreement_line,
    is_complete,
    open_recordings,
    tell_guard_failures,
    tell_guards_without_calls,
    tell_kept,
    tell_what_is_incomplete,
)
from guardpool.cli.servers import NONE, Servers, load_servers
from guardpool.cli.tables import Table
from guardpool.decide.sides import MEMBER, UNKNOWN
from guardpool.errors import GuardPoolError
from guardpool.limits import Limits
from guardpool.plurals import number_of
from guardpool.what_if import Candidate, Change, Outlook, WhatIf

if TYPE_CHECKING:
    from rich.console import Console

    from guardpool.report import Redactor

_MAX_GROUPS = 20
_MAX_ROWS = 50


@dataclass(frozen=True)
class Options:
    """The command line of `what-if`, as typed."""

    recordings: tuple[str, ...]
    out: str | None
    format: str | None
    guards: tuple[str, ...]
    policies: tuple[str, ...]
    sinks: tuple[str, ...]
    config: str | None
    modes: tuple[str, ...]
    keep_labels: str | None
    workers: int | None
    limits: Limits
    engine: str
    redact: bool
    redact_key: str | None
    progress: bool | None


def run(options: Options) -> int:
    """Try policies on recordings; see `guardpool what-if --help` for what the exit status tells.

    Raises:
        GuardPoolError: the run could not begin or could not go on; the message names the file at fault.
    """
    with ExitStack() as stack:
        signals = stack.enter_context(Signals())
        try:
            return _run(options, signals, stack)
        except Stopped as stopped:
            complain("stopped")
            return stopped.exit_status


def _run(options: Options, signals: Signals, stack: ExitStack) -> int:
    servers, candidates = _candidates(options)
    reader = open_recordings(options.recordings, options.format)
    stack.callback(reader.close)
    leave_out_own_files(reader, options.out, (options.keep_labels, options.redact_key))
    inputs, kept = [*reader.input_paths, *servers.paths], (options.keep_labels, options.redact_key)
    (out,) = private_outputs({"what changes side": options.out}, inputs, kept, stack)
    if out is not None:
        out.begin()
    redacted = redaction(options.redact, options.redact_key)
    logs = LogBuffer()
    level = redacted.log_level("error")
    logs.install(level)
    stack.callback(logs.uninstall)
    display = Display(bar=options.progress is not False and not (out is not None and os.isatty(out.fd)), logs=logs)
    stack.callback(display.close)
    what_if = _what_if(options, servers, candidates, level)

    def step(what: str, calls: int) -> None:
        if not calls % 256:
            display.update(State(calls, {}, None, f"calls ({what})"))

    changes = _Changes(out, signals)
    display.begin()
    try:
        for change in what_if.run(reader, step):
            changes.add(_redacted(change, redacted.redactor))
    except GuardPoolError as error:
        raise name_the_file(error, servers.guards) from error
    except Stopped as stopped:
        display.close()
        complain(f"stopped{changes.where}")
        return stopped.exit_status
    finally:
        display.close()
    if out is not None:
        out.finish()
    _print(what_if, changes, redacted.redactor)
    _tell_what_is_missing(what_if, redacted)
    tell_what_is_incomplete(reader.tally, redacted.recordings(reader.without_calls))
    tell_guards_without_calls(what_if.first, servers, redacted.server)
    # All modes of a policy share their labels.
    shared = [summary for outlook in what_if.outlooks[:: len(options.modes) or 1] for summary in outlook.summaries]
    tell_kept(options.keep_labels, shared)
    redacted.tell()
    opened = any(outlook.opened for outlook in what_if.outlooks)
    return exit_status(opened, all(outlook.is_complete for outlook in what_if.outlooks) and is_complete(reader))


def _what_if(options: Options, servers: Servers, candidates: Sequence[Candidate], log_level: str) -> WhatIf:
    """The candidates, to be tried as the options say."""
    return WhatIf(
        servers.guards,
        candidates,
        options.modes or (None,),
        sinks=servers.sinks,
        unguarded=servers.unguarded,
        default_mode=servers.default_mode,
        allowed_tools=servers.allowed_tools,
        keep_labels=options.keep_labels,
        workers=options.workers,
        limits=options.limits,
        engine=options.engine,
        log_level=log_level,
    )


class _Changes:
    """What changes side: counted in groups, each with an example, and written line by line.

    Args:
        out: where the lines go; None: nowhere.
        signals: no line is cut by one.
    """

    def __init__(self, out: Output | None, signals: Signals) -> None:
        self.groups: Counter[_Group] = Counter()
        self.examples: dict[_Group, Change] = {}
        self._out = out
        self._signals = signals
        self._written = 0

    def add(self, change: Change) -> None:
        """Count a change and write its line. Raises Stopped after that, if a signal came."""
        group = _group(change)
        self.groups[group] += 1
        self.examples.setdefault(group, change)
        if self._out is not None:
            self._signals.graceful = True
            self._out.write(_line(change))
            self._written += 1
            if self._signals.received is not None:
                raise Stopped(self._signals.received)
            self._signals.graceful = False

    @property
    def where(self) -> str:
        """What a run that is stopped leaves behind, in words that follow `stopped`; empty if that is nothing."""
        if self._out is None or not self._written:
            return ""
        return f": {number_of(self._written, 'change')} written to {self._out.written_path}"


def _print(what_if: WhatIf, changes: _Changes, redactor: Redactor | None) -> None:
    console = make_console()
    console.print(safe(agreement_line(what_if.first), 1000), soft_wrap=True)
    console.print()
    _print_outlooks(console, what_if.outlooks)
    _print_repositories(console, what_if.outlooks, redactor)
    _print_groups(console, changes.groups, changes.examples)


def _candidates(options: Options) -> tuple[Servers, list[Candidate]]:
    """What stands before each server, and the policies to try.

    `-p FILE` is a policy for every guarded server, `-p OWNER/REPO=FILE` one for the runs of a repository, all of which together
    are one candidate, and `-p SERVER=FILE` is what is in force now.
    """
    for_all = [text for text in options.policies if "=" not in text]
    named = [text for text in options.policies if "=" in text]
    of_repositories = pairs("--policy", "POLICY.json", [text for text in named if "/" in text.partition("=")[0]])
    of_servers = [text for text in named if "/" not in text.partition("=")[0]]
    given = pairs("--policy", "POLICY.json", of_servers)
    guarded = [name for name, path in pairs("--guard", "FILE.wasm", options.guards).items() if path != NONE]
    first = next(iter([*for_all, *of_repositories.values()]), None)
    lacking = [name for name in guarded if name not in given]
    has_now = not lacking or options.config is not None
    stand_ins = [] if first is None or options.config is not None else [f"{name}={first}" for name in lacking]
    servers = load_servers(options.guards, [*of_servers, *stand_ins], options.sinks, options.config)
    servers.paths += [*for_all, *of_repositories.values()]
    if not servers.guards:
        raise UsageError("no server has a guard: there is no policy to try: add -g SERVER=FILE.wasm")
    names = [guard.name for guard in servers.guards]
    candidates = []
    if has_now:
        candidates.append(Candidate("now", {None: {guard.name: guard.policy for guard in servers.guards}}))
        servers.tell()
    bases = [os.path.basename(path) for path in for_all]
    for path, base in zip(for_all, bases):
        name = base if bases.count(base) == 1 else path
        candidates.append(Candidate(name, {None: dict.fromkeys(names, _candidate(path))}))
    if of_repositories:
        policies: dict[str | None, dict[str, Any]] = {
            repository: dict.fromkeys(names, _candidate(path)) for repository, path in of_repositories.items()
        }
        candidates.append(Candidate("by repository", policies))
    if len(candidates) * max(1, len(options.modes)) < 2:
        raise UsageError("there is nothing to compare: name two policies (-p a.json -p b.json), or two modes (--mode)")
    return servers, candidates


def _candidate(path: str) -> dict[str, Any]:
    """The policy of a guard in a file. Raises FileError if it is not one."""
    policy = policy_of_guard(path, "")
    tell_taken_off_policy(path, policy)
    return policy


def _print_outlooks(console: Console, outlooks: Sequence[Outlook]) -> None:
    table = Table(
        *(
            "policy",
            "shown>",
            "hidden>",
            "by outsiders>",
            "by members>",
            "writes denied>",
            "undecided>",
            "against the first",
        )
    )
    for outlook in outlooks:
        table.add_row(
            safe(_name(outlook), 60),
            f"{outlook.shown:,}",
            f"{outlook.hidden:,}",
            f"{outlook.hidden_of['outsider']:,}",
            f"{outlook.hidden_of['member']:,}",
            f"{outlook.denied_writes:,}",
            f"{outlook.undecided:,}",
            "" if outlook is outlooks[0] else _against(outlook),
        )
    table.print(console)
    console.print(safe(conclusion(outlooks), 300), soft_wrap=True)


def conclusion(outlooks: Sequence[Outlook]) -> str:
    """Which policy is the strictest that hides nothing of members', as far as the table tells."""
    judged = [outlook for outlook in outlooks if outlook.shown + outlook.hidden]
    clean = [outlook for outlook in judged if not outlook.hidden_of[MEMBER]]
    # A candidate that covers some of the calls alone may show less for that reason.
    whole = [outlook for outlook in clean if not outlook.uncovered] or clean
    if not judged:
        return "No items were labelled: which of these is the strictest cannot be said."
    if not clean:
        which = "these" if len(judged) == len(outlooks) else "these under which items were labelled"
        return f"Each of {which} hides something that members wrote."
    fewest = min(outlook.shown for outlook in whole)
    strictest = [outlook for outlook in whole if outlook.shown == fewest]
    names = " and ".join(map(_name, strictest))
    alike = ", which show equally many items" if len(strictest) > 1 else ""
    unknown = max(outlook.hidden_of[UNKNOWN] for outlook in strictest)
    whose = f" ({number_of(unknown, 'hidden item')} may be: their authors are unknown)" if unknown else ""
    return f"The strictest of these under which nothing that members wrote is hidden{whose}: {names}{alike}"


def _tell_what_is_missing(what_if: WhatIf, redacted: Redaction) -> None:
    """Say for which calls the table does not stand."""
    for outlook in what_if.outlooks:
        if outlook.uncovered:
            calls = number_of(outlook.uncovered, "call")
            complain(f"{_name(outlook)}: does not cover {calls} of runs of other repositories, or of none")
    for outlook in what_if.outlooks:
        for summary in outlook.summaries:
            tell_guard_failures(redacted.summary(summary), f"{_name(outlook)}: ")
    for server, count in redacted.summary(what_if.first).unknown_servers.most_common():
        named = f"server {server}" if server else "calls that name no server"
        complain(
            f"{named}: {number_of(count, 'call')} undecided, because nothing says what stands before it: see --guard"
        )
    undecided = Counter(f"{outlook.undecided:,} of {number_of(outlook.calls, 'call')}" for outlook in what_if.outlooks)
    for outlook in what_if.outlooks:
        told = f"{outlook.undecided:,} of {number_of(outlook.calls, 'call')}"
        if outlook.undecided:
            where = "" if undecided[told] == len(what_if.outlooks) else f"{_name(outlook)}: "
            verb = "is" if outlook.undecided == 1 else "are"
            complain(f"{where}{told} {verb} undecided: guardpool replay says why")
            if not where:
                break


def _name(outlook: Outlook) -> str:
    return outlook.policy if outlook.mode is None else f"{outlook.policy}, {outlook.mode}"


def _against(outlook: Outlook) -> str:
    parts = []
    for sign, word, of_calls, counts in (
        ("+", "shown", "let through", outlook.opened),
        ("-", "hidden", "refused", outlook.closed),
    ):
        items = Counter({who: count for who, count in counts.items() if who != "call"})
        if items:
            whose = ", ".join(f"{count:,} {_WHOSE[who]}" for who, count in items.most_common())
            parts.append(f"{sign}{items.total():,} {word} ({whose})")
        if counts["call"]:
            parts.append(f"{sign}{number_of(counts['call'], 'whole call')} {of_calls}")
    return "; ".join(parts) or ("the same" if outlook.calls else "covers no call")


_WHOSE = {"member": "by members", "outsider": "by outsiders", "unknown": "by unknown"}


def _redacted(change: Change, redactor: Redactor | None) -> Change:
    """The change as it may be shown."""
    if redactor is None:
        return change
    item = change.what.item
    return change._replace(
        before=redactor.redacted(change.before),
        after=redactor.redacted(change.after),
        what=change.what._replace(item=None if item is None else redactor.item(item)),
    )


def _print_repositories(console: Console, outlooks: Sequence[Outlook], redactor: Redactor | None) -> None:
    """One line for each repository and policy, if there are several repositories."""
    repositories = sorted({name for outlook in outlooks for name in outlook.by_repository})
    if len(repositories) < 2:
        return
    console.print()
    table = Table("repository", *(f"{_name(outlook)}: shown / hidden>" for outlook in outlooks))
    for name in repositories[:_MAX_ROWS]:
        cells = []
        for outlook in outlooks:
            counts = outlook.by_repository.get(name)
            cells.append("-" if counts is None else f"{counts['shown']:,} / {counts['hidden']:,}")
        table.add_row(safe(name if redactor is None else redactor.repository(name), 80), *cells)
    table.print(console)
    if len(repositories) > _MAX_ROWS:
        left = len(repositories) - _MAX_ROWS
        console.print(f"and {number_of(left, 'more repository', 'more repositories')}")


# Under which policy, opened or not, of which server and tool, by whom, of which level.
_Group = tuple[str, bool, str, str, str]


def _group(change: Change) -> _Group:
    item = change.what.item
    who = "-" if item is None else item.association or "unknown"
    return _name(change.outlook), change.what.opened, change.after.server or "", change.after.tool or "", who


def _print_groups(console: Console, groups: Counter[_Group], examples: dict[_Group, Change]) -> None:
    if not groups:
        return
    console.print()
    table = Table("policy", "", "tool", "association", "items>", "for example")
    for group, count in groups.most_common(_MAX_GROUPS):
        policy, opened, server, tool, who = group
        change = examples[group]
        item = change.what.item
        example = f"{change.before.verdict} -> {change.after.verdict}" if item is None else item.description
        table.add_row(
            safe(policy, 60),
            "shown" if opened else "hidden",
            safe(f"{server} {tool}", 60),
            safe(who, 30),
            f"{count:,}",
            safe(f"{example} ({change.after.call})", 120),
        )
    table.columns[-1].cut = True
    table.print(console)
    if len(groups) > _MAX_GROUPS:
        console.print(f"and {number_of(len(groups) - _MAX_GROUPS, 'more group')}; -o FILE has every item")


def _line(change: Change) -> bytes:
    """What changes side as a line of JSON."""
    item = change.what.item
    told: dict[str, Any] = {
        "v": 1,
        "policy": change.outlook.policy,
        "mode": change.after.mode,
        "call": change.after.call,
        "server": change.after.server,
        "tool": change.after.tool,
        "repository": change.after.repository,
        "opened": change.what.opened,
        "before": change.before.verdict,
        "after": change.after.verdict,
        "index": change.what.number,
    }
    if item is not None:
        told |= {
            "description": item.description,
            "author": item.author,
            "association": item.association,
            "url": item.url,
        }
    kept = {name: value for name, value in told.items() if value is not None}
    return msgspec.json.encode(kept) + b"\n"
