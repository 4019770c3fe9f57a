"""The repositories and people of the sample jobs, and a backend that knows them.

The backend answers what the sample guard asks (is this repository public?) the way GitHub's MCP server answers
`search_repositories`. It is a pure function of its arguments.
"""

from __future__ import annotations

from typing import Any

import msgspec

_PUBLIC = [
    "octo/widgets",
    "octo/rocket",
    "octo/docs",
    "octo/.github",
    "quay-labs/harbour",
    "quay-labs/tide",
    "quay-labs/lighthouse",
    "fernwerk/uhr",
    "fernwerk/zeiger",
    "nishiki/koi",
    "nishiki/hashi",
    "zaytuna/oud",
    "zaytuna/maqam",
    "delta-nine/relay",
    "delta-nine/gridlock",
    "bramble-soft/thicket",
    "bramble-soft/hedge",
    "polar-lab/aurora",
    "polar-lab/floe",
    "anchovy/pizza-oven",
    "anchovy/dough",
    "stellarium-x/orbit",
    "stellarium-x/parallax",
    "mossy/stone",
]

_PRIVATE = [
    "octo/payroll",
    "octo/rocket-keys",
    "octo/incident-notes",
    "quay-labs/customer-data",
    "fernwerk/werkstatt",
    "nishiki/keiyaku",
    "zaytuna/contracts",
    "delta-nine/red-team",
    "bramble-soft/pricing",
    "polar-lab/grant-2031",
    "anchovy/secret-sauce",
    "stellarium-x/board-minutes",
]

_INTERNAL = ["octo/handbook", "quay-labs/oncall", "delta-nine/tooling"]

# In the jobs, but no backend knows them: gone, renamed, or not visible to this token.
_UNKNOWN = ["ghost-town/abandoned", "old-name/moved", "octo/embargoed"]

VISIBILITY: dict[str, str] = {
    **dict.fromkeys(_PUBLIC, "public"),
    **dict.fromkeys(_PRIVATE, "private"),
    **dict.fromkeys(_INTERNAL, "internal"),
}

REPOSITORIES: tuple[str, ...] = (*VISIBILITY, *_UNKNOWN)

PEOPLE: tuple[tuple[str, str], ...] = (
    ("octo-lead", "OWNER"),
    ("ada-h", "MEMBER"),
    ("kenji-t", "MEMBER"),
    ("leila-m", "COLLABORATOR"),
    ("bjorn82", "COLLABORATOR"),
    ("release-captain", "MEMBER"),
    ("priya-codes", "CONTRIBUTOR"),
    ("tomek", "CONTRIBUTOR"),
    ("wei-zhang", "CONTRIBUTOR"),
    ("sam-the-user", "NONE"),
    ("anon-4711", "NONE"),
    ("curious-cat", "NONE"),
    ("first-pr-ever", "FIRST_TIME_CONTRIBUTOR"),
    ("brand-new-here", "FIRST_TIMER"),
    ("spam-merchant", "NONE"),
    ("mallory-x", "NONE"),
    ("dependabot[bot]", "NONE"),
    ("renovate[bot]", "NONE"),
    ("github-actions[bot]", "NONE"),
)


def backend(tool: str, args: Any) -> Any:
    """Answer a question of the sample guard.

    Args:
        tool: `"search_repositories"`, with a `repo:owner/name` qualifier in `query`.
        args: the tool's arguments.

    Returns:
        A page of repositories as JSON values; empty for a repository that is not listed here.

    Raises:
        LookupError: the tool is one that this backend does not have, or the query names no repository.
    """
    if tool != "search_repositories":
        raise LookupError(f"the sample backend has no tool {tool!r}, only 'search_repositories'")
    query = args.get("query", "") if isinstance(args, dict) else ""
    for term in str(query).split():
        if term.startswith("repo:"):
            return _page(term[len("repo:") :].lower())
    raise LookupError(f"the sample backend looks up one repository (repo:owner/name), got the query {query!r}")


def replies() -> list[str]:
    """All that `backend` answers to the sample guard about the sample jobs, as the lines of a table of replies."""
    lines = []
    for repository in REPOSITORIES:
        tool, args = "search_repositories", {"perPage": 10, "query": f"repo:{repository}"}
        lines.append(msgspec.json.encode({"tool": tool, "args": args, "result": backend(tool, args)}).decode())
    return lines


def _page(full_name: str) -> dict[str, Any]:
    visibility = VISIBILITY.get(full_name)
    items = [] if visibility is None else [summary(full_name, visibility)]
    return {"total_count": len(items), "incomplete_results": False, "items": items}


def summary(full_name: str, visibility: str) -> dict[str, Any]:
    """A repository as a search lists it."""
    owner, name = full_name.split("/")
    return {
        "id": 1000 + REPOSITORIES.index(full_name),
        "name": name,
        "full_name": full_name,
        "owner": {"login": owner, "type": "Organization"},
        "html_url": f"https://github.com/{full_name}",
        "private": visibility != "public",
        "visibility": visibility,
        "default_branch": "main",
        "archived": False,
    }
