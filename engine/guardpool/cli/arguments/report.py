"""What the command line of `guardpool report` may say."""

from __future__ import annotations

import argparse

from guardpool.cli.arguments.common import add_progress, add_redaction
from guardpool.cli.arguments.parser import Commands, add_command, as_typed
from guardpool.cli.findings import EXIT_STOPPED

FORMATS = ("text", "html", "markdown", "json", "csv", "sarif", "junit")

_DESCRIPTION = """\
Report on decisions: how far the replay agrees with the log, findings, what was
covered, what the agent got, and shares by tool, repository, author, level and
day. No count stands without what it is a part of."""

_EPILOG = """\
examples:
  guardpool report decisions.jsonl
  guardpool report decisions.jsonl -o report.html
  guardpool report decisions.jsonl --against last-week.jsonl -o report.md
  guardpool report decisions.jsonl --redact -o report.html

formats, as the name of FILE ends, or --format says:
  text      for terminals, with bars (the default; .txt)
  html      one file with charts, which opens from disk without a network:
            pip install 'guardpool[report]'
  markdown  for job summaries and issues; pings nobody, closes nothing
  json      everything that was counted
  csv       a row for each call
  sarif     a result for each finding, for code scanning
  junit     a test for each tool and kind of finding; what is undecided is
            skipped

What strangers wrote (titles, logins, names) is shown so that it can do no harm.
FILE has mode 0600; it is written as FILE.part and renamed when it is complete.

exit status:
  0    there is a report, whatever it tells
  2    usage
  5    the decisions cannot be read, or the report cannot be written
  130  interrupted"""


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "report",
        _run,
        "report on decisions: as text, a page, Markdown, JSON, ...",
        _DESCRIPTION,
        epilog=_EPILOG,
        failed=EXIT_STOPPED,
        usage="guardpool report DECISIONS [-o FILE] [options]",
    )
    add = parser.add_argument
    add("decisions", metavar="DECISIONS", help="decisions.jsonl of guardpool replay; - is standard input")
    add("-o", "--out", metavar="FILE", default="-", help="the report (default: standard output)")
    add(
        "--format",
        choices=FORMATS,
        metavar="FORMAT",
        help=f"{', '.join(FORMATS)} (default: by the ending of FILE, else text)",
    )
    add("--against", metavar="OLD", help="earlier decisions: tell what has changed since")
    add("--show-data", action="store_true", help="show arguments of calls, too")
    add_progress(parser, "a count")
    add_redaction(parser)


def _run(options: argparse.Namespace) -> int:
    from guardpool.cli import report as command

    return command.run(as_typed(command.Options, options))
