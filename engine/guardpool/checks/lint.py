"""What in a policy, or in a gateway's configuration, cannot work: told from what is written there, with no guard run.

`RULES` has the ids of findings. Those that begin with a B are those of `guardpool.decide.PLACES`. What a rule says of tags
holds for the GitHub guard (`agent_tags.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from guardpool.checks.agent_tags import agent_tags, level_of_policy, scopes_of
from guardpool.contract import check_policy
from guardpool.contract.policy import LEVELS
from guardpool.contract.text import lower, shown, trim
from guardpool.decide import AgentState, Sink, WhyNoGuard, sink_of_policy, split_policy
from guardpool.decide.flow import STAR
from guardpool.errors import PolicyError
from guardpool.gateway_config import GatewayConfig, ServerConfig, ServerKind, policy_of, variables_in
from guardpool.labels import Printed

RULES: dict[str, str] = {
    "B10": "a sink denies every write of an agent that has called a guarded server",
    "B16": "the gateway's configuration takes the key, and what checks a guard's policy refuses it: every call fails",
    "B22": "the guard or its policy cannot be used, and the gateway goes on without it",
    "B23": "no guard stands before the server: its calls are denied or allowed without a look",
    "B34": "guarded servers have different scopes, so nothing on them can be read",
    "accept-fits-nobody": "no agent has the tag that a sink accepts",
    "accept-without-effect": "the sink is public, so what it accepts does not count",
    "blocked-and-trusted": "a user is blocked and trusted, and blocked counts",
    "key-ignored": "another key is taken in its place",
    "key-without-effect": "nothing in this policy makes use of the key",
    "levels-differ": "guarded servers have different levels, and the highest counts at each",
    "mode-without-effect": "the guard's own mode counts in its place",
    "repos-forced": "the workflow's repository is public, and the gateway takes 'public' in the place of 'repos'",
    "policy-refused": "the policy is not valid",
}


class Finding(Printed, frozen=True):
    """Something that cannot work.

    Attributes:
        id: of the rule, see `RULES`.
        place: where it stands, as keys with dots between them.
        what: what is wrong, in a sentence.
        do: what to do about it.
    """

    id: str
    place: str
    what: str
    do: str


class NotChecked(Printed, frozen=True):
    """Something that cannot be checked from what is written there.

    Attributes:
        place: where it stands.
        why: why not.
    """

    place: str
    why: str


class Lint(Printed, frozen=True):
    """All that was found in one policy or configuration.

    Attributes:
        findings: in the order of the file; those about several servers last.
        not_checked: what could not be looked at, so that no finding there says nothing.
    """

    findings: tuple[Finding, ...]
    not_checked: tuple[NotChecked, ...] = ()


def lint_policy(policy: Mapping[str, Any]) -> Lint:
    """What cannot work in one policy: `{"allow-only": ...}`, `{"write-sink": ...}`, or the gateway's older shape."""
    variables = variables_in(policy)
    if variables:
        return Lint((), (_left_open("policy", variables),))
    try:
        found = policy_of(policy)
    except PolicyError as error:
        return Lint((_refused("policy", error),))
    if found is not None and "write-sink" in found:
        return Lint(())
    return Lint(tuple(_of_a_policy(found if found is not None else policy, "")))


def lint(config: GatewayConfig, repository_is_public: bool | None = None) -> Lint:
    """What cannot work in a gateway's configuration.

    Args:
        repository_is_public: whether the workflow's repository is public, on which the visibility of sinks depends; None if it
            is not known.
    """
    return _Config(config, repository_is_public).lint()


class _Config:
    """A configuration while it is looked at."""

    def __init__(self, config: GatewayConfig, repository_is_public: bool | None) -> None:
        self._config = config
        self._public = repository_is_public
        self._servers = list(config.servers.values())
        self._guarded = [server for server in self._servers if server.kind is ServerKind.GUARDED]
        self._open = {server.name: variables_in(server.policy or server.sink_policy) for server in self._servers}
        self._findings: list[Finding] = []
        # For each guarded server whose policy is valid: what is in force of the policy, and the tags that an agent gets by it.
        self._bodies: dict[str, Mapping[str, Any]] = {}
        self._tags: dict[str, AgentState] = {}

    def lint(self) -> Lint:
        add = self._findings.extend
        add(
            Finding("B22", oddity.place, oddity.what, "write it as it is spelt here")
            for oddity in self._config.oddities
        )
        for server in self._servers:
            add(self._of_a_server(server))
        add(self._of_modes())
        add(self._of_scopes())
        for server in self._servers:
            if server.kind is ServerKind.SINK:
                add(self._of_a_sink(server))
        return Lint(tuple(self._findings), tuple(self._not_checked()))

    def _not_checked(self) -> Iterator[NotChecked]:
        for place in self._config.not_applied:
            yield NotChecked(place, "policies of single agents are not looked at")
        for server in self._servers:
            if self._open[server.name]:
                yield _left_open(server.place, self._open[server.name])

    def _of_a_server(self, server: ServerConfig) -> Iterator[Finding]:
        if self._open[server.name]:
            return
        if server.kind is ServerKind.GUARDED and server.policy is not None:
            found = list(_of_a_policy(server.policy, f"{server.place}."))
            yield from found
            if not any(finding.id == "policy-refused" for finding in found):
                self._bodies[server.name] = body = self._in_force(_body_of(server.policy))
                self._tags[server.name] = agent_tags(body)
                if body["repos"] != _body_of(server.policy)["repos"]:
                    yield Finding(
                        "repos-forced",
                        f"{server.place}.allow-only.repos",
                        "the workflow's repository is public, so that the gateway takes 'public' in its place, and nothing "
                        "private is read",
                        "write 'public', or set 'forcePublicRepos' to false if what is private may go to a public place",
                    )
        elif server.problem is not None and server.is_refused:
            yield _refused(server.place, server.problem)
        elif server.problem is not None:
            yield Finding(
                "B22",
                server.place,
                f"{server.problem}; the gateway goes on without a guard, and {self._unguarded()}",
                "correct it, or leave the server out",
            )
        elif server.why is WhyNoGuard.NO_POLICY:
            yield Finding(
                "B22",
                f"{server.at}.guard",
                f"guard {shown(server.guard)} has no policy, so the gateway does not use it, and {self._unguarded()}",
                "give the server guard-policies, or the guard a policy",
            )
        elif server.kind is ServerKind.NONE:
            yield Finding(
                "B23",
                server.at,
                f"no guard and no sink stands before {shown(server.name)}: {self._unguarded()}",
                "give it a policy for its guard, or write-sink if it is only written to, or leave it out",
            )

    def _in_force(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """What the gateway makes of a policy when it starts."""
        if self._public and self._config.force_public_repos and scopes_of(body) != ("public",):
            return {**body, "repos": "public"}
        return body

    def _unguarded(self) -> str:
        """What becomes of calls to a server without a guard."""
        if self._guarded:
            return f"every call to it is denied to an agent that has called {_names(self._guarded)}"
        return "every call to it is allowed without a look"

    def _of_modes(self) -> Iterator[Finding]:
        why = "the mode of a server with a guard is the one that its label_agent answers (the GitHub guard: filter)"
        for server in self._guarded:
            if server.mode is not None:
                yield Finding("mode-without-effect", f"{server.at}.guards-mode", why, "remove it")
        place = self._config.mode_place
        if place is not None and self._guarded and all(server.kind is not ServerKind.NONE for server in self._servers):
            yield Finding(
                "mode-without-effect", place, f"{why}, and every server here has a guard or is a sink", "remove it"
            )

    def _of_scopes(self) -> Iterator[Finding]:
        """An agent has one pair of labels for all servers: tags of one scope are demanded of the items of another."""
        known = [server for server in self._guarded if server.name in self._tags]
        scopes = {name: scopes_of(body) for name, body in self._bodies.items()}
        if len(set(scopes.values())) > 1:
            listed = ", ".join(f"{shown(name)} {' '.join(of)}" for name, of in scopes.items())
            same = len({frozenset(of) for of in scopes.values()}) == 1
            what = "list the same scopes in another order" if same else "have different scopes"
            yield Finding(
                "B34",
                f"{known[-1].place}.allow-only.repos",
                f"{_names(known)} {what} ({listed}): an agent that has called all of them carries the integrity tags of each, "
                "nothing on one server ever has another's, and so every read is denied",
                "give all of them the same 'repos' in the same order, or use them in different workflows",
            )
            return
        levels = {name: level_of_policy(body) for name, body in self._bodies.items()}
        highest = max(levels.values(), key=LEVELS.index, default="")
        for server in known:
            if levels[server.name] != highest:
                above = [other for other in known if levels[other.name] == highest]
                yield Finding(
                    "levels-differ",
                    f"{server.place}.allow-only.min-integrity",
                    f"{shown(levels[server.name])} does not hold for an agent that has called {_names(above)}: its labels are "
                    f"the same at every server, so {shown(highest)} is demanded here, too",
                    f"write {shown(highest)} here, or lower it there",
                )

    def _of_a_sink(self, server: ServerConfig) -> Iterator[Finding]:
        if self._open[server.name] or any(self._open[guarded.name] for guarded in self._guarded):
            return
        sink = server.sink(self._public)
        configured = sink_of_policy(server.sink_policy)
        if sink is None:
            return
        place = f"{server.place}.write-sink"
        secrecy = sorted({tag for tags in self._tags.values() for tag in tags.secrecy})
        if sink.visibility == "public":
            yield from self._of_a_public_sink(place, configured, secrecy)
            return
        if STAR in sink.accept:
            return
        for at, entry in enumerate(sink.accept):
            if entry not in secrecy:
                yield Finding("accept-fits-nobody", f"{place}.accept[{at}]", *_fits_nobody(entry, secrecy))
        lacking = [tag for tag in secrecy if tag not in sink.accept]
        if lacking:
            yield Finding(
                "B10",
                f"{place}.accept",
                f"it lacks {_listed(lacking)}, for which an agent is cleared once it has called {self._giving(lacking)}, "
                "whatever it has read: every write is denied then",
                f"add {_listed(lacking)}",
            )

    def _of_a_public_sink(self, place: str, configured: Sink, secrecy: list[str]) -> Iterator[Finding]:
        is_set = configured.visibility == "public"
        why = "" if is_set else " (the gateway takes that for a sink that says nothing, or whose repository is public)"
        if secrecy:
            yield Finding(
                "B10",
                f"{place}.sink-visibility",
                f"the sink is public{why}, and an agent that has called {self._giving(secrecy)} is cleared for "
                f"{_listed(secrecy)}, whatever it has read: every write is denied then",
                "if what is written goes to a private place, say so with 'sink-visibility'; else read with 'repos': 'public'",
            )
        if STAR not in configured.accept:
            yield Finding(
                "accept-without-effect",
                f"{place}.accept",
                f"the sink is public{why}, so it takes writes of agents without any secrecy, and no others",
                "set 'sink-visibility' to private or internal if that is what it is; else write ['*']",
            )

    def _giving(self, tags: Iterable[str]) -> str:
        wanted = frozenset(tags)
        return _names([server for server in self._guarded if self._tags[server.name].secrecy & wanted])


def _of_a_policy(policy: Mapping[str, Any], at: str) -> Iterator[Finding]:
    """What cannot work in a guard's policy. `at`: what stands before its keys in a place."""
    try:
        split = split_policy(policy)
    except PolicyError as error:
        yield _refused(f"{at}allow-only", error)
        return
    key = "allow-only" if "allow-only" in policy else "allowonly"
    for name in split.taken_off:
        yield Finding(
            "B16",
            f"{at}{key}.{name}",
            "the gateway takes this key and hands it to the guard, whose policy may not have it: every call to the server "
            "fails when a session begins",
            "remove it; 'guardpool replay' takes it off by itself, and enforces tool-call-limits",
        )
    if {"allow-only", "allowonly"} <= policy.keys():
        yield Finding("key-ignored", f"{at}allowonly", "'allow-only' is there, too, and is taken", "remove one of them")
    try:
        check_policy(split.policy)
    except PolicyError as error:
        yield _refused(f"{at}{key}", error)
        return
    yield from _of_keys(_body_of(split.policy), f"{at}{key}.")


def _of_keys(body: Mapping[str, Any], at: str) -> Iterator[Finding]:
    if {"min-integrity", "integrity"} <= body.keys():
        yield Finding(
            "key-ignored", f"{at}integrity", "'min-integrity' is there, too, and is taken", "remove one of them"
        )
    blocked = {lower(trim(user)) for user in body.get("blocked-users", ())}
    for index, user in enumerate(body.get("trusted-users", ())):
        if lower(trim(user)) in blocked:
            yield Finding(
                "blocked-and-trusted",
                f"{at}trusted-users[{index}]",
                f"{shown(user)} is among 'blocked-users', too, and a blocked user is never trusted",
                "take the user off one of the two lists",
            )
    if level_of_policy(body) == "none":
        for name in ("trusted-users", "approval-labels", "endorsement-reactions", "endorser-min-integrity"):
            if body.get(name):
                yield Finding(
                    "key-without-effect",
                    f"{at}{name}",
                    "it raises what is below 'min-integrity', and below 'none' are blocked users alone, whom it does not help",
                    "remove it, or raise 'min-integrity'",
                )
    elif "endorser-min-integrity" in body and not _reactions(body, "endorsement", "disapproval"):
        yield Finding(
            "key-without-effect",
            f"{at}endorser-min-integrity",
            "it says whose reactions count, and the policy names no reactions",
            "name 'endorsement-reactions' or 'disapproval-reactions', or remove it",
        )
    if "disapproval-integrity" in body and not _reactions(body, "disapproval"):
        yield Finding(
            "key-without-effect",
            f"{at}disapproval-integrity",
            "it says what a disapproved item becomes, and the policy names no 'disapproval-reactions'",
            "name them, or remove it",
        )


def _reactions(body: Mapping[str, Any], *kinds: str) -> bool:
    return any(body.get(f"{kind}-reactions") for kind in kinds)


def _fits_nobody(entry: str, secrecy: list[str]) -> tuple[str, str]:
    """What is wrong with an entry that no agent has among its tags, and the tag that was probably meant."""
    what = f"{shown(entry)} is the tag of no agent here: entries are compared letter by letter, and a '*' stands for itself"
    if not secrecy:
        return (
            f"{what}; with 'repos' that are 'all' or 'public' an agent has no secrecy tags",
            "write ['*'], or remove the entry",
        )
    bare = lower(entry.rpartition(":")[2])
    names = {tag.removeprefix("private:"): tag for tag in secrecy}
    meant = [names[name] for name in sorted({bare, bare.removesuffix("/*")}) if name in names]
    if not meant:
        owner = bare.partition("/")[0]
        meant = [tag for name, tag in names.items() if name.partition("/")[0] == owner]
    return (
        what,
        f"write {_listed(meant[:3])}" if meant else f"agents here have {_listed(secrecy[:5])}; or remove the entry",
    )


def _body_of(policy: Mapping[str, Any]) -> Mapping[str, Any]:
    body: Mapping[str, Any] = policy.get("allow-only", policy.get("allowonly", {}))
    return body


def _refused(place: str, error: object) -> Finding:
    return Finding("policy-refused", place, str(error), "correct it: the gateway and every guard refuse it as it is")


def _left_open(place: str, variables: list[str]) -> NotChecked:
    return NotChecked(
        place, f"{', '.join(variables[:5])} is filled in when the gateway starts: give a file that is filled in"
    )


def _names(servers: Iterable[ServerConfig]) -> str:
    return " and ".join(shown(server.name) for server in servers)


def _listed(tags: Iterable[str]) -> str:
    return ", ".join(map(shown, tags))
