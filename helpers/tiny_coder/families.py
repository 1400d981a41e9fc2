"""Families of problems: how operators combine into a sentence and a function body.

Over 300 lines, because it is one table: each family, its English and its code, next to each other.
"""

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from helpers.tiny_coder.operators import (
    ANY,
    CHARACTER_FILTERS,
    CHARACTER_MAPS,
    CONNECTIVES,
    MISTAKEN,
    NUMBER_AGGREGATES,
    NUMBER_FILTERS,
    NUMBER_MAPS,
    PAIR_FILTERS,
    PAIR_MAPS,
    QUANTIFIERS,
    ROW_FILTERS,
    ROW_MAPS,
    SAME,
    SHAKY,
    TEXT_AGGREGATES,
    WORD_FILTERS,
    WORD_MAPS,
    Operator,
)

INDENT = "    "


@dataclass(frozen=True)
class Specification:
    """A problem before it is written out: its sentence, and how the forms of its operators make a function body.

    arguments: the parameter names.
    kinds: for each parameter, which random values it takes (see `inputs.py`).
    slots: the operators, with their constants filled in.
    assemble: makes the function body from one form (source text) for each slot.
    """

    family: str
    name: str
    sentence: str
    arguments: tuple[str, ...]
    kinds: tuple[str, ...]
    slots: tuple[Operator, ...]
    assemble: Callable[[Sequence[str]], str]

    def canonical_body(self) -> str:
        """Return the body with every operator in its correct form."""
        return self.assemble([slot.right for slot in self.slots])

    def sampled_body(self, generator: random.Random) -> str:
        """Return a body with a form of each operator drawn by its share: often wrong, and systematically so."""
        return self.assemble([_draw_form(slot, generator) for slot in self.slots])


@dataclass(frozen=True)
class Source:
    """Where the elements come from, such as `xs[1:]`.

    operator: its code, correct and wrong. variable: what a loop over it calls an element. noun, place: its English,
    as in "numbers" and "in xs". condition: a test that is always there. signed: whether it has negative numbers.
    """

    operator: Operator
    variable: str
    noun: str
    place: str
    arguments: tuple[str, ...]
    kinds: tuple[str, ...]
    condition: str = ""
    signed: bool = True


def _draw_form(slot: Operator, generator: random.Random) -> str:
    forms = slot.forms()
    return generator.choices([form for form, _ in forms], [share for _, share in forms])[0]


def _source(
    code: str, *rest: Any, wrong: tuple[str, ...] = (), share: float = 1.0, name: str = "", **more: Any
) -> Source:
    return Source(Operator(name, "", code, wrong, share), *rest, **more)


LIST = _source("xs", "x", "numbers", "in xs", ("xs",), ("numbers",))
SLICES = (
    _source("xs[::2]", "x", "numbers", "at even positions of xs", ("xs",), ("numbers",),
            wrong=("xs[1::2]",), share=MISTAKEN, name="alternate"),
    _source("xs[1:]", "x", "numbers", "in xs after the first", ("xs",), ("numbers",), name="rest"),
    _source("xs[:-1]", "x", "numbers", "in xs before the last", ("xs",), ("numbers",),
            wrong=("xs[1:]",), share=SHAKY, name="front"),
    _source("xs + ys", "x", "numbers", "in xs and ys", ("xs", "ys"), ("numbers", "numbers"), name="joined"),
)  # fmt: skip
DIGITS = _source("map(int, str(n))", "d", "digits", "of n", ("n",), ("count",), signed=False)
RANGES_TO = (
    _source("range(1, n + 1)", "i", "numbers", "from 1 to n", ("n",), ("limit",),
            wrong=("range(1, n)",), share=MISTAKEN, name="to", signed=False),
    _source("range(n)", "i", "numbers", "from 0 to n - 1", ("n",), ("limit",),
            wrong=("range(n + 1)",), share=SHAKY, name="until", signed=False),
    _source("range(1, n + 1)", "i", "divisors", "of n", ("n",), ("limit",),
            condition="n % i == 0", name="divisors", signed=False),
)  # fmt: skip
VALUES = _source("d.values()", "v", "values", "of d", ("d",), ("dictionary",), name="values")
KEYS = _source("d", "w", "keys", "of d", ("d",), ("dictionary",), name="keys")
CHARACTERS = _source("s", "c", "characters", "in s", ("s",), ("text",))
WORDS = _source("s.split()", "w", "words", "in s", ("s",), ("sentence",))
PAIR_SOURCES = (
    _source("ps", "a, b", "pairs", "in ps", ("ps",), ("pairs",)),
    _source("zip(xs, ys)", "a, b", "pairs", "of xs and ys", ("xs", "ys"), ("numbers", "numbers"), name="zipped"),
    _source("zip(xs, xs[1:])", "a, b", "pairs", "of neighbours in xs", ("xs",), ("numbers",), name="neighbours"),
)
ROWS = _source("rows", "row", "rows", "in rows", ("rows",), ("rows",))


def all_specifications(generator: random.Random) -> dict[str, list[Specification]]:
    """Return every combination of operators, by family, with constants drawn from `generator`."""
    families = {
        "number_lists": _collections("number_lists", [LIST], NUMBER_FILTERS, NUMBER_MAPS, NUMBER_AGGREGATES, generator),
        "list_slices": _collections("list_slices", SLICES, NUMBER_FILTERS, NUMBER_MAPS, NUMBER_AGGREGATES, generator),
        "digits": _collections("digits", [DIGITS], NUMBER_FILTERS, NUMBER_MAPS, NUMBER_AGGREGATES, generator),
        "ranges": _collections("ranges", RANGES_TO, NUMBER_FILTERS, NUMBER_MAPS, NUMBER_AGGREGATES, generator),
        "characters": _collections(
            "characters", [CHARACTERS], CHARACTER_FILTERS, CHARACTER_MAPS, TEXT_AGGREGATES, generator
        ),
        "words": _collections("words", [WORDS], WORD_FILTERS, WORD_MAPS, TEXT_AGGREGATES, generator),
        "pairs": _collections("pairs", PAIR_SOURCES, PAIR_FILTERS, PAIR_MAPS, NUMBER_AGGREGATES, generator),
        "rows": _collections("rows", [ROWS], ROW_FILTERS, ROW_MAPS, NUMBER_AGGREGATES, generator),
        "dictionaries": itertools.chain(
            _collections("dictionaries", [VALUES], NUMBER_FILTERS, NUMBER_MAPS, NUMBER_AGGREGATES, generator),
            _collections("dictionaries", [KEYS], WORD_FILTERS, WORD_MAPS, TEXT_AGGREGATES, generator),
            _dictionary_results(generator),
        ),
        "predicates": itertools.chain(_quantified(generator), _conditions(generator)),
        "choices": _choices(generator),
        "loops": _loops(generator),
    }
    return {family: list(specifications) for family, specifications in families.items()}


def _bound(operator: Operator, generator: random.Random) -> Operator:
    """Fill in constants, drawn from those that the operator allows."""
    return operator.bind(generator.choice(operator.constants))


def _name(*parts: str) -> str:
    """Join the parts that are not empty into the name of a function."""
    words = [part for part in parts if part]
    return "_".join(words) if len(words) > 1 else f"{words[0]}_of"


def _at(code: str, variable: str) -> str:
    """Put the element into a form, in parentheses if both are compound.

    >>> _at("<x> ** 3", "x + 2")
    '(x + 2) ** 3'
    """
    compound = any(sign in variable for sign in " -") and code != "<x>"
    return code.replace("<x>", f"({variable})" if compound else variable)


def _items(filter_phrase: str, source: Source, filter_tags: frozenset[str], is_any: bool) -> str:
    """Name in English the elements of a source that pass a filter, such as "the even numbers in xs"."""
    if is_any:
        return f"the {source.noun} {source.place}"
    if "adjective" in filter_tags:
        return f"the {filter_phrase} {source.noun} {source.place}"
    if filter_phrase.startswith(("words", "pairs", "rows", "characters")):
        noun, _, rest = filter_phrase.partition(" ")
        noun = source.noun if noun == "words" else noun
        return f"the {noun} {source.place} {rest}".rstrip()
    if source.variable == "c":
        return f"the {filter_phrase} {source.place}"
    return f"the {source.noun} {source.place} {filter_phrase}"


def _fits(operator: Operator, source: Source) -> bool:
    return source.signed or "signed" not in operator.tags


def _conditions_of(filters: Sequence[Operator], source: Source) -> list[Operator]:
    return [ANY, *(operator for operator in filters if _fits(operator, source))]


def _collections(
    family: str,
    sources: Sequence[Source],
    filters: Sequence[Operator],
    maps: Sequence[Operator],
    aggregates: Sequence[Operator],
    generator: random.Random,
) -> Iterator[Specification]:
    """Combine aggregate, map and filter over a source, as in `return sum(x * x for x in xs if x > 3)`."""
    for source in sources:
        plain = [] if source.variable in ("a, b", "row") else [SAME]
        fitting = [operator for operator in maps if _fits(operator, source)]
        for aggregate, mapping, condition in itertools.product(
            aggregates, [*plain, *fitting], _conditions_of(filters, source)
        ):
            if not _aggregates(aggregate, mapping, condition, source):
                continue
            slots = tuple(_bound(slot, generator) for slot in (aggregate, mapping, condition))
            yield _collection(family, source, *slots)
        if plain:
            continue
        # A pair or a row needs a map before it can be aggregated, but not before it can be counted.
        for condition in _conditions_of(filters, source)[1:]:
            count = next(aggregate for aggregate in aggregates if aggregate.name == "count")
            yield _collection(family, source, count, SAME, _bound(condition, generator))


def _aggregates(aggregate: Operator, mapping: Operator, condition: Operator, source: Source) -> bool:
    """Return whether the combination makes sense."""
    if "bare" in aggregate.tags:
        return mapping is SAME and condition is not ANY
    text_result = aggregate.name in ("join", "dashes", "joinback", "joinsorted")
    numeric = mapping.numeric and not (mapping is SAME and source.variable in ("c", "w"))
    if text_result and numeric:
        return False
    return not (aggregate.name == "list" and mapping is SAME and condition is ANY)


def _collection(
    family: str, source: Source, aggregate: Operator, mapping: Operator, condition: Operator
) -> Specification:
    items = _items(condition.phrase, source, condition.tags, condition.right == "")
    sentence = f"Return {aggregate.phrase}.".replace("<i>", mapping.phrase.replace("<i>", items))
    element = "1" if source.variable in ("a, b", "row") and mapping is SAME else source.variable

    def assemble(forms: Sequence[str]) -> str:
        aggregate_form, map_form, condition_form, source_form = forms
        test = _both(source.condition, _at(condition_form, source.variable))
        place = source_form + (f" if {test}" if test else "")
        inner = f"{_at(map_form, element)} for {source.variable} in {place}"
        filled = aggregate_form.replace("<g>", inner).replace("<s>", place)
        return f"{INDENT}return {filled.replace('<v>', source.variable).replace('<t>', source_form)}\n"

    noun = source.operator.name or source.noun
    name = _name(aggregate.name, condition.name, mapping.name, noun if not (condition.name and mapping.name) else "")
    slots = (aggregate, mapping, condition, source.operator)
    return Specification(family, name, sentence, source.arguments, source.kinds, slots, assemble)


def _both(first: str, second: str) -> str:
    """Join two conditions with `and`; either may be empty."""
    if first and " or " in second:
        second = f"({second})"
    return f"{first} and {second}" if first and second else first or second


def _dictionary_results(generator: random.Random) -> Iterator[Specification]:
    """Make dictionaries from dictionaries and lists, and choose keys by their values."""
    for mapping, condition in itertools.product([SAME, *NUMBER_MAPS], [ANY, *NUMBER_FILTERS]):
        if mapping is SAME and condition is ANY:
            continue
        yield _value_dictionary(_bound(mapping, generator), _bound(condition, generator))
        yield _number_dictionary(_bound(mapping, generator), _bound(condition, generator))
    for aggregate, condition in itertools.product(("list", "sort", "join"), NUMBER_FILTERS):
        operator = next(candidate for candidate in TEXT_AGGREGATES if candidate.name == aggregate)
        yield _keys_by_value(operator, _bound(condition, generator))


def _value_dictionary(mapping: Operator, condition: Operator) -> Specification:
    who = f" whose value is {condition.phrase}" if condition.right else ""
    sentence = f"Return a dictionary from each key of d{who} to {mapping.single.replace('<i>', 'its value')}."

    def assemble(forms: Sequence[str]) -> str:
        test = f" if {_at(forms[1], 'v')}" if forms[1] else ""
        return f"{INDENT}return {{k: {_at(forms[0], 'v')} for k, v in d.items(){test}}}\n"

    name = _name("update", condition.name, mapping.name)
    return Specification("dictionaries", name, sentence, ("d",), ("dictionary",), (mapping, condition), assemble)


def _number_dictionary(mapping: Operator, condition: Operator) -> Specification:
    items = _items(condition.phrase, LIST, condition.tags, condition.right == "")
    sentence = f"Return a dictionary from each of {items} to {mapping.single.replace('<i>', 'it')}."

    def assemble(forms: Sequence[str]) -> str:
        test = f" if {_at(forms[1], 'x')}" if forms[1] else ""
        return f"{INDENT}return {{x: {_at(forms[0], 'x')} for x in xs{test}}}\n"

    name = _name("table", condition.name, mapping.name)
    return Specification("dictionaries", name, sentence, ("xs",), ("numbers",), (mapping, condition), assemble)


def _keys_by_value(aggregate: Operator, condition: Operator) -> Specification:
    items = f"the keys of d whose value is {condition.phrase}"
    sentence = f"Return {aggregate.phrase.replace('<i>', items)}."

    def assemble(forms: Sequence[str]) -> str:
        inner = f"k for k, v in d.items() if {_at(forms[1], 'v')}"
        return f"{INDENT}return {forms[0].replace('<g>', inner)}\n"

    name = _name(aggregate.name, condition.name, "keys")
    return Specification("dictionaries", name, sentence, ("d",), ("dictionary",), (aggregate, condition), assemble)


def _quantified(generator: random.Random) -> Iterator[Specification]:
    """Ask whether all, any or none of the numbers meet a condition, after a map and a filter."""
    maps = [SAME, *(operator for operator in NUMBER_MAPS if operator.name in ("squares", "halves", "raised", "from"))]
    for quantifier, goal, mapping, condition in itertools.product(
        QUANTIFIERS, NUMBER_FILTERS, maps, [ANY, *NUMBER_FILTERS]
    ):
        if goal.name != condition.name:
            yield _quantifier(quantifier, *(_bound(slot, generator) for slot in (goal, mapping, condition)))


def _quantifier(quantifier: Operator, goal: Operator, mapping: Operator, condition: Operator) -> Specification:
    items = _items(condition.phrase, LIST, condition.tags, condition.right == "")
    what = quantifier.phrase.replace("<i>", mapping.phrase.replace("<i>", items))

    def assemble(forms: Sequence[str]) -> str:
        test = f" if {_at(forms[3], 'x')}" if forms[3] else ""
        claim = _at(forms[1], _at(forms[2], "x"))
        return f"{INDENT}return {forms[0].replace('<g>', f'{claim} for x in xs{test}')}\n"

    name = _name(quantifier.name, condition.name, mapping.name, goal.name)
    sentence = f"Return {what} {goal.phrase}."
    slots = (quantifier, goal, mapping, condition)
    return Specification("predicates", name, sentence, ("xs",), ("numbers",), slots, assemble)


def _conditions(generator: random.Random) -> Iterator[Specification]:
    """Combine two conditions on one number."""
    for connective, first, second in itertools.product(CONNECTIVES, NUMBER_FILTERS, NUMBER_FILTERS):
        if first.name != second.name:
            yield _condition(connective, _bound(first, generator), _bound(second, generator))


def _condition(connective: Operator, first: Operator, second: Operator) -> Specification:
    phrase = connective.phrase.replace("<p>", first.phrase).replace("<q>", second.phrase)

    def assemble(forms: Sequence[str]) -> str:
        left, right = (_at(form, "n") for form in forms[1:])
        left = f"({left})" if " or " in left else left
        joined = forms[0].replace("<c>", left)
        bare = "(<d>)" in joined
        return f"{INDENT}return {joined.replace('<d>', right if bare or ' or ' not in right else f'({right})')}\n"

    name = _name("is", first.name, connective.name, second.name)
    slots = (connective, first, second)
    return Specification("predicates", name, f"Return whether n is {phrase}.", ("n",), ("number",), slots, assemble)


def _choices(generator: random.Random) -> Iterator[Specification]:
    """Choose one of two values by a condition, for a number and for each number of a list."""
    for first, second, condition, over_list in itertools.product(
        [SAME, *NUMBER_MAPS], [SAME, *NUMBER_MAPS], NUMBER_FILTERS, (False, True)
    ):
        if first.name != second.name and generator.random() < 0.35:
            one, other, test = (_bound(slot, generator) for slot in (first, second, condition))
            yield _choice(one, other, test, over_list)


def _choice(first: Operator, second: Operator, condition: Operator, over_list: bool) -> Specification:
    variable = "x" if over_list else "n"
    one, other = first.single.replace("<i>", variable), second.single.replace("<i>", variable)
    choice = f"{one} if {variable} is {condition.phrase}, otherwise {other}"
    sentence = f"Return for each number x in xs {choice}." if over_list else f"Return {choice}."

    def assemble(forms: Sequence[str]) -> str:
        one, other, test = (_at(form, variable) for form in forms)
        chosen = f"{one} if {test} else {other}"
        return f"{INDENT}return [{chosen} for x in xs]\n" if over_list else f"{INDENT}return {chosen}\n"

    name = _name(first.name or "same", "if", condition.name, "each" if over_list else "")
    arguments, kinds = (("xs",), ("numbers",)) if over_list else (("n",), ("number",))
    return Specification("choices", name, sentence, arguments, kinds, (first, second, condition), assemble)


# Each loop has a name, its English, an operator that the loop itself may get wrong, and its lines. In the lines, `<o>`
# is that operator, `<e>` the mapped element, and `<q>` the same in parentheses if it needs them. The filter's `if` goes
# after `<if>` and indents the lines from there to `<end>`.
LOOPS = (
    ("product", "the product of <i>, or 1 if there are none", Operator("product", "", "*=", ("+=",), SHAKY),
     "total = 1\nfor x in xs:<if>\ntotal <o> <e><end>\nreturn total"),
    ("running", "the list of running sums of <i>", Operator("running", "", "total", ("<e>",), MISTAKEN),
     "total = 0\nout = []\nfor x in xs:<if>\ntotal += <e>\nout.append(<o>)<end>\nreturn out"),
    ("record", "the list of running maxima, starting from 0, of <i>", Operator("record", "", "max", ("min",), SHAKY),
     "best = 0\nout = []\nfor x in xs:<if>\nbest = <o>(best, <e>)\nout.append(best)<end>\nreturn out"),
    ("first", "the first of <i>, or None if there are none", Operator("first", "", "xs", ("reversed(xs)",), SHAKY),
     "for x in <o>:<if>\nreturn <e><end>\nreturn None"),
    ("last", "the last of <i>, or None if there are none", Operator("last", "", "reversed(xs)", ("xs",), MISTAKEN),
     "for x in <o>:<if>\nreturn <e><end>\nreturn None"),
    ("alternate", "the alternating sum, starting with plus, of <i>", 
     Operator("alternate", "", "-sign", ("sign",), SHAKY),
     "total, sign = 0, 1\nfor x in xs:<if>\ntotal += sign * <q>\nsign = <o><end>\nreturn total"),
    ("counts", "a dictionary that counts each of <i>", Operator("counts", "", "0", ("1",), MISTAKEN),
     "out = {}\nfor x in xs:<if>\nout[<e>] = out.get(<e>, <o>) + 1<end>\nreturn out"),
)  # fmt: skip
UNTIL = (
    ("sum_before", "the sum of <i>, stopping before the first number <c>",
     Operator("before", "", "break", ("continue",), MISTAKEN),
     "total = 0\nfor x in xs:<if>\n<o><end>\n    total += <e>\nreturn total"),
    ("list_before", "the list of <i>, stopping before the first number <c>",
     Operator("before", "", "break", ("continue",), MISTAKEN),
     "out = []\nfor x in xs:<if>\n<o><end>\n    out.append(<e>)\nreturn out"),
)  # fmt: skip


def _loops(generator: random.Random) -> Iterator[Specification]:
    """Make short bodies of several lines that carry a value from one number to the next."""
    for (name, phrase, operator, lines), mapping, condition in itertools.product(
        LOOPS, [SAME, *NUMBER_MAPS], [ANY, *NUMBER_FILTERS]
    ):
        if name in ("first", "last", "counts") and condition is ANY:
            continue
        mapping, condition = _bound(mapping, generator), _bound(condition, generator)
        items = _items(condition.phrase, LIST, condition.tags, condition.right == "")
        yield _loop(
            name, phrase.replace("<i>", mapping.phrase.replace("<i>", items)), operator, lines, mapping, condition
        )
    for (name, phrase, operator, lines), mapping, condition in itertools.product(
        UNTIL, [SAME, *NUMBER_MAPS], NUMBER_FILTERS
    ):
        mapping, condition = _bound(mapping, generator), _bound(condition, generator)
        items = mapping.phrase.replace("<i>", "the numbers in xs")
        phrase = phrase.replace("<i>", items).replace("<c>", f"that is {condition.phrase}")
        yield _loop(name, phrase, operator, lines, mapping, condition)


def _loop(
    name: str, phrase: str, operator: Operator, lines: str, mapping: Operator, condition: Operator
) -> Specification:
    def assemble(forms: Sequence[str]) -> str:
        operator_form, map_form, condition_form = forms
        element = _at(map_form, "x")
        factor = f"({element})" if any(sign in element for sign in "+-") and "(" not in element else element
        text = lines.replace("<o>", operator_form).replace("<e>", element).replace("<q>", factor)
        test = f"    if {_at(condition_form, 'x')}:" if condition_form else None
        return _indented(text, test)

    slots = (operator, mapping, condition)
    return Specification(
        "loops", _name(name, condition.name, mapping.name), f"Return {phrase}.", ("xs",), ("numbers",), slots, assemble
    )


def _indented(text: str, test: str | None) -> str:
    """Indent the lines of a loop: those after `<if>`, up to `<end>`, by one level, or by two if there is a test."""
    lines, depth = [], 0
    for line in text.split("\n"):
        opens, closes = line.endswith("<if>"), line.endswith("<end>")
        lines.append(INDENT + "    " * depth + line.removesuffix("<if>").removesuffix("<end>"))
        if opens:
            depth = 1
            if test:
                lines.append(INDENT + test)
                depth = 2
        depth = 0 if closes else depth
    return "\n".join(lines) + "\n"
