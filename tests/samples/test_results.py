"""What the sample guard says of results: each rule with a case that a reader can check."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from guardpool import contract
from guardpool.labels import ResponseLabel, label_from_json
from samplekit import (
    APPROVED,
    BLOCKED,
    MERGED,
    NONE,
    O_R,
    PRIVATE,
    PUBLIC,
    PUBLIC_REPO,
    UNAPPROVED,
    Labeller,
    text_parts,
)


@pytest.fixture
def public() -> Labeller:
    return Labeller(**PUBLIC_REPO)


# Results


@pytest.mark.parametrize(
    ("association", "integrity"),
    [
        ("OWNER", APPROVED),
        ("MEMBER", APPROVED),
        ("collaborator", APPROVED),
        ("CONTRIBUTOR", UNAPPROVED),
        ("NONE", UNAPPROVED),
        ("FIRST_TIME_CONTRIBUTOR", UNAPPROVED),
        ("FIRST_TIMER", NONE),
        ("EMPEROR", NONE),
        (None, NONE),
    ],
)
def test_integrity_of_an_issue_follows_its_author(public: Labeller, association: Any, integrity: list[str]) -> None:
    issue = {"number": 1, "user": {"login": "ada"}, "author_association": association}
    assert public.integrity_of("list_issues", issue) == sorted(integrity)


def _pull(**more: Any) -> dict[str, Any]:
    return {"number": 3, "user": {"login": "ada"}, "author_association": "FIRST_TIMER", **more}


def _from(head: str) -> dict[str, Any]:
    return {"head": {"repo": {"full_name": head}}, "base": {"repo": {"full_name": "o/r"}}}


@pytest.mark.parametrize(
    ("pull", "integrity"),
    [
        (_pull(merged_at="2024-01-01T00:00:00Z"), MERGED),
        (_pull(merged=True), MERGED),
        (_pull(pull_request={"merged_at": "2024-01-01T00:00:00Z"}), MERGED),
        (_pull(merged_at=None, merged=False), NONE),
        (_pull(merged="true"), NONE),
        (_pull(**_from("O/R")), APPROVED),
        (_pull(**_from("fork/r")), UNAPPROVED),
        ({**_pull(**_from("fork/r")), "author_association": "MEMBER"}, APPROVED),
    ],
)
def test_integrity_of_a_pull_request_follows_author_and_merge(
    public: Labeller, pull: Any, integrity: list[str]
) -> None:
    assert public.integrity_of("list_pull_requests", pull) == sorted(integrity)


@pytest.mark.parametrize(
    ("login", "labels", "integrity"),
    [
        ("lead", [], APPROVED),
        ("CI[bot]", [], APPROVED),
        ("dependabot[bot]", [], APPROVED),
        ("stranger", ["ready"], APPROVED),
        ("stranger", [{"id": 1, "name": "READY"}], APPROVED),
        ("stranger", [{"id": 1, "name": "bug"}], UNAPPROVED),
        ("stranger", ["ready", "On Hold"], NONE),
        ("lead", ["spam"], NONE),
        ("mallory", ["ready"], BLOCKED),
    ],
)
def test_integrity_follows_the_policys_users_and_labels(
    public: Labeller, login: str, labels: Any, integrity: list[str]
) -> None:
    item = {"number": 1, "user": {"login": login}, "author_association": "NONE", "labels": labels}
    assert public.integrity_of("list_issues", item) == sorted(integrity)


def test_blocked_is_blocked_even_when_merged(public: Labeller) -> None:
    commit = {"sha": "0" * 40, "author": {"login": "mallory"}}
    assert public.integrity_of("list_commits", commit) == BLOCKED
    assert public.integrity_of("list_commits", {**commit, "author": {"login": "ada"}}) == sorted(MERGED)


def test_commits_of_another_branch_are_their_authors(public: Labeller) -> None:
    commit = {"sha": "0" * 40, "author": {"login": "lead"}}
    assert public.integrity_of("list_commits", commit, {**O_R, "sha": "topic"}) == sorted(APPROVED)
    assert public.integrity_of("list_commits", {"sha": "0" * 40}, {**O_R, "sha": "topic"}) == NONE


PAGE = [
    {"number": 1, "user": {"login": "a"}, "author_association": "OWNER", "body": 'quote " back \\ and\nnewline'},
    "not an object",
    {"number": 2, "user": {"login": "ß"}, "author_association": "NONE", "title": "日本語 🙈 עברית"},
    7,
]


@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize(
    ("wrap", "items_path"),
    [
        (lambda page: page, None),
        (lambda page: {"total_count": 4, "items": page}, "/items"),
        (lambda page: {"issues": page}, "/issues"),
        (lambda page: {"data": {"repository": {"issues": {"nodes": page}}}}, "/data/repository/issues/nodes"),
    ],
)
def test_pages_are_found_wrapped_or_not(
    public: Labeller, wrap: Callable[[Any], Any], items_path: str | None, ascii_only: bool
) -> None:
    bare = wrap(PAGE)
    text = json.dumps(bare, ensure_ascii=ascii_only)
    results = [bare, text_parts(text), text_parts(text[:30], text[30:])]
    results.append({"content": [{"type": "image", "text": "[1]"}, {"type": "text", "text": text}]})
    answers = [public.response("list_issues", result, O_R) for result in results]
    before = items_path or ""
    for answer in answers:
        assert answer["items_path"] == items_path
        assert [(path["path"], path["description"]) for path in answer["labeled_paths"]] == [
            (f"{before}/0", "issue:o/r#1"),
            (f"{before}/2", "issue:o/r#2"),
        ]
        assert answer["default_labels"]["integrity"] == NONE
    assert all(answer == answers[0] for answer in answers)


def test_labels_meet_their_items(public: Labeller) -> None:
    call = {"tool_name": "list_issues", "tool_args": O_R, "tool_result": text_parts(json.dumps(PAGE))}
    label = label_from_json("label_response", public.raw("label_response", json.dumps(call).encode()).label)
    assert isinstance(label, ResponseLabel)
    expanded = contract.expand(label, call["tool_result"])
    assert [(item.data, sorted(item.labels.integrity)) for item in expanded] == [
        (PAGE[0], sorted(APPROVED)),
        (PAGE[1], NONE),
        (PAGE[2], sorted(UNAPPROVED)),
        (PAGE[3], NONE),
    ]


def test_hits_of_a_search_have_the_labels_of_their_own_repositories() -> None:
    labeller = Labeller(o__r="public", p__q="private")
    hits = [
        {"number": 1, "repository_url": "https://api.github.com/repos/o/r", "author_association": "NONE"},
        {"number": 2, "html_url": "https://github.com/P/Q/issues/2", "author_association": "NONE"},
        {"number": 3, "repository": {"full_name": "z/z"}, "author_association": "NONE"},
        {"number": 4, "html_url": "https://evil.example/o/r/issues/4", "author_association": "NONE"},
    ]
    answer = labeller.response("search_issues", {"items": hits}, {"query": "crash"})
    assert [(path["secrecy"], path["integrity"]) for path in answer["labeled_paths"]] == [
        ([], sorted(UNAPPROVED)),
        (["private:p/q"], sorted(APPROVED)),
        (["private:z/z"], sorted(UNAPPROVED)),
        (["private"], sorted(UNAPPROVED)),
    ]
    assert answer["default_labels"]["secrecy"] == ["private"]
    assert labeller.asked == ["o/r", "p/q", "z/z"]


@pytest.mark.parametrize(
    ("repository", "secrecy"),
    [
        ({"private": False}, []),
        ({"visibility": "public"}, []),
        ({"isPrivate": False}, []),
        ({"private": True}, ["private:a/b"]),
        ({"visibility": "internal"}, ["private:a/b"]),
        ({"private": False, "visibility": "private"}, ["private:a/b"]),
        ({"private": True, "visibility": "public"}, ["private:a/b"]),
        ({"private": "false"}, ["private:a/b"]),
        ({}, ["private:a/b"]),
    ],
)
def test_visibility_that_the_data_tells_is_not_asked_for(repository: Any, secrecy: list[str]) -> None:
    labeller = Labeller(a__b="private")
    found = {"full_name": "a/b", "name": "b", **repository}
    answer = labeller.response("search_repositories", {"items": [found]}, {"query": "b"})
    assert answer["labeled_paths"][0]["secrecy"] == secrecy
    assert labeller.asked == []
    hit = {"path": "x.py", "repository": found}
    assert labeller.response("search_code", {"items": [hit]})["labeled_paths"][0]["secrecy"] == secrecy


def test_of_two_members_with_one_name_the_last_counts(public: Labeller) -> None:
    found = b'{"full_name":"a/b","private":false,"private":true}'
    call = b'{"tool_name":"search_repositories","tool_result":{"items":[' + found + b"]}}"
    answer = json.loads(public.raw("label_response", call).label)
    assert answer["labeled_paths"][0]["secrecy"] == ["private:a/b"]


def test_a_file_among_hits_is_private_when_it_holds_secrets(public: Labeller) -> None:
    hits = [{"path": path, "repository": {"full_name": "o/r", "private": False}} for path in ("a.py", "x/.env")]
    paths = public.response("search_code", {"items": hits}, {"query": "repo:o/r key"})["labeled_paths"]
    assert [path["secrecy"] for path in paths] == [[], PRIVATE]


@pytest.mark.parametrize(
    ("tool", "result", "integrity"),
    [
        ("get_issue", {"number": 1, "user": {"login": "a"}, "author_association": "OWNER"}, APPROVED),
        ("get_file_contents", text_parts("successfully downloaded text file"), MERGED),
        ("get_pull_request_diff", text_parts("diff --git a/x b/x"), NONE),
        ("get_job_logs", text_parts("all green"), APPROVED),
        ("get_file_contents", {**text_parts("404 Not Found"), "isError": True}, NONE),
        ("create_issue", text_parts('{"id":"9"}'), NONE),
        ("get_issue", None, NONE),
        ("get_issue", "[1,2]", NONE),
    ],
)
def test_a_single_object_gets_the_default_label(public: Labeller, tool: str, result: Any, integrity: list[str]) -> None:
    answer = public.response(tool, result, O_R)
    assert answer["labeled_paths"] == []
    assert answer["items_path"] is None
    assert (answer["default_labels"]["secrecy"], answer["default_labels"]["integrity"]) == (PUBLIC, sorted(integrity))


def test_each_method_of_a_tool_has_its_own_rules(public: Labeller) -> None:
    comment = {"id": 5, "user": {"login": "a"}, "author_association": "OWNER"}
    answer = public.response("issue_read", [comment], {**O_R, "method": "get_comments", "issue_number": 1})
    (path,) = answer["labeled_paths"]
    assert (path["description"], path["integrity"]) == ("comment:o/r#5", sorted(APPROVED))
    status = public.resource("pull_request_read", {**O_R, "pullNumber": 1, "method": "get_status"})
    assert status["integrity"] == sorted(APPROVED)
    unheard = public.resource("pull_request_read", {**O_R, "pullNumber": 1, "method": "get_everything"})
    assert unheard["integrity"] == NONE


def test_the_backend_is_asked_at_most_twenty_times_a_call() -> None:
    labeller = Labeller(**{f"o__r{i}": "public" for i in range(60)})
    hits = [{"number": i, "repository": {"full_name": f"o/r{i}"}} for i in range(60)]
    first = labeller.response("search_issues", {"items": hits})["labeled_paths"]
    assert len(labeller.asked) == 20
    assert [path["secrecy"] for path in first] == [[]] * 20 + [[f"private:o/r{i}"] for i in range(20, 60)]
    labeller.response("search_issues", {"items": hits})
    labeller.response("search_issues", {"items": hits})
    last = labeller.response("search_issues", {"items": hits})["labeled_paths"]
    assert [path["secrecy"] for path in last] == [[]] * 60
    assert sorted(labeller.asked) == sorted(f"o/r{i}" for i in range(60))


def test_the_sample_guard_logs_as_much_as_a_real_one() -> None:
    labeller = Labeller(log_threshold=0, **PUBLIC_REPO)
    labeller.resource("get_issue", O_R)
    labeller.resource("get_issue", {**O_R, "issue_number": 4})
    assert 20 <= len(labeller.logs) <= 30
    assert {line.level for line in labeller.logs} == {0}
    assert any("o/r" in line.text for line in labeller.logs)
    labeller.response("list_issues", [{"number": n, "user": {"login": "é" * 300}} for n in range(30)], O_R)
    assert 200 <= len(labeller.logs) <= 350
