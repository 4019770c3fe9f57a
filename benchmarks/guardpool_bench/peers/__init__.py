"""Other pools on the same guard and the same jobs, written as a good engineer would write them.

Each peer gets: workers started by spawn (nothing compiles after a fork), the artifact deserialized once in the
initializer, one instance a worker, and guardpool's own instance code in it, which is quicker than the usual use of the
engine. Jobs travel as bytes that the caller encodes, labels come back as bytes. So only the pool differs.

No peer can bound a job's time or memory, tell which job killed a worker, or close a sandbox.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Protocol

from guardpool_bench.contestants import Contestant
from guardpool_bench.loadable import Loadable

# Jobs that go to a worker of a peer at once, in its `map`.
CHUNK = 64

_MODULES = {
    "multiprocessing": "guardpool_bench.peers.multiprocessing_peer",
    "concurrent.futures": "guardpool_bench.peers.futures_peer",
    "loky": "guardpool_bench.peers.loky_peer",
    "pebble": "guardpool_bench.peers.pebble_peer",
}
NAMES = tuple(_MODULES)


class Peer(Protocol):
    """A running pool of another library. `map` and `submit` are contestants; None if it lacks that method."""

    map: Contestant | None
    submit: Contestant | None

    def close(self) -> None:
        """End its workers."""


def available() -> list[str]:
    """The peers that can be measured here."""
    return [name for name in NAMES if importlib.util.find_spec(name) is not None]


def missing() -> list[str]:
    """The peers that are not installed."""
    return [name for name in NAMES if importlib.util.find_spec(name) is None]


def start(name: str, guard: Loadable, workers: int) -> Peer:
    """Start a peer."""
    peer: Peer = importlib.import_module(_MODULES[name]).start(guard, workers)
    return peer


def start_all(names: Sequence[str], guard: Loadable, workers: int, stack: ExitStack) -> list[Peer]:
    """Start several. The stack closes them, also if a later one cannot be started."""
    started = []
    for name in names:
        peer = start(name, guard, workers)
        stack.callback(peer.close)
        started.append(peer)
    return started
