import pytest
from random_policy import arithmetic_problems

from helpers.runtime import CourseError
from helpers.solvable import keep_solvable

PROBLEMS = arithmetic_problems()
GIVEN = {"model": "m", "seed": 0}


class Counter:
    """Counts as an untrained model might have them, and remembers how often it was asked."""

    def __init__(self, counts=(0, 1, 7, 8, 0, 4)):
        self.counts, self.calls = counts, 0

    def __call__(self, problems):
        self.calls += 1
        return self.counts[: len(problems)]


def test_problems_solved_sometimes_are_kept_and_the_numbers_said(tmp_path, capsys):
    kept = keep_solvable(PROBLEMS, 8, Counter(), tmp_path / "solved.json", GIVEN)
    assert kept == [PROBLEMS[1], PROBLEMS[2], PROBLEMS[5]]
    said = capsys.readouterr().out
    assert "Of 6 training problems" in said and "2 in none of 8" in said and "1 in all; the 3 others" in said


def test_the_counting_is_done_once_and_anew_for_other_settings(tmp_path):
    count, path = Counter(), tmp_path / "solved.json"
    first = keep_solvable(PROBLEMS, 8, count, path, GIVEN)
    assert keep_solvable(PROBLEMS, 8, count, path, GIVEN) == first
    assert keep_solvable(PROBLEMS[:3], 8, count, path, GIVEN) == first[:2]
    assert count.calls == 1
    keep_solvable(PROBLEMS, 8, count, path, GIVEN | {"seed": 1})
    assert count.calls == 2
    keep_solvable(PROBLEMS, 9, count, path, GIVEN | {"seed": 1})
    assert count.calls == 3


def test_new_problems_are_counted(tmp_path):
    count, path = Counter(), tmp_path / "solved.json"
    keep_solvable(PROBLEMS[:3], 8, count, path, GIVEN)
    keep_solvable(PROBLEMS, 8, count, path, GIVEN)
    assert count.calls == 2


def test_no_problem_left_is_one_sentence_with_the_way_out(tmp_path):
    with pytest.raises(CourseError, match="no problem is left to train on.*--keep-solvable"):
        keep_solvable(PROBLEMS, 8, Counter([0, 8, 0, 8, 0, 8]), tmp_path / "solved.json", GIVEN)
