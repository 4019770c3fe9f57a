"""`guardpool explain`: why a call, or an item, was kept back, and which smallest change of the policy would admit it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from guardpool.batch.signals import Signals, Stopped
from guardpool.checks.explain import Line, explain
from guardpool.checks.search import Search, Servers as SearchServers, Trial, not_recorded, search
from guardpool.cli.files import name_the_file
from guardpool.cli.progress import Display, LogBuffer, State
from guardpool.cli.render import UsageError, complain, make_console, print_json, safe
from guardpool.cli.replay import open_recordings
from guardpool.cli.servers import load_servers
from guardpool.cli.tables import Table
from guardpool.decide.record import DecisionRecord, FilteredItem
from guardpool.errors import GuardPoolError
from guardpool.limits import Limits
from guardpool.plurals import number_of
from guardpool.report import read_decisions

if TYPE_CHECKING:
    from rich.console import Console

_MOST_MATCHES = 5
_MOST_NAMES = 50_000
_NEAR = 3
_NAME_COLUMNS = 16


@dataclass(frozen=True)
class Options:
    """The command line of `explain`, as typed."""

    decisions: str
    call: str | None
    item: str | None
    recordings: tuple[str, ...]
    guards: tuple[str, ...]
    policies: tuple[str, ...]
    sinks: tuple[str, ...]
    config: str | None
    mode: str | None
    workers: int | None
    limits: Limits
    engine: str
    progress: bool | None
    as_json: bool


class Match(NamedTuple):
    """A decision that is to be explained, and which of its items; None: all that are kept back."""

    record: DecisionRecord
    items: tuple[FilteredItem, ...] | None


class Found(NamedTuple):
    """What a look through a file of decisions gave.

    Attributes:
        matches: the first of them.
        more: how many there are beside these.
    """

    matches: list[Match]
    more: int


def run(options: Options) -> int:
    """Explain a call or an item; the exit status is 0 whatever is found.

    Raises:
        UsageError: there is no such call, no item that was kept back has such words, or there are no words.
        FileError, RecordError: the decisions cannot be read.
        SearchError, GuardPoolError: the recording does not have the call, or a guard cannot be used.
    """
    if not options.recordings and (options.guards or options.policies or options.sinks or options.config):
        raise UsageError("explain: guards and policies are for a search: add --recording RECORDING")
    for name, given in (("--call", options.call), ("--item", options.item)):
        if given is not None and not given.strip():
            raise UsageError(f"explain: {name} is empty: see guardpool explain --help")
    found = find(options)
    is_redacted = found.matches[0].record.redacted is not None
    if options.recordings and is_redacted:
        raise UsageError(
            f"explain: {options.decisions}: names in it are hashes, which no recording has: search with decisions that were "
            "written without --redact"
        )
    try:
        search = _search(options, found.matches[0]) if options.recordings else None
    except Stopped as stopped:
        complain("stopped")
        return stopped.exit_status
    if options.as_json:
        print_json([_facts(match, None if at else search) for at, match in enumerate(found.matches)])
        return 0
    console = make_console()
    for at, (record, items) in enumerate(found.matches):
        if at:
            console.print()
        print_lines(console, explain(record, items))
        if at == 0 and search is not None:
            print_search(console, search)
    if found.more:
        console.print(f"\nand {number_of(found.more, 'more call')}: --call ID names one")
    if (
        not options.recordings
        and not is_redacted
        and any(record.filtered or record.failed for record, _items in found.matches)
    ):
        complain(
            "--recording RECORDING -g SERVER=FILE.wasm -p SERVER=POLICY.json tries which change would admit it, and what else "
            "that lets in"
        )
    return 0


def _search(options: Options, match: Match) -> Search | None:
    """The changes that would admit what is asked about; None, and a line that says why, if nothing can be tried.

    Raises:
        SearchError: the recording does not have the call.
    """
    record, items = match
    wanted = record.filtered if items is None else items
    why = None
    if not wanted and record.coarse != "denied":
        why = "nothing of it was kept back by a policy"
    elif record.labels_from is not None:
        why = "its arguments are not in the recording, so that no guard can label it again"
    elif record.guard_failed:
        why = "the guard gave no label, which no policy changes"
    if why is not None:
        _check_that_it_is_recorded(options, record)
        complain(f"{why}: nothing was tried")
        return None
    with ExitStack() as stack:
        stack.enter_context(Signals())
        servers = load_servers(options.guards, options.policies, options.sinks, options.config)
        servers.tell()
        reader = open_recordings(options.recordings, None)
        stack.callback(reader.close)
        logs = LogBuffer()
        logs.install("error")
        stack.callback(logs.uninstall)
        display = Display(bar=options.progress is not False, logs=logs)
        stack.callback(display.close)

        def step(what: str, calls: int) -> None:
            if not calls % 64:
                display.update(State(calls, {}, None, f"calls ({what})"))

        more: dict[str, object] = {
            "unguarded": servers.unguarded,
            "default_mode": servers.default_mode,
            "allowed_tools": servers.allowed_tools,
            "modes": [options.mode],
            "workers": options.workers,
            "limits": options.limits,
            "engine": options.engine,
        }
        display.begin()
        try:
            return search(SearchServers(servers.guards, servers.sinks, more), record, wanted, reader, step)
        except GuardPoolError as error:
            raise name_the_file(error, servers.guards) from error


def _check_that_it_is_recorded(options: Options, record: DecisionRecord) -> None:
    key = (record.run, record.session, record.call)
    with ExitStack() as stack:
        stack.enter_context(Signals())
        reader = open_recordings(options.recordings, None)
        stack.callback(reader.close)
        if not any((call.run, call.session, call.call) == key for call in reader):
            raise not_recorded(record)


def find(options: Options) -> Found:
    """The decisions that are asked for.

    Raises:
        UsageError: there are none; the message names those that are near.
    """
    names: dict[str, None] = {}
    matches: list[Match] = []
    more = 0
    for match in _matching(read_decisions(options.decisions), options, names):
        if len(matches) < _MOST_MATCHES:
            matches.append(match)
        else:
            more += 1
    if not matches:
        raise UsageError(_nothing(options, list(names)))
    return Found(matches, more)


def _matching(records: Iterable[DecisionRecord], options: Options, names: dict[str, None]) -> Iterator[Match]:
    """The decisions that match; `names` takes what others are called, for a look at what is near."""
    text = None if options.item is None else _pattern(options.item)
    for record in records:
        if options.call is not None and not _is_called(record.call, options.call):
            _note(names, record.call)
        elif text is None:
            yield Match(record, None)
        else:
            items = tuple(item for item in record.filtered if text.search(_words(item)))
            about = record.resource.description if record.resource is not None else ""
            if items or (not record.filtered and record.failed and text.search(about.casefold())):
                yield Match(record, items or None)
            for item in record.filtered:
                _note(names, item.description)


def _is_called(call: str, name: str) -> bool:
    """Whether a call is meant by a name: its id, or the end of it from a `/` or `#` on."""
    return call == name or call.endswith((f"/{name}", f"#{name.removeprefix('#')}"))


def _pattern(text: str) -> re.Pattern[str]:
    """Finds a text, whatever the case; a number at its beginning or end is a whole one: `#7` is not in `#7863`."""
    text = text.casefold()
    before = r"(?<!\d)" if text[0].isdecimal() else ""
    after = r"(?!\d)" if text[-1].isdecimal() else ""
    return re.compile(f"{before}{re.escape(text)}{after}")


def _words(item: FilteredItem) -> str:
    told = (item.description, item.url, item.author, None if item.number is None else f"#{item.number}")
    return "\n".join(each for each in told if each is not None).casefold()


def _note(names: dict[str, None], name: str) -> None:
    if len(names) < _MOST_NAMES:
        names[name] = None


def _nothing(options: Options, names: Sequence[str]) -> str:
    wanted = options.call if options.item is None or (options.call is not None and not names) else options.item
    if options.call is not None and options.item is None:
        what = f"--call {options.call}: there is no such call in {options.decisions}"
    else:
        what = (
            f"--item {options.item}: nothing that was kept back has such words in {options.decisions} "
            "(what is shown has no name there)"
        )
    near = difflib.get_close_matches(wanted or "", names, _NEAR, 0.4)
    return f"{what}; near it: {', '.join(near)}" if near else what


def _facts(match: Match, search: Search | None) -> dict[str, object]:
    record, items = match
    lines = [{"name": line.name, "text": line.text} for line in explain(record, items)]
    facts: dict[str, object] = {
        "call": record.call,
        "verdict": record.verdict,
        "items": items or record.filtered,
        "lines": lines,
    }
    if search is not None:
        facts["search"] = {
            "asked": search.asked,
            "admitting": [_trial_facts(trial) for trial in search.admitting],
            "in_vain": [_trial_facts(trial) for trial in search.in_vain],
            "unanswerable": search.unanswerable,
            "differs": search.differs,
        }
    return facts


def _trial_facts(trial: Trial) -> dict[str, object]:
    return {
        "change": trial.change.words,
        "admits": trial.admits,
        "opened": dict(trial.opened),
        "closed": dict(trial.closed),
        "calls": trial.calls,
        "examples": trial.examples,
        "error": trial.error,
    }


def print_search(console: Console, search: Search) -> None:
    """The changes that admit what was asked about, with what else they do; the smallest first."""
    console.print(safe("changes of the policy that were tried on the recording", style="bold"))
    if search.differs is not None:
        console.print(safe(f"  {search.differs}", 500, "yellow"), soft_wrap=True)
    if not (search.admitting or search.in_vain):
        return
    table = Table("  admits it", "", "also lets in", "takes away", "for example")
    for trial in search.admitting:
        admits = "" if trial.admits == search.asked else f"{trial.admits:,} of {search.asked:,}"
        cells = (safe(_sides(trial.opened), 200), safe(_sides(trial.closed), 200), safe("; ".join(trial.examples), 120))
        table.add_row(safe(f"  {trial.change.words}", 200), admits, *cells)
    table.columns[-1].cut = True
    if search.admitting:
        table.print(console)
    else:
        console.print("  none of them admits it")
    tried = [trial.change.words for trial in search.in_vain if trial.error is None]
    if tried:
        console.print(safe(f"  in vain: {'; '.join(tried)}", 1000), soft_wrap=True)
    for trial in search.in_vain:
        if trial.error is not None:
            console.print(safe(f"  not tried: {trial.change.words}: {trial.error}", 500), soft_wrap=True)
    if search.unanswerable:
        tools = ", ".join(search.unanswerable)
        console.print(safe(f"  no answer can be made up for what the guard asked of {tools}", 500), soft_wrap=True)


_WHOSE = {"member": "by members", "outsider": "by outsiders", "unknown": "by unknown", "call": "whole calls"}


def _sides(counts: Mapping[str, int]) -> str:
    """`12 (9 by outsiders, 3 by members)`."""
    total = sum(counts.values())
    if not total:
        return "nothing"
    ordered = sorted(counts.items(), key=lambda each: -each[1])
    return f"{total:,} ({', '.join(f'{count:,} {_WHOSE[who]}' for who, count in ordered)})"


def print_lines(console: Console, lines: Iterable[Line]) -> None:
    """An explanation, with the names of its lines at their left."""
    for line in lines:
        indent = "  " * line.depth
        name = f"{line.name:<{_NAME_COLUMNS}}" if line.name else ""
        style = "bold" if line.is_head else ""
        console.print(safe(f"{indent}{name}{line.text}", 2000, style), soft_wrap=True)
