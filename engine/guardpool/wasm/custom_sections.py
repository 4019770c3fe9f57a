"""What the toolchain wrote into a module's custom sections: names, producers, features.

Custom sections mean nothing to an engine and may hold anything, so a malformed one is not an error: what can be read of
it is returned, the rest is left out.

Source: the core specification's appendix (name section) and the tool conventions (producers, target_features).
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from guardpool.wasm.cursor import Cursor
from guardpool.wasm.model import ModuleInfo, WasmError

# Far above what toolchains write (three fields with one or two values each, a dozen features).
_MAX_ENTRIES = 64
_MAX_NAME_BYTES = 200
_FUNCTION_NAMES = 1  # the subsection's id


class Metadata(msgspec.Struct, frozen=True):
    """What a module says of itself. It is what its author says: nothing of it was checked.

    Args:
        module_name: the name in its name section.
        producers: field (`language`, `processed-by`, `sdk`) to values, each a name and a version.
        features: target features, e.g. `"+bulk-memory"`.
        debug_bytes: the size of its DWARF sections.
    """

    module_name: str | None = None
    producers: dict[str, tuple[str, ...]] = {}
    features: tuple[str, ...] = ()
    debug_bytes: int = 0


def read_metadata(data: bytes, info: ModuleInfo) -> Metadata:
    """Read the custom sections of a module that was already read; never raises."""
    producers: dict[str, tuple[str, ...]] = {}
    features: list[str] = []
    names: list[str] = []
    readers: dict[str, Callable[[Cursor], None]] = {
        "name": lambda cursor: _module_name(cursor, names),
        "producers": lambda cursor: _producers(cursor, producers),
        "target_features": lambda cursor: _features(cursor, features),
    }
    for wanted, read in readers.items():
        section = info.custom_section(wanted)
        if section is None:
            continue
        try:
            read(Cursor(data, section.offset, section.offset + section.size, f"the {wanted} section"))
        except WasmError:
            continue  # what was read before it broke stays
    debug = sum(section.size for section in info.custom_sections if section.name.startswith(".debug_"))
    return Metadata(names[0] if names else None, producers, tuple(features), debug)


def function_name(data: bytes, info: ModuleInfo, index: int) -> str | None:
    """What the name section calls a function, by its index, imported functions first; None if it does not say.

    Never raises. It reads no further than the name, and makes no other string.
    """
    section = info.custom_section("name")
    if section is None:
        return None
    cursor = Cursor(data, section.offset, section.offset + section.size, "the name section")
    try:
        while cursor.pos < cursor.end:
            subsection = cursor.byte("a subsection's id")
            size = cursor.u32("a subsection's size")
            start = cursor.skip(size, "a subsection")
            if subsection == _FUNCTION_NAMES:
                return _name_of(Cursor(data, start, start + size, "the names of functions"), index)
    except WasmError:
        pass
    return None


def _name_of(cursor: Cursor, index: int) -> str | None:
    """The name of `index` in a map from indices, which ascend, to names."""
    for _ in range(cursor.count("names", 2, cursor.end, "")):
        found = cursor.u32("an index")
        if found == index:
            return cursor.name("a name", len(cursor.data))
        if found > index:
            break
        cursor.skip(cursor.u32("the length of a name"), "a name")
    return None


def _module_name(cursor: Cursor, names: list[str]) -> None:
    """The name section's first subsection holds the module's name; the others are not needed."""
    if cursor.byte("a subsection's id") == 0:
        cursor.u32("a subsection's size")
        names.append(cursor.name("the module's name", _MAX_NAME_BYTES))


def _producers(cursor: Cursor, producers: dict[str, tuple[str, ...]]) -> None:
    for _ in range(cursor.count("fields", 2, _MAX_ENTRIES, "")):
        field = cursor.name("a field", _MAX_NAME_BYTES)
        values = []
        for _ in range(cursor.count("values", 2, _MAX_ENTRIES, "")):
            name = cursor.name("a value", _MAX_NAME_BYTES)
            version = cursor.name("a version", _MAX_NAME_BYTES)
            values.append(f"{name} {version}" if version else name)
        producers[field] = tuple(values)


def _features(cursor: Cursor, features: list[str]) -> None:
    for _ in range(cursor.count("features", 2, _MAX_ENTRIES, "")):
        prefix = cursor.byte("a feature's prefix")
        name = cursor.name("a feature", _MAX_NAME_BYTES)
        features.append((chr(prefix) if prefix in b"+-=" else "?") + name)
