"""A gateway's own configuration, read for what it says of guards, policies and sinks. Nothing of it is started or expanded.

The gateway has two forms: TOML with `servers` and `guard_policies`, and JSON with `mcpServers` and `guard-policies`. Both are
read alike, and what is in them of commands, containers, addresses, headers and variables is not looked at.

Source: github/gh-aw-mcpg, internal/config/config_core.go, config_stdin.go, guard_policy_parse.go and
internal/server/guard_init.go.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from guardpool.contract.text import shown
from guardpool.decide.sinks import Sink, sink_of_policy
from guardpool.decide.words import DecideError, mode_of
from guardpool.errors import PolicyError
from guardpool.labels import DifcMode, Printed

_ALLOW_ONLY = ("allow-only", "allowonly")
_WRITE_SINK = ("write-sink", "writesink")
# Kinds of guards that guard nothing, and what stands for a wasm file.
_NOOP, _WASM, _SINK_KINDS = "noop", "wasm", ("write-sink", "write_sink", "writesink")


class ConfigError(PolicyError):
    """A gateway's configuration cannot be used; the message names the server."""


class ConfiguredServer(Printed, frozen=True):
    """What a configuration says of one server.

    Attributes:
        name: the server's id.
        guard: the name of its guard; None if it names none.
        wasm: the path of the guard's module, as the configuration has it; None if it has none.
        policy: the guard's policy as the configuration has it, `{"allow-only": {...}}`; None if it has none.
        sink: what it accepts, if it is a sink.
        mode: the mode that was set for it.
        tools: the only tools that may be called; None if all may.
        is_noop: whether it is configured to have no guard.
    """

    name: str
    guard: str | None = None
    wasm: str | None = None
    policy: dict[str, Any] | None = None
    sink: Sink | None = None
    mode: DifcMode | None = None
    tools: tuple[str, ...] | None = None
    is_noop: bool = False


class GatewayConfig(Printed, frozen=True):
    """What a configuration says of guards.

    Attributes:
        servers: by their ids, in the order of the configuration.
        mode: the gateway's own mode; None if it was not set, which is `strict`.
        trusted_bots: user names for every guard.
    """

    servers: dict[str, ConfiguredServer] = msgspec.field(default_factory=dict)
    mode: DifcMode | None = None
    trusted_bots: tuple[str, ...] = ()


def read_config(value: Any) -> GatewayConfig:
    """What the decoded TOML or JSON of a gateway's configuration says of guards.

    Raises:
        ConfigError: it is no such configuration, or a policy, a sink or a mode in it is not valid.
    """
    servers = _member(value, "servers", "mcpServers")
    if not isinstance(servers, Mapping) or not servers:
        raise ConfigError("not a gateway's configuration: it has neither 'servers' nor 'mcpServers'")
    guards = _member(value, "guards") or {}
    if not isinstance(guards, Mapping):
        raise ConfigError(f"guards must be a table of guards, not {shown(guards)}")
    gateway = _member(value, "gateway") or {}
    found = {name: _server(name, body, guards) for name, body in servers.items()}
    mode = _mode(_member(value, "guards_mode", "guards-mode", "guardsMode"), "the gateway")
    return GatewayConfig(found, mode, _strings(_member(gateway, "trusted_bots", "trustedBots"), "trusted bots"))


def policy_in(value: Any, server: str) -> dict[str, Any] | None:
    """The policy in what the gateway takes for one: itself, the older form without `allow-only`, or either under the server's
    id or under any single key. None if it is empty.

    Raises:
        ConfigError: it is none of these.
    """
    if not value:
        return None
    if not isinstance(value, Mapping):
        raise ConfigError(f"server {shown(server)}: a policy is an object, not {shown(value)}")
    for body in (value, value.get(server), next(iter(value.values())) if len(value) == 1 else None):
        if not isinstance(body, Mapping):
            continue
        if any(key in body for key in (*_ALLOW_ONLY, *_WRITE_SINK)):
            return dict(body)
        if "repos" in body and "min-integrity" in body:
            return {"allow-only": dict(body)}
    raise ConfigError(
        f"server {shown(server)}: the policy has neither 'allow-only' nor 'write-sink': {shown(list(value))}"
    )


def is_sink_policy(policy: Any) -> bool:
    """Whether a policy is that of a sink."""
    return isinstance(policy, Mapping) and any(key in policy for key in _WRITE_SINK)


def _server(name: str, body: Any, guards: Mapping[str, Any]) -> ConfiguredServer:
    if not isinstance(body, Mapping):
        raise ConfigError(f"server {shown(name)} must be a table, not {shown(body)}")
    guard = _member(body, "guard")
    settings = guards.get(guard) if isinstance(guard, str) else None
    if not isinstance(settings, Mapping):
        settings = {}
    kind = settings.get("type", guard if guard in (_NOOP, *_SINK_KINDS) else _WASM)
    policy = policy_in(_member(body, "guard_policies", "guard-policies", "guardPolicies"), name)
    if policy is None:
        policy = policy_in(settings.get("policy"), name)
    sink = None
    if is_sink_policy(policy):
        sink, policy = _sink(policy, name), None
    path = settings.get("path")
    has_guard = kind == _WASM and (guard is not None or policy is not None)
    return ConfiguredServer(
        name,
        guard if isinstance(guard, str) else None,
        path if kind == _WASM and isinstance(path, str) and path else None,
        policy,
        sink,
        _mode(_member(body, "guards_mode", "guards-mode", "guardsMode"), f"server {shown(name)}"),
        _tools(_member(body, "tools"), name),
        sink is None and not has_guard,
    )


def _sink(policy: Any, name: str) -> Sink:
    try:
        return sink_of_policy(policy)
    except PolicyError as error:
        raise ConfigError(f"server {shown(name)}: {error}") from error


def _mode(word: Any, whose: str) -> DifcMode | None:
    if word is None or word == "":
        return None
    try:
        return mode_of(word)
    except DecideError as error:
        # The gateway would take its default and go on.
        raise ConfigError(f"{whose}: {error}") from error


def _tools(value: Any, name: str) -> tuple[str, ...] | None:
    tools = _strings(value, f"server {shown(name)}: tools")
    return None if not tools or "*" in tools else tools


def _strings(value: Any, what: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ConfigError(f"{what} must be an array of strings, not {shown(value)}")
    return tuple(value)


def _member(value: Any, *names: str) -> Any:
    """The first of these members that is there."""
    if isinstance(value, Mapping):
        for name in names:
            if name in value:
                return value[name]
    return None
