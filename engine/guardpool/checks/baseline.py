"""A baseline: differences between two runs that were looked at and accepted, by their fingerprints.

A baseline belongs to the guards and policies of the run that it was compared with. The other run may change, as that is what is
being compared; what it shows that was not accepted is then new.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from guardpool.checks.diff import Change, Diff, DiffError, GuardFacts, Side
from guardpool.contract.text import shown
from guardpool.printable import printable

VERSION = 1
_DIGITS = 12


class Accepted(msgspec.Struct, frozen=True, omit_defaults=True):
    """An accepted difference, for people: only its fingerprint is compared."""

    fingerprint: str
    kind: str
    server: str
    tool: str
    what: str
    detail: str


class Baseline(msgspec.Struct, frozen=True):
    """Accepted differences.

    Attributes:
        v: the version of the form, 1.
        guards: by server, the guards and policies of the older run.
        accepted: the differences.
    """

    v: int
    guards: dict[str, list[GuardFacts]]
    accepted: list[Accepted]

    @property
    def fingerprints(self) -> frozenset[str]:
        """The fingerprints of the accepted differences."""
        return frozenset(each.fingerprint for each in self.accepted)

    def check(self, old: Side, name: str) -> None:
        """Make sure that it belongs to a run.

        Args:
            old: the older run.
            name: what messages call the baseline.

        Raises:
            DiffError: it is for other guards, or other policies; the message names the first.
        """
        wanted = guards_of(old)
        for server in sorted({*self.guards, *wanted}):
            ours, theirs = self.guards.get(server), wanted.get(server)
            if ours != theirs:
                raise DiffError(
                    f"{name}: the baseline is for {_described(server, ours)}; these decisions are by "
                    f"{_described(server, theirs)}: make it anew with --update-baseline"
                )


def guards_of(side: Side) -> dict[str, list[GuardFacts]]:
    """The guards of a run, in order."""
    return {server: sorted(facts) for server, facts in sorted(side.guards.items())}


def _described(server: str, facts: list[GuardFacts] | None) -> str:
    if not facts:
        return f"no guard {shown(server)}"
    told = " and ".join(f"{_short(each.guard_sha256)} with policy {_short(each.policy_sha256)}" for each in facts[:2])
    return f"guard {shown(server)} {told}"


def _short(digest: str | None) -> str:
    return (digest or "?")[:_DIGITS]


def of_diff(found: Diff) -> Baseline:
    """The baseline that accepts all of a diff."""
    accepted = [_accepted(key, group.example) for key, group in sorted(found.groups.items())]
    return Baseline(VERSION, guards_of(found.old), accepted)


def _accepted(key: str, change: Change) -> Accepted:
    return Accepted(key, change.kind, change.server, change.tool, change.what, change.detail)


def to_json(baseline: Baseline) -> bytes:
    """The file: a line for each accepted difference, sorted, so that it can be reviewed as a change."""
    text = msgspec.json.format(msgspec.json.encode(baseline.guards), indent=2).replace(b"\n", b"\n  ")
    lines = b",\n".join(b"    " + msgspec.json.encode(each) for each in baseline.accepted)
    accepted = b"[\n%b\n  ]" % lines if lines else b"[]"
    return b'{\n  "v": %d,\n  "guards": %b,\n  "accepted": %b\n}\n' % (baseline.v, text, accepted)


def load(path: str) -> Baseline:
    """The baseline in a file.

    Raises:
        DiffError: it cannot be read, or is not a baseline of this version.
    """
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        advice = ": --update-baseline writes it" if isinstance(error, FileNotFoundError) else ""
        raise DiffError(f"{path}: the baseline cannot be read: {error.strerror or error}{advice}") from error
    try:
        found = msgspec.json.decode(text, type=Baseline)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DiffError(f"{path}: not a baseline: {printable(str(error), 200)}") from error
    if found.v != VERSION:
        raise DiffError(f"{path}: a baseline of version {found.v}, and this guardpool reads version {VERSION}")
    return found


def split(found: Diff, accepted: Iterable[str]) -> tuple[Mapping[str, int], list[str]]:
    """How many accepted differences occur, by direction, and the fingerprints of those that do not occur any more."""
    counts = {"open": 0, "closed": 0, "changed": 0}
    unused = []
    for key in sorted(accepted):
        group = found.groups.get(key)
        if group is None:
            unused.append(key)
        else:
            counts[group.example.direction] += 1
    return counts, unused
