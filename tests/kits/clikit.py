"""Real `guardpool` commands as processes, on pipes and on a real terminal."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import pty
import re
import select
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import enginekit
import guardkit
import poolkit

TIMEOUT_S = 60.0
_COMMAND = [sys.executable, "-c", "import sys; from guardpool.cli import main; sys.exit(main())"]


@dataclass(frozen=True)
class Bench:
    """A folder with the guard `by_letter` and its policy."""

    folder: Path

    @classmethod
    def prepare(cls, folder: Path) -> Bench:
        """Write the files of a run into `folder`."""
        (folder / "g.wasm").write_bytes(guardkit.wat("by_letter"))
        (folder / "p.json").write_bytes(guardkit.POLICY)
        return cls(folder)

    @property
    def guard(self) -> list[str]:
        """The options that name guard and policy."""
        return ["-g", f"g={self.folder / 'g.wasm'}", "-p", f"g={self.folder / 'p.json'}"]

    def environment(self, **extra: str) -> dict[str, str]:
        """This process's environment, with a real terminal's name and without variables that change how commands print."""
        env = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES", "NO_COLOR")}
        return {**env, "TERM": "xterm", **extra}

    def command(self, *args: object) -> list[str]:
        """The command line of a process that runs a command, with the engine of this run."""
        words = [str(arg) for arg in args]
        if words[:1] in (["label"], ["demo"], ["call"]) and "--engine" not in words:
            words[1:1] = ["--engine", enginekit.ENGINE_NAME]
        return [*_COMMAND, *words]

    def run(self, *args: object, stdin: bytes = b"", **env: str) -> subprocess.CompletedProcess[bytes]:
        """Run a command on pipes to its end."""
        return subprocess.run(
            self.command(*args),
            input=stdin,
            capture_output=True,
            env=self.environment(**env),
            timeout=TIMEOUT_S,
            check=False,
        )

    def call(self, *args: object) -> subprocess.CompletedProcess[bytes]:
        """Run a command in this process: for commands that end before they start anything."""
        from guardpool.cli import main

        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main([str(arg) for arg in args])
        return subprocess.CompletedProcess(args, status, out.getvalue().encode(), err.getvalue().encode())

    def start(self, *args: object, **popen: Any) -> subprocess.Popen[bytes]:
        """Start a command; streams as `popen` says."""
        return subprocess.Popen(self.command(*args), **{"env": self.environment(), **popen})

    def jobs(self, tools: Iterable[str], name: str = "jobs.jsonl") -> Path:
        """A file with one `label_resource` job for each tool."""
        path = self.folder / name
        path.write_text("".join(job_line(number, tool) for number, tool in enumerate(tools)))
        return path

    @contextlib.contextmanager
    def terminal(self, *args: object, columns: int = 80, stdout: Any = None, **env: str) -> Iterator[Terminal]:
        """Run a command on a terminal; `stdout` may be a file instead."""
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        process = subprocess.Popen(
            self.command(*args),
            stdin=theirs,
            stdout=theirs if stdout is None else stdout,
            stderr=theirs,
            env=self.environment(**env),
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that Ctrl-C reaches the whole group
        )
        os.close(theirs)
        try:
            yield Terminal(ours, process)
        finally:
            process.kill()
            process.wait()
            os.close(ours)


@contextlib.contextmanager
def standard_input(data: bytes) -> Iterator[None]:
    """Let this process's standard input be a file that holds `data`."""
    before = os.dup(0)
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.seek(0)
        os.dup2(file.fileno(), 0)
        try:
            yield
        finally:
            os.dup2(before, 0)
            os.close(before)


class Terminal:
    """The other side of a command's terminal."""

    def __init__(self, fd: int, process: subprocess.Popen[bytes]) -> None:
        self._fd = fd
        self.process = process
        self.raw = b""

    def read_until(self, enough: Callable[[bytes], bool] = lambda raw: False) -> bytes:
        """Read what the command prints, until that is enough or it closes the terminal."""
        end = time.monotonic() + TIMEOUT_S
        while not enough(self.raw):
            assert select.select([self._fd], [], [], max(0.0, end - time.monotonic()))[0], (
                f"at last came: {self.text[-500:]!r}"
            )
            try:
                data = os.read(self._fd, 65536)
            except OSError:  # EIO: no process holds the other side any more
                break
            if not data:
                break
            self.raw += data
        return self.raw

    def type(self, keys: bytes) -> None:
        """Type on the terminal."""
        os.write(self._fd, keys)

    def finish(self) -> int:
        """Read to the end; returns the exit status."""
        self.read_until()
        return self.process.wait(TIMEOUT_S)

    @property
    def text(self) -> str:
        """What was printed, without escape sequences."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.raw.decode())


def job_line(number: int, tool: str) -> str:
    """A line with one `label_resource` job."""
    return json.dumps({"id": number, "op": "label_resource", "tool_name": tool, "tool_args": {"n": number}}) + "\n"


def outcomes(data: bytes | Path) -> list[dict[str, Any]]:
    """The outcome lines of a file or of what a command printed; every line must be whole."""
    text = data.read_bytes() if isinstance(data, Path) else data
    assert not text or text.endswith(b"\n"), f"the last line is cut: {text[-80:]!r}"
    return [json.loads(line) for line in text.splitlines()]


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Wait until `condition` holds; fails if the process ends first or it takes longer than `TIMEOUT_S`."""

    def holds() -> bool:
        if condition():
            return True
        assert process.poll() is None, "the command ended too early"
        return False

    poolkit.wait_until(holds, "the condition", TIMEOUT_S)
