"""How long a run will take and whether its completions fit, from one batch that is timed before the run starts."""

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from helpers.figures import duration
from helpers.memory import GIB
from helpers.policy import is_cut_off, pad_completions, per_token_logps, sample_completion_ids, tokenize_prompt
from helpers.problems import Problem, choose_prompt_mode, prompt_text
from helpers.profiles import Settings

ROWS = 2  # completions in the pass that times learning


@dataclass(frozen=True)
class Forecast:
    """What one batch took: seconds to sample a completion and to learn from one, and the share that was truncated."""

    sampling: float
    learning: float
    truncated: float

    def text(self, settings: Settings, evaluated: int, memory: int) -> str:
        """Return what the run will take, in words, if it evaluates on `evaluated` problems in all.

        `memory` is in bytes. An evaluation samples as the batch did. If its length limit is higher than that of
        training, truncated completions go on, so it takes longer.
        """
        longer = settings.sampling["max_completion_length"] / settings.max_completion_length
        measuring = evaluated * (1 + settings.eval_samples) * self.sampling
        measuring *= 1 + self.truncated * max(0.0, longer - 1)
        step = settings.completions_per_step * (self.sampling + self.learning)
        whole = measuring + settings.max_steps * step
        lines = [
            f"It will take about {duration(whole)}: evaluating {duration(measuring)}, {settings.max_steps} steps of "
            f"{duration(step)}; memory up to {memory / GIB:.1f} GiB, besides Python and its libraries."
        ]
        if self.truncated > 0.5:
            lines.append(
                f"{self.truncated:.0%} of the first completions were truncated at {settings.max_completion_length} "
                "tokens, so their programs are incomplete: consider a higher --max-completion-length."
            )
        return "\n".join(lines)


def measure_batch(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, problems: Sequence[Problem], settings: Settings
) -> Forecast:
    """Sample the completions of one step and learn from two of them, without changing the model, and time both."""
    mode = choose_prompt_mode(tokenizer, settings.prompt)
    prompts = [prompt_text(problem, tokenizer, mode) for problem in problems[: settings.prompts_per_step]]
    limits: dict[str, Any] = {"max_completion_length": settings.max_completion_length, "ends": settings.ends}
    start = perf_counter()
    groups = sample_completion_ids(
        model,
        tokenizer,
        prompts,
        num_samples=settings.num_generations,
        temperature=settings.temperature,
        batch_size=settings.per_device_eval_batch_size,
        precision=settings.precision,
        seed=settings.seed,
        **limits,
    )
    completions = [ids for group in groups for ids in group]
    sampling = (perf_counter() - start) / len(completions)
    rows = [(tokenize_prompt(tokenizer, prompt), group[0]) for prompt, group in zip(prompts, groups, strict=True)]
    return Forecast(
        sampling,
        _learning_seconds(model, tokenizer, rows[:ROWS]),
        sum(is_cut_off(model, tokenizer, ids, **limits) for ids in completions) / len(completions),
    )


def _learning_seconds(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[tuple[list[int], list[int]]]
) -> float:
    """Return the seconds of a forward and a backward pass, per completion."""
    batch = pad_completions([prompt for prompt, _ in rows], [ids for _, ids in rows], int(tokenizer.pad_token_id))
    start = perf_counter()
    logps, _ = per_token_logps(model, batch.to(model.device))
    logps.sum().backward()
    seconds = perf_counter() - start
    model.zero_grad(set_to_none=True)
    return seconds / len(rows)
