"""The two WebAssembly engines: what each needs, whether it can be used here, and which one `auto` takes.

The trusted side never imports an engine: its native code belongs in processes that are made for it. So everything here
is read off the installed files: the package's folder, its native library, its `.dist-info`. It takes well under a
millisecond, because a pool asks every time it starts.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from guardpool.errors import EngineMissing, EngineUnknown

MACHINES = ("x86_64", "aarch64")
"""Machines for which both engines have builds."""

_AUTO = "auto"


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """One engine, as its makers published it.

    Attributes:
        name: the word for it everywhere: `engine=`, `--engine`, `cache list`.
        version: the only version that is used. Machine code, traps and advisories are those of one version.
        packages: import names of its packages, the engine itself first, its compiler last.
        pythons: the lowest CPython and the highest one it has builds for; None: every later one.
        released: when this version was published.
        gets_fixes: whether its makers still mend what is found in it.
        upkeep: the same for people.
    """

    name: str
    version: str
    packages: tuple[str, ...]
    pythons: tuple[tuple[int, int], tuple[int, int] | None]
    released: str
    gets_fixes: bool
    upkeep: str

    @property
    def install(self) -> str:
        """The command that installs it."""
        return f"pip install {' '.join(f'{_pip_name(package)}=={self.version}' for package in self.packages)}"

    @property
    def has_builds_for_this_python(self) -> bool:
        """Whether pip can install it here, as far as the Python decides it."""
        low, high = self.pythons
        version = sys.version_info[:2]
        return sys.implementation.name == "cpython" and low <= version and (high is None or version <= high)

    @property
    def spelled_pythons(self) -> str:
        """The Pythons it has builds for, in words."""
        low, high = self.pythons
        return f"CPython {_spelled(low)} {'and later' if high is None else f'to {_spelled(high)}'}"


@dataclass(frozen=True, slots=True)
class NativePackage:
    """One of an engine's packages as it is installed.

    Attributes:
        name: the import name.
        version: the version its `.dist-info` folder names.
        library: its native library, relative to the package's folder.
        library_bytes: that file's size.
        folder: the folder that holds the package, as it would stand in `sys.path`.
    """

    name: str
    version: str
    library: str
    library_bytes: int
    folder: str


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """The engine that is used.

    Attributes:
        name: `"wasmtime"` or `"wasmer"`.
        packages: its packages as installed, the engine itself first, its compiler last.
        why: why it is this one, for people.
    """

    name: str
    packages: tuple[NativePackage, ...]
    why: str

    @property
    def version(self) -> str:
        """Name and version: `"wasmtime 50.0.1"`."""
        return f"{self.name} {self.packages[0].version}"


_ENGINES = (
    EngineFacts(
        name="wasmtime",
        version="50.0.1",
        packages=("wasmtime",),
        pythons=((3, 10), None),
        released="22 October 2026",
        gets_fixes=True,
        upkeep="gets security fixes: a new version each month, and fixes for older ones; see bytecodealliance/wasmtime",
    ),
    EngineFacts(
        name="wasmer",
        version="1.1.0",
        packages=("wasmer", "wasmer_compiler_cranelift"),
        pythons=((3, 7), (3, 10)),
        released="January 2022",
        gets_fixes=False,
        upkeep="gets no security fixes: it is the last version; SECURITY.md lists what is known",
    ),
)
ENGINES = {facts.name: facts for facts in _ENGINES}
"""What is known of each engine, by name."""

ENGINE_NAMES = tuple(ENGINES)
ENGINE_WORDS = (_AUTO, *ENGINE_NAMES)
"""What `engine=` and `--engine` take."""


def check_word(word: str) -> str:
    """`word`, if it names an engine or is `"auto"`.

    Raises:
        EngineUnknown: it does not.
    """
    if word not in ENGINE_WORDS:
        raise EngineUnknown(f"engine must be one of {', '.join(ENGINE_WORDS)}, not {word!r}")
    return word


def choose_engine(word: str = _AUTO) -> EngineChoice:
    """The engine that a word means in this Python, on this machine.

    Args:
        word: an engine's name, or `"auto"`: the first of `auto_order` that can be used.

    Raises:
        EngineMissing: that engine cannot be used here, or none can; the message names the command to type.
        EngineUnknown: the word is not one of `ENGINE_WORDS`.
    """
    if check_word(word) != _AUTO:
        return EngineChoice(word, engine_packages(word), f"{word} was asked for")
    first, *others = auto_order()
    try:
        return EngineChoice(first, engine_packages(first), _why(first))
    except EngineMissing as error:
        problem = error
    for name in others:
        try:
            return EngineChoice(name, engine_packages(name), f"auto means {first}, which cannot be used: {problem}")
        except EngineMissing:
            continue
    raise problem


def engine_meant(word: str = _AUTO) -> str:
    """The name of the engine that a word means, also where none can be used: to judge a module takes no engine.

    Raises:
        EngineUnknown: the word is not one of `ENGINE_WORDS`.
    """
    if check_word(word) != _AUTO:
        return word
    try:
        return choose_engine().name
    except EngineMissing:
        return auto_order()[0]


def auto_order() -> tuple[str, ...]:
    """What `auto` means in this Python: the engine to use, and after it those to take if it cannot be used."""
    newest_of_wasmer = ENGINES["wasmer"].pythons[1]
    # On the Python that both have builds for a new release of guardpool shall not change the engine under its users.
    return ("wasmer", "wasmtime") if sys.version_info[:2] == newest_of_wasmer else ("wasmtime", "wasmer")


def engine_problem(name: str) -> str | None:
    """What keeps an engine from running guards in this Python, as one line, or None if everything needed is there.

    Looks at the Python, the operating system, the machine and the engine's installed files. Nothing is imported, so a
    native library that is there but does not load is found by the compiler process only.
    """
    try:
        engine_packages(name)
    except EngineMissing as error:
        return str(error)
    return None


def engine_packages(name: str) -> tuple[NativePackage, ...]:
    """An engine's packages as installed, the engine itself first, in a Python that can use them.

    Raises:
        EngineMissing: this Python or machine cannot have this engine; or a package is missing, is the stub that pip
            installs if there is no wheel, or is another version.
    """
    facts = ENGINES[name]
    problem = _interpreter_problem(facts)
    if problem is not None:
        raise EngineMissing(problem)
    return tuple(_native_package(facts, package) for package in facts.packages)


def _why(name: str) -> str:
    this = f"CPython {_spelled(sys.version_info[:2])}"
    if name == "wasmer":
        return f"auto is wasmer on {this}, as in guardpool 0.1"
    return f"auto is wasmtime on {this}"


def _interpreter_problem(facts: EngineFacts) -> str | None:
    if not facts.has_builds_for_this_python:
        return (
            f"the wasm engine {facts.name} {facts.version} has builds for {facts.spelled_pythons} only and this is "
            f"{sys.implementation.name} {_spelled(sys.version_info[:2])}: {_another_way()}"
        )
    if not sys.platform.startswith("linux"):
        return f"guardpool runs on Linux only and this is {sys.platform}: use a Linux machine or container"
    machine = os.uname().machine
    if machine not in MACHINES:
        return f"the wasm engine has builds for {' and '.join(MACHINES)} only and this machine is {machine}: use one of those"
    if sys.maxsize < 1 << 32:
        return "the wasm engine has 64-bit builds only and this Python is a 32-bit one: use a 64-bit CPython"
    return None


def _another_way() -> str:
    """What to do in a Python that an engine has no builds for."""
    others = [facts for facts in _ENGINES if facts.has_builds_for_this_python]
    if not others:
        return "use CPython 3.10 or later"
    name = others[0].name
    if engine_problem(name) is None:
        return f"use {name}, which is installed here (--engine {name})"
    return f"use {name} (--engine {name}), after: {others[0].install}"


def _native_package(facts: EngineFacts, name: str) -> NativePackage:
    pip_name = _pip_name(name)
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise EngineMissing(f"the package {pip_name} is not installed in {sys.prefix}; run: {facts.install}")
    package = Path(next(iter(spec.submodule_search_locations)))
    library = next((file for file in _LIBRARIES[name](name) if (package / file).is_file()), None)
    if library is None:
        raise EngineMissing(
            f"the package {pip_name} in {package} has no native library for this Python and machine (pip installs "
            f"an empty stub if there is no wheel): use glibc Linux and {facts.spelled_pythons}, and run: {facts.install}"
        )
    version = _version(package.parent, name, facts.version)
    if version != facts.version:
        raise EngineMissing(
            f"{pip_name} is version {version or 'unknown'} and must be {facts.version}; run: {facts.install}"
        )
    return NativePackage(name, version, library, (package / library).stat().st_size, str(package.parent))


def _extension_module(name: str) -> list[str]:
    """Names of an extension module beside the package's `__init__`: a build for each Python."""
    return [name + suffix for suffix in EXTENSION_SUFFIXES]


def _shared_library(name: str) -> list[str]:
    """The name of a library that is opened by ctypes: one build for all Pythons, in a folder for its machine."""
    return [f"linux-{os.uname().machine}/_lib{name}.so"]


_LIBRARIES: dict[str, Callable[[str], list[str]]] = {
    "wasmtime": _shared_library,
    "wasmer": _extension_module,
    "wasmer_compiler_cranelift": _extension_module,
}


def _version(folder: Path, name: str, expected: str) -> str | None:
    """The version in the name of the package's `.dist-info` folder beside it.

    `importlib.metadata` gives the same answer and takes 15 ms to import, which a pool that starts in 150 ms would feel;
    it is asked only if the package lies apart from its metadata, or is another version.
    """
    if (folder / f"{name}-{expected}.dist-info").is_dir():
        return expected
    from importlib import metadata

    try:
        return metadata.version(_pip_name(name))
    except metadata.PackageNotFoundError:
        return None


def _pip_name(name: str) -> str:
    return name.replace("_", "-")


def _spelled(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
