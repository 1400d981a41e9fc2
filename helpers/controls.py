"""Rewards that know nothing of the tests: the controls for every claim that training taught something.

Train with one of them on the same problems, model and settings. What it changes, the tests did not teach.
"""

import hashlib
import inspect
from collections.abc import Callable, Sequence
from functools import partial, update_wrapper

Reward = Callable[..., list[float | None]]


def random_reward(
    prompts: Sequence, completions: Sequence, *, seed: int = 0, trainer_state: object = None, **kwargs: object
) -> list[float | None]:
    """Reward 1.0 or 0.0 by the toss of a coin, whatever the completion is (arXiv 2506.10947 trains so).

    The tosses depend on the seed, the step, the place in the batch, the prompt and the completion, and on no random
    stream: a run that is resumed gets the same rewards as one that was never interrupted.

    >>> random_reward(["a"] * 4, ["b"] * 4, seed=1)
    [0.0, 1.0, 0.0, 1.0]
    """
    step = getattr(trainer_state, "global_step", 0)
    cases = [repr((seed, step, place, *pair)) for place, pair in enumerate(zip(prompts, completions, strict=True))]
    return [float(hashlib.sha256(case.encode()).digest()[0] % 2) for case in cases]


def constant_reward(prompts: Sequence, completions: Sequence, **kwargs: object) -> list[float | None]:
    """Reward 1.0 for every completion: every advantage is 0, and nothing can be learned.

    >>> constant_reward(["a", "a"], ["b", "c"])
    [1.0, 1.0]
    """
    return [1.0] * len(completions)


def seeded(reward: Reward, seed: int) -> Reward:
    """Bind `seed` to a reward function that takes one, keeping its name; return any other function as it is."""
    if "seed" not in inspect.signature(reward).parameters:
        return reward
    return update_wrapper(partial(reward, seed=seed), reward)
