"""`--redact`: decisions without logins, repositories, numbers and titles, so that a report can be shown to others.

Each is replaced by a keyed hash. The key is drawn anew for each report and kept nowhere: what is equal stays equal within the
report, and nobody can find a login by hashing guesses.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from functools import lru_cache

from msgspec import UNSET
from msgspec.structs import replace

from guardpool.contract.policy import LEVELS
from guardpool.decide.record import (
    DecisionRecord,
    Differs,
    Enrichment,
    FailedRule,
    FilteredItem,
    MissingAnswer,
    ResourceRecord,
    SinkRecord,
    TagPair,
)

_DIGEST_BYTES = 5  # 10 characters; among 100,000 different words two meet in 1 of 200 reports
# What the GitHub guard says before a colon, in descriptions and tags, and the scopes that name no repository.
_KIND = re.compile(r"([a-z][a-z_-]{0,30}):(.+)", re.DOTALL)
_REPOSITORY = re.compile(r"([^/#@:\s]+/[^/#@:\s]+)(.*)", re.DOTALL)
_OPEN_SCOPES = frozenset(("all", "public", "none"))
_KNOWN_TAGS = frozenset((*LEVELS, "*", "secret", "private", "blocked"))
_SEVERAL = re.compile(r"integrity=([a-z]+);scopes=(.*)", re.DOTALL)
_LEFT_OUT = "(left out)"


class Redactor:
    """Takes out of decisions what names people, repositories and what they wrote.

    Args:
        key: 16 to 64 random bytes.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._hash = lru_cache(maxsize=65_536)(self._hashed)

    def redacted(self, record: DecisionRecord) -> DecisionRecord:
        """The decision, with hashes for names. Arguments, addresses, details of rules and the log's own words are left out."""
        path, _, line = record.call.rpartition("#")
        resource, enrichment, differs, sink = record.resource, record.enrichment, record.differs, record.sink
        return replace(
            record,
            call=f"{self._name('recording', path or line)}#{line if path and line.isdigit() else 0}",
            session=self._name("session", record.session),
            agent=self._given("agent", record.agent),
            run=self._given("run", record.run),
            workflow=self._given("workflow", record.workflow),
            repository=self._repository(record.repository) if record.repository else None,
            args_json=UNSET,
            resource=resource and ResourceRecord(self._description(resource.description), *self._both(resource)),
            failed=self._failed(record.failed),
            error=_LEFT_OUT if record.error else None,
            filtered=self._items(record.filtered),
            seen=tuple(replace(seen, author=self._given("user", seen.author)) for seen in record.seen),
            agent_before=TagPair(*self._both(record.agent_before)),
            agent_after=TagPair(*self._both(record.agent_after)),
            read=self._tags(record.read),
            sink=sink and SinkRecord(self._tags(sink.accept), sink.visibility),
            differs=self._differs(differs) if isinstance(differs, Differs) else differs,
            enrichment=enrichment and self._enrichment(enrichment),
            would_pass_with=self._change(record.would_pass_with),
            observed={"events": _LEFT_OUT} if record.observed else None,
        )

    def _hashed(self, words: str) -> str:
        data = words.encode("utf-8", "surrogatepass")
        return hashlib.blake2b(data, digest_size=_DIGEST_BYTES, key=self._key).hexdigest()

    def _name(self, kind: str, words: str) -> str:
        return f"{kind}-{self._hash(words)}"

    def _given(self, kind: str, words: str | None) -> str | None:
        return None if words is None else self._name(kind, words)

    def _repository(self, name: str) -> str:
        return f"redacted/{self._hash(name)}"

    def _description(self, words: str) -> str:
        """`issue:redacted/0123456789#9876543210`: what kind it is of, its repository, and the rest."""
        found = _KIND.fullmatch(words)
        if found is None:
            return self._name("text", words) if words else ""
        kind, rest = found.groups()
        repository = _REPOSITORY.fullmatch(rest)
        if repository is None:
            return f"{kind}:{self._hash(rest)}"
        more = f"#{self._hash(repository[2])}" if repository[2] else ""
        return f"{kind}:{self._repository(repository[1])}{more}"

    def _tags(self, tags: Iterable[str]) -> tuple[str, ...]:
        return tuple(map(self._tag, tags))

    def _tag(self, tag: str) -> str:
        several = _SEVERAL.fullmatch(tag)
        if several is not None:
            return f"integrity={several[1]};scopes={','.join(map(self._scope, several[2].split(',')))}"
        found = _KIND.fullmatch(tag)
        if found is not None:
            return f"{found[1]}:{self._scope(found[2])}"
        return tag if tag in _KNOWN_TAGS else self._name("tag", tag)

    def _scope(self, scope: str) -> str:
        return scope if scope in _OPEN_SCOPES else self._repository(scope)

    def _both(self, labels: TagPair | ResourceRecord) -> tuple[tuple[str, ...], tuple[str, ...]]:
        return self._tags(labels.secrecy), self._tags(labels.integrity)

    def _failed(self, failures: Iterable[FailedRule]) -> tuple[FailedRule, ...]:
        return tuple(
            FailedRule(each.rule, self._tags(each.missing), self._tags(each.extra), each.level) for each in failures
        )

    def _items(self, items: Iterable[FilteredItem]) -> tuple[FilteredItem, ...]:
        return tuple(
            replace(
                item,
                pointer="",
                description=self._description(item.description),
                number=None if item.number is None else self._hash(str(item.number)),
                author=self._given("user", item.author),
                url=None,
                secrecy=self._tags(item.secrecy),
                integrity=self._tags(item.integrity),
                failed=self._failed(item.failed),
                would_pass_with=self._change(item.would_pass_with),
            )
            for item in items
        )

    def _differs(self, differs: Differs) -> Differs:
        error = _LEFT_OUT if differs.error else None
        return replace(differs, failed=self._failed(differs.failed), hides=self._items(differs.hides), error=error)

    def _enrichment(self, asked: Enrichment) -> Enrichment:
        return Enrichment(asked.asked, asked.answered, tuple(MissingAnswer(each.tool) for each in asked.missing))

    def _change(self, change: dict[str, str] | None) -> dict[str, str] | None:
        """Levels stay; whom or what else a policy would have to trust is hashed."""
        if change is None:
            return None
        return {name: value if value in LEVELS else self._hash(value) for name, value in change.items()}
