"""`python -m helpers.train` with one more reward, `watched`: passes_tests that writes down what each process grades.

To start: torchrun --nproc_per_node 2 watched_run.py FOLDER, followed by the options of `python -m helpers.train`.
"""

import json
import sys
from pathlib import Path

from helpers import processes, rewards, train


def watched(prompts, completions, **columns) -> list[float | None]:
    """Append the prompts of this call, by task_id, to FOLDER/RANK.jsonl."""
    with (Path(sys.argv[1]) / f"{processes.rank()}.jsonl").open("a") as file:
        file.write(json.dumps([columns["trainer_state"].global_step, columns["task_id"]]) + "\n")
    return rewards.passes_tests(prompts, completions, **columns)


if __name__ == "__main__":
    rewards.watched = watched
    sys.exit(train.main(sys.argv[2:]))
