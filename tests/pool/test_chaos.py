"""A short chaos run in every test run, and a long one; see `chaos.py`."""

from __future__ import annotations

import time

import pytest

import chaos
import chaos_files


def test_nothing_is_lost_or_wrong_whatever_is_killed_and_stopped() -> None:
    report = chaos.run(2.5, seed=1, sample_jobs=250)
    assert report.books.labelled > 1000
    assert report.kills > 0
    assert report.ok, f"\n{report}"


@pytest.mark.slow
def test_a_minute_of_chaos_with_a_copy_of_the_guard_for_each_job() -> None:
    report = chaos.run(60.0, seed=time.time_ns() % 1_000_000, isolation="job")
    assert report.ok, f"\n{report}"


def test_files_of_outcomes_are_whole_and_right_whatever_is_killed() -> None:
    assert chaos_files.run(seed=1, jobs=5000) == []


@pytest.mark.slow
def test_a_minute_of_chaos(capsys: pytest.CaptureFixture[str]) -> None:
    report = chaos.run(60.0, seed=time.time_ns() % 1_000_000)
    with capsys.disabled():
        print(f"\n{report}")
    assert report.ok, f"\n{report}"
