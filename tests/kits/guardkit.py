"""Guards for tests: the WAT files under `tests/guards/`, compiled by the real compiler, and instances of them."""

from __future__ import annotations

from functools import cache
from typing import Any

import enginekit
from guardpool.module.kept_state import as_compiled
from guardpool_worker.backend import CallBackend
from guardpool_worker.engine.bundle import LoadedGuard
from guardpool_worker.instance import GuardInstance, InstanceSettings
from paths import GUARDS

MEMORY_PAGES = 512
POLICY = b'{"allow-only":{"repos":"all","min-integrity":"approved"}}'
RESOURCE = b'{"tool_name":"get_issue","tool_args":{"owner":"o","repo":"r"}}'
RESPONSE = b'{"tool_name":"list_issues","tool_result":{"items":[{"number":1}]}}'


@cache
def wat(name: str) -> bytes:
    """The wasm of `tests/guards/NAME.wat`, as its author wrote it: neither checked nor capped."""
    return enginekit.wat_to_wasm((GUARDS / f"{name}.wat").read_text(encoding="utf-8"))


def load(wasm: bytes, memory_pages: int = MEMORY_PAGES) -> LoadedGuard:
    """Any module, prepared, compiled and loaded."""
    return enginekit.load_bundle(enginekit.compile_bundle(as_compiled(wasm, memory_pages)))


@cache
def loaded(name: str, memory_pages: int = MEMORY_PAGES) -> LoadedGuard:
    """`tests/guards/NAME.wat`, capped, compiled and loaded; once for each process."""
    return load(wat(name), memory_pages)


def instance(
    name: str, backend: CallBackend | None = None, memory_pages: int = MEMORY_PAGES, **settings: Any
) -> GuardInstance:
    """A fresh instance of `tests/guards/NAME.wat`; `settings` are those of `InstanceSettings`.

    The guard's logs are kept from level 0 on, and it has a backend if one is given, unless `settings` says otherwise.
    """
    options = {"name": name, "log_threshold": 0, "has_backend": backend is not None, **settings}
    return GuardInstance(loaded(name, memory_pages), InstanceSettings(**options), backend)
