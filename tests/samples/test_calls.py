"""What the sample guard says of its agent and of calls: each rule with a case that a reader can check."""

from __future__ import annotations

import json
from typing import Any

import pytest

from guardpool import contract, samples
from samplekit import (
    APPROVED,
    MERGED,
    NONE,
    O_R,
    PRIVATE,
    PRIVATE_REPO,
    PUBLIC,
    PUBLIC_REPO,
    READ_WRITES,
    READS,
    UNAPPROVED,
    WRITES,
    Labeller,
)


@pytest.fixture
def public() -> Labeller:
    return Labeller(**PUBLIC_REPO)


@pytest.fixture
def private() -> Labeller:
    return Labeller(**PRIVATE_REPO)


# The agent


def test_the_guard_accepts_the_sample_policy() -> None:
    checked = contract.check_policy(samples.POLICY)
    answer = Labeller(checked).instance.label_agent(json.dumps(checked).encode())
    agent = contract.parse_agent_answer(answer)
    assert agent.integrity == set(APPROVED)
    assert agent.secrecy == frozenset()
    assert agent.mode == "filter"


@pytest.mark.parametrize(
    ("repos", "secrecy", "integrity"),
    [
        ("public", [], ["none:public", "unapproved:public"]),
        (["octo/*"], ["private:octo"], ["none:octo", "unapproved:octo"]),
        (["octo/widgets"], ["private:octo/widgets"], ["none:octo/widgets", "unapproved:octo/widgets"]),
        (["octo/wid*"], ["private:octo/wid*"], ["none:octo/wid*", "unapproved:octo/wid*"]),
        (
            ["octo/*", "deep/sea"],
            ["private:octo", "private:deep/sea"],
            ["integrity=none;scopes=octo,deep/sea", "integrity=unapproved;scopes=octo,deep/sea"],
        ),
    ],
)
def test_the_agents_labels_follow_the_policys_repos(repos: Any, secrecy: list[str], integrity: list[str]) -> None:
    agent = Labeller({"allow-only": {"repos": repos, "min-integrity": "Unapproved"}}).agent["agent"]
    assert agent == {"secrecy": secrecy, "integrity": integrity}


@pytest.mark.parametrize(
    ("repos", "call", "secrecy", "last"),
    [
        (["octo/*"], "Octo/Widgets", "private:octo", "approved:octo"),
        (["octo/wid*"], "octo/widgets", "private:octo/wid*", "approved:octo/wid*"),
        (["octo/*", "deep/sea"], "deep/sea", "private:deep/sea", "integrity=approved;scopes=octo,deep/sea"),
        (["octo/*"], "octopus/ink", "private:octopus/ink", "approved:octopus/ink"),
        ("public", "octo/widgets", "private:octo/widgets", "approved:public"),
    ],
)
def test_what_the_policy_covers_is_named_by_its_scope(repos: Any, call: str, secrecy: str, last: str) -> None:
    owner, repo = call.split("/")
    resource = Labeller({"allow-only": {"repos": repos, "min-integrity": "none"}}).resource(
        "list_branches", {"owner": owner, "repo": repo}
    )
    assert resource["secrecy"] == [secrecy]
    assert last in resource["integrity"]
    assert len(resource["integrity"]) == 3


# Calls


@pytest.mark.parametrize(("tools", "operation"), [(READS, "read"), (WRITES, "write"), (READ_WRITES, "read-write")])
def test_each_tool_reads_or_writes(public: Labeller, tools: list[str], operation: str) -> None:
    assert {tool: public.resource(tool, O_R)["operation"] for tool in tools} == dict.fromkeys(tools, operation)


def test_secrecy_follows_what_the_backend_says() -> None:
    labeller = Labeller(o__r="public", o__secret="private", o__house="internal")
    secrecy = {
        repo: labeller.resource("get_issue", {"owner": "O", "repo": repo})["secrecy"]
        for repo in ("r", "secret", "house", "nobody-knows", "../etc")
    }
    assert secrecy == {
        "r": [],
        "secret": ["private:o/secret"],
        "house": ["private:o/house"],
        "nobody-knows": ["private:o/nobody-knows"],
        "../etc": ["private:O"],
    }


def test_backend_is_asked_once_for_a_repository() -> None:
    labeller = Labeller(o__r="public", o__s="private")
    for _ in range(40):
        labeller.resource("get_issue", O_R)
        labeller.resource("list_commits", {"owner": "o", "repo": "s"})
    assert labeller.asked == ["o/r", "o/s"]


def test_backend_without_an_answer_is_asked_again_now_and_then() -> None:
    labeller = Labeller()
    for _ in range(40):
        assert labeller.resource("get_issue", O_R)["secrecy"] == PRIVATE
    assert labeller.asked == ["o/r"]
    labeller.visibility["o/r"] = "public"
    secrecy = [labeller.resource("get_issue", O_R)["secrecy"] for _ in range(40)]
    assert secrecy[0] == PRIVATE
    assert secrecy[-1] == PUBLIC


@pytest.mark.parametrize(
    ("tool", "args"),
    [
        ("list_code_scanning_alerts", O_R),  # private whatever the repository is
        ("list_repository_collaborators", O_R),
        ("get_file_contents", {**O_R, "path": "deploy/.env"}),
        ("wiki_page_sync", O_R),
    ],
)
def test_the_backend_is_not_asked_if_the_answer_changes_nothing(public: Labeller, tool: str, args: Any) -> None:
    assert public.resource(tool, args)["secrecy"] == PRIVATE
    assert public.asked == []


def test_unknown_tool_gets_the_most_restrictive_label(public: Labeller) -> None:
    assert public.resource("wiki_page_sync", O_R) == {
        "description": "tool:wiki_page_sync",
        "secrecy": PRIVATE,
        "integrity": sorted(MERGED),
        "operation": "write",
    }
    assert public.resource("wiki_page_sync")["secrecy"] == ["private"]
    whole = public.response("wiki_page_sync", [{"private": False}], O_R)
    assert (whole["labeled_paths"], whole["default_labels"]["integrity"]) == ([], NONE)
    assert whole["default_labels"]["secrecy"] == PRIVATE


@pytest.mark.parametrize(
    ("args", "integrity"),
    [
        ({}, MERGED),
        ({"ref": "main"}, MERGED),
        ({"ref": "refs/heads/master"}, MERGED),
        ({"ref": None}, MERGED),
        ({"ref": "release/2.4"}, APPROVED),
        ({"ref": "refs/tags/v1"}, APPROVED),
        ({"ref": "a" * 40}, UNAPPROVED),
        ({"ref": "main", "sha": "a" * 40}, UNAPPROVED),
        ({"ref": "refs/pull/7/head"}, NONE),
        ({"ref": 5}, NONE),
        ({"ref": "x" * 2000}, NONE),
    ],
)
def test_integrity_of_a_file_follows_its_ref(public: Labeller, args: Any, integrity: list[str]) -> None:
    assert public.resource("get_file_contents", {**O_R, "path": "a.md", **args})["integrity"] == sorted(integrity)


@pytest.mark.parametrize(
    ("path", "secrecy"),
    [
        ("src/main.rs", PUBLIC),
        (".env.example", PUBLIC),
        ("environment.md", PUBLIC),
        (".env", PRIVATE),
        ("a/b/.ENV.production", PRIVATE),
        ("tls/server.KEY", PRIVATE),
        ("home/.ssh/id_rsa/", PRIVATE),
        ("x" * 2000, PRIVATE),
        (["src"], PRIVATE),
    ],
)
def test_files_that_hold_secrets_are_private(public: Labeller, path: Any, secrecy: list[str]) -> None:
    assert public.resource("get_file_contents", {**O_R, "path": path})["secrecy"] == secrecy


@pytest.mark.parametrize(
    ("query", "secrecy"),
    [
        ("repo:o/r crash", []),
        ("crash repo:o/hidden", ["private:o/hidden"]),
        ("crash", ["private"]),
        ("is:public crash", []),
        ("org:o crash", ["private:o"]),
        ("repo:o/r OR repo:o/hidden", ["private"]),
        ("repo:o/r repo:o/hidden", ["private"]),
        ('"repo:o/r" crash', ["private"]),
        ("-repo:o/r crash", ["private"]),
        ("(is:public) crash", ["private"]),
        ("NOT is:public", ["private"]),
    ],
)
def test_a_search_is_as_private_as_its_qualifiers_leave_it(query: str, secrecy: list[str]) -> None:
    labeller = Labeller(o__r="public", o__hidden="private")
    assert labeller.resource("search_issues", {"query": query})["secrecy"] == secrecy


@pytest.mark.parametrize(
    ("tool", "args", "secrecy", "integrity"),
    [
        ("get_issue", O_R, PUBLIC, NONE),
        ("list_pull_requests", O_R, PUBLIC, NONE),
        ("list_commits", O_R, PUBLIC, MERGED),
        ("list_commits", {**O_R, "sha": "topic"}, PUBLIC, NONE),
        ("list_releases", O_R, PUBLIC, APPROVED),
        ("create_issue", O_R, PUBLIC, APPROVED),
        ("list_secret_scanning_alerts", O_R, PRIVATE, UNAPPROVED),
        ("search_users", {"query": "x"}, PUBLIC, APPROVED),
        ("get_me", {}, ["private:user"], APPROVED),
        ("list_gists", {}, ["private:user"], UNAPPROVED),
        ("list_notifications", {}, ["private:user"], NONE),
        ("create_repository", {"name": "n", "private": False}, PUBLIC, APPROVED),
        ("create_repository", {"name": "n"}, ["private:user"], APPROVED),
        ("projects_list", {"owner": "o"}, ["private:o"], APPROVED),
    ],
)
def test_each_tools_call_has_its_secrecy_and_integrity(
    public: Labeller, tool: str, args: Any, secrecy: list[str], integrity: list[str]
) -> None:
    label = public.resource(tool, args)
    assert (label["secrecy"], label["integrity"]) == (secrecy, sorted(integrity))


@pytest.mark.parametrize("tool", ["get_issue", "list_pull_requests", "list_discussions", "get_commit"])
def test_what_is_said_in_a_private_repository_is_approved(private: Labeller, tool: str) -> None:
    assert private.resource(tool, {**O_R, "sha": "b" * 40})["integrity"] == sorted(APPROVED)


def test_calls_without_a_repository_have_their_own_scope() -> None:
    labeller = Labeller({"allow-only": {"repos": ["o/r"], "min-integrity": "none"}})
    assert labeller.resource("search_users")["integrity"] == ["approved:github", "none:github", "unapproved:github"]
    assert labeller.resource("list_gists")["integrity"] == ["none:user", "unapproved:user"]
    assert labeller.resource("search_issues", {"query": "x"})["integrity"] == ["none"]


def test_descriptions_name_the_labelled_object(public: Labeller) -> None:
    def describe(tool: str, **args: Any) -> Any:
        return public.resource(tool, {**O_R, **args})["description"]

    assert describe("get_issue", issue_number=12) == "issue:o/r#12"
    assert describe("get_pull_request", pullNumber="7") == "pull:o/r#7"
    assert describe("get_commit", sha="0123456789abcdef") == "commit:o/r@0123456"
    assert describe("get_file_contents", path='a "b"/概要.md') == 'file:o/r:a "b"/概要.md'
    assert describe("get_issue", issue_number="1; drop") == "issue:o/r"
