"""The engine wasmer 1.1.0 with Cranelift: the only module that imports it, and none of its types gets out.

Its traps are `RuntimeError`s that differ only in their text, so they are told apart by their first line, compared
whole: what follows names functions of the guest, which may be called anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from guardpool.errors import CompileError, EngineMissing
from guardpool_worker import linux
from guardpool_worker.engine.seam import (
    MAX_TRAP_MESSAGE,
    BundleError,
    Engine,
    EngineExtern,
    EngineFunction,
    EngineGlobal,
    EngineInstance,
    EngineModule,
    EngineTrap,
    LinkError,
)

try:
    import wasmer
except ImportError as error:  # on CPython 3.11+ pip installs a stub that raises this
    raise EngineMissing(
        f"the engine wasmer cannot be imported ({error}): wasmer 1.1.0 has wheels for CPython 3.7 to 3.10 only; "
        "use CPython 3.10, or the engine wasmtime"
    ) from error

KIND_OF_TRAP: Final = {
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
"""The reason in a trap's message, and the kind it is in `TRAP_KINDS`."""

MAX_TRAP_FRAMES: Final = 4

_PREFIX = "RuntimeError: "
_PANIC = "PanicException"


class Wasmer:
    """`Engine` for wasmer. A process needs only one: each further store would cost about 19 KB for good."""

    completes_modules_late = True

    def __init__(self) -> None:
        self._store: Any = None

    @property
    def engine_id(self) -> str:
        return f"wasmer {wasmer.__version__} cranelift"

    def wat_to_wasm(self, text: str) -> bytes:
        try:
            with panics_as_errors():
                return bytes(wasmer.wat2wasm(text))
        except (RuntimeError, ValueError) as error:
            raise CompileError(f"not valid WAT: {_first_line(str(error))}") from None

    def load_compiler(self) -> None:
        try:
            import wasmer_compiler_cranelift  # noqa: F401
        except ImportError as error:
            raise EngineMissing(f"the engine's compiler cannot be imported: {error}") from error

    def compile(self, wasm: bytes) -> bytes:
        # In a process that was forked from one that compiled, this waits forever for threads that the fork left behind.
        from wasmer_compiler_cranelift import Compiler

        store = wasmer.Store(
            wasmer.engine.Universal(Compiler)
        )  # one for each module: a panic leaves its store unusable
        try:
            with panics_as_errors():
                return bytes(wasmer.Module(store, wasm).serialize())
        except (RuntimeError, ValueError) as error:
            raise CompileError(f"the engine refuses the module: {_first_line(str(error))}") from None

    def load(self, artifact: bytes) -> EngineModule:
        try:
            with panics_as_errors():
                return _Module(wasmer.Module.deserialize(self._loading_store(), artifact))
        except RuntimeError as error:
            raise BundleError(f"not a compiled guard: {_first_line(str(error))}") from None

    def prepare(self, signatures: Sequence[tuple[str, str]]) -> None:
        """Nothing: a host function of wasmer needs no executable memory of its own."""

    def seal(self) -> None:
        linux.seal_code()

    def host_function(self, function: Callable[..., Any], params: str, results: str) -> EngineExtern:
        kinds = {"i": wasmer.Type.I32, "l": wasmer.Type.I64}
        signature = wasmer.FunctionType([kinds[c] for c in params], [kinds[c] for c in results])
        extern: EngineExtern = wasmer.Function(self._loading_store(), function, signature)
        return extern

    def _loading_store(self) -> Any:
        """The store of everything that is loaded. It has no compiler."""
        if self._store is None:
            self._store = wasmer.Store(wasmer.engine.Universal())
        return self._store


ENGINE: Final[Engine] = Wasmer()


class _Module:
    """`EngineModule` for wasmer."""

    __slots__ = ("_module", "imports")

    def __init__(self, module: Any) -> None:
        self._module = module
        self.imports = frozenset((each.module, each.name) for each in module.imports)

    def instantiate(
        self, imports: Mapping[str, Mapping[str, EngineExtern]], *, beside: EngineInstance | None = None
    ) -> EngineInstance:
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

    __slots__ = ("_exports", "_instance")

    def __init__(self, instance: Any) -> None:
        self._instance = instance  # its exports alone do not keep what it imports alive
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

    def memory_size(self) -> int:
        size: int = self._exports.memory.data_size
        return size

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
    # Every call of a guard comes through the bridge: its frame tells nothing.
    message = " ".join((reason, *(frame for frame in frames if "(bridge[" not in frame)))
    return EngineTrap(KIND_OF_TRAP.get(reason, "unknown"), message)


def _first_line(text: str) -> str:
    return text[:MAX_TRAP_MESSAGE].partition("\n")[0]


@contextmanager
def panics_as_errors() -> Iterator[None]:
    """Make a RuntimeError of a panic of the engine: it arrives as a BaseException, whose class cannot be imported.

    The engine says the same on standard error, with its source's file and line.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != _PANIC:
            raise
        raise RuntimeError(f"the engine panicked: {error}") from None
