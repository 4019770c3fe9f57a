"""Files that a command writes besides what it prints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack

from guardpool.batch.files import Output, refuse_clashes


def private_outputs(
    paths: Mapping[str, str | None], inputs: Iterable[str], kept: Iterable[str | None], stack: ExitStack
) -> list[Output | None]:
    """Files to be written that only their owner may read, and that are none of the others.

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
