"""Tests of the exercises of notebook 04, a full GRPO run."""

from typing import Any

from helpers.checks import hints, is_number, returns, same, shown


@hints(
    "The formula subtracts from 1 the chance that all picks are wrong.",
    "How many ways are there to pick `k` samples? And how many ways to pick only wrong ones?",
)
def exercise_1(my_pass_at_k: Any) -> None:
    """Write the unbiased estimator of pass@k."""
    cases = (
        (8, 2, 3, 1 - 20 / 56, "Two of eight are correct."),
        (10, 3, 5, 1 - 21 / 252, "Three of ten are correct."),
        (8, 8, 1, 1.0, "All are correct."),
        (8, 0, 8, 0.0, "None is correct."),
        (8, 3, 6, 1.0, "Six picks cannot all be among five wrong ones."),
        (20, 5, 1, 0.25, "One pick out of twenty."),
    )
    for n, c, k, expected, why in cases:
        returns(my_pass_at_k, (n, c, k), expected, why)


@hints(
    "In which two cases does a group have no signal?",
    "How likely is it that all `G` samples are correct? And that all are wrong?",
)
def exercise_2(chance_of_signal: Any) -> None:
    """Give the probability that a group contains a correct and a wrong completion."""
    cases = (
        (0.5, 2, 0.5, "Two coins show different sides half of the time."),
        (1.0, 8, 0.0, "All are correct, so there is nothing to compare."),
        (0.0, 8, 0.0, "All are wrong, so there is nothing to compare."),
        (0.1, 8, 1 - 0.1**8 - 0.9**8, "Subtract both ways in which all eight can be alike."),
        (0.9, 8, 1 - 0.1**8 - 0.9**8, "Subtract both ways in which all eight can be alike."),
        (0.3, 3, 0.63, "Subtract both ways in which all three can be alike."),
    )
    for p, size, expected, why in cases:
        returns(chance_of_signal, (p, size), expected, why)


@hints(
    "`plan` has the number of steps, the prompts in a step and the completions for each prompt.",
    "For the second answer, count all prompts that the run draws. `in_training` problems share them equally.",
)
def exercise_3(completions_graded: Any, draws_per_problem: Any) -> None:
    """Count the completions that a run grades, and how often it draws each problem."""
    from helpers.problems import load_problems, split_problems
    from helpers.profiles import profile_settings

    plan = profile_settings("tiny")
    problems = len(split_problems(load_problems("tiny"))[0])
    prompts = plan.prompts_per_step * plan.max_steps
    for answer in (completions_graded, draws_per_problem):
        assert is_number(answer), f"Both answers are numbers, and {shown(answer)} is not."
    right = same(completions_graded, prompts * plan.num_generations)
    factors = "A run has steps, a step has prompts, and each prompt has completions."
    assert right, f"`completions_graded`: {shown(completions_graded)} is not correct. {factors}"
    turned = same(draws_per_problem, problems / prompts, 0.01)
    assert not turned, "`draws_per_problem`: this is the number of problems for each prompt, not of prompts."
    in_completions = same(draws_per_problem, prompts * plan.num_generations / problems, 0.01)
    assert not in_completions, "`draws_per_problem`: a problem is drawn once for a whole group of completions."
    right = same(draws_per_problem, prompts / problems, 0.01)
    assert right, f"`draws_per_problem`: {shown(draws_per_problem)} is not correct. How many prompts does the run draw?"
