"""What a module declares, as values; and what is raised for bytes that are not a module."""

from __future__ import annotations

from typing import Union

import msgspec

from guardpool.errors import ContractError
from guardpool.wasm.features import FeatureUse


class WasmError(ContractError):
    """The bytes are not a WebAssembly module, or one that guardpool does not take.

    Attributes:
        offset: the byte of the file at which it was seen, or None if no single byte is to blame.
    """

    def __init__(self, message: str, offset: int | None = None) -> None:
        super().__init__(message if offset is None else f"{message} (at byte {offset})")
        self.offset = offset


class WasmLimitError(WasmError):
    """The module is larger than a limit of `ModuleLimits` allows.

    Attributes:
        limit: the limit's name.
    """

    def __init__(self, message: str, offset: int | None = None, *, limit: str) -> None:
        super().__init__(message, offset)
        self.limit = limit


class WasmUnsupportedError(WasmError):
    """The module is well-formed as far as it was read, and uses a feature of WebAssembly that guards may not use.

    Attributes:
        feature: its name in `guardpool.wasm.features`.
    """

    def __init__(self, message: str, offset: int | None = None, *, feature: str) -> None:
        super().__init__(message, offset)
        self.feature = feature


class FuncType(msgspec.Struct, frozen=True):
    """A function's type; its value types are the names of the text format: `"i32"`, `"funcref"`, ..."""

    params: tuple[str, ...]
    results: tuple[str, ...]

    def __str__(self) -> str:
        params = f"({', '.join(self.params)})"
        if len(self.results) == 1:
            return f"{params} -> {self.results[0]}"
        return f"{params} -> ({', '.join(self.results)})"


class TableType(msgspec.Struct, frozen=True):
    """A table's type: what it holds and how many of it."""

    element: str
    minimum: int
    maximum: int | None

    def __str__(self) -> str:
        return f"{self.element}[{_range(self.minimum, self.maximum)}]"


def _pages(count: int) -> str:
    return "1 page" if count == 1 else f"{count} pages"


class MemoryType(msgspec.Struct, frozen=True):
    """A linear memory's size, in pages of 64 KiB."""

    minimum: int
    maximum: int | None

    def __str__(self) -> str:
        if self.maximum is None:
            return f"{_pages(self.minimum)} or more"
        return _pages(self.minimum) if self.minimum == self.maximum else f"{self.minimum} to {_pages(self.maximum)}"


class GlobalType(msgspec.Struct, frozen=True):
    """A global's type."""

    value: str
    mutable: bool

    def __str__(self) -> str:
        return f"mut {self.value}" if self.mutable else self.value


ExternType = Union[FuncType, TableType, MemoryType, GlobalType]


class Import(msgspec.Struct, frozen=True):
    """What a module wants from its host; `kind` is `"function"`, `"table"`, `"memory"` or `"global"`."""

    module: str
    name: str
    kind: str
    type: ExternType


class Export(msgspec.Struct, frozen=True):
    """What a module offers; `index` counts imports of the same kind first."""

    name: str
    kind: str
    index: int
    type: ExternType


class CustomSection(msgspec.Struct, frozen=True):
    """A custom section; its content is `data[offset : offset + size]` of the file."""

    name: str
    offset: int
    size: int


class CodeSize(msgspec.Struct, frozen=True):
    """How much code there is. Parameters count as locals."""

    functions: int = 0
    code_bytes: int = 0
    largest_function_bytes: int = 0
    locals: int = 0
    most_locals: int = 0


class ModuleInfo(msgspec.Struct, frozen=True):
    """What a well-formed module declares.

    Attributes:
        size: of the file, in bytes.
        types: the function types.
        imports: in the module's order.
        functions: the type index of each function that the module defines.
        tables: all tables, imported ones first; the same for `memories` and `globals`.
        exports: in the module's order.
        start: the index of the function that runs at instantiation, or None.
        code: sizes.
        element_items: how many table entries its element segments hold.
        data_segments: how many data segments there are.
        data_bytes: how many bytes they hold.
        custom_sections: in the module's order.
        uses: the first use of each feature that is not in every engine, as far as it shows outside functions' code.
    """

    size: int
    types: tuple[FuncType, ...] = ()
    imports: tuple[Import, ...] = ()
    functions: tuple[int, ...] = ()
    tables: tuple[TableType, ...] = ()
    memories: tuple[MemoryType, ...] = ()
    globals: tuple[GlobalType, ...] = ()
    exports: tuple[Export, ...] = ()
    start: int | None = None
    code: CodeSize = CodeSize()
    element_items: int = 0
    data_segments: int = 0
    data_bytes: int = 0
    custom_sections: tuple[CustomSection, ...] = ()
    uses: tuple[FeatureUse, ...] = ()

    def export(self, name: str) -> Export | None:
        """The export of that name, of whatever kind, or None."""
        return next((export for export in self.exports if export.name == name), None)

    def custom_section(self, name: str) -> CustomSection | None:
        """The first custom section of that name, or None."""
        return next((section for section in self.custom_sections if section.name == name), None)


def _range(minimum: int, maximum: int | None) -> str:
    return f"{minimum}.." if maximum is None else f"{minimum}..{maximum}"
