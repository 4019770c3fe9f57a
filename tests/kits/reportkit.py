"""Decisions to report on: any number of them from a seed, alike real ones in what they hold, and some that attack a report."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

import msgspec

from guardpool.decide.record import DecisionRecord, read_record

LEVELS = ("none", "unapproved", "approved", "merged")
TOOLS = ("list_issues", "search_issues", "get_issue", "list_commits", "get_file_contents", "get_pull_request_diff")
WRITES = ("add_issue_comment", "create_pull_request")
_ASSOCIATIONS = ("NONE", "CONTRIBUTOR", "MEMBER", "OWNER")

# What strangers write to break what is made of it: each stands in a title, a login, a repository's name, a tool's name.
ATTACKS = (
    '=HYPERLINK("http://evil.example","x")',
    "+cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(1)",
    "\tTAB",
    "\rCR",
    "@octocat please look, fixes #7, closes acme/web#8 and GH-9",
    "https://evil.example/?q=1 www.evil.example",
    "[click](javascript:alert(1)) ![x](https://evil.example/p.png) <img src=x onerror=alert(1)>",
    "<script>alert(1)</script></script><!--",
    "</td></table>|`|```\n# heading\n- [x] done",
    "\u202edesrever\u2066",
    "\x1b[31mred\x1b]0;title\x07\x00\x7f\x9b",
    "line\u2028separator\u2029",
    "{{7*7}}{% raw %}",
    "]]><!ENTITY x SYSTEM 'file:///etc/passwd'>&x;",
    'a,b;"c"\n"d"',
    "\ufeffbom\uffff",
    "javascript:alert(1)",
    "../../etc/passwd",
)


def tags_up_to(level: str, scope: str = "all") -> list[str]:
    """The integrity tags that content of a level has."""
    return [f"{each}:{scope}" for each in LEVELS[: LEVELS.index(level) + 1]]


def decisions(count: int, seed: int = 0, *, events: bool = True) -> Iterator[dict[str, Any]]:
    """`count` decisions as values. About one of four has a finding; `events`: the log has what was filtered."""
    random = Random(seed)
    repositories = [f"acme/{name}" for name in ("web", "api", "docs", "infra", "mobile")]
    authors = [f"user{number}" for number in range(max(12, count // 50))]
    for number in range(count):
        write = random.random() < 0.12
        tool = random.choice(WRITES if write else TOOLS)
        server = "linear" if random.random() < 0.03 else "github"
        repository = random.choices(repositories, (8, 4, 2, 1, 1))[0]
        day = f"2026-11-{1 + number * 20 // max(count, 1):02}"
        run = number // 40
        one: dict[str, Any] = {
            "v": 1,
            "call": f"run-{run:05}/mcp-logs/rpc-messages.jsonl#{2 * (number % 40) + 1}",
            "session": f"{run:05x}{random.getrandbits(44):011x}",
            "server": server,
            "tool": tool,
            "at": f"{day}T{random.randrange(24):02}:{random.randrange(60):02}:07.123456789Z",
            "run": f"run-{run:05}",
            "workflow": random.choice(("triage", "review", "nightly")),
            "repository": repository,
            "args": {"owner": "acme", "repo": repository[5:], "page": random.randrange(9)},
            "result_is": "raw",
            "mode": "filter",
            "rules": "gateway",
            "operation": "write" if write else "read",
            "coarse": "allowed",
            "verdict": "whole",
            "agent_before": {"secrecy": [], "integrity": tags_up_to("approved")},
            "agent_after": {"secrecy": [], "integrity": tags_up_to("approved")},
            "differs": None,
            "agrees": "yes" if events else "unknown",
        }
        if server == "github":
            one |= {"guard": "github", "guard_sha256": "3f2a" + "0" * 60, "policy_sha256": "9c1e" + "0" * 60}
            level = random.choices(LEVELS, (5, 2, 8, 3))[0]
            resource = {"description": f"repo:{repository}", "secrecy": [], "integrity": tags_up_to(level)}
            one["resource"] = resource
        _decide(one, random, authors, write)
        yield one


def _decide(one: dict[str, Any], random: Random, authors: list[str], write: bool) -> None:
    draw = random.random()
    if one["server"] == "linear":
        one |= {"verdict": "denied", "coarse": "denied", "unsafe": ["B23"], "failed": [_integrity("none")]}
        one["agrees"] = "unknown"
    elif draw < 0.03:
        one |= {"verdict": "undecided", "why": "no-recorded-result", "result_is": "not-recorded", "agrees": "unknown"}
        del one["differs"]
    elif write:
        if draw < 0.2:
            rule = {"rule": "write-secrecy", "extra": ["private:acme/web"]}
            one |= {"verdict": "denied", "coarse": "denied", "failed": [rule], "unsafe": ["B10"]}
    elif one["tool"] in ("list_issues", "search_issues", "list_commits"):
        _items(one, random, authors)
    elif one["tool"] == "get_pull_request_diff" and draw < 0.4:
        one |= {"coarse": "bypass", "failed": [_integrity("none")], "unsafe": ["B1", "B3"]}
        one["differs"] = {"coarse": "bypass", "verdict": "single-item-error", "failed": [_integrity("none")]}
    if random.random() < 0.2 and one.get("guard"):
        one["enrichment"] = {
            "asked": 2,
            "answered": 1,
            "missing": [{"tool": "get_collaborator_permission", "args": {}}],
        }


def _items(one: dict[str, Any], random: Random, authors: list[str]) -> None:
    seen: dict[tuple[str, str, str], list[int]] = {}
    filtered, total = [], random.choice((0, 3, 8, 15, 30))
    for index in range(total):
        at = min(int(random.expovariate(6 / len(authors))), len(authors) - 1)
        association = _ASSOCIATIONS[at % 4] if at % 3 else "NONE"
        level = "none" if association == "NONE" else random.choice(("unapproved", "approved", "approved", "merged"))
        counted = seen.setdefault((authors[at], association, level), [0, 0])
        counted[1] += 1
        if level in ("approved", "merged"):
            counted[0] += 1
            continue
        number = random.randrange(1, 5000)
        item = {
            "index": index,
            "pointer": f"/items/{index}",
            "description": f"issue:{one['repository']}#{number}",
            "number": number,
            "author": authors[at],
            "association": association,
            "url": f"https://github.com/{one['repository']}/issues/{number}",
            "integrity": tags_up_to(level),
            "failed": [_integrity(level)],
            "would_pass_with": {"min-integrity": level},
        }
        filtered.append(item)
    shown = total - len(filtered)
    one |= {
        "verdict": "items",
        "coarse": "bypass",
        "items": {"total": total, "shown": shown, "filtered": len(filtered)},
        "filtered": filtered,
        "seen": [
            {"author": author, "association": association, "level": level, "shown": counts[0], "total": counts[1]}
            for (author, association, level), counts in seen.items()
        ],
    }
    if filtered:
        one["observed"] = {"filtered": [{"description": item["description"]} for item in filtered]}
    if random.random() < 0.25:
        one |= {"lost": ["/total_count"], "unsafe": ["B5"]}
    if random.random() < 0.02:
        one["agrees"] = "no"


def _integrity(level: str) -> dict[str, Any]:
    missing = [f"{each}:all" for each in LEVELS[LEVELS.index(level) + 1 : 3]]
    return {"rule": "read-integrity", "missing": sorted(missing), "level": missing[-1].partition(":")[0]}


def attacked() -> Iterator[dict[str, Any]]:
    """One decision for each of `ATTACKS`, which stands wherever a stranger may write."""
    for one, words in zip(decisions(len(ATTACKS)), ATTACKS):
        rule = {"rule": "read-integrity", "missing": [words], "level": "approved", "detail": words}
        item = {"index": 0, "description": words, "author": words, "association": words, "url": words, "number": words}
        yield one | {
            **dict.fromkeys(("session", "server", "tool", "workflow", "repository", "run"), words),
            "call": f"{words}#3",
            "verdict": "items",
            "guard": words,
            "args": {words: words},
            "resource": {"description": words, "integrity": [words], "secrecy": [words]},
            "failed": [rule],
            "items": {"total": 1, "shown": 0, "filtered": 1},
            "filtered": [{**item, "integrity": [words], "failed": [rule], "would_pass_with": {words: words}}],
            "seen": [{"author": words, "association": words, "level": words, "total": 1}],
            "lost": [words],
            "unsafe": ["B5", words],
            "agrees": "no",
            "enrichment": {"asked": 1, "missing": [{"tool": words, "args": {words: words}}]},
        }


def lines(values: Iterator[dict[str, Any]]) -> bytes:
    """The lines of decisions."""
    encode = msgspec.json.Encoder().encode
    return b"".join(encode(value) + b"\n" for value in values)


def records(values: Iterator[dict[str, Any]]) -> Iterator[DecisionRecord]:
    """Decisions as they are read from their lines."""
    for value in values:
        yield read_record(msgspec.json.encode(value))
