"""Rewrite a row in MBPP's form (arXiv 2108.07732) as a row in HumanEval's form.

A row of MBPP contains a sentence, a reference solution and asserts. The prompt becomes what HumanEval's is: imports,
signature and docstring, with the first assert as an example. The asserts become `check(candidate)`.
"""

import ast
import copy
from collections.abc import Iterable, Sequence
from typing import Any

Function = ast.FunctionDef | ast.AsyncFunctionDef


class RowError(ValueError):
    """A row in MBPP's form that cannot be used. The message names the field."""


def humaneval_row(row: dict[str, Any]) -> dict[str, str]:
    r"""Return the row in HumanEval's form for a row in MBPP's form.

    The row has `task_id`, `text` or `prompt` (what the function should do), `code` (a correct solution), `test_list`
    (asserts) and, optionally, `test_setup_code` or `test_imports`. The entry point is the function that the first
    assert calls. The prompt also contains every class that the tests name. Raises RowError if a field is missing or
    cannot be used.

    >>> row = {"task_id": 1, "text": "Add two numbers.", "code": "def add(a, b): return a + b"}
    >>> humaneval_row(row | {"test_list": ["assert add(1, 2) == 3"]})["test"]
    'def check(candidate):\n    assert candidate(1, 2) == 3\n'
    """
    text, code, asserts, setup = _fields(row)
    solution = _parse(code, "code")
    tests = [_parse(source, "test_list") for source in asserts]
    setup_tree = _parse(setup, "test_setup_code")
    functions = {node.name: node for node in solution.body if isinstance(node, Function)}
    entry_point = _called(tests[0], functions)
    if entry_point is None:
        raise RowError("the first assert in 'test_list' does not call a function that 'code' defines.")
    function = functions[entry_point]
    head, body = _with_docstring(function, f"{text}\n\n{asserts[0]}")
    before, after = _divide(solution.body, function, used_by=[setup_tree, *tests])
    return {
        "task_id": str(row["task_id"]),
        "prompt": "".join(f"{ast.unparse(node)}\n{_gap(node)}" for node in before) + head,
        "canonical_solution": body + "".join(f"\n\n{ast.unparse(node)}\n" for node in after),
        "test": (f"{setup}\n\n\n" if setup else "") + _check(tests, entry_point),
        "entry_point": entry_point,
    }


def _fields(row: dict[str, Any]) -> tuple[str, str, list[str], str]:
    """Return text, code, asserts and set-up code, with Unix line ends."""
    text: Any = next((row[name] for name in ("text", "prompt") if name in row), None)
    setup = row.get("test_setup_code") or row.get("test_imports") or []
    setup = [setup] if isinstance(setup, str) else setup
    for name, value in {"task_id": row.get("task_id"), "text": text, "code": row.get("code")}.items():
        if value is None:
            raise RowError(f"field '{name}' is missing.")
        if not isinstance(value, str | int if name == "task_id" else str) or not str(value).strip():
            raise RowError(f"field '{name}' must be a string that is not empty, not {value!r}.")
    tests = row.get("test_list")
    if not isinstance(tests, list) or not tests or not all(isinstance(test, str) for test in tests):
        raise RowError("field 'test_list' must be a list with at least one assert.")
    if not isinstance(setup, list) or not all(isinstance(line, str) for line in setup):
        raise RowError("field 'test_setup_code' must be a string, or 'test_imports' a list of strings.")
    return (
        _unix(text).strip(),
        _unix(row["code"]),
        [_unix(test).strip() for test in tests],
        _unix("\n".join(setup)).strip(),
    )


def _unix(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _parse(source: str, field: str) -> ast.Module:
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError) as error:
        raise RowError(f"field '{field}' is not valid Python: {error}.") from error


def _called(test: ast.Module, functions: dict[str, Function]) -> str | None:
    """Return the name of the function among `functions` that the test calls, the outermost if there are several."""
    # ast.walk gives outer calls before inner ones.
    calls = (node.func for node in ast.walk(test) if isinstance(node, ast.Call))
    return next((func.id for func in calls if isinstance(func, ast.Name) and func.id in functions), None)


def _with_docstring(function: Function, docstring: str) -> tuple[str, str]:
    """Return the source of the function up to the end of its new docstring, and the source of the rest of its body."""
    text = "\n".join(f"    {line}" if line.strip() else "" for line in f"{docstring}\n".split("\n"))
    stub, whole = copy.deepcopy(function), copy.deepcopy(function)
    stub.body = [ast.Expr(ast.Constant(text.lstrip(" ") + "    "))]
    whole.body = stub.body + [node for n, node in enumerate(function.body) if n or ast.get_docstring(function) is None]
    head = ast.unparse(ast.fix_missing_locations(stub)) + "\n"
    return head, ast.unparse(ast.fix_missing_locations(whole)).removeprefix(head) + "\n"


def _divide(
    statements: Sequence[ast.stmt], function: Function, used_by: Sequence[ast.AST]
) -> tuple[list[ast.stmt], list[ast.stmt]]:
    """Divide the solution's other statements: those that the prompt needs, and those that belong to the solution.

    The prompt needs the imports, what the function's signature names, and every class that the tests name.
    """
    signature = [function.args, *function.decorator_list, *([function.returns] if function.returns else [])]
    in_signature, in_tests = _names(signature), _names(used_by)
    needed: list[ast.stmt] = []
    # What a statement needs stands above it, so go through them from the last to the first.
    for node in reversed(statements):
        names = _bound(node)
        is_named_class = isinstance(node, ast.ClassDef) and names & in_tests
        is_import = isinstance(node, ast.Import | ast.ImportFrom)
        if node is not function and (is_import or is_named_class or names & in_signature):
            needed.insert(0, node)
            in_signature |= _names([node])
    return needed, [node for node in statements if node is not function and node not in needed]


def _names(trees: Iterable[ast.AST]) -> set[str]:
    return {node.id for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Name)}


def _bound(node: ast.stmt) -> set[str]:
    if isinstance(node, Function | ast.ClassDef):
        return {node.name}
    targets = [child for child in ast.walk(node) if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store)]
    return {target.id for target in targets}


def _gap(node: ast.stmt) -> str:
    return "" if isinstance(node, ast.Import | ast.ImportFrom | ast.Assign) else "\n\n"


class _Rename(ast.NodeTransformer):
    def __init__(self, old: str, new: str) -> None:
        self.old, self.new = old, new

    def visit_Name(self, node: ast.Name) -> ast.Name:
        return ast.copy_location(ast.Name(self.new, node.ctx), node) if node.id == self.old else node


def _check(tests: Sequence[ast.Module], entry_point: str) -> str:
    """Return the source of check(candidate), in which `candidate` takes the place of the entry point."""
    renamed = [_Rename(entry_point, "candidate").visit(test) for test in tests]
    lines = "\n".join(ast.unparse(test) for test in renamed).split("\n")
    return "def check(candidate):\n" + "".join(f"    {line}\n" for line in lines)
