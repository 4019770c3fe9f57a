"""For tests of guards, `guard`; for tests of guardpool itself, a deterministic simulation of a pool.

`guard(path, policy)` starts one guard, whose calls fail a test with everything that is known: see `guardpool.testing.guards`.

`simulate(seed)` runs guardpool's own supervisor, streams and calls on a simulated `Machine`: workers whose bytes are cut at
random places, that are killed in the middle of a frame, stopped, slow, out of memory or hostile, that say a wrong HELLO or
no HELLO at all, that ask their backend and wait; a forkserver that dies, is stopped or cannot fork; a caller without
descriptors, with slow consumers or with consumers that walk away; a clock. Nothing in it waits for a real clock, so a run
of a hundred jobs takes milliseconds, and nothing in it depends on anything but the seed, so a failure is replayed by its
number:

    python -m guardpool.testing --seeds 1000            # seeds 0 to 999
    python -m guardpool.testing --start 4711 --trace    # one seed, step by step

What is checked is what the design promises: exactly one outcome for each job, the right one, with the right number of
attempts, in order if order was asked for, never a job at two workers, never more than two frames in flight, every worker
ended for the reason given and in time, no honest worker ended at all, no descriptor left open, memory bounded by the window,
and an end, whatever happened before.
"""

from __future__ import annotations

from guardpool.testing.guards import GuardUnderTest, guard
from guardpool.testing.plan import Plan, make_plan
from guardpool.testing.simulation import SimulationFailure, SimulationReport, simulate

__all__ = ["GuardUnderTest", "Plan", "SimulationFailure", "SimulationReport", "guard", "make_plan", "simulate"]
