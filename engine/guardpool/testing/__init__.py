"""A deterministic simulation of a pool: real decisions, simulated processes, pipes and clock.

`simulate(seed)` runs the real scheduler, wire codec, respawn policy, judgement, intake and streams of guardpool against
workers that live in a simulated world: bytes are cut at random places, workers are killed in the middle of a frame, stopped,
slow, out of memory or hostile, the forkserver dies and takes all of them along, consumers are slow or walk away. Nothing in
it waits for a real clock, so a run of a hundred jobs takes milliseconds, and nothing in it depends on anything but the
seed, so that a failure is replayed by its number:

    python -m guardpool.testing --seeds 1000            # seeds 0 to 999
    python -m guardpool.testing --start 4711 --trace    # one seed, step by step

What is checked is what the design promises: exactly one outcome for each job, the right one, with the right number of
attempts, in order where order was asked for, never a job at two workers, never more than two frames in flight, memory
bounded by the window, and an end, whatever happened before.
"""

from __future__ import annotations

from guardpool.testing.plan import Plan, make_plan
from guardpool.testing.simulation import SimulationFailure, SimulationReport, simulate

__all__ = ["Plan", "SimulationFailure", "SimulationReport", "make_plan", "simulate"]
