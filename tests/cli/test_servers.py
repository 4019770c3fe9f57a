"""What stands before each server: options, policies of every shape, and a gateway's own configuration."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

import guardkit
from guardpool import GuardPoolError
from guardpool.cli.servers import Servers, load_servers
from guardpool.decide import Sink

ALLOW = {"allow-only": {"repos": "all", "min-integrity": "approved"}}
SINK = {"write-sink": {"accept": ["private:acme/web"], "sink-visibility": "private"}}

TOML = """
guards_mode = "filter"
[gateway]
api_key = "${API_KEY}"
trusted_bots = ["renovate[bot]"]
[servers.github]
command = "touch"
args = ["started"]
guard = "gh"
tools = ["list_issues"]
[servers.github.env]
TOKEN = "${TOKEN}"
[servers.safeoutputs]
type = "http"
url = "http://127.0.0.1:1/mcp"
[servers.safeoutputs.guard_policies.write-sink]
accept = ["private:acme/web"]
[servers.linear]
type = "http"
url = "http://127.0.0.1:1/linear"
[guards.gh]
type = "wasm"
path = "g.wasm"
[guards.gh.policy.allow-only]
repos = "all"
min-integrity = "approved"
tool-call-limits = { list_issues = 3 }
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "g.wasm").write_bytes(guardkit.wat("good"))
    (tmp_path / "gateway.toml").write_text(TOML)
    for name, value in (("allow", ALLOW), ("sink", SINK)):
        (tmp_path / f"{name}.json").write_bytes(msgspec.json.encode(value))
    return tmp_path


def test_a_gateways_toml_says_guards_policies_sinks_and_none_and_starts_nothing(folder: Path) -> None:
    before = sorted(os.listdir(folder))
    servers = load_servers([], [], [], "gateway.toml")
    (guard,) = servers.guards
    assert (guard.name, guard.trusted_bots) == ("github", ("renovate[bot]",))
    assert guard.policy["allow-only"]["tool-call-limits"] == {"list_issues": 3}
    assert servers.sinks == {"safeoutputs": Sink(["private:acme/web"])}
    assert servers.unguarded == ["linear"]
    assert (servers.default_mode, servers.allowed_tools) == ("filter", {"github": ("list_issues",)})
    assert sorted(os.listdir(folder)) == before


def test_the_command_line_counts_before_the_configuration(folder: Path) -> None:
    (folder / "other.wasm").write_bytes(guardkit.wat("counts"))
    options = (["github=other.wasm", "linear=none"], ["github=allow.json"], ["safeoutputs=public"])
    servers = load_servers(*options, "gateway.toml")
    assert servers.guards[0].wasm == guardkit.wat("counts")
    assert servers.guards[0].policy == ALLOW
    assert servers.sinks["safeoutputs"].visibility == "public"
    assert servers.unguarded == ["linear"]


def test_the_policy_of_a_sink_makes_its_server_one(folder: Path) -> None:
    servers = load_servers([], ["out=sink.json"], ["more=sink.json", "all=*"])
    assert servers == Servers(
        sinks={
            "more": Sink(["private:acme/web"], "private"),
            "all": Sink(["*"]),
            "out": Sink(["private:acme/web"], "private"),
        },
        paths=["sink.json", "sink.json"],
    )


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ('servers = "x"', "neither 'servers' nor 'mcpServers'"),
        (
            "[servers.g]\nguard = 'gh'\n[guards.gh]\ntype = 'wasm'\npath = 'gone.wasm'\n"
            "[guards.gh.policy.allow-only]\nrepos = 'all'\nmin-integrity = 'none'",
            "its guard gone.wasm is not here",
        ),
        ("[servers.g.guard_policies.allow-only]\nrepos = 'all'\nmin-integrity = 'none'", "guard's file is not named"),
        ("[servers.g]\nguard = 'gh'\n[guards.gh]\ntype = 'wasm'\npath = 'g.wasm'", "has a guard and no policy"),
        (
            "[servers.'a b']\nguard = 'gh'\n[guards.gh]\ntype = 'wasm'\npath = 'g.wasm'",
            "add --policy 'a b'=POLICY.json",
        ),
        ("[servers.g]\nguards_mode = 'loose'", "'loose' is not strict, filter or propagate"),
        ("[servers.g.guard_policies.write-sink]\naccept = []", "server 'g': accept must not be empty"),
        ("[servers.g.guard_policies]\nother = 1", "neither 'allow-only' nor 'write-sink'"),
        ("not toml", "neither JSON nor TOML"),
    ],
)
def test_what_the_gateway_would_pass_over_is_named(folder: Path, config: str, words: str) -> None:
    """The gateway goes on without a guard where it cannot use one; here the run does not begin."""
    (folder / "gateway.toml").write_text(config)
    with pytest.raises(GuardPoolError) as caught:
        load_servers([], [], [], "gateway.toml")
    assert words in str(caught.value)
    assert "gateway.toml" in str(caught.value)
