"""The layers of the code, computed from its imports: no circle, and nothing imports what stands above it.

An import counts wherever it stands, also in a function and under `if TYPE_CHECKING`: a reader of the file has to know both.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

import guardpool
import guardpool_bench
import guardpool_worker
from sourcekit import imports_of

PACKAGES = {"guardpool": guardpool, "guardpool_worker": guardpool_worker, "guardpool_bench": guardpool_bench}

# From the lowest up; what stands in one line must not import one another.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors", "lines", "nesting", "plurals", "printable", "sizes", "zig"),
    ("compression", "stacks", "wasm"),
    ("labels",),
    ("contract", "outcomes", "guard"),
    ("backends", "decide", "jobs", "limits"),
    ("gateway_config", "machine", "protocol", "stats", "recordings"),
    ("module",),
    ("artifacts", "supervise"),
    ("submit",),
    ("pool",),
    ("async_pool", "batch"),
    ("arrow", "telemetry", "recorded_labels", "replay_summary"),
    ("ray", "replay_fold"),
    ("replaying",),
    ("what_if",),
    ("proving", "samples", "testing", "checks"),
    ("report",),
    ("cli",),
    ("__main__",),
)


def modules_of(name: str) -> dict[str, Path]:
    """Every module of a package, by its whole name."""
    root = Path(PACKAGES[name].__file__).parent
    found = {}
    for path in root.rglob("*.py"):
        parts = [name, *path.relative_to(root).with_suffix("").parts]
        found[".".join(part for part in parts if part != "__init__")] = path
    return found


def arrows(name: str) -> dict[str, set[str]]:
    """Which modules of the package each of its modules imports."""
    modules = modules_of(name)
    return {
        module: {imported for imported, _line in imports_of(path) if imported in modules and imported != module}
        for module, path in modules.items()
    }


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """The sets of nodes that reach one another, each sorted. After Tarjan, 1972."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph.get(node, ())):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            at = stack.index(node)
            if len(stack) - at > 1:
                found.append(sorted(stack[at:]))
            del stack[at:]

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


def part_of(module: str) -> str:
    """The sub-package or the top-level module of `guardpool` that a module stands in."""
    return module.split(".")[1] if "." in module else module


def test_a_circle_is_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


@pytest.mark.parametrize("name", PACKAGES)
def test_no_module_imports_itself_by_way_of_others(name: str) -> None:
    graph = arrows(name)
    # The package itself imports from everywhere, when a name is used first.
    graph.pop(name, None)
    for imported in graph.values():
        imported.discard(name)
    assert circles(graph) == []


def test_sub_packages_make_no_circle() -> None:
    parts: dict[str, set[str]] = {}
    for module, imported in arrows("guardpool").items():
        if module != "guardpool":
            there = {part_of(other) for other in imported if other != "guardpool"}
            parts.setdefault(part_of(module), set()).update(there - {part_of(module)})
    assert circles(parts) == []


def test_every_part_stands_in_a_layer_and_imports_only_lower_ones() -> None:
    height = {part: at for at, layer in enumerate(LAYERS) for part in layer}
    graph = arrows("guardpool")
    assert {part_of(module) for module in graph if module != "guardpool"} == set(height)
    wrong = {
        f"{module} imports {other}"
        for module, imported in graph.items()
        for other in imported
        if "guardpool" not in (module, other)
        and part_of(module) != part_of(other)
        and height[part_of(other)] >= height[part_of(module)]
    }
    assert wrong == set()


def test_supervise_has_its_arrows_in_one_direction() -> None:
    """Births on top, then the watchdog and deaths, the exchange, and what it calls: see the theory in supervisor.py."""
    order = [
        *("thread", "supervisor", "births", "watchdog", "deaths", "exchange", "hello", "backend_calls", "endings"),
        *(
            "sender",
            "inbox",
            "state",
            "worker_handle",
            "machine",
            "worker_end",
            "slots",
            "forkserver_client",
            "reactor",
        ),
        *(
            "witness",
            "notifier",
            "repeats",
            "backend_threads",
            "backend_failures",
            "commands",
            "results",
            "known_labels",
            "verdicts",
            "scheduler",
            "sessions",
            "sources",
            "reply_memory",
            "frame_budget",
            "respawn",
            "owner",
            "clock",
        ),
    ]
    graph = {module: imported for module, imported in arrows("guardpool").items() if module.count(".") == 2}
    places = {f"guardpool.supervise.{name}": at for at, name in enumerate(order)}
    ours = {module for module in graph if module.startswith("guardpool.supervise.")}
    assert ours == set(places)
    up = {
        (module.rpartition(".")[2], other.rpartition(".")[2])
        for module in ours
        for other in graph[module]
        if other in places and places[other] <= places[module]
    }
    assert not up
