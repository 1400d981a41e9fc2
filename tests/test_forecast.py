from dataclasses import replace

import pytest
import torch
from random_policy import arithmetic_problems
from small_run import small_settings

from helpers.forecast import Forecast, measure_batch
from helpers.memory import GIB
from helpers.policy import load_policy
from helpers.profiles import profile_settings

TINY = profile_settings("tiny")


def test_a_run_takes_its_steps_and_its_evaluations():
    # 100 problems with 9 completions of 0.1 s are 90 s; 68 steps of 64 completions of 0.3 s are 1,306 s.
    text = Forecast(sampling=0.1, learning=0.2, truncated=0.0).text(TINY, 100, 3 * GIB)
    expected = "It will take about 23 min: evaluating 2 min, 68 steps of 19 s; memory up to 3.0 GiB, besides Python and"
    assert text == f"{expected} its libraries."


def test_truncated_completions_go_on_under_a_higher_limit():
    longer = replace(TINY, eval_max_completion_length=2 * TINY.max_completion_length)
    text = Forecast(sampling=1.0, learning=0.0, truncated=0.5).text(longer, 10, GIB)
    assert "evaluating 2 min" in text  # 90 completions of 1.5 s
    assert "truncated" not in text


def test_a_run_whose_completions_do_not_fit_is_told_which_option_to_change():
    text = Forecast(sampling=0.1, learning=0.1, truncated=0.6).text(TINY, 10, GIB)
    assert "60% of the first completions were truncated at 56 tokens" in text and "--max-completion-length" in text


@pytest.mark.parametrize(("length", "truncated"), [(1, True), (8, False)])
def test_one_batch_is_timed_and_changes_nothing(tmp_path, length, truncated):
    settings = replace(small_settings(tmp_path), max_completion_length=length)
    model, tokenizer = load_policy(settings.model)
    before = torch.cat([parameter.detach().flatten().clone() for parameter in model.parameters()])
    forecast = measure_batch(model, tokenizer, arithmetic_problems(), settings)
    assert forecast.sampling > 0 and forecast.learning > 0
    assert (forecast.truncated > 0.5) == truncated or length == 8
    after = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    assert torch.equal(before, after)
    assert all(parameter.grad is None for parameter in model.parameters())
