"""The engine wasmtime 50 with Cranelift: the only module that knows it, and none of its types gets out.

It is called through its C API, in the library that the `wasmtime` wheel ships. The wheel's own Python classes convert every
argument by its type and cost tens of microseconds a call; what is prepared once here costs about one. So the package is never
imported: its folder is looked up, its library opened, and the few functions that are needed are declared below.

- **Settings** shape the machine code, so that compiling and loading use the same ones: an artifact of others does not load.
- **Stores.** What is linked together lives in one store and dies with it, when Python drops the last of its instances. An
  instance joins the store of the one it is made beside, or of its imports, or begins a new one; a host function joins the
  store in which it is imported.
- **Calls** go through `wasmtime_func_call_unchecked` and an array of 16-byte slots: arguments in, results out from slot 0.
- **Host functions.** A callback of ctypes needs executable memory, which is mapped writable and executable on many systems.
  So there is one callback for each signature, made by `prepare` and never freed; the library passes it the function that is
  meant. `seal` takes the write permission away. To make or free a callback after that would write to such a page and crash,
  so a signature that was not prepared is an error.
- **Exceptions** must not fly through wasm frames: a callback keeps what the function raised and answers with a trap, and the
  call that led to it raises what was kept.

Source: the header files of wasmtime's C API, `wasmtime/*.h` and `wasm.h`.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import struct
from collections.abc import Callable, Mapping, Sequence
from ctypes import byref, c_bool, c_char_p, c_int32, c_int64, c_size_t, c_uint8, c_uint32, c_void_p
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

VERSION: Final = "50.0.1"

REASON_OF_TRAP: Final = {
    0: ("stack_overflow", "call stack exhausted"),
    1: ("memory_out_of_bounds", "out of bounds memory access"),
    2: ("memory_misaligned", "misaligned memory access"),
    3: ("table_out_of_bounds", "out of bounds table access"),
    4: ("indirect_call_to_null", "uninitialized table element"),
    5: ("bad_signature", "indirect call type mismatch"),
    6: ("integer_overflow", "integer overflow"),
    7: ("integer_divide_by_zero", "integer divide by zero"),
    8: ("invalid_conversion_to_integer", "invalid conversion to integer"),
    9: ("unreachable", "unreachable"),
    12: ("unaligned_atomic", "atomic wait on memory that is not shared"),
    13: ("indirect_call_to_null", "call of a null reference"),
}
"""`wasmtime_trap_code_enum`: the kind it is in `TRAP_KINDS`, and the reason in words. All others need features that are off."""

MAX_TRAP_FRAMES: Final = 4

# Guests share the stack with the Python that calls them, and with what they call: a worker's stack has 2 MiB.
MAX_WASM_STACK_BYTES: Final = 1024 * 1024

_SLOT_BYTES: Final = 16
_I32, _I64, _F32, _F64 = range(4)  # wasm_valkind_enum
_FORMAT_OF_KIND: Final = {_I32: "i12x", _I64: "q8x", _F32: "f12x", _F64: "d8x"}
_KIND_OF_LETTER: Final = {"i": _I32, "l": _I64}
_FUNCTION, _GLOBAL, _TABLE, _MEMORY = range(4)  # wasmtime_extern_kind_t

# Views of slots that arguments lay in, one for each depth of the stack at which a host function was called.
_MAX_VIEWS: Final = 256

_HOST_FAILED: Final = b"a host function failed"

_CALLBACK: Final = ctypes.CFUNCTYPE(c_size_t, ctypes.py_object, c_size_t, c_size_t, c_size_t)
"""`wasmtime_func_unchecked_callback_t`: environment, caller, address and number of slots; returns a trap or 0. Our
environment is the Python function itself, which the store keeps alive."""


class _Vector(ctypes.Structure):
    """Every `wasm_*_vec_t`: how many, and where."""

    _fields_ = (("size", c_size_t), ("data", c_void_p))


class _Tagged(ctypes.Structure):
    """`wasmtime_extern_t` and `wasmtime_val_t`: a kind, and a union of which all that is used here fits into 24 bytes."""

    _fields_ = (("kind", c_uint8), ("of", c_int64 * 3))


class _Library:
    """The functions of the C API that are used here, declared with plain addresses.

    A wrong declaration is memory corruption and not an exception: each stands beside its prototype's shape, in the order
    result, arguments. `p` is an address, `n` a size, `b` a bool, `u` 32 bits, `c` 8 bits, `s` bytes, `-` nothing.
    """

    _PROTOTYPES: Final = """
        wasm_config_new p
        wasm_engine_new_with_config p p
        wasm_valtype_new p c
        wasm_valtype_kind c p
        wasm_valtype_vec_new - p n p
        wasm_functype_new p p p
        wasm_functype_params p p
        wasm_functype_results p p
        wasm_functype_delete - p
        wasm_byte_vec_delete - p
        wasm_importtype_module p p
        wasm_importtype_name p p
        wasm_importtype_vec_delete - p
        wasm_trap_delete - p
        wasm_trap_message - p p
        wasm_trap_trace - p p
        wasm_frame_vec_delete - p
        wasm_frame_func_index u p
        wasm_frame_module_offset n p
        wasmtime_frame_func_name p p
        wasmtime_frame_module_name p p
        wasmtime_trap_new p s n
        wasmtime_trap_code b p p
        wasmtime_error_message - p p
        wasmtime_error_delete - p
        wasmtime_wat2wasm p s n p
        wasmtime_module_new p p s n p
        wasmtime_module_serialize p p p
        wasmtime_module_deserialize p p s n p
        wasmtime_module_imports - p p
        wasmtime_store_new p p p p
        wasmtime_store_context p p
        wasmtime_store_delete - p
        wasmtime_instance_new p p p p n p p
        wasmtime_instance_export_get b p p s n p
        wasmtime_func_new_unchecked - p p p p p p
        wasmtime_func_call_unchecked p p p p n p
        wasmtime_func_type p p p
        wasmtime_global_get - p p p
        wasmtime_global_set p p p p
        wasmtime_memory_data p p p
        wasmtime_memory_data_size n p p
    """
    _TYPES: Final = {
        "p": c_void_p,
        "n": c_size_t,
        "b": c_bool,
        "u": c_uint32,
        "c": c_uint8,
        "s": c_char_p,
        "-": None,
    }

    def __init__(self, path: str) -> None:
        self.dll = ctypes.PyDLL(path)
        for line in self._PROTOTYPES.split("\n"):
            if line.strip():
                name, result, *arguments = line.split()
                function = getattr(self.dll, name)
                function.restype = self._TYPES[result]
                function.argtypes = [self._TYPES[letter] for letter in arguments]

    def set(self, config: int, name: str, value: int, kind: Any = c_bool) -> None:
        """`wasmtime_config_NAME_set`."""
        function = getattr(self.dll, f"wasmtime_config_{name}_set")
        function.restype = None
        function.argtypes = [c_void_p, kind]
        function(config, value)

    def text(self, vector: int) -> str:
        """The text of a `wasm_byte_vec_t` that belongs to something else."""
        found = _Vector.from_address(vector)
        return ctypes.string_at(found.data, min(found.size, 2 * MAX_TRAP_MESSAGE)).decode("utf-8", "replace")

    def error(self, error: int) -> str:
        """An error's message in one line; the error is gone afterwards."""
        vector = _Vector()
        self.dll.wasmtime_error_message(error, byref(vector))
        self.dll.wasmtime_error_delete(error)
        text = self.text(ctypes.addressof(vector))
        self.dll.wasm_byte_vec_delete(byref(vector))
        return " ".join(text.split())[:MAX_TRAP_MESSAGE]


def _open_library() -> _Library:
    spec = importlib.util.find_spec("wasmtime")
    folder = next(iter(spec.submodule_search_locations or ()), None) if spec is not None else None
    if folder is None:
        raise EngineMissing(f"the wasm engine is not installed: run: pip install wasmtime=={VERSION}")
    path = os.path.join(folder, f"linux-{os.uname().machine}", "_libwasmtime.so")
    try:
        return _Library(path)
    except (OSError, AttributeError) as error:
        raise EngineMissing(
            f"the wasm engine cannot be loaded ({error}): run: pip install --force-reinstall wasmtime=={VERSION}"
        ) from error


_lib = _open_library()
_dll = _lib.dll


class Wasmtime:
    """`Engine` for wasmtime."""

    completes_modules_late = False

    def __init__(self) -> None:
        self._engine: int | None = None
        self._callbacks: dict[tuple[str, str], _Callback] = {}
        self._sealed = False

    @property
    def engine_id(self) -> str:
        return f"wasmtime {VERSION} cranelift"

    @property
    def engine(self) -> int:
        """The address of the one `wasm_engine_t` of this process, which lives as long as the process."""
        if self._engine is None:
            self._engine = _dll.wasm_engine_new_with_config(_config())
            if not self._engine:
                raise EngineMissing("the wasm engine refuses its configuration")
        return self._engine

    def wat_to_wasm(self, text: str) -> bytes:
        source, made = text.encode(), _Vector()
        error = _dll.wasmtime_wat2wasm(source, len(source), byref(made))
        if error:
            raise CompileError(f"not valid WAT: {_lib.error(error)}")
        return _taken(made)

    def load_compiler(self) -> None:
        _ = self.engine  # the compiler is a part of the library

    def compile(self, wasm: bytes) -> bytes:
        module = c_void_p()
        error = _dll.wasmtime_module_new(self.engine, wasm, len(wasm), byref(module))
        if error:
            raise CompileError(f"the engine refuses the module: {_lib.error(error)}")
        made = _Vector()
        error = _dll.wasmtime_module_serialize(module, byref(made))
        if error:
            raise CompileError(f"the engine cannot serialize the module: {_lib.error(error)}")
        return _taken(made)

    def load(self, artifact: bytes) -> EngineModule:
        module = c_void_p()
        error = _dll.wasmtime_module_deserialize(self.engine, artifact, len(artifact), byref(module))
        if error:
            raise BundleError(f"not a compiled guard: {_lib.error(error)}")
        assert module.value
        return _Module(self.engine, module.value)

    def prepare(self, signatures: Sequence[tuple[str, str]]) -> None:
        for params, results in signatures:
            self._callback(params, results)

    def seal(self) -> None:
        linux.seal_code()
        self._sealed = True

    def host_function(self, function: Callable[..., Any], params: str, results: str) -> EngineExtern:
        return _HostFunction(self._callback(params, results), function)

    def _callback(self, params: str, results: str) -> _Callback:
        found = self._callbacks.get((params, results))
        if found is None:
            if self._sealed:
                raise LinkError(f"no callback was prepared for host functions of the type ({params}) -> ({results})")
            found = self._callbacks[params, results] = _Callback(params, results)
        return found


def _config() -> int:
    config: int = _dll.wasm_config_new()
    for name, value in {
        # A guard's features, as the rules for modules have them; relaxed SIMD gives other results on other processors.
        "wasm_simd": True,
        "wasm_relaxed_simd": False,
        "wasm_tail_call": True,
        "wasm_multi_value": True,
        "wasm_bulk_memory": True,
        "wasm_reference_types": True,
        "wasm_function_references": False,
        "wasm_gc": False,
        "wasm_threads": False,
        "wasm_multi_memory": False,
        "wasm_memory64": False,
        "wasm_wide_arithmetic": False,
        "wasm_exceptions": False,
        "wasm_custom_page_sizes": False,
        "wasm_stack_switching": False,
        "gc_support": False,
        "concurrency_support": False,
        # Deadlines are the supervisor's: either of these would cost 60% and more of a guard's speed.
        "epoch_interruption": False,
        "consume_fuel": False,
        # A memory stays where it is, so that a view of it stays valid.
        "memory_may_move": False,
        # Images of memory would be descriptors, made when a module is loaded; a worker closes all that are not its own.
        "memory_init_cow": False,
        # Read by other tools' unwinders only.
        "native_unwind_info": False,
    }.items():
        _lib.set(config, name, value)
    _lib.set(config, "max_wasm_stack", MAX_WASM_STACK_BYTES, c_size_t)
    return config


def _taken(vector: _Vector) -> bytes:
    """The bytes of a vector that the library handed over; the vector is gone afterwards."""
    data = ctypes.string_at(vector.data, vector.size)
    _dll.wasm_byte_vec_delete(byref(vector))
    return data


@functools.cache
def _slots(kinds: tuple[int, ...]) -> struct.Struct:
    """How values of these kinds lie in their slots."""
    return struct.Struct("<" + "".join(_FORMAT_OF_KIND[kind] for kind in kinds))


class _Store:
    """A store: the home of instances that are linked with one another. Deleted with the last reference to it.

    Attributes:
        context: the address of its `wasmtime_context_t`.
        functions: the host functions in it, whose addresses the library has.
    """

    __slots__ = ("_store", "context", "functions")

    def __init__(self, engine: int) -> None:
        self._store = _dll.wasmtime_store_new(engine, None, None)
        self.context: int = _dll.wasmtime_store_context(self._store)
        self.functions: list[Callable[..., Any]] = []

    def __del__(self) -> None:
        _dll.wasmtime_store_delete(self._store)


_raised: list[BaseException] = []  # by a host function, on its way around the wasm frames


class _Callback:
    """The one callback for all host functions of a type. It lives as long as the process.

    Args:
        params, results: as `Engine.host_function` has them.
    """

    __slots__ = ("address", "type")

    def __init__(self, params: str, results: str) -> None:
        kinds, result_kinds = [_KIND_OF_LETTER[c] for c in params], [_KIND_OF_LETTER[c] for c in results]
        self.type: int = _function_type(kinds, result_kinds)
        callback = _CALLBACK(_calling(kinds, result_kinds))
        # Freeing it would write to a page that is sealed by then, so the interpreter's own end must not free it either.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(callback))
        self.address = ctypes.cast(callback, c_void_p).value


def _calling(kinds: Sequence[int], results: Sequence[int]) -> Callable[[Callable[..., Any], int, int, int], int]:
    """What a callback runs: the host function, with its arguments taken from the slots and its result put there.

    The slots lie on the stack, and nearly always at an address that was seen before. So a view of each is kept, which saves a
    third of what a host function costs.
    """
    arguments = _slots(tuple(kinds))
    numbers, of_a_slot = (c_int64, 2) if results and results[0] == _I64 else (c_int32, 4)
    area = numbers * (max(len(kinds), 1) * of_a_slot)
    unpack, raised = arguments.unpack_from, _raised
    views: dict[int, Any] = {}

    def call(function: Callable[..., Any], _caller: int, slots: int, _count: int) -> int:
        try:
            view = views.get(slots)
            if view is None:
                if len(views) >= _MAX_VIEWS:
                    views.clear()
                view = views[slots] = area.from_address(slots)
            value = function(*unpack(view))
            if results:
                view[0] = value
        except BaseException as error:
            raised.append(error)
            trap: int = _dll.wasmtime_trap_new(_HOST_FAILED, len(_HOST_FAILED))
            return trap
        return 0

    return call


def _function_type(params: Sequence[int], results: Sequence[int]) -> int:
    made: int = _dll.wasm_functype_new(byref(_value_types(params)), byref(_value_types(results)))
    return made


def _value_types(kinds: Sequence[int]) -> _Vector:
    types = (c_void_p * len(kinds))(*(_dll.wasm_valtype_new(kind) for kind in kinds))
    vector = _Vector()
    _dll.wasm_valtype_vec_new(byref(vector), len(kinds), types)
    return vector


class _HostFunction:
    """A Python function that has no store yet: it gets one where it is imported."""

    __slots__ = ("_callback", "_function")

    def __init__(self, callback: _Callback, function: Callable[..., Any]) -> None:
        self._callback = callback
        self._function = function

    def put(self, extern: _Tagged, store: _Store) -> None:
        """Make it an import in the store."""
        extern.kind = _FUNCTION
        store.functions.append(self._function)
        _dll.wasmtime_func_new_unchecked(
            store.context,
            self._callback.type,
            self._callback.address,
            id(self._function),
            None,
            ctypes.addressof(extern) + _Tagged.of.offset,
        )


class _Export:
    """Something that an instance exports.

    Attributes:
        store: its home, kept alive by this.
        kind: its `wasmtime_extern_kind_t`.
        address: where its `wasmtime_func_t`, `wasmtime_memory_t` or the like lies.
    """

    __slots__ = ("_extern", "address", "kind", "store")

    def __init__(self, store: _Store, extern: _Tagged) -> None:
        self.store = store
        self._extern = extern
        self.kind: int = extern.kind
        self.address = ctypes.addressof(extern) + _Tagged.of.offset

    def put(self, extern: _Tagged, store: _Store) -> None:
        """Make it an import in the store."""
        if store is not self.store:
            raise LinkError("an import is of another store than the rest: link what belongs together")
        ctypes.memmove(ctypes.addressof(extern), ctypes.addressof(self._extern), ctypes.sizeof(_Tagged))


class _Global:
    """`EngineGlobal` for wasmtime: an i32 or i64."""

    __slots__ = ("_export", "_value")

    def __init__(self, export: _Export) -> None:
        self._export = export
        self._value = _Tagged()
        _dll.wasmtime_global_get(export.store.context, export.address, byref(self._value))  # its kind stays

    @property
    def value(self) -> int:
        _dll.wasmtime_global_get(self._export.store.context, self._export.address, byref(self._value))
        of: int = self._value.of[0]
        return c_int32(of).value if self._value.kind == _I32 else of

    @value.setter
    def value(self, value: int) -> None:
        self._value.of[0] = value
        error = _dll.wasmtime_global_set(self._export.store.context, self._export.address, byref(self._value))
        if error:
            raise LinkError(_lib.error(error))


class _Module:
    """`EngineModule` for wasmtime. Modules live as long as the process."""

    __slots__ = ("_engine", "_module", "_order", "_types", "imports")

    def __init__(self, engine: int, module: int) -> None:
        self._engine = engine
        self._module = module
        self._order = _imports(module)
        self._types: _Types = {}
        self.imports = frozenset(self._order)

    def instantiate(
        self, imports: Mapping[str, Mapping[str, EngineExtern]], *, beside: EngineInstance | None = None
    ) -> EngineInstance:
        found: list[Any] = []
        for namespace, name in self._order:
            try:
                found.append(imports[namespace][name])
            except KeyError:
                raise LinkError(f"the import {namespace}.{name} is missing") from None
        homes: list[Any] = [each for each in (beside, *found) if isinstance(each, (_Instance, _Export))]
        store = homes[0].store if homes else _Store(self._engine)
        externs = (_Tagged * len(found))()
        for each, extern in zip(found, externs):
            each.put(extern, store)
        instance, trap = (c_int64 * 2)(), c_void_p()
        error = _dll.wasmtime_instance_new(store.context, self._module, externs, len(found), instance, byref(trap))
        if error is not None or trap.value is not None:
            raise _failure(error, trap, LinkError)
        return _Instance(store, instance, self._types)


def _imports(module: int) -> list[tuple[str, str]]:
    vector = _Vector()
    _dll.wasmtime_module_imports(module, byref(vector))
    types = (c_void_p * vector.size).from_address(vector.data) if vector.size else ()
    names = [(_name(_dll.wasm_importtype_module(each)), _name(_dll.wasm_importtype_name(each))) for each in types]
    _dll.wasm_importtype_vec_delete(byref(vector))
    return names


def _name(vector: int) -> str:
    found = _Vector.from_address(vector)
    return ctypes.string_at(found.data, found.size).decode("utf-8", "surrogateescape")


_Types = dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
"""Types of exported functions, parameters and results, by name; found when they are first asked for."""


class _Instance:
    """`EngineInstance` for wasmtime.

    Args:
        types: of its module, shared by all its instances: to find a type takes as long as all else of a function.

    Attributes:
        store: its home, kept alive by this.
    """

    __slots__ = ("_instance", "_memory", "_types", "store")

    def __init__(self, store: _Store, instance: Any, types: _Types) -> None:
        self.store = store
        self._instance = instance
        self._types = types
        self._memory: _Export | None = None

    def extern(self, name: str) -> _Export:
        extern, encoded = _Tagged(), name.encode()
        if not _dll.wasmtime_instance_export_get(
            self.store.context, self._instance, encoded, len(encoded), byref(extern)
        ):
            raise KeyError(name)
        return _Export(self.store, extern)

    def function(self, name: str) -> EngineFunction:
        export = self.extern(name)
        if export.kind != _FUNCTION:
            raise KeyError(name)
        if name not in self._types:
            self._types[name] = _type_of(export)
        return _caller(export, *self._types[name])

    def global_(self, name: str) -> EngineGlobal:
        export = self.extern(name)
        if export.kind != _GLOBAL:
            raise KeyError(name)
        return _Global(export)

    def memory_size(self) -> int:
        memory = self._memory or self._find_memory()
        size: int = _dll.wasmtime_memory_data_size(memory.store.context, memory.address)
        return size

    def memory_view(self) -> memoryview:
        memory = self._memory or self._find_memory()
        context, address = memory.store.context, memory.address
        size = _dll.wasmtime_memory_data_size(context, address)
        area = (c_uint8 * size).from_address(_dll.wasmtime_memory_data(context, address))
        area.store = memory.store  # a view keeps its memory alive
        return memoryview(area).cast("B")

    def _find_memory(self) -> _Export:
        memory = self._memory = self.extern("memory")
        if memory.kind != _MEMORY:
            raise KeyError("memory")
        return memory


def _caller(export: _Export, params: tuple[int, ...], results: tuple[int, ...]) -> EngineFunction:
    """An exported function, with all that can be prepared prepared."""
    arguments, answers = _slots(params), _slots(results)
    slots = ctypes.create_string_buffer(max(arguments.size, answers.size, _SLOT_BYTES))
    trap = c_void_p()
    # As objects of ctypes: an address as an int is converted in every call, which takes a third of its time.
    context, address = c_void_p(export.store.context), c_void_p(export.address)
    at, count, trap_at = (
        c_void_p(ctypes.addressof(slots)),
        c_size_t(len(slots) // _SLOT_BYTES),
        c_void_p(ctypes.addressof(trap)),
    )
    pack, unpack, invoke = arguments.pack_into, answers.unpack_from, _dll.wasmtime_func_call_unchecked
    number: Any = {_I32: c_int32, _I64: c_int64}.get(results[0]) if len(results) == 1 else None
    only = None if number is None else (number * 1).from_buffer(slots)  # quicker than to unpack the slots
    is_none = not results

    def call(*args: int) -> Any:
        pack(slots, 0, *args)
        error = invoke(context, address, at, count, trap_at)
        if error is not None or trap:
            raise _failure(error, trap, _unknown_trap)
        if only is not None:
            return only[0]
        return None if is_none else unpack(slots)[0]

    call.export = export  # type: ignore[attr-defined]  # addresses alone keep nothing alive
    return call


def _failure(error: int | None, trap: c_void_p, other: Callable[[str], Exception]) -> BaseException:
    """Why a call into wasm did not return: what a host function raised, a trap, or another failure.

    Args:
        error: the error that the library handed over, or None.
        trap: the trap that it handed over, if any; empty afterwards.
        other: makes an exception of the message of an error.
    """
    found, trap.value = trap.value, None
    if found is not None:
        failure: BaseException = _trap(found)
    else:
        assert error is not None
        failure = other(_lib.error(error))
    return _raised.pop() if _raised else failure


def _unknown_trap(message: str) -> EngineTrap:
    return EngineTrap("unknown", message)


def _type_of(export: _Export) -> tuple[tuple[int, ...], tuple[int, ...]]:
    made = _dll.wasmtime_func_type(export.store.context, export.address)
    kinds = tuple(
        tuple([_dll.wasm_valtype_kind(each) for each in (c_void_p * found.size).from_address(found.data)])
        if found.size
        else ()
        for found in map(_Vector.from_address, (_dll.wasm_functype_params(made), _dll.wasm_functype_results(made)))
    )
    _dll.wasm_functype_delete(made)
    return kinds[0], kinds[1]


def _trap(trap: int) -> EngineTrap:
    """The trap as an exception; the library's own is gone afterwards."""
    try:
        code = c_uint8()
        if _dll.wasmtime_trap_code(trap, byref(code)) and code.value in REASON_OF_TRAP:
            kind, reason = REASON_OF_TRAP[code.value]
        else:
            kind, reason = "unknown", _message(trap)
        return EngineTrap(kind, " ".join((reason, *_frames(trap))))
    finally:
        _dll.wasm_trap_delete(trap)


def _message(trap: int) -> str:
    vector = _Vector()
    _dll.wasm_trap_message(trap, byref(vector))
    text = _lib.text(ctypes.addressof(vector))
    _dll.wasm_byte_vec_delete(byref(vector))
    return " ".join(text.split()).rstrip("\0")


def _frames(trap: int) -> list[str]:
    """Where it trapped: the innermost frames. Every call of a guard comes through the bridge, whose frame tells nothing."""
    vector = _Vector()
    _dll.wasm_trap_trace(trap, byref(vector))
    frames = (c_void_p * min(vector.size, MAX_TRAP_FRAMES)).from_address(vector.data) if vector.size else ()
    told = []
    for frame in frames:
        module = _dll.wasmtime_frame_module_name(frame)
        if module and _name(module) == "bridge":
            continue
        name = _dll.wasmtime_frame_func_name(frame)
        function = f"{_lib.text(name)} " if name else ""
        told.append(f"at {function}([{_dll.wasm_frame_func_index(frame)}]:{_dll.wasm_frame_module_offset(frame):#x})")
    _dll.wasm_frame_vec_delete(byref(vector))
    return told


ENGINE: Final[Engine] = Wasmtime()
