"""Training in two processes, started as a reader starts it. The processes run on a CPU and exchange data by gloo."""

import itertools
import json
import os
import select
import shlex
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from helpers import evaluation, processes, profiles
from helpers.policy import load_policy
from helpers.problems import load_problems, split_problems, write_problems
from helpers.profiles import SettingsError, profile_settings, settings_here

STEPS = 5
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node"]
ACCELERATE = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
COMMAND = ["-m", "helpers.train", "--reward", "passes_tests"]

slow = pytest.mark.slow
long = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("two_processes")


@pytest.fixture(scope="module")
def options(folder):
    train, held_out = split_problems(load_problems("tiny"))
    write_problems(train[:24], folder / "train.jsonl")
    write_problems(held_out[:4], folder / "held_out.jsonl")
    sources = ["--problems", str(folder / "train.jsonl"), "--held-out", str(folder / "held_out.jsonl")]
    return ["--profile", "tiny", *sources, "--eval-samples", "1", "--max-steps", str(STEPS), "--allow-no-signal"]


@pytest.fixture(scope="module")
def start():
    """Return a function that starts a command in the project's folder, with its stdout and stderr as text."""
    root = Path(__file__).resolve().parent.parent
    environment = os.environ | {"PYTHONPATH": str(root), "PYTHONUNBUFFERED": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": root, "env": environment}
    started = []

    def begin(command):
        started.append(subprocess.Popen(command, **pipes, start_new_session=True))
        return started[-1]

    yield begin
    for process in started:
        if process.poll() is None:
            process.terminate()  # the launcher ends its processes
            process.communicate()


@pytest.fixture(scope="module")
def whole(start, folder, options):
    """A run in two processes without any interruption, and what it printed."""
    (folder / "seen").mkdir()
    script = [str(Path(__file__).with_name("watched_run.py")), str(folder / "seen"), "--reward", "watched"]
    process = start([*TORCHRUN, "2", *script, *options, "--output", str(folder / "whole")])
    printed, errors = process.communicate()
    assert process.returncode == 0, errors
    return folder / "whole", printed


def result_of(output):
    return json.loads((output / "result.json").read_text())


def timeless(history):
    return [{name: value for name, value in row.items() if "seconds" not in name} for row in history]


@slow
@long
def test_each_process_grades_half_of_the_groups_and_a_step_is_as_large_as_with_one(whole, folder):
    seen = [[json.loads(line) for line in (folder / "seen" / f"{rank}.jsonl").open()] for rank in range(2)]
    assert len(seen[0]) == len(seen[1]) == STEPS
    for (step, first), (same_step, second) in zip(*seen, strict=True):
        assert step == same_step
        assert len(first) == len(second)
        groups = Counter(first) + Counter(second)
        assert len(groups) == 8 and set(groups.values()) == {8}  # whole groups: no problem is in both processes
        assert len(Counter(first)) == len(Counter(second)) == 4
        assert sum(groups.values()) == profile_settings("tiny").completions_per_step


@slow
@long
def test_the_first_process_alone_measures_writes_and_prints(whole, folder):
    output, printed = whole
    assert printed.count("Before and after training") == printed.count(f"step   1/{STEPS}") == 1
    assert not list(output.glob("checkpoint-*"))
    result = result_of(output)
    assert result["processes"] == 2
    assert [row["step"] for row in result["history"]] == list(range(1, STEPS + 1))
    # One process measures the same: the number of processes changes no draw.
    settings = profile_settings("tiny")
    problems = load_problems(folder / "held_out.jsonl")
    before = evaluation.evaluate(*load_policy(settings.model), problems, num_samples=1, **settings.sampling)
    stored = json.loads((output / "before.json").read_text())["evaluations"]["held_out"]
    assert stored["greedy_completions"] == list(before.greedy_completions)
    assert stored["completions"] == [list(texts) for texts in before.completions]
    assert stored["passed"] == [list(passed) for passed in before.passed]


def descendants(pid):
    """Return the ids of all processes that this one started, directly or through others."""
    children = [
        int(child) for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()
    ]
    return children + [other for child in children for other in descendants(child)]


@slow
@long
@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs Linux")
def test_ctrl_c_leaves_one_checkpoint_and_no_process_and_the_run_goes_on_to_the_same_end(start, whole, folder, options):
    output = folder / "stopped"
    process = start([*TORCHRUN, "2", *COMMAND, *options, "--output", str(output)])
    assert any(line.startswith("step ") for line in process.stdout)
    left = {pid: os.pidfd_open(pid) for pid in descendants(process.pid)}
    assert len(left) > 2  # two that train, and those that run programs
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode != 0
    for pid, file in left.items():
        assert select.select([file], [], [], 30)[0], f"{pid} still runs"
        os.close(file)

    (sentence,) = [line for line in errors.splitlines() if line.startswith("helpers.train: ")]
    (checkpoint,) = output.glob("checkpoint-*")
    step = int(checkpoint.name.removeprefix("checkpoint-"))
    assert 0 < step < STEPS
    assert f"Stopped after step {step} of {STEPS}. The checkpoint of step {step}, " in sentence
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= set(json.loads((checkpoint / "checksums.json").read_text()))
    assert not (output / "result.json").exists()
    again = shlex.split(sentence.split(" To continue: ")[1])
    assert again == [*TORCHRUN, "2", *COMMAND, *options, "--output", str(output), "--resume"]

    # The other launcher ends up in the same place.
    process = start([*ACCELERATE, *again[again.index("-m", 2) :]])
    printed, errors = process.communicate()
    assert process.returncode == 0, errors
    assert printed.count(f"Resuming from step {step} of {STEPS}.") == 1
    resumed, uninterrupted = result_of(output), result_of(whole[0])
    assert resumed["resumed"] == [step]
    assert timeless(resumed["history"]) == timeless(uninterrupted["history"])
    assert resumed["held_out"] == uninterrupted["held_out"]
    weights = [(place / "model.safetensors").read_bytes() for place in (output, whole[0])]
    assert weights[0] == weights[1]


@slow
@long
def test_three_processes_cannot_share_eight_groups(start, folder, options):
    process = start([*TORCHRUN, "3", *COMMAND, *options, "--output", str(folder / "three")])
    printed, errors = process.communicate()
    assert process.returncode != 0 and printed == ""
    (sentence,) = [line for line in errors.splitlines() if line.startswith("helpers.train: ")]
    assert sentence == (
        "helpers.train: 3 processes cannot share the 8 groups of a step (prompts_per_step) equally; start 1, 2, 4 or 8."
    )
    assert not (folder / "three").exists()


TOGETHER = """
import sys
from datetime import timedelta
from helpers import processes
from helpers.runtime import CourseError

processes.MOMENT = timedelta(seconds=2)
said = open(f"{sys.argv[1]}/{processes.rank()}", "w")

def fail():
    raise ValueError("It is wrong.")

with processes.joined():
    print("printed once")
    print(processes.on_first(lambda: f"from {processes.rank()}"), processes.highest(processes.rank()), file=said)
    try:
        processes.on_first(fail)
    except (ValueError, CourseError) as error:
        print(type(error).__name__, error, file=said)
    processes.report("all met this")
    if processes.rank() == 1:
        processes.report("the second one met this")
    said.close()
"""


@slow
@long
def test_what_the_first_process_returns_or_raises_reaches_the_other_and_an_error_is_reported_once(start, tmp_path):
    (tmp_path / "together.py").write_text(TOGETHER)
    process = start([*TORCHRUN, "2", str(tmp_path / "together.py"), str(tmp_path)])
    printed, errors = process.communicate()
    assert process.returncode == 0, errors
    assert printed == "printed once\n"
    assert errors.count("all met this") == errors.count("the second one met this") == 1
    assert (tmp_path / "0").read_text() == "from 0 1\nValueError It is wrong.\n"
    assert (tmp_path / "1").read_text() == "from 0 1\nCourseError It is wrong.\n"


def test_a_share_is_whole_groups_and_whole_micro_batches():
    for name, count in itertools.product(profiles.PROFILES, (1, 2)):
        settings = profile_settings(name)
        share = settings.share(count)
        assert share.completions_per_step * count == settings.completions_per_step
        assert share.num_generations == settings.num_generations
        assert share.micro_batch * share.gradient_accumulation_steps == share.completions_per_step
        assert share.micro_batch <= settings.micro_batch
    sizes = [profile_settings("qwen-cpu").share(count) for count in (1, 2, 3, 6)]
    assert [(one.micro_batch, one.gradient_accumulation_steps) for one in sizes] == [(48, 1), (24, 1), (16, 1), (8, 1)]


def test_a_launcher_is_known_by_its_environment(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")  # without LOCAL_RANK this is a cluster's own variable
    assert (processes.count(), processes.rank(), processes.launcher()) == (1, 0, [])
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("RANK", "2")
    assert (processes.count(), processes.rank()) == (3, 2)
    with pytest.raises(SettingsError, match="^3 processes cannot share the 8 groups"):
        settings_here("tiny")


@pytest.mark.parametrize("launched", [False, True])
def test_only_a_single_process_hides_all_gpus_but_the_first(launched, monkeypatch):
    monkeypatch.setattr(os, "environ", os.environ | {"WORLD_SIZE": "2"} | ({"LOCAL_RANK": "1"} if launched else {}))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    profiles.has_gpu()
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == (None if launched else "0")
