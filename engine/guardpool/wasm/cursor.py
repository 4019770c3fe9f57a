"""The bytes of a module, read from left to right with every bound checked; and the frame of its sections."""

from __future__ import annotations

from guardpool.printable import printable
from guardpool.wasm.features import EXCEPTIONS, FEATURE_TITLES, NEWER_TYPES, STRINGS, WITHOUT
from guardpool.wasm.limits import ModuleLimits
from guardpool.wasm.model import WasmError, WasmLimitError, WasmUnsupportedError
from guardpool.wasm.recognise import recognise

HEADER_BYTES = 8
CUSTOM = 0
SECTION_NAMES = {
    0: "custom",
    1: "type",
    2: "import",
    3: "function",
    4: "table",
    5: "memory",
    6: "global",
    7: "export",
    8: "start",
    9: "element",
    10: "code",
    11: "data",
    12: "data count",
}
# The order that the format prescribes; each at most once. The data count was added between element and code.
_ORDER = {section: place for place, section in enumerate((1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 10, 11))}
_UNSUPPORTED_SECTIONS = {
    13: (EXCEPTIONS, "exception handling (a tag section)"),
    14: (STRINGS, "string references (a string section)"),
}


class Cursor:
    """A place in `data`, and the end of what may be read."""

    __slots__ = ("data", "end", "pos", "where")

    def __init__(self, data: bytes, pos: int, end: int, where: str) -> None:
        self.data = data
        self.pos = pos
        self.end = end
        self.where = where  # what is being read, for messages: "the type section"

    def error(self, message: str, offset: int | None = None) -> WasmError:
        """The error to raise about `where`, at `offset` or at the current place."""
        return WasmError(f"{self.where}: {message}", self.pos if offset is None else offset)

    def unsupported(
        self, feature: str, message: str, offset: int | None = None, *, joint: str = ": "
    ) -> WasmUnsupportedError:
        """The error to raise about `where` if it is not damaged but uses a feature that guards may not use.

        Args:
            feature: its name in `guardpool.wasm.features`.
            message: what is there and that it is not supported; how to build without it is added.
            offset: where it is; the current place if None.
            joint: what stands between the two.
        """
        whole = f"{self.where}: {message}{joint}{WITHOUT[feature]}"
        return WasmUnsupportedError(whole, self.pos if offset is None else offset, feature=feature)

    def newer_type(self, byte: int, what: str, offset: int) -> WasmUnsupportedError | None:
        """The error to raise if `byte` is the type, or begins the type, of a value that guards may not use, else None.

        Args:
            byte: what stands where a type is expected, and is not one of WebAssembly 2.0.
            what: what has the type: `"a global"`.
            offset: where the byte is.
        """
        if byte not in NEWER_TYPES:
            return None
        feature, name = NEWER_TYPES[byte]
        told = f"{name}, {FEATURE_TITLES[feature]}"
        return self.unsupported(feature, f"the type 0x{byte:02x} of {what} ({told}) is not supported", offset)

    def byte(self, what: str) -> int:
        """Read the next byte; `what` names it in the error at the end of the data."""
        pos = self.pos
        if pos >= self.end:
            raise self.error(f"ends where {what} is expected")
        self.pos = pos + 1
        return self.data[pos]

    def u32(self, what: str) -> int:
        """An unsigned LEB128 of 32 bits: at most five bytes, no bits past the 32nd."""
        data, pos, end = self.data, self.pos, self.end
        start = pos
        value = shift = 0
        while pos < end:
            byte = data[pos]
            pos += 1
            if shift == 28 and byte > 0x0F:
                raise self.error(
                    f"{what} is not a number of 32 bits: its fifth byte is 0x{byte:02x}; at most 0x0f", start
                )
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                self.pos = pos
                return value
            shift += 7
        raise self.error(f"ends where {what} is expected", start)

    def skip_signed(self, bits: int, what: str) -> None:
        """A signed LEB128 of 32 or 64 bits, whose value does not matter here."""
        data, pos, end = self.data, self.pos, self.end
        start = pos
        last = (bits + 6) // 7 - 1
        used = bits - 7 * last  # how many bits of the last byte count; the others repeat the sign
        for index in range(last + 1):
            if pos >= end:
                raise self.error(f"ends where {what} is expected", start)
            byte = data[pos]
            pos += 1
            if index == last and (byte >> (used - 1)) not in (0, 0x7F >> (used - 1)):
                raise self.error(f"{what} is not a number of {bits} bits: its last byte is 0x{byte:02x}", start)
            if byte < 0x80:
                self.pos = pos
                return
        raise AssertionError("unreachable: the last byte either ended the number or failed")

    def count(self, what: str, item_bytes: int, limit: int, limit_name: str) -> int:
        """The length of a vector, checked against the limit and against the bytes that are left for its items."""
        start = self.pos
        value = self.u32(f"the number of {what}")
        if value * item_bytes > self.end - self.pos:
            raise self.error(f"{value} {what} cannot fit into the {self.end - self.pos} bytes left", start)
        if value > limit:
            raise WasmLimitError(f"{self.where}: {value} {what}; at most {limit} are allowed", start, limit=limit_name)
        return value

    def skip(self, size: int, what: str) -> int:
        """Pass over `size` bytes and return where they begin."""
        start = self.pos
        if size > self.end - start:
            raise self.error(f"{what} has {size} bytes but {self.end - start} are left", start)
        self.pos = start + size
        return start

    def name(self, what: str, limit: int) -> str:
        """A name in UTF-8."""
        start = self.pos
        size = self.u32(f"the length of {what}")
        if size > limit:
            raise WasmLimitError(
                f"{self.where}: {what} has {size} bytes; at most {limit} are allowed", start, limit="name_bytes"
            )
        begin = self.skip(size, what)
        raw = self.data[begin : begin + size]
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            shown = printable(raw.decode("utf-8", "backslashreplace"), 40)
            raise self.error(f"{what} ({shown}) is not UTF-8: {error.reason}", begin + error.start) from error

    def done(self) -> None:
        """Check that everything was read."""
        if self.pos != self.end:
            raise self.error(f"{self.end - self.pos} bytes are left over after its last item")


def sections(data: bytes, limits: ModuleLimits) -> list[tuple[int, int, int]]:
    """The sections of a module, as (id, first byte, end), with sizes, order and repetition checked.

    Raises:
        WasmError: `data` is not a module, or its frame is broken.
        WasmLimitError: it is too large.
    """
    if len(data) > limits.module_bytes:
        hint = recognise(data)  # a large file is more likely the wrong file than a large module
        if hint is None:
            raise WasmLimitError(
                f"the module has {len(data)} bytes; at most {limits.module_bytes} are allowed", limit="module_bytes"
            )
        raise WasmError(hint)
    hint = recognise(data)
    if hint is not None:
        raise WasmError(hint)
    cursor = Cursor(data, HEADER_BYTES, len(data), "the module")
    found: list[tuple[int, int, int]] = []
    place, custom = -1, 0
    while cursor.pos < cursor.end:
        offset = cursor.pos
        section = cursor.byte("a section's id")
        if section == CUSTOM:
            custom += 1
            if custom > limits.custom_sections:
                raise WasmLimitError(
                    f"more than {limits.custom_sections} custom sections", offset, limit="custom_sections"
                )
        else:
            place = _next_place(section, place, offset)
        size = cursor.u32(f"the size of the {SECTION_NAMES[section]} section")
        start = cursor.skip(size, f"the {SECTION_NAMES[section]} section")
        found.append((section, start, start + size))
    return found


def _next_place(section: int, place: int, offset: int) -> int:
    if section not in _ORDER:
        if section in _UNSUPPORTED_SECTIONS:
            feature, what = _UNSUPPORTED_SECTIONS[section]
            raise WasmUnsupportedError(f"{what} is not supported: {WITHOUT[feature]}", offset, feature=feature)
        raise WasmError(f"unknown section id {section}, expected 0 to 12", offset)
    if _ORDER[section] == place:
        raise WasmError(f"a second {SECTION_NAMES[section]} section", offset)
    if _ORDER[section] < place:
        raise WasmError(f"the {SECTION_NAMES[section]} section stands after one that must follow it", offset)
    return _ORDER[section]
