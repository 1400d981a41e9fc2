"""`python -m helpers.diagnose`: what it reads, each rule on a small history, and the rules on the recorded clinic."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_run import small_settings, small_trainer, vowels

from helpers import diagnose, profiles, rewards, train
from helpers.diagnose import AFTER, BEFORE, NEEDS_MORE, RULES

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "data/measurements/clinic_curves.csv"
PAGE = ROOT / "docs/when_it_does_not_learn.md"
STEPS = 40


def healthy(**changes) -> pd.DataFrame:
    """Return a history in which nothing is wrong, except for the columns in `changes`."""
    noise = np.random.default_rng(0).normal(0, 0.03, STEPS)
    columns = {
        "step": np.arange(1, STEPS + 1),
        "reward": np.linspace(0.45, 0.75, STEPS) + noise,
        "frac_reward_zero_std": np.linspace(0.1, 0.3, STEPS),
        "entropy": np.linspace(0.05, 0.03, STEPS),
        "completion_length": 24 + 50 * noise,
        "clipped_ratio": np.zeros(STEPS),
        "grad_norm": np.full(STEPS, 0.03),
        "loss": noise / 10,
        "kl": np.linspace(0, 0.2, STEPS),
        "learning_rate": np.full(STEPS, 3.5e-4),
        BEFORE: np.full(STEPS, 0.44),
        AFTER: np.full(STEPS, 0.71),
    }
    return pd.DataFrame(columns | changes)


LEVEL = 0.5 + np.random.default_rng(1).normal(0, 0.05, STEPS)
DEAD = np.where(np.arange(STEPS) > 20, 0, 0.03)
HALF_SILENT = {"reward": LEVEL - 0.15, "frac_reward_zero_std": np.full(STEPS, 0.5)}
FIRES = [
    ("nothing is graded", {"reward": np.where(np.arange(STEPS) % 4 == 0, np.nan, LEVEL)}),
    ("no signal from the start", {"reward": np.zeros(STEPS), "frac_reward_zero_std": np.ones(STEPS)}),
    ("no signal from the start", {"reward": np.ones(STEPS), "frac_reward_zero_std": np.ones(STEPS)}),
    ("no signal from the start", {"reward": DEAD, "frac_reward_zero_std": 1 - DEAD}),
    ("the weights are ruined", {"grad_norm": np.where(np.arange(STEPS) > 20, np.nan, 0.03)}),
    ("the weights are ruined", {"grad_norm": np.where(np.arange(STEPS) > 20, np.inf, 0.03)}),
    ("the weights are ruined", {"entropy": np.where(np.arange(STEPS) > 20, np.nan, 0.03)}),
    ("the weights are ruined", {name: DEAD for name in ("grad_norm", "entropy", "reward")}),
    ("completions are cut off", {"clipped_ratio": np.full(STEPS, 0.8)}),
    ("completions no longer end", {"clipped_ratio": np.linspace(0, 0.4, STEPS)}),
    ("the reward does not rise", {"reward": LEVEL}),
    ("the reward falls", {"reward": LEVEL - np.linspace(0, 0.4, STEPS)}),
    ("the learning rate is small", {"reward": LEVEL, "learning_rate": np.full(STEPS, 1e-6)}),
    ("some groups never earn", HALF_SILENT),
    ("the problems are solved", {"reward": np.full(STEPS, 0.97) + LEVEL / 100, "frac_reward_zero_std": np.ones(STEPS)}),
    ("answers get shorter as the reward rises", {"completion_length": np.linspace(24, 16, STEPS) + LEVEL}),
    (
        "the loss falls as kl grows",
        {"kl": np.linspace(0, 0.5, STEPS), "loss": -0.4 * np.linspace(0, 0.5, STEPS) + LEVEL / 100},
    ),
    ("the score is the same as before", {AFTER: np.full(STEPS, 0.44)}),
]
QUIET = [
    ("nothing is graded", {"reward": np.where(np.arange(STEPS) == 4, np.nan, LEVEL)}),
    ("no signal from the start", {"frac_reward_zero_std": np.linspace(0.2, 1, STEPS)}),
    ("the weights are ruined", {"grad_norm": np.zeros(STEPS)}),  # silent groups, but a living model
    ("the weights are ruined", {"grad_norm": np.zeros(STEPS), "entropy": DEAD}),  # all is solved
    ("completions are cut off", {"clipped_ratio": np.full(STEPS, 0.2)}),
    ("completions no longer end", {"clipped_ratio": np.linspace(0.2, 0, STEPS)}),
    ("the reward does not rise", {"reward": np.full(STEPS, 0.95) + LEVEL / 100}),
    ("the reward falls", {"reward": LEVEL}),
    ("the learning rate is small", {"learning_rate": np.full(STEPS, 1e-6)}),  # a large model learns at this rate
    ("some groups never earn", {"frac_reward_zero_std": np.full(STEPS, 0.5)}),  # silent, because they are solved
    ("some groups never earn", HALF_SILENT | {"reward": LEVEL - 2}),  # not between 0 and 1, so nothing can be said
    ("the problems are solved", {"reward": np.full(STEPS, 0.97), "frac_reward_zero_std": np.full(STEPS, 0.5)}),
    ("the loss falls as kl grows", {"kl": np.linspace(0, 0.5, STEPS), "loss": np.linspace(0, 0.5, STEPS)}),
    ("the loss falls as kl grows", {"kl": np.zeros(STEPS)}),
    ("answers get shorter as the reward rises", {"completion_length": np.linspace(24, 23, STEPS)}),
    ("answers get shorter as the reward rises", {"completion_length": np.linspace(24, 16, STEPS), "reward": LEVEL}),
]


def fired(history: pd.DataFrame) -> set[str]:
    return {rule.name for rule, _ in diagnose.findings(history)}


@pytest.mark.parametrize(("name", "changes"), FIRES)
def test_a_rule_fires_and_says_what_it_saw(name, changes):
    seen = {rule.name: seen for rule, seen in diagnose.findings(healthy(**changes))}
    assert re.search(r"\d", seen[name])


@pytest.mark.parametrize(("name", "changes"), QUIET)
def test_a_rule_stays_quiet(name, changes):
    assert name not in fired(healthy(**changes))


def test_every_rule_is_tried_and_none_fires_on_a_healthy_history():
    assert {name for name, _ in FIRES} == {rule.name for rule in RULES}
    assert fired(healthy()) == set()
    assert fired(healthy().head(3)) == set()


def test_with_few_steps_no_trend_is_judged():
    short = healthy(reward=LEVEL, learning_rate=np.full(STEPS, 1e-6)).head(diagnose.ENOUGH - 1)
    assert fired(short) == set()
    assert 'Fewer than 20 steps are logged. So "the learning rate is small" is not judged.' in diagnose.report(short)
    assert 'Fewer than 40 steps are logged. So "the reward does not rise" is not judged.' in diagnose.report(short)


# --- folders ---

TRL_KEYS = {name: key for key, name in diagnose.COLUMNS.items()}


def logged(history: pd.DataFrame) -> list[dict]:
    """Return the history as TRL logs it, with the summary at its end."""
    rows = history.rename(columns=TRL_KEYS).to_dict("records")
    rows = [{key: None if math.isnan(value) else value for key, value in row.items()} for row in rows]
    return [*rows, {"train_runtime": 1.0, "step": STEPS}]


def write(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def diagnosed(folder: Path, capsys) -> tuple[int, str, str]:
    status = diagnose.main([str(folder)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def result(history: pd.DataFrame) -> dict:
    scores = {"before": {"pass@1": history[BEFORE].iloc[0]}, "after": {"pass@1": history[AFTER].iloc[0]}}
    return {"history": history.drop(columns=[BEFORE, AFTER]).to_dict("records"), "held_out": {"tiny": scores}}


def test_a_healthy_run(tmp_path, capsys):
    write(tmp_path / "result.json", result(healthy()))
    status, out, _ = diagnosed(tmp_path, capsys)
    assert status == 0 and "Nothing suspicious." in out and "Not logged" not in out
    assert all(fault in out for fault in NEEDS_MORE)


def test_a_finding_is_printed_in_full(tmp_path, capsys):
    write(tmp_path / "result.json", result(healthy(clipped_ratio=np.ones(STEPS))))
    status, out, _ = diagnosed(tmp_path, capsys)
    [rule] = [rule for rule in RULES if rule.name == "completions are cut off"]
    assert status == 0 and "1. completions are cut off (completions/clipped_ratio)" in out
    assert "100% of all completions" in out and rule.means in out and rule.remedy in out
    assert f"notebook {rule.shown[:2]}, section {rule.shown[3:]}" in out and "Nothing suspicious" not in out


def test_the_newest_checkpoint_of_plain_trl(tmp_path, capsys):
    plain = healthy().drop(columns=[BEFORE, AFTER, "kl"])
    write(tmp_path / "checkpoint-9/trainer_state.json", {"log_history": logged(plain)})
    write(tmp_path / "checkpoint-40/trainer_state.json", {"log_history": logged(plain.assign(clipped_ratio=1.0))})
    (tmp_path / "checkpoint-50").mkdir()  # cut short
    status, out, _ = diagnosed(tmp_path, capsys)
    assert status == 0 and "checkpoint-40" in out and f"{STEPS} logged steps" in out and "cut off" in out
    assert 'Not logged: kl. So "the loss falls as kl grows" is not judged.' in out
    assert "Not logged: pass@1 before, pass@1 after" in out


def test_metrics_that_are_not_logged_are_named(tmp_path, capsys):
    write(tmp_path / "trainer_state.json", {"log_history": logged(healthy()[["step", "loss", "reward"]])})
    status, out, _ = diagnosed(tmp_path, capsys)
    assert status == 0 and "Nothing suspicious." in out
    for key in ("completions/clipped_ratio", "frac_reward_zero_std", "grad_norm, entropy", "learning_rate", "kl"):
        assert f"Not logged: {key}." in out


def test_without_samples_there_is_no_score_to_compare(tmp_path, capsys):
    no_score = {"before": {"pass@1": None}, "after": {"pass@1": None}}
    write(tmp_path / "result.json", result(healthy()) | {"held_out": {"tiny": no_score}})
    status, out, _ = diagnosed(tmp_path, capsys)
    assert status == 0 and "Nothing suspicious." in out and "Not logged: pass@1 before, pass@1 after." in out


def test_an_own_run_that_is_broken(tmp_path, capsys):
    """In result.json, what is not a number is null."""
    content = result(healthy())
    content["history"] = [row | {"grad_norm": None} for row in content["history"]]
    write(tmp_path / "result.json", content)
    status, out, _ = diagnosed(tmp_path, capsys)
    assert status == 0 and "1. the weights are ruined" in out and f"in {STEPS} of {STEPS} steps" in out


def test_real_folders(tmp_path, monkeypatch, capsys):
    """The folder of helpers.train, and the checkpoint of a trainer."""
    settings = small_settings(tmp_path)
    monkeypatch.setitem(profiles.PROFILES, "tiny", settings)
    monkeypatch.setattr(rewards, "vowels", vowels, raising=False)
    assert train.main(["--profile", "tiny", "--output", str(tmp_path / "run"), "--reward", "vowels"]) == 0
    small_trainer(settings, tmp_path / "trainer").train()
    capsys.readouterr()
    for folder, file in (("run", "result.json"), ("trainer", "checkpoint-4/trainer_state.json")):
        path, history = diagnose.read_history(tmp_path / folder)
        assert path == tmp_path / folder / file and history["step"].tolist() == [1, 2, 3, 4]
        needed = {name for rule in RULES for name in rule.needs}
        assert needed - set(history) == {"kl"} | ({BEFORE, AFTER} if folder == "trainer" else set())
        status, out, _ = diagnosed(tmp_path / folder, capsys)
        assert status == 0 and "4 logged steps" in out and "is not judged" in out


DAMAGED = "{'log_history': [", "[]", '{"log_history": 3}', '{"log_history": [3]}', '{"log_history": [{"loss": "x"}]}'


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({}, "has no result.json and no checkpoint with a trainer_state.json"),
        ({"notes.txt": "nothing"}, "has no result.json"),
        ({"checkpoint-3/model.safetensors": ""}, "has no result.json"),
        (
            {"result.json": {"history": [], "held_out": {"tiny": result(healthy())["held_out"]["tiny"]}}},
            "no training step",
        ),
        ({"trainer_state.json": {"log_history": [{"train_runtime": 0.04, "step": 0}]}}, "no training step"),
        ({"trainer_state.json": {"log_history": [{"loss": 1.0, "step": 1}]}}, "logs no reward"),
        ({"result.json": {"pass@1": 0.4}}, "is damaged, or is no record of a run"),
        *(({"trainer_state.json": text}, "is damaged") for text in DAMAGED),
        # A damaged result is never passed over for an older checkpoint.
        ({"result.json": "{", "checkpoint-3/trainer_state.json": {"log_history": logged(healthy())}}, "is damaged"),
    ],
)
def test_a_folder_without_a_run_gets_one_sentence(tmp_path, capsys, files, sentence):
    for name, content in files.items():
        write(tmp_path / name, content)
    status, out, error = diagnosed(tmp_path, capsys)
    assert status == 2 and out == ""
    assert error.startswith(f"helpers.diagnose: {tmp_path}") and sentence in error and error.count("\n") == 1


def test_a_folder_that_does_not_exist(tmp_path, capsys):
    status, _, error = diagnosed(tmp_path / "absent", capsys)
    assert status == 2 and "is not a folder" in error


def test_the_command_answers_without_torch_and_trl(tmp_path):
    write(tmp_path / "result.json", result(healthy()))
    code = (
        "import sys; from helpers import diagnose; diagnose.main(sys.argv[1:]);"
        "sys.exit(bool({'torch', 'trl', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True).returncode == 0


# --- the page ---


def link(shown: str) -> str:
    [notebook] = ROOT.glob(f"notebooks/{shown[:2]}_*.ipynb")
    return f"[{shown}](../notebooks/{notebook.name})"


def row(rule: diagnose.Rule) -> str:
    metrics = ", ".join(f"`{diagnose.log_key(name)}`" for name in rule.needs)
    return f"| {rule.name} | {metrics} | {rule.means} | {rule.remedy} | {link(rule.shown)} |"


def block(marker: str) -> list[str]:
    """Return the lines of the page between a comment and the next empty line."""
    return PAGE.read_text(encoding="utf-8").split(f"<!-- {marker} -->\n")[1].split("\n\n")[0].splitlines()


def test_the_page_has_the_rules_and_no_others():
    assert block("rules")[2:] == [row(rule) for rule in RULES], "\n" + "\n".join(map(row, RULES))
    assert block("needs more") == [f"- **{fault}**: {what}" for fault, what in NEEDS_MORE.items()]


def test_the_sections_that_the_page_names_exist():
    links = set(re.findall(r"\[(\d\d)\.(\d+)\]\(\.\./notebooks/([\w.]+)\)", PAGE.read_text(encoding="utf-8")))
    assert {rule.shown for rule in RULES} < {f"{number}.{section}" for number, section, _ in links}
    for number, section, name in links:
        assert name.startswith(number)
        cells = json.loads((ROOT / "notebooks" / name).read_text(encoding="utf-8"))["cells"]
        text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
        assert re.search(rf"^## {section} ", text, re.MULTILINE), f"{name} has no section {section}"


# --- recorded runs ---


@pytest.mark.parametrize("steps", [20, 30, 40, 68])
@pytest.mark.parametrize("file", ["by_hand", "hacking", "partial_reward"])
def test_the_recorded_runs(file, steps):
    """No rule fires in a run that learned from the verifier. The model that learned to cheat is found in every seed."""
    recorded = pd.read_csv(RECORD.with_name(f"{file}_curves.csv"))
    for (run, seed), rows in recorded.groupby([{"by_hand": "method"}.get(file, "trained_with"), "seed"]):
        names = fired(rows.head(steps))
        if run != "v1":
            assert not names, (run, seed)
        elif steps >= 30:
            assert names == {"answers get shorter as the reward rises"}, seed


@pytest.mark.parametrize("steps", [20, 30, 40])
def test_the_recorded_real_model(steps):
    found = {}
    for path in sorted((ROOT / "data/measurements/qwen").glob("*_steps.csv")):
        found[path.name.removesuffix("_steps.csv")] = fired(pd.read_csv(path).head(steps))
    assert found.pop("random_reward_seed0") == ({"the reward does not rise"} if steps == 40 else set())
    # Half way, this model still fails on some problems in every completion.
    assert len(found) >= 2 and set().union(*found.values()) <= ({"some groups never earn"} if steps < 40 else set())


# --- the clinic ---

# The thresholds were chosen on seed 0 and on the healthy runs, so the faults' other seeds are the test.
FAULTS = {
    "every completion cut off": "completions are cut off",
    "unlearns to end": "completions no longer end",
    "unknown chat template": "no signal from the start",
    "constant reward": "no signal from the start",
    "None counted as 0": "some groups never earn",
    "reward by exit code": "answers get shorter as the reward rises",
    "fp16 weights": "the weights are ruined",
    "learning rate 1e-6": "the learning rate is small",
    "the KL's sign": "the loss falls as kl grows",
    "adapter not merged": "the score is the same as before",
}
INVISIBLE = {"end token masked away", "groups cut in two"}


def clinic() -> dict[tuple[int, str], pd.DataFrame]:
    """Return the recorded history of each run, by seed and name, with the scores that its owner would know."""
    if not RECORD.is_file():
        pytest.skip("the clinic is not recorded yet: python -m tools.record clinic --output data/measurements")
    scores = pd.read_csv(RECORD.with_name("clinic_scores.csv")).set_index(["seed", "run"])["pass@1"]
    histories = {}
    for (seed, run), rows in pd.read_csv(RECORD).groupby(["seed", "run"]):
        both = {BEFORE: scores[seed, "before"], AFTER: scores[seed, run]}
        histories[seed, run] = rows.drop(columns=["seed", "run"]).dropna(axis=1, how="all").assign(**both)
    return histories


@pytest.mark.parametrize(("fault", "name"), FAULTS.items())
def test_each_fault_is_found_in_every_seed(fault, name):
    found = {seed: fired(history) for (seed, run), history in clinic().items() if run == fault}
    assert len(found) >= 3
    assert all(name in names for names in found.values()), found


def test_no_rule_fires_in_a_healthy_run():
    found = {at: fired(history) for at, history in clinic().items() if at[1].startswith("healthy")}
    assert len(found) >= 6 and not any(found.values()), found


def test_each_patient_has_a_rule_or_needs_more_than_the_log():
    runs = {run for _, run in clinic()}
    assert runs == {run for run in runs if run.startswith("healthy")} | set(FAULTS) | INVISIBLE | {"random reward"}
    scores = pd.read_csv(RECORD.with_name("clinic_scores.csv"))
    assert set(scores["run"]) - runs == {"before", "too few prompts"}
