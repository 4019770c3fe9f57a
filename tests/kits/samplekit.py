"""The sample guard for tests: an instance with a backend of the test's own, and the module without a host's care."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import enginekit
import guardkit
from guardpool import samples
from guardpool_worker.engine.bundle import LoadedGuard
from guardpool_worker.instance import GuardInstance, InstanceSettings

ALL = ("none:all", "unapproved:all", "approved:all", "merged:all")
NONE, UNAPPROVED, APPROVED, MERGED = (list(ALL[:n]) for n in (1, 2, 3, 4))
BLOCKED: list[str] = []
PUBLIC: list[str] = []
PRIVATE = ["private:o/r"]

POLICY: dict[str, Any] = {
    "allow-only": {
        "repos": "all",
        "min-integrity": "approved",
        "blocked-users": ["Mallory"],
        "trusted-users": ["lead"],
        "approval-labels": ["Ready"],
        "refusal-labels": "spam, on hold\nwontfix",
    },
    "trusted-bots": ["ci[bot]"],
}


READS = """
issue_read get_issue list_issues search_issues get_issue_comments pull_request_read get_pull_request
list_pull_requests search_pull_requests get_commit list_commits search_commits get_file_contents search_code
get_repository search_repositories list_branches list_tags list_releases get_latest_release actions_list
get_job_logs list_discussions get_discussion_comments list_code_scanning_alerts get_dependabot_alert list_gists
list_notifications get_me search_users projects_list
""".split()  # noqa: SIM905
WRITES = """
create_issue add_issue_comment create_pull_request create_branch create_or_update_file delete_file push_files
label_write actions_run_trigger create_repository fork_repository create_gist star_repository
""".split()  # noqa: SIM905
READ_WRITES = """
issue_write sub_issue_write update_issue update_pull_request merge_pull_request pull_request_review_write
update_gist manage_notification_subscription
""".split()  # noqa: SIM905


@cache
def loaded() -> LoadedGuard:
    return guardkit.load(samples.GUARD.read_bytes())


class Labeller:
    """An instance of the sample guard with a policy, and a backend that knows the repositories it is told of."""

    def __init__(self, policy: dict[str, Any] | None = None, log_threshold: int = 4, **visibility: str) -> None:
        self.visibility = {name.replace("__", "/"): word for name, word in visibility.items()}
        self.asked: list[str] = []
        limits = InstanceSettings("github", log_threshold=log_threshold, has_backend=True, max_log_bytes=1 << 20)
        self.instance = GuardInstance(loaded(), limits, self._answer)
        self.agent = json.loads(self.instance.label_agent(json.dumps(policy or POLICY).encode()))
        self.logs: list[Any] = []

    def _answer(self, tool: str, arguments: bytes) -> bytes:
        query = json.loads(arguments)["query"]
        assert tool == "search_repositories"
        name = query.removeprefix("repo:")
        self.asked.append(name)
        word = self.visibility.get(name)
        found = [{"full_name": "some/other", "private": False}]
        if word is not None:
            found.append({"full_name": name.upper(), "private": word != "public", "visibility": word})
        return json.dumps({"items": found}).encode()

    def raw(self, op: str, payload: bytes) -> Any:
        result = self.instance.call(op, payload)
        self.logs = result.logs
        return result

    def _label(self, op: str, call: dict[str, Any]) -> Any:
        result = self.raw(op, json.dumps(call).encode())
        assert result.status == "ok", result.error
        return json.loads(result.label)

    def resource(self, tool: str, args: Any = None) -> Any:
        return self._label("label_resource", {"tool_name": tool, "tool_args": args})

    def response(self, tool: str, result: Any, args: Any = None) -> Any:
        return self._label("label_response", {"tool_name": tool, "tool_args": args, "tool_result": result})

    def integrity_of(self, tool: str, item: Any, args: Any = None) -> list[str]:
        """The integrity of one item on a page."""
        (path,) = self.response(tool, [item], args or O_R)["labeled_paths"]
        return list(path["integrity"])


O_R = {"owner": "o", "repo": "r"}
PUBLIC_REPO = {"o__r": "public"}
PRIVATE_REPO = {"o__r": "private"}


class RawGuard:
    """The module as a host sees it, without the host's care."""

    def __init__(self) -> None:
        log = enginekit.host_function(lambda *_: None, "iii", "")
        backend = enginekit.host_function(lambda *_: -1, "iiiiii", "i")
        self.module = loaded().guard.instantiate({"env": {"host_log": log, "call_backend": backend}})
        self.alloc, self.dealloc = self.module.function("alloc"), self.module.function("dealloc")

    def write(self, payload: bytes) -> int:
        ptr = self.alloc(max(len(payload), 1))
        assert ptr > 0
        self.module.memory_view()[ptr : ptr + len(payload)] = payload
        return int(ptr)

    def read(self, ptr: int, length: int) -> bytes:
        return bytes(self.module.memory_view()[ptr : ptr + length])

    def call(self, name: str, call: Any, out_cap: int = 65536) -> Any:
        payload = json.dumps(call).encode()
        given, out = self.write(payload), self.alloc(out_cap)
        size = self.module.function(name)(given, len(payload), out, out_cap)
        answer = size if size < 0 else json.loads(self.read(out, size))
        self.dealloc(out, out_cap)
        self.dealloc(given, len(payload))
        return answer


def text_parts(*parts: Any) -> dict[str, Any]:
    """An MCP result whose text parts are `parts`."""
    return {"content": [{"type": "text", "text": part} for part in parts]}
