"""`guardpool call`: one tool call before one guard, for the guard's author: everything that became of it."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from guardpool.backends import BackendFailed, McpServer
from guardpool.backends.asking import ask
from guardpool.backends.mcp_server import MAX_QUESTIONS
from guardpool.batch import JobParser, encode_outcome
from guardpool.batch.files import STANDARD, FileError
from guardpool.cli.backends import ServerOptions, backend_of
from guardpool.cli.files import guard_name_of, load_guards, name_the_file, read_whole
from guardpool.cli.progress import LogBuffer
from guardpool.cli.render import UsageError, complain, make_console, print_json, safe, show_duration, show_tags
from guardpool.cli.tables import Table
from guardpool.contract import expand
from guardpool.errors import ContractError, GuardPoolError
from guardpool.guard import Backend
from guardpool.jobs import Op, Prepared
from guardpool.labels import AgentLabels, LabeledItem, ResourceLabel, ResponseLabel
from guardpool.limits import Limits
from guardpool.lines import BOM
from guardpool.module.trap_frames import TrapFrame, trap_frames, without_frames
from guardpool.outcomes import LogLine, Outcome, Status
from guardpool.pool import GuardPool

if TYPE_CHECKING:
    from rich.console import Console

EXIT_NOT_OK = 3


@dataclass(frozen=True)
class Options:
    """The command line of `call`, as typed; `limits` keep log lines."""

    file: str
    policy: str
    tool: str
    args: str
    result: str | None
    backend: str | None
    backend_allow: str | None
    backend_env: str | None
    backend_token: str | None
    engine: str
    limits: Limits
    log_level: str
    as_json: bool


@dataclass(frozen=True)
class Answer:
    """What became of the call.

    Args:
        outcome: of the one job.
        logs: what the guard logged.
        questions: what it asked its backend.
        agent: what `label_agent` answered before.
        agent_logs: what the guard logged until then, a line for each message.
        items: the result's items, each with its labels; None if there is no label to expand.
        items_problem: why the label cannot be expanded over the result, if it cannot.
        where: on a trap, the functions that were running, innermost first.
        engine: its name and version.
    """

    outcome: Outcome
    logs: Sequence[LogLine]
    questions: Sequence[Question]
    agent: AgentLabels
    agent_logs: Sequence[str]
    items: Sequence[LabeledItem] | None
    items_problem: str | None
    where: Sequence[TrapFrame]
    engine: str

    @property
    def ok(self) -> bool:
        """Whether there is a label that can be used."""
        return self.outcome.status is Status.OK and self.items_problem is None


def run(options: Options) -> int:
    """Make the call and print what became of it; exit status 3 when there is no label that can be used.

    Raises:
        UsageError: the arguments are not JSON.
        GuardPoolError: a file cannot be used, or the guard cannot be started; the message names the file.
    """
    args, result = _arguments(options)
    about = ServerOptions(
        options.backend_allow,
        options.backend_env,
        options.backend_token,
        MAX_QUESTIONS,
        options.limits.backend_timeout_s,
    )
    if options.backend is None:
        about.refuse()
        return _run(options, args, result, None)
    with redirect_stdout(sys.stderr):  # what a backend's module prints is no part of the answer
        backend = backend_of("", options.backend, about)
    if not isinstance(backend, McpServer):
        return _run(options, args, result, backend)
    with backend:
        backend.connect()
        return _run(options, args, result, backend)


def _run(options: Options, args: bytes, result: bytes | None, who: Backend | None) -> int:
    name = guard_name_of(options.file)
    backend = _Listener(who, options.limits.backend_timeout_s)
    (guard,) = load_guards([f"{name}={options.file}"], [f"{name}={options.policy}"], {name: backend}, remember="never")
    prepared = JobParser([name], options.limits.max_input_bytes).parse(_job_line(options.tool, args, result), 0)
    assert prepared is not None  # the line is not blank
    logs = LogBuffer()
    logs.install(options.log_level)
    failures = logging.getLogger("guardpool.backend")
    level = failures.level
    failures.setLevel(logging.CRITICAL + 1)  # the questions are shown instead
    try:
        with (
            redirect_stdout(sys.stderr),
            GuardPool(
                [guard], workers=1, limits=options.limits, log_level=options.log_level, engine=options.engine
            ) as pool,
        ):
            pool.flush_logs()
            agent_logs = _of_the_guard(logs.drain(), name)
            backend.questions = []
            outcome = _label(pool, prepared)
            items, problem = _expanded(outcome, result)
            answer = Answer(
                outcome=outcome,
                logs=[line for line in outcome.logs if not backend.is_told_by(line)],
                questions=backend.asked(outcome),
                agent=pool.agents[name],
                agent_logs=agent_logs,
                items=items,
                items_problem=problem,
                where=_where(outcome, guard.wasm, options.limits.memory_pages),
                engine=pool.stats().engine,
            )
        _of_the_guard(logs.drain(), name)  # its lines are in the outcome
    except GuardPoolError as error:
        for line in logs.drain():  # a guard that cannot be started may have said why
            complain(line.removeprefix("guardpool: "))
        raise name_the_file(error, [guard]) from error
    finally:
        logs.uninstall()
        failures.setLevel(level)
    if options.as_json:
        print_json(_facts(answer))
    else:
        _print(make_console(), answer, options.file)
    return 0 if answer.ok else EXIT_NOT_OK


class Question(NamedTuple):
    """What the guard asked, and why it got -1 for an answer; None: it got one."""

    tool: str
    args: Any
    failure: str | None


class _Listener:
    """The guard's backend, and what it is asked.

    Args:
        backend: who answers; None: the guard gets -1, as without a backend, and what it asked is known.
        timeout_s: after so long the guard gets -1.

    Attributes:
        questions: in their order.
    """

    def __init__(self, backend: Backend | None, timeout_s: float) -> None:
        self._backend = backend
        self._timeout_s = timeout_s
        self.questions: list[Question] = []

    def __call__(self, tool: str, args: Any) -> Any:
        questions, at, end = self.questions, len(self.questions), time.monotonic() + self._timeout_s
        # It holds if the backend hangs. In the pool's words, so that its log line is known for what it is.
        questions.append(Question(tool, args, f"no answer within {self._timeout_s} s"))

        def is_over(failure: str | None) -> None:
            if time.monotonic() < end:
                questions[at] = Question(tool, args, failure)

        try:
            if self._backend is None:
                raise BackendFailed("there is no backend here: add --backend")
            answer = ask(self._backend, tool, args)
        except Exception as error:
            is_over(str(error) or type(error).__name__)
            raise
        is_over(None)
        return answer

    def asked(self, outcome: Outcome) -> list[Question]:
        """The questions of the one job; none of those of the worker that follows one that trapped."""
        killed = outcome.status in (Status.TIMEOUT, Status.MEMORY, Status.CRASHED)  # then the outcome does not know
        return self.questions[: None if killed else outcome.backend_calls]

    def is_told_by(self, line: LogLine) -> bool:
        """Whether a line of an outcome's log is about a question, and not the guard's."""
        failures = {question.failure for question in self.questions if question.failure}
        return line.text.startswith("backend: ") and line.text.endswith(tuple(failures))


def _of_the_guard(lines: Sequence[str], name: str) -> list[str]:
    """What the guard logged while it was initialised, as `LEVEL: TEXT`; what guardpool itself warns of is printed."""
    logged = []
    for line in lines:
        text = line.removeprefix("guardpool: ")
        level, found, rest = text.partition(f": guard {name}: ")
        if found and level.isalpha():
            logged.append(f"{level}: {rest}")
        elif not text.partition(f": guard {name}, job ")[0].isalpha():  # those of the job are in the outcome
            complain(text)
    return logged


def _arguments(options: Options) -> tuple[bytes, bytes | None]:
    """The JSON of the call's arguments, and of its result if there is one."""
    if options.args == options.result == STANDARD:
        raise UsageError("call: standard input holds the arguments or the result: name - once")
    if options.args == STANDARD or options.args.startswith("@"):
        args = _json_of(options.args.removeprefix("@"), "the arguments")
    else:
        args = options.args.encode(errors="surrogateescape")
        problem = _why_not_json(args)
        if problem is not None:
            raise UsageError(f"ARGS: not JSON: {problem}; for a file write @FILE")
    return args, None if options.result is None else _json_of(options.result, "the result")


def _json_of(path: str, what: str) -> bytes:
    name = "standard input" if path == STANDARD else path
    try:
        text = read_whole(path)
    except OSError as error:
        raise FileError.of(name, f"{what} cannot be read", error) from error
    text = text.removeprefix(BOM)
    problem = _why_not_json(text)
    if problem is not None:
        raise FileError(f"{name}: {what}: not JSON: {problem}")
    return text


def _why_not_json(text: bytes) -> str | None:
    try:
        msgspec.json.decode(text)
    except RecursionError:
        return "nested too deeply"
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return str(error)
    return None


def _job_line(tool: str, args: bytes, result: bytes | None) -> bytes:
    """The job as a line of a file of jobs, so that the guard gets the bytes that `guardpool label` would give it."""
    try:
        name = msgspec.json.encode(tool)
    except UnicodeEncodeError:
        raise UsageError(f"TOOL: not UTF-8: {tool!r}") from None
    op = Op.LABEL_RESOURCE if result is None else Op.LABEL_RESPONSE
    more = b"" if result is None else b',"tool_result":%b' % result
    return b'{"op":"%b","tool_name":%b,"tool_args":%b%b}' % (op.value.encode(), name, args, more)


def _label(pool: GuardPool, prepared: Prepared) -> Outcome:
    stream = pool.stream()
    stream.put([prepared])
    stream.finish()
    (outcome,) = stream.take()
    return outcome


def _expanded(outcome: Outcome, result: bytes | None) -> tuple[list[LabeledItem] | None, str | None]:
    if not isinstance(outcome.label, ResponseLabel) or result is None:
        return None, None
    try:
        return expand(outcome.label, msgspec.json.decode(result)), None
    except ContractError as error:
        return None, str(error)


def _where(outcome: Outcome, wasm: bytes, memory_pages: int) -> tuple[TrapFrame, ...]:
    if outcome.status is not Status.TRAP or outcome.error is None:
        return ()
    return trap_frames(outcome.error.message, wasm, memory_pages)


def _facts(answer: Answer) -> dict[str, Any]:
    """The answer for a program: the outcome's line, and what it does not hold."""
    outcome = answer.outcome
    facts: dict[str, Any] = msgspec.json.decode(encode_outcome(outcome))
    del facts["id"]
    items = None
    if answer.items is not None:
        items = [
            {
                "item": item.data,
                "description": item.labels.description,
                "secrecy": sorted(item.labels.secrecy),
                "integrity": sorted(item.labels.integrity),
            }
            for item in answer.items
        ]
    agent = answer.agent
    return {
        **facts,
        "questions": [
            {"tool": tool, "args": args, **({} if failure is None else {"failure": failure})}
            for tool, args, failure in answer.questions
        ],
        "items": items,
        "items_problem": answer.items_problem,
        "where": answer.where,
        "logs": [{"level": line.level_word, "text": line.text} for line in answer.logs],
        "agent": {
            "secrecy": sorted(agent.secrecy),
            "integrity": sorted(agent.integrity),
            "mode": agent.mode,
            "normalized_policy": agent.normalized_policy,
        },
        "agent_logs": answer.agent_logs,
        "engine": answer.engine,
    }


def _print(console: Console, answer: Answer, file: str) -> None:
    outcome = answer.outcome
    took = f" in {show_duration(outcome.duration_us)}" if outcome.duration_us else ""
    attempts = f", attempt {outcome.attempts}" if outcome.attempts > 1 else ""
    head = f"{outcome.op} {outcome.tool_name}: {outcome.status}{took}{attempts} ({answer.engine})"
    console.print(safe(head, 1000, "bold green" if answer.ok else "bold red"))
    table = Table("", "", header=False)
    for name, value in (*_label_rows(outcome), *_error_rows(answer, file)):
        table.add_row(name, safe(value, 2000))
    for code, detail in () if outcome.label is None else outcome.label.warnings:
        table.add_row("warning", safe(f"{code}: {detail}", 500, "yellow"))
    for at, (tool, args, failure) in enumerate(answer.questions):
        asked = f"{tool} {msgspec.json.encode(args).decode()}"
        table.add_row("" if at else "asked", safe(asked, 500))
        if failure is not None:
            table.add_row("", safe(f"-1: {failure}", 500, "yellow"))
    agent = answer.agent
    table.add_row("agent", safe(f"{_tags(agent.secrecy, agent.integrity)}; mode: {agent.mode}", 2000))
    table.print(console)
    _print_items(console, answer)
    lines = list(map(str, answer.logs))
    for title, logged in (("log of label_agent", answer.agent_logs), (f"log of {outcome.op}", lines)):
        if logged:
            console.print(f"\n{title}", style="bold")
        for line in logged:
            console.print(safe(f"  {line}", 2000), soft_wrap=True)


def _label_rows(outcome: Outcome) -> list[tuple[str, str]]:
    label = outcome.label
    if isinstance(label, ResourceLabel):
        return [
            ("description", label.description),
            ("operation", str(label.operation)),
            ("secrecy", show_tags(label.secrecy)),
            ("integrity", show_tags(label.integrity)),
        ]
    if isinstance(label, ResponseLabel):
        default = label.default_labels
        shown = "none" if default is None else f"{default.description}; {_tags(default.secrecy, default.integrity)}"
        older = [] if label.items is None else [("form", f"the older one, with {len(label.items):,} items")]
        return [
            *older,
            ("paths", f"{len(label.labeled_paths):,} labelled"),
            ("items", f"at {label.items_path}" if label.items_path else "at the root"),
            ("default", shown),
        ]
    if outcome.status is Status.OK:
        return [("label", "no fine-grained labels: those of the call hold for the whole result")]
    return []


def _error_rows(answer: Answer, file: str) -> list[tuple[str, str]]:
    error = answer.outcome.error
    rows = []
    if error is not None:
        message = without_frames(error.message) if answer.where else error.message
        rows.append(("error", f"{error.code}: {message}"))
        facts = {"exit code": error.exit_code, "signal": error.signal}
        rows += [(name, str(fact)) for name, fact in facts.items() if fact is not None]
    for at, frame in enumerate(answer.where):
        of_file = "" if frame.offset is None else f" of {file}"
        rows.append(("called from" if at else "where", f"{frame}{of_file}"))
    if answer.items_problem is not None:
        rows.append(("problem", f"the label does not fit the result: {answer.items_problem}"))
    return rows


def _print_items(console: Console, answer: Answer) -> None:
    if answer.items is None:
        return
    console.print()
    if not answer.items:
        console.print("The result holds no items.")
        return
    # Integrity and secrecy share a column: beside the others there is no room at 80 columns for both.
    table = Table("#>", "item", "description", "integrity; secrecy")
    table.columns[1].cut = True
    for number, item in enumerate(answer.items):
        excerpt = msgspec.json.encode(item.data).decode()
        labels = item.labels
        tags = f"{show_tags(labels.integrity)}; {show_tags(labels.secrecy)}"
        table.add_row(f"{number}", safe(excerpt, 80), safe(labels.description, 300), safe(tags, 1000))
    table.print(console)


def _tags(secrecy: frozenset[str], integrity: frozenset[str]) -> str:
    return f"secrecy: {show_tags(secrecy)}; integrity: {show_tags(integrity)}"
