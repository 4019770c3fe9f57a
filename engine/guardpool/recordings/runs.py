"""Folders of gh-aw runs: which files of a run are recordings, what the run is called, and what belongs together.

A run's folder has `aw_info.json` or a folder `mcp-logs`. Of its many files those are read that tell of tool calls: the
gateway's `rpc-messages.jsonl` first, then its text logs, which tell what the first left out, then transcripts of the agent.
Prompts, outputs and patches of a run tell of none, and are no inputs.

Answers that were too large for the agent lie in `SESSION/QUERY/payload.json` below the run's folder. The path that a recording
names is never opened: only its last names are looked at, and only below the run's folder, where no symbolic link is followed.
"""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from guardpool.recordings import beneath
from guardpool.recordings.json_text import value_of
from guardpool.sizes import MIB

_INFO = "aw_info.json"
_LOGS = "mcp-logs"
_MAX_INFO_BYTES = MIB
MAX_PAYLOAD_BYTES = 64 * MIB
# Of one run together: any number of stubs may name one file.
MAX_PAYLOADS_BYTES = 1024 * MIB
_MAX_FACTS = 100
_PART = re.compile(r"[A-Za-z0-9_-]+\Z")
# Where a run may keep payload files, besides its own folder.
_PAYLOAD_FOLDERS = ("", "jq-payloads", "mcp-payloads", "payloads")
_TRANSCRIPTS = ("sandbox", "agent", "logs")
_OTHER_LOGS = ("gateway.jsonl", "gateway.md")
# Denials that are told apart; a run has a handful. Past it one that two logs tell of counts as two.
_MAX_DENIALS = 100_000


@dataclass(frozen=True)
class Fact:
    """Something that a gateway's file tells of a run as a whole.

    Attributes:
        where: the input and its line.
        at: when it was written, as the file has it; None where the file has no times.
        message: as it was written, at most 4,000 characters; empty for a document.
        value: the JSON that the message holds, else its `name=value` pairs as a dict of strings; None if it has neither.
    """

    where: str
    at: str | None
    message: str
    value: Any


@dataclass
class Run:
    """A run, and what its files say of it as a whole.

    Attributes:
        name: from `aw_info.json` (`run_id`), else the folder's; the input's if it is in no run's folder.
        folder: None outside a run's folder.
        workflow, repository: from `aw_info.json`.
        facts: what the gateway's files tell of the run, by kind, in the order of the files; at most 100 of a kind. Kinds:
            `policy` (value: the policy), `mode` (value: at least `difc_mode`), `label_agent` (value: the guard's answer),
            `guard-failure`, `strict-block`, `noop`, `override`, `filtered-count` (of a proxy), `tools` (value: lists of tools
            by server), `agents` (value: labels of agents and the mode).
        fact_counts: how many there were of each kind.
        has_rpc: whether a log of the run has its requests, so that an event of another log is told of elsewhere.
    """

    name: str
    folder: str | None = None
    workflow: str | None = None
    repository: str | None = None
    facts: dict[str, list[Fact]] = field(default_factory=dict)
    fact_counts: Counter[str] = field(default_factory=Counter)
    has_rpc: bool = False
    _servers: dict[str, str | None] | None = None  # by tool; made when it is first asked for
    _payload_bytes: int = 0
    _denials: Counter[int] = field(default_factory=Counter)  # by what was denied; with a teller: by who told of it

    def note(self, kind: str, what: Fact) -> None:
        """Keep a fact."""
        self.fact_counts[kind] += 1
        known = self.facts.setdefault(kind, [])
        if len(known) < _MAX_FACTS:
            known.append(what)

    def note_requests(self) -> None:
        """Keep that a log has the run's requests."""
        self.has_rpc = True

    def is_new_denial(self, description: str, teller: str) -> bool:
        """Whether a denial is told of for the first time.

        Several logs tell of the same denial, and agents try again what was denied: so the n-th one of a description that one
        log tells of is the n-th one of all others.

        Args:
            description: what was denied.
            teller: the log, and the kind of line; each tells of a denial once.
        """
        what, told = hash(description), hash((description, teller))
        if what not in self._denials and len(self._denials) >= _MAX_DENIALS:
            return True
        self._denials[told] += 1
        is_new = self._denials[told] > self._denials[what]
        self._denials[what] += is_new
        return is_new

    def server_of(self, tool: str) -> str | None:
        """The server that a tool belongs to by the gateway's own list; None if none has it, or several have."""
        if self._servers is None and "tools" in self.facts:
            self._servers = _servers_of(self.facts["tools"])
        return None if self._servers is None else self._servers.get(tool)

    def payload(self, path: Any) -> bytes | None:
        """The answer that a stub stands for: the file of its session and query below the run's folder.

        Args:
            path: as the stub names it; only its last three names are looked at.
        """
        parts = path.split("/")[-3:] if isinstance(path, str) else []
        if self.folder is None or len(parts) != 3 or parts[2] != "payload.json":
            return None
        if not all(_PART.match(part) for part in parts[:2]):
            return None
        for where in _PAYLOAD_FOLDERS:
            data = beneath.read(self.folder, [*([where] if where else []), *parts], MAX_PAYLOAD_BYTES)
            if data is not None:
                self._payload_bytes += len(data)
                return data if self._payload_bytes <= MAX_PAYLOADS_BYTES else None
        return None


def _servers_of(lists: list[Fact]) -> dict[str, str | None]:
    servers: dict[str, str | None] = {}
    for fact in lists:
        for server, tools in fact.value.items():
            for each in tools if isinstance(tools, list) else ():
                tool = each.get("name") if isinstance(each, dict) else None
                if isinstance(tool, str):
                    servers[tool] = server if servers.get(tool, server) == server else None
    return servers


def run_of(folder: str) -> Run | None:
    """The run whose folder this is; None if it is no run's folder."""
    if not os.path.isfile(os.path.join(folder, _INFO)) and not _is_folder(folder, _LOGS):
        return None
    info = _info(folder)
    number = info.get("run_id")
    return Run(
        str(number) if isinstance(number, (int, str)) and number else os.path.basename(os.path.abspath(folder)),
        folder,
        _text(info, "workflow_name", "workflow"),
        _text(info, "repository", "repo"),
    )


def files_of(folder: str, unlisted: list[OSError]) -> Iterator[str]:
    """The paths of a run's recordings, in the order in which they are read; no symbolic link is followed to any of them.

    Args:
        folder: the run's.
        unlisted: gets an error for each folder of the run that cannot be listed, with its path.
    """
    logs = os.path.join(folder, _LOGS)
    names = _names(logs, unlisted) if _is_folder(folder, _LOGS) else []
    # What says which server a tool belongs to comes first.
    yield from (os.path.join(logs, name) for name in names if name == "tools.json")
    rpc = [os.path.join(logs, name) for name in names if is_rpc_log(name)]
    if not rpc:
        rpc = [os.path.join(folder, name) for name in _names(folder, unlisted) if is_rpc_log(name)]
    yield from rpc
    yield from (os.path.join(logs, name) for name in names if is_text_log(name) or name in _OTHER_LOGS)
    if not _is_folder(folder, *_TRANSCRIPTS):
        return
    for where, folders, found in os.walk(os.path.join(folder, *_TRANSCRIPTS), onerror=unlisted.append):
        folders.sort()
        yield from (os.path.join(where, name) for name in sorted(found) if name.endswith((".jsonl", ".json")))


def is_rpc_log(name: str) -> bool:
    """Whether a file's name is that of a gateway's log of messages, perhaps compressed."""
    return name.startswith("rpc-messages.jsonl")


def is_text_log(name: str) -> bool:
    """Whether a file's name is that of a log in text, perhaps compressed."""
    return name.removesuffix(".gz").removesuffix(".zst").endswith(".log")


def _is_folder(folder: str, *names: str) -> bool:
    """Whether `names` below a folder are folders, one in the other, and none of them a symbolic link."""
    try:
        for name in names:
            folder = os.path.join(folder, name)
            if not stat.S_ISDIR(os.lstat(folder).st_mode):
                return False
    except OSError:
        return False
    return True


def _names(folder: str, unlisted: list[OSError]) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        unlisted.append(error)
        return []


def _info(folder: str) -> dict[str, Any]:
    data = beneath.read(folder, [_INFO], _MAX_INFO_BYTES)
    found = value_of(data) if data else None
    return found if isinstance(found, dict) else {}


def _text(info: dict[str, Any], *names: str) -> str | None:
    return next((info[name] for name in names if isinstance(info.get(name), str) and info[name]), None)
