"""The supervisor's clock stands still while the supervisor cannot run."""

from __future__ import annotations

import time

import pytest

from guardpool.supervise.clock import LONG_PAUSE_S, PAUSE_S, SHORT_PAUSES_S, SupervisorClock


class Machine:
    """The machine's clock, set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    monkeypatch.setattr(time, "monotonic", made.monotonic)
    return made


def waits(machine: Machine, clock: SupervisorClock, asked_s: float, took_s: float) -> None:
    machine.now += took_s
    clock.tick(asked_s)


def test_waits_that_end_in_time_or_a_little_late_count(machine: Machine) -> None:
    clock = SupervisorClock()
    for asked_s, took_s in [(0.05, 0.01), (0.05, 0.05), (0.05, 0.05 + PAUSE_S), (2.0, 2.2)]:
        waits(machine, clock, asked_s, took_s)
    assert clock.now() == machine.now
    assert clock.of(101.0) == 101.0


def test_a_pause_does_not_count_and_times_of_other_processes_are_told_by_it(machine: Machine) -> None:
    clock = SupervisorClock()
    waits(machine, clock, 0.05, 0.05)  # 100.05
    waits(machine, clock, 0.05, 10.0)  # 110.05: nothing was seen of that
    assert clock.now() == pytest.approx(100.05)
    waits(machine, clock, 2.0, 2.0)
    waits(machine, clock, 0.05, 5.0)  # 117.05
    assert clock.now() == pytest.approx(102.05)
    machine.now += 1.0
    assert clock.now() == pytest.approx(103.05)
    told = {99.0: 99.0, 100.02: 100.02, 100.06: 100.05, 105.0: 100.05, 110.06: 100.06, 114.0: 102.05, 117.55: 102.55}
    for there, here in told.items():
        assert clock.of(there) == pytest.approx(here), there


def test_only_so_many_pauses_are_kept(machine: Machine) -> None:
    clock = SupervisorClock()
    for _ in range(1000):
        waits(machine, clock, 2.0, 2.0)
        waits(machine, clock, 0.05, 60.0)
    assert clock.now() == pytest.approx(2100.0)
    assert clock.of(machine.now) == pytest.approx(2100.0)
    assert clock.of(100.0) <= 2100.0


@pytest.mark.parametrize("each_s", [0.4, 1.0, 9.0])
def test_short_pauses_one_after_the_other_count_in_the_end(machine: Machine, each_s: float) -> None:
    # A program that holds the interpreter's lock again and again must not keep a guard alive that spins.
    clock = SupervisorClock()
    for _ in range(1000):
        waits(machine, clock, 0.05, each_s)
    passed_s = machine.now - 100.0
    assert clock.now() - 100.0 >= (passed_s - SHORT_PAUSES_S) / 2 - each_s


def test_long_pauses_never_count(machine: Machine) -> None:
    clock = SupervisorClock()
    for _ in range(100):
        waits(machine, clock, 0.05, LONG_PAUSE_S)
    assert clock.now() == pytest.approx(100.0)
