"""Jobs to label: what agents ask of GitHub's MCP server, and what it answers.

Results are expensive to make and cheap to reuse, so a pool of them is made once, when the first job is wanted, from a fixed
seed; jobs draw from it. Arguments are made for each job. Jobs share sub-objects: treat them as immutable.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import accumulate
from random import Random
from typing import Any

import msgspec

from guardpool.jobs import Job
from guardpool.samples import github_objects, github_text
from guardpool.samples.repositories import REPOSITORIES

_POOL_SEED = 20240229
_POOL_SIZE = 480
_MAX_RESULT_BYTES = 100 * 1024
_RESPONSE_SHARE = 0.25

Args = dict[str, Any]
_Draw = Callable[[], float]


def jobs(n: int, seed: int = 0) -> Iterator[Job]:
    """Yield `n` jobs with the ids 0 to n-1, three `label_resource` to one `label_response`.

    The same `n` and `seed` give the same jobs; a smaller `n` gives their beginning. Some 40 tools,
    pages of 1 to 100 items and 1 to 100 KB, MCP-wrapped or not, text in many scripts.

    Args:
        n: how many, 0 or more.
        seed: any whole number.

    Raises:
        ValueError: `n` is negative.
    """
    if n < 0:
        raise ValueError(f"n must be 0 or more, not {n}")
    return _generate(n, seed)


def _generate(n: int, seed: int) -> Iterator[Job]:
    draw = Random(seed).random
    pool, pool_until = results()
    for number in range(n):
        if draw() < _RESPONSE_SHARE:
            tool, args, result = pool[bisect(pool_until, draw() * pool_until[-1])]
            page = {**args, "page": 1 + int(draw() * 9), "perPage": 30} if draw() < 0.5 else args
            yield Job(number, "label_response", tool, page, result)
        else:
            at = bisect(_ARGS_UNTIL, draw() * _ARGS_UNTIL[-1])
            tool, make = _ARGS[at]
            capabilities = _CAPABILITIES if draw() < 0.1 else None
            yield Job(number, "label_resource", tool, make(draw), None, capabilities)


_CAPABILITIES = {"toolsets": ["context", "issues", "pull_requests", "repos"], "read_only": False}


# The arguments of calls


def _pick(draw: _Draw, options: tuple[Any, ...]) -> Any:
    return options[int(draw() * len(options))]


_SPLIT = tuple(tuple(name.split("/")) for name in REPOSITORIES)
_REFS = ("main", "main", "", "refs/heads/main", "release/2.4", "refs/pull/41/head", "機能/設定")
_PATHS = ("README.md", "src/main.rs", "app/config.py", ".env", "deploy/tls/server.key", "docs/日本語/概要.md", "")
_BODIES = tuple(github_text.body(Random(i), 60 * 2 ** (i % 7)) for i in range(28))
_QUERIES = (
    "repo:octo/widgets is:issue is:open label:bug",
    "repo:quay-labs/customer-data crash",
    "org:octo is:open 起動",
    "is:public language:rust wasm sandbox",
    'repo:octo/widgets OR "repo:octo/payroll"',
    "utilisateur:inconnu café ☕",
    "user:kenji-t topic:wasm",
    "خطأ في الاتصال repo:zaytuna/oud",
)


def _repo(draw: _Draw) -> Args:
    owner, name = _SPLIT[int(draw() * len(_SPLIT))]
    return {"owner": owner, "repo": name}


def _numbered(key: str, method: tuple[str, ...] = ()) -> Callable[[_Draw], Args]:
    def make(draw: _Draw) -> Args:
        args = _repo(draw)
        args[key] = 1 + int(draw() * 9999)
        if method:
            args["method"] = _pick(draw, method)
        return args

    return make


def _listing(draw: _Draw) -> Args:
    args = _repo(draw)
    args["state"] = _pick(draw, ("open", "closed", "all"))
    args["page"] = 1 + int(draw() * 20)
    return args


def _commits(draw: _Draw) -> Args:
    args = _repo(draw)
    args["sha"] = _pick(draw, _REFS)
    return args


def _one_commit(draw: _Draw) -> Args:
    args = _repo(draw)
    args["sha"] = f"{int(draw() * 2**53):013x}" * 3 + "0"
    return args


def _file(draw: _Draw) -> Args:
    args = _repo(draw)
    args["path"] = _pick(draw, _PATHS)
    args["ref"] = _pick(draw, _REFS)
    return args


def _query(draw: _Draw) -> Args:
    return {"query": _pick(draw, _QUERIES), "perPage": 10 + int(draw() * 90)}


def _written(draw: _Draw) -> Args:
    args = _repo(draw)
    args["title"] = _pick(draw, github_text.TITLES)
    args["body"] = _pick(draw, _BODIES)
    return args


def _commented(draw: _Draw) -> Args:
    args = _repo(draw)
    args["issue_number"] = 1 + int(draw() * 9999)
    args["body"] = _pick(draw, _BODIES)
    return args


def _pushed(draw: _Draw) -> Args:
    args = _repo(draw)
    args["branch"] = _pick(draw, _REFS)
    args["message"] = _pick(draw, github_text.TITLES)
    args["files"] = [{"path": _pick(draw, _PATHS), "content": _pick(draw, _BODIES)} for _ in range(1 + int(draw() * 4))]
    return args


def _nothing(draw: _Draw) -> Args:
    return {}


def _person(draw: _Draw) -> Args:
    return {"query": _pick(draw, ("location:Kraków", "followers:>100 язык", "kenji"))}


def _gist(draw: _Draw) -> Args:
    return {"gist_id": f"{int(draw() * 2**53):020x}", "files": {"メモ.md": {"content": _pick(draw, _BODIES)}}}


# (weight, tool, how its arguments are made)
CALLS: tuple[tuple[int, str, Callable[[_Draw], Args]], ...] = (
    (12, "issue_read", _numbered("issue_number", ("get", "get_comments", "get_sub_issues", "get_labels"))),
    (8, "get_issue", _numbered("issue_number")),
    (9, "list_issues", _listing),
    (6, "search_issues", _query),
    (9, "pull_request_read", _numbered("pullNumber", ("get", "get_diff", "get_files", "get_reviews", "get_status"))),
    (6, "get_pull_request", _numbered("pullNumber")),
    (7, "list_pull_requests", _listing),
    (3, "search_pull_requests", _query),
    (5, "list_commits", _commits),
    (4, "get_commit", _one_commit),
    (12, "get_file_contents", _file),
    (5, "search_code", _query),
    (2, "search_repositories", _query),
    (2, "get_repository", _repo),
    (2, "list_branches", _repo),
    (1, "list_tags", _repo),
    (2, "list_releases", _repo),
    (2, "actions_list", _listing),
    (2, "get_job_logs", _numbered("job_id")),
    (1, "list_discussions", _repo),
    (1, "list_code_scanning_alerts", _repo),
    (1, "get_dependabot_alert", _numbered("alertNumber")),
    (1, "list_notifications", _nothing),
    (1, "search_users", _person),
    (1, "get_me", _nothing),
    (3, "create_issue", _written),
    (4, "add_issue_comment", _commented),
    (2, "issue_write", _commented),
    (2, "create_pull_request", _written),
    (1, "merge_pull_request", _numbered("pullNumber")),
    (1, "pull_request_review_write", _numbered("pullNumber", ("create", "submit_pending"))),
    (2, "create_or_update_file", _file),
    (2, "push_files", _pushed),
    (1, "create_branch", _repo),
    (1, "create_gist", _gist),
    (1, "star_repository", _repo),
    (1, "wiki_page_sync", _repo),  # a tool that no guard knows
)
_ARGS = tuple((tool, make) for _, tool, make in CALLS)
_ARGS_UNTIL = tuple(accumulate(weight for weight, _, _ in CALLS))


# The pool of results

_Maker = Callable[..., github_objects.JsonObject]

# (weight, tool, what it lists, the member its page stands under; "" a bare array, None one thing alone)
_RESULTS: tuple[tuple[int, str, _Maker, str | None], ...] = (
    (14, "list_issues", github_objects.issue, ""),
    (5, "list_issues", github_objects.issue, "issues"),
    (9, "search_issues", github_objects.issue, "items"),
    (9, "issue_read", github_objects.issue, None),
    (6, "get_issue_comments", github_objects.comment, ""),
    (10, "list_pull_requests", github_objects.pull, ""),
    (4, "search_pull_requests", github_objects.pull, "items"),
    (6, "pull_request_read", github_objects.pull, None),
    (9, "list_commits", github_objects.commit, ""),
    (3, "get_commit", github_objects.commit, None),
    (7, "search_code", github_objects.code_hit, "items"),
    (4, "search_repositories", github_objects.repository, "items"),
    (2, "get_repository", github_objects.repository, None),
    (2, "list_branches", github_objects.ref, ""),
    (2, "list_releases", github_objects.release, ""),
    (3, "actions_list", github_objects.run, "workflow_runs"),
    (2, "list_code_scanning_alerts", github_objects.alert, ""),
    (2, "list_discussions", github_objects.discussion, "discussions"),
    (1, "list_notifications", github_objects.notification, ""),
)
# Items of a page, and bytes of a result: small ones are common, large ones are not rare.
_COUNTS = (1, 2, 3, 5, 5, 10, 10, 10, 20, 30, 30, 50, 100)
_BUDGETS = (1, 2, 2, 3, 3, 4, 5, 6, 8, 12, 20, 40, 90)
_FULL_BYTES = 1400  # about what an object costs in the form of the REST API, without its text


@lru_cache(maxsize=1)
def results() -> tuple[tuple[tuple[str, Args, Any], ...], tuple[int, ...]]:
    """Every (tool, arguments, result) that response jobs are drawn from, and the running sum of their weights, one for each."""
    rng = Random(_POOL_SEED)
    kinds = [entry for entry in _RESULTS for _ in range(entry[0])]
    pool = []
    for at in range(_POOL_SIZE):
        _, tool, maker, where = kinds[at] if at < len(kinds) else rng.choice(kinds)
        pool.append(_result(rng, tool, maker, where))
    pool += [_plain(rng, i) for i in range(24)]
    # Large results are in the pool so that they occur, and drawn less often so that a million jobs fit on a disk.
    weights = [8 if len(msgspec.json.encode(result)) < 12_000 else 2 for _, _, result in pool]
    return tuple(pool), tuple(accumulate(weights))


def _result(rng: Random, tool: str, maker: _Maker, where: str | None) -> tuple[str, Args, Any]:
    repo = rng.choice(REPOSITORIES)
    search = tool.startswith("search_")
    count = 1 if where is None else rng.choice(_COUNTS)
    budget = min(rng.choice(_BUDGETS) * 1024, _MAX_RESULT_BYTES * 9 // 10)
    full = budget // count > _FULL_BYTES
    length = max(0, budget // count - (_FULL_BYTES if full else 400)) // 2
    made: list[Any] = []
    left = _MAX_RESULT_BYTES * 8 // 10  # what is wrapped grows by its quotes
    for _ in range(count):
        item = maker(rng, rng.choice(REPOSITORIES) if search else repo, int(length * rng.uniform(0.2, 1.8)), full=full)
        left -= len(msgspec.json.encode(item))
        if left < 0 and made:
            break
        made.append(item)
    owner, name = repo.split("/")
    args: Args = {"query": rng.choice(_QUERIES)} if search else {"owner": owner, "repo": name}
    if where is None:
        args |= {"method": "get", "issue_number": made[0].get("number", 1)} if tool.endswith("_read") else {}
        return tool, args, _wrapped(rng, made[0])
    page: Any = made if where == "" else {"total_count": len(made), "incomplete_results": False, where: made}
    return tool, args, _wrapped(rng, page)


def _wrapped(rng: Random, result: Any) -> Any:
    """The result as an MCP server sends it (text that holds JSON), or bare, half and half."""
    if rng.random() < 0.5:
        return result
    return {"content": [{"type": "text", "text": msgspec.json.encode(result).decode()}]}


def _plain(rng: Random, at: int) -> tuple[str, Args, Any]:
    """A result that is not JSON inside: a file, a diff, a log, an error, what a write tool answers."""
    owner, name = rng.choice(REPOSITORIES).split("/")
    args: Args = {"owner": owner, "repo": name}
    size = rng.choice((1, 2, 5, 30)) * 1000
    kind = at % 5
    if kind == 0:
        path = rng.choice(_PATHS[:-1])
        resource = {
            "uri": f"repo://{owner}/{name}/contents/{path}",
            "mimeType": "text/plain",
            "text": github_text.code(rng, size),
        }
        content = [
            {"type": "text", "text": "successfully downloaded text file"},
            {"type": "resource", "resource": resource},
        ]
        return "get_file_contents", {**args, "path": path, "ref": rng.choice(_REFS)}, {"content": content}
    if kind == 1:
        text = github_text.patch(rng, size)
        return "pull_request_read", {**args, "pullNumber": 7, "method": "get_diff"}, _text(text)
    if kind == 2:
        return "get_job_logs", {**args, "job_id": 99}, _text(github_text.body(rng, size))
    if kind == 3:
        return (
            "get_issue",
            {**args, "issue_number": 404},
            {**_text("failed to get issue: 404 Not Found"), "isError": True},
        )
    return "create_issue", {**args, "title": "新しい課題"}, _text('{"id":"9","url":"https://github.com/o/r/issues/9"}')


def _text(text: str) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": text}]}
