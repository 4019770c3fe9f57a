"""The exit statuses of commands that look for something: `replay`, `what-if`, `diff`, `test`, `lint`."""

from __future__ import annotations

EXIT_CLEAN, EXIT_FINDINGS, EXIT_USAGE, EXIT_INCOMPLETE, EXIT_STOPPED = 0, 1, 2, 3, 5


def exit_status(findings: bool, complete: bool) -> int:
    """The exit status of a run that came to its end.

    What was found stays found, so findings count before a lack of completeness.
    """
    if findings:
        return EXIT_FINDINGS
    return EXIT_CLEAN if complete else EXIT_INCOMPLETE
