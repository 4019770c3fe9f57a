"""What is known of a module while it is read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from guardpool.wasm.features import NAMED_TYPES, FeatureUse
from guardpool.wasm.limits import ModuleLimits
from guardpool.wasm.model import (
    CodeSize,
    CustomSection,
    Export,
    FuncType,
    GlobalType,
    Import,
    MemoryType,
    TableType,
    WasmError,
)


class ModuleState:
    """The index spaces of a module, filled section by section; imports come first in each."""

    def __init__(self, limits: ModuleLimits) -> None:
        self.limits = limits
        self.types: list[FuncType] = []
        self.imports: list[Import] = []
        self.functions: list[int] = []  # type indices
        self.imported_functions = 0
        self.imported_globals = 0
        self.tables: list[TableType] = []
        self.memories: list[MemoryType] = []
        self.globals: list[GlobalType] = []
        self.exports: list[Export] = []
        self.start: int | None = None
        self.code = CodeSize()
        self.element_segments = 0
        self.element_items = 0
        self.data_count: int | None = None
        self.data_segments = 0
        self.data_bytes = 0
        self.custom_sections: list[CustomSection] = []
        self.uses: dict[str, FeatureUse] = {}

    def use(self, feature: str, what: str, offset: int) -> None:
        """Note that the module uses a feature; the first place of each is kept."""
        if feature not in self.uses:
            self.uses[feature] = FeatureUse(feature, what, offset)

    def use_types(self, types: Iterable[str], what: str, offset: int) -> None:
        """Note that `what` holds values of these types, if one of them is of a feature."""
        for name in types:
            if name in NAMED_TYPES:
                shown = f"a {name} (SIMD)" if name == "v128" else f"an {name}"
                self.use(NAMED_TYPES[name], f"{what} holds {shown}", offset)

    def index_space(self, kind: str) -> list[Any]:
        """Everything of that kind that the module has."""
        spaces: dict[str, list[Any]] = {
            "function": self.functions,
            "table": self.tables,
            "memory": self.memories,
            "global": self.globals,
        }
        return spaces[kind]

    def check_complete(self) -> None:
        """Check what only shows once every section was read: sections that are missing altogether.

        Raises:
            WasmError: functions without bodies, or a data count without the segments it counts.
        """
        declared = len(self.functions) - self.imported_functions
        if self.code.functions != declared:
            raise WasmError(f"the module declares {declared} functions and has {self.code.functions} bodies")
        if self.data_count is not None and self.data_count != self.data_segments:
            raise WasmError(
                f"the data count section announces {self.data_count} data segments, but there are {self.data_segments}"
            )
