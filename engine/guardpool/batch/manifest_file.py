"""`OUT.manifest.json`: what an output was made of, by what, and what came of it. For whoever finds the output a year later."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any

import msgspec

from guardpool.batch.files import FileError
from guardpool.batch.identity import RunIdentity
from guardpool.batch.journal import sync_folder_of
from guardpool.batch.seam import InputFile
from guardpool.limits import Limits

SUFFIX = ".manifest.json"
_FORMAT = "guardpool manifest 1"


class ManifestFile:
    """The manifest beside one output.

    Args:
        target: the output's path.
    """

    def __init__(self, target: str) -> None:
        self.path = f"{target}{SUFFIX}"
        self._new = f"{self.path}.part"

    def write(self, told: Mapping[str, Any]) -> None:
        """Put it on the disk, beside what an earlier run may have left under its name.

        Raises:
            FileError: it cannot be written.
        """
        text = msgspec.json.format(msgspec.json.encode(told), indent=2) + b"\n"
        try:
            fd = os.open(self._new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
            with open(fd, "wb") as file:
                file.write(text)
                file.flush()
                os.fsync(fd)
        except OSError as error:
            raise FileError.of(self._new, "the manifest cannot be written", error) from error

    def finish(self) -> None:
        """Let it take its name: the output has taken its own.

        Raises:
            FileError: it cannot be renamed.
        """
        try:
            os.replace(self._new, self.path)
            sync_folder_of(self.path)
        except OSError as error:
            raise FileError.of(self._new, f"the manifest cannot be renamed to {self.path}", error) from error


def manifest_of(
    run: RunIdentity,
    limits: Limits,
    *,
    inputs: list[InputFile],
    out: str,
    out_bytes: int,
    counts: Mapping[str, int],
    label_hash: str | None,
    runs: list[float],
    elapsed_s: float,
    ended: float,
) -> dict[str, Any]:
    """What a manifest tells.

    Args:
        run, limits: how it was labelled.
        inputs: what was read.
        out: the output's name.
        out_bytes: its size.
        counts: its outcomes by status.
        label_hash: the hash over all labels, if it was made.
        runs: when the run was begun, and each time it went on after an interruption: seconds since 1970.
        elapsed_s: how long it took, interruptions left out.
        ended: when it ended, in seconds since 1970.
    """
    told = msgspec.to_builtins(run)
    manifest = {
        "format": _FORMAT,
        "guardpool": told.pop("guardpool"),
        "engine": told.pop("engine"),
        "python": platform.python_version(),
        "host": {
            "name": platform.node(),
            "system": f"{platform.system()} {platform.release()}",
            "machine": platform.machine(),
        },
        "guards": told.pop("guards"),
        "options": told,
        "limits": asdict(limits),
        "inputs": [{**msgspec.to_builtins(each), "name": _in_utf_8(each.name)} for each in inputs],
        "out": {"name": _in_utf_8(os.path.basename(out)), "bytes": out_bytes, "outcomes": sum(counts.values())},
        "counts": dict(counts),
        "runs": list(map(_time, runs)),
        "ended": _time(ended),
        "elapsed_s": round(elapsed_s, 3),
    }
    if label_hash is not None:
        manifest["label_hash"] = label_hash
    return manifest


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _in_utf_8(name: str) -> str:
    """The name of a file, which may be of any bytes, as text that can be written."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
