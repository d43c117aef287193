"""The demo's handler, as it is and bare: the same function body without the decorators."""

from __future__ import annotations

import ast
from pathlib import Path

__all__ = ["bare", "body", "decorated"]

_PACKAGE = "resilience"


def decorated() -> str:
    """The source of `examples/aws_lambda/handler.py`: shipped beside this module, or of the checkout it stands in."""
    here = Path(__file__).resolve()
    shipped = here.with_name("aws_lambda_handler.py")
    example = here.parents[2] / "examples" / "aws_lambda" / "handler.py"
    return (shipped if shipped.exists() else example).read_text(encoding="utf-8")


def bare(source: str) -> str:
    """`source` without what stands in it of this package: imports, calls at the top level, decorators, their comments.

    Raises ValueError if the handler's body would not be the same to the byte.
    """
    tree = ast.parse(source)
    names = _names(tree)
    lines = source.splitlines(keepends=True)
    dropped: set[int] = set()
    for node in _ours(tree, names):
        dropped.update(range(node.lineno - 1, node.end_lineno or node.lineno))
        above = node.lineno - 2
        while above >= 0 and lines[above].startswith("#"):
            dropped.add(above)
            above -= 1
    result = "".join(line for number, line in enumerate(lines) if number not in dropped)
    if body(result) != body(source):
        raise ValueError("the bare handler's body is not that of the decorated one")
    return result


def body(source: str, name: str = "handler") -> str:
    """The lines of function `name`, from its `def` on."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return "".join(source.splitlines(keepends=True)[node.lineno - 1 : node.end_lineno])
    raise ValueError(f"there is no function {name}")


def _names(tree: ast.Module) -> set[str]:
    """What the module calls this package and what it imports from it."""
    names: set[str] = set()
    for node in tree.body:
        if _imports(node):
            assert isinstance(node, (ast.Import, ast.ImportFrom))
            names.update(alias.asname or alias.name for alias in node.names)
    return names


def _imports(node: ast.stmt) -> bool:
    if isinstance(node, ast.Import):
        return any(alias.name.split(".")[0] == _PACKAGE for alias in node.names)
    return isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == _PACKAGE


def _ours(tree: ast.Module, names: set[str]) -> list[ast.stmt | ast.expr]:
    found: list[ast.stmt | ast.expr] = []
    for node in tree.body:
        if _imports(node) or (isinstance(node, ast.Expr) and _root(node.value) in names):
            found.append(node)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            found.extend(each for each in node.decorator_list if _root(each) in names)
    return found


def _root(node: ast.expr) -> str | None:
    """The first name of `name.attribute(...)`."""
    while isinstance(node, (ast.Call, ast.Attribute)):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else None
