"""Judge each assert by itself: rewrite tests so that they count the asserts that hold, and go on behind the others.

An assert that fails or raises counts as failed. In `check`, so does any other statement that raises, save an
assignment: its variables are unbound, so that the asserts which need them fail, and none holds on an old value. What
stands in `try` or `with` is one statement, as an exception may be expected there.

An assert in a loop counts again each time the function was called meanwhile. Without a call it stays one assert, which
holds if it held each time: else a program that returns a long list, tested item by item, would outweigh its failures.
"""

import ast
from collections.abc import Callable

COUNTS, CAUGHT = "__counts__", "__caught__"  # what the rewritten tests expect among their names
BINDING = (ast.Assign, ast.AugAssign, ast.AnnAssign)
HOLDING_OTHERS = (ast.For, ast.While, ast.If, ast.Match)
EXPECTING = (ast.With, ast.Try, ast.TryStar)


class Counts:
    """Which asserts held, and how many assignments were lost to an exception. `calls` counts those of the function."""

    def __init__(self, calls: Callable[[], int]) -> None:
        self.lost = 0
        self._calls, self._results = calls, {}

    def add(self, place: tuple[int, int], holds: bool) -> None:
        """Count the assert that stands there in the tests."""
        key = place, self._calls()
        self._results[key] = holds and self._results.get(key, True)

    @property
    def held(self) -> int:
        """Those that held."""
        return sum(self._results.values())

    @property
    def asserts(self) -> int:
        """All that were executed; a loss that no assert noticed counts as one of them."""
        return len(self._results) + (self.held == len(self._results) and self.lost > 0)


def each_assert(test: str) -> ast.Module:
    """Rewrite tests into their counting form. Raises SyntaxError and ValueError as compile does."""
    return ast.fix_missing_locations(_EachAssert().visit(ast.parse(test)))


class _EachAssert(ast.NodeTransformer):
    in_check = expecting = False

    def visit(self, node: ast.AST) -> ast.AST | list[ast.AST]:
        outside = self.in_check, self.expecting
        if isinstance(node, ast.FunctionDef):
            self.in_check, self.expecting = node.name == "check", False
        self.expecting |= isinstance(node, EXPECTING)
        self.generic_visit(node)
        self.in_check, self.expecting = outside
        if isinstance(node, ast.Assert):
            holds = _count(node, True)
            return [node, holds] if self.expecting else _attempt(node, [_count(node, False)], [holds])
        if self.expecting or not self.in_check:
            return node
        if isinstance(node, BINDING):
            return _attempt(node, [*ast.parse(f"{COUNTS}.lost += 1").body, *_unbind(node)])
        if isinstance(node, (ast.Expr, *HOLDING_OTHERS, *EXPECTING)):
            return _attempt(node, [_count(node, False)])
        return node


def _attempt(statement: ast.stmt, failing: list[ast.stmt], holding: list[ast.stmt] = ()) -> ast.Try:
    handler = ast.ExceptHandler(ast.Name(CAUGHT, ast.Load()), None, failing)
    return ast.copy_location(ast.Try([statement], [handler], list(holding), []), statement)


def _count(node: ast.stmt, holds: bool) -> ast.stmt:
    return ast.parse(f"{COUNTS}.add(({node.lineno}, {node.col_offset}), {holds})").body[0]


def _unbind(statement: ast.stmt) -> list[ast.stmt]:
    stored = [n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
    return ast.parse("\n".join(f"{name} = None; del {name}" for name in stored)).body
