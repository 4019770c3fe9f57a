"""Live MCP servers as backends: what they may be asked, what comes back, and everything that they can do wrong."""

from __future__ import annotations

import contextlib
import contextvars
import gc
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from guardpool import GuardPool, Job, Limits
from guardpool.backends import BackendFailed, First, McpServer, NoReply, Recorder, mcp_process, mcp_server, mcp_session
from guardpool.backends.asking import GUARD_THAT_ASKS
from guardpool.errors import CallerError
from mcpkit import ENV, Reply, bad_command, http_stub, noted, real_command, real_http, result
from poolkit import WAIT_S, guard, pool, wait_until, wait_until_gone

MIB = 1024 * 1024
# For servers that do not go by themselves.
QUICKLY = ((None, 0.1), (signal.SIGTERM, 0.1), (signal.SIGKILL, WAIT_S))
TOKEN = "a-t0ken-that-nobody-may-see"


def failure_of(server: McpServer, tool: str = "ask", args: Any = None) -> str:
    """Why the question has no answer."""
    with pytest.raises(BackendFailed) as caught:
        server(tool, args)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def bad(how: str, notes: Path | None = None, **options: Any) -> McpServer:
    return McpServer.stdio(bad_command(how, notes), env=ENV, **options)


def pid_of(server: McpServer) -> int:
    """The process that answers."""
    return int(server("ask", {"how": "well"})["content"][0]["text"])


@dataclass
class Talk:
    """What became of the questions to one real server."""

    answers: dict[str, Any] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    refused: int = 0

    def ask(self, server: McpServer, name: str, tool: str, args: Any = None) -> None:
        try:
            self.answers[name] = server(tool, args)
        except BackendFailed as error:
            self.failures[name] = str(error)


OPTIONS: dict[str, Any] = {"timeout_s": WAIT_S, "allow_tools": ["add_comment"]}


@pytest.fixture(scope="module")
def stdio_talk(tmp_path_factory: pytest.TempPathFactory) -> Talk:
    """A talk with a real server that is a process of ours."""
    talk, notes = Talk(), tmp_path_factory.mktemp("talk") / "notes"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NAMED", "yes")
        patch.setenv("NOT_NAMED", "no")
        with McpServer.stdio(real_command(notes), env=[*ENV, "NAMED"], **OPTIONS) as server:
            talk_to(server, talk, notes)
    return talk


@pytest.fixture(scope="module")
def http_talk(tmp_path_factory: pytest.TempPathFactory) -> Talk:
    """A talk with a real server on HTTP, which wants a token, and is killed in the end."""
    talk, notes = Talk(), tmp_path_factory.mktemp("talk") / "notes"
    with pytest.MonkeyPatch.context() as patch, real_http(notes, RIGHT=TOKEN) as http:
        patch.setenv("RIGHT", TOKEN)
        patch.setenv("WRONG", "another-t0ken")
        with McpServer.http(http.url) as server:
            talk.ask(server, "no token", "fail", {})
        with McpServer.http(http.url, token_env="WRONG") as server:
            talk.ask(server, "wrong token", "fail", {})
        with McpServer.http(http.url, header_env={"authorization": "WRONG"}) as server:
            talk.ask(server, "wrong header", "fail", {})
        with McpServer.http(http.url, token_env="RIGHT", **OPTIONS) as server:
            talk_to(server, talk, notes)
        with McpServer.http(http.url, token_env="RIGHT", timeout_s=0.2) as server:
            talk.ask(server, "hangs", "hang", {})
            wait_until(lambda: "cancelled" in noted(notes), "the cancellation")
            http.kill()
            talk.ask(server, "killed", "fail", {})
    return talk


@pytest.fixture(params=["stdio", "http"])
def talk(request: pytest.FixtureRequest) -> Talk:
    """What a real server answered, and what it saw."""
    talk: Talk = request.getfixturevalue(f"{request.param}_talk")
    return talk


def talk_to(server: McpServer, talk: Talk, notes: Path) -> None:
    talk.ask(server, "plain", "get_issue", {"a": None, "b": [1.5, "é"], "c": {}})
    talk.ask(server, "nothing", "get_issue")
    talk.ask(server, "facts", "facts", {})
    talk.ask(server, "writing", "create_issue", {"title": "t"})
    talk.ask(server, "unknown", "delete_everything", {})
    talk.ask(server, "allowed", "add_comment", {"title": "t"})
    talk.ask(server, "asks back", "ask_back", {})
    talk.ask(server, "error", "fail", {})
    talk.ask(server, "large", "large", {"bytes": 2 * MIB})
    talk.ask(server, "too large", "large", {"bytes": 17 * MIB})
    talk.ask(server, "no object", "get_issue", [1])
    with ThreadPoolExecutor(8) as threads:
        answers = [*threads.map(lambda number: server("get_issue", {"number": number}), range(64))]
    talk.answers["at once"] = [json.loads(each["content"][0]["text"])["args"]["number"] for each in answers]
    talk.refused = server.refused
    talk.notes = noted(notes)
    talk.ask(server, "turn", "turn", {})

    def is_turned() -> bool:  # over HTTP the news may come after the answer
        talk.ask(server, "turned", "get_issue", {})
        return "turned" in talk.failures

    wait_until(is_turned, "the news of the tools")


def test_the_whole_result_is_handed_on_as_it_came(talk: Talk) -> None:
    text = json.dumps({"tool": "get_issue", "args": {"a": None, "b": [1.5, "é"], "c": {}}})
    assert talk.answers["plain"] == {"content": [{"type": "text", "text": text}], "isError": False}
    facts = talk.answers["facts"]
    assert facts["_meta"] == {"cost": 1}
    assert facts["structuredContent"]["pid"] != os.getpid()
    assert talk.answers["error"] == {"content": [{"type": "text", "text": "no such thing"}], "isError": True}
    assert json.loads(talk.answers["nothing"]["content"][0]["text"])["args"] == {}
    assert len(talk.answers["large"]["content"][0]["text"]) == 2 * MIB


def test_a_writing_tool_is_refused_and_counted_and_the_server_never_saw_it(talk: Talk) -> None:
    assert talk.failures["writing"] == (
        "the tool create_issue was not called: the server does not declare it read-only, and it is not in "
        "allow_tools (--backend-allow)"
    )
    assert "was not called" in talk.failures["unknown"]
    assert talk.refused == 2
    assert not {"create_issue", "delete_everything"} & {*talk.notes}
    assert talk.notes.count("add_comment") == 1  # which is writing, too, and was allowed by its name
    assert not talk.answers["allowed"]["isError"]


def test_what_a_server_asks_back_is_declined(talk: Talk) -> None:
    declined = json.loads(talk.answers["asks back"]["content"][0]["text"])
    assert declined == ["Sampling not supported", "Elicitation not supported", "List roots not supported"]


def test_an_answer_that_is_too_large_fails_alone(talk: Talk) -> None:
    assert "limit" in talk.failures["too large"]
    assert talk.notes.count("started") == 1
    assert talk.answers["at once"] == [*range(64)]


def test_arguments_that_are_no_object_are_told(talk: Talk) -> None:
    assert talk.failures["no object"] == "the arguments of get_issue are not an object"


def test_tools_are_listed_again_when_the_server_says_so(talk: Talk) -> None:
    assert "was not called: the server does not declare it read-only" in talk.failures["turned"]


def test_a_server_gets_the_named_variables_and_those_it_needs(stdio_talk: Talk) -> None:
    environment = stdio_talk.answers["facts"]["structuredContent"]["environment"]
    assert environment["NAMED"] == "yes"
    # LC_CTYPE is what Python itself sets where there is no locale.
    assert environment.keys() <= {*mcp_server.ENVIRONMENT, "NAMED", *ENV, "LC_CTYPE"}
    assert environment["PATH"] == os.environ["PATH"]


def test_a_token_comes_from_a_variable_and_is_never_shown(http_talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    talk = http_talk
    refused = "refused: HTTP 401 Unauthorized: "
    assert f"{refused}name the environment variable of its token" in talk.failures["no token"]
    assert talk.failures["wrong token"].endswith(f"{refused}the token in WRONG is not the right one")
    assert refused in talk.failures["wrong header"]
    assert talk.failures["hangs"].endswith("gave no answer within 0.2 s")
    assert "cannot be reached: " in talk.failures["killed"] or "broke off: " in talk.failures["killed"]
    assert not [said for said in talk.failures.values() if TOKEN in said or "another-t0ken" in said]
    monkeypatch.setenv("RIGHT", TOKEN)

    def repeats(message: Any, headers: dict[str, str]) -> Reply:
        error = {"code": 1, "message": f"no rights: {headers['authorization']}"}
        return Reply(400, json.dumps({"jsonrpc": "2.0", "id": message["id"], "error": error}).encode())

    with http_stub(repeats) as url, McpServer.http(url, token_env="RIGHT") as server:
        assert failure_of(server).endswith("answered with an error: no rights: Bearer ***")


def test_each_guard_has_its_own_number_of_different_questions(tmp_path: Path) -> None:
    def as_guard(name: str, tool: str, args: Any) -> Any:
        context = contextvars.copy_context()
        context.run(GUARD_THAT_ASKS.set, name)
        return context.run(server, tool, args)

    with bad("well", tmp_path / "notes", max_questions=2) as server:
        for args in ({"n": 1}, {"n": 2}, {"n": 1.0}):
            assert as_guard("a", "ask", args)
        with pytest.raises(BackendFailed, match="the guard asked 2 different questions before, and has no more"):
            as_guard("a", "ask", {"n": 3})
        assert as_guard("a", "ask", {"n": 2})
        assert as_guard("b", "ask", {"n": 3})
        server.close()
        with pytest.raises(BackendFailed, match="2 different questions"):  # a new session is no way out
            as_guard("a", "ask", {"n": 4})
        assert server.refused == 2


def test_a_pool_says_which_guard_asks_through_whatever_wraps_the_backend(tmp_path: Path) -> None:
    def knows_nothing(_tool: str, _args: Any) -> Any:
        raise NoReply("-")

    def says(_tool: str, _args: Any) -> Any:
        return GUARD_THAT_ASKS.get()

    async def says_later(_tool: str, _args: Any) -> Any:
        return GUARD_THAT_ASKS.get()

    recorders = {
        name: Recorder(First(knows_nothing, backend), tmp_path / name)
        for name, backend in {"first": says, "other": says_later}.items()
    }
    with pool(*(guard(name, wat="backend", backend=recorder) for name, recorder in recorders.items()), workers=1) as p:
        for name in recorders:
            assert p.label_resource("get_issue", {}, guard=name).status == "refused"
    for name, recorder in recorders.items():
        recorder.close()
        assert json.loads((tmp_path / name).read_bytes())["result"] == name
    assert GUARD_THAT_ASKS.get() is None


def test_a_server_that_is_killed_twice_costs_its_questions_and_no_job(tmp_path: Path) -> None:
    limits = Limits(timeout_s=WAIT_S, backend_timeout_s=WAIT_S, keep_logs=True)
    with bad("well", tmp_path / "notes", timeout_s=WAIT_S) as server:

        def job(number: int) -> Job:
            args = {"n": number, "how": "killed" if number in (20, 40) else "well"}
            return Job(number, "label_resource", "get_issue", args)

        with pool(guard("backend", backend=server), workers=1, limits=limits) as p:
            outcomes = [*p.map(map(job, range(60)))]
            wait_until(lambda: p.label_resource("get_issue", {"how": "well"}).backend.answered, "it is started again")
    assert [outcome.id for outcome in outcomes] == [*range(60)]
    assert {outcome.status.value for outcome in outcomes} == {"refused"}
    told = {o.id: line.text for o in outcomes for line in o.logs if line.text.startswith("backend: ")}
    unanswered = {outcome.id for outcome in outcomes if outcome.error and outcome.error.guard_code == -100_001}
    assert told.keys() == unanswered == {outcome.id for outcome in outcomes if outcome.backend.failed}
    assert {20, 40} <= unanswered <= {20, *range(40, 60)}  # after the second death it waits
    assert "was killed by SIGKILL" in told[20]
    assert len((tmp_path / "notes").read_text().split()) == 3


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("dies-in-start", "ended with exit status 4; its last line on stderr: \\x1b[31mno licence\\x1b[0m"),
        ("hangs-in-start", "was not ready within 0.5 s"),
        ("lists-for-ever", "names more than 10,000 tools, or does not come to an end with them"),
        ("old", "Unsupported protocol version from the server: 1999-01-01"),
    ],
)
def test_a_server_that_does_not_start_is_told_and_not_hammered(
    how: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mcp_process, "_STEPS_S", ((None, 0.1), (signal.SIGTERM, WAIT_S), (signal.SIGKILL, WAIT_S)))
    monkeypatch.setattr(mcp_server, "_FIRST_DELAY_S", WAIT_S)  # a busy machine may be long in asking again
    limit = 0.5 if how == "hangs-in-start" else WAIT_S
    with bad(how, tmp_path / "notes", start_timeout_s=limit) as server:
        assert says in failure_of(server)
        again = failure_of(server)
        assert says in again
        assert re.search(r"; it is started again [123]\d\.\d s", again)
        assert len([line for line in noted(tmp_path / "notes") if line != "cancelled"]) == 1


def test_a_command_that_is_not_there_is_told() -> None:
    says = r"^the MCP server such-server cannot be started: No such file"
    with McpServer.stdio(["/no/such-server"]) as server, pytest.raises(BackendFailed, match=says):
        server.connect()


@pytest.mark.parametrize(
    ("how", "says", "starts"),
    [
        ("says", "wrote something to its standard output that is not a message of MCP: DEBUG: 1 row", 2),
        ("not-a-result", "answered something that does not fit the protocol", 1),
        ("error", "answered with an error: no ***", 1),
        ("endless", "answered with an error: the answer is over the limit of 16,777,216 bytes", 1),
        ("killed", "was killed by SIGKILL", 2),
        ("closes", "closed its standard output", 2),
    ],
)
def test_a_bad_answer_costs_one_question_and_the_next_is_answered(
    how: str, says: str, starts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY", TOKEN)
    monkeypatch.setattr(mcp_process, "_STEPS_S", QUICKLY)
    command = bad_command("well", tmp_path / "notes")
    with McpServer.stdio(command, env=[*ENV, "KEY"], timeout_s=WAIT_S) as server:
        assert failure_of(server, "ask", {"how": how}) == f"the MCP server {Path(sys.executable).name} {says}"
        assert pid_of(server)
        assert len((tmp_path / "notes").read_text().split()) == starts


def test_a_greeting_and_a_flood_on_stderr_do_no_harm() -> None:
    with bad("greets", timeout_s=WAIT_S) as server:
        assert not server("ask", {"how": "chatters"})["isError"]


def test_a_question_that_takes_too_long_is_cancelled(tmp_path: Path) -> None:
    with bad("well", tmp_path / "notes", timeout_s=0.5) as server:
        first = pid_of(server)
        assert failure_of(server, "ask", {"how": "ignores"}).endswith("gave no answer within 0.5 s")
        wait_until(lambda: "cancelled" in (tmp_path / "notes").read_text(), "the cancellation")
        assert pid_of(server) == first


def test_a_server_that_hangs_is_ended_and_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mcp_session, "_PING_S", 0.1)
    monkeypatch.setattr(mcp_process, "_STEPS_S", QUICKLY)
    with bad("well", tmp_path / "notes", timeout_s=0.5) as server:
        first = pid_of(server)
        assert failure_of(server, "ask", {"how": "stuck"}).endswith("gave no answer within 0.5 s")
        wait_until_gone(first)
        wait_until(lambda: _answers(server), "it is started again")
        assert pid_of(server) != first


def _answers(server: McpServer) -> bool:
    with contextlib.suppress(BackendFailed):
        return bool(server("ask", {"how": "well"}))
    return False


@pytest.mark.parametrize("how", ["stays", "leaves-a-child"])
def test_nothing_is_left_of_a_server_that_does_not_go(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mcp_process, "_STEPS_S", QUICKLY)
    server = bad(how, tmp_path / "notes")
    server.connect()
    pids = [*map(int, (tmp_path / "notes").read_text().split())]
    assert len(pids) == (1 if how == "stays" else 2)
    server.close()
    assert not psutil.pid_exists(pids[0])
    # Another process's child is a zombie until init has waited for it.
    wait_until(lambda: not any(map(_runs, pids)), "the end of the child")
    server.close()


def _runs(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def test_a_question_after_close_starts_the_server_again(tmp_path: Path) -> None:
    with bad("well") as server:
        first = pid_of(server)
        server.close()
        assert not psutil.pid_exists(first)
        assert pid_of(server) != first


def test_close_ends_the_calls_that_are_being_made(tmp_path: Path) -> None:
    with bad("well", tmp_path / "notes", timeout_s=WAIT_S) as server:
        server.connect()
        said: list[str] = []
        thread = threading.Thread(target=lambda: said.append(failure_of(server, "ask", {"how": "ignores"})))
        thread.start()
        session = server._session
        assert session is not None
        wait_until(lambda: session._calls, "the call")
        server.close()
        thread.join(WAIT_S)
        assert said[0].endswith("was closed")


def test_a_server_ends_with_its_pool_and_starts_again_with_the_next(tmp_path: Path) -> None:
    server = bad("well", timeout_s=WAIT_S)
    backend = First(server)
    pids = []
    for end in (GuardPool.close, GuardPool.kill):
        with pool(guard("backend", backend=backend), guard("other", wat="backend", backend=backend), workers=1) as p:
            assert p.label_resource("get_issue", guard="other").backend.answered == 1
            pids.append(pid_of(server))
            end(p)
            assert not psutil.pid_exists(pids[-1])
    assert len({*pids}) == 2


def test_a_start_that_is_given_up_ends_the_server_at_the_first_signal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signals: list[int] = []

    def signal_group(pgid: int, signum: int) -> None:
        signals.append(signum)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pgid, signum)

    monkeypatch.setattr(mcp_process, "_signal_group", signal_group)
    monkeypatch.setattr(mcp_process, "_STEPS_S", ((None, 0.1), (signal.SIGTERM, 2.0), (signal.SIGKILL, 2.0)))
    server = bad("hangs-in-start", tmp_path / "notes")
    said: list[str] = []
    thread = threading.Thread(target=lambda: said.append(failure_of(server)))
    thread.start()
    wait_until(lambda: noted(tmp_path / "notes"), "the server")
    server.close()
    thread.join(WAIT_S)
    assert said[0].endswith("was closed")
    assert signals == [signal.SIGTERM, signal.SIGKILL]  # the last is for what it may have started


def test_a_server_that_is_forgotten_is_ended(tmp_path: Path) -> None:
    server = bad("well")
    pid = pid_of(server)
    del server
    gc.collect()
    assert not psutil.pid_exists(pid)


def test_forks_have_servers_of_their_own_and_an_exit_leaves_none(tmp_path: Path) -> None:
    code = f"""
import os
from guardpool.backends import McpServer
server = McpServer.stdio({bad_command("well")!r}, env={ENV!r})
ask = lambda: server("ask", {{}})["content"][0]["text"]
first = ask()
child = os.fork()
if not child:
    print(ask(), flush=True)
    server.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert ask() == first
print(first)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code], capture_output=True, text=True, timeout=WAIT_S
    )
    assert done.stderr == ""
    of_the_fork, of_the_parent = map(int, done.stdout.split())
    assert of_the_fork != of_the_parent
    assert not psutil.pid_exists(of_the_fork)
    assert not psutil.pid_exists(of_the_parent)


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (Reply(500), "answered with an error: HTTP 500 Internal Server Error"),
        (Reply(404), "answered with an error: HTTP 404 Not Found"),
        (Reply(403), "refused: HTTP 403 Forbidden: name the environment variable of its token"),
        (Reply(202), "answered with an error: server answered a request with 202 Accepted"),
        (Reply(body=b"rows: 1"), "answered something that is not a message of MCP"),
        (Reply(body=b"<html>", content_type="text/html"), "answered with an error: Unexpected content type: text/html"),
        (Reply(body=b" " * (17 * MIB)), "the answer is over the limit of 16,777,216 bytes"),
    ],
    ids=["500", "404", "403", "202", "garbage", "html", "large"],
)
def test_a_bad_answer_over_http_is_told(reply: Reply, says: str) -> None:
    with http_stub(lambda message, headers: reply) as url, McpServer.http(url) as server:
        assert says in failure_of(server)


def test_a_redirect_to_another_origin_is_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RIGHT", TOKEN)
    seen: list[str] = []

    def other(message: Any, headers: dict[str, str]) -> Reply:
        seen.append(headers["authorization"])
        return result(message, {"content": []})

    with http_stub(other, other) as elsewhere:
        redirect = Reply(307, location=elsewhere)
        with http_stub(lambda m, h: redirect) as url, McpServer.http(url, token_env="RIGHT") as server:
            assert f"Redirect to {elsewhere} not followed" in failure_of(server)
        with http_stub(other, lambda m, h: redirect) as url, McpServer.http(url, token_env="RIGHT") as server:
            assert f"Redirect to {elsewhere} not followed" in failure_of(server)
    assert seen == []


def test_a_session_that_the_server_forgot_is_made_again() -> None:
    starts: list[str] = []

    def start(message: Any, headers: dict[str, str]) -> Reply:
        starts.append(f"s{len(starts)}")
        server = {"name": "stub", "version": "1"}
        reply = result(message, {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": server})
        reply.session = starts[-1]
        return reply

    def call(message: Any, headers: dict[str, str]) -> Reply:
        known = headers["mcp-session-id"] == "s1"
        return result(message, {"content": []}) if known else Reply(404)

    with http_stub(call, start) as url, McpServer.http(url) as server:
        assert failure_of(server).endswith("does not know the session any more")
        assert server("ask", {}) == {"content": []}
    assert starts == ["s0", "s1"]


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("https://me:pa55@host/mcp", "has a user in it: name the environment variable"),
        ("https://me@host/mcp", "has a user in it"),
        ("http://host/mcp", "must be https, or http on this machine; not http://host/mcp"),
        ("http://localhost.evil.example/", "must be https"),
        ("ftp://localhost/", "must be https"),
        ("https:///mcp", "must be like https://host/mcp"),
        ("https://host:99999/", "cannot be used"),
        ("https://[::1/", "cannot be used"),
        ("https://host/#part", "must be like"),
        ("https://host/a\nb", "must be like"),
    ],
)
def test_urls_that_cannot_be_used_are_refused(url: str, says: str) -> None:
    with pytest.raises(CallerError) as caught:
        McpServer.http(url)
    assert says in str(caught.value)
    assert "pa55" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: McpServer.stdio("server stdio"), "takes a command as a list of words"),
        (lambda: McpServer.stdio([]), "takes a command as a list of words"),
        (lambda: McpServer.stdio(["s"], env="TOKEN"), "must be a list of names"),
        (lambda: McpServer.stdio(["s"], env=["NO_SUCH"]), "the environment variable NO_SUCH is not set"),
        (lambda: McpServer.stdio(["s"], allow_tools="create_issue"), "allow_tools must be a list"),
        (lambda: McpServer.stdio(["s"], max_questions=-1), "max_questions must be a whole number from 0"),
        (lambda: McpServer.stdio(["s"], timeout_s=0), "timeout_s must be a number of seconds"),
        (lambda: McpServer.http("https://host/", token_env="NO_SUCH"), "the environment variable NO_SUCH is not set"),
        (lambda: McpServer.http("https://host/", token_env="LINES2"), "holds characters that no header may have"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused(
    make: Callable[[], Any], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LINES2", "a\nInjected: yes")
    with pytest.raises(CallerError, match=says):
        make()


def test_without_the_sdk_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mcp", None)
    with pytest.raises(CallerError, match=r'which is not installed: run: pip install "guardpool\[mcp\]"'):
        McpServer.stdio(["server"])


def test_restarts_come_later_and_later_and_soon_after_an_accident() -> None:
    restarts = mcp_server.Restarts(chance=lambda: 1.0)
    restarts.failed("died", 100.0, lived_s=5.0)
    assert (restarts.due, restarts.reason) == (100.0, "died")
    delays = []
    for _ in range(12):
        restarts.failed("died", 100.0, lived_s=0.1)
        delays.append(restarts.due - 100.0)
    assert delays[:4] == [0.25, 0.5, 1.0, 2.0]
    assert delays[-1] == 15.0
    restarts.failed("died", 200.0, lived_s=61.0)
    assert restarts.due == 200.0
    never_ready = mcp_server.Restarts(chance=lambda: 0.0)
    never_ready.failed("no such file", 0.0, lived_s=0.0)
    assert never_ready.due == 0.25
