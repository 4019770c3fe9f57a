"""What stands before each server, from the command line and from a gateway's own configuration: guards, sinks, or none."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from guardpool.batch.files import FileError
from guardpool.cli.files import SINK, pairs, read_json, read_policy, tell_taken_off
from guardpool.cli.render import UsageError, complain
from guardpool.contract import check_policy
from guardpool.decide import Sink, WhyNoGuard, sink_of_policy, split_policy
from guardpool.errors import CallerError, PolicyError
from guardpool.gateway_config import GatewayConfig, ServerConfig, read as read_config
from guardpool.guard import Backend, Guard
from guardpool.labels import DifcMode
from guardpool.printable import option_name

NONE = "none"
_PUBLIC = "public"


@dataclass
class Servers:
    """What stands before each server.

    Attributes:
        guards: a guard's name is its server's id. Its policy is whole: with the keys that no guard takes.
        sinks, unguarded: the other servers.
        default_mode: the gateway's own.
        allowed_tools: by server, where the configuration names them.
        paths: files that were read, so that nothing is written over them.
    """

    guards: list[Guard] = field(default_factory=list)
    sinks: dict[str, Sink] = field(default_factory=dict)
    unguarded: list[str] = field(default_factory=list)
    default_mode: DifcMode = DifcMode.STRICT
    allowed_tools: dict[str, tuple[str, ...]] = field(default_factory=dict)
    paths: list[str] = field(default_factory=list)

    def tell(self) -> None:
        """Say which keys of policies no guard takes."""
        tell_taken_off(self.guards)


def load_servers(
    guards: Sequence[str],
    policies: Sequence[str],
    sinks: Sequence[str] = (),
    config: str | None = None,
    backends: Mapping[str, Backend | None] | None = None,
    **options: Any,
) -> Servers:
    """Read what `-g`, `-p`, `--sink` and `--config` name. What the command line says of a server counts first.

    Args:
        guards: `SERVER=FILE.wasm`, or `SERVER=none` for a server that is known to have none.
        policies: `SERVER=POLICY.json`; a policy of a sink makes its server one.
        sinks: `SERVER=ENTRY,ENTRY`, `SERVER=public`, or `SERVER=POLICY.json`.
        config: a gateway's configuration, TOML or JSON.
        backends: who answers a guard.
        options: as of `Guard`.

    Raises:
        UsageError: an option does not have its form, or a server has a guard and no policy, or the other way round.
        FileError, ModuleError, PolicyError: a file cannot be read or is not valid; the message names it.
    """
    modules = pairs("--guard", "FILE.wasm", guards)
    given = {name: read_policy(path, name) for name, path in pairs("--policy", "POLICY.json", policies).items()}
    of_sinks = pairs("--sink", "ENTRY,ENTRY", sinks)
    found = Servers(paths=[path for path in modules.values() if path != NONE])
    found.paths += [value.partition("=")[2] for value in policies]
    found.paths += [text for text in of_sinks.values() if text.endswith(".json")]
    _add_sinks(found, of_sinks, modules, given)
    configured = GatewayConfig({})
    if config is not None:
        found.paths.append(config)
        configured = read_config(config)
        _refuse_oddities(configured, config)
    for name in given:
        if name not in modules and name not in configured.servers:
            raise UsageError(f"--policy {name}: no guard is called {name!r}: add --guard {option_name(name)}=FILE.wasm")
    _add_configured(found, configured, modules, given, config)
    _add_guards(found, configured, modules, given, backends or {}, options)
    if not (found.guards or found.sinks or found.unguarded):
        raise UsageError("no server is named: add -g SERVER=FILE.wasm -p SERVER=POLICY.json, or --config FILE")
    found.default_mode = configured.mode
    return found


def _add_sinks(found: Servers, sinks: dict[str, str], modules: dict[str, str], given: dict[str, Any]) -> None:
    """Add the sinks of `--sink` and of the policies that are a sink's, which are taken out of `given`."""
    found.sinks = {name: _sink(name, text) for name, text in sinks.items()}
    for name in [name for name, policy in given.items() if SINK in policy]:
        if name in found.sinks or name in modules:
            raise UsageError(f"--policy {name}: it is the policy of a sink, and {name!r} has another option already")
        found.sinks[name] = sink_of_policy(given.pop(name))
    for name in modules:
        if name in found.sinks:
            raise UsageError(f"server {name!r} is given a guard and a sink; it has one of them")


def _add_guards(
    found: Servers,
    configured: GatewayConfig,
    modules: dict[str, str],
    given: dict[str, Any],
    backends: Mapping[str, Backend | None],
    options: dict[str, Any],
) -> None:
    """Add a guard for each module, and the servers that are known to have none."""
    for name, path in modules.items():
        if path == NONE:
            found.unguarded.append(name)
            continue
        if name not in given:
            raise UsageError(f"guard {name!r} has no policy: add --policy {option_name(name)}=POLICY.json")
        found.guards.append(_guard(name, path, given[name], configured, backends.get(name), options))
    guarded = {guard.name for guard in found.guards}
    for name in backends:
        if name not in guarded:
            raise UsageError(
                f"--backend {name}: no guard is called {name!r}: add --guard {option_name(name)}=FILE.wasm"
            )


def _add_configured(
    found: Servers, configured: GatewayConfig, modules: dict[str, str], given: dict[str, Any], config: str | None
) -> None:
    """Add to `modules` and `given` what the configuration says of servers that the command line does not name."""
    for name, server in configured.servers.items():
        if server.tools is not None:
            found.allowed_tools[name] = server.tools
        if name in found.sinks or modules.get(name) == NONE:
            continue
        sink = server.sink()
        if sink is not None and name not in modules:
            found.sinks[name] = sink
            continue
        if server.policy is not None:
            given.setdefault(name, server.policy)
        if name in modules:
            continue
        if server.policy is None and name not in given:
            _refuse_unguarded(server, config or "")
            found.unguarded.append(name)
            continue
        modules[name] = _module_of(name, server.guard_path, config or "")
        found.paths.append(modules[name])


def _refuse_unguarded(server: ServerConfig, config: str) -> None:
    """Refuse a server that was to have a guard. The gateway would go on without one."""
    if server.problem is not None:
        raise UsageError(
            f"{config}: server {server.name!r}: {server.problem}: correct it, or add --guard {option_name(server.name)}=none"
        )
    if server.why is WhyNoGuard.NO_POLICY:
        raise UsageError(
            f"{config}: server {server.name!r} has a guard and no policy: add --policy {option_name(server.name)}=POLICY.json"
        )


def _refuse_oddities(configured: GatewayConfig, config: str) -> None:
    for oddity in configured.oddities:
        raise FileError(f"{config}: {oddity.place}: {oddity.what}: correct it")
    for place in configured.not_applied:
        complain(f"{config}: {place} is not taken into account")


def _module_of(name: str, path: str | None, config: str) -> str:
    typed = option_name(name)
    advice = f"add --guard {typed}=FILE.wasm, or --guard {typed}=none"
    if path is None:
        raise UsageError(f"{config}: server {name!r} has a policy, and its guard's file is not named: {advice}")
    here = os.path.join(os.path.dirname(config), path)
    if not os.path.isfile(here):
        raise UsageError(f"{config}: server {name!r}: its guard {path} is not here: {advice}")
    return here


def _guard(
    name: str, path: str, policy: Any, configured: GatewayConfig, backend: Backend | None, options: dict[str, Any]
) -> Guard:
    try:
        Guard(name, b"")
        check_policy(split_policy(policy).policy, configured.trusted_bots)
    except PolicyError as error:
        raise FileError(f"server {name}: {error}") from error
    except CallerError as error:
        raise UsageError(str(error)) from None
    return Guard.from_file(
        path, name=name, policy=policy, trusted_bots=configured.trusted_bots, backend=backend, **options
    )


def _sink(name: str, text: str) -> Sink:
    try:
        if text.endswith(".json"):
            return sink_of_policy(read_json(text, "the policy"))
        if text == _PUBLIC:
            return Sink(["*"], _PUBLIC)
        return Sink(text.split(","))
    except PolicyError as error:
        raise UsageError(f"--sink {name}={text}: {error}") from error
