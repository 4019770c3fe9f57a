"""A gateway's own configuration, JSON or TOML: what stands before each server, and nothing that is secret."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from guardpool import decide, gateway_config
from guardpool.decide import Sink, WhyNoGuard
from guardpool.gateway_config import ConfigError, ServerKind
from guardpool.labels import DifcMode

ALLOW = {"repos": ["octo/rocket"], "min-integrity": "approved"}

AS_JSON = {
    "mcpServers": {
        "github": {
            "type": "stdio",
            "container": "ghcr.io/github/github-mcp-server",
            "env": {"TOKEN": "${SECRET_TOKEN}", "OTHER": "hunter2"},
            "guard-policies": {"allow-only": ALLOW},
        },
        "safeoutputs": {"container": "x", "guard-policies": {"write-sink": {"accept": ["private:octo/rocket"]}}},
        "linear": {"type": "http", "url": "https://user:hunter2@linear.example/mcp", "tools": ["list_issues"]},
    },
    "gateway": {"port": 80, "apiKey": "hunter2", "trustedBots": ["helper[bot]"]},
}

AS_TOML = """
guards_mode = "Filter"

[gateway]
api_key = "hunter2"
trusted_bots = ["helper[bot]"]

[servers.github]
command = "docker"
args = ["run", "ghcr.io/github/github-mcp-server"]
[servers.github.env]
TOKEN = "${SECRET_TOKEN}"
[servers.github.guard_policies.allow-only]
repos = ["octo/rocket"]
min-integrity = "approved"

[servers.safeoutputs.guard_policies.write-sink]
Accept = ["private:octo/rocket"]

[servers.linear]
type = "http"
tools = ["list_issues"]
"""


def config(servers: dict[str, Any], **more: Any) -> gateway_config.GatewayConfig:
    return gateway_config.parse(json.dumps({"mcpServers": servers, **more}).encode())


def test_json_and_toml_say_the_same() -> None:
    one = gateway_config.parse(json.dumps(AS_JSON).encode())
    other = gateway_config.parse(AS_TOML.encode())
    assert (one.form, other.form) == ("json", "toml")
    assert (one.mode, other.mode) == (DifcMode.STRICT, DifcMode.FILTER)
    assert list(one.servers) == list(other.servers) == ["github", "safeoutputs", "linear"]
    for read in (one, other):
        github, outputs, linear = read.servers.values()
        assert github.kind == "guarded"
        assert github.policy == {"allow-only": ALLOW}
        assert read.trusted_bots == ("helper[bot]",)
        assert outputs.kind == "sink"
        assert outputs.sink() == Sink(["private:octo/rocket"])
        assert (linear.kind, linear.why, linear.tools) == ("none", WhyNoGuard.NONE, ("list_issues",))
    assert one.servers["github"].place == "mcpServers.github.guard-policies"
    assert other.servers["github"].place == "servers.github.guard_policies"


def test_nothing_of_a_secret_is_kept_or_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "expanded")
    for text in (json.dumps(AS_JSON), AS_TOML):
        read = repr(gateway_config.parse(text.encode()))
        assert "hunter2" not in read
        assert "SECRET_TOKEN" not in read
        assert "expanded" not in read


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "not a gateway's configuration"),
        (b"{}", "not a gateway's configuration"),
        (b'{"mcpServers": {}}', "not a gateway's configuration"),
        (b'["hunter2", 2]', "it is JSON, but an array of 2, not an object"),
        (b'{"mcpServers": {"a": "hunter2"}}', "mcpServers.a"),
        (b'{"mcpServers": {"a": {"env": hunter2}}}', "not JSON"),
        (b"[gateway]\napi_key = hunter2\n", "(at line 2, column 11)"),
        (b"\xff\xfe", "UTF-8"),
        (b'{"a":' * 100_000, "not JSON"),
    ],
)
def test_what_is_no_configuration_is_one_line_without_its_secrets(text: bytes, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        gateway_config.parse(text, "gateway.json")
    message = str(caught.value)
    assert message.startswith("gateway.json: ")
    assert words in message
    assert "\n" not in message
    if b"env" in text or b"api_key" in text:
        assert "hunter2" not in message


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml: the configuration cannot be read: No such file"):
        gateway_config.read(tmp_path / "nowhere.toml")


@pytest.mark.parametrize(
    "policies",
    [
        {"allow-only": ALLOW},
        {"allowonly": ALLOW},
        ALLOW,
        {"github": {"allow-only": ALLOW}},
        {"github": ALLOW, "other": {}},
        {"anything": ALLOW},
    ],
    ids=["today", "one-word", "legacy", "by-server", "by-server-legacy", "only-key"],
)
def test_every_shape_of_a_policy_that_the_gateway_takes_is_found(policies: dict[str, Any]) -> None:
    server = config({"github": {"guard-policies": policies}}).servers["github"]
    assert server.kind is ServerKind.GUARDED
    assert server.policy is not None
    assert server.policy.get("allow-only", server.policy.get("allowonly")) == ALLOW


def test_a_policy_is_the_servers_own_else_its_guards() -> None:
    guards = {"gh": {"type": "wasm", "path": "/guards/gh.wasm", "policy": {"allow-only": ALLOW}}}
    own = {"allow-only": {**ALLOW, "min-integrity": "none"}}
    read = config({"a": {"guard": "gh"}, "b": {"guard": "gh", "guard-policies": own}}, guards=guards)
    assert read.servers["a"].policy == {"allow-only": ALLOW}
    assert read.servers["a"].place == "guards.gh.policy"
    assert read.servers["a"].guard_path == "/guards/gh.wasm"
    assert read.servers["b"].policy == own


@pytest.mark.parametrize(
    ("server", "why", "words"),
    [
        ({}, "none", None),
        ({"guard": "off"}, "none", None),
        ({"guard": "noop"}, "none", None),
        ({"guard": "gh"}, "no-policy", None),
        ({"guard": "ghost", "guard-policies": {"allow-only": ALLOW}}, "not-loaded", "no guard is called 'ghost'"),
        ({"guard": "off", "guard-policies": {"allow-only": ALLOW}}, "not-loaded", "'noop', which is no guard"),
        ({"guard": "odd", "guard-policies": {"allow-only": ALLOW}}, "not-loaded", "is of type 'docker'"),
        (
            {"guard": "typeless", "guard-policies": {"allow-only": ALLOW}},
            "not-loaded",
            "'typeless' has no type; a type is",
        ),
        ({"guard": "bare", "guard-policies": {"allow-only": ALLOW}}, "not-loaded", "has no 'path'"),
        ({"guard-policies": {"allow-only": ALLOW, "write-sink": {}}}, "no-policy", "exclude each other"),
        ({"guard-policies": {"write-sink": {"accept": []}}}, "no-policy", "accept must not be empty"),
        ({"guard-policies": {"x": 1, "y": 2}}, "no-policy", "neither 'allow-only' nor 'write-sink'"),
        ({"guard-policies": {"repos": "all"}}, "no-policy", "'min-integrity' is not"),
        ({"guard-policies": "all"}, "no-policy", "an object, not 'all'"),
    ],
)
def test_a_server_whose_guard_cannot_be_used_says_why(server: dict[str, Any], why: str, words: str | None) -> None:
    guards = {
        "gh": {"type": "wasm", "path": "g.wasm"},
        "off": {"type": "noop"},
        "odd": {"type": "docker"},
        "typeless": {"path": "t.wasm"},
        "bare": {"type": "wasm"},
    }
    read = config({"a": server}, guards=guards).servers["a"]
    assert read.kind is ServerKind.NONE
    assert read.why == why
    assert (read.problem is None) == (words is None)
    assert words is None or words in str(read.problem)


@pytest.mark.parametrize(
    ("server", "sink", "exempt", "repository_is_public", "visibility"),
    [
        ("slack", {}, [], None, "public"),
        ("slack", {}, ["slack"], None, None),
        ("slack", {}, ["*"], None, None),
        ("slack", {"sink-visibility": "private"}, [], None, "private"),
        ("slack", {"sink-visibility": "private"}, [], True, "public"),
        ("safeoutputs", {}, [], None, None),
        ("safeoutputs", {}, [], True, "public"),
    ],
)
def test_a_sink_has_the_visibility_that_the_gateway_gives_it(
    server: str, sink: dict[str, Any], exempt: list[str], repository_is_public: bool | None, visibility: str | None
) -> None:
    policies = {"write-sink": {"accept": ["*"], **sink}}
    read = config({server: {"guard-policies": policies}}, gateway={"sinkVisibilityExemptServers": exempt})
    assert read.servers[server].sink(repository_is_public) == Sink(["*"], visibility)


def test_what_a_guard_would_refuse_stays_for_the_caller_to_take_off() -> None:
    policy = {"allow-only": {**ALLOW, "tool-call-limits": {"list_issues": 3}}}
    read = config({"a": {"guard-policies": policy}}).servers["a"]
    assert read.policy is not None
    assert decide.split_policy(read.policy).limits == {"list_issues": 3}


def test_words_that_are_taken_for_others_are_told() -> None:
    read = config({"a": {"guards-mode": "lenient"}}, guards_mode="STRICT", gateway={"agentPolicies": {"x": {}}})
    assert (read.mode, read.servers["a"].mode) == (DifcMode.STRICT, None)
    (oddity,) = read.oddities
    assert oddity.place == "mcpServers.a.guards-mode"
    assert "'lenient' is not strict, filter or propagate" in oddity.what
    assert read.not_applied == ("gateway.agentPolicies",)


def test_variables_are_found_and_left() -> None:
    policy = {"allow-only": {"repos": "$GUARD_REPOS", "min-integrity": "${LEVEL}", "trusted-users": ["a", "${LEVEL}"]}}
    read = config({"a": {"guard-policies": policy}}).servers["a"]
    assert read.policy == policy
    assert gateway_config.variables_in(read.policy) == ["$GUARD_REPOS", "${LEVEL}"]
