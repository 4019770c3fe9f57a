"""A guard outside a pool: loaded from its artifact, and an instance of it as a worker makes one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Loadable:
    """A guard for `GuardInstance`: its machine code, the engine that made it, and what `label_agent` gets."""

    name: str
    engine: str
    artifact: bytes
    agent_payload: bytes


def load(guard: Loadable) -> Any:
    """The guard's modules, for any number of instances. The artifact's digest was checked by the cache."""
    from guardpool_worker.engine.bundle import load_bundle
    from guardpool_worker.engine.choice import load_engine

    return load_bundle(load_engine(guard.engine), guard.artifact)


def make_instance(guard: Loadable, loaded: Any = None) -> Any:
    """An instance with its policy.

    Args:
        guard: the guard.
        loaded: what `load` made of it, perhaps with meters around it; None: load it here.
    """
    from guardpool_worker.instance import GuardInstance, InstanceSettings

    instance = GuardInstance(load(guard) if loaded is None else loaded, InstanceSettings(guard.name))
    instance.label_agent(guard.agent_payload)
    return instance
