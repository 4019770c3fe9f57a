"""Which module imports which, read from the sources: nothing is run, so nothing hides behind a condition."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from functools import cache
from pathlib import Path


def imports_of(path: Path, *, lazy: bool = True) -> Iterator[tuple[str, int]]:
    """The whole name of each module that a source imports, and the line.

    Args:
        path: the source.
        lazy: also what is imported inside functions and under `if TYPE_CHECKING`.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree) if lazy else _at_import(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative imports hide what is imported"
            assert node.module is not None
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield (name if is_module(name) else node.module), node.lineno


def _at_import(tree: ast.Module) -> Iterator[ast.AST]:
    """The statements that run when the module is imported."""
    todo: list[ast.AST] = list(tree.body)
    while todo:
        node = todo.pop(0)
        yield node
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            todo += node.orelse
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            todo += ast.iter_child_nodes(node)


@cache
def is_module(name: str) -> bool:
    """Whether a dotted name is a module, rather than something in one."""
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # its parent is not a package
        return False


def file_of(name: str) -> Path:
    """The source of a module; of a package its `__init__.py`."""
    spec = importlib.util.find_spec(name)
    assert spec is not None, name
    assert spec.origin is not None, name
    return Path(spec.origin)


def sources_of(name: str) -> list[Path]:
    """Every source of a package and of the packages in it, or the one of a module."""
    origin = file_of(name)
    return sorted(origin.parent.rglob("*.py")) if origin.name == "__init__.py" else [origin]
