"""Fuzz the wasm reader, the rewriter and the inspection: `python tests/kits/fuzz_wasm.py --seconds 60 --seed 1`.

Inputs are made from valid modules by changing bytes, numbers, slices and whole sections. An input that was answered in
a way not seen before (another message, another shape of module) is kept and changed further, which leads the fuzzer
into every branch without instrumenting anything. The same seed makes the same inputs in the same order.

With `--engine atheris` libFuzzer drives the same check over instrumented code, if atheris is installed
(`pip install --only-binary :all: atheris`).
"""

from __future__ import annotations

import argparse
import itertools
import random
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

import wasm_builder as b
from guardpool.errors import ModuleError
from guardpool.module.engine_features import ACCEPTED
from guardpool.module.inspection import check_module, inspect
from guardpool.printable import printable
from guardpool.wasm import ModuleInfo, ModuleLimits, WasmError, cap_memory, cap_tables, read_module
from guardpool.wasm.cursor import sections

CAP = 512
SECONDS_AN_INPUT = 2.0
MAX_CORPUS = 3000
MAX_BYTES = 200_000

# What the random modules use besides WebAssembly 2.0: what one engine is given, then what the other is.
FEATURES = [frozenset(taken) for taken in ACCEPTED.values()]

_LEBS = [b.leb(value) for value in (0, 1, 2, 127, 128, 255, 16383, 65536, 65537, 2**31, 2**32 - 1)] + [
    b"\x80\0",
    b"\x80\x80\x80\x80\0",
    b"\xff\xff\xff\xff\x1f",
    b"\x80" * 6 + b"\0",
]
_BYTES = (
    0x00,
    0x01,
    0x02,
    0x03,
    0x04,
    0x0B,
    0x23,
    0x40,
    0x41,
    0x60,
    0x6F,
    0x70,
    0x7F,
    0x80,
    0xD0,
    0xD2,
    0xFB,
    0xFD,
    0xFF,
    0x12,
    0x13,
    0x63,
    0x64,
    0x6A,
    0x6B,
    0x7B,
)


def check(data: bytes) -> str:
    """Whatever the bytes are, every entry point must answer as documented, and all of them the same.

    Returns:
        The answer in short, without numbers and names.
    """
    began = time.process_time()
    answer, info = _check_reader(data)
    inspections = {engine: inspect(data, CAP, engine=engine) for engine in ACCEPTED}
    for engine, each in inspections.items():
        assert each.engines == inspections["wasmtime"].engines
        verdict = each.engines[engine]
        assert (verdict.accepts, verdict.problem) == (each.ok, each.problems[0].message if each.problems else None)
    inspection = inspections[("wasmtime", "wasmer")[len(data) % 2]]
    assert inspection.ok == (not inspection.problems)
    assert msgspec.json.decode(inspection.to_json())["ok"] == inspection.ok
    for found in (*inspection.problems, *inspection.warnings):
        assert found.message == printable(found.message, 1000), found
    refused: ModuleError | None = None
    try:
        assert check_module(data, memory_pages=CAP, engine=inspection.engine) == info
    except ModuleError as error:
        refused = error
    assert inspection.ok == (refused is None)
    if refused is not None:
        assert refused.problems == tuple(problem.message for problem in inspection.problems)
        assert str(refused).startswith(refused.problems[0])
        assert "\n" not in str(refused)
    _check_cap(data, info)
    _check_table_cap(data, info)
    took = time.process_time() - began
    assert took < SECONDS_AN_INPUT, f"{took:.2f} s for {len(data)} bytes"
    codes = {found.code for found in (*inspection.problems, *inspection.warnings)}
    return f"{answer} {sorted(codes)}"


def _without_facts(message: str) -> str:
    """A message without numbers and names, so that two inputs that end in the same branch give the same."""
    message = re.sub(r" \(.*?\)|starts with .*", "", message)
    message = re.sub(r"(export|import) .*? (is|has) ", r"\1 \2 ", message)
    return re.sub(r"0x[0-9a-f]+|[0-9]+", "N", message)[:80]


def _check_reader(data: bytes) -> tuple[str, ModuleInfo | None]:
    refused: WasmError | None = None
    try:
        info = read_module(data)
    except WasmError as error:
        refused = error
    if refused is not None:
        assert str(refused) == printable(str(refused), 1000)
        assert refused.offset is None or 0 <= refused.offset <= len(data)
        return _without_facts(str(refused)), None
    shape = (len(info.types), len(info.imports), len(info.functions), len(info.exports), info.element_items)
    return f"module {[min(size, 3) for size in shape]}", info


def _check_cap(data: bytes, info: ModuleInfo | None) -> None:
    try:
        capped = cap_memory(data, CAP)
    except WasmError:
        memory = info.memories[0] if info is not None else None
        imported = info is not None and any(each.kind == "memory" for each in info.imports)
        assert memory is None or memory.minimum > CAP or imported
        return
    assert cap_memory(capped, CAP) is capped
    if info is None or not info.memories:
        return
    after = read_module(capped)
    before, memory = info.memories[0], after.memories[0]
    assert memory.minimum == before.minimum
    assert memory.maximum == (CAP if before.maximum is None else min(before.maximum, CAP))
    for name in ("types", "imports", "functions", "tables", "globals", "start", "code", "data_bytes"):
        assert getattr(info, name) == getattr(after, name), name
    assert [each.name for each in info.custom_sections] == [each.name for each in after.custom_sections]


def _check_table_cap(data: bytes, info: ModuleInfo | None) -> None:
    try:
        capped = cap_tables(data)
    except WasmError:
        assert info is None or any(each.kind == "table" for each in info.imports)
        return
    assert cap_tables(capped) is capped
    if info is None:
        return
    after = read_module(capped)
    assert [(each.element, each.minimum) for each in info.tables] == [
        (each.element, each.minimum) for each in after.tables
    ]
    assert all(each.maximum is not None and each.maximum <= 100_000 for each in after.tables)
    for name in (
        "types",
        "imports",
        "functions",
        "memories",
        "globals",
        "start",
        "code",
        "data_bytes",
        "element_items",
    ):
        assert getattr(info, name) == getattr(after, name), name


def seeds(files: Iterable[Path] = ()) -> list[bytes]:
    """Valid modules to start from: guards, random modules, one that imports everything, and `files`."""
    wasi = [b.imported("wasi_snapshot_preview1", name, b"\0\0") for name in ("fd_write", "proc_exit", "nothing")]
    made = [
        b.guard(),
        b.guard(memory_section=b.memory(1, 1000)),
        b.guard(import_section=b.imports(b.imported("env", "host_log", b"\0\0"), *wasi)),
        b.module(b.imports(b.imported("m", "g", b"\x03\x7f\0")), b.section(6, b"\x01\x7f\0\x23\0\x0b")),
        b.module(b.custom("name", b"\0\x03\x02ab"), b.custom("producers", b"\x01\x03sdk\x01\x01a\x011")),
        b.module(b.custom("target_features", b"\x02+\x03abc-\x01d"), b.custom(".debug_info", b"xyz")),
    ]
    made += [b.RandomModule(random.Random(seed), features=features).data for seed in range(15) for features in FEATURES]
    return made + [path.read_bytes() for path in files]


def mutate(rng: random.Random, corpus: list[bytes]) -> bytes:
    """A few changes to a member of the corpus."""
    data = bytearray(rng.choice(corpus))
    if rng.random() < 0.4:
        data = bytearray(_mutate_sections(rng, bytes(data), corpus))
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3, 8))):
        rng.choice(_MUTATIONS)(rng, data, corpus)
    return bytes(data[:MAX_BYTES])


def _place(rng: random.Random, data: bytearray) -> int:
    # Past the header of a module, and near the start more often: types, imports and counts are there, code is not.
    size = len(data)
    least = 8 if data.startswith(b.HEADER) and size > 8 and rng.random() < 0.99 else 0
    return min(size, rng.randrange(least, least + 120)) if rng.random() < 0.5 else rng.randrange(least, size + 1)


def _set_byte(rng: random.Random, data: bytearray, corpus: list[bytes]) -> None:
    at = _place(rng, data)
    data[at : at + 1] = bytes([rng.choice(_BYTES) if rng.random() < 0.7 else rng.randrange(256)])


def _flip_bit(rng: random.Random, data: bytearray, corpus: list[bytes]) -> None:
    at = _place(rng, data)
    if at < len(data):
        data[at] ^= 1 << rng.randrange(8)


def _number(rng: random.Random, data: bytearray, corpus: list[bytes]) -> None:
    at = _place(rng, data)
    data[at : at + rng.randint(0, 2)] = rng.choice(_LEBS)


def _delete(rng: random.Random, data: bytearray, corpus: list[bytes]) -> None:
    at = _place(rng, data)
    del data[at : at + rng.choice((1, 1, 2, 9, 100))]


def _repeat(rng: random.Random, data: bytearray, corpus: list[bytes]) -> None:
    at = _place(rng, data)
    piece = data[at : at + rng.choice((1, 4, 30))]
    data[at:at] = piece * rng.choice((1, 1, 2, 50))


def _splice(rng: random.Random, data: bytearray, corpus: list[bytes]) -> None:
    other = rng.choice(corpus)
    start = rng.randrange(len(other) + 1)
    at = _place(rng, data)
    data[at : at + rng.randrange(20)] = other[start : start + rng.randrange(60)]


_MUTATIONS: tuple[Callable[[random.Random, bytearray, list[bytes]], None], ...] = (
    _set_byte,
    _set_byte,
    _flip_bit,
    _number,
    _delete,
    _repeat,
    _splice,
)


def _mutate_sections(rng: random.Random, data: bytes, corpus: list[bytes]) -> bytes:
    """Change whole sections and keep the frame right, so that what is inside them is reached."""
    parts, others = _split(data), _split(rng.choice(corpus))
    if not parts:
        return data
    at = rng.randrange(len(parts))
    ident, body = parts[at]
    action = rng.randrange(5)
    if action == 0:
        del parts[at]
    elif action == 1:
        parts.insert(rng.randrange(len(parts) + 1), (ident, body))
    elif action == 2 and others:
        same = [other for other in others if other[0] == ident]
        parts[at] = rng.choice(same or others)
    else:
        changed = bytearray(body)
        for _ in range(rng.choice((1, 1, 2))):
            rng.choice(_MUTATIONS)(rng, changed, [body for _, body in others] or [b""])
        parts[at] = (ident, bytes(changed))
    return b.module(*(b.section(ident, body) for ident, body in parts))


def _split(data: bytes) -> list[tuple[int, bytes]]:
    try:
        return [(ident, data[start:end]) for ident, start, end in sections(data, ModuleLimits())]
    except WasmError:
        return []


class Fuzzer:
    """Runs `check` over inputs made from a corpus that grows by what is answered in a new way."""

    def __init__(self, seed: int, files: Iterable[Path] = ()) -> None:
        self.rng = random.Random(seed)
        self.corpus = seeds(files)
        self.answers = {check(data) for data in self.corpus}
        self.executions = len(self.corpus)

    def run(self, seconds: float) -> None:
        """Fuzz for `seconds`.

        Raises:
            AssertionError, or whatever else came out of the code under test: the input is in the message.
        """
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            data = mutate(self.rng, self.corpus)
            self.executions += 1
            try:
                answer = check(data)
            except Exception as error:
                raise AssertionError(f"execution {self.executions}: {error!r} on {data.hex()}") from error
            if answer not in self.answers and len(self.corpus) < MAX_CORPUS:
                self.answers.add(answer)
                self.corpus.append(data)


def _atheris(seconds: float, seed: int) -> None:
    import atheris  # type: ignore[import-untyped, import-not-found, unused-ignore]

    for name in [name for name in sys.modules if name.split(".")[0] == "guardpool"]:
        del sys.modules[name]
    with atheris.instrument_imports(include=["guardpool"]):
        import fuzz_wasm as instrumented  # this file once more, over instrumented modules
    folder = Path(tempfile.mkdtemp(prefix="guardpool-fuzz-"))  # kept: libFuzzer leaves the corpus it found there
    print(f"corpus in {folder}", flush=True)
    for number, data in enumerate(seeds()):
        (folder / f"seed-{number}").write_bytes(data)
    arguments = [
        "fuzz_wasm",
        f"-max_total_time={int(seconds)}",
        f"-seed={seed}",
        f"-artifact_prefix={folder}/",
        str(folder),
    ]
    atheris.Setup(arguments, lambda data: instrumented.check(data) and None)
    atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=None, help="default: from the clock, and printed")
    parser.add_argument("--engine", choices=("ours", "atheris"), default="ours")
    parser.add_argument("files", nargs="*", type=Path, help="further modules to start from")
    options = parser.parse_args()
    seed = time.time_ns() % 1_000_000 if options.seed is None else options.seed
    print(f"seed {seed}, {options.seconds:g} s, engine {options.engine}", flush=True)
    if options.engine == "atheris":
        _atheris(options.seconds, seed)
        return
    fuzzer = Fuzzer(seed, options.files)
    for _ in itertools.takewhile(lambda done: done * 10 < options.seconds, itertools.count()):
        fuzzer.run(min(10.0, options.seconds))
        print(f"{fuzzer.executions} executions, {len(fuzzer.answers)} different answers", flush=True)


if __name__ == "__main__":
    main()
