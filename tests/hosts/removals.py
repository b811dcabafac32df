"""Where AsynDM takes back what it put into a host, and the same code with one of them left out.

A removal is a statement of a ``finally`` block, an ``except BaseException`` block or a callback of
an ``ExitStack``. They are found in the source, so that a new one is tried without being listed.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType

# Modules that put something into a host or its network.
MODULES = (
    "asyndm.network.hooks", "asyndm.network.capture", "asyndm.hosts.hosted", "asyndm.hosts.a1111",
    "asyndm.hosts.forge", "asyndm.core.shadow", "asyndm.hosts.steps", "asyndm.core.run",
)  # fmt: skip
# And those that do so for a method of guidance alone: their hooks.
OF_METHODS = {
    "asyndm.network.perturb": "pag", "asyndm.network.regions": "s-cfg",
    "asyndm.guidance.measure": "apg",
}  # fmt: skip


@dataclass(frozen=True)
class Removal:
    """One removal: the module, the function's qualified name, the statement, which of its kind."""

    module: str
    function: str
    statement: str
    number: int

    def __str__(self) -> str:
        return f"{self.function}: {self.statement}"

    @contextmanager
    def left_out(self) -> Iterator[None]:
        """The function without this statement, for as long as the block lasts.

        The code of the function itself is exchanged: whoever holds the function runs it.
        """
        function = self._function()
        plain = function.__code__
        function.__code__ = self._without(function)
        try:
            yield
        finally:
            function.__code__ = plain

    def _function(self) -> FunctionType:
        found = importlib.import_module(self.module)
        for name in self.function.split("."):
            found = inspect.getattr_static(found, name)
        return inspect.unwrap(getattr(found, "__func__", found))

    def _without(self, function: FunctionType):
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
        node = tree.body[0]
        node.decorator_list = []
        target = list(_removals(node))[self.number]
        _Leave(target).visit(tree)
        space = dict(vars(importlib.import_module(self.module)))
        code = compile(ast.fix_missing_locations(tree), function.__code__.co_filename, "exec")
        exec(code, space)  # noqa: S102 - our own source
        return space[node.name].__code__


def removals(modules: Iterable[str] = MODULES) -> list[Removal]:
    """Every removal in the modules that touch a host or its network."""
    found = []
    for module in modules:
        # Read, not imported: tests are collected before a host is there.
        tree = ast.parse(Path(importlib.util.find_spec(module).origin).read_text())
        for qualified, node in _functions(tree, ""):
            if qualified == "Director.again":
                continue  # a run's own state between two calls, ended by end(); test_rules_limits
            for number, statement in enumerate(_removals(node)):
                found.append(Removal(module, qualified, ast.unparse(statement), number))
    return found


def _functions(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.FunctionDef]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef):
            yield from _functions(child, f"{prefix}{child.name}.")
        elif isinstance(child, ast.FunctionDef):
            yield f"{prefix}{child.name}", child


def _removals(function: ast.FunctionDef) -> Iterator[ast.stmt]:
    for node in ast.walk(function):
        if isinstance(node, ast.Try):
            yield from _leaves(node.finalbody)
            for handler in node.handlers:
                if isinstance(handler.type, ast.Name) and handler.type.id == "BaseException":
                    yield from _leaves(handler.body)
        elif isinstance(node, ast.Expr) and ast.unparse(node).startswith("stack.callback("):
            yield node


def _leaves(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for statement in body:
        inner = [getattr(statement, part, []) for part in ("body", "orelse")]
        if any(inner):
            for part in inner:
                yield from _leaves(part)
        elif not isinstance(statement, ast.Raise):
            yield statement


class _Leave(ast.NodeTransformer):
    """``pass`` in the place of one statement; a loop that would never end is left at once."""

    def __init__(self, target: ast.stmt) -> None:
        self.target = target

    def visit_While(self, node: ast.While) -> ast.AST:
        self.generic_visit(node)
        if any(isinstance(inner, ast.Pass) for inner in node.body):
            node.body.append(ast.Break())
        return node

    def generic_visit(self, node: ast.AST) -> ast.AST:
        for _, old in ast.iter_fields(node):
            if isinstance(old, list) and self.target in old:
                old[old.index(self.target)] = ast.copy_location(ast.Pass(), self.target)
        return super().generic_visit(node)
