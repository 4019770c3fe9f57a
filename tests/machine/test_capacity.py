"""Cores and memory by the container's limits, in both versions of cgroups: the least on the way up to the root counts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from guardpool.machine import capacity, cgroup

V1 = """12:cpu,cpuacct:/docker/ab
7:memory:/docker/ab
3:pids:/docker/ab
1:name=systemd:/docker/ab
0::/
"""


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in the place of /sys/fs/cgroup; `own` beside it is /proc/self/cgroup."""
    root = tmp_path / "cgroup"
    root.mkdir()
    monkeypatch.setattr(cgroup, "_ROOT", root)
    monkeypatch.setattr(cgroup, "_OWN", tmp_path / "own")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)))
    return root


def put(tree: Path, own: str, **files: str) -> None:
    """Write limits; `__` in a name is a slash, `_D_` a dot."""
    (tree.parent / "own").write_text(own)
    for name, text in files.items():
        path = tree / name.replace("__", "/").replace("_D_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")


def test_no_cgroup_sets_no_limit(tree: Path) -> None:
    assert (cgroup.cores(), cgroup.memory_bytes(), cgroup.processes()) == (None, None, None)
    assert capacity.cores() == 8
    assert capacity.memory_bytes() > 1 << 28


def test_version_2(tree: Path) -> None:
    put(
        tree,
        "0::/a/b\n",
        a__b__cpu_D_max="max 100000",
        a__cpu_D_max="250000 100000",
        a__b__memory_D_max="268435456",
        a__memory_D_max="max",
        a__pids_D_max="64",
        a__pids_D_current="60",
    )
    assert (cgroup.cores(), cgroup.memory_bytes(), cgroup.processes()) == (2.5, 268435456, 64)
    assert cgroup.room_for_processes() == 4
    assert (capacity.cores(), capacity.memory_bytes()) == (3, 268435456)


def test_version_1(tree: Path) -> None:
    put(
        tree,
        V1,
        cpu__docker__ab__cpu_D_cfs_quota_us="-1",
        cpu__docker__ab__cpu_D_cfs_period_us="100000",
        cpu__docker__cpu_D_cfs_quota_us="50000",
        cpu__docker__cpu_D_cfs_period_us="100000",
        memory__docker__ab__memory_D_limit_in_bytes="536870912",
        memory__memory_D_limit_in_bytes="9223372036854771712",
        pids__docker__ab__pids_D_max="max",
    )
    assert (cgroup.cores(), cgroup.memory_bytes(), cgroup.processes()) == (0.5, 536870912, None)
    assert (capacity.cores(), capacity.memory_bytes()) == (1, 536870912)


def test_a_path_that_is_not_there_is_the_one_outside_the_container(tree: Path) -> None:
    put(tree, "0::/../../kubepods/pod\n", cpu_D_max="100000 100000", memory_D_max="1073741824")
    assert (cgroup.cores(), cgroup.memory_bytes()) == (1.0, 1073741824)


@pytest.mark.parametrize("text", ["", "max", "one two three", "-5 100000", "100000 0", "\u0663 1"])
def test_what_cannot_be_read_sets_no_limit(tree: Path, text: str) -> None:
    put(tree, "0::/\n", cpu_D_max=text, memory_D_max=text)
    assert (cgroup.cores(), cgroup.memory_bytes()) == (None, None)
    assert capacity.cores() == 8
