"""What the recorded experiments share: one training loop, the held-out scores, and a store that loses one run at most.

The loop is notebook 03's, on the helpers' functions: it samples with `helpers.policy`, and computes the loss with
`helpers.losses`. An experiment passes the part that it changes: the reward, the advantages, the loss, how often a batch
is used, or whether silent groups are replaced.
"""

import copy
import json
import random
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from time import perf_counter
from types import SimpleNamespace
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from helpers.advantages import group_advantages
from helpers.evaluation import Evaluation, bootstrap_interval, evaluate, grade
from helpers.losses import grpo_loss
from helpers.policy import (
    is_cut_off,
    load_policy,
    pad_completions,
    per_token_logps,
    sample_completion_ids,
    tokenize_prompt,
)
from helpers.problems import Problem, load_problems, split_problems
from helpers.profiles import Settings
from helpers.rewards import random_reward
from helpers.runtime import output_folder
from tools.record.table import replace, surroundings

Row = dict[str, Any]
Rows = dict[str, list[Row]]  # of a run, by file
Reward = Callable[[Sequence[Problem], Sequence[str], int], tuple[Sequence[float], Row]]
"""From problems and completions, one of each per row, and the step, to the rewards and what to log of them."""
Advantages = Callable[[Tensor, int], Tensor]
"""From rewards, shape (completions,), and the group size to advantages, shape (completions,)."""
Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""From logps, old logps, advantages and mask to the loss, as in `helpers.losses.grpo_loss`."""


@dataclass(frozen=True)
class Start:
    """What all runs of a seed start from."""

    settings: Settings
    policy: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    train: list[Problem]
    held_out: list[Problem]

    def fresh_policy(self) -> PreTrainedModel:
        """Return a copy of the untrained policy."""
        return copy.deepcopy(self.policy)


def prepare(settings: Settings) -> Start:
    """Load the model and the problems that the settings name."""
    torch.set_num_threads(min(settings.threads, torch.get_num_threads()))
    train_problems, held_out = split_problems(load_problems(settings.problems))
    return Start(settings, *load_policy(settings.model), train_problems, held_out)


def settings_of(profile: Settings, **more: Any) -> Row:
    """Return an experiment's SETTINGS: those of the profile without its seed, and more."""
    return {name: value for name, value in asdict(profile).items() if name != "seed"} | more


# --- rewards ---


def truth_of(problems: Sequence[Problem], texts: Sequence[str]) -> list[float]:
    """Return the verdicts of `helpers.verifier`, 1.0 or 0.0. Raises GradingError if a program cannot be graded."""
    return [float(passed) for [passed] in grade(problems, [[text] for text in texts])]


def verifier_reward(problems: Sequence[Problem], texts: Sequence[str], step: int) -> tuple[Sequence[float], Row]:
    """Reward with the verdicts of `helpers.verifier`."""
    return truth_of(problems, texts), {}


def constant(problems: Sequence[Problem], texts: Sequence[str], step: int) -> tuple[Sequence[float], Row]:
    """Reward every completion with 1.0: a control."""
    return [1.0] * len(texts), {}


def coin(seed: int) -> Reward:
    """Return a reward that tosses a coin: a control. The tosses depend on seed, step, place, prompt and completion."""

    def reward(problems: Sequence[Problem], texts: Sequence[str], step: int) -> tuple[Sequence[float], Row]:
        prompts = [problem.prompt for problem in problems]
        tosses = random_reward(prompts, texts, seed=seed, trainer_state=SimpleNamespace(global_step=step))
        return [toss or 0.0 for toss in tosses], {}

    return reward


def control(name: str, seed: int) -> Reward:
    """Return the reward "verifier", or the control "random" or "constant"."""
    return {"verifier": verifier_reward, "random": coin(seed), "constant": constant}[name]


# --- training ---


def subtract_group_mean(rewards: Tensor, num_generations: int) -> Tensor:
    """Return the advantages of this course's runs: the reward minus the mean of its group, not divided."""
    return group_advantages(rewards, num_generations, "none")


def loss_of(settings: Settings, **options: Any) -> Loss:
    """Return `helpers.losses.grpo_loss` with the settings' options, some of them replaced."""
    fixed = {name: getattr(settings, name) for name in ("loss_type", "epsilon", "epsilon_high")}
    fixed |= {"max_completion_length": settings.max_completion_length} | options
    return lambda logps, old, advantages, mask: grpo_loss(logps, old, advantages, mask, **fixed)[0]


def train(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    settings: Settings,
    reward: Reward,
    *,
    advantages: Advantages = subtract_group_mean,
    loss: Loss | None = None,
    updates: int = 1,
    replace_silent: bool = False,
    watch: Callable[[PreTrainedModel], Row] | None = None,
) -> list[Row]:
    """Train `policy` in place until the settings' number of completions is sampled. Returns a row for each batch.

    Runs of the same seed see the problems in the same order. `updates` is TRL's num_iterations: so many optimizer steps
    use the same batch. With `replace_silent`, a group of equal rewards is replaced by one of the next problem until
    the batch is full or the completions are used up (dynamic sampling, arXiv 2503.14476, section 3.2). `watch` is
    called after each batch, and what it returns is added to the row.

    reward: mean of all completions that were sampled. silent: share of the sampled groups whose rewards are all equal.
    trained: groups that the updates used. largest_ratio and outside: the largest ratio of new to old probability at
    the batch's last update, and the share of tokens whose ratio there is outside the clip range of the settings.
    """
    loss = loss or loss_of(settings)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=settings.learning_rate, weight_decay=0.0)
    source, budget = _in_random_order(problems, settings.seed), settings.max_steps * settings.completions_per_step
    history: list[Row] = []
    used = steps = draws = 0
    while used < budget:
        begun, batch = perf_counter(), _Batch()
        while batch.kept < settings.prompts_per_step and used < budget:
            wanted = min(settings.prompts_per_step - batch.kept, (budget - used) // settings.num_generations)
            asked = [next(source) for _ in range(wanted)]
            groups = _sample(policy, tokenizer, asked, settings, draws)
            draws, used = draws + 1, used + wanted * settings.num_generations
            batch.add(policy, tokenizer, asked, groups, settings, reward, len(history), keep_silent=not replace_silent)
        rates: Row = {}
        if batch.kept:
            target = advantages(torch.tensor(batch.rewards), settings.num_generations)
            rates = _learn(policy, tokenizer, optimizer, batch, target, settings, loss, updates)
            steps += updates
        row = {"step": len(history) + 1, "completions": used, "updates": steps, "trained": batch.kept}
        row |= batch.means() | rates | {"seconds": perf_counter() - begun}
        history.append(row | (watch(policy) if watch else {}))
    return history


class _Batch:
    """The groups that a batch is trained on, and what is logged of all that were sampled for it."""

    def __init__(self) -> None:
        self.kept = 0
        self.prompts: list[str] = []
        self.ids: list[list[int]] = []
        self.rewards: list[float] = []
        self._seen: list[Row] = []

    def add(
        self,
        policy: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        asked: Sequence[Problem],
        groups: Sequence[Sequence[list[int]]],
        settings: Settings,
        reward: Reward,
        step: int,
        keep_silent: bool,
    ) -> None:
        """Grade groups, and keep them, or those of them whose rewards differ."""
        ids = [completion for group in groups for completion in group]
        size, limit = settings.num_generations, settings.max_completion_length
        owners = [problem for problem in asked for _ in range(size)]
        rewards, logged = reward(owners, tokenizer.batch_decode(ids, skip_special_tokens=True), step)
        of_groups = [list(rewards[start : start + size]) for start in range(0, len(rewards), size)]
        silent = [len(set(group)) == 1 for group in of_groups]
        cut = [is_cut_off(policy, tokenizer, completion, limit) for completion in ids]
        means = {"reward": mean(rewards), "silent": mean(silent), "length": mean(map(len, ids)), "cut_off": mean(cut)}
        self._seen.append({"completions": len(ids)} | means | logged)
        for problem, group, values, is_silent in zip(asked, groups, of_groups, silent, strict=True):
            if keep_silent or not is_silent:
                self.kept += 1
                self.prompts += [problem.prompt] * size
                self.ids += group
                self.rewards += values

    def means(self) -> Row:
        """Return the means of what was logged, weighted by the number of completions."""
        seen = pd.DataFrame(self._seen)
        weights = seen.pop("completions")
        # A share that a small part of the batch could not measure, such as that of no right ones, is NaN there.
        sums = seen.mul(weights, axis=0).sum(), seen.notna().mul(weights, axis=0).sum()
        return (sums[0] / sums[1]).to_dict()


def _in_random_order(problems: Sequence[Problem], seed: int) -> Iterator[Problem]:
    """Yield the problems in random order, again and again."""
    order = random.Random(seed)
    while True:
        yield from order.sample(problems, len(problems))


def _sample(
    policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, asked: Sequence[Problem], settings: Settings, draw: int
) -> list[list[list[int]]]:
    return sample_completion_ids(
        policy,
        tokenizer,
        [problem.prompt for problem in asked],
        num_samples=settings.num_generations,
        temperature=settings.temperature,
        max_completion_length=settings.max_completion_length,
        # One number out of both, so that no two draws of any two seeds share their random numbers.
        seed=settings.seed * 1_000_003 + draw,
    )


def _learn(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    optimizer: torch.optim.Optimizer,
    batch: _Batch,
    advantages: Tensor,
    settings: Settings,
    loss: Loss,
    updates: int,
) -> Row:
    """Update the policy `updates` times on one batch, and return what is logged of it."""
    # Equal completions of a prompt have equal log-probabilities, and in this model's groups most are equal. So each is
    # computed once, and autograd adds up the gradients of its copies.
    rows = list(zip(batch.prompts, map(tuple, batch.ids), strict=True))
    places = {row: place for place, row in enumerate(dict.fromkeys(rows))}
    copies = torch.tensor([places[row] for row in rows])
    prompt_ids = [tokenize_prompt(tokenizer, prompt) for prompt, _ in places]
    padded = pad_completions(prompt_ids, [ids for _, ids in places], tokenizer.pad_token_id)
    mask, old, norms = padded.completion_mask[copies], None, []
    for _ in range(updates):
        distinct_logps, distinct_entropies = per_token_logps(policy, padded, settings.temperature)
        logps, entropies = distinct_logps[copies], distinct_entropies[copies]
        old = logps.detach() if old is None else old
        optimizer.zero_grad()
        loss(logps, old, advantages, mask).backward()
        norms.append(torch.nn.utils.clip_grad_norm_(policy.parameters(), settings.max_grad_norm).item())
        optimizer.step()
    ratio = (logps.detach() - old).exp()[mask.bool()]
    high = settings.epsilon if settings.epsilon_high is None else settings.epsilon_high
    outside = ((ratio < 1 - settings.epsilon) | (ratio > 1 + high)).float().mean().item()
    entropy = ((entropies * mask).sum() / mask.sum()).item()
    return {"entropy": entropy, "grad_norm": mean(norms), "largest_ratio": ratio.max().item(), "outside": outside}


# --- what is measured ---


def held_out_scores(start: Start, policy: PreTrainedModel) -> tuple[Row, Evaluation]:
    """Return greedy, pass@1 and (with 8 samples) pass@8 of the held-out problems with their intervals."""
    settings = start.settings
    options = {"num_samples": settings.eval_samples, "temperature": settings.eval_temperature, **settings.sampling}
    found = evaluate(policy, start.tokenizer, start.held_out, **options)
    return scores_of(found), found


def scores_of(found: Evaluation) -> Row:
    """Return the means over problems with their 95 % intervals, one column each."""
    scores: Row = {}
    for name, values in found.scores().items():
        low, high = bootstrap_interval(values)
        scores |= {name: float(values.mean()), f"{name}_low": low, f"{name}_high": high}
    return scores


def run_by_run(
    experiment: str,
    settings: Settings,
    more: Mapping[str, Any],
    files: Sequence[str],
    runs: Mapping[str, Callable[[], Rows]],
) -> dict[str, pd.DataFrame]:
    """Make the runs of a seed and return the rows of all, file by file. Each row gets the seed and the name of its run.

    Each run is stored as soon as it is finished, below the output folder, so an interruption loses at most one run.
    A stored run counts only if its settings, `more` of them and the versions are those of now. Once all runs are
    known, their folder is renamed, so that the same seed is measured again the next time. Each seed begins with
    another run, so that a machine that becomes busier favours none of them.
    """
    seed, names = settings.seed, list(runs)
    folder = output_folder() / "record" / "runs" / experiment / f"seed_{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    given = {"settings": asdict(settings), "more": dict(more), "versions": surroundings()["versions"], "runs": names}
    given = json.loads(json.dumps(given, default=str))
    for name in names[seed % len(names) :] + names[: seed % len(names)]:
        path = _path(folder, names, name)
        if _stored(path, given) is None:
            begun = perf_counter()
            rows = runs[name]()
            replace(path, json.dumps({"given": given, "rows": rows}) + "\n")
            print(f"{experiment}, seed {seed}: {name} took {perf_counter() - begun:.0f} s.", flush=True)
    found: Rows = {file: [] for file in files}
    for name in names:
        rows = _stored(_path(folder, names, name), given) or {}
        for file in files:
            found[file] += [{"seed": seed, "run": name} | row for row in rows.get(file, [])]
    finished = folder.with_name(folder.name + "_finished")
    shutil.rmtree(finished, ignore_errors=True)
    folder.rename(finished)
    return {file: pd.DataFrame(rows) for file, rows in found.items()}


def _path(folder: Path, names: Sequence[str], name: str) -> Path:
    return folder / f"run_{names.index(name)}.json"


def _stored(path: Path, given: Row) -> Rows | None:
    """Return the rows of a finished run, or None if there is none with these settings and versions."""
    if not path.is_file():
        return None
    record = json.loads(path.read_text(encoding="utf-8"))
    return record["rows"] if record["given"] == given else None
