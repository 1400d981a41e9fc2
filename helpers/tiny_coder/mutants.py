"""Swap one operator of a solution at a time, which gives the wrong programs that a problem's tests must catch."""

import ast
import copy
from collections.abc import Iterator

_COMPARISONS = (ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq)
_ARITHMETIC = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow)
_NAMES = (
    ("max", "min", "sum"),
    ("all", "any"),
    ("sorted", "list", "reversed"),
    ("upper", "lower", "swapcase", "capitalize"),
    ("isdigit", "isalpha", "isupper", "islower", "isalnum"),
    ("startswith", "endswith"),
)


def mutants(source: str) -> list[str]:
    """Return every program that differs from `source` in one operator.

    It swaps

    - comparison operators, and `in` with `not in`;
    - arithmetic operators, also in `+=`;
    - `and` with `or`, and `break` with `continue`;
    - the names of similar functions: max/min/sum, all/any, upper/lower, and so on (see `_NAMES`).

    It also drops `not` and unary minus. Raises SyntaxError if `source` is not valid Python.

    >>> mutants("a and not b")
    ['a or not b', 'a and b']
    """
    return list(each_mutant(source))


def each_mutant(source: str) -> Iterator[str]:
    """Yield what `mutants` returns, one program at a time, because a long program has hundreds.

    >>> next(each_mutant("a and not b"))
    'a or not b'
    """
    tree = ast.parse(source)
    for position in range(len(list(ast.walk(tree)))):
        yield from map(ast.unparse, _at_node(tree, position))


def _at_node(tree: ast.Module, position: int) -> Iterator[ast.Module]:
    """Yield a changed copy of the tree for each swap at the node with this position in `ast.walk`."""
    count = len(list(_swaps(_node(tree, position))))
    for index in range(count):
        changed = copy.deepcopy(tree)
        node = _node(changed, position)
        # The swaps of the copy are made again, because a replacement may be a child of the node in its own tree.
        replacement = list(_swaps(node))[index]
        if isinstance(replacement, dict):
            for name, value in replacement.items():
                setattr(node, name, value)
        else:
            _Replace(node, replacement).visit(changed)
        yield ast.fix_missing_locations(changed)


def _node(tree: ast.Module, position: int) -> ast.AST:
    return list(ast.walk(tree))[position]


def _swaps(node: ast.AST) -> Iterator[dict | ast.AST]:
    """Yield each swap at a node: either a dict of new values for its fields, or a node that replaces it."""
    if isinstance(node, ast.Compare):
        yield from _comparison_swaps(node)
    elif isinstance(node, (ast.BinOp, ast.AugAssign)):
        for operator in _ARITHMETIC:
            if not isinstance(node.op, operator):
                yield {"op": operator()}
    elif isinstance(node, ast.BoolOp):
        yield {"op": ast.Or() if isinstance(node.op, ast.And) else ast.And()}
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub)):
        yield node.operand
    elif isinstance(node, ast.Break):
        yield ast.Continue()
    elif isinstance(node, ast.Continue):
        yield ast.Break()
    elif isinstance(node, (ast.Name, ast.Attribute)):
        field = "id" if isinstance(node, ast.Name) else "attr"
        yield from ({field: name} for name in _like(getattr(node, field)))


def _comparison_swaps(node: ast.Compare) -> Iterator[dict]:
    for index, operator in enumerate(node.ops):
        if isinstance(operator, (ast.In, ast.NotIn)):
            others: list[type[ast.cmpop]] = [ast.NotIn if isinstance(operator, ast.In) else ast.In]
        else:
            others = [other for other in _COMPARISONS if not isinstance(operator, other)]
        for other in others:
            yield {"ops": [*node.ops[:index], other(), *node.ops[index + 1 :]]}


def _like(name: str) -> list[str]:
    return [other for group in _NAMES if name in group for other in group if other != name]


class _Replace(ast.NodeTransformer):
    """Puts one node in the place of another."""

    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        return self.new if node is self.old else self.generic_visit(node)
