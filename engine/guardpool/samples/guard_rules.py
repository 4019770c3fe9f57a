"""What the sample guard asks and says under the sample policy, in Python: `guard/*.zig`, as far as sample traffic goes.

A recording of the sample traffic shows the guard's questions and what its labels took away, and it has to be made where no
engine runs. README.md beside this file has the rules in words. Only what the tools and results of `traffic.py` need is
here; a test runs the real guard over the same traffic and compares questions and labels one by one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from guardpool.samples.policy import POLICY

JsonObject = dict[str, Any]

# Integrity levels by the number of tags that each has: a level has its own tag and those below it.
BLOCKED, NONE, UNAPPROVED, APPROVED, MERGED = range(5)
_LEVEL_TAGS = tuple(
    f"{level}:{POLICY['allow-only']['repos']}" for level in ("none", "unapproved", "approved", "merged")
)
_ASSOCIATIONS = {
    **dict.fromkeys(("OWNER", "MEMBER", "COLLABORATOR"), APPROVED),
    **dict.fromkeys(("CONTRIBUTOR", "NONE", "FIRST_TIME_CONTRIBUTOR"), UNAPPROVED),
}

UNKNOWN, PUBLIC, PRIVATE = "unknown", "public", "private"
# After a question without an answer, this many times the repository is taken for private before it is asked about again.
_PATIENCE = 64
_MAX_QUESTIONS = 20

# (operation, kind, is it a search?) of the tools in the sample traffic.
_TOOLS: dict[str, tuple[str, str, bool]] = {
    **dict.fromkeys(("issue_read", "get_issue", "list_issues"), ("read", "issue", False)),
    "search_issues": ("read", "issue", True),
    "get_issue_comments": ("read", "comment", False),
    **dict.fromkeys(("pull_request_read", "list_pull_requests"), ("read", "pull", False)),
    "search_pull_requests": ("read", "pull", True),
    **dict.fromkeys(("get_commit", "list_commits"), ("read", "commit", False)),
    "get_file_contents": ("read", "file", False),
    "search_code": ("read", "code", True),
    "get_repository": ("read", "repository", False),
    "search_repositories": ("read", "repository", True),
    **dict.fromkeys(("list_branches", "list_releases", "actions_list", "get_job_logs"), ("read", "metadata", False)),
    "list_discussions": ("read", "discussion", False),
    "list_code_scanning_alerts": ("read", "alert", False),
    "list_notifications": ("read", "notification", False),
    "get_me": ("read", "account", False),
    "create_issue": ("write", "issue", False),
    "add_issue_comment": ("write", "comment", False),
    "create_pull_request": ("write", "pull", False),
    "create_or_update_file": ("write", "file", False),
    "run_workflow": ("write", "metadata", False),
    "create_branch": ("write", "metadata", False),
    "issue_write": ("read-write", "issue", False),
    "merge_pull_request": ("read-write", "pull", False),
    "pull_request_review_write": ("read-write", "comment", False),
}
_UNKNOWN_TOOL = ("write", "unknown", False)
# What a pull request proposes is what anybody may say.
_KIND_OF_METHOD = {("pull_request_read", "get_diff"): "comment"}
_NEVER_ASKED = {"alert", "notification", "account", "unknown"}
_PAGES = (
    *("items", "issues", "pull_requests", "repositories", "commits", "workflow_runs", "workflows", "jobs", "artifacts"),
    *("discussions", "branches", "tags", "releases", "alerts"),
)


class Label(NamedTuple):
    """A label: description, tags, and the operation where it is a call's (else empty)."""

    description: str
    secrecy: tuple[str, ...]
    integrity: tuple[str, ...]
    operation: str = ""


class Visibilities:
    """The guard's memory of repositories, and the questions that it asks to fill it.

    `asked` has the repositories that were asked about since it was emptied, in order. The backend's answer is
    `VISIBILITY`, given as a mapping from the full name to `public` or anything else.
    """

    def __init__(self, known: dict[str, str]) -> None:
        self._backend = known
        self._kept: dict[str, str] = {}
        self._patience: dict[str, int] = {}
        self.asked: list[str] = []

    def of(self, repo: str) -> str:
        """`public`, `private` or `unknown`."""
        kept = self._kept.get(repo)
        if kept is not None:
            return kept
        if self._patience.get(repo, 0) > 0:
            self._patience[repo] -= 1
            return UNKNOWN
        if len(self.asked) >= _MAX_QUESTIONS:
            return UNKNOWN
        self.asked.append(repo)
        answer = self._backend.get(repo)
        if answer is None:
            self._patience[repo] = _PATIENCE
            return UNKNOWN
        self._kept[repo] = PUBLIC if answer == "public" else PRIVATE
        return self._kept[repo]


class Target(NamedTuple):
    """What a call is about, from its arguments."""

    tool: str
    operation: str
    kind: str
    search: bool
    args: JsonObject
    repo: str | None
    owner: str
    public_only: bool


def target_of(tool: str, args: JsonObject) -> Target:
    """What a call of `tool` with `args` is about."""
    operation, kind, search = _TOOLS.get(tool, _UNKNOWN_TOOL)
    kind = _KIND_OF_METHOD.get((tool, args.get("method", "")), kind)
    owner, name = args.get("owner", ""), args.get("repo", "")
    repo, public_only = (f"{owner}/{name}".lower() if owner and name else None), False
    if search and repo is None:
        repo, owner, public_only = _of_query(args.get("query", ""))
    return Target(tool, operation, kind, search, args, repo, owner, public_only)


def _of_query(query: str) -> tuple[str | None, str, bool]:
    """The one repository, the owner and whether only public ones, as far as the query is a plain list of terms."""
    terms = query.split()
    if "OR" in terms or "NOT" in terms or "(" in query:
        return None, "", False
    pairs = [term.partition(":")[::2] for term in terms if ":" in term]
    repos = [value.lower() for name, value in pairs if name == "repo"]
    owners = [value for name, value in pairs if name in ("org", "user")]
    if len(repos) > 1 or len(owners) > 1 or (repos and owners):
        return None, "", False
    public_only = ("is", "public") in pairs or ("visibility", "public") in pairs
    return (repos[0] if repos else None), (owners[0] if owners else ""), public_only


def operations() -> dict[str, str]:
    """What each tool of the sample traffic does: `read`, `write` or `read-write`."""
    return {tool: operation for tool, (operation, _, _) in _TOOLS.items()}


def tags_up_to(level: str) -> tuple[str, ...]:
    """The integrity tags of an agent whose policy asks for `level`."""
    names = [tag.partition(":")[0] for tag in _LEVEL_TAGS]
    return _LEVEL_TAGS[: names.index(level) + 1]


# A call


def label_resource(target: Target, visibilities: Visibilities) -> Label:
    """The label of a call; the questions that it took are added to `visibilities.asked`."""
    known = _visibility_of_call(target, visibilities)
    tags = _LEVEL_TAGS[: _level_of_call(target, known)]
    return Label(describe(target, None, target.repo), _secrecy_of_call(target, known), tags, target.operation)


def _visibility_of_call(target: Target, visibilities: Visibilities) -> str:
    if target.repo is None or target.kind in _NEVER_ASKED:
        return UNKNOWN
    if target.kind == "file" and is_sensitive(target.args.get("path", "")):
        return UNKNOWN
    return visibilities.of(target.repo)


def _secrecy_of_call(target: Target, known: str) -> tuple[str, ...]:
    if target.kind in ("notification", "account"):
        return ("private:user",)
    if target.kind == "file" and is_sensitive(target.args.get("path", "")):
        return _private(target.repo)
    if target.public_only and target.search:
        return ()
    if target.repo is None:
        return _private(target.owner)
    return () if known == PUBLIC else _private(target.repo)


def _level_of_call(target: Target, known: str) -> int:
    if target.kind == "unknown":
        return MERGED
    if target.operation != "read":
        return APPROVED
    floor = APPROVED if known == PRIVATE else NONE
    if target.kind == "commit":
        return MERGED if _on_default_branch(target) else floor
    if target.kind == "file":
        return max(floor, _level_of_file(target.args))
    return {"alert": UNAPPROVED, "notification": NONE}.get(target.kind, _by_kind(target.kind, floor))


def _by_kind(kind: str, floor: int) -> int:
    return floor if kind in ("issue", "pull", "comment", "discussion") else APPROVED


def _on_default_branch(target: Target) -> bool:
    return not target.search and _is_default(target.args.get("sha", ""))


def _level_of_file(args: JsonObject) -> int:
    ref: str = args.get("sha") or args.get("ref", args.get("branch", "")) or ""
    if _is_default(ref):
        return MERGED
    if ref.startswith(("refs/pull/", "pull/")):
        return NONE
    is_commit = len(ref) in (40, 64) and all(letter in "0123456789abcdefABCDEF" for letter in ref)
    return UNAPPROVED if is_commit else APPROVED


def _is_default(ref: str) -> bool:
    return ref.removeprefix("refs/").removeprefix("heads/") in ("", "main", "master", "HEAD")


def is_sensitive(path: str) -> bool:
    """Whether a file of this name looks like it holds secrets, among the names that the sample traffic has."""
    name = path.rstrip("/ ").rpartition("/")[2].lower()
    return name == ".env" or name.endswith((".key", ".pem"))


def _private(scope: str | None) -> tuple[str, ...]:
    return (f"private:{scope}",) if scope else ("private",)


# A result


class Item(NamedTuple):
    """One thing of a result, read once: what its label needs beside the visibility of its repository.

    `said` is the visibility that the data states. If `asks` is false the backend is not asked for the label.
    """

    pointer: str
    data: JsonObject
    description: str
    repo: str | None
    said: str
    asks: bool
    level: int
    level_if_private: int


class Page(NamedTuple):
    """A result as the guard takes it: the things that get a label of their own, or the whole as one."""

    pointer: str | None
    items: tuple[Item, ...]


def read_result(target: Target, result: JsonObject) -> Page:
    """The things in a result.

    Args:
        target: the call.
        result: an MCP result, whose first part is text.

    Returns:
        A page. `pointer` is None if the result has no list of things: then there is one item, and none if the call says
        all that is known.
    """
    root = None if result.get("isError") else _unwrapped(result)
    if root is None or target.operation != "read":
        return Page(None, ())
    found = _page(root)
    if found is None:
        return Page(None, (_item(target, "", root),))
    pointer, things = found
    return Page(pointer, tuple(_item(target, f"{pointer}/{at}", thing) for at, thing in enumerate(things)))


def label_response(target: Target, page: Page, visibilities: Visibilities) -> list[tuple[Item | None, Label]]:
    """The labels of what is in a result, in order, each with its item; None where the whole result has one label."""
    if page.pointer is None and not page.items:
        label = label_resource(target, visibilities)
        return [(None, Label(label.description, label.secrecy, _LEVEL_TAGS[:NONE]))]
    own = None  # the visibility of the call's own repository is looked up once a call
    labels: list[tuple[Item | None, Label]] = []
    for item in page.items:
        known = item.said
        if item.asks and item.repo is not None:
            if item.repo != target.repo:
                known = visibilities.of(item.repo)
            else:
                known = own = own or visibilities.of(item.repo)
        level = item.level_if_private if known == PRIVATE else item.level
        label = Label(item.description, _secrecy_of_item(target, item, known), _LEVEL_TAGS[:level])
        labels.append((item if page.pointer is not None else None, label))
    return labels


def _unwrapped(result: JsonObject) -> Any:
    text = "".join(part["text"] for part in result["content"] if part["type"] == "text")
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return result


def _page(root: Any) -> tuple[str, list[JsonObject]] | None:
    if isinstance(root, list):
        return "", root
    for name in _PAGES:
        if isinstance(root, dict) and isinstance(root.get(name), list):
            return f"/{name}", root[name]
    return None


def _item(target: Target, pointer: str, thing: JsonObject) -> Item:
    repo = _repo_of(target, thing)
    said, asks = _stated(target, thing, repo)
    level, level_if_private = (_level_of_item(target, thing, floor) for floor in (NONE, APPROVED))
    return Item(pointer, thing, describe(target, thing, repo), repo, said, asks, level, level_if_private)


def _repo_of(target: Target, thing: JsonObject) -> str | None:
    if not target.search and target.repo is not None:
        return target.repo
    named = [thing] if target.kind == "repository" else []
    for candidate in (*named, *_repositories_in(thing)):
        if "full_name" in candidate:
            return str(candidate["full_name"]).lower()
    for name in ("repository_url", "html_url", "url"):
        for start in ("https://api.github.com/repos/", "https://github.com/"):
            if str(thing.get(name, "")).startswith(start):
                return "/".join(thing[name].removeprefix(start).split("/")[:2]).lower()
    return None if target.kind == "repository" else target.repo


def _repositories_in(thing: JsonObject) -> Iterator[JsonObject]:
    base = thing.get("base")
    for candidate in (thing.get("repository"), base.get("repo") if isinstance(base, dict) else None, thing.get("repo")):
        if isinstance(candidate, dict):
            yield candidate


def _stated(target: Target, thing: JsonObject, repo: str | None) -> tuple[str, bool]:
    """The visibility that the data states, and whether the backend is asked where it states none."""
    if repo is None or target.kind in _NEVER_ASKED:
        return UNKNOWN, False
    if target.kind == "repository":
        return _visibility_in(thing), False
    paths = (target.args.get("path", ""), thing.get("path", ""))
    if target.kind in ("file", "code") and any(map(is_sensitive, paths)):
        return UNKNOWN, False
    for candidate in _repositories_in(thing):
        if str(candidate.get("full_name", "")).lower() == repo:
            said = _visibility_in(candidate)
            if said != UNKNOWN:
                return said, False
    return UNKNOWN, True


def _visibility_in(repository: JsonObject) -> str:
    said = UNKNOWN
    if isinstance(repository.get("private"), bool):
        if repository["private"]:
            return PRIVATE
        said = PUBLIC
    if isinstance(repository.get("visibility"), str):
        return PUBLIC if repository["visibility"] == "public" else PRIVATE
    return said


def _secrecy_of_item(target: Target, item: Item, known: str) -> tuple[str, ...]:
    if target.kind in ("notification", "account"):
        return ("private:user",)
    if item.repo is None:
        return _private(target.owner)
    return () if known == PUBLIC else _private(item.repo)


def _level_of_item(target: Target, thing: JsonObject, floor: int) -> int:
    kind = target.kind
    if kind == "file":
        return max(floor, _level_of_file(target.args))
    if kind in ("alert", "notification", "unknown"):
        return UNAPPROVED if kind == "alert" else NONE
    if kind not in ("issue", "pull", "comment", "discussion", "commit"):
        return APPROVED
    level = max(floor, _ASSOCIATIONS.get(thing.get("author_association") or thing.get("authorAssociation") or "", NONE))
    if kind == "pull":
        level = max(level, _level_of_lineage(thing))
    if kind == "commit" and _on_default_branch(target):
        level = MERGED
    return _by_policy(thing, level)


def _level_of_lineage(pull: JsonObject) -> int:
    if pull.get("merged_at"):
        return MERGED
    base, head = (
        side.get("repo", {}).get("full_name", "") for side in (pull.get("base") or {}, pull.get("head") or {})
    )
    if not base or not head:
        return NONE
    return APPROVED if base.lower() == head.lower() else UNAPPROVED


_RULES = POLICY["allow-only"]
_TRUSTED = {
    *("dependabot[bot]", "github-actions[bot]", "github-merge-queue[bot]", "copilot"),
    *POLICY["trusted-bots"],
    *_RULES["trusted-users"],
}


def _by_policy(thing: JsonObject, level: int) -> int:
    login = author_of(thing)
    names = {each["name"] if isinstance(each, dict) else each for each in thing.get("labels") or ()}
    if login in _TRUSTED or names & set(_RULES["approval-labels"]):
        level = max(level, APPROVED)
    if names & set(_RULES["refusal-labels"]):
        level = NONE
    return BLOCKED if login in _RULES["blocked-users"] else level


def author_of(thing: JsonObject) -> str:
    """The login of whoever wrote a thing; empty if it names nobody."""
    for name in ("user", "author"):
        person = thing.get(name)
        if isinstance(person, dict) and isinstance(person.get("login"), str):
            return str(person["login"])
    return ""


def describe(target: Target, thing: JsonObject | None, repo: str | None) -> str:
    """A label's description: `issue:owner/name#12`, `file:owner/name:path`, `commit:owner/name@0123abc`."""
    if target.kind == "unknown":
        return f"tool:{target.tool}"
    thing = thing or {}
    text = f"{target.kind}:{repo}" if repo else target.kind
    if target.kind in ("file", "code"):
        path = thing.get("path") or target.args.get("path", "")
        return f"{text}:{path}" if path else text
    if target.kind == "commit":
        sha = thing.get("sha") or target.args.get("sha", "")
        return f"{text}@{_clipped(sha, 7)}" if sha else text
    number = _digits(thing.get("number")) or _digits(thing.get("id")) or _number_in(target.args)
    if number:
        return f"{text}#{number}"
    return text if repo else f"{text}:{target.tool}"


def _clipped(text: str, max_bytes: int) -> str:
    return text.encode()[:max_bytes].decode(errors="ignore")


def _number_in(args: JsonObject) -> str:
    for name in ("issue_number", "pullNumber", "pull_number", "discussionNumber", "alertNumber", "number"):
        if _digits(args.get(name)):
            return _digits(args[name])
    return ""


def _digits(value: Any) -> str:
    text = str(value) if isinstance(value, int | str) else ""
    return text if text.isascii() and text.isdigit() else ""
