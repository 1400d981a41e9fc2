"""Notebook 05: its losses are TRL's and those of the recorded runs, and what it says about TRL is still so."""

import ast
import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from trl import GRPOTrainer
from try_exercises import exercises, solution_of, source_of

from helpers.losses import LOSS_TYPES
from helpers.profiles import SettingsError, profile_settings
from tools.record import reuse

ROOT = Path(__file__).resolve().parent.parent
PATH = ROOT / "notebooks" / "05_losses_and_variants.ipynb"
CELLS = json.loads(PATH.read_text(encoding="utf-8"))["cells"]
SETUP = ("reuse-6", "reuse-7", "switch-2", "switch-4", "switch-5", "switch-7", "switch-9", "switch-10")


def cell(name: str) -> str:
    (source,) = (source_of(cell) for cell in CELLS if cell["id"] == name)
    return source


@pytest.fixture
def names(tmp_path, monkeypatch) -> dict[str, Any]:
    """Run the cells of the switchboard, in this process. Returns their names."""
    monkeypatch.setenv("COURSE_OUTPUT", str(tmp_path))
    found: dict[str, Any] = {}
    exec("import pandas as pd\nfrom helpers import figures\nfrom trl import GRPOTrainer", found)
    exec("from helpers.rewards import passes_tests", found)
    for name in SETUP:
        exec(cell(name), found)
    return found


def test_a_built_configuration_is_never_changed():
    for one in CELLS:
        if one["cell_type"] == "code":
            changed = re.search(r"\bsetattr\(|\b(?:config|built|args)\.\w+ = ", source_of(one))
            assert not changed, one["id"]


def test_each_loss_type_of_trl_is_on_the_page_and_computed_or_refused(names):
    code = inspect.getsource(GRPOTrainer._compute_loss)
    literals = [ast.literal_eval(text) for text in re.findall(r'self\.loss_type (?:==|in) ("\w+"|\[[^\]]+\])', code)]
    theirs = {name for found in literals for name in ([found] if isinstance(found, str) else found)}
    refused = theirs - set(LOSS_TYPES)
    assert refused == {"luspo", "vespo"}
    shown = {options["loss_type"] for options in names["SWITCHES"].values()}
    assert shown >= theirs - {"bnpo", "dr_grpo"}  # the notebook explains these as ways to average
    for name in refused:
        with pytest.raises(SettingsError, match=name):
            type(profile_settings("tiny"))(**vars(profile_settings("tiny")) | {"loss_type": name})


def test_the_losses_by_hand_equal_trls(names):
    exec(cell("switch-11"), names)
    assert set(names["rows"]) == set(names["SWITCHES"]) and all(row[2] < 1e-6 for row in names["rows"].values())


@pytest.mark.parametrize(
    ("place", "right", "wrong"),
    [
        ("switch-10", '"delta": 1.5', '"delta": 1.4'),
        ("switch-10", '"epsilon_high": 5.0', '"epsilon_high": 2.0'),
        ("switch-4", "good=1.0, bad=1.05", "good=1.0, bad=1.0"),
        ("switch-7", "(logps - old).mean(1", "(logps - old).sum(1"),
        ("switch-7", "decay * (1 - w)", "decay * (2 - w)"),
    ],
)
def test_a_loss_that_drifts_is_noticed(names, place, right, wrong):
    assert right in cell(place)
    for name in SETUP[2:]:
        exec(cell(name).replace(right, wrong) if name == place else cell(name), names)
    with pytest.raises(AssertionError):
        exec(cell("switch-11"), names)


def test_the_recorded_runs_have_the_losses_of_the_notebook(names):
    torch.manual_seed(0)
    old = -torch.rand(6, 5)
    logps = old + torch.randn(6, 5).mul(0.4)
    advantages, mask = torch.randn(6), torch.ones(6, 5)
    A, ratio = advantages[:, None], (logps - old).exp()
    settings, given = profile_settings("tiny"), (logps, old, advantages, mask)
    runs = reuse.losses(settings)
    divisor = 6 * settings.max_completion_length
    s = names["sequence_ratio"](logps, old)
    gspo = names["clip"](s, A, low=3e-4, high=4e-4).expand(6, 5)
    expected = {
        "4 updates": names["clip"](ratio, A).sum() / divisor,
        "4 updates, clip-higher": names["clip"](ratio, A, high=0.28).sum() / divisor,
        "4 updates, two-sided": names["clip"](ratio, A, delta=1.5).sum() / divisor,
        "4 updates, CISPO": names["cispo"](ratio, A, logps).mean(),
        "4 updates, SAPO": names["sapo"](ratio, A).mean(),
        "4 updates, GSPO": gspo.mean(),
        "4 updates, LUSPO": gspo.sum(1).mean(),
        "4 updates, VESPO": names["vespo"](logps, old, A).mean(),
    }
    for run, value in expected.items():
        assert runs[run][1](*given) == pytest.approx(value.item(), abs=1e-6), run


def test_trl_still_weights_the_kl_of_a_token_by_the_ratio_of_the_completion(names):
    """If this fails, trl #6586 may be fixed: change the two cells about it, and helpers.losses."""
    old, A, logps = names["old"], names["A"], names["logps"]
    options = {"loss_type": "grpo", "importance_sampling_level": "sequence"}
    names["A"] = torch.zeros_like(A)
    theirs = names["trl_loss"](**options, beta=1.0)
    gap = old - logps
    k3 = gap.exp() - gap - 1
    faulty = (k3 * names["sequence_ratio"](logps, old)).mean()
    right = (k3 * (logps - old).exp()).mean()
    assert theirs.item() == pytest.approx(faulty.item(), abs=1e-6)
    assert abs(theirs.item() - right.item()) > 0.01


def test_off_policy_masking_is_trls():
    (solution,) = (solution_of(answer) for _, stub, answer in exercises(CELLS) if '"05.4"' in source_of(stub))
    found: dict[str, Any] = {}
    exec(solution, found)
    torch.manual_seed(0)
    logps, old, advantages = torch.randn(40, 6), torch.randn(40, 6), torch.randn(40).round()
    mask = (torch.arange(6) < torch.randint(1, 7, (40, 1))).float()
    for threshold in (-0.2, 0.0, 0.3):
        theirs = GRPOTrainer.get_off_policy_mask(advantages[:, None], logps, old, mask, threshold)
        ours = found["keep"](logps, old, advantages, mask, threshold)
        assert torch.equal(ours, theirs.squeeze(1)) and 0 < ours.sum() < 40
