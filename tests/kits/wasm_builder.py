"""Builds wasm modules byte by byte, well-formed or not, and draws random ones."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence, Set as AbstractSet

HEADER = b"\0asm\x01\0\0\0"
I32, I64, F32, F64, V128, FUNCREF, EXTERNREF = b"\x7f", b"\x7e", b"\x7d", b"\x7c", b"\x7b", b"\x70", b"\x6f"
END = b"\x0b"
UNREACHABLE = b"\x00"


def leb(value: int, width: int = 1) -> bytes:
    """An unsigned LEB128 of at least `width` bytes."""
    encoded = bytearray()
    while value > 0x7F or len(encoded) + 1 < width:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def vec(items: Sequence[bytes], width: int = 1) -> bytes:
    return leb(len(items), width) + b"".join(items)


def name(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return leb(len(raw)) + raw


def section(ident: int, body: bytes, width: int = 1) -> bytes:
    return bytes([ident]) + leb(len(body), width) + body


def custom(title: str | bytes, body: bytes = b"") -> bytes:
    return section(0, name(title) + body)


def module(*parts: bytes) -> bytes:
    return HEADER + b"".join(parts)


def func_type(params: bytes = b"", results: bytes = b"") -> bytes:
    return b"\x60" + leb(len(params)) + params + leb(len(results)) + results


def types(*items: bytes) -> bytes:
    return section(1, vec(items))


def imports(*items: bytes) -> bytes:
    return section(2, vec(items))


def imported(mod: str | bytes, field: str | bytes, kind: bytes) -> bytes:
    """An import; `kind` is its kind byte and its type, e.g. `b"\\0" + leb(type_index)`."""
    return name(mod) + name(field) + kind


def functions(*type_indices: int) -> bytes:
    return section(3, vec([leb(index) for index in type_indices]))


def memory_limits(minimum: int, maximum: int | None = None, *, flags: int | None = None, width: int = 1) -> bytes:
    kind = (0 if maximum is None else 1) if flags is None else flags
    return bytes([kind]) + leb(minimum, width) + (b"" if maximum is None else leb(maximum, width))


def memory(minimum: int, maximum: int | None = None, *, flags: int | None = None, width: int = 1) -> bytes:
    return section(5, vec([memory_limits(minimum, maximum, flags=flags, width=width)], width), width)


def exports(*items: bytes) -> bytes:
    return section(7, vec(items))


def exported(title: str | bytes, kind: int, index: int = 0) -> bytes:
    return name(title) + bytes([kind]) + leb(index)


def body(locals_: Iterable[tuple[int, bytes]] = (), instructions: bytes = UNREACHABLE) -> bytes:
    content = vec([leb(count) + kind for count, kind in locals_]) + instructions + END
    return leb(len(content)) + content


def code(*bodies: bytes) -> bytes:
    return section(10, vec(bodies))


LABEL_TYPE = func_type(I32 * 4, I32)
CALLS = ("label_agent", "label_resource", "label_response")


def guard(
    *,
    type_section: bytes | None = None,
    import_section: bytes = b"",
    memory_section: bytes | None = None,
    export_items: Sequence[bytes] | None = None,
) -> bytes:
    """A smallest guard: one function that traps, exported under the three names; parts of it can be replaced."""
    return module(
        types(LABEL_TYPE) if type_section is None else type_section,
        import_section,
        functions(0),
        memory(1) if memory_section is None else memory_section,
        exports(*(guard_exports() if export_items is None else export_items)),
        code(body()),
    )


def guard_exports(index: int = 0) -> list[bytes]:
    return [exported("memory", 2), *(exported(call, 0, index) for call in CALLS)]


_VALUE_TYPES = (I32, I64, F32, F64, V128, FUNCREF, EXTERNREF)
_ZEROS = {
    I32: b"\x41\0",
    I64: b"\x42\0",
    F32: b"\x43" + bytes(4),
    F64: b"\x44" + bytes(8),
    V128: b"\xfd\x0c" + bytes(16),
    FUNCREF: b"\xd0\x70",
    EXTERNREF: b"\xd0\x6f",
}


_ARITHMETIC = {I32: b"\x6a\x6b\x6c", I64: b"\x7c\x7d\x7e"}
# Behind `unreachable` any operands are there, so that these are valid anywhere.
_VALID_BEHIND_UNREACHABLE = {
    "simd": (
        b"\xfd\x0c" + bytes(16) + b"\x1a",
        b"\xfd\x6e\x1a",  # i8x16.add
        b"\xfd\xf7\x01\x1a",  # f64x2.pmax
        b"\xfd\x00\x04\x80\x00\x1a",  # v128.load
        b"\xfd\x54\x00\x00\x0f\x1a",  # v128.load8_lane
        b"\xfd\x0d" + bytes(range(16)) + b"\x1a",  # i8x16.shuffle
        b"\x02\x7b\x00\x0b\x1a",
        b"\x1c\x01\x7b\x1a",
    ),
    "externref": (b"\xd0\x6f\x1a", b"\x1c\x01\x6f\x1a"),
}


class RandomModule:
    """A random well-formed module, with every section that the format knows and numbers that are longer than need be.

    Args:
        rng: where its shape comes from.
        most_pages: the most that its memory has at the start; its maximum is twice that at most.
        features: what it uses besides WebAssembly 2.0: any of "simd", "externref", "tail_calls", "extended_const".

    Attributes:
        data: the module's bytes.
        minimum, maximum: of its memory.
        parts: (section id, bytes with header) in order; custom sections have the id 0.
        tables: (minimum, maximum) of each table.
    """

    def __init__(
        self, rng: random.Random, most_pages: int = 64, features: AbstractSet[str] = frozenset(("simd", "externref"))
    ) -> None:
        self._rng = rng
        self._features = features
        without = [kind for kind, feature in ((V128, "simd"), (EXTERNREF, "externref")) if feature not in features]
        self._kinds = [kind for kind in _VALUE_TYPES if kind not in without]
        self.tables = [(8, 9), *((rng.randint(0, 9), rng.choice((None, 200_000))) for _ in range(rng.randint(0, 2)))]
        self.minimum = rng.randint(0, most_pages)
        self.maximum = None if rng.random() < 0.4 else rng.randint(self.minimum, most_pages * 2)
        type_params = [
            (self._value_types(4), b"" if rng.random() < 0.5 else self._value_types(2))
            for _ in range(rng.randint(1, 5))
        ]
        self._types = [(b"", b""), *type_params]
        self._imported = [rng.randrange(len(self._types)) for _ in range(rng.randint(0, 3))]
        self._defined = [rng.randrange(len(self._types)) for _ in range(rng.randint(1, 6))]
        self._segments = rng.randint(0, 3)
        parts: list[tuple[int, bytes]] = []
        for ident, content in self._sections():
            while rng.random() < 0.2:
                parts.append((0, custom("".join(rng.choices("abc.é", k=rng.randint(0, 5))), rng.randbytes(5))))
            if content is not None:
                parts.append((ident, section(ident, content, rng.choice((1, 1, 5)))))
        self.parts = parts
        self.data = module(*(content for _, content in parts))

    def _value_types(self, most: int) -> bytes:
        return b"".join(self._rng.choices(self._kinds, k=self._rng.randint(0, most)))

    def _width(self) -> int:
        return self._rng.choice((1, 1, 1, 2, 5))

    def _sections(self) -> list[tuple[int, bytes | None]]:
        rng = self._rng
        every = len(self._imported) + len(self._defined)
        start = len(self._imported) + len(self._defined)  # the last function: of type () -> ()
        globals_ = rng.choices(self._kinds, k=rng.randint(0, 4))
        width = self._width()
        limits = memory_limits(self.minimum, self.maximum, width=width)
        return [
            (1, vec([func_type(*each) for each in self._types], self._width())),
            (2, vec([imported("env", f"f{i}", b"\0" + leb(each)) for i, each in enumerate(self._imported)])),
            (3, vec([leb(each, self._width()) for each in (*self._defined, 0)])),
            (4, vec([FUNCREF + memory_limits(*each, width=self._width()) for each in self.tables])),
            (5, vec([limits], width)),
            (6, vec([kind + bytes([rng.randint(0, 1)]) + self._constant(kind) + END for kind in globals_])),
            (7, vec([exported(f"e{i}", 0, i) for i in range(every)] + [exported("memory", 2), exported("t", 1)])),
            (8, leb(start) if rng.random() < 0.3 else None),
            (9, vec([self._element_segment(rng.randrange(8), every) for _ in range(rng.randint(0, 4))])),
            (12, leb(self._segments, self._width()) if rng.random() < 0.5 else None),
            (10, vec([*map(self._body, range(len(self._defined))), body((), b"")])),
            (11, vec([self._data_segment() for _ in range(self._segments)])),
        ]

    def _body(self, place: int) -> bytes:
        groups = [(self._rng.randint(0, 300), self._rng.choice(self._kinds)) for _ in range(self._rng.randint(0, 3))]
        instructions = UNREACHABLE * self._rng.randint(1, 200)
        for feature in self._features & _VALID_BEHIND_UNREACHABLE.keys():
            instructions += self._rng.choice((b"", *_VALID_BEHIND_UNREACHABLE[feature])) + UNREACHABLE
        if "tail_calls" in self._features and self._rng.random() < 0.5:
            # A function may only leave by a tail call of one with its own results; itself is one.
            own = leb(len(self._imported) + place, self._width())
            instructions += self._rng.choice((b"\x12" + own, b"\x13" + leb(self._defined[place]) + b"\0"))
        return body(groups, instructions)

    def _element_segment(self, kind: int, functions: int) -> bytes:
        """An element segment of one of the eight kinds, for table 0 (funcref) if it is not passive."""
        chosen = [leb(self._rng.randrange(functions)) for _ in range(self._rng.randint(0, 8))]
        segment = leb(kind)
        if not kind & 1:
            segment += (leb(0) if kind & 2 else b"") + self._constant(I32) + END
        if kind & 3:
            segment += FUNCREF if kind & 4 else b"\0"
        if kind & 4:
            return segment + vec([self._rng.choice((b"\xd2" + index, _ZEROS[FUNCREF])) + END for index in chosen])
        return segment + vec(chosen, self._width())

    def _data_segment(self) -> bytes:
        content = name(self._rng.randbytes(self._rng.randint(0, 40)))
        offset = self._constant(I32) + END
        return self._rng.choice((b"\x01", b"\0" + offset, b"\x02\0" + offset)) + content

    def _constant(self, kind: bytes) -> bytes:
        """A constant expression of that type without its end; its value is zero."""
        zero = _ZEROS[kind]
        if "extended_const" in self._features and kind in _ARITHMETIC:
            return zero + b"".join(
                zero + bytes([self._rng.choice(_ARITHMETIC[kind])]) for _ in range(self._rng.randint(0, 4))
            )
        return zero
