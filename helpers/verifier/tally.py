"""Judge each assert by itself: rewrite tests so that they continue after an assert that fails, and count.

    def check(candidate):                          def check(candidate):
        x = candidate(1)                               try:
        assert x == 2                                      x = candidate(1)
                                                       except CAUGHT:
                               becomes                     counts.lose(); x = None; del x
                                                       try:
                                                           assert x == 2
                                                       except CAUGHT:
                                                           counts.add((3, 4), False)
                                                       else:
                                                           counts.add((3, 4), True)

- An assert counts once, by the fraction of its executions that held. So a long answer that is checked item by item
  cannot outweigh the asserts that fail.
- An assert in a helper function counts too, and then fails as usual, so that the helper never returns as if it held.
- Any other statement of `check` that raises counts as a failed assert, unless the failure was already counted inside.
- An assignment that raises unbinds its variables. The asserts that need them then fail, and none holds on an old value.
- An assert without any names, such as `assert True`, counts only when it fails.
- The body of a `try` or `with` stays one statement, because an exception may be expected there.
"""

import ast
import sys
from collections.abc import Iterator

# Names that the rewritten tests expect to find: an AssertCounts, and the exceptions after which they continue.
COUNTS, CAUGHT = "__counts__", "__caught__"
ASSIGNMENTS = (ast.Assign, ast.AugAssign, ast.AnnAssign)
COMPOUND = (ast.For, ast.While, ast.If, ast.Match)
EXPECTING = (ast.With, ast.Try, ast.TryStar)
Place = tuple[int, int]


class AssertCounts:
    """How often each assert ran and held."""

    def __init__(self) -> None:
        self._runs: dict[Place, list[bool]] = {}
        self._counted: BaseException | None = None
        self._lost = False

    def add(self, place: Place, held: bool) -> None:
        """Count one execution of the assert at this place."""
        self._runs.setdefault(place, []).append(held)
        if not held:
            self._counted = sys.exception()

    def fail(self, place: Place) -> None:
        """Count a statement that raised, unless an assert inside it raised and was counted."""
        if sys.exception() is None or sys.exception() is not self._counted:
            self.add(place, False)

    def lose(self, names: dict[str, object], *variables: str) -> None:
        """Note that an assignment raised, and remove these variables from the tests' own global ones."""
        self._lost = True
        for name in variables:
            names.pop(name, None)

    def end(self) -> None:
        """Note that the program did not last until the tests ended, so that not everything can have held."""
        self._lost = True

    @property
    def held(self) -> float:
        """The asserts that held, each by the fraction of its executions."""
        return sum(sum(runs) / len(runs) for runs in self._runs.values())

    @property
    def asserts(self) -> int:
        """The asserts that ran. If all of them held but something else was lost, that counts as one that failed."""
        return len(self._runs) + (self._lost and all(map(all, self._runs.values())))


def each_assert(test: str) -> ast.Module:
    """Rewrite tests into their counting form. Raises SyntaxError and ValueError as compile does."""
    return ast.fix_missing_locations(_EachAssert().visit(ast.parse(test)))


class _EachAssert(ast.NodeTransformer):
    # Which function we are in. `locals` holds the names that it assigns.
    in_check = expecting = False
    locals: frozenset[str] = frozenset()

    def visit(self, node: ast.AST) -> ast.AST | list[ast.AST]:
        outside = self.in_check, self.expecting, self.locals
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            self.in_check, self.expecting, self.locals = node.name == "check", False, _local_names(node)
        self.expecting |= isinstance(node, EXPECTING)
        # Visit the children first: statements inside a loop get their own handlers.
        self.generic_visit(node)
        expecting, in_check, local = self.expecting, self.in_check, self.locals
        self.in_check, self.expecting, self.locals = outside
        if isinstance(node, ast.Assert):
            return _counted_assert(node, swallow=in_check and not expecting)
        if not in_check or (expecting and (self.expecting or not isinstance(node, EXPECTING))):
            return node
        if isinstance(node, ASSIGNMENTS):
            return _attempt(node, _unbind(_assigned(node), local))
        if isinstance(node, (ast.Expr, *COMPOUND, *EXPECTING)):
            return _attempt(node, [*_unbind(_receivers(node), local)[1:], _call("fail", _place(node))])
        return node


def _counted_assert(node: ast.Assert, swallow: bool) -> ast.stmt:
    failed = [_call("add", _place(node), "False"), *([] if swallow else [ast.Raise()])]
    named = any(isinstance(part, ast.Name) for part in ast.walk(node.test))
    return _attempt(node, failed, [_call("add", _place(node), "True")] if named else [])


def _attempt(statement: ast.stmt, failed: list[ast.stmt], held: list[ast.stmt] = ()) -> ast.Try:
    handler = ast.ExceptHandler(ast.Name(CAUGHT, ast.Load()), None, failed)
    return ast.copy_location(ast.Try([statement], [handler], list(held), []), statement)


def _call(method: str, *arguments: str) -> ast.stmt:
    return ast.parse(f"{COUNTS}.{method}({', '.join(arguments)})").body[0]


def _place(node: ast.stmt) -> str:
    return f"({node.lineno}, {node.col_offset})"


def _local_names(function: ast.AST) -> frozenset[str]:
    stored = {n.id for n in ast.walk(function) if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load)}
    return frozenset(stored.union(n.arg for n in ast.walk(function.args) if isinstance(n, ast.arg)))


def _assigned(statement: ast.stmt) -> Iterator[str]:
    """Names that an assignment binds; for `seen["a"] = ...` and `seen.a = ...` the name of the object it changes."""
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    for node in (node for target in targets for node in ast.walk(target)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Subscript | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield from _base(node)


def _receivers(statement: ast.stmt) -> Iterator[str]:
    """The name of the object that `seen.append(...)` would have changed."""
    match statement:
        case ast.Expr(ast.Call(ast.Attribute() as method)):
            yield from _base(method)


def _base(node: ast.expr) -> Iterator[str]:
    while isinstance(node, ast.Subscript | ast.Attribute):
        node = node.value
    if isinstance(node, ast.Name):
        yield node.id


def _unbind(names: Iterator[str], local: frozenset[str]) -> list[ast.stmt]:
    """Note the loss and unbind the names. `del` on its own would raise if a name is not bound yet."""
    found = sorted(set(names))
    globals_ = ", ".join(["globals()", *(repr(name) for name in found if name not in local)])
    lines = [f"{COUNTS}.lose({globals_})", *(f"{name} = None; del {name}" for name in found if name in local)]
    return [statement for line in lines for statement in ast.parse(line).body]
