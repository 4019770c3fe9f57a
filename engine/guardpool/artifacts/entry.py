"""A cache entry: what shapes an artifact, the name that follows from it, and the file's format.

The file, all numbers little endian:

    8 bytes   magic "GPOOLART"
    u32       format version
    u32       length of the header
    u64       length of the body
    32 bytes  SHA-256 of everything else: of the 24 bytes before it and of all that follows
    header    JSON: `Header`
    body      the artifact

and nothing after it. An entry's name is the SHA-256 of its `Ingredients`, so a file under another's name gives itself
away, and an engine, a processor or a release of ours that would make another artifact looks for another name.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import struct
from collections.abc import Iterable
from pathlib import Path

import msgspec

from guardpool.errors import EngineMissing
from guardpool.machine.engines import ENGINE_NAMES, engine_packages

FORMAT_VERSION = 1
MAGIC = b"GPOOLART"
SUFFIX = ".artifact"

_HEAD = struct.Struct("<8sIIQ")
_DIGEST_BYTES = 32
FIXED_BYTES = _HEAD.size + _DIGEST_BYTES
# The header is some 700 bytes; a guard's name is the only part of it that varies much.
MAX_HEADER_BYTES = 16 * 1024
MAX_BODY_BYTES = 1 << 30
MAX_ENTRY_BYTES = MAX_BODY_BYTES + 2 * MAX_HEADER_BYTES

# Our own code that decides what is compiled: a fixed bug there must not leave old artifacts in use. Of the modules of the
# engines only that of the engine in question counts.
SHAPING_MODULES = {
    "guardpool": ("module", "wasm"),
    "guardpool_worker": ("engine", "gate_and_bridge.py", "quick_judge", "wasi.py"),
}


class DamagedError(Exception):
    """The bytes are not a sound entry. `str()` is the reason, one line."""


class Ingredients(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that shapes an artifact. Equal ingredients make equal artifacts; any difference makes another name.

    Attributes:
        format: version of the entry's format.
        wasm_sha256, wasm_bytes: the module.
        memory_pages: the cap of its linear memory.
        engine: name and version of the engine.
        compiler: name and version of the package its compiler is in: the engine's own, or another one.
        libraries: file and size of each native library.
        machine, cpu_features: what the machine code is for.
        code: a digest of our own modules that shape it.
    """

    format: int
    wasm_sha256: str
    wasm_bytes: int
    memory_pages: int
    engine: str
    compiler: str
    libraries: str
    machine: str
    cpu_features: str
    code: str

    def key(self) -> str:
        """The entry's name without its suffix: 64 hex digits."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()

    def same_host(self, other: Ingredients) -> bool:
        """Whether both are for the same engine, machine and release of ours, whatever the module."""
        fields = ("format", "engine", "compiler", "libraries", "machine", "cpu_features", "code")
        return all(getattr(self, field) == getattr(other, field) for field in fields)


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an entry says of itself.

    Attributes:
        ingredients: what the artifact was made of.
        guard: the guard's name when it was compiled, for people who list the cache; it shapes nothing.
        created_s: when, in seconds since 1970.
        compile_s: how long compiling took.
    """

    ingredients: Ingredients
    guard: str | None
    created_s: float
    compile_s: float


_header_decoder = msgspec.json.Decoder(Header)


def describe(wasm: bytes, memory_pages: int, engine: str) -> Ingredients:
    """What the artifact of a module would be made of, here and now. Takes about a millisecond; imports no engine.

    Args:
        wasm: the module, as it is in its file.
        memory_pages: the cap of its linear memory.
        engine: the engine's name.

    Raises:
        EngineMissing: that engine cannot be used in this Python.
    """
    packages = engine_packages(engine)
    first, last = packages[0], packages[-1]
    return Ingredients(
        format=FORMAT_VERSION,
        wasm_sha256=hashlib.sha256(wasm).hexdigest(),
        wasm_bytes=len(wasm),
        memory_pages=memory_pages,
        engine=f"{first.name} {first.version}",
        compiler=f"{last.name} {last.version}",
        libraries=" ".join(f"{package.library} {package.library_bytes}" for package in packages),
        machine=os.uname().machine,
        cpu_features=cpu_features(),
        code=_code_digest(engine),
    )


@functools.cache
def cpu_features() -> str:
    """A digest of what this processor can do: the compiler uses it, and an artifact that needs more is a crash.

    A machine whose features cannot be read gets a fixed word: its cache is still told apart by machine and engine.
    """
    try:
        with open("/proc/cpuinfo", "rb", buffering=0) as file:
            # The first processor is enough, and a kernel with many of them takes milliseconds to list them all.
            head = file.read(16384).split(b"\n\n", 1)[0]
    except OSError:
        return "unknown"
    for line in head.split(b"\n"):
        name, _, value = line.partition(b":")
        if name.strip() in (b"flags", b"Features"):
            return hashlib.sha256(b" ".join(sorted(value.split()))).hexdigest()
    return "unknown"


def _code_digest(engine: str) -> str:
    """A digest of our modules that shape an artifact, read as files: the worker's package is never imported here."""
    digest = hashlib.sha256()
    for package, names in SHAPING_MODULES.items():
        spec = importlib.util.find_spec(package)
        places = spec.submodule_search_locations if spec is not None else None
        if not places:
            raise EngineMissing(f"the package {package} is not on disk: run: pip install --force-reinstall guardpool")
        folder = Path(next(iter(places)))
        for file in _sources(folder, names, engine):
            digest.update(f"{package}/{file.relative_to(folder)}\n".encode())
            try:
                content = file.read_bytes()
            except OSError as error:
                raise EngineMissing(
                    f"{file} cannot be read ({error.strerror}): run: pip install --force-reinstall guardpool"
                ) from error
            digest.update(len(content).to_bytes(8, "little"))
            digest.update(content)
    return digest.hexdigest()


def _sources(folder: Path, names: Iterable[str], engine: str) -> Iterable[Path]:
    others = {f"{name}.py" for name in ENGINE_NAMES if name != engine}
    for name in names:
        if name.endswith(".py"):
            yield folder / name
        else:
            files = sorted(file for file in (folder / name).rglob("*") if file.suffix in (".py", ".wasm"))
            yield from (file for file in files if file.name not in others)


def encode_entry(header: Header, body: bytes) -> tuple[bytes, bytes]:
    """An entry's bytes: everything before the body, and the body."""
    told = msgspec.json.encode(header)
    head = _HEAD.pack(MAGIC, FORMAT_VERSION, len(told), len(body))
    return head + _digest(head, told, body) + told, body


def decode_entry(data: bytes | bytearray, expected: Ingredients | None = None) -> tuple[Header, memoryview]:
    """Header and body of an entry, both covered by its digest.

    Args:
        data: the whole file.
        expected: what the artifact must have been made of; None: anything.

    Raises:
        DamagedError: the bytes are not a whole, unchanged entry, or are one of other ingredients.
    """
    told_bytes = check_size(data, len(data))
    view = memoryview(data)
    told, body = view[FIXED_BYTES : FIXED_BYTES + told_bytes], view[FIXED_BYTES + told_bytes :]
    if _digest(view[: _HEAD.size], told, body) != view[_HEAD.size : FIXED_BYTES]:
        raise DamagedError("does not match its digest")
    header = _header(told)
    if expected is not None and header.ingredients != expected:
        raise DamagedError("holds an artifact that was made of something else")
    return header, body


def check_size(data: bytes | bytearray, size: int) -> int:
    """Compare an entry's size with what its first bytes say, before it is read whole; returns the header's length.

    Args:
        data: at least the first `FIXED_BYTES` of the file, if it has that many.
        size: the file's size.

    Raises:
        DamagedError: they differ, or the bytes are not those of an entry.
    """
    told_bytes, body_bytes = _sizes(data)
    expected = FIXED_BYTES + told_bytes + body_bytes
    if size != expected:
        raise DamagedError(f"has {size} bytes and its header says {expected}")
    return told_bytes


def decode_header(data: bytes | bytearray) -> Header:
    """The header alone, from the first bytes of an entry and without looking at its digest: for listing.

    Raises:
        DamagedError: the bytes do not begin with the header of an entry.
    """
    told_bytes, _ = _sizes(data)
    return _header(memoryview(data)[FIXED_BYTES : FIXED_BYTES + told_bytes])


def _sizes(data: bytes | bytearray) -> tuple[int, int]:
    if len(data) < FIXED_BYTES:
        raise DamagedError(f"has only {len(data)} bytes")
    magic, version, told_bytes, body_bytes = _HEAD.unpack_from(data)
    if magic != MAGIC:
        raise DamagedError("does not begin like a cache entry")
    if version != FORMAT_VERSION:
        raise DamagedError(f"has format version {version}, not {FORMAT_VERSION}")
    if told_bytes > MAX_HEADER_BYTES or body_bytes > MAX_BODY_BYTES:
        raise DamagedError("has a header that cannot be right")
    return told_bytes, body_bytes


def _header(told: memoryview) -> Header:
    try:
        return _header_decoder.decode(told)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DamagedError("has a header that cannot be read") from error


def _digest(*parts: bytes | memoryview) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.digest()
