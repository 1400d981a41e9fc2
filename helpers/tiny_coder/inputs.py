"""Random arguments for the bundled problems.

Each argument has a *kind*, such as "numbers" (a list of integers) or "text" (a string).
"""

import random
from collections.abc import Callable, Sequence

_WORDS = (
    "a at as to net rot sea Ann noon level radar Eve otto also area orange Apple east store rest stars lesson "
    "Rome era arena tree toast roast Oslo essay strata tomato letter banana RATE OS NATO a-b x21 lmn try sky"
)
VOCABULARY = _WORDS.split()
CHARACTERS = "aaeeiioubclmnrstxyzAEIOUBLRSTXYZ0123459  -!"

Arguments = tuple[object, ...]


def random_arguments(kinds: Sequence[str], generator: random.Random) -> Arguments:
    """Draw one random argument for each kind. Raises KeyError for an unknown kind.

    >>> random_arguments(("numbers", "limit"), random.Random(0))
    ([-20, 8, 40, 37, 26, 13], 22)
    """
    return tuple(_MAKERS[kind](generator) for kind in kinds)


def edge_arguments(kinds: Sequence[str]) -> list[Arguments]:
    """Return arguments at the edges: empty, single, repeated, sorted and unsorted. Raises KeyError for an unknown kind.

    >>> edge_arguments(("numbers",))[:3]
    [([],), ([0],), ([3],)]
    """
    columns = [_EDGES[kind] for kind in kinds]
    if len(columns) == 1:
        return [(value,) for value in columns[0]]
    return [(first, second) for first in columns[0] for second in columns[1][:4]]


def example_arguments(kinds: Sequence[str], generator: random.Random) -> Arguments:
    """Draw one short argument for each kind, for the example in a docstring. Raises KeyError for an unknown kind."""
    return tuple(_EXAMPLES[kind](generator) for kind in kinds)


def _numbers(generator: random.Random) -> list[int]:
    length = generator.choice((0, 1, 2, 3, 4, 5, 6, 7, 8))
    low, high = generator.choice(((-9, 15), (-9, 15), (0, 10), (-25, 40)))
    return [generator.randint(low, high) for _ in range(length)]


def _count(generator: random.Random) -> int:
    return generator.randint(0, generator.choice((12, 40, 40, 400, 9999)))


def _limit(generator: random.Random) -> int:
    return generator.randint(0, generator.choice((12, 40, 60)))


def _number(generator: random.Random) -> int:
    low, high = generator.choice(((-12, 15), (-12, 15), (-60, 60), (0, 200)))
    return generator.randint(low, high)


def _text(generator: random.Random) -> str:
    return "".join(generator.choice(CHARACTERS) for _ in range(generator.randint(0, 12)))


def _sentence(generator: random.Random) -> str:
    return " ".join(generator.choice(VOCABULARY) for _ in range(generator.randint(0, 7)))


def _pairs(generator: random.Random) -> list[tuple[int, int]]:
    pairs = [(generator.randint(-6, 12), generator.randint(-6, 12)) for _ in range(generator.randint(0, 6))]
    return [(a, a) if generator.random() < 0.2 else (a, b) for a, b in pairs]


def _dictionary(generator: random.Random) -> dict[str, int]:
    keys = generator.sample(VOCABULARY, generator.randint(0, 6))
    return {key: generator.randint(-9, 15) for key in keys}


def _rows(generator: random.Random) -> list[list[int]]:
    return [[generator.randint(-4, 11) for _ in range(generator.randint(1, 5))] for _ in range(generator.randint(0, 5))]


_MAKERS: dict[str, Callable[[random.Random], object]] = {
    "numbers": _numbers,
    "count": _count,
    "limit": _limit,
    "number": _number,
    "text": _text,
    "sentence": _sentence,
    "pairs": _pairs,
    "dictionary": _dictionary,
    "rows": _rows,
}

_EDGES: dict[str, list] = {
    "numbers": [
        [], [0], [3], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10], [9, 8, 7, 6, 5, 4, 3, 2, 1, 0], [4, 4, 7, 7, 2, 2],
        [-1, -2, -3, -4, -5, -6, -7, -8, -9], [12, -13, 14, -15, 26, -17, 38, 19], [-12, -23, 34, 45, -56, 67],
    ],
    "count": [0, 1, 2, 6, 7, 12, 30, 36, 105, 1234567890, 97531, 8642, 99],
    "limit": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 24, 30, 36, 42, 60],
    "number": [*range(-12, 16), 24, 30, 35, 42, -14, -15, -21, 105, 66, 77],
    "text": ["", " ", "a", "A", "7", "abcXYZ", "lmn rst xyz abc", "AEIOU aeiou", "a1b2-c3!", "zyx zyx", "Aa Bb 99"],
    "sentence": ["", "a", "noon level", "Rome RATE Ann", "store stars rest also", "a-b x21", "banana tree tree sea"],
    "pairs": [[], [(0, 0)], [(3, 3), (2, 5), (5, 2)], [(-1, 4), (4, -1), (-2, -2)], [(7, 7), (8, 1), (1, 8), (6, 4)]],
    "dictionary": [{}, {"a": 0}, {"noon": 3, "Rome": -4, "stars": 8}, {"tree": 5, "sea": 5, "RATE": 6, "letter": 7}],
    "rows": [[], [[0]], [[1, 2, 3], [3, 2, 1], [5]], [[4, 4], [-3, 9, 2, 8], [6, 0, 6]], [[7, 7, 7], [2], [10, -1]]],
}  # fmt: skip

_EXAMPLES: dict[str, Callable[[random.Random], object]] = {
    "numbers": lambda generator: [generator.randint(-5, 12) for _ in range(generator.randint(3, 4))],
    "count": lambda generator: generator.randint(5, 99),
    "limit": lambda generator: generator.randint(4, 12),
    "number": lambda generator: generator.randint(-9, 20),
    "text": lambda generator: "".join(generator.choice(CHARACTERS) for _ in range(generator.randint(4, 7))),
    "sentence": lambda generator: " ".join(generator.sample(VOCABULARY, 3)),
    "pairs": lambda generator: [(generator.randint(-2, 9), generator.randint(-2, 9)) for _ in range(2)],
    "dictionary": lambda generator: {key: generator.randint(-3, 12) for key in generator.sample(VOCABULARY, 2)},
    "rows": lambda generator: [[generator.randint(0, 9) for _ in range(2)] for _ in range(2)],
}
