"""An agent's calls of GitHub's MCP server, each with the answer of the server: what a sample recording is a log of.

Reads are drawn from the results that the sample jobs have, so that an answer fits its arguments. Writes are made one by one.
Some calls carry what the gateway's log takes for secrets (`sanitiser.py`), one for each way in which that ends.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable
from functools import lru_cache
from itertools import accumulate
from random import Random
from typing import Any, NamedTuple

import msgspec

from guardpool.samples import github_objects, github_text, guard_rules, make_jobs, sanitiser
from guardpool.samples.repositories import REPOSITORIES
from guardpool.samples.sanitiser import Damage

JsonObject = dict[str, Any]
Draw = Callable[[], float]

# Of ten calls that an agent makes, so many are drawn from the pool of reads; the others are writes, and `get_me`.
_READ_SHARE = 0.75
# Results are drawn by size, (less than so many bytes, weight): most answers are small, and the lines of 100,000 calls
# have to fit into memory. The mean line of an answer is about 4 KB.
_WEIGHTS = ((3_000, 16), (12_000, 3), (40_000, 1))
# A result with a secret in it has this weight among those of its size, so that about 3% of all answers have one.
_SECRET_WEIGHT = 6
_SECRETS_SEED = 20260801


class Answer(NamedTuple):
    """What the server answered.

    Attributes:
        result: the MCP result, as the gateway and its guard get it.
        page: the result as the guard reads it.
        payload: what the log does to the answer.
        left: what is left of the result in the log; None if the payload is lost.
    """

    result: JsonObject
    page: guard_rules.Page
    payload: Damage
    left: JsonObject | None


class AgentCall(NamedTuple):
    """One call of the agent: the tool, its arguments, and what the server answers if it is asked."""

    tool: str
    args: JsonObject
    answer: Answer


def draw_call(draw: Draw) -> AgentCall:
    """One call. Calls share sub-objects: treat them as immutable.

    Args:
        draw: gives numbers from 0 to less than 1.
    """
    if draw() >= _READ_SHARE:
        return _OTHERS[bisect(_OTHERS_UNTIL, draw() * _OTHERS_UNTIL[-1])][1](draw)
    reads, until = _reads()
    call = reads[bisect(until, draw() * until[-1])]
    if draw() < 0.5 or not call.tool.startswith(("list_", "search_")):
        return call
    return call._replace(args={**call.args, "page": 1 + int(draw() * 9), "perPage": 30})


def answer_of(result: JsonObject) -> str:
    """The payload of an answer, as the gateway serialises it."""
    return sanitiser.encode({"jsonrpc": "2.0", "id": 1, "result": result})


def wrapped(value: Any) -> JsonObject:
    """An MCP result with `value` as JSON in its text."""
    return _text(msgspec.json.encode(value).decode())


def _text(text: str) -> JsonObject:
    return {"content": [{"type": "text", "text": text}]}


def _call(tool: str, args: JsonObject, result: JsonObject) -> AgentCall:
    page = guard_rules.read_result(guard_rules.target_of(tool, args), result)
    payload = sanitiser.damage(answer_of(result))
    left = result
    if payload.left is not None and payload.state != sanitiser.INTACT:
        left = msgspec.json.decode(payload.left)["result"]
    return AgentCall(tool, args, Answer(result, page, payload, None if payload.left is None else left))


# Reads


@lru_cache(maxsize=1)
def _reads() -> tuple[tuple[AgentCall, ...], tuple[int, ...]]:
    """The reads that are drawn from, and the running sum of their weights."""
    calls: list[AgentCall] = []
    weights: list[int] = []
    for tool, args, result in make_jobs.results()[0]:
        size = len(msgspec.json.encode(result))
        weight = next((weight for below, weight in _WEIGHTS if size < below), 0)
        if weight and tool != "create_issue":
            calls.append(_read(tool, args, result))
            weights.append(weight)
    secrets = [_call(*each) for each in _reads_with_secrets(Random(_SECRETS_SEED))]
    return (*calls, *secrets), tuple(accumulate([*weights, *[_SECRET_WEIGHT] * len(secrets)]))


def _read(tool: str, args: JsonObject, result: Any) -> AgentCall:
    if tool == "get_commit":
        sha = (msgspec.json.decode(result["content"][0]["text"]) if "content" in result else result)["sha"]
        args = {**args, "sha": sha}
    return _call(tool, args, result if "content" in result else wrapped(result))


def _reads_with_secrets(rng: Random) -> list[tuple[str, JsonObject, JsonObject]]:
    made: list[tuple[str, JsonObject, JsonObject]] = []
    for at, full_name in enumerate(REPOSITORIES):
        owner, name = full_name.split("/")
        repo: JsonObject = {"owner": owner, "repo": name}
        number = {**repo, "issue_number": 10_000 + at}
        kind = at % 4
        if kind == 0:  # the value runs to the end of the file, and takes the end of the payload with it
            text = f"# {github_text.title(rng)}\nmode=fast\nAPI_TOKEN: {_letters(rng, 24)}\n"
            made.append(
                ("get_file_contents", {**repo, "path": f"config/{name}.ini", "ref": "main"}, _text(text.strip()))
            )
        elif kind == 1:  # what looks like a secret is the last word of the last member
            issue = github_objects.issue(rng, full_name, 0, full=False)
            issue |= {
                "number": number["issue_number"],
                "html_url": f"https://github.com/{full_name}/issues/{10_000 + at}",
            }
            issue["body"] = f"{github_text.title(rng)}: the table has [primary key: user_identifier]"
            made.append(("get_issue", number, wrapped(issue)))
        elif kind == 2:  # a member of structured content has a name that secrets have
            thing = github_objects.repository(rng, full_name, 60)
            made.append(("get_repository", repo, {**wrapped(thing), "structuredContent": thing}))
        else:  # tokens in what people write
            comment = github_objects.comment(rng, full_name, 40, full=False)
            comment["body"] = f"It fails with {_token(rng, at)} here.\n{comment['body']}"
            made.append(("get_issue_comments", {**repo, "issue_number": 10_000 + at}, wrapped([comment])))
    return made


def _token(rng: Random, at: int) -> str:
    """A made-up credential in one of the forms that the gateway's log knows."""
    forms = (
        "ghp_" + _letters(rng, 36),
        f"github_pat_{_letters(rng, 22)}_{_letters(rng, 59)}",
        f"`Bearer {_letters(rng, 30)}`",
        f"{_letters(rng, 24)}.eyJ{_letters(rng, 20)}.{_letters(rng, 30)}",
    )
    return forms[at // 4 % len(forms)]


def _letters(rng: Random, count: int) -> str:
    # Letters past f, so that no run of them is taken for a number in hexadecimal.
    return "".join(rng.choice("ghijklmnopqrstuvwxyzGHIJKLMNOPQRSTUVWXYZ") for _ in range(count))


# Everything else

_MAKE_ARGS = {tool: make for _, tool, make in make_jobs.CALLS}


def _written(tool: str, where: str) -> Callable[[Draw], AgentCall]:
    """A tool that answers with the address of what it made or changed."""

    def make(draw: Draw) -> AgentCall:
        args = _MAKE_ARGS[tool](draw)
        number = args.get("issue_number") or args.get("pullNumber") or 1 + int(draw() * 9999)
        url = f"https://github.com/{args['owner']}/{args['repo']}/{where}/{number}"
        return _call(tool, args, wrapped({"id": str(number), "url": url}))

    return make


def _settings(draw: Draw) -> AgentCall:
    """A file whose last value is taken out of the arguments, and all that follows them with it."""
    owner, name = _repo(draw)
    args = {
        "owner": owner,
        "repo": name,
        "path": "deploy/settings.ini",
        "branch": "main",
        "content": f"# for {name}\nDB_PASSWORD={_word(draw)}",
    }
    # The arguments are serialised by their names: `branch`, `content`, and then the rest without a blank.
    return _call("create_or_update_file", args, wrapped({"content": {"path": "deploy/settings.ini"}}))


def _workflow(draw: Draw) -> AgentCall:
    """Arguments with a member that is called a secret."""
    owner, name = _repo(draw)
    inputs = {"environment": "staging", "token": _word(draw)}
    args = {"owner": owner, "repo": name, "workflow_id": "deploy.yml", "ref": "main", "inputs": inputs}
    return _call("run_workflow", args, wrapped({"message": "Workflow run has been queued"}))


def _account(draw: Draw) -> AgentCall:
    return _call("get_me", {}, wrapped({"login": "octo-ci[bot]", "id": 4711}))


def _repo(draw: Draw) -> tuple[str, str]:
    owner, name = REPOSITORIES[int(draw() * len(REPOSITORIES))].split("/")
    return owner, name


def _word(draw: Draw) -> str:
    return "".join("ghijkmnpqrstuvwxyz"[int(draw() * 18)] for _ in range(16))


# (weight, how it is made)
_OTHERS: tuple[tuple[int, Callable[[Draw], AgentCall]], ...] = (
    (12, _written("create_issue", "issues")),
    (16, _written("add_issue_comment", "issues")),
    (8, _written("create_pull_request", "pull")),
    (6, _written("create_branch", "tree")),
    (10, _written("issue_write", "issues")),
    (5, _written("merge_pull_request", "pull")),
    (5, _written("pull_request_review_write", "pull")),
    (4, _written("wiki_page_sync", "wiki")),
    (6, _workflow),
    (4, _settings),
    (6, _account),
)
_OTHERS_UNTIL = tuple(accumulate(weight for weight, _ in _OTHERS))
