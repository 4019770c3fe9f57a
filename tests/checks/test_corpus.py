"""`guardpool test`: corpora of a guard, in both forms, compared, blessed, and written as JUnit and coverage."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

import guardkit
from guardpool import AgentLabels, DifcMode, Guard, samples
from guardpool.checks import corpus as corpora_of, run_corpus
from guardpool.checks.corpus import CorpusError
from guardpool.cli import main

ISSUES = [{"number": 1, "author_association": "NONE"}, {"number": 2, "author_association": "MEMBER"}]
ARGS = {"owner": "bramble-soft", "repo": "hedge"}
CASE: dict[str, Any] = {"id": "two issues", "tool_name": "list_issues", "tool_args": ARGS, "tool_result": ISSUES}
ALL = ["approved:all", "none:all", "unapproved:all"]
HEAD = {
    "corpus": 1,
    "policy": samples.POLICY,
    "replies": [
        {
            "tool": "search_repositories",
            "args": {"query": "repo:bramble-soft/hedge", "perPage": 10},
            "result": {"items": [{"full_name": "bramble-soft/hedge", "private": False}]},
        }
    ],
}
DECISION = {"verdict": "items", "filtered": [{"index": 0, "failed": ["read-integrity"]}], "shown": [1]}

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def guards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("guards")
    (folder / "github.wasm").write_bytes(samples.GUARD.read_bytes())
    (folder / "trap.wasm").write_bytes(guardkit.wat("trap_unreachable"))
    (folder / "no_response.wasm").write_bytes(guardkit.wat("by_letter"))
    (folder / "p.json").write_text(json.dumps(samples.POLICY))
    return folder


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], guards: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.delenv("CI", raising=False)

    def run(*words: object, guard: str = "github") -> tuple[int, str, str]:
        status = main(["test", *map(str, words), "-g", f"github={guards / guard}.wasm", "-w", "1"])
        out, err = capsys.readouterr()
        return status, out, err

    return run


def write(path: Path, *lines: Any) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def with_expectations(**expect: Any) -> dict[str, Any]:
    return {**CASE, "expect": expect}


def test_a_case_without_expectations_is_blessed_and_then_passes(run: Run, tmp_path: Path) -> None:
    path = write(tmp_path / "c.jsonl", HEAD, CASE)
    status, out, _err = run(path)
    assert status == 3
    assert "1 expect nothing: --update writes what they give" in out
    before = path.read_bytes()
    status, out, _err = run(path, "--update")
    assert (status, path.read_bytes() == before) == (0, False)
    head, case = map(json.loads, path.read_text().splitlines())
    assert head == HEAD
    expect = case.pop("expect")
    assert case == CASE
    assert expect["resource"]["operation"] == "read"
    assert [label["path"] for label in expect["response"]["labeled_paths"]]
    assert expect["decision"] == {
        "coarse": "bypass",
        "verdict": "items",
        "failed": ["read-integrity"],
        "filtered": [{"index": 0, "failed": ["read-integrity"]}],
        "unsafe": [],
    }
    status, out, err = run(path)
    assert (status, err) == (0, "")
    assert out.rstrip().endswith("1 case: 1 passed")
    blessed = path.read_bytes()
    assert run(path, "--update")[0] == 0
    assert path.read_bytes() == blessed, "nothing to write"


def test_an_update_under_ci_says_which_corpus_it_wrote(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", "true")
    path = write(tmp_path / "c.jsonl", HEAD, CASE)
    status, _out, err = run(path, "--update")
    assert (status, f"--update under CI: {path} is written" in err) == (0, True)
    assert run(path, "--update")[2] == "", "nothing was written"


def test_what_differs_is_told_in_words_and_update_writes_only_what_was_expected(run: Run, tmp_path: Path) -> None:
    wrong = {"description": "x", "secrecy": [], "integrity": ["none:all"], "operation": "write"}
    path = write(
        tmp_path / "c.jsonl",
        HEAD,
        with_expectations(decision=DECISION),
        with_expectations(resource=wrong, decision={"verdict": "whole", "filtered": []}),
    )
    status, out, _err = run(path)
    assert status == 1
    lines = out.splitlines()
    assert lines[0] == f"FAIL {path}:3: two issues (list_issues)"
    assert "    resource: operation: expected write, got read" in lines
    assert '    decision: verdict: expected "whole", got "items"' in lines
    assert any(
        line.startswith("    decision: item 0 (") and line.endswith("got filtered by read-integrity") for line in lines
    )
    assert lines[-1] == "2 cases: 1 passed, 1 failed"
    assert run(path, "--update")[0] == 0
    _head, same, changed = map(json.loads, path.read_text().splitlines())
    assert same["expect"] == {"decision": DECISION}
    assert changed["expect"].keys() == {"resource", "decision"}
    assert changed["expect"]["decision"] == {"verdict": "items", "filtered": DECISION["filtered"]}
    assert run(path)[0] == 0


def test_limits_of_calls_in_a_policy_count_in_a_session(run: Run, tmp_path: Path) -> None:
    policy = {"allow-only": {**samples.POLICY["allow-only"], "tool-call-limits": {CASE["tool_name"]: 1}}}
    first, second = ({**CASE, "id": name, "session": "s", "expect": {"decision": {}}} for name in "ab")
    cases = [
        {**each, "expect": {"decision": {"coarse": coarse}}} for each, coarse in ((first, "bypass"), (second, "denied"))
    ]
    status, out, err = run(write(tmp_path / "c.jsonl", {"corpus": 1, "policy": policy}, *cases))
    assert status == 0, out + err


def test_numbers_are_written_again_to_the_letter(run: Run, tmp_path: Path) -> None:
    line = '{"tool_name": "get_me", "tool_args": {"n": 7.0, "big": 123456789012345678901, "e": 1E2}, "x": 1.50}'
    path = write(tmp_path / "c.jsonl", HEAD, line)
    assert run(path, "--update")[0] == 0
    text = path.read_text()
    for number in ("7.0", "123456789012345678901", "1E2", "1.50"):
        assert number in text


def test_recorded_calls_are_a_corpus_with_their_own_replies(run: Run, guards: Path, tmp_path: Path) -> None:
    log = write(tmp_path / "rpc-messages.jsonl", *rpc("list_issues", ARGS, ISSUES), *rpc("get_me", {}, {"login": "a"}))
    calls = tmp_path / "calls.jsonl"
    policy = f"github={guards / 'p.json'}"
    main(["import", str(log), "-o", str(calls)])
    status, out, _err = run(calls, "-p", policy, "--update")
    assert status == 0
    assert "2 cases: 2 expect now what they give" in out
    assert calls.stat().st_mode & 0o777 == 0o600, "it was made from a recording"
    assert run(calls, "-p", policy)[0] == 0
    first, second = map(json.loads, calls.read_text().splitlines())
    assert first["expect"]["decision"]["filtered"]
    assert second["expect"]["resource"]["operation"] == "read"


def rpc(tool: str, args: Any, result: Any) -> list[dict[str, Any]]:
    """A call as two lines of a gateway's log."""
    common = {"timestamp": "2026-08-15T23:48:42.233Z", "_schema": "rpc-message/v2", "server_id": "github"}
    text = {"content": [{"type": "text", "text": json.dumps(result)}]}
    request = {"jsonrpc": "2.0", "method": "tools/call", "params": {"arguments": args, "name": tool}}
    return [
        {**common, "event": "rpc_request", "direction": "OUT", "method": "tools/call", "payload": request},
        {**common, "event": "rpc_response", "direction": "IN", "payload": {"jsonrpc": "2.0", "id": 1, "result": text}},
    ]


GUARDS_OWN = {
    "version": 1,
    "captured_at": "2026-07-01T00:00:00Z",
    "allow_only_policy": {"allow-only": {"repos": "all", "min-integrity": "approved"}},
    "expected_agent": {"difc_mode": "filter", "secrecy": [], "integrity": ALL},
    "backend_replay": [
        {"tool": reply["tool"], "args": reply["args"], "response": reply["result"]} for reply in HEAD["replies"]
    ],
    "resource_cases": [{"name": "list", "tool_name": "list_issues", "tool_args": ARGS}],
    "response_cases": [{"name": "items", "tool_name": "list_issues", "tool_args": ARGS, "tool_result": ISSUES}],
}


def test_the_guards_own_corpus_is_read_and_written_in_its_own_form(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "corpus.json"
    path.write_text(json.dumps(GUARDS_OWN, indent=2))
    assert run(path, "--update")[0] == 0
    written = json.loads(path.read_text())
    assert {name: value for name, value in written.items() if not name.endswith("_cases")} == {
        name: value for name, value in GUARDS_OWN.items() if not name.endswith("_cases")
    }
    assert written["resource_cases"][0]["expected"]["operation"] == "read"
    (case,) = written["response_cases"]
    assert case["expected_paths"][0]["labels"].keys() == {"description", "secrecy", "integrity"}
    assert run(path)[0] == 0
    case["expected_paths"][0]["labels"]["integrity"] = ["merged:all"]
    written["expected_agent"]["difc_mode"] = "strict"
    path.write_text(json.dumps(written))
    status, out, _err = run(path)
    assert status == 1
    assert 'guard github: label_agent: mode: expected "strict", got "filter"' in out
    assert f"FAIL {path}:response_cases[0]: items (list_issues)" in out
    assert "missing 'merged:all'" in out


def test_a_response_without_a_label_has_no_place_in_the_guards_own_form(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "corpus.json"
    case = {"name": "me", "tool_name": "get_me", "tool_args": {}, "tool_result": {"login": "a"}}
    cases = [case, {**case, "expected_paths": []}]
    members = {name: value for name, value in GUARDS_OWN.items() if name != "expected_agent"}
    path.write_text(json.dumps({**members, "response_cases": cases}))
    status, out, _err = run(path, "--update", guard="no_response")
    assert json.loads(path.read_text())["response_cases"] == cases
    told = "1 still fail, 1 expect now what they give, 1 expect nothing: there is nothing that could be written"
    assert (status, out.splitlines()[-1]) == (1, f"3 cases: {told}")
    status, out, _err = run(path, guard="no_response")
    assert (status, out.splitlines()[-1].split(", ")[:2]) == (1, ["3 cases: 1 passed", "1 failed"])


def test_a_path_of_items_that_a_label_has_not_is_no_longer_expected(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "corpus.json"
    case = {"name": "me", "tool_name": "get_me", "tool_args": {}, "tool_result": {"login": "a"}}
    wrong = {**case, "expected_paths": [], "expected_items_path": "/nowhere"}
    path.write_text(json.dumps({**GUARDS_OWN, "response_cases": [wrong]}))
    status, out, _err = run(path, "--update")
    assert "expected_items_path" not in json.loads(path.read_text())["response_cases"][0]
    assert (status, out.splitlines()[-1]) == (0, "2 cases: 2 expect now what they give")


def test_a_broken_line_is_told_and_kept_and_stops_no_other(run: Run, tmp_path: Path) -> None:
    bad = [
        "{",
        '"text"',
        '{"tool_args": {}}',
        '{"tool_name": 7}',
        '{"tool_name": "x", "mode": "soft"}',
        '{"tool_name": "x", "expect": {"lable": 1}}',
        '{"tool_name": "x", "expect": {"resource": {}}}',
        '{"tool_name": "x", "expect": {"resource": {"status": "fine"}}}',
        '{"tool_name": "x", "expect": {"decision": {"verdct": 1}}}',
        '{"tool_name": "x", "expect": {"decision": {"filtered": [{"index": [1], "failed": []}]}}}',
        '{"tool_name": "x", "expect": {"decision": {"unsafe": [1, "B1"]}}}',
        '{"tool_name": "x", "name": ["a"]}',
        '{"tool_name": "x", "guard": "linear"}',
    ]
    path = write(tmp_path / "c.jsonl", HEAD, *bad, with_expectations(decision=DECISION))
    status, out, err = run(path)
    assert status == 3
    assert err.count("\n") == len(bad)
    reasons = [
        *("not a case", "not a case", "no 'tool_name', but 'tool_args'", "tool_name is a string", "'soft'", "'lable'"),
        *("expect.resource is not a label", "'fine'", "expect.decision: object contains unknown field verdct"),
        *("expect.decision.filtered[0].index: expected int, got array", "expect.decision.unsafe[0]: expected str"),
        *("name is a string or a number", "--guard linear=FILE.wasm"),
    ]
    for number, words in enumerate(reasons, 2):
        assert any(f"{path}:{number}: " in line and words in line for line in err.splitlines()), words
    assert "1 passed, 13 not run" in out
    write(path, HEAD, *bad, CASE)
    run(path, "--update")
    assert path.read_text().splitlines()[1 : len(bad) + 1] == bad


def test_a_guard_that_gives_no_label_fails_the_case_unless_it_is_expected_to(run: Run, tmp_path: Path) -> None:
    path = write(
        tmp_path / "c.jsonl",
        HEAD,
        {"tool_name": "a", "expect": {"resource": {"status": "trap"}, "decision": {"verdict": "labelling-error"}}},
        {"tool_name": "b", "expect": {"decision": {"verdict": "whole"}}},
        {"tool_name": "c"},
    )
    before = path.read_bytes()
    status, out, _err = run(path, "--update", guard="trap")
    assert status == 1
    assert 'decision: verdict: expected "whole", got "labelling-error"' in out
    assert "1 of them without a label" in out
    assert path.read_bytes() == before, "a trap is not made an expectation"


def test_an_update_says_what_it_cannot_mend(run: Run, tmp_path: Path) -> None:
    no_result = {name: value for name, value in CASE.items() if name != "tool_result"}
    expected = {"labeled_paths": [], "default_labels": None, "items_path": None}
    path = write(
        tmp_path / "c.jsonl",
        HEAD,
        {**no_result, "expect": {"response": expected, "decision": {"coarse": "denied"}}},
        with_expectations(decision={"coarse": "denied"}),
    )
    status, out, _err = run(path, "--update")
    assert status == 1
    lines = out.splitlines()
    assert lines[:2] == [
        f"FAIL {path}:2: two issues (list_issues)",
        "    response: a label is expected, and the case has no tool_result",
    ]
    assert lines[2].startswith(f"CHANGED {path}:3: ")
    assert lines[-1] == "2 cases: 0 passed, 1 still fail, 1 expect now what they give"
    assert json.loads(path.read_text().splitlines()[1])["expect"]["decision"] == {"coarse": "bypass"}
    status, out, _err = run(path)
    assert (status, out.splitlines()[-1]) == (1, "2 cases: 1 passed, 1 failed")


def test_a_policy_that_replay_takes_is_one_for_test_too(run: Run, guards: Path, tmp_path: Path) -> None:
    policy = {"github": {"repos": "all", "min-integrity": "none", "tool-call-limits": {"list_issues": 1}}}
    (tmp_path / "gateway.json").write_text(json.dumps(policy))
    path = write(tmp_path / "c.jsonl", with_expectations(decision={"verdict": "items"}))
    status, out, err = run(path, "-p", f"github={tmp_path / 'gateway.json'}")
    assert (status, out.splitlines()[-1]) == (0, "1 case: 1 passed")
    assert "server github: the policy has tool-call-limits, which no wasm guard takes" in err


# In the place of every value of a corpus.
ODD = (None, True, 7, 1.5, "x", [], {}, ["x"], {"x": 1}, [1], [[]], [{}])


def mutated(value: Any) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """A value with one of its parts left out or of another type, and where that is."""
    for odd in ODD:
        if type(odd) is not type(value) or not odd:
            yield (), odd
    for at in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        shorter = value.copy()
        del shorter[at]
        yield (at,), shorter
        for where, part in mutated(value[at]):
            other = value.copy()
            other[at] = part
            yield (at, *where), other


def test_a_corpus_of_any_types_is_told_by_file_and_field_or_compared(guards: Path) -> None:
    agent = {"secrecy": [], "integrity": ALL, "mode": "filter", "normalized_policy": {"scope_kind": "All"}}
    setup = run_corpus.Setup([Guard("github", (guards / "github.wasm").read_bytes())], workers=1)
    whole = corpora_of.parse("\n".join(map(json.dumps, [HEAD, {**CASE, "session": "s"}])).encode(), "c")
    (once,) = run_corpus.run([whole], setup)
    (result,) = once.results
    golden = json.loads(whole.rewritten({result.case.at: result.golden()}).splitlines()[1])["expect"]
    form = {key: golden["response"][key] for key in ("labeled_paths", "default_labels")}
    own = {
        **{name: value for name, value in GUARDS_OWN.items() if not name.endswith("_cases")},
        "resource_cases": [{"name": "r", "tool_name": "x", "expected": golden["resource"]}],
        "response_cases": [
            {
                **{name: value for name, value in CASE.items() if name != "id"},
                "expected_paths": [
                    {"path": each["path"], "labels": {name: each[name] for name in each if name != "path"}}
                    for each in form["labeled_paths"]
                ],
                "expected_default": form["default_labels"],
            }
        ],
    }
    head = {**HEAD, "guard": "github", "expect": {"agent": agent}}
    lines = [
        head,
        {**CASE, "session": "s", "capabilities": None, "rules": "gateway", "mode": "filter", "expect": golden},
    ]
    texts = [(where, "\n".join(map(json.dumps, each))) for where, each in mutated(lines) if isinstance(each, list)]
    texts += [(where, json.dumps(each)) for where, each in mutated(own)]
    messages: list[tuple[str, tuple[Any, ...]]] = []
    compared = 0
    labels = AgentLabels(frozenset(), frozenset(ALL), DifcMode.FILTER, {"scope_kind": "All"})
    for where, text in texts:
        try:
            corpus = corpora_of.parse(text.encode(), "the corpus")
        except CorpusError as error:
            messages.append((str(error), where))
            continue
        messages += [(f"{broken.place}: {broken.why}", where) for broken in corpus.broken]
        results = [result.against(case) for case in corpus.cases]
        compared += len(results)
        run_corpus.CorpusResult(corpus, results, [], []).updated()
        if corpus.agent is not None:
            run_corpus.agent_differences("github", corpus.agent, labels)
    assert len(messages) > 500
    assert compared > 500
    for message, where in messages:
        assert message.startswith("the corpus"), (message, where)
        assert "\n" not in message


def test_calls_of_one_session_are_one_agents(run: Run, tmp_path: Path) -> None:
    policy = {"allow-only": {**samples.POLICY["allow-only"], "repos": "all"}}
    read = {**CASE, "mode": "propagate", "session": "s"}
    alone = {key: value for key, value in read.items() if key != "session"}
    write_call = {"tool_name": "create_issue", "tool_args": ARGS, "mode": "propagate"}
    path = write(
        tmp_path / "c.jsonl",
        {**HEAD, "policy": policy},
        {**read, "tool_result": ISSUES[:1]},
        {**write_call, "session": "s"},
        {**alone, "tool_result": ISSUES[:1]},
        write_call,
    )
    assert run(path, "--update")[0] == 0
    _head, _read, after, _alone, fresh = map(json.loads, path.read_text().splitlines())
    assert after["expect"]["decision"]["failed"] == ["write-integrity"]
    assert fresh["expect"]["decision"]["failed"] == []


def test_junit_and_coverage_are_two_files(run: Run, tmp_path: Path) -> None:
    path = write(tmp_path / "c.jsonl", HEAD, CASE)
    status, _out, err = run(path, "--junit", tmp_path / "both", "--coverage", tmp_path / "both")
    assert status == 5
    assert "both" in err
    assert not (tmp_path / "both").exists()


def test_junit_and_coverage_are_written_privately_and_without_control_characters(run: Run, tmp_path: Path) -> None:
    hostile = "\x1b[2J\u202e<script>&]]>\x00"
    path = write(
        tmp_path / "c.jsonl",
        HEAD,
        {**with_expectations(decision={"verdict": "whole"}), "id": hostile},
        with_expectations(decision=DECISION),
        CASE,
        "{",
    )
    junit, coverage = tmp_path / "j.xml", tmp_path / "cov.json"
    status, out, _err = run(path, "--junit", junit, "--coverage", coverage)
    assert status == 1
    assert not {"\x1b", "\u202e", "\x00"} & set(out)
    text = junit.read_text()
    assert not {"\x1b", "\u202e", "\x00"} & set(text)
    root = ElementTree.fromstring(text)
    assert {name: root.get(name) for name in ("tests", "failures", "errors", "skipped")} == {
        "tests": "4",
        "failures": "1",
        "errors": "1",
        "skipped": "1",
    }
    assert root.find("testsuite/testcase/failure") is not None
    assert str(tmp_path) not in text
    facts = json.loads(coverage.read_text())
    assert facts["tools"] == {"list_issues": {"cases": 3, "passed": 2}}
    assert facts["rules"]["read-integrity"] >= 3
    assert facts["never"]["operations"] == ["write", "read-write"]
    assert {file.stat().st_mode & 0o777 for file in (junit, coverage)} == {0o600}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "there is no case in it"),
        ("nonsense\n", "(1 line is not; the first: not a case"),
        ('{\n"a": 1\n}\n', "the first: not a case"),
        ('{"corpus": 2}\n', "version 2 of a corpus; this guardpool reads version 1"),
        ('{"corpus": true}\n', "version true of a corpus"),
        ('{"corpus": 1, "policy": []}\n', ":1: policy: expected object"),
        ('{"corpus": 1, "policy": {"repos": "all"}}\n', ":1: policy: 'repos' is there and 'min-integrity' is not"),
        ('{"corpus": 1, "policy": {"write-sink": {"accept": ["a/b"]}}}\n', "the policy of a guard has 'allow-only'"),
        ('{"corpus": 1, "guard": 1}\n', ":1: guard: expected str"),
        ('{"corpus": 1, "expect": {"agent": ["x"]}}\n', ":1: expect.agent: expected object"),
        (
            '{"corpus": 1, "expect": {"agent": {"integrity": [1]}}}\n',
            "expect.agent.integrity[0]: expected str, got int",
        ),
        ('{"corpus": 1, "expect": {"agents": {}}}\n', ":1: expect: object contains unknown field agents"),
        ('{"corpus": 1, "replies": {}}\n', ":1: replies: expected array"),
        ('{"corpus": 1, "replies": [{"tool": 1}]}\n', ":1: replies[0]: "),
        ('{"version": 3, "resource_cases": []}', "version 3 of a corpus"),
        ('{"resource_cases": 5}', "resource_cases: expected array"),
        ('{"resource_cases": [], "expected_agent": {"secrecy": "x"}}', "expected_agent.secrecy: expected array"),
        ('{"resource_cases": [], "allow_only_policy": 1}', "allow_only_policy: expected object"),
        ('{"tool_name": "x"}\n', "no policy for guard 'github': add --policy github=POLICY.json"),
    ],
)
def test_what_is_no_corpus_is_one_line_and_status_2(run: Run, tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text(text)
    status, out, err = run(path)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert str(path) in err
    assert words in err


def test_files_of_other_kinds_are_refused_and_never_rewritten(
    run: Run, guards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = ("-p", f"github={guards / 'p.json'}")
    log = write(tmp_path / "rpc-messages.jsonl", *samples.recording(80, seed=2))
    assert b'"difc_filtered"' in log.read_bytes(), "events name tools as cases do"
    decisions = tmp_path / "decisions.jsonl"
    main(["replay", str(log), "-g", f"github={guards / 'github.wasm'}", *policy, "-o", str(decisions), "-w", "1"])
    capsys.readouterr()
    replies = write(tmp_path / "replies.jsonl", *HEAD["replies"])
    described = write(tmp_path / "c.jsonl", CASE, {"server_name": "github", "tool_name": "get_me", "description": ""})
    for path, words in (
        (decisions, "these are decisions, not a corpus"),
        (log, "this is a recording (rpc-messages), not a corpus"),
        (replies, "is not a call as 'guardpool import' writes it"),
        (described, "this is a recording"),
    ):
        before = path.read_bytes()
        for update in ((), ("--update",)):
            status, out, err = run(path, *policy, *update)
            assert (status, out, err.count("\n"), words in err) == (2, "", 1, True), err
        assert path.read_bytes() == before


def test_a_recorded_call_without_tool_or_arguments_is_not_run_as_another(
    run: Run, guards: Path, tmp_path: Path
) -> None:
    call = {"call": "log#1", "source": "rpc-messages/v2", "pairing": "order", "result_is": "raw", "result": ISSUES}
    path = write(
        tmp_path / "c.jsonl",
        {**call, "tool": "list_issues", "args": ARGS},
        {**call, "tool": "list_issues", "payload": {"args": "lost"}},
        {**call},
    )
    status, out, err = run(path, "-p", f"github={guards / 'p.json'}", "--update")
    assert (status, "1 case: 1 expect" in out) == (3, True), out
    assert f"{path}:2: the recording does not tell the arguments of this call" in err
    assert f"{path}:3: the recording does not tell the tool of this call" in err
    assert ["expect" in json.loads(line) for line in path.read_text().splitlines()] == [True, False, False]


def test_what_a_case_holds_may_look_like_a_recording(run: Run, tmp_path: Path) -> None:
    like = {"_schema": "rpc-message/v2", "verdict": "items", "call": 1, "jsonrpc": "2.0", "servers": []}
    case = {**CASE, "id": "difc_filtered", "tool_args": {**ARGS, **like}, "tool_result": [like]}
    assert run(write(tmp_path / "c.jsonl", HEAD, {**case, "note": "mine"}), "--update")[0] == 0


def test_a_corpus_that_cannot_be_read_is_status_5(run: Run, tmp_path: Path) -> None:
    status, _out, err = run(tmp_path / "nowhere.jsonl")
    assert (status, "the corpus cannot be read: No such file" in err) == (5, True)


def test_any_bytes_are_a_corpus_or_the_documented_error() -> None:
    for text in (b"\xff\xfe\x00", b"[" * 100_000, b'{"tool_name":"x","tool_args":' + b"[" * 100_000, b"\n\n", b"null"):
        with pytest.raises(CorpusError):
            corpora_of.parse(text, "x")
    deep = corpora_of.parse(b'{"tool_name":"x"}\n{"tool_name":"x","tool_args":1e999999}\n', "x")
    assert len(deep.cases) + len(deep.broken) == 2
