from dataclasses import replace

from random_policy import arithmetic_problems

from helpers.overlap import shared_problems
from helpers.problems import load_problems, split_problems

ADD, SUB, *REST = arithmetic_problems()


def test_the_same_name_and_text_are_found_in_another_layout():
    prompt = 'def add(a, b):\n    """\n    RETURN: a + b\n    """\n'
    other = replace(ADD, task_id="other/1", prompt=prompt, canonical_solution="    return sum([a, b])\n")
    assert shared_problems([SUB, ADD], [other, *REST]) == [(ADD, other)]


def test_the_same_solution_is_found_under_another_name_and_text():
    prompt = 'def plus(a, b):\n    """Give the total."""\n'
    solution = "    # the sum\n    return (a + b)\n"
    other = replace(ADD, task_id="other/1", prompt=prompt, canonical_solution=solution, entry_point="plus")
    assert shared_problems([ADD, SUB], [other]) == [(ADD, other)]


def test_a_recursive_solution_is_found_too():
    first = replace(ADD, prompt="def f(n):\n", canonical_solution="    return n and f(n - 1)\n", entry_point="f")
    second = replace(ADD, prompt="def g(n):\n", canonical_solution="    return n and g(n - 1)\n", entry_point="g")
    assert shared_problems([first], [second]) == [(first, second)]


def test_only_the_name_or_only_the_text_is_not_enough():
    other = replace(
        ADD, prompt='def add(a, b):\n    """Return the larger."""\n', canonical_solution="    return max(a, b)\n"
    )
    assert shared_problems([ADD], [other]) == []
    other = replace(
        ADD, entry_point="plus", prompt=ADD.prompt.replace("add", "plus"), canonical_solution="    return b + a\n"
    )
    assert shared_problems([ADD], [other]) == []


def test_the_bundled_split_shares_nothing():
    assert shared_problems(*split_problems(load_problems("tiny"))) == []


def test_a_solution_that_is_no_python_is_compared_by_its_text():
    broken = replace(ADD, canonical_solution="    return (\n")
    assert shared_problems([broken], [broken]) == [(broken, broken)]
