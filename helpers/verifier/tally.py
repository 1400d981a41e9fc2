"""Judge each assert by itself: rewrite tests so that they count the asserts that hold, and go on behind the others.

An assert that fails or raises counts as failed. In `check`, so does any other statement that raises, save an
assignment: its variables are unbound, so that the asserts which need them fail, and none holds on an old value. What
stands in `try` or `with` is one statement, as an exception may be expected there.
"""

import ast

COUNTS, CAUGHT = "__counts__", "__caught__"  # what the rewritten tests expect among their names
BINDING = (ast.Assign, ast.AugAssign, ast.AnnAssign)
HOLDING_OTHERS = (ast.For, ast.While, ast.If, ast.Match)
EXPECTING = (ast.With, ast.Try, ast.TryStar)


class Counts:
    """How many asserts held and failed, and how many assignments were lost to an exception."""

    held = failed = lost = 0

    @property
    def asserts(self) -> int:
        """All that were executed; a loss that no assert noticed counts as one of them."""
        return self.held + (self.failed or min(self.lost, 1))


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
            return [node, _count("held")] if self.expecting else _attempt(node, [_count("failed")], [_count("held")])
        if self.expecting or not self.in_check:
            return node
        if isinstance(node, BINDING):
            return _attempt(node, [_count("lost"), *_unbind(node)])
        if isinstance(node, (ast.Expr, *HOLDING_OTHERS, *EXPECTING)):
            return _attempt(node, [_count("failed")])
        return node


def _attempt(statement: ast.stmt, failing: list[ast.stmt], holding: list[ast.stmt] = ()) -> ast.Try:
    handler = ast.ExceptHandler(ast.Name(CAUGHT, ast.Load()), None, failing)
    return ast.copy_location(ast.Try([statement], [handler], list(holding), []), statement)


def _count(field: str) -> ast.stmt:
    return ast.parse(f"{COUNTS}.{field} += 1").body[0]


def _unbind(statement: ast.stmt) -> list[ast.stmt]:
    stored = [n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
    return ast.parse("\n".join(f"{name} = None; del {name}" for name in stored)).body
