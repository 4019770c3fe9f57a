"""`lint`: what in a policy or a configuration cannot work, held against what decisions then are."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from guardpool import decide, gateway_config, samples
from guardpool.checks.agent_tags import agent_tags
from guardpool.checks.lint import RULES, Lint, lint, lint_policy
from guardpool.cli import main
from guardpool.labels import AgentLabels, DifcMode, Operation, ResourceLabel

ALLOW = {"repos": ["octo/rocket"], "min-integrity": "approved"}
GUARDED = {"guard-policies": {"allow-only": ALLOW}}


def sink(*accept: str, **more: Any) -> dict[str, Any]:
    return {"guard-policies": {"write-sink": {"accept": list(accept), **more}}}


def guarded(**keys: Any) -> dict[str, Any]:
    return {"guard-policies": {"allow-only": {**ALLOW, **{name.replace("_", "-"): keys[name] for name in keys}}}}


def lint_of(servers: dict[str, Any], **more: Any) -> Lint:
    return lint(gateway_config.parse(json.dumps({"mcpServers": servers, **more}).encode()))


def ids(found: Lint) -> list[str]:
    return [finding.id for finding in found.findings]


CASES: list[tuple[str, dict[str, Any], dict[str, Any], list[str]]] = [
    ("nothing", {"a": GUARDED, "safeoutputs": sink("private:octo/rocket")}, {}, []),
    ("star", {"a": GUARDED, "safeoutputs": sink("*")}, {}, []),
    ("public-star", {"a": guarded(repos="public"), "out": sink("*", **{"sink-visibility": "public"})}, {}, []),
    ("limits", {"a": guarded(tool_call_limits={"x": 1}, promotion_label="p")}, {}, ["B16", "B16"]),
    ("bad-limits", {"a": guarded(tool_call_limits={"x": -1})}, {}, ["policy-refused"]),
    ("bad-level", {"a": guarded(min_integrity="high")}, {}, ["policy-refused"]),
    ("unknown-key", {"a": guarded(repo="x")}, {}, ["policy-refused"]),
    (
        "both-kinds",
        {"a": {"guard-policies": {"allow-only": ALLOW, "write-sink": {"accept": ["*"]}}}},
        {},
        ["policy-refused"],
    ),
    ("bad-entry", {"a": sink("private:")}, {}, ["policy-refused"]),
    ("both-levels", {"a": guarded(integrity="none")}, {}, ["key-ignored"]),
    ("both-allow", {"a": {"guard-policies": {"allow-only": ALLOW, "allowonly": ALLOW}}}, {}, ["key-ignored"]),
    (
        "blocked",
        {"a": guarded(blocked_users=["ann", "Bob "], trusted_users=["cy", "bob"])},
        {},
        ["blocked-and-trusted"],
    ),
    ("none", {"a": guarded(min_integrity="none", trusted_users=["cy"])}, {}, ["key-without-effect"]),
    (
        "no-reactions",
        {"a": guarded(endorser_min_integrity="merged", disapproval_integrity="none")},
        {},
        ["key-without-effect"] * 2,
    ),
    ("reactions", {"a": guarded(disapproval_reactions=["-1"], disapproval_integrity="none")}, {}, []),
    ("no-guard", {"a": GUARDED, "b": {}}, {}, ["B23"]),
    ("no-guard-at-all", {"a": {}, "b": {}}, {}, ["B23", "B23"]),
    ("guard-without-policy", {"a": {"guard": "g"}}, {"guards": {"g": {"type": "wasm", "path": "g"}}}, ["B22"]),
    ("unknown-guard", {"a": {"guard": "g", **GUARDED}}, {}, ["B22"]),
    ("odd-policies", {"a": {"guard-policies": {"x": 1, "y": 2}}}, {}, ["B22"]),
    ("odd-mode", {"a": {**GUARDED, "guards-mode": "soft"}}, {}, ["B22"]),
    ("mode", {"a": {**GUARDED, "guards-mode": "strict"}}, {}, ["mode-without-effect"]),
    ("global-mode", {"a": GUARDED}, {"guards_mode": "filter"}, ["mode-without-effect"]),
    ("global-mode-used", {"a": GUARDED, "b": {}}, {"guards_mode": "filter"}, ["B23"]),
    ("scopes", {"a": GUARDED, "b": guarded(repos="all")}, {}, ["B34"]),
    ("scopes-order", {"a": guarded(repos=["o/a", "o/b"]), "b": guarded(repos=["o/b", "o/a"])}, {}, ["B34"]),
    ("levels", {"a": GUARDED, "b": guarded(min_integrity="none")}, {}, ["levels-differ"]),
    (
        "fits-nobody",
        {"a": GUARDED, "safeoutputs": sink("private:octo/rocket", "private:octo/*")},
        {},
        ["accept-fits-nobody"],
    ),
    ("lacks", {"a": guarded(repos=["o/a", "o/b"]), "safeoutputs": sink("private:o/a")}, {}, ["B10"]),
    ("public", {"a": GUARDED, "out": sink("*")}, {}, ["B10"]),
    ("public-accept", {"a": guarded(repos="all"), "out": sink("private:o/a")}, {}, ["accept-without-effect"]),
    ("exempt", {"a": GUARDED, "out": sink("*")}, {"gateway": {"sinkVisibilityExemptServers": ["out"]}}, []),
]


@pytest.mark.parametrize(("servers", "more", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_what_cannot_work_is_found_and_named(
    servers: dict[str, Any], more: dict[str, Any], expected: list[str]
) -> None:
    found = lint_of(servers, **more)
    assert ids(found) == expected
    for finding in found.findings:
        assert finding.what
        assert finding.do
        assert finding.place.startswith(("mcpServers.", "guards_mode"))


def test_every_rule_has_a_case() -> None:
    assert {name for case in CASES for name in case[3]} | {"repos-forced"} == set(RULES)


def test_in_a_public_repository_the_gateway_takes_public_for_the_scopes() -> None:
    servers = {"a": GUARDED, "b": guarded(repos="all"), "safeoutputs": sink("*")}

    def of(**gateway: Any) -> list[str]:
        text = json.dumps({"mcpServers": servers, "gateway": gateway}).encode()
        return ids(lint(gateway_config.parse(text), repository_is_public=True))

    assert of() == ["repos-forced", "repos-forced"], "and no scopes that differ"
    assert of(forcePublicRepos=False) == ["B34", "B10"]


def test_a_finding_names_the_place_and_the_tag_that_was_meant() -> None:
    found = lint_of({"a": guarded(repos=["octo/*"]), "safeoutputs": sink("private:octo", "octo", "private:Octo/*")})
    assert [(finding.place.rpartition(".")[2], finding.do) for finding in found.findings] == [
        ("accept[1]", "write 'private:octo'"),
        ("accept[2]", "write 'private:octo'"),
    ]


def test_what_is_filled_in_later_is_not_checked_and_said_so() -> None:
    found = lint_of(
        {"a": guarded(repos="$REPOS"), "safeoutputs": sink("private:o/r")}, gateway={"agentPolicies": {"x": 1}}
    )
    assert found.findings == ()
    assert [gap.place for gap in found.not_checked] == ["gateway.agentPolicies", "mcpServers.a.guard-policies"]
    assert "$REPOS" in found.not_checked[1].why


def test_one_policy_is_looked_at_alone() -> None:
    assert lint_policy(samples.POLICY) == Lint(())
    assert ids(lint_policy({"allow-only": {**ALLOW, "demotion-label": "x"}})) == ["B16"]
    assert ids(lint_policy({"write-sink": {"accept": []}})) == ["policy-refused"]
    assert ids(lint_policy({"repos": "all", "min-integrity": "none", "approval-labels": ["ok"]})) == [
        "key-without-effect"
    ]
    assert lint_policy({"allow-only": {"repos": "${R}", "min-integrity": "none"}}).not_checked


@pytest.mark.parametrize(
    ("repos", "secrecy", "integrity"),
    [
        ("all", set(), {"none:all", "unapproved:all"}),
        (" Public", set(), {"none:public", "unapproved:public"}),
        (["o/r"], {"private:o/r"}, {"none:o/r", "unapproved:o/r"}),
        (["o/*"], {"private:o"}, {"none:o", "unapproved:o"}),
        (["o/p*"], {"private:o/p*"}, {"none:o/p*", "unapproved:o/p*"}),
        (
            ["o/*", "p/r"],
            {"private:o", "private:p/r"},
            {"integrity=none;scopes=o,p/r", "integrity=unapproved;scopes=o,p/r"},
        ),
    ],
)
def test_the_agents_tags_follow_from_the_policy(repos: Any, secrecy: set[str], integrity: set[str]) -> None:
    tags = agent_tags({"repos": repos, "min-integrity": "unapproved"})
    assert (set(tags.secrecy), set(tags.integrity)) == (secrecy, integrity)


REPOS = st.sampled_from(["all", "public", ["o/a"], ["o/*"], ["o/a*"], ["o/a", "o/b"], ["o/b", "o/a"]])
LEVELS = st.sampled_from(["none", "approved"])
ACCEPT = st.lists(
    st.sampled_from(["private:o/a", "private:o", "private:o/a*", "private:o/b", "o/a"]), min_size=1, unique=True
)
VISIBILITY = st.sampled_from([{}, {"sink-visibility": "public"}, {"sink-visibility": "private"}])


@settings(max_examples=150, deadline=None)
@given(policies=st.lists(st.tuples(REPOS, LEVELS), min_size=1, max_size=3), accept=ACCEPT, visibility=VISIBILITY)
def test_findings_about_tags_are_what_decisions_then_are(
    policies: list[tuple[Any, str]], accept: list[str], visibility: dict[str, str]
) -> None:
    bodies = [{"repos": repos, "min-integrity": level} for repos, level in policies]
    servers = {f"s{at}": {"guard-policies": {"allow-only": body}} for at, body in enumerate(bodies)}
    config = gateway_config.parse(json.dumps({"mcpServers": {**servers, "out": sink(*accept, **visibility)}}).encode())
    found = {finding.id: finding for finding in lint(config).findings}
    session = session_of(config)
    for name in servers:
        session.decide(name, "get_me", resource=ResourceLabel("x", frozenset(), frozenset(), Operation.READ))
    wrote = session.decide("out", "add_comment")
    assert (wrote.verdict == "denied") == ("B10" in found)
    # What is best for an agent: an item with every tag that its own server's guard can give.
    read = [
        session.decide(
            name,
            "get_issue",
            resource=ResourceLabel(
                "x", frozenset(), agent_tags({**body, "min-integrity": "merged"}).integrity, Operation.READ
            ),
        )
        for name, body in zip(servers, bodies)
    ]
    assert any(decision.coarse == "bypass" for decision in read) == ("B34" in found)
    if "B34" in found:
        assert all(decision.coarse == "bypass" for decision in read)


def session_of(config: gateway_config.GatewayConfig) -> decide.Session:
    servers: dict[str, Any] = {}
    for server in config.servers.values():
        if server.policy is None:
            servers[server.name] = server.sink()
        else:
            tags = agent_tags(server.policy["allow-only"])
            servers[server.name] = decide.Guarded(AgentLabels(tags.secrecy, tags.integrity, DifcMode.FILTER))
    return decide.Session(servers)


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    status = main(["lint", *(str(word) for word in words)])
    out, err = capsys.readouterr()
    return status, out, err


def write(folder: Path, name: str, value: Any) -> Path:
    path = folder / name
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def test_the_command_prints_each_finding_with_what_to_do(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = write(tmp_path, "gateway.json", {"mcpServers": {"a": guarded(tool_call_limits={"x": 1}), "b": {}}})
    status, out, err = run(capsys, path)
    assert (status, err) == (1, "")
    lines = out.splitlines()
    assert lines[0] == f"{path}: mcpServers.a.guard-policies.allow-only.tool-call-limits: B16"
    assert lines[2].startswith("    do: remove it")
    assert lines[-1] == f"{path} (2 servers: a guarded, b without a guard): 2 findings"


def test_the_command_says_that_nothing_was_found(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = write(tmp_path, "p.json", samples.POLICY)
    assert run(capsys, path) == (0, f"{path} (a policy): nothing that cannot work\n", "")
    status, out, _err = run(capsys, path, "--json")
    assert (status, json.loads(out)) == (0, [{"file": str(path), "findings": [], "not_checked": []}])


def test_policies_with_names_are_the_servers_of_one_agent(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    one = write(tmp_path, "one.json", {"allow-only": ALLOW})
    other = write(tmp_path, "other.json", {"allow-only": {**ALLOW, "repos": "all"}})
    assert run(capsys, one, other)[0] == 0
    status, out, _err = run(capsys, f"a={one}", f"b={other}", "--json")
    (report,) = json.loads(out)
    assert (status, [finding["id"] for finding in report["findings"]]) == (1, ["B34"])


def test_what_could_not_be_checked_is_a_status_of_its_own(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = write(tmp_path, "g.json", {"mcpServers": {"a": guarded(repos="$REPOS")}})
    status, out, _err = run(capsys, path)
    assert status == 3
    assert "not checked: $REPOS is filled in when the gateway starts" in out


def test_a_public_repository_makes_sinks_public(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = write(tmp_path, "g.json", {"mcpServers": {"a": GUARDED, "safeoutputs": sink("private:octo/rocket")}})
    assert run(capsys, path)[0] == run(capsys, path, "--private")[0] == 0
    assert run(capsys, path, "--public")[0] == 1


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        ([], 2, "POLICY|CONFIG"),
        (["-", "-"], 2, "name - once"),
        (["nowhere.json"], 5, "nowhere.json: it cannot be read: No such file or directory"),
        (["{}"], 5, "neither a policy nor a gateway's configuration"),
        (["[1, 2]"], 5, "it is JSON, but an array of 2, not an object"),
        (["[]"], 5, "it is JSON, but an empty array, not an object"),
        (["[}"], 5, "neither JSON nor TOML"),
        (["{"], 5, "not JSON"),
    ],
)
def test_what_cannot_be_linted_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, words: Iterable[str], status: int, message: str
) -> None:
    files = [write(tmp_path, "x", word) if word[0] in "{[" else word for word in words]
    got, out, err = run(capsys, *files)
    assert (got, out) == (status, "")
    assert err.count("\n") == 1
    assert message in err


def test_what_strangers_wrote_does_not_reach_the_terminal_raw(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = write(
        tmp_path,
        "g.json",
        {"mcpServers": {"a\x1b[2J\u202e": {"guard": "\x1b]0;pwned\x07"}, "b": guarded(repos=["\u202e"])}},
    )
    status, out, err = run(capsys, path)
    assert (status, err) == (1, "")
    assert not {"\x1b", "\u202e", "\x07"} & set(out)
