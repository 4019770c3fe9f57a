"""The two packages are the trust boundary: which may import what, read from their sources and from fresh interpreters."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import guardpool
import guardpool_worker
from guardpool.machine import launch
from guardpool.machine.engines import ENGINE_NAMES, ENGINES, choose_engine
from sourcekit import imports_of

TRUSTED = Path(guardpool.__file__).parent
UNTRUSTED = Path(guardpool_worker.__file__).parent

# What the untrusted side may import of the trusted one, by whole names (of a package: all that is in it), and why that is
# no more than words and data.
SHARED = {
    "guardpool.errors": "exceptions: which words say whose fault it was",
    "guardpool.outcomes": "the values of a result: statuses, errors, log lines",
    "guardpool.labels": "the values of an answer",
    "guardpool.contract": "pure functions that judge an answer; the supervisor does not believe them, it parses labels again",
    "guardpool.nesting": "pure functions that tell how deep JSON is",
    "guardpool.module.imports": "a table: names and types of the functions that a guard may import",
    "guardpool.sizes": "numbers: how large a page of linear memory is",
    "guardpool.zig": "a tool for developers, which builds a wasm module of ours: no process of a pool loads it",
    "guardpool.protocol": "what crosses: codecs of the pipes and the socket, and the layout of the shared page",
}

# The installed packages of the engines; only the files of the seam may import them.
ENGINE = {package for facts in ENGINES.values() for package in facts.packages}


def sources(package: Path) -> list[Path]:
    found = sorted(package.rglob("*.py"))
    assert len(found) > 10
    return found


def imported(path: Path) -> set[str]:
    """Every module that a source imports, also inside functions."""
    return {name for name, _line in imports_of(path)}


def imported_by_name(path: Path) -> Iterator[int]:
    """The lines in which a source imports a module that only a string names."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__"):
                yield node.lineno


def is_shared(name: str) -> bool:
    return any(f"{name}.".startswith(f"{shared}.") for shared in SHARED)


def test_the_trusted_side_never_imports_the_untrusted_side_or_the_engine() -> None:
    wrong = {
        (path.name, name)
        for path in sources(TRUSTED)
        for name in imported(path)
        if name.split(".")[0] in {"guardpool_worker", *ENGINE}
    }
    assert not wrong


def test_no_import_is_hidden_in_a_string() -> None:
    # The package's own names, on first use, and the benchmark suite; nothing may be hidden from the test above.
    hidden = {str(path.relative_to(TRUSTED)) for path in sources(TRUSTED) for _line in imported_by_name(path)}
    assert hidden <= {"__init__.py", "cli/bench.py", "cli/backends.py"}
    assert not [path for path in sources(UNTRUSTED) for _line in imported_by_name(path)]


def test_the_untrusted_side_imports_only_words_and_data() -> None:
    used = set()
    for path in sources(UNTRUSTED):
        for name in imported(path):
            if name.startswith("guardpool."):
                assert is_shared(name), f"{path.name} imports {name}"
                used.add(next(shared for shared in SHARED if f"{name}.".startswith(f"{shared}.")))
    assert used | {"guardpool.labels", "guardpool.nesting"} == set(SHARED), (
        "the list holds a module that is not imported"
    )


def test_sharing_a_module_does_not_share_its_package() -> None:
    assert is_shared("guardpool.module.imports")
    assert is_shared("guardpool.contract.answers")
    assert not is_shared("guardpool.module.inspection")
    assert not is_shared("guardpool.module")
    assert not is_shared("guardpool.contracts")


def test_only_the_seam_imports_the_engine() -> None:
    importers = {
        str(path.relative_to(UNTRUSTED))
        for path in sources(UNTRUSTED)
        for name in imported(path)
        if name.split(".")[0] in ENGINE
    }
    assert importers == {"engine/wasmer.py"}


def test_one_module_alone_says_which_engine_a_process_uses() -> None:
    engines = {f"guardpool_worker.engine.{name}" for name in ENGINE_NAMES}
    importers = {
        str(path.relative_to(UNTRUSTED)) for path in sources(UNTRUSTED) for name in imported(path) if name in engines
    }
    assert importers == {"engine/choice.py"}


def loaded_by(statement: str) -> set[str]:
    """The modules that a fresh interpreter has after `statement` and did not have before."""
    code = f"import sys; before = set(sys.modules); {statement}; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["forkserver", "worker", "compiler"])
def test_the_untrusted_processes_load_only_what_they_may(module: str) -> None:
    name = choose_engine().name
    engine = (
        "" if module == "compiler" else f"; from guardpool_worker.engine import choice; choice.load_engine({name!r})"
    )
    loaded = loaded_by(f"import guardpool_worker.{module}{engine}")
    parents = {shared.rpartition(".")[0] for shared in SHARED}  # whose `__init__` runs, and must do nothing
    assert not [
        name for name in loaded if name.startswith("guardpool.") and not is_shared(name) and name not in parents
    ]
    others = {name.split(".")[0] for name in loaded} - set(sys.stdlib_module_names)
    assert others <= {"guardpool", "guardpool_worker", "msgspec", "typing_extensions", name}
    if module == "compiler":
        assert others <= {"guardpool", "guardpool_worker"}  # the compiler loads the engine later, under its limits


def test_the_forkserver_starts_without_modules_that_take_long_to_load() -> None:
    """`inspect` brings ast, dis and tokenize with it: a start of 107 ms became one of 205."""
    engine = choose_engine().name
    *command, code, _ = launch.command("guardpool_worker.forkserver", engine)
    told = "print(*(name for name, module in sys.modules.items() if module is not None))"
    code = code.replace(
        "sys.exit(main(sys.argv[1:]))",
        f"from guardpool_worker.engine import choice; choice.load_engine({engine!r}); {told}",
    )
    done = subprocess.run([*command, code], capture_output=True, text=True, timeout=30, check=True)
    loaded = set(done.stdout.split())
    assert loaded >= {"guardpool_worker.forkserver", f"guardpool_worker.engine.{engine}"}
    # The engine of the process alone; and not the Python package of wasmtime, which takes longer than all the rest.
    assert loaded & {*ENGINE, *(f"guardpool_worker.engine.{name}" for name in ENGINE_NAMES)} <= {
        f"guardpool_worker.engine.{engine}",
        *({"wasmer"} if engine == "wasmer" else ()),
    }
    assert not loaded & {"inspect", "dataclasses", "traceback", "typing_extensions"}


def test_importing_guardpool_loads_only_a_little_standard_library() -> None:
    loaded = loaded_by("import guardpool")
    assert {name for name in loaded if name.startswith("guardpool")} == {"guardpool"}
    outside = {name.split(".")[0] for name in loaded} - {"guardpool"}
    assert outside <= set(sys.stdlib_module_names)
    # `typing` and `importlib`, and what they need.
    heavy = {
        "argparse",
        "asyncio",
        "concurrent",
        "ctypes",
        "json",
        "logging",
        "socket",
        "ssl",
        "subprocess",
        "threading",
    }
    assert not outside & heavy
    assert len(loaded) < 60


def test_only_what_talks_to_a_live_server_imports_the_mcp_sdk() -> None:
    """It is an optional extra, and takes a second to load: a table of replies must not wait for it."""
    of_the_sdk = {"anyio", "httpx2", "mcp", "mcp_types", "pydantic"}
    importers = {
        str(path.relative_to(TRUSTED))
        for path in sources(TRUSTED)
        for name in imported(path)
        if name.split(".")[0] in of_the_sdk
    }
    assert importers == {f"backends/mcp_{name}.py" for name in ("session", "process", "http")}
    server = "guardpool.backends.McpServer.stdio(['server'])"
    loaded = {name.split(".")[0] for name in loaded_by(f"import guardpool.backends; {server}")}
    assert not loaded & {*of_the_sdk, "asyncio"}


def test_asking_for_a_name_loads_what_it_needs_and_no_more() -> None:
    loaded = {name.split(".")[0] for name in loaded_by("from guardpool import Job, Limits, Outcome, GuardPoolError")}
    assert not loaded & {"rich", "psutil", "guardpool_worker", *ENGINE}
    everything = loaded_by("from guardpool import *")
    assert not {name.split(".")[0] for name in everything} & {"guardpool_worker", "rich", *ENGINE}


def test_modules_that_decide_import_no_clock_no_thread_and_no_io() -> None:
    deciding = [TRUSTED / "supervise" / name for name in ("scheduler.py", "sessions.py", "verdicts.py", "respawn.py")]
    deciding += (TRUSTED / "contract").rglob("*.py")
    deciding += (TRUSTED / "decide").rglob("*.py")
    doing = {"logging", "os", "pathlib", "select", "socket", "subprocess", "tempfile", "threading", "time"}
    assert not [(path.name, name) for path in deciding for name in imported(path) if name.split(".")[0] in doing]
