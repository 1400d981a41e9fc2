"""The operators that the bundled problems are made of, each with its correct form and its misconceptions.

A form is source text. `<x>` stands for the current element, `<k>` and `<m>` stand for constants. The first form of an
operator is correct. The others are misconceptions, and each has a share: how often the pre-training corpus writes it.

The misconceptions are systematic on purpose. If wrong answers were only noise, the correct one would stay the most
likely. Greedy decoding would then find it without any training, and reinforcement learning would have nothing to teach.
"""

from dataclasses import dataclass, field

SMALL = tuple({"k": str(k)} for k in range(2, 10))
DIVISORS = tuple({"k": str(k)} for k in range(3, 8))
RANGES = tuple({"k": str(low), "m": str(low + width)} for low in range(1, 6) for width in (3, 4))
LETTERS = tuple({"k": letter} for letter in "aeorst")
LETTER_SETS = tuple({"k": letters} for letters in ("abc", "lmn", "rst", "xyz"))
LENGTHS = tuple({"k": str(k)} for k in range(2, 6))
NO_CONSTANT: tuple[dict[str, str], ...] = ({},)

# How often the corpus writes the correct form: less than half of the time, mostly, or always.
MISTAKEN, SHAKY, KNOWN = 0.43, 0.80, 1.0


@dataclass(frozen=True)
class Operator:
    """One building block: its name in identifiers, its English, and its forms in Python.

    phrase: its English for several elements; `<i>` stands for what it applies to.
    right, wrong: the correct form, and the misconceptions, the most frequent first.
    right_share: how often the corpus writes the correct form, from 0 to 1.
    constants: the values that `<k>` and `<m>` may have.
    single: its English for one element, with `<i>` as in `phrase`.
    numeric: whether a map gives numbers, so that sums and maxima make sense.
    """

    name: str
    phrase: str
    right: str
    wrong: tuple[str, ...] = ()
    right_share: float = KNOWN
    constants: tuple[dict[str, str], ...] = NO_CONSTANT
    single: str = ""
    numeric: bool = True
    tags: frozenset[str] = field(default_factory=frozenset)

    def forms(self) -> list[tuple[str, float]]:
        """Return (source, share) of each form, the correct one first. The shares sum to 1.

        >>> Operator("above", "greater than 3", "x > 3", ("x >= 3",), 0.75).forms()
        [('x > 3', 0.75), ('x >= 3', 0.25)]
        """
        if not self.wrong:
            return [(self.right, 1.0)]
        weights = [1.0 if index == 0 else 0.15 for index in range(len(self.wrong))]
        rest = 1.0 - self.right_share
        return [(self.right, self.right_share)] + [
            (form, rest * weight / sum(weights)) for form, weight in zip(self.wrong, weights, strict=True)
        ]

    def bind(self, constants: dict[str, str]) -> "Operator":
        """Return the same operator with its constants filled in.

        >>> Operator("above", "greater than <k>", "<x> > <k>").bind({"k": "3"}).right
        '<x> > 3'
        """

        def fill(text: str) -> str:
            for name, value in constants.items():
                text = text.replace(f"<{name}>", value)
            return text

        return Operator(
            self.name,
            fill(self.phrase),
            fill(self.right),
            tuple(fill(form) for form in self.wrong),
            self.right_share,
            NO_CONSTANT,
            fill(self.single),
            self.numeric,
            self.tags,
        )


def _tags(text: str) -> frozenset[str]:
    return frozenset(text.split())


ANY = Operator("", "<i>", "")
SAME = Operator("", "<i>", "<x>", single="<i> itself")

# Conditions on a number. `phrase` completes "<i> that are ..."; `single` completes "if n is ...".
# Tag "adjective": the phrase goes before the noun. Tag "signed": the operator makes sense only with negative numbers.
NUMBER_FILTERS = (
    Operator("even", "even", "<x> % 2 == 0", tags=_tags("adjective")),
    Operator("odd", "odd", "<x> % 2 == 1", tags=_tags("adjective")),
    Operator("positive", "positive", "<x> > 0", tags=_tags("adjective signed")),
    Operator("negative", "negative", "<x> < 0", tags=_tags("adjective signed")),
    Operator("multiple", "divisible by <k>", "<x> % <k> == 0", ("<x> // <k> == 0",), SHAKY, DIVISORS),
    Operator("indivisible", "not divisible by <k>", "<x> % <k> != 0", ("<x> % <k> == 0",), MISTAKEN, DIVISORS),
    Operator("above", "greater than <k>", "<x> > <k>", ("<x> >= <k>", "<x> < <k>"), MISTAKEN, SMALL),
    Operator("least", "no smaller than <k>", "<x> >= <k>", ("<x> > <k>",), SHAKY, SMALL),
    Operator("below", "less than <k>", "<x> < <k>", ("<x> <= <k>", "<x> > <k>"), MISTAKEN, SMALL),
    Operator("most", "no greater than <k>", "<x> <= <k>", ("<x> < <k>",), SHAKY, SMALL),
    Operator("between", "between <k> and <m>", "<k> <= <x> <= <m>", ("<k> < <x> < <m>",), MISTAKEN, RANGES),
    Operator("outside", "less than <k> or greater than <m>", "<x> < <k> or <x> > <m>",
             ("<x> < <k> and <x> > <m>",), SHAKY, RANGES),
    Operator("unlike", "not equal to <k>", "<x> != <k>", (), KNOWN, SMALL),
    Operator("ending", "ending in <k>", "abs(<x>) % 10 == <k>", ("<x> % 10 == <k>",), SHAKY, SMALL,
             tags=_tags("signed")),
)  # fmt: skip

NUMBER_MAPS = (
    Operator("squares", "the squares of <i>", "<x> * <x>", ("2 * <x>",), MISTAKEN, single="the square of <i>"),
    Operator("cubes", "the cubes of <i>", "<x> ** 3", ("3 * <x>",), SHAKY, single="the cube of <i>"),
    Operator("scaled", "<i>, each multiplied by <k>", "<k> * <x>", (), KNOWN, SMALL, single="<i> multiplied by <k>"),
    Operator("raised", "<i>, each increased by <k>", "<x> + <k>", (), KNOWN, SMALL, single="<i> increased by <k>"),
    Operator("lowered", "<i>, each decreased by <k>", "<x> - <k>", ("<k> - <x>",), SHAKY, SMALL,
             single="<i> decreased by <k>"),
    Operator("from", "<i>, each subtracted from <k>", "<k> - <x>", ("<x> - <k>",), MISTAKEN, SMALL,
             single="<i> subtracted from <k>"),
    Operator("negated", "the negatives of <i>", "-<x>", single="the negative of <i>"),
    Operator("absolute", "the absolute values of <i>", "abs(<x>)", ("-<x>",), SHAKY,
             single="the absolute value of <i>", tags=_tags("signed")),
    Operator("halves", "the halves, rounded down, of <i>", "<x> // 2", ("<x> / 2",), MISTAKEN,
             single="the half, rounded down, of <i>"),
    Operator("remainders", "the remainders modulo <k> of <i>", "<x> % <k>", ("<x> // <k>",), MISTAKEN, DIVISORS,
             single="the remainder modulo <k> of <i>"),
    Operator("capped", "<i>, each capped at <k>", "min(<x>, <k>)", ("max(<x>, <k>)",), SHAKY, SMALL,
             single="<i> capped at <k>"),
    Operator("floored", "<i>, each raised to <k> where below", "max(<x>, <k>)", ("min(<x>, <k>)",), SHAKY, SMALL,
             single="<i> raised to <k> where below"),
)  # fmt: skip

CHARACTER_FILTERS = (
    Operator("vowels", "vowels", '<x>.lower() in "aeiou"', ('<x> in "aeiou"',), MISTAKEN),
    Operator("consonants", "consonants", '<x>.isalpha() and <x>.lower() not in "aeiou"',
             ('<x>.lower() not in "aeiou"',), MISTAKEN),
    Operator("digits", "digits", "<x>.isdigit()"),
    Operator("letters", "letters", "<x>.isalpha()", ("<x>.isalnum()",), SHAKY),
    Operator("capitals", "capital letters", "<x>.isupper()"),
    Operator("lowercase", "small letters", "<x>.islower()"),
    Operator("nonspaces", "characters other than spaces", '<x> != " "'),
    Operator("nondigits", "characters other than digits", "not <x>.isdigit()", ("<x>.isalpha()",), MISTAKEN),
    Operator("among", "characters found in '<k>'", '<x> in "<k>"', (), KNOWN, LETTER_SETS),
    Operator("missing", "characters not found in '<k>'", '<x> not in "<k>"', ('<x> in "<k>"',), SHAKY, LETTER_SETS),
)  # fmt: skip

CHARACTER_MAPS = (
    Operator("upper", "<i>, each in upper case", "<x>.upper()", numeric=False),
    Operator("lower", "<i>, each in lower case", "<x>.lower()", numeric=False),
    Operator("swapped", "<i>, each with its case swapped", "<x>.swapcase()", ("<x>.upper()", "<x>.lower()"),
             MISTAKEN, numeric=False),
    Operator("doubled", "<i>, each written twice", "<x> * 2", numeric=False),
    Operator("dashed", "<i>, each followed by a dash", '<x> + "-"', ('"-" + <x>',), SHAKY, numeric=False),
    Operator("codes", "the character codes of <i>", "ord(<x>)"),
)  # fmt: skip

WORD_FILTERS = (
    Operator("longer", "words longer than <k>", "len(<x>) > <k>", ("len(<x>) >= <k>",), MISTAKEN, LENGTHS),
    Operator("shorter", "words shorter than <k>", "len(<x>) < <k>", ("len(<x>) <= <k>",), SHAKY,
             tuple({"k": str(k)} for k in range(3, 7))),
    Operator("sized", "words of length <k>", "len(<x>) == <k>", (), KNOWN, LENGTHS),
    Operator("evenlength", "words of even length", "len(<x>) % 2 == 0"),
    Operator("vowelfirst", "words that start with a small vowel", '<x>[0] in "aeiou"', ('<x>[-1] in "aeiou"',), SHAKY),
    Operator("ending", "words that end in '<k>'", '<x>.endswith("<k>")', ('<x>.startswith("<k>")',), MISTAKEN, LETTERS),
    Operator("starting", "words that start with '<k>'", '<x>.startswith("<k>")', (), KNOWN, LETTERS),
    Operator("having", "words that contain '<k>'", '"<k>" in <x>', (), KNOWN, LETTERS),
    Operator("lacking", "words without '<k>'", '"<k>" not in <x>', ('"<k>" in <x>',), MISTAKEN, LETTERS),
    Operator("palindromes", "words that read the same backwards", "<x> == <x>[::-1]"),
    Operator("capitalised", "words that start with a capital", "<x>[0].isupper()", ("<x>.isupper()",), SHAKY),
)  # fmt: skip

WORD_MAPS = (
    Operator("upper", "<i>, each in upper case", "<x>.upper()", numeric=False),
    Operator("reversed", "<i>, each reversed", "<x>[::-1]", numeric=False),
    Operator("capitalised", "<i>, each capitalised", "<x>.capitalize()", ("<x>.upper()",), SHAKY, numeric=False),
    Operator("initials", "the first letters of <i>", "<x>[0]", numeric=False),
    Operator("finals", "the last letters of <i>", "<x>[-1]", ("<x>[0]",), MISTAKEN, numeric=False),
    Operator("beheaded", "<i>, each without its first letter", "<x>[1:]", ("<x>[:-1]",), MISTAKEN, numeric=False),
    Operator("clipped", "<i>, each without its last letter", "<x>[:-1]", ("<x>[1:]",), SHAKY, numeric=False),
    Operator("lengths", "the lengths of <i>", "len(<x>)"),
)  # fmt: skip

PAIR_FILTERS = (
    Operator("rising", "pairs whose first number is smaller", "a < b", ("a <= b",), MISTAKEN),
    Operator("falling", "pairs whose first number is larger", "a > b", ("a >= b",), SHAKY),
    Operator("equal", "pairs of equal numbers", "a == b"),
    Operator("different", "pairs of different numbers", "a != b"),
    Operator("evensum", "pairs with an even sum", "(a + b) % 2 == 0", ("a + b % 2 == 0",), MISTAKEN),
    Operator("firstabove", "pairs whose first number is greater than <k>", "a > <k>", ("a >= <k>",), MISTAKEN, SMALL),
    Operator("secondbelow", "pairs whose second number is less than <k>", "b < <k>", ("b <= <k>",), SHAKY, SMALL),
    Operator("bothpositive", "pairs of positive numbers", "a > 0 and b > 0", ("a > 0 or b > 0",), MISTAKEN),
    Operator("somepositive", "pairs with a positive number", "a > 0 or b > 0", ("a > 0 and b > 0",), SHAKY),
)  # fmt: skip

PAIR_MAPS = (
    Operator("firsts", "the first numbers of <i>", "a"),
    Operator("seconds", "the second numbers of <i>", "b"),
    Operator("sums", "the sums of <i>", "a + b"),
    Operator("products", "the products of <i>", "a * b"),
    Operator("drops", "the differences, first minus second, of <i>", "a - b"),
    Operator("rises", "the differences, second minus first, of <i>", "b - a", ("a - b",), MISTAKEN),
    Operator("distances", "the distances between the numbers of <i>", "abs(a - b)", ("a - b",), MISTAKEN),
    Operator("larger", "the larger numbers of <i>", "max(a, b)"),
    Operator("smaller", "the smaller numbers of <i>", "min(a, b)", ("max(a, b)",), SHAKY),
)  # fmt: skip

ROW_FILTERS = (
    Operator("longer", "rows longer than <k>", "len(row) > <k>", ("len(row) >= <k>",), MISTAKEN,
             tuple({"k": str(k)} for k in range(1, 4))),
    Operator("sumabove", "rows with a sum greater than <k>", "sum(row) > <k>", ("sum(row) >= <k>",), MISTAKEN, SMALL),
    Operator("evensum", "rows with an even sum", "sum(row) % 2 == 0"),
    Operator("evenlength", "rows of even length", "len(row) % 2 == 0"),
    Operator("startabove", "rows that start with more than <k>", "row[0] > <k>", ("row[0] >= <k>",), SHAKY, SMALL),
    Operator("endbelow", "rows that end with less than <k>", "row[-1] < <k>", ("row[0] < <k>",), MISTAKEN, SMALL),
    Operator("having", "rows that contain <k>", "<k> in row", (), KNOWN, SMALL),
    Operator("lacking", "rows without <k>", "<k> not in row", ("<k> in row",), MISTAKEN, SMALL),
)  # fmt: skip

ROW_MAPS = (
    Operator("sums", "the sums of <i>", "sum(row)"),
    Operator("maxima", "the largest numbers of <i>", "max(row)"),
    Operator("minima", "the smallest numbers of <i>", "min(row)", ("max(row)",), SHAKY),
    Operator("lengths", "the lengths of <i>", "len(row)"),
    Operator("heads", "the first numbers of <i>", "row[0]"),
    Operator("tails", "the last numbers of <i>", "row[-1]", ("row[0]",), MISTAKEN),
    Operator("spans", "the differences, largest minus smallest, of <i>", "max(row) - min(row)",
             ("row[-1] - row[0]",), MISTAKEN),
)  # fmt: skip

# Aggregates. `<g>` stands for "expression for element in source if condition", `<s>` for "source if condition", `<t>`
# for the source alone, and `<v>` for the element. Tag "bare": only without a map, because a count ignores the elements.
NUMBER_AGGREGATES = (
    Operator("sum", "the sum of <i>", "sum(<g>)"),
    Operator("count", "the number of <i>", "sum(1 for <v> in <s>)", ("sum(<g>)",), MISTAKEN, tags=_tags("bare")),
    Operator("max", "the largest of <i>, or 0 if there are none", "max((<g>), default=0)", ("max(<g>)",), MISTAKEN),
    Operator("min", "the smallest of <i>, or 0 if there are none", "min((<g>), default=0)", ("max((<g>), default=0)",),
             SHAKY),
    Operator("list", "the list of <i>", "[<g>]"),
    Operator("sort", "the list of <i>, in ascending order", "sorted(<g>)"),
    Operator("descend", "the list of <i>, in descending order", "sorted((<g>), reverse=True)", ("sorted(<g>)",),
             MISTAKEN),
    Operator("backward", "the list of <i>, in reverse order", "[<g>][::-1]", ("sorted((<g>), reverse=True)", "[<g>]"),
             SHAKY),
    Operator("distinct", "the number of distinct values among <i>", "len({<g>})", ("len([<g>])",), MISTAKEN),
    Operator("unique", "the list of <i>, in ascending order without repeats", "sorted({<g>})", ("sorted(<g>)",), SHAKY),
)  # fmt: skip

TEXT_AGGREGATES = (
    Operator("join", "the string of <i>", '"".join(<g>)'),
    Operator("dashes", "the string of <i>, separated by dashes", '"-".join(<g>)', ('"".join(<g>)',), SHAKY),
    Operator("joinback", "the string of <i>, in reverse order", '"".join([<g>][::-1])', ('"".join(<g>)',), MISTAKEN),
    Operator("joinsorted", "the string of <i>, in alphabetical order", '"".join(sorted(<g>))'),
    Operator("list", "the list of <i>", "[<g>]"),
    Operator("sort", "the list of <i>, in alphabetical order", "sorted(<g>)"),
    Operator("backward", "the list of <i>, in reverse order", "[<g>][::-1]", ("[<g>]",), SHAKY),
    Operator("count", "the number of <i>", "sum(1 for <v> in <s>)", ("len(<t>)",), SHAKY, tags=_tags("bare")),
    Operator("distinct", "the number of distinct values among <i>", "len({<g>})", ("len([<g>])",), MISTAKEN),
)  # fmt: skip

QUANTIFIERS = (
    Operator("all", "whether all of <i> are", "all(<g>)"),
    Operator("any", "whether any of <i> are", "any(<g>)"),
    Operator("none", "whether none of <i> are", "not any(<g>)", ("not all(<g>)",), MISTAKEN),
)

CONNECTIVES = (
    Operator("and", "both <p> and <q>", "<c> and <d>", ("<c> or <d>",), SHAKY),
    Operator("or", "<p> or else <q>", "<c> or <d>", ("<c> and <d>",), SHAKY),
    Operator("not", "<p> but not <q>", "<c> and not (<d>)", ("<c> or not (<d>)",), MISTAKEN),
)
