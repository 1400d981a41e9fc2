from types import SimpleNamespace

import pytest

from helpers.controls import constant_reward, random_reward, seeded
from helpers.rewards import passes_tests

PROMPTS, COMPLETIONS = ["p"] * 2000, ["same"] * 1000 + ["other"] * 1000


def test_the_coin_is_fair_and_blind_to_the_completion():
    rewards = random_reward(prompts=PROMPTS, completions=COMPLETIONS, test=[""] * 2000)
    assert set(rewards) == {0.0, 1.0}
    for half in (rewards[:1000], rewards[1000:]):
        assert abs(sum(half) / 1000 - 0.5) < 0.05  # three standard errors


def test_the_tosses_are_fixed_by_seed_and_step():
    def tosses(**kwargs):
        return random_reward(prompts=PROMPTS, completions=COMPLETIONS, **kwargs)

    step = [SimpleNamespace(global_step=number) for number in range(2)]
    assert tosses(seed=1, trainer_state=step[1]) == tosses(seed=1, trainer_state=step[1])
    different = [tosses(), tosses(seed=1), tosses(seed=1, trainer_state=step[1]), tosses(trainer_state=step[1])]
    for number, first in enumerate(different):
        for second in different[number + 1 :]:
            assert 900 < sum(a == b for a, b in zip(first, second, strict=True)) < 1100


def test_a_constant_reward_is_the_same_for_all():
    assert constant_reward(prompts=PROMPTS[:3], completions=COMPLETIONS[:3], test=["", "", ""]) == [1.0] * 3


def test_a_seed_is_bound_to_the_rewards_that_take_one_and_the_name_stays():
    bound = seeded(random_reward, 5)
    assert bound.__name__ == "random_reward"
    assert (
        bound(PROMPTS, COMPLETIONS)
        == random_reward(PROMPTS, COMPLETIONS, seed=5)
        != random_reward(PROMPTS, COMPLETIONS)
    )
    assert seeded(passes_tests, 5) is passes_tests
    assert seeded(constant_reward, 5) is constant_reward


def test_columns_of_unequal_length_are_refused():
    with pytest.raises(ValueError):
        random_reward(prompts=["a"], completions=["b", "c"])
