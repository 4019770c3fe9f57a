"""What a file is that is not a WebAssembly module: a hint for a user who passed the wrong one."""

from __future__ import annotations

import re

MAGIC = b"\0asm"
VERSION = b"\x01\0\0\0"

_NATIVE = "build the guard for a wasm32 target"
_UNPACK = "unpack it first"
_LINK = "link it into a module first"

# The first bytes, what they are, and what to do about it.
_PREFIXES: tuple[tuple[bytes, str, str], ...] = (
    (b"\x89PNG\r\n", "a PNG image", ""),
    (b"\xff\xd8\xff", "a JPEG image", ""),
    (b"GIF8", "a GIF image", ""),
    (b"%PDF-", "a PDF document", ""),
    (b"\x7fELF", "an ELF binary", _NATIVE),
    (b"MZ", "a Windows binary", _NATIVE),
    (b"\xcf\xfa\xed\xfe", "a Mach-O binary", _NATIVE),
    (b"\xfe\xed\xfa", "a Mach-O binary", _NATIVE),
    (b"\xca\xfe\xba\xbe", "a Java class or a universal Mach-O binary", _NATIVE),
    (b"!<arch>\n", "a static library (.a or .rlib)", _LINK),
    (b"BC\xc0\xde", "LLVM bitcode", _LINK),
    (b"wasmer-universal", "an artifact of wasmer: compiled machine code", "pass the .wasm it was made of"),
    (b"\x1f\x8b", "gzip-compressed data", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "zstd-compressed data", _UNPACK),
    (b"\xfd7zXZ\0", "xz-compressed data", _UNPACK),
    (b"BZh", "bzip2-compressed data", _UNPACK),
    (b"PK\x03\x04", "a zip archive", _UNPACK),
    (b"SQLite format 3\0", "an SQLite database", ""),
    (b"version https://git-lfs", "a Git LFS pointer", "run `git lfs pull` for the file itself"),
    (b"AGFzbQ", "base64", "decode it first"),
    (b"0061736d", "hexadecimal text", "decode it first"),
    (b"#!", "a script", ""),
    (b"<", "an HTML or XML page", ""),
    (b"{", "JSON", ""),
    (b"[", "JSON", ""),
)

_WAT = re.compile(rb"(?:\s|;;[^\n]{0,400}\n|\(;[^;]{0,400};\))*\(\s*(module|component)\b")


def recognise(data: bytes) -> str | None:
    """Tell what `data` is if it is not a core WebAssembly module of version 1.

    Returns:
        None for what starts like a module; else a sentence such as `"this is a PNG image, not a WebAssembly module"`.
    """
    if data[:4] == MAGIC:
        return None if data[4:8] == VERSION else _other_version(data[4:8])
    if not data:
        return "the file is empty: it is not a WebAssembly module"
    what, advice = _what(data)
    return f"this is {what}, not a WebAssembly module" + (f": {advice}" if advice else "")


def _other_version(version: bytes) -> str:
    if len(version) < 4:
        return f"the file ends within the WebAssembly header: it has {4 + len(version)} bytes of 8"
    if version[2:] == b"\x01\0":
        return (
            "this is a WebAssembly component (component model), not a core module; build the guard as a core module, "
            "for instance for wasm32-wasip1 or wasm32-unknown-unknown"
        )
    return f"the WebAssembly version is {int.from_bytes(version, 'little')}, expected 1"


def _what(data: bytes) -> tuple[str, str]:
    head = data[:2048]
    for prefix, name, advice in _PREFIXES:
        if head.startswith(prefix):
            return name, advice
    if _WAT.match(head):
        return "WebAssembly text (WAT)", "assemble it first, for instance with wat2wasm"
    if head[257:262] == b"ustar":
        return "a tar archive", _UNPACK
    if MAGIC.startswith(head):
        return f"a file of {len(head)} bytes", "it seems to have been cut short"
    if not any(head):
        return "a file of zeros", ""
    if all(byte >= 0x20 or byte in b"\t\n\r\f" for byte in head):
        return "text", ""
    return f"a file that starts with {head[:4].hex(' ')}", f"a module starts with {MAGIC.hex(' ')}"
