"""`guardpool lint`: what in policies and a gateway's configuration cannot work."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from guardpool.batch.files import STANDARD, FileError
from guardpool.checks.lint import Finding, Lint, NotChecked, lint, lint_policy
from guardpool.cli.files import read_whole
from guardpool.cli.findings import exit_status
from guardpool.cli.render import UsageError, make_console, print_json, safe
from guardpool.gateway_config import GatewayConfig, ServerKind, config_of, document_of, is_config
from guardpool.plurals import number_of

if TYPE_CHECKING:
    from rich.console import Console

_WORDS = {ServerKind.GUARDED: "guarded", ServerKind.SINK: "a sink", ServerKind.NONE: "without a guard"}


def run(files: Sequence[str], *, as_json: bool, public: bool | None) -> int:
    """Look at each file and print what was found; exit status 1 for findings, 3 where something could not be looked at.

    Args:
        files: policies and configurations, or `SERVER=POLICY.json`, which together are the servers of one agent; `-` is
            standard input.
        public: whether the workflow's repository is public; None if it is not known.

    Raises:
        UsageError: standard input or a server was named twice.
        FileError, ConfigError: a file is not JSON or TOML, or is neither a policy nor a configuration.
    """
    if files.count(STANDARD) > 1:
        raise UsageError("lint: standard input holds one file: name - once")
    results = []
    for name, document, form in _documents(files):
        config = config_of(document, name, form) if is_config(document) else None
        results.append((name, config, lint_policy(document) if config is None else lint(config, public)))
    if as_json:
        print_json([_facts(name, found) for name, _config, found in results])
    else:
        console = make_console()
        for at, (name, config, found) in enumerate(results):
            if at:
                console.print()
            _print(console, name, config, found)
    found_any = any(found.findings for _name, _config, found in results)
    return exit_status(found_any, not any(found.not_checked for _name, _config, found in results))


def _documents(files: Sequence[str]) -> list[tuple[str, dict[str, Any], str]]:
    """What each file holds; `SERVER=POLICY.json` are put together as the servers of one configuration."""
    documents: list[tuple[str, dict[str, Any], str]] = []
    servers: dict[str, Any] = {}
    for file in files:
        server, equals, path = file.partition("=")
        if not equals or os.path.exists(file):
            documents.append(_read(file))
        elif server in servers:
            raise UsageError(f"lint: server {server!r} is given twice: give it once")
        else:
            servers[server] = {"guard-policies": _read(path)[1]}
    if servers:
        documents.append((" ".join(file for file in files if "=" in file), {"mcpServers": servers}, "json"))
    return documents


def _read(path: str) -> tuple[str, dict[str, Any], str]:
    name = "standard input" if path == STANDARD else path
    try:
        text = read_whole(path)
    except OSError as error:
        raise FileError.of(name, "it cannot be read", error) from error
    document, form = document_of(text, name)
    if not is_config(document) and not any("allow" in key or "sink" in key or key == "repos" for key in document):
        raise FileError(
            f"{name}: neither a policy nor a gateway's configuration: a policy has 'allow-only' or 'write-sink', "
            "a configuration 'mcpServers' or 'servers'"
        )
    return name, document, form


def _facts(name: str, found: Lint) -> dict[str, Any]:
    return {"file": name, "findings": found.findings, "not_checked": found.not_checked}


def _print(console: Console, name: str, config: GatewayConfig | None, found: Lint) -> None:
    for finding in found.findings:
        _print_one(console, name, finding)
    for gap in found.not_checked:
        _print_gap(console, name, gap)
    if found.findings or found.not_checked:
        console.print()
    looked_at = "a policy" if config is None else _servers(config)
    count = len(found.findings)
    verdict = number_of(count, "finding") if count else "nothing that cannot work"
    if found.not_checked:
        verdict += f", {len(found.not_checked)} not checked"
    style = "bold red" if count else "bold yellow" if found.not_checked else "bold green"
    console.print(safe(f"{name} ({looked_at}): {verdict}", 2000, style), soft_wrap=True)


def _print_one(console: Console, name: str, finding: Finding) -> None:
    console.print(safe(f"{name}: {finding.place}: {finding.id}", 1000, "bold"), soft_wrap=True)
    console.print(safe(f"    {finding.what}", 2000), soft_wrap=True)
    console.print(safe(f"    do: {finding.do}", 2000), soft_wrap=True)


def _print_gap(console: Console, name: str, gap: NotChecked) -> None:
    console.print(safe(f"{name}: {gap.place}: not checked: {gap.why}", 2000, "yellow"), soft_wrap=True)


def _servers(config: GatewayConfig) -> str:
    """`3 servers: github guarded, safeoutputs a sink`."""
    servers = list(config.servers.values())
    listed = ", ".join(f"{server.name} {_WORDS[server.kind]}" for server in servers[:8])
    more = f" and {len(servers) - 8} more" if len(servers) > 8 else ""
    return f"{number_of(len(servers), 'server')}: {listed}{more}"
