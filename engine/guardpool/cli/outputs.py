"""Files that a command writes besides what it prints."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING

from guardpool.batch.files import PART, Output, refuse_clashes
from guardpool.cli.render import complain

if TYPE_CHECKING:
    from guardpool.recordings import Reader


def tell_of_update_in_ci(option: str, path: str) -> None:
    """Say, under CI, that what is expected is written anew and so nothing can fail: such an option is left there by mistake.

    It is obeyed all the same, as snapshot tools obey an option that was typed: a job may be there to write and commit.
    """
    if os.environ.get("CI", "").lower() not in ("", "0", "false"):
        complain(f"{option} under CI: {path} is written to accept what is there, and checks nothing in this run")


def private_outputs(
    paths: Mapping[str, str | None], inputs: Iterable[str], kept: Iterable[str | None], stack: ExitStack
) -> list[Output | None]:
    """Open files that only their owner may read, and make sure that no two of them, and none of the others, are one file.

    Args:
        paths: by what goes there, for messages; None: that is not written.
        inputs, kept: as in `refuse_clashes`.
        stack: closes them.
    """
    outputs: list[Output | None] = []
    for what, path in paths.items():
        output = None if path is None else Output(path, what, is_private=True)
        outputs.append(output)
        if output is not None:
            stack.callback(output.close)
    refuse_clashes([output for output in outputs if output is not None], inputs, kept)
    return outputs


def leave_out_own_files(reader: Reader, out: str | None, kept: Iterable[str | None]) -> None:
    """Keep a reader of recordings from what the command itself has in their folders, and say so.

    Args:
        reader: nothing of it was read yet.
        out: what is written. A file there that may be a recording is not left out: `private_outputs` refuses to replace it.
        kept: files that are kept from run to run, and what SQLite may have beside them.
    """
    from guardpool.batch.kept_labels import COMPANIONS  # here, because it brings SQLite

    own = [] if out is None else [path for path in (out, f"{out}{PART}") if _is_of_an_earlier_run(path)]
    own += [f"{path}{ending}" for path in kept if path is not None for ending in ("", *COMPANIONS)]
    for path in reader.leave_out(own):
        complain(f"{path}: it is left out of the recordings, because it is this command's own")


def _is_of_an_earlier_run(path: str) -> bool:
    """Whether a file is empty, or holds decisions or changes of decisions: no recording begins as they do."""
    if not os.path.isfile(path):  # a pipe is not opened: whoever reads it would take that for the end
        return False
    try:
        with open(path, "rb") as file:
            return not (start := file.read(5)) or start == b'{"v":'
    except OSError:
        return False
