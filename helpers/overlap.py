"""Find problems that occur in two sets, so that nothing is trained on that is held out."""

import ast
import re
from collections.abc import Sequence

from helpers.problems import Problem


def shared_problems(train: Sequence[Problem], held_out: Sequence[Problem]) -> list[tuple[Problem, Problem]]:
    """Return the pairs (of `train`, of `held_out`) that are the same problem, in the order of `held_out`.

    Two problems are the same if their functions have the same name and the same text, whatever its punctuation, case
    and line breaks, or if their reference solutions are the same program apart from the function's name, docstring,
    comments and layout.
    """
    owner = {key: problem for problem in reversed(train) for key in _keys(problem)}
    found = ((next((owner[key] for key in _keys(problem) if key in owner), None), problem) for problem in held_out)
    return [(known, problem) for known, problem in found if known is not None]


def _keys(problem: Problem) -> list[tuple[str, ...]]:
    """Return what identifies a problem: its name with its text, and its reference solution."""
    try:
        tree = ast.parse(problem.prompt + problem.canonical_solution)
    except (SyntaxError, ValueError):
        return [("text", problem.entry_point, _words(problem.prompt))]
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == problem.entry_point:
            text = ast.get_docstring(node) or problem.prompt
            node.body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            renamed = re.sub(rf"\b{re.escape(problem.entry_point)}\b", "solution", ast.unparse(node))
            return [("text", problem.entry_point, _words(text)), ("solution", renamed)]
    return [("text", problem.entry_point, _words(problem.prompt))]


def _words(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))
