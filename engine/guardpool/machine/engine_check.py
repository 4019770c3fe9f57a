"""Whether this Python and this machine can run the engine, found out without loading the engine.

The trusted side never imports wasmer: its native code belongs in processes that are made for it. So everything here
is read off the installed files: the package's folder, its native library, its `.dist-info`. It takes well under a
millisecond, because a pool asks every time it starts.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from guardpool.errors import EngineMissing

ENGINE_VERSION = "1.1.0"
ENGINE_PACKAGES = ("wasmer", "wasmer_compiler_cranelift")
# wasmer's last release has binary wheels for these Pythons and machines only.
PYTHONS = ((3, 7), (3, 10))
MACHINES = ("x86_64", "aarch64")

_REINSTALL = f"run: pip install wasmer=={ENGINE_VERSION} wasmer-compiler-cranelift=={ENGINE_VERSION}"


@dataclass(frozen=True, slots=True)
class NativePackage:
    """One of the engine's two packages as it is installed.

    Attributes:
        name: the import name.
        version: the version its `.dist-info` folder names.
        library: the file name of its native library.
        library_bytes: that file's size.
        folder: the folder that holds the package, as it would stand in `sys.path`.
    """

    name: str
    version: str
    library: str
    library_bytes: int
    folder: str


def engine_problem() -> str | None:
    """What keeps guards from running in this Python, as one line, or None if everything needed is there.

    Looks at the Python, the operating system, the machine and the engine's installed files. Nothing is imported, so a
    native library that is there but does not load is found by the compiler process only.
    """
    try:
        engine_packages()
    except EngineMissing as error:
        return str(error)
    return None


def engine_packages() -> tuple[NativePackage, ...]:
    """The engine's packages as installed, engine first, in a Python that can use them.

    Raises:
        EngineMissing: this Python or machine has no engine; or a package is missing, is the stub that pip installs
            if there is no wheel, or is another version.
    """
    problem = _interpreter_problem()
    if problem is not None:
        raise EngineMissing(problem)
    return tuple(_native_package(name) for name in ENGINE_PACKAGES)


def _interpreter_problem() -> str | None:
    implementation = sys.implementation.name
    version = sys.version_info[:2]
    spelled = ".".join(map(str, version))
    low, high = PYTHONS
    if implementation != "cpython" or not low <= version <= high:
        return (
            f"the wasm engine (wasmer {ENGINE_VERSION}) has builds for CPython {low[0]}.{low[1]} to {high[0]}.{high[1]}"
            f" only and this is {implementation} {spelled}: use CPython {high[0]}.{high[1]}"
        )
    if not sys.platform.startswith("linux"):
        return f"guardpool runs on Linux only and this is {sys.platform}: use a Linux machine or container"
    machine = os.uname().machine
    if machine not in MACHINES:
        return f"the wasm engine has builds for {' and '.join(MACHINES)} only and this machine is {machine}: use one of those"
    if sys.maxsize < 1 << 32:
        return "the wasm engine has 64-bit builds only and this Python is a 32-bit one: use a 64-bit CPython 3.10"
    return None


def _native_package(name: str) -> NativePackage:
    pip_name = name.replace("_", "-")
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise EngineMissing(f"the package {pip_name} is not installed in {sys.prefix}; {_REINSTALL}")
    package = Path(next(iter(spec.submodule_search_locations)))
    library = next((file for file in map((name + "{}").format, EXTENSION_SUFFIXES) if (package / file).is_file()), None)
    if library is None:
        raise EngineMissing(
            f"the package {pip_name} in {package} has no native library for this Python (pip installs an empty stub "
            f"if there is no wheel): use CPython 3.10 and {_REINSTALL}"
        )
    version = _version(package.parent, name)
    if version != ENGINE_VERSION:
        raise EngineMissing(f"{pip_name} is version {version or 'unknown'} and must be {ENGINE_VERSION}; {_REINSTALL}")
    return NativePackage(name, version, library, (package / library).stat().st_size, str(package.parent))


def _version(folder: Path, name: str) -> str | None:
    """The version in the name of the package's `.dist-info` folder beside it.

    `importlib.metadata` gives the same answer and takes 15 ms to import, which a pool that starts in 150 ms would feel;
    it is asked only if the package lies apart from its metadata.
    """
    if (folder / f"{name}-{ENGINE_VERSION}.dist-info").is_dir():
        return ENGINE_VERSION
    from importlib import metadata

    try:
        return metadata.version(name.replace("_", "-"))
    except metadata.PackageNotFoundError:
        return None
