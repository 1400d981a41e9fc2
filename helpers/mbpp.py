"""Read problems in MBPP's form (arXiv 2108.07732) as problems in HumanEval's form.

A row holds a sentence, a reference solution and asserts. The prompt becomes what HumanEval's is: imports, signature and
docstring, with the first assert as an example; the asserts become `check(candidate)`.
"""

import ast
import copy
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from helpers import hub
from helpers.problems import Problem, ProblemError, read_problems

MBPP_HUB = "google-research-datasets/mbpp"
MBPP_TRAIN = range(601, 975)  # MBPP's own split, by task_id; 1 to 10 are examples for prompts, 511 to 600 validation
MBPP_TEST = range(11, 511)

Function = ast.FunctionDef | ast.AsyncFunctionDef


def load_mbpp() -> list[Problem]:
    """Load MBPP's 974 problems from the file named by MBPP_PATH, or else from the hub.

    Raises ProblemError if neither is available, or if a row cannot be used.
    """
    named = os.environ.get("MBPP_PATH")
    if named:
        return read_problems(Path(named))
    return [problem_from_mbpp(row, f"{MBPP_HUB}, row {number}") for number, row in enumerate(_rows_from_hub(), 1)]


def split_mbpp(problems: Sequence[Problem]) -> tuple[list[Problem], list[Problem]]:
    """Return MBPP's own (train, test): the problems numbered 601 to 974, and those numbered 11 to 510."""
    numbered = [(int(problem.task_id.rpartition("/")[2]), problem) for problem in problems]
    train = [problem for number, problem in numbered if number in MBPP_TRAIN]
    return train, [problem for number, problem in numbered if number in MBPP_TEST]


def problem_from_mbpp(row: Any, where: str = "MBPP row") -> Problem:
    r"""Turn a row in MBPP's form into a problem in HumanEval's form.

    The row has `task_id`, `text` or `prompt` (what the function should do), `code` (a correct solution), `test_list`
    (asserts) and, optionally, `test_setup_code` or `test_imports`. The entry point is the function that the first
    assert calls. The prompt also contains every class that the tests name. Raises ProblemError, which begins with
    `where`, if a field is missing or cannot be used.

    >>> row = {"task_id": 1, "text": "Add two numbers.", "code": "def add(a, b): return a + b"}
    >>> problem_from_mbpp(row | {"test_list": ["assert add(1, 2) == 3"]}).test
    'def check(candidate):\n    assert candidate(1, 2) == 3\n'
    """
    text, code, asserts, setup = _fields(row, where)
    solution = _parse(code, "code", where)
    tests = [_parse(source, "test_list", where) for source in asserts]
    setup_tree = _parse(setup, "test_setup_code", where)
    functions = {node.name: node for node in solution.body if isinstance(node, Function)}
    entry_point = _called(tests[0], functions)
    if entry_point is None:
        raise ProblemError(f"{where}: the first assert in 'test_list' does not call a function that 'code' defines.")
    function = functions[entry_point]
    head, body = _with_docstring(function, f"{text}\n\n{asserts[0]}")
    before, after = _divide(solution.body, function, used_by=[setup_tree, *tests])
    return Problem(
        task_id=f"MBPP/{row['task_id']}" if isinstance(row["task_id"], int) else str(row["task_id"]),
        prompt="".join(f"{ast.unparse(node)}\n{_gap(node)}" for node in before) + head,
        canonical_solution=body + "".join(f"\n\n{ast.unparse(node)}\n" for node in after),
        test=(f"{setup}\n\n\n" if setup else "") + _check(tests, entry_point),
        entry_point=entry_point,
    )


def _rows_from_hub() -> Iterable[Any]:
    obstacle = hub.dataset_obstacle(MBPP_HUB)
    try:
        if obstacle:
            raise ConnectionError(obstacle)
        from datasets import load_dataset

        return load_dataset(MBPP_HUB, "full", split="train+test+validation+prompt")
    except Exception as error:  # the hub client raises many types; all of them mean the same to the reader
        raise ProblemError(
            f"MBPP could not be loaded from the hub ({obstacle or type(error).__name__}): set MBPP_PATH to a copy of "
            "mbpp.jsonl, or try again with a network connection."
        ) from error


def _fields(row: Any, where: str) -> tuple[str, str, list[str], str]:
    """Return text, code, asserts and set-up code, with Unix line ends."""
    if not isinstance(row, dict):
        raise ProblemError(f"{where}: a row must be a JSON object, not {type(row).__name__}.")
    text = next((row[name] for name in ("text", "prompt") if name in row), None)
    setup = row.get("test_setup_code") or "\n".join(row.get("test_imports") or [])
    for name, value in {"task_id": row.get("task_id"), "text": text, "code": row.get("code")}.items():
        if value is None:
            raise ProblemError(f"{where}: field '{name}' is missing.")
        if not isinstance(value, str | int if name == "task_id" else str) or not str(value).strip():
            raise ProblemError(f"{where}: field '{name}' must be a string that is not empty, not {value!r}.")
    tests = row.get("test_list")
    if not isinstance(tests, list) or not tests or not all(isinstance(test, str) for test in tests):
        raise ProblemError(f"{where}: field 'test_list' must be a list with at least one assert.")
    return _unix(text).strip(), _unix(row["code"]), [_unix(test).strip() for test in tests], _unix(setup).strip()


def _unix(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _parse(source: str, field: str, where: str) -> ast.Module:
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError) as error:
        raise ProblemError(f"{where}: field '{field}' is not valid Python: {error}.") from error


def _called(test: ast.Module, functions: dict[str, Function]) -> str | None:
    """Return the name of the function among `functions` that the test calls, the outermost if there are several."""
    calls = (node.func for node in ast.walk(test) if isinstance(node, ast.Call))  # outer calls come first
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
    for node in reversed(statements):  # what a statement needs stands above it
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
