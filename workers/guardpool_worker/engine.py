"""The seam to the WebAssembly engine: nothing else imports wasmer, and none of its types gets out.

What the rest of the worker sees are the protocols below, `EngineTrap`, and a few functions:

- `compile_bundle` in the compiler's process: a guard's wasm to machine code, with our two helper modules beside it
- `load_bundle` in the forkserver: machine code into memory. It compiles nothing and runs nothing, and has to come
  before the fork, because it needs executable memory, which the workers' sandbox denies
- `LoadedGuard` and `host_function` in a worker: instances and the Python functions they call. Neither needs
  executable memory

Engine: wasmer 1.1.0 with Cranelift. Its traps are `RuntimeError`s that differ only in their text, so that they are told
apart by their first line, compared whole: what follows names functions of the guest, which may be called anything.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import msgspec

from guardpool.errors import CompileError, EngineMissing, GuardPoolError
from guardpool_worker import hostmodules

try:
    import wasmer
except ImportError as error:  # on CPython 3.11+ pip installs a stub that raises this
    raise EngineMissing(
        f"the wasm engine cannot be imported ({error}): guardpool needs wasmer 1.1.0, which has wheels for "
        "CPython 3.7-3.10 only; use CPython 3.10"
    ) from error

EngineFunction = Callable[..., Any]
"""An exported function: takes signed ints, returns a signed int or None, raises `EngineTrap`."""


class EngineExtern(Protocol):
    """Something one instance exports and another imports. Opaque."""


class EngineGlobal(Protocol):
    """An exported mutable global."""

    value: int


class EngineInstance(Protocol):
    """A module with its own memory, tables and globals."""

    def extern(self, name: str) -> EngineExtern:
        """The export as something to import elsewhere. Raises KeyError where there is none."""

    def function(self, name: str) -> EngineFunction:
        """The exported function. Raises KeyError where there is none."""

    def global_(self, name: str) -> EngineGlobal:
        """The exported global. Raises KeyError where there is none."""

    def memory_view(self) -> memoryview:
        """The exported memory `memory`, as it is now, as writable bytes.

        A view keeps its length when the memory grows, but stays valid for the addresses it covers: memories are
        reserved whole and never move. Source: `test_memory_does_not_move` proves it.
        """


class EngineModule(Protocol):
    """Machine code, ready to be instantiated any number of times.

    Attributes:
        imports: namespace and name of everything it imports.
    """

    imports: frozenset[tuple[str, str]]

    def instantiate(self, imports: Mapping[str, Mapping[str, EngineExtern]]) -> EngineInstance:
        """Make an instance and run its start function.

        Raises:
            EngineTrap: the start function or a data or element segment trapped.
            LinkError: an import is missing or of another type, or the host cannot give the memory.
        """


class EngineTrap(GuardPoolError):
    """The guest trapped.

    Attributes:
        kind: the trap's kind, one of `TRAP_KINDS`.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message[:MAX_TRAP_MESSAGE])
        self.kind = kind


class LinkError(GuardPoolError):
    """A module could not be instantiated, though nothing of it ran."""


class BundleError(GuardPoolError, ValueError):
    """Bytes that are no bundle, or one made by another release."""


MAX_TRAP_MESSAGE = 500  # a stack overflow's message is 15 MB: a line for every frame
MAX_TRAP_FRAMES = 4

_TRAPS = {
    "unreachable": "unreachable",
    "out of bounds memory access": "memory_out_of_bounds",
    "misaligned heap": "memory_misaligned",
    "undefined element: out of bounds table access": "table_out_of_bounds",
    "out of bounds table access": "table_out_of_bounds",
    "uninitialized element": "indirect_call_to_null",
    "indirect call type mismatch": "bad_signature",
    "integer overflow": "integer_overflow",
    "integer divide by zero": "integer_divide_by_zero",
    "invalid conversion to integer": "invalid_conversion_to_integer",
    "call stack exhausted": "stack_overflow",
    "unaligned atomic access": "unaligned_atomic",
}

TRAP_KINDS = frozenset(_TRAPS.values()) | {"exit", "unknown"}
"""Every kind there is; `exit` is a WASI exit with a non-zero code, which the instance tells from a trap."""

_PREFIX = "RuntimeError: "
_MAGIC = b"GPB\x01"
_COMPILER = "cranelift"
_PANIC = "PanicException"


class LoadedGuard(msgspec.Struct, frozen=True):
    """A guard's machine code and our helpers', loaded. Shared by every process forked afterwards.

    Attributes:
        has_start: whether instantiating the guard runs code of the guest.
    """

    guard: EngineModule
    gate: EngineModule
    bridge: EngineModule
    has_start: bool


def engine_id() -> dict[str, str]:
    """Name, version and compiler of the engine: they shape the machine code."""
    return {"engine": "wasmer", "version": str(wasmer.__version__), "compiler": _COMPILER}


def wat_to_wasm(text: str) -> bytes:
    """WAT to wasm.

    Raises:
        CompileError: the text is not WAT.
    """
    try:
        with _panics_as_errors():
            return bytes(wasmer.wat2wasm(text))
    except (RuntimeError, ValueError) as error:
        raise CompileError(f"not WAT: {_first_line(str(error))}") from None


def load_compiler() -> None:
    """Load what `compile_bundle` needs, for a process that gives up opening files before it compiles.

    Raises:
        EngineMissing: the compiler is not installed, or does not load.
    """
    try:
        import wasmer_compiler_cranelift  # noqa: F401
    except ImportError as error:
        raise EngineMissing(f"the engine's compiler cannot be imported: {error}") from error


def compile_bundle(wasm: bytes) -> bytes:
    """Compile a guard, and our helper modules beside it, to a bundle for `load_bundle`.

    Never call it in a process that was forked from one that compiled: it would hang. Bundles are machine code, so keep
    them where nobody else can write and check a digest before they are loaded.

    Args:
        wasm: the guard's module, checked and with its memory capped.

    Raises:
        CompileError: the engine refused the module, or panicked over it.
    """
    from wasmer_compiler_cranelift import Compiler

    store = wasmer.Store(wasmer.engine.Universal(Compiler))
    helpers = (hostmodules.gate_wat(), hostmodules.bridge_wat())
    parts = [_compile(store, module) for module in (wasm, *map(wat_to_wasm, helpers))]
    flags = struct.pack("<B", _has_start(wasm))
    return _MAGIC + flags + b"".join(struct.pack("<Q", len(part)) + part for part in parts)


def load_bundle(body: bytes) -> LoadedGuard:
    """Load what `compile_bundle` made, without compiling. The caller has checked a digest of these very bytes.

    Raises:
        BundleError: it is no bundle, or the engine panicked over it.
    """
    guard, gate, bridge = _split(body)
    return LoadedGuard(_load(guard), _load_helper(gate), _load_helper(bridge), has_start=body[len(_MAGIC)] != 0)


def host_function(function: Callable[..., Any], params: str, results: str) -> EngineExtern:
    """A Python function that wasm can import.

    Args:
        function: gets signed ints and returns one, or None where `results` is empty. What it raises comes out of the
            guest call that led to it, as itself.
        params: one letter for each parameter, `i` for i32, `l` for i64.
        results: the same for the result; at most one letter.
    """
    kinds = {"i": wasmer.Type.I32, "l": wasmer.Type.I64}
    signature = wasmer.FunctionType([kinds[c] for c in params], [kinds[c] for c in results])
    extern: EngineExtern = wasmer.Function(_store(), function, signature)
    return extern


class _Module:
    """`EngineModule` for wasmer."""

    __slots__ = ("_module", "imports")

    def __init__(self, module: Any) -> None:
        self._module = module
        self.imports = frozenset((each.module, each.name) for each in module.imports)

    def instantiate(self, imports: Mapping[str, Mapping[str, EngineExtern]]) -> _Instance:
        linked = wasmer.ImportObject()
        for namespace, externs in imports.items():
            linked.register(namespace, dict(externs))
        try:
            return _Instance(wasmer.Instance(self._module, linked))
        except RuntimeError as error:
            text = str(error)
            if text.startswith(_PREFIX):
                raise _trap(text) from None
            raise LinkError(_first_line(text)) from None


class _Instance:
    """`EngineInstance` for wasmer."""

    __slots__ = ("_exports",)

    def __init__(self, instance: Any) -> None:
        self._exports = instance.exports

    def extern(self, name: str) -> EngineExtern:
        try:
            extern: EngineExtern = getattr(self._exports, name)
        except LookupError:
            raise KeyError(name) from None
        return extern

    def function(self, name: str) -> EngineFunction:
        return _trapping(self.extern(name))

    def global_(self, name: str) -> EngineGlobal:
        value: EngineGlobal = self.extern(name)  # type: ignore[assignment]  # wasmer.Global has a `value`
        return value

    def memory_view(self) -> memoryview:
        return memoryview(self._exports.memory.buffer)


def _trapping(function: Any) -> EngineFunction:
    """The function with its traps translated. Costs a tenth of a microsecond a call."""

    def call(*args: int) -> Any:
        try:
            return function(*args)
        except RuntimeError as error:
            raise _trap(str(error)) from None

    return call


def _trap(text: str) -> EngineTrap:
    """The trap that a message tells of: its first line is the reason, each further one a frame, innermost first."""
    reason = _first_line(text).removeprefix(_PREFIX)
    frames = [frame.strip() for frame in text[: 2 * MAX_TRAP_MESSAGE].splitlines()[1 : 1 + MAX_TRAP_FRAMES]]
    # Who called the guard is nobody's news.
    message = " ".join((reason, *(frame for frame in frames if "(bridge[" not in frame)))
    return EngineTrap(_TRAPS.get(reason, "unknown"), message)


def _first_line(text: str) -> str:
    return text[:MAX_TRAP_MESSAGE].partition("\n")[0]


def _compile(store: Any, wasm: bytes) -> bytes:
    try:
        with _panics_as_errors():
            return bytes(wasmer.Module(store, wasm).serialize())
    except (RuntimeError, ValueError) as error:
        raise CompileError(f"the engine refuses the module: {_first_line(str(error))}") from None


@contextmanager
def _panics_as_errors() -> Iterator[None]:
    """Make a RuntimeError of a panic of the engine: it arrives as a BaseException, whose class cannot be imported.

    The engine says the same on standard error, with its source's file and line.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != _PANIC:
            raise
        raise RuntimeError(f"the engine panicked: {error}") from None


def _split(body: bytes) -> list[bytes]:
    parts = []
    if body[: len(_MAGIC)] != _MAGIC or len(body) <= len(_MAGIC):
        raise BundleError("no compiled guard: it does not begin as one")
    at = len(_MAGIC) + 1
    for _ in range(3):
        if at + 8 > len(body):
            raise BundleError(f"no compiled guard: cut after {len(body)} bytes")
        (size,) = struct.unpack_from("<Q", body, at)
        parts.append(bytes(body[at + 8 : at + 8 + size]))
        at += 8 + size
    if at != len(body):
        raise BundleError(f"no compiled guard: {len(body)} bytes instead of {at}")
    return parts


def _has_start(wasm: bytes) -> bool:
    """Whether a module that compiled has a start section, whose number is 8."""
    at = 8
    while at < len(wasm):
        section, size, shift, more = wasm[at], 0, 0, True
        while more:
            at += 1
            size |= (wasm[at] & 0x7F) << shift
            shift += 7
            more = wasm[at] >= 0x80
        if section == 8:
            return True
        at += 1 + size
    return False


_the_store: Any = None
_helpers: dict[bytes, EngineModule] = {}


def _store() -> Any:
    """The one store of this process. It has no compiler; every further one would cost about 19 KB for good."""
    global _the_store
    if _the_store is None:
        _the_store = wasmer.Store(wasmer.engine.Universal())
    return _the_store


def _load(artifact: bytes) -> EngineModule:
    try:
        with _panics_as_errors():
            return _Module(wasmer.Module.deserialize(_store(), artifact))
    except RuntimeError as error:
        raise BundleError(f"no compiled guard: {_first_line(str(error))}") from None


def _load_helper(artifact: bytes) -> EngineModule:
    """Like `_load`, but guards share what is the same for all of them."""
    module = _helpers.get(artifact)
    if module is None:
        module = _helpers[artifact] = _load(artifact)
    return module
