"""Tests of the exercises of notebook 03, group-relative advantages."""

from typing import Any

from helpers.checks import hints, returns, same, shown

CLIPPED = {(1.3, 1.0): 0, (1.3, -1.0): 1, (0.7, 1.0): -1, (0.7, -1.0): 0, (1.1, 2.0): -1}
"""Ratio and advantage of the five tokens of exercise 3, and the sign of each gradient."""


@hints(
    "Cut the rewards into groups of `G` first, then treat each group separately.",
    "Before you take the mean of a group, leave out what was not graded. 0.0 was graded.",
    "A reward that is `None` has an advantage of 0. It does not change the mean.",
)
def exercise_1(advantages_with_gaps: Any) -> None:
    """Compute reward minus group mean for a batch in which a reward may be None."""
    third = 1 / 3
    cases = (
        ([1.0, 0.0], 2, [0.5, -0.5], "No reward is missing: each one minus the mean."),
        ([None, 1.0, 0.0, 1.0], 4, [0.0, third, -2 * third, third], "What is the mean of the graded ones?"),
        ([4.0, 1.0, None, 1.0, None, -3.0], 3, [1.5, -1.5, 0.0, 2.0, 0.0, -2.0], "Every group has its own mean."),
        ([None, 0.0, 0.5, None], 2, [0.0] * 4, "One graded completion alone is its own mean."),
    )
    for rewards, size, expected, why in cases:
        returns(advantages_with_gaps, (rewards, size), expected, why)


@hints(
    "For the values 2, 4 and a padded 0, what does `mean` divide by, and what should it divide by?",
    "How many values count? The mask knows, whatever the values are.",
)
def exercise_2(masked_mean: Any) -> None:
    """Average the values whose mask is 1."""
    import torch

    cases = (
        ([2.0, 4.0, 0.0], [1, 1, 0], 3.0, "Two values count."),
        ([2.0, 4.0, 9.0], [1, 1, 0], 3.0, "A value in the padding must not matter."),
        ([9.0, 5.0, 0.0, 9.0, 1.0], [0, 1, 1, 0, 1], 2.0, "Three values count, and one of them is 0."),
        ([7.0, -2.0], [0, 1], -2.0, "One value counts."),
        ([1.0, 2.0, 3.0, 6.0], [1, 1, 1, 1], 3.0, "All values count."),
        ([[1.0, 2.0, 8.0], [6.0, 8.0, 8.0]], [[1, 1, 0], [1, 0, 0]], 3.0, "Three values count, in two rows."),
    )
    for values, mask, expected, why in cases:
        returns(masked_mean, (torch.tensor(values), torch.tensor(mask, dtype=torch.float32)), expected, why)


@hints(
    "Is the ratio outside 0.8 to 1.2? If so, does the minimum take the clipped side or the other one?",
    "A clipped loss does not change with the log-probability.",
    "If nothing is clipped, the loss is minus the advantage times the ratio, and the ratio rises with the "
    "log-probability.",
)
def exercise_3(signs: Any) -> None:
    """Give the sign of the gradient for five tokens."""
    signs = signs.tolist() if hasattr(signs, "tolist") else signs
    is_list = isinstance(signs, list | tuple) and len(signs) == len(CLIPPED)
    assert is_list, "Give a list with one sign for each of the five pairs."
    turned = [-sign for sign in CLIPPED.values()]
    assert not same(signs, turned), "These are the directions in which the token is pushed. Give the gradient's signs."
    for (pair, expected), sign in zip(CLIPPED.items(), signs, strict=True):
        assert same(sign, expected), f"For the pair `{pair}`, {shown(sign)} is not the sign. Is this token clipped?"


@hints(
    "Sum the losses of all tokens that count. Only the divisor is special.",
    "The divisor does not depend on how long the completions of this batch are.",
    "It is the number of tokens that the batch would have if every completion were as long as allowed.",
)
def exercise_4(dr_grpo_mean: Any) -> None:
    """Average token losses with Dr. GRPO's constant divisor."""
    import torch

    losses = torch.tensor([[-1.0, -1.0, 5.0, 5.0], [1.0, 1.0, 1.0, 1.0], [3.0, 5.0, 5.0, 5.0]])
    mask = torch.tensor([[1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 0.0, 0.0]])
    cases = (
        (2, 10, 0.1, "Two completions, which could have 10 tokens each."),
        (2, 80, 0.0125, "The same two completions, which could have 80 tokens each."),
        (1, 10, -0.2, "One completion, which could have 10 tokens."),
        (3, 5, 1 / 3, "Three completions, which could have 5 tokens each."),
    )
    for rows, length, expected, why in cases:
        returns(dr_grpo_mean, (losses[:rows], mask[:rows], length), expected, why)


@hints(
    "Take one completion of the group. What is the mean of the others?",
    "The others have the sum of all minus the one. How many others are there?",
)
def exercise_5(leave_one_out: Any) -> None:
    """Compute RLOO's advantages: each reward minus the mean of the others."""
    cases = (
        ([1.0, 0.0], [1.0, -1.0], "There is one other in each case."),
        ([1.0, 0.0, 0.0, 0.0], [1.0, -1 / 3, -1 / 3, -1 / 3], "For the second, the others are 1, 0 and 0."),
        ([1.0, 1.0, 1.0], [0.0, 0.0, 0.0], "All are equal, so none is better than the others."),
        ([2.0, 0.5, -1.0], [2.25, 0.0, -2.25], "Rewards need not be 0 or 1."),
        ([3.0, 3.0, 0.0, 2.0, 2.0], [1.25, 1.25, -2.5, 0.0, 0.0], "Rewards can be equal and still count twice."),
    )
    for rewards, expected, why in cases:
        returns(leave_one_out, (rewards,), expected, why)
