"""A cluster of Ray on this machine, whose nodes are bound to 127.0.0.1, and which nothing outside can join."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_LOOPBACK = "127.0.0.1"
_STORE_BYTES = 100_000_000
# Of each simulated node; they share the cores of this machine.
NODE_CPUS = 2


def bind_to_loopback() -> None:
    """Keep Ray in this process, and in those that it starts, from asking which other addresses this machine has."""
    from ray._private import services

    os.environ["RAY_OVERRIDE_NODE_IP_ADDRESS"] = _LOOPBACK
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    services.get_node_ip_address = lambda *_, **__: _LOOPBACK
    services.resolve_ip_for_localhost = lambda host: host


@contextmanager
def cluster(nodes: int) -> Iterator[tuple[Any, list[Any]]]:
    """A cluster that this process has joined: it, and its nodes but for the head, which has no CPU."""
    bind_to_loopback()
    import ray
    from ray.cluster_utils import Cluster

    node = {"node_ip_address": _LOOPBACK, "object_store_memory": _STORE_BYTES}
    made = Cluster(initialize_head=True, head_node_args={**node, "num_cpus": 0, "include_dashboard": False})
    try:
        workers = [made.add_node(**node, num_cpus=NODE_CPUS) for _ in range(nodes)]
        join(made.address)
        yield made, workers
    finally:
        ray.shutdown()
        made.shutdown()


def join(address: str) -> None:
    """Join a cluster of `cluster` in this process."""
    import ray

    ray.init(address, log_to_driver=False, logging_level="ERROR", _node_ip_address=_LOOPBACK)
    ray.data.DataContext.get_current().enable_progress_bars = False
