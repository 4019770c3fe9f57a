"""A gateway's own configuration: which guard, policy or sink stands before each server.

    from guardpool import gateway_config

    config = gateway_config.read("gateway.json")
    for server in config.servers.values():
        print(server.name, server.kind, server.policy or server.sink())

Both forms are read, told by what stands in the file and not by its name: JSON (`mcpServers`, as the gateway takes it from
standard input) and TOML (`servers`). No command of it is started, no server connected to, no variable expanded and no guard's
file opened. What is kept of a server is what decisions need, so its environment and headers, where secrets stand, are not.

Source: github/gh-aw-mcpg, docs/CONFIGURATION.md, internal/config/guard_policy_parse.go, internal/server/guard_init.go.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import msgspec

from guardpool.contract.text import lower, shown, trim
from guardpool.decide.sinks import Sink, WhyNoGuard, sink_of_policy, sink_visibility
from guardpool.errors import CallerError, PolicyError, check_kind
from guardpool.labels import DifcMode, Printed

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_BOM = b"\xef\xbb\xbf"
_SERVERS = ("mcpServers", "servers")
_POLICIES = ("guard-policies", "guard_policies")
_ALLOW_ONLY = ("allow-only", "allowonly")
_WRITE_SINK = ("write-sink", "writesink")
_MODES = ("guards_mode", "guards-mode", "guardsMode")
_NOOP = "noop"
_GUARD_TYPES = ("wasm", _NOOP)
_VARIABLE = re.compile(r"\$(?:\{\w+\}|\w+)")
_EVERY = "*"


class ConfigError(CallerError, ValueError):
    """The file is not a gateway's configuration; the message names it and never quotes what stands in it."""


class ServerKind(str, Enum):
    """What stands before a server."""

    GUARDED = "guarded"
    SINK = "sink"
    NONE = "none"

    def __str__(self) -> str:
        return self.value


class ServerConfig(Printed, frozen=True):
    """What the configuration says about one server.

    Attributes:
        name: its id.
        kind: what stands before it.
        at: where the server stands in the file: `mcpServers.github`.
        place: where its policy stands, or the server where it has none.
        policy: `{"allow-only": {...}}` as it stands in the file: what a guard would refuse is still in it
            (`guardpool.decide.split_policy`). None unless the server is guarded.
        sink_policy: `{"write-sink": {...}}`; None unless the server is a sink.
        exempt: whether a sink without a visibility stays without one.
        guard: the configured guard's name; None if none is named, and then the gateway looks for a file named after the server.
        guard_path: the configured guard's file as it is spelt. It is not looked for.
        mode: the configured mode. A guard's own answer counts in its place.
        tools: the only tools that may be called; None: all.
        why: why the server has no guard; None unless the kind is `none`.
        problem: what keeps the configured guard or policy from being used, in one line.
        is_refused: whether the gateway does not start with it. If it does, and there is a problem, it goes on without the
            guard.
    """

    name: str
    kind: ServerKind
    at: str
    place: str
    policy: dict[str, Any] | None = None
    sink_policy: dict[str, Any] | None = None
    exempt: bool = False
    guard: str | None = None
    guard_path: str | None = None
    mode: DifcMode | None = None
    tools: tuple[str, ...] | None = None
    why: WhyNoGuard | None = None
    problem: str | None = None
    is_refused: bool = False

    def sink(self, repository_is_public: bool | None = None) -> Sink | None:
        """The sink with the visibility that the gateway gives it when it starts; None unless the server is a sink.

        Args:
            repository_is_public: whether the workflow's repository is public; None if that is not known.
        """
        if self.sink_policy is None:
            return None
        configured = sink_of_policy(self.sink_policy)
        return Sink(
            configured.accept, sink_visibility(self.name, configured.visibility, repository_is_public, self.exempt)
        )


class Oddity(Printed, frozen=True):
    """Something in the configuration that does not do what it seems to.

    Attributes:
        place: where it stands.
        what: what it is, in one line.
    """

    place: str
    what: str


class GatewayConfig(Printed, frozen=True):
    """A gateway's configuration, as far as decisions depend on it.

    Attributes:
        servers: by their ids, in the order of the file.
        mode: the gateway's own mode, for servers without a guard.
        mode_place: where that mode is set; None if it is the default.
        trusted_bots: user names for every guard, in the place of a policy's own.
        force_public_repos: whether guards get `public` for their `repos` where the workflow's repository is public.
        not_applied: places of settings that change decisions in the gateway and are not taken into account here.
        oddities: words that the gateway takes for something else without an error.
        form: `json` or `toml`.
    """

    servers: dict[str, ServerConfig]
    mode: DifcMode = DifcMode.STRICT
    mode_place: str | None = None
    trusted_bots: tuple[str, ...] = ()
    force_public_repos: bool = True
    not_applied: tuple[str, ...] = ()
    oddities: tuple[Oddity, ...] = ()
    form: str = "json"


def read(path: str | Path) -> GatewayConfig:
    """The configuration in a file.

    Raises:
        ConfigError: it cannot be read, or is not a gateway's configuration.
    """
    check_kind("path", path, (str, os.PathLike), "a path")
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: the configuration cannot be read: {error.strerror or error}") from error
    return parse(text, str(path))


def parse(text: bytes, name: str = "the configuration") -> GatewayConfig:
    """The configuration in a text.

    Args:
        text: JSON or TOML, in UTF-8.
        name: what messages call it.

    Raises:
        ConfigError: it is neither, or names no servers.
    """
    check_kind("text", text, bytes, "bytes, as Path(...).read_bytes() gives them")
    document, form = document_of(text, name)
    return config_of(document, name, form)


def document_of(text: bytes, name: str) -> tuple[dict[str, Any], str]:
    """The object in a text of JSON or TOML, and which of the two it is.

    Raises:
        ConfigError: it is neither, or JSON that is not an object.
    """
    text = text.removeprefix(_BOM)
    if text.lstrip().startswith(b"{"):
        try:
            document = msgspec.json.decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ConfigError(f"{name}: not JSON: {error}") from error
        form = "json"
    else:
        try:
            document, form = tomllib.loads(text.decode()), "toml"
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
            what = _kind_of_json(text)
            if what is not None:
                raise ConfigError(f"{name}: it is JSON, but {what}, not an object") from error
            raise ConfigError(f"{name}: neither JSON nor TOML: {_without_values(error)}") from error
    return document, form


def _kind_of_json(text: bytes) -> str | None:
    """What kind of value a text of JSON is; None if it is not JSON."""
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if isinstance(value, str):
        return "a string"  # which may be a secret
    return "a number" if type(value) in (int, float) else shown(value)


def _without_values(error: Exception) -> str:
    """The parser's message as far as its place: what stands there may be a secret."""
    if isinstance(error, UnicodeError):
        return "it is not UTF-8"
    place = re.search(r"\(at [^)]*\)$", str(error))
    return f"it cannot be parsed {place[0]}" if place else "it cannot be parsed"


def is_config(document: Mapping[str, Any]) -> bool:
    """Whether an object is a gateway's configuration, and not one policy."""
    return any(isinstance(document.get(key), dict) for key in _SERVERS)


def config_of(document: Mapping[str, Any], name: str, form: str = "json") -> GatewayConfig:
    """The configuration in an object. Raises ConfigError if it names no servers."""
    key = next((key for key in _SERVERS if isinstance(document.get(key), dict)), None)
    if key is None or not document[key]:
        raise ConfigError(
            f"{name}: not a gateway's configuration: it has neither 'servers' nor 'mcpServers', or none in them"
        )
    reading = _Reading(document, name, key)
    servers = {server_id: reading.server(server_id, body) for server_id, body in document[key].items()}
    mode = reading.mode_at(document, "")
    return GatewayConfig(
        servers,
        mode or DifcMode.STRICT,
        None if mode is None else _first_key(document, *_MODES),
        reading.trusted_bots(),
        reading.force_public_repos(),
        tuple(reading.not_applied()),
        tuple(reading.oddities),
        form,
    )


class _NoPolicy(PolicyError):
    """What stands in the place of a policy is not one, and the gateway goes on without a policy."""


class _Reading:
    """One document while it is read."""

    def __init__(self, document: Mapping[str, Any], name: str, key: str) -> None:
        self._name = name
        self._key = key
        self._guards = _object(document.get("guards"))
        self._gateway = _object(document.get("gateway"))
        exempt = _first(self._gateway, "sinkVisibilityExemptServers", "sink_visibility_exempt_servers")
        self._exempt = frozenset(exempt) if _is_strings(exempt) else frozenset()
        self.oddities: list[Oddity] = []

    def trusted_bots(self) -> tuple[str, ...]:
        """The user names that the gateway gives to every guard."""
        bots = _first(self._gateway, "trustedBots", "trusted_bots")
        return tuple(bots) if _is_strings(bots) else ()

    def force_public_repos(self) -> bool:
        """Whether `repos` become `public` where the workflow's repository is; that is the default."""
        return _first(self._gateway, "forcePublicRepos", "force_public_repos") is not False

    def not_applied(self) -> Iterator[str]:
        """Settings that change what an agent gets, and that this reader does not know how to apply."""
        for key in ("agentPolicies", "agent_policies"):
            if self._gateway.get(key):
                yield f"gateway.{key}"

    def server(self, server_id: str, body: Any) -> ServerConfig:
        """One server."""
        if not isinstance(body, dict):
            raise ConfigError(f"{self._name}: {self._key}.{server_id}: a server is an object, not {shown(body)}")
        place = f"{self._key}.{server_id}"
        guard = body.get("guard") if isinstance(body.get("guard"), str) and body["guard"] else None
        server = ServerConfig(
            server_id,
            ServerKind.NONE,
            place,
            place,
            exempt=bool(self._exempt & {server_id, _EVERY}),
            guard=guard,
            guard_path=self._path_of(guard),
            mode=self.mode_at(body, f"{place}."),
            tools=self._tools(body),
        )
        try:
            policy, policy_place = self._policy(server_id, body, guard)
        except PolicyError as error:
            return _replace(
                server,
                place=f"{place}.{_first_key(body, *_POLICIES)}",
                why=WhyNoGuard.NO_POLICY,
                problem=str(error),
                is_refused=not isinstance(error, _NoPolicy),
            )
        server = _replace(server, place=policy_place or place)
        if policy is not None and "write-sink" in policy:
            return _replace(server, kind=ServerKind.SINK, sink_policy=policy)
        if policy is None and self._is_noop(guard):
            return _replace(server, why=WhyNoGuard.NONE)
        problem = self._problem_of(guard)
        if problem is not None:
            return _replace(server, place=f"{place}.guard", why=WhyNoGuard.NOT_LOADED, problem=problem)
        if policy is None:
            return _replace(server, why=WhyNoGuard.NONE if guard is None else WhyNoGuard.NO_POLICY)
        return _replace(server, kind=ServerKind.GUARDED, policy=policy)

    def _policy(
        self, server_id: str, body: Mapping[str, Any], guard: str | None
    ) -> tuple[dict[str, Any] | None, str | None]:
        """The server's own policy, else that of its guard, and where it stands."""
        for key in _POLICIES:
            raw = body.get(key)
            if raw is None:
                continue
            if not isinstance(raw, dict):
                raise PolicyError(f"a server's policies are an object, not {shown(raw)}")
            found = find_policy(server_id, raw)
            if found is not None:
                return found, f"{self._key}.{server_id}.{key}"
            if raw:
                names = ", ".join(map(shown, list(raw)[:3]))
                raise _NoPolicy(f"there is neither 'allow-only' nor 'write-sink' in it, but {names}")
        of_guard = _object(self._guards.get(guard)).get("policy") if guard is not None else None
        if isinstance(of_guard, dict) and of_guard:
            return find_policy(server_id, of_guard), f"guards.{guard}.policy"
        return None, None

    def _path_of(self, guard: str | None) -> str | None:
        path = _object(self._guards.get(guard)).get("path") if guard is not None else None
        return path if isinstance(path, str) and path else None

    def _problem_of(self, guard: str | None) -> str | None:
        """Why the gateway would go on without the configured guard."""
        if guard is None:
            return None
        if self._is_noop(guard):
            return f"guard {shown(guard)} is of type 'noop', which is no guard"
        if guard not in self._guards:
            known = ", ".join(map(shown, self._guards)) or "none"
            return f"no guard is called {shown(guard)}; 'guards' has {known}"
        kind = _object(self._guards[guard]).get("type")
        if kind is None:
            return f"guard {shown(guard)} has no type; a type is 'wasm' or 'noop'"
        if kind not in _GUARD_TYPES:
            return f"guard {shown(guard)} is of type {shown(kind)}; a type is 'wasm' or 'noop'"
        return f"guard {shown(guard)} has no 'path'" if self._path_of(guard) is None else None

    def _is_noop(self, guard: str | None) -> bool:
        """Whether the guard is the gateway's own that guards nothing, under a name of the configuration or under its own."""
        return guard is not None and _object(self._guards.get(guard, {"type": guard})).get("type") == _NOOP

    def mode_at(self, body: Mapping[str, Any], place: str) -> DifcMode | None:
        """The mode that is set there; a word that is not one of the three is an oddity."""
        word = _first(body, *_MODES)
        if word in (None, ""):
            return None
        mode = next((mode for mode in DifcMode if isinstance(word, str) and mode.value == lower(trim(word))), None)
        if mode is None:
            self.oddities.append(
                Oddity(
                    f"{place}{_first_key(body, *_MODES)}",
                    f"{shown(word)} is not strict, filter or propagate: the gateway takes strict",
                )
            )
        return mode

    @staticmethod
    def _tools(body: Mapping[str, Any]) -> tuple[str, ...] | None:
        tools = body.get("tools")
        if not _is_strings(tools) or not tools or _EVERY in tools:
            return None
        return tuple(tools)


def variables_in(policy: Any) -> list[str]:
    """The variables that a policy leaves to be filled in, as they are spelt, each once."""
    if isinstance(policy, str):
        return _VARIABLE.findall(policy)
    inside = policy.values() if isinstance(policy, dict) else policy if isinstance(policy, (list, tuple)) else ()
    return list(dict.fromkeys(name for value in inside for name in variables_in(value)))


def find_policy(server_id: str, raw: Mapping[str, Any]) -> dict[str, Any] | None:
    """The policy in a server's policies: itself, below the server's id, or below its only key, as in the gateway.

    Raises:
        PolicyError: as `policy_of`.
    """
    found = policy_of(raw)
    if found is None and isinstance(raw.get(server_id), dict):
        found = policy_of(raw[server_id])
    if found is None and len(raw) == 1:
        (only,) = raw.values()
        found = policy_of(only) if isinstance(only, dict) else None
    return found


def policy_of(raw: Mapping[str, Any]) -> dict[str, Any] | None:
    """A policy in today's shape: `{"allow-only": ...}` or `{"write-sink": ...}`; None if it is neither.

    Raises:
        PolicyError: it is both, or it is a sink's and not valid.
    """
    allow_only = next((key for key in _ALLOW_ONLY if key in raw), None)
    sink = next((key for key in _WRITE_SINK if key in raw), None)
    if allow_only is not None and sink is not None:
        raise PolicyError(
            f"{allow_only!r} and {sink!r} exclude each other: a server is read through a guard or is a sink"
        )
    if sink is not None:
        policy = {"write-sink": _sink_body(raw[sink])}
        sink_of_policy(policy)
        return policy
    if allow_only is not None:
        return dict(raw)
    if "repos" in raw:
        if "min-integrity" not in raw and "integrity" not in raw:
            raise PolicyError("'repos' is there and 'min-integrity' is not")
        return {"allow-only": dict(raw)}
    return None


def _sink_body(body: Any) -> Any:
    """A sink's policy with its keys in lower case: the gateway takes `Accept` for `accept`."""
    if not isinstance(body, dict):
        return body
    return {lower(key): value for key, value in body.items()}


def _replace(server: ServerConfig, **changes: Any) -> ServerConfig:
    return msgspec.structs.replace(server, **changes)


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _first(body: Mapping[str, Any], *keys: str) -> Any:
    return next((body[key] for key in keys if body.get(key) is not None), None)


def _first_key(body: Mapping[str, Any], *keys: str) -> str:
    return next((key for key in keys if body.get(key) is not None), keys[0])


def _is_strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
