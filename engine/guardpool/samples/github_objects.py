"""GitHub's objects as its API and its MCP server return them, made up."""

from __future__ import annotations

from random import Random
from typing import Any

from guardpool.samples import github_text
from guardpool.samples.repositories import PEOPLE, VISIBILITY, summary

JsonObject = dict[str, Any]

_LABELS = (
    "bug",
    "enhancement",
    "good first issue",
    "ドキュメント",
    "ready-for-agent",
    "needs-triage",
    "p1 🔥",
    "area: net",
)


def stamp(rng: Random) -> str:
    """A time, as the API writes it."""
    return (
        f"20{rng.randint(19, 25)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"
        f"T{rng.randint(0, 23):02}:{rng.randint(0, 59):02}:{rng.randint(0, 59):02}Z"
    )


def sha(rng: Random) -> str:
    return f"{rng.getrandbits(160):040x}"


def person(rng: Random) -> tuple[JsonObject, str]:
    """A user object and what GitHub says that user is to the repository."""
    login, association = rng.choice(PEOPLE)
    number = sum(map(ord, login)) * 97
    user = {
        "login": login,
        "id": number,
        "avatar_url": f"https://avatars.githubusercontent.com/u/{number}?v=4",
        "html_url": f"https://github.com/{login.removesuffix('[bot]')}",
        "type": "Bot" if login.endswith("[bot]") else "User",
        "site_admin": False,
    }
    return user, association


def _labels(rng: Random, full: bool) -> list[Any]:
    names = rng.sample(_LABELS, rng.choice((0, 0, 1, 1, 2, 3)))
    if not full:
        return list(names)
    return [
        {"id": len(n) * 31, "name": n, "color": "d73a4a", "default": n == "bug", "description": None} for n in names
    ]


def _reactions(rng: Random) -> JsonObject:
    up, heart, down = rng.randint(0, 9), rng.randint(0, 3), rng.randint(0, 2)
    return {"total_count": up + heart + down, "+1": up, "-1": down, "laugh": 0, "heart": heart, "rocket": 0, "eyes": 0}


def issue(rng: Random, repo: str, length: int, *, full: bool = True) -> JsonObject:
    user, association = person(rng)
    number = rng.randint(1, 9999)
    made: JsonObject = {
        "number": number,
        "title": github_text.title(rng),
        "state": rng.choice(("open", "open", "closed")),
        "user": user if full else {"login": user["login"]},
        "author_association": association,
        "labels": _labels(rng, full),
        "comments": rng.randint(0, 40),
        "created_at": stamp(rng),
        "updated_at": stamp(rng),
        "html_url": f"https://github.com/{repo}/issues/{number}",
        "body": github_text.body(rng, length) if length > 0 else None,
    }
    if full:
        made |= {
            "id": 10**9 + number,
            "node_id": f"I_kwDO{number:08x}",
            "url": f"https://api.github.com/repos/{repo}/issues/{number}",
            "repository_url": f"https://api.github.com/repos/{repo}",
            "assignees": [person(rng)[0] for _ in range(rng.choice((0, 0, 1, 2)))],
            "milestone": None,
            "locked": False,
            "closed_at": None,
            "reactions": _reactions(rng),
        }
    return made


def pull(rng: Random, repo: str, length: int, *, full: bool = True) -> JsonObject:
    made = issue(rng, repo, length, full=full)
    number = made["number"]
    merged = rng.random() < 0.4
    head = repo if rng.random() < 0.5 else f"{made['user']['login'].removesuffix('[bot]')}/{repo.split('/')[1]}"
    made |= {
        "html_url": f"https://github.com/{repo}/pull/{number}",
        "draft": rng.random() < 0.1,
        "state": "closed" if merged else "open",
        "merged_at": stamp(rng) if merged else None,
        "head": {"ref": rng.choice(("fix/null", "patch-1", "機能/設定")), "sha": sha(rng), "repo": _side(head)},
        "base": {"ref": "main", "sha": sha(rng), "repo": _side(repo)},
    }
    return made


def _side(full_name: str) -> JsonObject:
    visibility = VISIBILITY.get(full_name)
    if visibility is None:
        return {"full_name": full_name, "fork": True}
    return {"full_name": full_name, "private": visibility != "public", "fork": False}


def commit(rng: Random, repo: str, length: int, *, full: bool = True) -> JsonObject:
    user, _ = person(rng)
    identity = sha(rng)
    who = {"name": user["login"], "email": f"{user['login']}@users.noreply.github.com", "date": stamp(rng)}
    made: JsonObject = {
        "sha": identity,
        "html_url": f"https://github.com/{repo}/commit/{identity}",
        "commit": {
            "message": f"{github_text.title(rng)}\n\n{github_text.body(rng, length)}",
            "author": who,
            "committer": who,
        },
        "author": user if full else {"login": user["login"]},
        "committer": {"login": "web-flow"},
    }
    if full:
        made["parents"] = [{"sha": sha(rng)} for _ in range(rng.choice((1, 1, 1, 2)))]
        made["stats"] = {"total": 12, "additions": 9, "deletions": 3}
        made["files"] = [
            {"filename": f"src/part_{i}.py", "status": "modified", "patch": github_text.patch(rng, 120)}
            for i in range(2)
        ]
    return made


def comment(rng: Random, repo: str, length: int, *, full: bool = True) -> JsonObject:
    user, association = person(rng)
    identity = rng.randint(10**8, 10**9)
    made: JsonObject = {
        "id": identity,
        "user": user if full else {"login": user["login"]},
        "author_association": association,
        "body": github_text.body(rng, max(length, 20)),
        "created_at": stamp(rng),
        "html_url": f"https://github.com/{repo}/issues/{rng.randint(1, 999)}#issuecomment-{identity}",
    }
    if full:
        made["reactions"] = _reactions(rng)
    return made


def code_hit(rng: Random, repo: str, length: int, *, full: bool = True) -> JsonObject:
    path = rng.choice(("src/main.rs", "app/config.py", ".env", "docs/日本語.md", "deploy/tls/server.key", "lib/a b.js"))
    visibility = VISIBILITY.get(repo)
    repository = summary(repo, visibility) if visibility and full else {"full_name": repo}
    return {
        "name": path.rsplit("/", 1)[-1],
        "path": path,
        "sha": sha(rng),
        "html_url": f"https://github.com/{repo}/blob/main/{path}",
        "repository": repository,
        "text_matches": [
            {"fragment": github_text.code(rng, length), "matches": [{"text": "close", "indices": [4, 9]}]}
        ],
    }


def repository(rng: Random, repo: str, length: int, *, full: bool = True) -> JsonObject:
    made = summary(repo, VISIBILITY.get(repo, "private"))
    made |= {"description": github_text.body(rng, max(length, 40)), "stargazers_count": rng.randint(0, 50000)}
    if full:
        made |= {"topics": ["wasm", "セキュリティ"], "language": "Rust", "license": {"key": "apache-2.0"}, "forks": 3}
    return made


def ref(rng: Random, repo: str, length: int, *, full: bool = True) -> JsonObject:
    """A branch or a tag."""
    name = rng.choice(("main", "release/2.4", "v2.4.1", "feature/絵文字-🎉", "dependabot/npm/lru-cache-11"))
    return {"name": name, "commit": {"sha": sha(rng), "url": f"https://api.github.com/repos/{repo}"}, "protected": full}


def release(rng: Random, repo: str, length: int, *, full: bool = True) -> JsonObject:
    user, _ = person(rng)
    return {
        "id": rng.randint(1000, 99999),
        "tag_name": f"v{rng.randint(0, 9)}.{rng.randint(0, 30)}.{rng.randint(0, 9)}",
        "name": github_text.title(rng),
        "author": user if full else {"login": user["login"]},
        "body": github_text.body(rng, length),
        "html_url": f"https://github.com/{repo}/releases/tag/v1",
        "published_at": stamp(rng),
    }


def run(rng: Random, repo: str, length: int, *, full: bool = True) -> JsonObject:
    """A run of a workflow, with inputs as deep as people make them."""
    inputs: Any = {"matrix": {"os": ["ubuntu-24.04", "windows-2022"], "python": [3.12, 3.13]}, "note": "✅"}
    for level in range(rng.randint(1, 14) if full else 1):
        inputs = {"stage": level, "with": inputs, "needs": [[level], {"id": level + 1}]}
    return {
        "id": rng.randint(10**9, 10**10),
        "name": "ci",
        "display_title": github_text.title(rng),
        "head_branch": "main",
        "head_sha": sha(rng),
        "status": "completed",
        "conclusion": rng.choice(("success", "failure", "cancelled")),
        "html_url": f"https://github.com/{repo}/actions/runs/1",
        "created_at": stamp(rng),
        "inputs": inputs,
    }


def alert(rng: Random, repo: str, length: int, *, full: bool = True) -> JsonObject:
    return {
        "number": rng.randint(1, 500),
        "state": "open",
        "html_url": f"https://github.com/{repo}/security/code-scanning/1",
        "rule": {"id": "py/sql-injection", "severity": "error", "description": github_text.body(rng, length)},
        "most_recent_instance": {"ref": "refs/heads/main", "location": {"path": "app/db.py", "start_line": 88}},
    }


def discussion(rng: Random, repo: str, length: int, *, full: bool = True) -> JsonObject:
    user, association = person(rng)
    number = rng.randint(1, 900)
    return {
        "number": number,
        "title": github_text.title(rng),
        "author": {"login": user["login"]},
        "authorAssociation": association,
        "category": {"name": "Ideas 💡"},
        "url": f"https://github.com/{repo}/discussions/{number}",
        "body": github_text.body(rng, length),
    }


def notification(rng: Random, repo: str, length: int, *, full: bool = True) -> JsonObject:
    return {
        "id": str(rng.randint(10**9, 10**10)),
        "reason": rng.choice(("mention", "review_requested", "subscribed")),
        "unread": True,
        "updated_at": stamp(rng),
        "subject": {
            "title": github_text.title(rng),
            "type": "Issue",
            "url": f"https://api.github.com/repos/{repo}/issues/1",
        },
        "repository": {"full_name": repo},
    }
