"""The file of `--log-file`: what guards log and what guardpool warns of, one JSON object a line.

JSON, because a guard's lines and the ids of jobs are any text: what a guard says cannot look like a line of its own or move a
cursor, and `jq 'select(.guard == "github" and .id == 42)'` finds the lines of a job under the id that its outcome has.
"""

from __future__ import annotations

import logging
import os
from datetime import datetime, timezone
from typing import Any

import msgspec

from guardpool.batch.files import FileError, Output
from guardpool.cli.progress import listen, listen_no_more
from guardpool.cli.render import complain
from guardpool.printable import terminal_json


class LogFile(logging.Handler):
    """Writes each record at once: what is there is whole at any moment.

    A line has `time` (UTC), `level` and `text`, a guard's line also `guard`, and `id`, the job's, unless the guard is being
    initialised. What cannot be written is told once, and ends nothing.

    Attributes:
        is_lost: something could not be written.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self.output = Output(path, "the log")
        self.is_lost = False
        self._is_whole = False
        self._lines = 0

    def begin(self, level: str) -> None:
        """From here on everything that is logged from that level on goes to the file, which is begun anew."""
        self.output.begin()
        listen(self, level)

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        if self.is_lost:
            return
        try:
            view = memoryview(_line_of(record))
            while view:
                view = view[os.write(self.output.fd, view) :]
            self._lines += 1
        except OSError as error:
            self._lose(FileError.of(self.output.written_path, "the log cannot be written", error))

    def end(self) -> None:
        """The run is over and successful: the file is there, even if nothing was logged."""
        self._is_whole = True
        self.close()

    def close(self) -> None:
        """Listen no more, and close the file. The log of a run that failed takes its place, too, if there is any of it."""
        super().close()
        listen_no_more(self)
        try:
            if self._is_whole or self._lines:
                self.output.finish()
            self.output.close()
        except FileError as error:
            self._lose(error)

    def _lose(self, error: FileError) -> None:
        self.is_lost = True
        complain(str(error))


def _line_of(record: logging.LogRecord) -> bytes:
    time = datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")
    line: dict[str, Any] = {"time": time.replace("+00:00", "Z"), "level": record.levelname.lower()}
    guard = getattr(record, "guard", None)
    if guard is None:
        line["text"] = record.getMessage()
    else:
        line["guard"] = guard
        if record.__dict__["job_id"] is not None:
            line["id"] = record.__dict__["job_id"]
        line["text"] = record.__dict__["line"]
    return terminal_json(msgspec.json.encode(line)) + b"\n"
