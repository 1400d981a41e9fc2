"""Each recorded experiment, on a random model and two steps: its runs differ in what they say they differ in."""

import importlib
import itertools
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from small_run import small_settings

from helpers.policy import load_policy
from helpers.problems import Problem, load_problems, split_problems
from helpers.profiles import profile_settings
from tools.record import (
    EXPERIMENTS,
    baselines,
    clinic,
    loop,
    one_problem,
    pass_at_k,
    reuse,
    weak_verifiers,
    what_matters,
)

SMALL = ("baselines", "dynamic_sampling", "reuse", "verifier_quality", "pass_at_k")


@pytest.fixture
def settings(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_OUTPUT", str(tmp_path / "build"))
    return replace(small_settings(tmp_path), max_steps=2, eval_samples=2)


@pytest.mark.parametrize("name", SMALL)
def test_an_experiment_gives_rows_for_every_run(name, settings, monkeypatch):
    # These problems have one assert each.
    monkeypatch.setattr(weak_verifiers, "first_asserts", lambda test, number: test)
    experiment = importlib.import_module(f"tools.record.{name}")
    measured = experiment.measure_with(settings)
    assert set(measured) == set(experiment.FILES)
    for file, rows in measured.items():
        assert set(rows["seed"]) == {0} and list(rows)[:2] == ["seed", "run"], file
    runs = set(measured[experiment.FILES[-1]]["run"])
    assert len(runs) >= 3 and any(word in run for run in runs for word in ("random", "coin"))
    assert set(experiment.SETTINGS["runs"]) <= runs
    assert name.replace("_", "-") in EXPERIMENTS


@pytest.mark.parametrize("name", ["what-matters", "clinic", "one-problem"])
def test_the_other_experiments_are_registered_too(name):
    experiment = importlib.import_module(f"tools.record.{name.replace('-', '_')}")
    assert name in EXPERIMENTS and {"FILES", "SETTINGS", "measure"} <= set(vars(experiment))


REWARDS = torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("group mean", [0.75, -0.25, -0.25, -0.25, 0, 0, 0, 0]),
        ("group mean, divided by the spread", [1.5, -0.5, -0.5, -0.5, 0, 0, 0, 0]),
        ("none (A = r)", [1, 0, 0, 0, 1, 1, 1, 1]),
        ("A = r - 1", [0, -1, -1, -1, 0, 0, 0, 0]),
        ("A = r - 0.5", [0.5, -0.5, -0.5, -0.5, 0.5, 0.5, 0.5, 0.5]),
        ("running mean", [0.375, -0.625, -0.625, -0.625, 0.375, 0.375, 0.375, 0.375]),
    ],
)
def test_the_baselines_on_eight_rewards(name, expected):
    made = baselines.BASELINES[name]()(REWARDS, 4)
    assert torch.allclose(made, torch.tensor(expected, dtype=torch.float32), atol=5e-4)
    # All wrong: nothing to divide by.
    assert torch.isfinite(baselines.BASELINES[name]()(torch.zeros(8), 4)).all()


def test_the_running_mean_remembers_earlier_batches():
    advantages = baselines.BASELINES["running mean"]()
    advantages(torch.ones(8), 4)
    assert torch.allclose(advantages(torch.zeros(8), 4), torch.full((8,), -1.0))
    assert torch.allclose(advantages(torch.zeros(8), 4), torch.full((8,), -0.9))


LOGPS = torch.tensor([[-0.1, -0.2, 0.0], [-1.0, -0.5, -0.3]])
OLD = torch.tensor([[-0.4, -0.1, 0.0], [-2.0, -0.4, -0.9]])
MASK = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
ADVANTAGES = torch.tensor([0.5, -0.5])


def test_vespo_is_trl_s():
    trl = pytest.importorskip("trl")
    logps = LOGPS.clone().requires_grad_()
    loss = reuse.vespo(**reuse.VESPO)(logps, OLD, ADVANTAGES, MASK)
    phi = trl.GRPOTrainer.get_gamma_weights(ADVANTAGES[:, None], LOGPS - OLD, MASK, None, **reuse.VESPO)
    expected = (-phi * ADVANTAGES[:, None] * LOGPS * MASK).sum() / 5
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    loss.backward()
    assert torch.allclose(logps.grad, -phi * ADVANTAGES[:, None] * MASK / 5), "no gradient flows through phi"


def test_luspo_and_two_sided_by_hand():
    settings = profile_settings("tiny")
    # The ratio of a completion is the geometric mean; each token of its length counts it once.
    ratios = [(0.3 - 0.1) / 2, (1.0 - 0.1 + 0.6) / 3]
    first, second = (torch.tensor(ratio).exp() for ratio in ratios)
    expected = (-2 * torch.min(first, torch.tensor(1.1)) * 0.5 + 3 * second * 0.5) / 2
    assert reuse.luspo(0.1, 0.1)(LOGPS, OLD, ADVANTAGES, MASK).item() == pytest.approx(expected.item(), abs=1e-6)
    far = torch.tensor([[3.0]]).log()
    one = torch.ones(1, 1)
    bounded = reuse.two_sided(settings, 1.5)(far, one * 0, torch.tensor([-1.0]), one)
    assert bounded.item() * 56 == pytest.approx(1.5)
    free = loop.loss_of(settings)(far, one * 0, torch.tensor([-1.0]), one)
    assert free.item() * 56 == pytest.approx(3.0)


def test_the_losses_of_reuse_differ_where_the_ratio_is_not_1():
    old = torch.zeros(3, 3)
    # Ratios between 1 + epsilon and 1 + epsilon_high, above CISPO's cap, above delta in a wrong completion, below 1.
    logps = torch.tensor([[0.219, 2.0, 0.0], [0.73, -0.073, 0.438], [-0.1, 0.0, 0.0]], requires_grad=True)
    advantages = torch.tensor([0.5, -0.5, 0.5])
    mask = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
    gradients = {}
    for name, (updates, loss, reward) in reuse.losses(profile_settings("tiny")).items():
        if updates == 4 and reward == "verifier":
            [gradient] = torch.autograd.grad(loss(logps, old, advantages, mask), logps)
            gradients[name] = gradient / gradient.norm()
    assert len(gradients) == 9
    for (name, one), (other_name, other) in itertools.combinations(gradients.items(), 2):
        assert not torch.allclose(one, other, atol=1e-3), f"{name} and {other_name} do the same"


def test_what_matters_changes_one_thing_and_spends_the_same():
    tiny = profile_settings("tiny")
    for name, change in what_matters.changes(tiny).items():
        options = {key: value for key, value in change.items() if key not in ("problems", "reward")}
        assert len(change) == (2 if "group size" in name else 0 if name == "as it is" else 1)
        assert replace(tiny, **options).completions_per_step == tiny.completions_per_step
    train, held_out = split_problems(load_problems("tiny"))
    lists = [problem for problem in train if what_matters.is_about_lists(problem)]
    assert len(lists) == 660 and sum(map(what_matters.is_about_lists, held_out)) == 93
    assert {what_matters.arguments_of(problem) for problem in train} == {"xs", "xs, ys", "n", "s", "ps", "rows", "d"}


def test_the_kinds_of_problems_to_train_on(settings):
    start = loop.prepare(settings)
    solved = what_matters._Solved(start)
    solved.counts = {problem.task_id: number % 9 for number, problem in enumerate(start.train)}
    sizes = {name: len(solved.choose(f"solved {name}")) for name in ("sometimes",)}
    assert sizes == {"sometimes": sum(0 < number % 9 < 8 for number in range(len(start.train)))}
    rarely = [number % 9 for number in range(len(start.train)) if 0 < number % 9 <= what_matters.RARELY]
    if len(rarely) >= settings.prompts_per_step:
        assert len(solved.choose("solved rarely")) == len(rarely)
    with pytest.raises(what_matters.CourseError, match="too few for a step"):
        solved.choose("lists")


def test_pass_at_k_counts(settings):
    measured = pass_at_k.measure_with(settings)
    curve, problems = (measured[name] for name in pass_at_k.FILES)
    assert list(curve.groupby("run").size()) == [2, 2, 2]
    assert (problems["correct"] <= settings.eval_samples).all() and (problems["distinct"] >= 1).all()


def test_one_problem_watches_both_forks(monkeypatch, tmp_path):
    monkeypatch.setenv("COURSE_OUTPUT", str(tmp_path / "build"))
    monkeypatch.setattr(one_problem, "SAMPLES", 4)
    real = loop.prepare
    monkeypatch.setattr(one_problem, "prepare", lambda s: replace(real(s), held_out=real(s).held_out[:4]))
    measured = one_problem.measure_with(replace(one_problem.PROFILE, max_steps=1, threads=1))
    curves, scores = (measured[name] for name in one_problem.FILES)
    assert list(curves.groupby("run").size()) == [2] * 4
    start = curves[curves["step"] == 0].iloc[0]
    # What the exemplar of the eight steps prints for the untrained model.
    assert start["> in greater"] == pytest.approx(0.441, abs=0.01)
    assert start[">= in greater"] == pytest.approx(0.506, abs=0.01)
    after = curves[(curves["step"] == 1) & (curves["run"] == "one problem")].iloc[0]
    assert after["> in greater"] > start["> in greater"] + 0.05
    assert list(scores["run"]) == ["before", *one_problem.RUNS]


# --- the clinic ---


def fake_trainer(start):
    state = SimpleNamespace(global_step=0)
    accelerator = SimpleNamespace(unwrap_model=lambda model: model, process_index=0)
    dataset = list(range(40))
    return SimpleNamespace(
        state=state,
        accelerator=accelerator,
        model_wrapped=start.policy,
        processing_class=start.tokenizer,
        train_dataset=dataset,
        beta=0.1,
    )


@pytest.mark.parametrize(
    ("only_wrong_ends", "expected"),
    [(False, [[0.5, 0.5, 0], [-0.5, 0, 0], [0, 0, 0]]), (True, [[0, 0, 0], [0, -0.5, -0.5], [0, 0, 0]])],
)
def test_the_planted_masks(only_wrong_ends, expected):
    end = 3
    scored = {
        "completion_ids": torch.tensor([[7, 8, end], [7, end, end], [7, 8, 9]]),
        "completion_mask": torch.tensor([[1, 1, 1], [1, 1, 0], [1, 1, 1]]),
        "advantages": torch.tensor([0.5, -0.5, 0.0]),
    }
    trainer = SimpleNamespace(_generate_and_score_completions=lambda inputs: scored)
    clinic.mask_ends(only_wrong_ends)(trainer, SimpleNamespace(tokenizer=SimpleNamespace(eos_token_id=end)))
    planted = trainer._generate_and_score_completions([])
    torch.testing.assert_close(planted["advantages"], torch.tensor(expected))
    assert planted["completion_mask"] is scored["completion_mask"]


def test_the_other_planted_faults(settings):
    start = loop.prepare(settings)
    trainer = fake_trainer(start)
    clinic.cut_groups(trainer, start)
    order = list(trainer._get_train_sampler())
    half = settings.num_generations // 2
    for begin in range(0, len(order), settings.num_generations):
        group = order[begin : begin + settings.num_generations]
        assert group[:half] == [group[0]] * half and group[half:] == [group[half]] * half and group[0] != group[half]
    assert clinic.in_fp16(start.fresh_policy(), settings).dtype == torch.float16
    clinic.turn_the_kl(trainer, start)
    assert trainer.beta < 0
    names = [problem.task_id for problem in load_problems("tiny")]
    assert sum(map(clinic.is_ungraded, names)) / len(names) == pytest.approx(clinic.UNGRADED, abs=0.05)
    tests = "def check(candidate):\n    assert candidate(1) == 1\n"
    columns = {"test": [tests] * 2, "entry_point": ["f"] * 2, "task_id": names[:2]}
    ungraded = next(name for name in names if clinic.is_ungraded(name))
    graded = next(name for name in names if not clinic.is_ungraded(name))
    paid = clinic.none_as_zero(["def f(x):\n"] * 2, ["    return x\n"] * 2, **columns | {"task_id": [ungraded, graded]})
    assert paid == [0.0, 1.0]
    exits = ["    raise SystemExit(0)\n", "    return 2\n"]
    assert clinic.by_exit_code(["def f(x):\n"] * 2, exits, **columns) == [1.0, 0.0]


@pytest.mark.slow
def test_patients_run_to_their_end_or_say_what_ended_them(settings):
    names = [
        "healthy",
        "every completion cut off",
        "too few prompts",
        "the KL's sign",
        "adapter not merged",
    ]
    measured = clinic.measure_with(replace(settings, threads=1), [*names, "unknown chat template", "groups cut in two"])
    curves, scores, completions = (measured[name] for name in clinic.FILES)
    steps = scores.set_index("run")["steps"]
    assert steps["healthy"] == 2 and steps["too few prompts"] == 0 and steps["before"] == 0
    assert "too few prompts" not in set(curves["run"])
    assert scores[scores["run"] == "healthy"]["ended_by"].item() == ""
    before, adapter = (scores[scores["run"] == run].iloc[0] for run in ("before", "adapter not merged"))
    assert adapter["greedy"] == before["greedy"] and adapter["pass@1"] == before["pass@1"]
    assert completions.groupby("run").size()["healthy"] == clinic.SHOWN
    assert (curves[curves["run"] == "the KL's sign"]["kl"] != "").all()
    assert set(curves["learning_rate"].astype(float)) == {1e-2, 2e-3}, "four decimals would not do for a loss or a rate"


def test_the_sandboxed_verifiers_agree_with_the_truth_on_the_bundled_solutions():
    problems = load_problems("tiny")[::150]
    texts = [problem.canonical_solution for problem in problems]
    for verifier in (weak_verifiers.exit_code, weak_verifiers.secret, weak_verifiers.values_as_text):
        assert verifier(problems, texts) == [1.0] * len(problems)
    wrong = [Problem(**vars(problem)) for problem in problems]
    for verifier in (weak_verifiers.exit_code, weak_verifiers.secret, weak_verifiers.values_as_text):
        assert verifier(wrong, ["    return object()\n"] * len(wrong)) == [0.0] * len(wrong)


def test_the_template_of_the_clinic_wraps_the_prompt():
    _, tokenizer = load_policy("data/tiny_coder")
    clinic.give_template(tokenizer)
    text = tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)
    assert text.startswith("<|im_start|>user\nx<|im_end|>") and text.endswith("assistant\n")
