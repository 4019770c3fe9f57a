"""An argument of a wrong kind is named in one line, and is no error from the inside."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from guardpool import Guard, GuardPoolError, arrow, batch, contract, decide, gateway_config, recordings, report, samples

CALLS: list[tuple[Callable[..., Any], tuple[Any, ...], str]] = [
    (arrow.table, (None,), "outcomes must be an iterable of Outcome, not NoneType"),
    (arrow.table, ([1],), "each of the outcomes must be an Outcome, not int"),
    (arrow.outcomes_from, ([1],), "table must be a pyarrow.Table or RecordBatch, not list"),
    (arrow.jobs_from, (None,), "table must be a pyarrow.Table or RecordBatch, not NoneType"),
    (batch.label_file, (None, "o", [Guard.from_file(samples.GUARD, "github", samples.POLICY)]), "jobs must be a path"),
    (batch.label_file, ([1], "o", [Guard.from_file(samples.GUARD, "github", samples.POLICY)]), "each of the jobs must"),
    (batch.label_file, (["j"], None, []), "a pool needs at least one guard"),
    (batch.label_file, ("j", "o", None), "guards must be a sequence of Guard"),
    (batch.label_file, ("j", "o", "x"), "guards must be Guard objects, not str"),
    (contract.normalise, ("1",), "raw must be bytes of JSON, not str"),
    (contract.normalise, (3,), "raw must be bytes of JSON, not int"),
    (contract.parse_agent_answer, (1,), "answer must be the bytes that label_agent gave, not int"),
    (contract.parse_response_answer, (1,), "answer must be the bytes that label_response gave, not int"),
    (decide.read_record, (1,), "line must be a line of JSON, not int"),
    (decide.read_records, (["{}"], "d"), "each of the lines must be bytes: open the file with 'rb', not str"),
    (gateway_config.parse, ("{}",), "text must be bytes, as Path(...).read_bytes() gives them, not str"),
    (gateway_config.read, (None,), "path must be a path, not NoneType"),
    (recordings.read, (None,), "paths must be a path or a sequence of paths, not NoneType"),
    (recordings.read, ([1],), "each of the paths must be a path, not int"),
    (recordings.jobs, (["x"],), "each of the calls must be a Call, not str"),
    (report.read_decisions, (None,), "path must be a path, not NoneType"),
    (Guard.from_file, (None,), "path must be a path, not NoneType"),
]


@pytest.mark.parametrize(("function", "arguments", "told"), CALLS)
def test_an_argument_of_a_wrong_kind_is_named(
    function: Callable[..., Any], arguments: tuple[Any, ...], told: str
) -> None:
    with pytest.raises(GuardPoolError) as raised:
        made = function(*arguments)
        if isinstance(made, Iterator):
            list(made)
    assert told in str(raised.value)
    assert "\n" not in str(raised.value)
