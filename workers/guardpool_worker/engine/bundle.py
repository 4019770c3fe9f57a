"""A bundle: a guard's machine code with that of our helper modules (gate, quick judge and bridge) beside it.

`compile_bundle` makes one in the compiler's process, `load_bundle` loads it in the forkserver. Both work with whichever
engine they are given; a bundle says which engine made it.
"""

from __future__ import annotations

import struct

import msgspec

from guardpool_worker import gate_and_bridge, quick_judge
from guardpool_worker.engine.seam import BundleError, Engine, EngineModule

_MAGIC = b"GPB\x03"
_FLAGS = struct.Struct("<?")
_PART_HEAD = struct.Struct("<Q")
_PARTS = ("guard", "gate", "quick_judge", "bridge")


class LoadedGuard(msgspec.Struct, frozen=True):
    """A guard's machine code and our helpers', loaded. Shared by every process forked afterwards.

    Attributes:
        engine: the engine that loaded them, which makes the host functions that they are linked with.
        has_start: whether instantiating the guard runs code of the guest.
    """

    engine: Engine
    guard: EngineModule
    gate: EngineModule
    quick_judge: EngineModule
    bridge: EngineModule
    has_start: bool


def compile_bundle(engine: Engine, wasm: bytes, *, has_start: bool) -> bytes:
    """Compile a guard, and our helper modules beside it, to a bundle for `load_bundle`.

    Never call it in a process that was forked from one that compiled: it may hang. Bundles are machine code, so keep
    them where nobody else can write and check a digest before they are loaded.

    Args:
        engine: compiles, and is the one that can load the bundle.
        wasm: the guard's module, checked and with its memory capped.
        has_start: whether the module has a start section.

    Raises:
        CompileError: the engine refused the module, or failed on it.
    """
    gate, bridge = map(engine.wat_to_wasm, (gate_and_bridge.gate_wat(), gate_and_bridge.bridge_wat()))
    parts = [engine.compile(module) for module in (wasm, gate, quick_judge.WASM, bridge)]
    return join(engine, parts, has_start=has_start)


def load_bundle(engine: Engine, body: bytes) -> LoadedGuard:
    """Load what `compile_bundle` made, without compiling. The caller has checked a digest of these very bytes.

    Raises:
        BundleError: the bytes are not a bundle that this engine made, or the engine cannot load them.
    """
    (guard, *helpers), has_start = split(engine, body)
    gate, quick, bridge = (_load_helper(engine, part) for part in helpers)
    return LoadedGuard(engine, engine.load(guard), gate, quick, bridge, has_start=has_start)


def join(engine: Engine, parts: list[bytes], *, has_start: bool) -> bytes:
    """A bundle of parts that are compiled already, in the order guard, gate, quick judge, bridge."""
    return _head(engine) + _FLAGS.pack(has_start) + b"".join(_PART_HEAD.pack(len(part)) + part for part in parts)


def split(engine: Engine, body: bytes) -> tuple[list[bytes], bool]:
    """The parts of a bundle in the order guard, gate, quick judge, bridge; and whether the guard has a start section.

    Raises:
        BundleError: the bytes are not a bundle that this engine made.
    """
    head = _head(engine)
    if not body.startswith(_MAGIC):
        raise BundleError("not a compiled guard: it does not begin as one")
    if not body.startswith(head):
        raise BundleError(f"not a compiled guard of this engine ({engine.engine_id}): compile it again")
    at = len(head) + _FLAGS.size
    parts = []
    for name in _PARTS:
        start = at + _PART_HEAD.size
        if start > len(body):
            raise BundleError(f"not a compiled guard: cut before its {name}, after {len(body)} bytes")
        (size,) = _PART_HEAD.unpack_from(body, at)
        parts.append(bytes(body[start : start + size]))
        at = start + size
    if at != len(body):
        raise BundleError(f"not a compiled guard: it has {len(body)} bytes and says that it has {at}")
    (has_start,) = _FLAGS.unpack_from(body, len(head))
    return parts, has_start


def _head(engine: Engine) -> bytes:
    return _MAGIC + engine.engine_id.encode() + b"\n"


_helpers: dict[tuple[Engine, bytes], EngineModule] = {}


def _load_helper(engine: Engine, artifact: bytes) -> EngineModule:
    """Like `engine.load`, but guards share the helper modules, which are the same for all of them."""
    module = _helpers.get((engine, artifact))
    if module is None:
        module = _helpers[engine, artifact] = engine.load(artifact)
    return module
