import math
import statistics

import pytest
import torch

from helpers.advantages import group_advantages

# From arXiv 2402.03300 section 4.1.2 with the unbiased deviation: (rewards, advantage of a right one, of a wrong one).
KNOWN = [
    ([1, 0], 0.7071, -0.7071),
    ([1, 0, 0, 0], 1.5, -0.5),
    ([1, *[0] * 7], 2.4749, -0.3536),
    ([1, 1, 1, 1, 0, 0, 0, 0], 0.9354, -0.9354),
    ([*[1] * 7, 0], 0.3536, -2.4749),
]


@pytest.mark.parametrize(("rewards", "right", "wrong"), KNOWN)
def test_known_values(rewards, right, wrong):
    found = group_advantages(rewards, len(rewards))
    assert found.dtype == torch.float32 and found.shape == (len(rewards),)
    # 1e-4 added to a deviation of 0.35 or more lowers them by less than a thousandth.
    assert found.tolist() == pytest.approx([right if reward else wrong for reward in rewards], rel=1e-3)
    assert abs(found[0]) < abs(right if rewards[0] else wrong)


def test_the_three_scales_against_the_standard_library():
    rewards = [0.1, 0.9, 0.4, 1.0, 0.2, 0.2]
    first, second = rewards[:3], rewards[3:]
    centred = [r - statistics.mean(group) for group in (first, second) for r in group]
    per_group = [statistics.stdev(group) + 1e-4 for group in (first, second) for _ in group]
    whole = statistics.stdev(rewards) + 1e-4
    expected = {
        "none": centred,
        "group": [value / spread for value, spread in zip(centred, per_group, strict=True)],
        "batch": [value / whole for value in centred],
    }
    for scale, values in expected.items():
        assert group_advantages(rewards, 3, scale).tolist() == pytest.approx(values, abs=1e-6), scale


def test_every_group_sums_to_zero_and_groups_do_not_mix():
    rewards = torch.rand(40)
    for scale in ("group", "batch", "none"):
        assert group_advantages(rewards, 8, scale).view(-1, 8).sum(1).abs().max() < 1e-5
    for scale in ("group", "none"):
        assert torch.equal(group_advantages(rewards, 8, scale)[8:16], group_advantages(rewards[8:16], 8, scale))


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("reward", [0.0, 1.0])
def test_equal_rewards_have_no_advantage(scale, reward):
    assert group_advantages([reward] * 8, 4, scale).tolist() == [0.0] * 8


def test_what_could_not_be_graded_is_left_out():
    root_third = math.sqrt(1 / 3)
    expected = [0, root_third, -2 * root_third, root_third]
    for missing in (None, math.nan):
        assert group_advantages([missing, 1, 0, 1], 4).tolist() == pytest.approx(expected, abs=3e-4)
        assert group_advantages([missing, 1, 0, 1], 4, "none").tolist() == pytest.approx([0, 1 / 3, -2 / 3, 1 / 3])
    ungraded = [None, None, None, 1, 1, 0, 0, None]
    for scale in ("group", "batch", "none"):
        found = group_advantages(ungraded, 4, scale)
        assert found[:4].tolist() == [0] * 4 and found.isfinite().all()
    assert group_advantages(ungraded, 4, "batch")[4] == pytest.approx(
        (1 - 1 / 3) / (statistics.stdev([1, 1, 0, 0]) + 1e-4)
    )
    assert group_advantages([None] * 4, 4).tolist() == [0] * 4


def test_tensors_of_any_number_type_are_taken_and_left_as_they_were():
    rewards = torch.tensor([1, 0, 0, 1])
    assert torch.equal(group_advantages(rewards, 2), group_advantages([1.0, 0.0, 0.0, 1.0], 2))
    assert rewards.tolist() == [1, 0, 0, 1]
    assert group_advantages(torch.tensor([1, 0], dtype=torch.bool), 2).tolist() == pytest.approx(
        [0.707, -0.707], abs=1e-3
    )


@pytest.mark.parametrize(
    ("rewards", "size", "scale", "reason"),
    [
        ([1, 0, 1], 2, "group", r"a multiple of num_generations \(2\); got shape \(3,\)"),
        ([], 2, "group", r"got shape \(0,\)"),
        ([[1, 0], [0, 1]], 2, "group", r"must be 1-D.*got shape \(2, 2\)"),
        ([1, 0], 1, "group", "at least 2, not 1"),
        ([1, 0], 0, "group", "at least 2, not 0"),
        ([1, math.inf], 2, "none", "infinite"),
        ([1, 0], 2, "std", "scale_rewards must be .* not 'std'"),
    ],
)
def test_what_cannot_be_compared_is_refused(rewards, size, scale, reason):
    with pytest.raises(ValueError, match=reason):
        group_advantages(rewards, size, scale)
