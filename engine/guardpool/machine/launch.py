"""How child processes are started: by exec, isolated, with an empty environment.

A child runs `python -I -S`: no PYTHON* variables, no user site, no `.pth` files, no script folder in `sys.path`. What it may
import besides the standard library is passed explicitly and stands behind it, so that nothing installed can shadow it.
That works from a wheel and from an editable install alike, and starts about 10 ms quicker than with `site`.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterable
from functools import cache

from guardpool.errors import HostError
from guardpool.machine.engines import ENGINES

# What the untrusted side imports beyond the standard library and the engine.
CHILD_PACKAGES = ("guardpool", "guardpool_worker", "msgspec")


@cache
def search_path(engine: str) -> tuple[str, ...]:
    """The folders that hold the packages a child needs, each once; none of the packages is imported here.

    Args:
        engine: the name of the engine that the child loads. It gets no folder because of the other one.

    Raises:
        HostError: one of our own packages cannot be found on disk.
    """
    return _folders_of((*CHILD_PACKAGES, *ENGINES[engine].packages))


def _folders_of(packages: Iterable[str]) -> tuple[str, ...]:
    folders: dict[str, None] = {}
    for name in packages:
        folder = _folder_of(name)
        if folder is not None:
            folders[folder] = None
        elif name.startswith("guardpool"):
            raise HostError(
                f"the package {name} is not on disk beside guardpool: run: pip install --force-reinstall guardpool"
            )
    return tuple(folders)


def command(module: str, engine: str, *arguments: str) -> list[str]:
    """The command line that runs `module.main([engine, *arguments]) -> exit status` in a fresh, isolated interpreter.

    Args:
        module: the module that has the `main`.
        engine: the name of the engine that the process is to use.
        arguments: what else `main` gets.

    Raises:
        HostError: this process has no interpreter to start, or our own packages cannot be found on disk.
    """
    return _command(search_path(engine), module, engine, *arguments)


def command_with(packages: Iterable[str], module: str, *arguments: str) -> list[str]:
    """The command line that runs `module.main([*arguments])` in such an interpreter, which finds these packages only."""
    return _command(_folders_of(packages), module, *arguments)


def _command(search_path: Iterable[str], module: str, *arguments: str) -> list[str]:
    if not sys.executable:
        raise HostError("sys.executable is empty: guardpool starts Python processes and needs the interpreter's path")
    # A user who asked for no .pyc files gets none from us either, although the environment is not passed on.
    flags = ["-I", "-S", "-B"] if sys.dont_write_bytecode else ["-I", "-S"]
    # As bytes, so that the code is ASCII: this process may spell file names in another encoding than UTF-8, which is the
    # child's whatever the locale.
    folders = [os.fsencode(folder) for folder in search_path]
    # msgspec takes two names from typing_extensions if that is installed, for a good part of a start, and does without
    # if it is not.
    code = (
        f"import sys; sys.path += [folder.decode('utf-8', 'surrogateescape') for folder in {folders!r}]; "
        f"sys.modules['typing_extensions'] = None; from {module} import main; sys.exit(main(sys.argv[1:]))"
    )
    return [sys.executable, *flags, "-X", "utf8", "-c", code, *arguments]


def environment() -> dict[str, str]:
    """The whole environment of a child: nothing except what this same interpreter needs to be loaded at all."""
    # A Python built with a shared libpython outside the system's folders (the usual one of CI images) does not start
    # without it.
    libraries = os.environ.get("LD_LIBRARY_PATH")
    return {"LD_LIBRARY_PATH": libraries} if libraries else {}


def _folder_of(name: str) -> str | None:
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    if spec is None or not spec.submodule_search_locations:
        return None
    return os.path.dirname(os.path.abspath(next(iter(spec.submodule_search_locations))))
