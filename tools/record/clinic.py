"""Notebook 06: a clinic. Trainers with one planted fault each, and what TRL logs of them.

Every patient is a run of GRPOTrainer with the settings of the profile tiny, 20 to 44 steps long, with one thing wrong.
Two runs are healthy, and one has a reward that knows nothing. The notebook shows curves, log and three completions.
"""

import hashlib
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from trl.trainer.utils import RepeatSampler

from helpers import lora
from helpers.evaluation import evaluate
from helpers.policy import convert_weights
from helpers.problems import Problem
from helpers.profiles import Settings, profile_settings
from helpers.rewards import constant_reward, passes_tests, random_reward, seeded
from helpers.run_folder import COLUMNS
from helpers.runtime import CourseError
from helpers.training import ResumableTrainer, RewardFunction, build_trainer, history_frame
from tools.record.loop import Row, Rows, Start, prepare, run_by_run, scores_of, settings_of
from tools.record.weak_verifiers import exit_code, writes_exit

CURVES, SCORES, COMPLETIONS = FILES = ("clinic_curves.csv", "clinic_scores.csv", "clinic_completions.csv")
PROFILE = replace(profile_settings("tiny"), max_steps=30, eval_samples=2)
SHOWN = 3  # completions of each patient
# A template of the kind that chat models have. The bundled model has never seen one.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant{{ '\n' }}"
)
UNGRADED = 1 / 3  # of the problems have no verdict in the patient that counts None as 0
WRONG_BETA = -1.0


@dataclass(frozen=True)
class Patient:
    """What is wrong with a run: the settings that differ, and what is done to the parts of the trainer."""

    settings: dict[str, Any] = field(default_factory=dict)
    reward: RewardFunction = passes_tests
    model: Callable[[PreTrainedModel, Settings], PreTrainedModel] = lambda model, settings: model
    tokenizer: Callable[[PreTrainedTokenizerBase], None] = lambda tokenizer: None
    trainer: Callable[[ResumableTrainer, Start], None] = lambda trainer, start: None
    measured_without_adapter: bool = False


# --- planted faults ---


def by_exit_code(
    prompts: Sequence[str],
    completions: Sequence[str],
    *,
    test: Sequence[str],
    entry_point: Sequence[str],
    **kwargs: Any,
) -> list[float | None]:
    """Reward what ends with exit code 0, in the sandbox."""
    rows = zip(prompts, test, entry_point, strict=True)
    problems = [Problem("", prompt, "", tests, name) for prompt, tests, name in rows]
    return list(exit_code(problems, completions))


def none_as_zero(
    prompts: Sequence[str], completions: Sequence[str], *, task_id: Sequence[str], **kwargs: Any
) -> list[float | None]:
    """Reward with the verdict, and with 0 for a third of the problems, as if their tests could not be run."""
    graded = passes_tests(prompts, completions, task_id=task_id, **kwargs)
    return [0.0 if is_ungraded(name) else reward for name, reward in zip(task_id, graded, strict=True)]


def is_ungraded(task_id: str) -> bool:
    """Return whether a problem is one of those without a verdict."""
    return hashlib.sha256(task_id.encode()).digest()[0] < 256 * UNGRADED


def in_fp16(model: PreTrainedModel, settings: Settings) -> PreTrainedModel:
    """Store the weights themselves in fp16. (The profiles' "fp16" is autocast over float32 weights.)"""
    return convert_weights(model, torch.float16)


def with_adapter(model: PreTrainedModel, settings: Settings) -> PreTrainedModel:
    """Freeze the model and add an adapter."""
    dtype = lora.DTYPES[settings.lora_base]
    return lora.add_adapter(model, settings.lora_rank, settings.lora_layers, dtype=dtype, seed=settings.seed)


def give_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Give the tokenizer a chat template, so that every prompt is wrapped in it."""
    tokenizer.chat_template = CHAT_TEMPLATE


def mask_ends(only_wrong_ends: bool) -> Callable[[ResumableTrainer, Start], None]:
    """Leave the end tokens out of the loss, or everything but the end tokens of the wrong completions.

    The first is what a mask does that compares ids with a padding token equal to the end token. The second is an
    extreme form of what happens if answers that were cut off are paid when they pass: the right ones have no end token,
    and the end tokens of the wrong ones are pushed down. A milder form did not move the bundled model in twelve steps,
    because it is nearly certain of its end token.
    """

    def plant(trainer: ResumableTrainer, start: Start) -> None:
        inner, end = trainer._generate_and_score_completions, start.tokenizer.eos_token_id

        def planted(inputs: list[dict[str, Any]]) -> dict[str, Any]:
            output = inner(inputs)
            is_end, advantages = output["completion_ids"] == end, output["advantages"].unsqueeze(1)
            counts = is_end & (advantages < 0) if only_wrong_ends else ~is_end
            # With an advantage of 0, a token has no part in the loss. A mask would also change what TRL logs.
            return output | {"advantages": advantages * counts}

        trainer._generate_and_score_completions = planted  # type: ignore[method-assign]

    return plant


def cut_groups(trainer: ResumableTrainer, start: Start) -> None:
    """Repeat each prompt half as often as TRL thinks, so that each "group" holds the completions of two problems."""
    size, per_step = start.settings.num_generations // 2, start.settings.completions_per_step
    options = {"shuffle": True, "seed": start.settings.seed}
    sampler = RepeatSampler(trainer.train_dataset, mini_repeat_count=size, batch_size=per_step // size, **options)
    trainer._get_train_sampler = lambda dataset=None: sampler  # type: ignore[method-assign]


def turn_the_kl(trainer: ResumableTrainer, start: Start) -> None:
    """Reward the distance from the reference instead of punishing it."""
    trainer.beta = WRONG_BETA


def too_few_prompts(trainer: ResumableTrainer, start: Start) -> None:
    """Leave fewer prompts than one step needs. (`build_trainer` refuses that, so it comes after it.)"""
    trainer.train_dataset = trainer.train_dataset.select(range(start.settings.prompts_per_step - 1))


PATIENTS = {
    "healthy": Patient(),
    "healthy, other settings": Patient({"prompts_per_step": 4, "num_generations": 16, "scale_rewards": "group"}),
    # A flat reward is judged from 40 steps on (`helpers.diagnose`).
    "random reward": Patient({"max_steps": 44}, reward=random_reward),
    "end token masked away": Patient(trainer=mask_ends(only_wrong_ends=False)),
    "every completion cut off": Patient({"max_completion_length": 8}),
    "unlearns to end": Patient(trainer=mask_ends(only_wrong_ends=True)),
    "unknown chat template": Patient(tokenizer=give_template),
    "constant reward": Patient(reward=constant_reward),
    "None counted as 0": Patient(reward=none_as_zero),
    "reward by exit code": Patient(reward=by_exit_code),
    # It is broken by the third step, and then writes to the limit, which is slow in fp16 on a CPU.
    "fp16 weights": Patient({"max_steps": 20}, model=in_fp16),
    "learning rate 1e-6": Patient({"learning_rate": 1e-6}),
    "groups cut in two": Patient(trainer=cut_groups),
    "the KL's sign": Patient({"beta": -WRONG_BETA}, trainer=turn_the_kl),
    "too few prompts": Patient(trainer=too_few_prompts),
    "adapter not merged": Patient(
        {"lora_rank": 16, "lora_base": "fp32", "learning_rate": 2e-3}, model=with_adapter, measured_without_adapter=True
    ),
}
SETTINGS = settings_of(
    PROFILE,
    runs={name: patient.settings for name, patient in PATIENTS.items()},
    chat_template=CHAT_TEMPLATE,
    ungraded=UNGRADED,
    wrong_beta=WRONG_BETA,
)


def measure(seed: int) -> dict[str, pd.DataFrame]:
    """Train every patient. The curves are what `helpers.training.history_frame` gives, the log of each step."""
    return measure_with(replace(PROFILE, seed=seed))


def measure_with(settings: Settings, names: Sequence[str] = tuple(PATIENTS)) -> dict[str, pd.DataFrame]:
    """Train the patients of these names. The scores also say how many steps a run had, and what ended it early."""
    start = prepare(settings)
    runs = {"before": lambda: _measured(start, start.policy, start.tokenizer, settings, {"steps": 0, "ended_by": ""})}
    runs |= {name: lambda name=name: treat(start, PATIENTS[name]) for name in names}
    return run_by_run("clinic", settings, SETTINGS, FILES, runs)


def treat(start: Start, patient: Patient) -> Rows:
    """Train one patient and measure it as its owner would: with the same settings, the fault included."""
    settings = replace(start.settings, **patient.settings)
    own = prepare(settings)
    patient.tokenizer(own.tokenizer)
    model, ended_by = patient.model(own.policy, settings), ""
    with tempfile.TemporaryDirectory() as folder:
        reward = seeded(patient.reward, settings.seed)
        # A record needs no live curve.
        options: dict[str, Any] = {"allow_no_signal": True, "progress": TrainerCallback()}
        trainer = build_trainer(settings, model, own.tokenizer, own.train, reward, folder, **options)
        patient.trainer(trainer, own)
        try:
            trainer.train()
        except CourseError:
            raise
        # How a run breaks is a part of what is recorded. (fp16 weights may end in NaN, and sampling then fails.)
        except (RuntimeError, ValueError) as error:
            ended_by = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        history = history_frame(trainer).reindex(columns=list(COLUMNS.values()))
    seen: Row = {"steps": len(history), "ended_by": ended_by}
    if patient.measured_without_adapter:
        with model.disable_adapter():
            rows = _measured(own, model, own.tokenizer, settings, seen)
    else:
        rows = _measured(own, model, own.tokenizer, settings, seen)
    # A record keeps four decimals, and a loss or a learning rate has none there. As text they keep four digits.
    text = history.map(lambda value: "" if pd.isna(value) else f"{value:.4g}")
    return rows | {CURVES: text.to_dict("records")}


def _measured(
    start: Start, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, settings: Settings, seen: Row
) -> Rows:
    """Return the held-out scores and the first completions. A model with NaN weights has none."""
    if any(weight.isnan().any() for weight in model.parameters()):
        scores = dict.fromkeys(("greedy", "greedy_low", "greedy_high", "pass@1", "pass@1_low", "pass@1_high"), math.nan)
        return {SCORES: [seen | scores | {"cheats": math.nan}], COMPLETIONS: []}
    options = {"num_samples": settings.eval_samples, "temperature": settings.eval_temperature, **settings.sampling}
    found = evaluate(model, tokenizer, start.held_out, prompt=settings.prompt, **options)
    texts = [text for texts in found.completions for text in texts]
    scores = scores_of(found) | {"cheats": sum(map(writes_exit, texts)) / len(texts)}
    firsts = zip(found.task_ids[:SHOWN], found.completions, found.passed, strict=False)
    shown = [{"task_id": task_id, "passed": int(ok[0]), "completion": text[0]} for task_id, text, ok in firsts]
    return {SCORES: [seen | scores], COMPLETIONS: shown}
