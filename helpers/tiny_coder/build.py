"""Choose the bundled problems, hold some out, and write tests that catch every near miss.

This module is one story from the grammar to the file: which problems are chosen, which of them are held out, what the
pre-training corpus must leave out, and which asserts each problem gets.
"""

import ast
import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache

from helpers.problems import HELD_OUT_PREFIX, Problem
from helpers.tiny_coder.families import Specification, all_specifications
from helpers.tiny_coder.inputs import Arguments, edge_arguments, example_arguments, random_arguments
from helpers.tiny_coder.mutants import mutants
from helpers.tiny_coder.operators import Operator

SEED = 20
TRAIN_PREFIX = "tiny_train/"
TRAIN_PER_FAMILY = 130
HELD_OUT_PER_FAMILY = 17
CORPUS_PER_FAMILY = 3000
MINIMUM_ASSERTS = 8
# A problem whose operators are all written correctly less often than this is left out: a group of eight samples would
# rarely contain a correct one, and a group without one teaches nothing.
LEAST_RIGHT_SHARE = 0.17
# The outcome of a call that raised. It equals no answer, only itself.
_MISSING = object()

Function = Callable[..., object]


@dataclass(frozen=True)
class Bundle:
    """The bundled problems as (problem, specification) pairs; the specification is what the problem was made from."""

    train: list[tuple[Problem, Specification]]
    held_out: list[tuple[Problem, Specification]]


def build_bundle() -> Bundle:
    """Make the bundled problems: the same ones every time, in about a minute."""
    generator = random.Random(SEED)
    chosen = _choose(all_specifications(generator), generator)
    train, held_out = _hold_out(chosen, generator)
    return Bundle(
        [(_problem(spec, f"{TRAIN_PREFIX}{number}", generator), spec) for number, spec in enumerate(train)],
        [(_problem(spec, f"{HELD_OUT_PREFIX}{number}", generator), spec) for number, spec in enumerate(held_out)],
    )


def corpus_specifications(held_out: Sequence[Specification]) -> dict[str, list[Specification]]:
    """Return the specifications that the pre-training corpus is written from, by family.

    A candidate of the grammar is left out

    - if a held-out problem has the same combination of operators, even with other constants;
    - if it computes the same function as a held-out problem on 500 random inputs;
    - if its function raises an error on any of 20 inputs.
    """
    held_shapes = {_shape_of(spec) for spec in held_out}
    held_fingerprints = {_fingerprint(spec) for spec in held_out}
    corpus: dict[str, list[Specification]] = {}
    for family, candidates in all_specifications(random.Random(f"corpus {SEED}")).items():
        random.Random(f"{family} {SEED}").shuffle(candidates)
        corpus[family] = [
            spec
            for spec in candidates[:CORPUS_PER_FAMILY]
            if _shape_of(spec) not in held_shapes and _usable(spec) and _fingerprint(spec) not in held_fingerprints
        ]
    return corpus


def _shape_of(spec: Specification) -> str:
    return shape(_bare_source(spec, spec.canonical_body()))


def _fingerprint(spec: Specification) -> tuple[tuple[str, ...], str]:
    """Return the kinds of the arguments and the answers to 500 random inputs: equal for two equal functions."""
    return spec.kinds, repr(_fixed_outcomes(spec, 500))


def _usable(spec: Specification) -> bool:
    return all(result is not _MISSING for result in _fixed_outcomes(spec, 20))


def _fixed_outcomes(spec: Specification, count: int) -> list[object]:
    return outcomes(canonical_function(spec), _fixed_inputs(spec.kinds, count))


def canonical_function(spec: Specification) -> Function:
    """Return the function that the correct body defines."""
    return function_of(_bare_source(spec, spec.canonical_body()), spec.name)


def shape(source: str) -> str:
    """Return a program's operators as text, without its constants, its docstring and the names it chose.

    Two problems of the same shape differ only in constants or names. Names of builtins and methods stay, because they
    are operators too.

    >>> shape("def f(xs):\\n    return sum(xs) > 3") == shape("def g(ys):\\n    return sum(ys) > 5")
    True
    """
    tree = ast.parse(source)
    own = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    own |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant):
            node.value = 0
        elif isinstance(node, ast.Name) and node.id in own:
            node.id = names.setdefault(node.id, f"name{len(names)}")
        elif isinstance(node, ast.arg):
            node.arg = names.setdefault(node.arg, f"name{len(names)}")
        elif isinstance(node, ast.FunctionDef):
            node.name, node.body = "function", _without_docstring(node.body)
    return ast.dump(tree)


def function_of(source: str, name: str) -> Function:
    """Run a program and return the function `name` that it defines. Only for programs that this project wrote."""
    namespace: dict[str, object] = {}
    exec(source, namespace)
    return namespace[name]  # type: ignore[return-value]


def outcomes(function: Function, inputs: Iterable[Arguments]) -> list[object]:
    """Return the function's answer to each input. An error becomes a marker that equals no answer."""
    return [_outcome(function, arguments) for arguments in inputs]


def _outcome(function: Function, arguments: Arguments) -> object:
    try:
        return function(*arguments)
    except Exception:  # Whatever the error is, a test fails on it.
        return _MISSING


def _same(first: object, second: object) -> bool:
    return first is second or (first is not _MISSING and second is not _MISSING and first == second)


def differing(first: Sequence[object], second: Sequence[object]) -> list[int]:
    """Return the positions at which two lists of outcomes differ.

    >>> differing([1, 2, 3], [1, 0, 3])
    [1]
    """
    return [index for index, pair in enumerate(zip(first, second, strict=True)) if not _same(*pair)]


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    first = body[0]
    is_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return body[1:] if is_docstring and len(body) > 1 else body


def _bare_source(spec: Specification, body: str) -> str:
    return f"def {spec.name}({', '.join(spec.arguments)}):\n{body}"


def _choose(families: dict[str, list[Specification]], generator: random.Random) -> dict[str, list[Specification]]:
    """Draw problems from each family. All are distinct functions, and in each of them every operator matters."""
    seen: set[tuple] = set()
    sentences: set[str] = set()
    chosen: dict[str, list[Specification]] = {}
    for family, candidates in families.items():
        generator.shuffle(candidates)
        chosen[family] = []
        for spec in candidates:
            if len(chosen[family]) == TRAIN_PER_FAMILY + 3 * HELD_OUT_PER_FAMILY:
                break
            inputs = _fixed_inputs(spec.kinds, 500)
            results = outcomes(canonical_function(spec), inputs)
            fingerprint = (spec.kinds, repr(results))
            if fingerprint in seen or spec.sentence in sentences or not _worth_asking(spec, inputs, results):
                continue
            seen.add(fingerprint)
            sentences.add(spec.sentence)
            chosen[family].append(spec)
    return chosen


@cache
def _fixed_inputs(kinds: tuple[str, ...], count: int) -> list[Arguments]:
    generator = random.Random("inputs " + " ".join(kinds))
    return edge_arguments(kinds) + [random_arguments(kinds, generator) for _ in range(count)]


def _worth_asking(spec: Specification, inputs: list[Arguments], results: list[object]) -> bool:
    """Return whether a problem is worth asking.

    Its function must not raise or nearly always give the same answer, the corpus must not get too many of its
    operators wrong at once, and every operator must matter.
    """
    if math.prod(slot.right_share for slot in spec.slots) < LEAST_RIGHT_SHARE:
        return False
    if any(result is _MISSING for result in results):
        return False
    printed = [repr(result) for result in results]
    # A boolean has only two values, so one of them may be more frequent.
    limit = 0.85 if isinstance(results[0], bool) else 0.6
    if max(printed.count(result) for result in set(printed)) > limit * len(printed):
        return False
    # An operator matters if each other form of it changes the answer on at least 3% of the inputs.
    rights = [slot.right for slot in spec.slots]
    for index, slot in enumerate(spec.slots):
        for form in [*slot.wrong, *_neutral_forms(slot)]:
            body = spec.assemble([*rights[:index], form, *rights[index + 1 :]])
            changed = outcomes(function_of(_bare_source(spec, body), spec.name), inputs)
            if len(differing(results, changed)) < 0.03 * len(inputs):
                return False
    return True


def _neutral_forms(slot: Operator) -> list[str]:
    """Return the form that switches a map or a condition off: `x` for a map, `True` for a condition."""
    if "<x>" not in slot.right or slot.right == "<x>":
        return []
    tree = ast.parse(slot.right.replace("<x>", "x"), mode="eval").body
    method = isinstance(tree, ast.Call) and isinstance(tree.func, ast.Attribute) and tree.func.attr
    is_test = method and (method.startswith("is") or method.endswith("with"))
    is_condition = isinstance(tree, (ast.Compare, ast.BoolOp)) or is_test
    negated = isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.Not)
    return ["True"] if is_condition or negated else ["<x>"]


def _hold_out(
    chosen: dict[str, list[Specification]], generator: random.Random
) -> tuple[list[Specification], list[Specification]]:
    """Split the problems into (train, held_out).

    Whole shapes of each family are held out, so that no training problem differs from a held-out one only in its
    constants. Of each such shape, one problem is used.
    """
    shapes = {id(spec): _shape_of(spec) for specs in chosen.values() for spec in specs}
    train: list[Specification] = []
    held_out: list[Specification] = []
    held_shapes: set[str] = set()
    for specs in chosen.values():
        for family_shape in generator.sample(sorted({shapes[id(spec)] for spec in specs}), HELD_OUT_PER_FAMILY):
            held_shapes.add(family_shape)
    taken: set[str] = set()
    for specs in chosen.values():
        of_family = 0
        for spec in specs:
            held = shapes[id(spec)] in held_shapes
            if held and shapes[id(spec)] not in taken:
                taken.add(shapes[id(spec)])
                held_out.append(spec)
            elif not held and of_family < TRAIN_PER_FAMILY:
                of_family += 1
                train.append(spec)
    return train, held_out


def _problem(spec: Specification, task_id: str, generator: random.Random) -> Problem:
    body, function = spec.canonical_body(), canonical_function(spec)
    return Problem(task_id, prompt_of(spec, function, generator), body, _test_of(spec, body, function), spec.name)


def prompt_of(spec: Specification, function: Function, generator: random.Random) -> str:
    """Write the prompt: the signature, and a docstring with one example, which is drawn from `generator`."""
    arguments, result = _example(spec, function, generator)
    call = f"{spec.name}({', '.join(repr(argument) for argument in arguments)})"
    return (
        f"def {spec.name}({', '.join(spec.arguments)}):\n"
        f'    """{spec.sentence}\n'
        f"    >>> {call}\n"
        f"    {result!r}\n"
        f'    """\n'
    )


def _example(spec: Specification, function: Function, generator: random.Random) -> tuple[Arguments, object]:
    """Draw an example for the docstring. Prefers a short answer that is not empty, but gives up after 20 draws."""
    for _ in range(20):
        arguments = example_arguments(spec.kinds, generator)
        result = function(*arguments)
        if result not in (None, 0, "", [], {}) and len(repr(result)) <= 40:
            break
    return arguments, result


def _test_of(spec: Specification, body: str, function: Function) -> str:
    lines = [f"    assert candidate({', '.join(repr(a) for a in arguments)}) == {function(*arguments)!r}\n"
             for arguments in _sharp_inputs(spec, body, function)]  # fmt: skip
    return "\n\nMETADATA = {}\n\n\ndef check(candidate):\n" + "".join(lines)


def _sharp_inputs(spec: Specification, body: str, function: Function) -> list[Arguments]:
    """Choose a few inputs. Together they catch every mutant and misconception that the pool catches.

    They also catch every constant: a function that always returns the same answer. A problem gets at least
    MINIMUM_ASSERTS of them, and more only if it needs more.
    """
    pool = list({repr(arguments): arguments for arguments in _fixed_inputs(spec.kinds, 1500)}.values())
    right = outcomes(function, pool)
    near_misses = [function_of(source, spec.name) for source in _near_misses(spec, body)]
    cases = [positions for miss in near_misses if (positions := _caught_at(miss, pool, right))]
    chosen = _cover(cases, pool)
    # Fill up with inputs that catch the rarest near misses a second time.
    for positions in sorted(cases, key=len):
        fresh = positions.difference(chosen)
        if fresh and len(chosen) < MINIMUM_ASSERTS:
            chosen.append(min(fresh, key=lambda index: len(repr(pool[index]))))
    # A solution with few operators has few near misses, so take any inputs for the rest.
    spare = [index for index in range(len(pool)) if index not in chosen]
    chosen += spare[: max(0, MINIMUM_ASSERTS - len(chosen))]
    return [pool[index] for index in sorted(_with_two_answers(chosen, cases, pool, right))]


def _with_two_answers(
    chosen: list[int], cases: Sequence[set[int]], pool: Sequence[Arguments], right: Sequence[object]
) -> list[int]:
    """Return the chosen positions, with one of them exchanged if all have the same answer.

    If all answers are equal, a function that always returns this answer passes, whatever it is asked. The new position
    is the one with the shortest arguments among those with another answer. It replaces the last position without which
    every case is still met.
    """
    always = right[chosen[0]]
    if any(right[index] != always for index in chosen):
        return chosen
    others = [index for index in range(len(pool)) if right[index] != always]
    added = min(others, key=lambda index: len(repr(pool[index])))
    for dropped in reversed(chosen):
        kept = [index for index in chosen if index != dropped] + [added]
        if all(case.intersection(kept) for case in cases):
            return kept
    return [*chosen, added]


def _caught_at(miss: Function, pool: Sequence[Arguments], right: Sequence[object]) -> set[int]:
    """Return the indices of inputs on which a near miss differs from the correct solution.

    The first 300 inputs suffice if at least ten of them differ; otherwise the whole pool is tried.
    """
    first = differing(right[:300], outcomes(miss, pool[:300]))
    return set(first if len(first) >= 10 else differing(right, outcomes(miss, pool)))


def _cover(cases: Sequence[set[int]], pool: Sequence[Arguments]) -> list[int]:
    """Choose positions so that every case contains one of them.

    A greedy search: take the case with the fewest positions, and choose the position of it that also meets the most
    other open cases. If several do, the one with the shortest arguments wins.
    """
    chosen: list[int] = []
    waiting = list(cases)
    while waiting:
        rarest = min(waiting, key=len)
        best = max(sorted(rarest), key=lambda index: (sum(index in case for case in waiting), -len(repr(pool[index]))))
        chosen.append(best)
        waiting = [case for case in waiting if best not in case]
    return chosen


def _near_misses(spec: Specification, body: str) -> list[str]:
    """Return the sources of all mutants, and of all bodies with one misconception."""
    rights = [slot.right for slot in spec.slots]
    misconceptions = [
        _bare_source(spec, spec.assemble([*rights[:index], form, *rights[index + 1 :]]))
        for index, slot in enumerate(spec.slots)
        for form in slot.wrong
    ]
    return [*mutants(_bare_source(spec, body)), *misconceptions]
