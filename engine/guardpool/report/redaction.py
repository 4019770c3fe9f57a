"""`--redact`: decisions without logins, repositories, numbers and titles, so that they can be shown to others.

Each is replaced by a keyed hash, so nobody can find a login by hashing guesses without the key. What is equal stays equal, and
with one key it does so from file to file: redacted decisions can be reported on, explained and compared. What stays as it is
are words of ours and of the protocols, and names of servers and tools.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import msgspec
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
    Seen,
    SinkRecord,
    TagPair,
)

_DIGEST_BYTES = 6  # 12 characters; among a million different words two meet in 1 of 500 files


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# What guards say before a colon in descriptions. Another word there may be a name.
_KINDS = _words(
    """
    issue issues pr prs pull pulls pull_request pull_requests pull-request comment comments review reviews
    commit commits branch branches tag tags release releases repo repos repository file files tree gist code
    search label labels milestone discussion discussions project projects workflow workflows run runs job jobs
    artifact artifacts alert alerts notification notifications user users org orgs team teams metadata resource
    item write-sink sink secret message channel page
    """
)
_KIND = re.compile(r"([a-z][a-z_-]{0,30}):(.+)", re.DOTALL)
_REPOSITORY = re.compile(r"([^/#@:\s]+/[^/#@:\s]+)(.*)", re.DOTALL)
# Tags and what stands before the colon in them, and the scopes that name no repository.
_OPEN_SCOPES = frozenset(("all", "public", "none"))
_TAG_KINDS = frozenset((*LEVELS, "private", "public", "internal", "blocked", "secret"))
_KNOWN_TAGS = frozenset((*_TAG_KINDS, "*"))
_SEVERAL = re.compile(r"integrity=([a-z]+);scopes=(.*)", re.DOTALL)
# What GitHub says of authors.
_ASSOCIATIONS = _words("OWNER MEMBER COLLABORATOR CONTRIBUTOR FIRST_TIME_CONTRIBUTOR FIRST_TIMER MANNEQUIN NONE")
# Members of results that stand beside items; others may be anything, such as an alias in a query.
_MEMBERS = _words(
    """
    content structuredContent isError _meta data items nodes edges errors search total_count totalCount
    incomplete_results pageInfo endCursor startCursor hasNextPage hasPreviousPage repository viewer organization
    issues pullRequests discussions count next_cursor nextCursor cursor message text resource meta links result
    results
    """
)
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
# What stands in brackets is an index.
_PARTS = re.compile(r"\[\d+\]|[^/\[\]]+")
_LEFT_OUT = "(left out)"
_UNKNOWN = "#unknown"  # what a guard says of a thing whose number it does not know


class Redactor:
    """Takes out of decisions what names people, repositories and what they wrote.

    Args:
        key: 16 to 64 random bytes. The same key gives the same hashes.

    Attributes:
        id: what says that two files were redacted with one key: a hash, which tells nothing else of it.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._hash = lru_cache(maxsize=65_536)(self._hashed)
        self.id = self._hashed("the id of the key")

    def redacted(self, record: DecisionRecord) -> DecisionRecord:
        """The decision, with hashes for names. Addresses, details of rules and the log's own words are left out.

        One that was redacted before stays as it is.
        """
        if record.redacted is not None:
            return record
        resource, enrichment, differs, sink = record.resource, record.enrichment, record.differs, record.sink
        return replace(
            record,
            call=self.call(record.call),
            session=self._name("session", record.session),
            agent=self._given("agent", record.agent),
            server=self._word("server", record.server),
            guard=self._word("server", record.guard),
            tool=self._word("tool", record.tool),
            run=self._given("run", record.run),
            workflow=self._given("workflow", record.workflow),
            repository=self.repository(record.repository) if record.repository else None,
            args_json=self._args(record),
            policy_sha256=record.policy_sha256 and self._digest(record.policy_sha256),
            resource=resource and ResourceRecord(self.description(resource.description), *self._both(resource)),
            failed=self._failed(record.failed),
            error=_LEFT_OUT if record.error else None,
            filtered=tuple(map(self.item, record.filtered)),
            seen=tuple(map(self._seen, record.seen)),
            agent_before=TagPair(*self._both(record.agent_before)),
            agent_after=TagPair(*self._both(record.agent_after)),
            read=self._tags(record.read),
            sink=sink and SinkRecord(self._tags(sink.accept), sink.visibility),
            lost=tuple(map(self._lost, record.lost)),
            differs=self._differs(differs) if isinstance(differs, Differs) else differs,
            enrichment=enrichment and self._enrichment(enrichment),
            would_pass_with=self._change(record.would_pass_with),
            observed=self._observed(record.observed),
            redacted=self.id,
        )

    def call(self, id: str) -> str:
        """The id of a call, `FILE#LINE`, with a hash for the file."""
        path, _, line = id.rpartition("#")
        if path and line.isascii() and line.isdigit():
            return f"{self.recording(path)}#{line}"
        return f"{self.recording(id)}#0"

    def recording(self, name: str) -> str:
        """The name of an input."""
        return self._name("recording", name)

    def server(self, name: str) -> str:
        """The name of a server, which stays if it looks like one. Servers of recordings may be called anything."""
        return self._word("server", name) or "" if name else ""

    def tool(self, name: str) -> str:
        """The name of a tool, as that of a server."""
        return self._word("tool", name) or "" if name else ""

    def repository(self, name: str) -> str:
        """`redacted/0123456789ab`."""
        return f"redacted/{self._hash(name)}"

    def description(self, words: str) -> str:
        """`issue:redacted/0123456789ab#9876543210ab`: what kind it is of, its repository, and the rest."""
        found = _KIND.fullmatch(words)
        if found is None or found[1] not in _KINDS:
            return self._name("text", words) if words else ""
        kind, rest = found.groups()
        repository = _REPOSITORY.fullmatch(rest)
        if repository is None:
            return words if rest == _UNKNOWN else f"{kind}:{self._hash(rest)}"
        more = f"#{self._hash(repository[2])}" if repository[2] else ""
        if repository[2] == _UNKNOWN:
            more = _UNKNOWN
        return f"{kind}:{self.repository(repository[1])}{more}"

    def item(self, item: FilteredItem) -> FilteredItem:
        """An item that was not let through."""
        return replace(
            item,
            pointer="",
            description=self.description(item.description),
            number=None if item.number is None else self._hash(str(item.number)),
            author=self._given("user", item.author),
            association=self._association(item.association),
            url=None,
            secrecy=self._tags(item.secrecy),
            integrity=self._tags(item.integrity),
            failed=self._failed(item.failed),
            would_pass_with=self._change(item.would_pass_with),
        )

    def _hashed(self, words: str) -> str:
        data = words.encode("utf-8", "surrogatepass")
        return hashlib.blake2b(data, digest_size=_DIGEST_BYTES, key=self._key).hexdigest()

    def _name(self, kind: str, words: str) -> str:
        return f"{kind}-{self._hash(words)}"

    def _given(self, kind: str, words: str | None) -> str | None:
        return None if words is None else self._name(kind, words)

    def _word(self, kind: str, word: str | None) -> str | None:
        """The name of a server or a tool; what does not look like one is hashed."""
        return word if word is None or _NAME.fullmatch(word) else self._name(kind, word)

    def _digest(self, digest: str) -> str:
        """A digest in the place of another one: whoever guesses a policy must not be able to find it by its digest."""
        return hashlib.blake2b(digest.encode("utf-8", "surrogatepass"), digest_size=32, key=self._key).hexdigest()

    def _args(self, record: DecisionRecord) -> msgspec.Raw | msgspec.UnsetType:
        """A hash in the place of arguments, so that equal ones stay equal."""
        args = record.args_json
        if args is UNSET or bytes(args) == b"null":
            return args
        return msgspec.Raw(
            msgspec.json.encode({"redacted": self._hash(bytes(args).decode("utf-8", "surrogateescape"))})
        )

    def _association(self, association: str | None) -> str | None:
        return association if association in _ASSOCIATIONS else self._given("association", association)

    def _seen(self, seen: Seen) -> Seen:
        association = self._association(seen.association)
        return replace(seen, author=self._given("user", seen.author), association=association)

    def _lost(self, pointer: str) -> str:
        """A pointer to what was lost, with hashes for members: they may be named after anything, such as an issue's number."""
        return _PARTS.sub(
            lambda part: part[0] if part[0].startswith("[") or part[0] in _MEMBERS else self._hash(part[0]), pointer
        )

    def _observed(self, observed: Mapping[str, Any] | None) -> dict[str, Any] | None:
        """What the log says that was done: how many items were taken away, and which, as far as that is compared."""
        if observed is None:
            return None
        kept: dict[str, Any] = {}
        if isinstance(observed.get("filtered"), (list, tuple)):
            kept["filtered"] = [self._event(event) for event in observed["filtered"]]
        if "denied" in observed:
            kept["denied"] = self._event(observed["denied"])
        return kept

    def _event(self, event: Any) -> dict[str, Any]:
        members = event if isinstance(event, Mapping) else {}
        kept: dict[str, Any] = {"description": self.description(str(members.get("description", "")))}
        for name in ("secrecy_tags", "integrity_tags", "agent_secrecy_tags", "agent_integrity_tags"):
            tags = members.get(name)
            if isinstance(tags, (list, tuple)):
                kept[name] = self._tags(tag for tag in tags if isinstance(tag, str))
        return kept

    def _tags(self, tags: Iterable[str]) -> tuple[str, ...]:
        return tuple(map(self._tag, tags))

    def _tag(self, tag: str) -> str:
        several = _SEVERAL.fullmatch(tag)
        if several is not None:
            return f"integrity={self._level(several[1])};scopes={','.join(map(self._scope, several[2].split(',')))}"
        found = _KIND.fullmatch(tag)
        if found is not None and found[1] in _TAG_KINDS:
            return f"{found[1]}:{self._scope(found[2])}"
        return tag if tag in _KNOWN_TAGS else self._name("tag", tag)

    def _level(self, level: str) -> str:
        return level if level in LEVELS else self._name("level", level)

    def _scope(self, scope: str) -> str:
        return scope if scope in _OPEN_SCOPES else self.repository(scope)

    def _both(self, labels: TagPair | ResourceRecord) -> tuple[tuple[str, ...], tuple[str, ...]]:
        return self._tags(labels.secrecy), self._tags(labels.integrity)

    def _failed(self, failures: Iterable[FailedRule]) -> tuple[FailedRule, ...]:
        return tuple(
            FailedRule(
                *(each.rule, self._tags(each.missing), self._tags(each.extra)),
                each.level and self._level(each.level),
            )
            for each in failures
        )

    def _differs(self, differs: Differs) -> Differs:
        error = _LEFT_OUT if differs.error else None
        return replace(
            differs, failed=self._failed(differs.failed), hides=tuple(map(self.item, differs.hides)), error=error
        )

    def _enrichment(self, asked: Enrichment) -> Enrichment:
        return Enrichment(
            asked.asked,
            asked.answered,
            tuple(MissingAnswer(self._word("tool", each.tool) or "") for each in asked.missing),
        )

    def _change(self, change: dict[str, str] | None) -> dict[str, str] | None:
        """Levels stay; whom or what else a policy would have to trust is hashed."""
        if change is None:
            return None
        return {name: value if value in LEVELS else self._hash(value) for name, value in change.items()}
