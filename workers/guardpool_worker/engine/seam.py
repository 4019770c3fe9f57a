"""The seam to a WebAssembly engine: all that the rest of the worker knows of one. Names no engine and imports none.

An engine is one module beside this one, with an object that implements `Engine`; `choice` says which of them a process uses.
None of an engine's own types or exceptions passes the seam:

- compiling happens in the compiler's process: wasm to machine code
- loading happens in the forkserver: machine code into memory. It compiles nothing and runs nothing, and has to come before
  the fork, because it needs executable memory, which the workers' sandbox denies
- instances and host functions are made in a worker. Neither needs executable memory
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from guardpool.errors import GuardPoolError

TRAP_KINDS: Final = frozenset(
    {
        "unreachable",
        "memory_out_of_bounds",
        "memory_misaligned",
        "table_out_of_bounds",
        "indirect_call_to_null",
        "bad_signature",
        "integer_overflow",
        "integer_divide_by_zero",
        "invalid_conversion_to_integer",
        "stack_overflow",
        "unaligned_atomic",
        "exit",
        "unknown",
    }
)
"""Every kind of trap, the same for all engines. `exit`, a WASI exit with a non-zero code, is told from a trap by the
instance; `unknown` is a trap that the engine's module cannot name."""

MAX_TRAP_MESSAGE: Final = 500  # characters; a stack overflow has a line for every frame: 15 MB with wasmer

EngineFunction = Callable[..., Any]
"""An exported function: takes signed ints, returns a signed int or None, raises `EngineTrap`."""


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
    """Bytes that are not a compiled guard, or one that another engine or another release made."""


class EngineExtern(Protocol):
    """Something one instance exports and another imports. Opaque."""


class EngineGlobal(Protocol):
    """An exported mutable global."""

    value: int


class EngineInstance(Protocol):
    """A module with its own memory, tables and globals."""

    def extern(self, name: str) -> EngineExtern:
        """The export as something to import elsewhere. Raises KeyError if there is no such export."""

    def function(self, name: str) -> EngineFunction:
        """The exported function. Raises KeyError if there is no such export."""

    def global_(self, name: str) -> EngineGlobal:
        """The exported global. Raises KeyError if there is no such export."""

    def memory_size(self) -> int:
        """The size of the exported memory `memory` in bytes, as it is now."""

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

    def instantiate(
        self, imports: Mapping[str, Mapping[str, EngineExtern]], *, beside: EngineInstance | None = None
    ) -> EngineInstance:
        """Make an instance and run its start function.

        Args:
            imports: by namespace and name; more than the module imports does no harm.
            beside: an instance that this one will be linked with, directly or through a third one. What is linked lives and
                dies together; None: a module that is the first of its kind, or imports something of the others.

        Raises:
            EngineTrap: the start function or a data or element segment trapped.
            LinkError: an import is missing or of another type, or the host cannot give the memory.
        """


class Engine(Protocol):
    """One WebAssembly engine. What one engine made can only be used with that engine.

    Attributes:
        engine_id: name, version and compiler in one line: machine code is for the engine that made it.
        completes_modules_late: whether the first instance of a module completes what all later ones share, so that one should
            be made before the fork.
    """

    @property
    def engine_id(self) -> str: ...

    @property
    def completes_modules_late(self) -> bool: ...

    def wat_to_wasm(self, text: str) -> bytes:
        """WAT to wasm.

        Raises:
            CompileError: the text is not valid WAT.
        """

    def load_compiler(self) -> None:
        """Load what `compile` needs, for a process that gives up opening files before it compiles.

        Raises:
            EngineMissing: the compiler is not installed, or does not load.
        """

    def compile(self, wasm: bytes) -> bytes:
        """Compile a module to machine code for `load`.

        Never call it in a process that was forked from one that compiled: it may hang.

        Raises:
            CompileError: the engine refused the module, or failed on it.
        """

    def load(self, artifact: bytes) -> EngineModule:
        """Load what `compile` made, without compiling. The caller has checked a digest of these very bytes.

        Raises:
            BundleError: the engine cannot load it.
        """

    def prepare(self, signatures: Sequence[tuple[str, str]]) -> None:
        """Make what host functions of these types need of executable memory, for a process whose forks may not make any.

        Args:
            signatures: parameters and results, as `host_function` takes them.
        """

    def seal(self) -> None:
        """Take the write permission from all executable memory. Host functions of types not prepared are refused from here on.

        Raises:
            OSError: the memory cannot be sealed.
        """

    def host_function(self, function: Callable[..., Any], params: str, results: str) -> EngineExtern:
        """A Python function that wasm can import.

        Args:
            function: gets signed ints and returns one, or None if `results` is empty. What it raises comes out of the
                guest call that led to it, as itself.
            params: one letter for each parameter, `i` for i32, `l` for i64.
            results: the same for the result; at most one letter.

        Raises:
            LinkError: the engine is sealed, and this type was not prepared.
        """
