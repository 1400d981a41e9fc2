"""Choose the bundled problems, hold some out, and write tests sharp enough to catch every near miss."""

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
LEAST_RIGHT_SHARE = 0.17  # below, a group of eight samples rarely holds a right one, and nothing can be learned
_MISSING = object()

Function = Callable[..., object]


@dataclass(frozen=True)
class Bundle:
    """The bundled problems with what they were made from: (problem, specification) pairs."""

    train: list[tuple[Problem, Specification]]
    held_out: list[tuple[Problem, Specification]]


def build_bundle(seed: int = SEED) -> Bundle:
    """Make the bundled problems: the same ones each time for the same seed, in about two minutes."""
    generator = random.Random(seed)
    chosen = _choose(all_specifications(generator), generator)
    train, held_out = _hold_out(chosen, generator)
    return Bundle(
        [(_problem(spec, f"{TRAIN_PREFIX}{number}", generator), spec) for number, spec in enumerate(train)],
        [(_problem(spec, f"{HELD_OUT_PREFIX}{number}", generator), spec) for number, spec in enumerate(held_out)],
    )


def corpus_specifications(held_out: Sequence[Specification], seed: int = SEED) -> dict[str, list[Specification]]:
    """What the pre-training corpus is written from, by family: all of the grammar but what is held out.

    Left out is every combination of operators that a held-out problem has, whatever its constants, and everything
    that computes the same function on 500 random inputs. Raising on an input leaves out too.
    """
    held_shapes = {_shape_of(spec) for spec in held_out}
    held_prints = {_print_of(spec) for spec in held_out}
    corpus: dict[str, list[Specification]] = {}
    for family, candidates in all_specifications(random.Random(f"corpus {seed}")).items():
        random.Random(f"{family} {seed}").shuffle(candidates)
        corpus[family] = [
            spec
            for spec in candidates[:CORPUS_PER_FAMILY]
            if _shape_of(spec) not in held_shapes and _usable(spec) and _print_of(spec) not in held_prints
        ]
    return corpus


def _shape_of(spec: Specification) -> str:
    return shape(_bare_source(spec, spec.canonical_body()))


def _print_of(spec: Specification) -> tuple[tuple[str, ...], str]:
    """What tells a function from others: its answers to 500 random inputs, the kinds of which it takes."""
    return spec.kinds, repr(_fixed_outcomes(spec, 500))


def _usable(spec: Specification) -> bool:
    return all(result is not _MISSING for result in _fixed_outcomes(spec, 20))


def _fixed_outcomes(spec: Specification, count: int) -> list[object]:
    return outcomes(canonical_function(spec), _fixed_inputs(spec.kinds, count))


def canonical_function(spec: Specification) -> Function:
    """The function that the right body defines."""
    return function_of(_bare_source(spec, spec.canonical_body()), spec.name)


def shape(source: str) -> str:
    """The operators of a program, without its constants and the names it chose: equal for `x > 3` and `y > 5`.

    Builtins and methods are operators and stay. Two problems of one shape differ in constants or names alone.
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
    """Run a trusted program and return the function it defines."""
    namespace: dict[str, object] = {}
    exec(source, namespace)
    return namespace[name]  # type: ignore[return-value]


def outcomes(function: Function, inputs: Iterable[Arguments]) -> list[object]:
    """What a function returns for each input; an error counts as a value of its own, equal to no answer."""
    return [_outcome(function, arguments) for arguments in inputs]


def _outcome(function: Function, arguments: Arguments) -> object:
    try:
        return function(*arguments)
    except Exception:  # any error is the same to a test: it fails
        return _MISSING


def _same(first: object, second: object) -> bool:
    return first is second or (first is not _MISSING and second is not _MISSING and first == second)


def differing(first: Sequence[object], second: Sequence[object]) -> list[int]:
    """Positions at which two lists of outcomes differ."""
    return [index for index, pair in enumerate(zip(first, second, strict=True)) if not _same(*pair)]


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    first = body[0]
    is_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return body[1:] if is_docstring and len(body) > 1 else body


def _bare_source(spec: Specification, body: str) -> str:
    return f"def {spec.name}({', '.join(spec.arguments)}):\n{body}"


def _choose(families: dict[str, list[Specification]], generator: random.Random) -> dict[str, list[Specification]]:
    """Draw problems from each family that are distinct functions and in which every operator matters."""
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
            print_of = (spec.kinds, repr(results))
            if print_of in seen or spec.sentence in sentences or not _worth_asking(spec, inputs, results):
                continue
            seen.add(print_of)
            sentences.add(spec.sentence)
            chosen[family].append(spec)
    return chosen


@cache
def _fixed_inputs(kinds: tuple[str, ...], count: int) -> list[Arguments]:
    generator = random.Random("inputs " + " ".join(kinds))
    return edge_arguments(kinds) + [random_arguments(kinds, generator) for _ in range(count)]


def _worth_asking(spec: Specification, inputs: list[Arguments], results: list[object]) -> bool:
    """No errors, no near-constant answer, not too many misconceptions at once, and every operator matters."""
    if math.prod(slot.right_share for slot in spec.slots) < LEAST_RIGHT_SHARE:
        return False
    if any(result is _MISSING for result in results):
        return False
    printed = [repr(result) for result in results]
    limit = 0.85 if isinstance(results[0], bool) else 0.6
    if max(printed.count(result) for result in set(printed)) > limit * len(printed):
        return False
    rights = [slot.right for slot in spec.slots]
    for index, slot in enumerate(spec.slots):
        for form in [*slot.wrong, *_neutral_forms(slot)]:
            body = spec.assemble([*rights[:index], form, *rights[index + 1 :]])
            changed = outcomes(function_of(_bare_source(spec, body), spec.name), inputs)
            if len(differing(results, changed)) < 0.03 * len(inputs):
                return False
    return True


def _neutral_forms(slot: Operator) -> list[str]:
    """The form that leaves a map or a condition out."""
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
    """Hold out whole shapes of each family, so that no training problem differs from one in constants alone."""
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
    """Signature and docstring with one example drawn from `generator`."""
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
    """An example that shows something: an answer that is not empty, where one is soon found."""
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
    """Few inputs that catch every mutant and every misconception which any of many inputs catches."""
    pool = list({repr(arguments): arguments for arguments in _fixed_inputs(spec.kinds, 1500)}.values())
    right = outcomes(function, pool)
    near_misses = [function_of(source, spec.name) for source in _near_misses(spec, body)]
    cases = [positions for miss in near_misses if (positions := _caught_at(miss, pool, right))]
    chosen = _cover(cases, pool)
    for positions in sorted(cases, key=len):  # the rarest near misses are caught a second time
        fresh = positions.difference(chosen)
        if fresh and len(chosen) < MINIMUM_ASSERTS:
            chosen.append(min(fresh, key=lambda index: len(repr(pool[index]))))
    spare = [index for index in range(len(pool)) if index not in chosen]  # a solution without operators has no misses
    chosen += spare[: max(0, MINIMUM_ASSERTS - len(chosen))]
    return [pool[index] for index in sorted(chosen)]


def _caught_at(miss: Function, pool: Sequence[Arguments], right: Sequence[object]) -> set[int]:
    """Positions of inputs that tell a near miss from the right solution; the whole pool only where few do."""
    first = differing(right[:300], outcomes(miss, pool[:300]))
    return set(first if len(first) >= 10 else differing(right, outcomes(miss, pool)))


def _cover(cases: Sequence[set[int]], pool: Sequence[Arguments]) -> list[int]:
    """Positions that meet every case: for the rarest open case, the input that settles the most others; short ones
    first among equals."""
    chosen: list[int] = []
    waiting = list(cases)
    while waiting:
        rarest = min(waiting, key=len)
        best = max(sorted(rarest), key=lambda index: (sum(index in case for case in waiting), -len(repr(pool[index]))))
        chosen.append(best)
        waiting = [case for case in waiting if best not in case]
    return chosen


def _near_misses(spec: Specification, body: str) -> list[str]:
    rights = [slot.right for slot in spec.slots]
    misconceptions = [
        _bare_source(spec, spec.assemble([*rights[:index], form, *rights[index + 1 :]]))
        for index, slot in enumerate(spec.slots)
        for form in slot.wrong
    ]
    return [*mutants(_bare_source(spec, body)), *misconceptions]
