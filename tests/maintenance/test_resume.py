import itertools
import json
import multiprocessing
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.checkpoints import Interrupted, last_checkpoint, mark_complete, require_room
from helpers.resumable import ResumableTrainer
from jupyter_client import KernelManager
from small_run import small_settings, vowels
from transformers import TrainerCallback

from helpers import checkpoints, evaluation, rewards, settings, train
from helpers.policy import load_policy
from helpers.problems import load_problems, write_problems
from helpers.runtime import CourseError
from helpers.training import build_trainer, history_frame

STEPS = 6


@pytest.fixture(autouse=True)
def interrupts():
    """Ctrl-C as in a terminal, also where the tests themselves run in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return replace(small_settings(tmp_path_factory.mktemp("small")), max_steps=STEPS)


def run_command(small, folder, *arguments, events=None, seed=0):
    """Run the command; `events` says what happens at which call of the reward: {3: interrupt} is in the third step."""
    calls = itertools.count(1)

    def eventful(completions, **columns) -> list[float | None]:
        (events or {}).get(next(calls), lambda: None)()
        return vowels(completions)

    eventful.__name__ = "vowels"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(rewards, "vowels", eventful, raising=False)
        patched.setitem(settings.PROFILES, "tiny", small)
        given = ["--profile", "tiny", "--output", str(folder), "--reward", "vowels", "--seed", str(seed)]
        # The call of the reward that checks for signal is not made, so that the third call is that of the third step;
        # nor is it where a run goes on.
        return train.main([*given, *(["--allow-no-signal"] * ("--resume" not in arguments)), *arguments]), folder


@pytest.fixture
def command(small, tmp_path):
    return lambda *arguments, output="run", **options: run_command(small, tmp_path / output, *arguments, **options)


@pytest.fixture(scope="module")
def whole(small, tmp_path_factory):
    """The same run without any interruption."""
    status, output = run_command(small, tmp_path_factory.mktemp("whole") / "run")
    assert status == 0
    return timeless(output), weights(output)


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


def interrupt_twice():
    interrupt(), interrupt()


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def timeless(folder):
    result = json.loads((folder / "result.json").read_text())
    result["history"] = [{k: v for k, v in row.items() if "seconds" not in k} for row in result["history"]]
    return {key: value for key, value in result.items() if "seconds" not in key and key != "resumed"}


def resumed(folder):
    return json.loads((folder / "result.json").read_text())["resumed"]


def weights(folder):
    return (folder / "model.safetensors").read_bytes()


def names(folder):
    return {path.name for path in folder.iterdir()}


def in_a_child(function):
    """Run it in a forked process and return how that ended: an exit status, or minus a signal."""
    child = multiprocessing.get_context("fork").Process(target=function)
    child.start()
    child.join(120)
    return child.exitcode


def test_an_interrupted_run_keeps_what_it_has_and_goes_on_to_the_same_end(command, whole, capsys, monkeypatch):
    capsys.readouterr()
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    status, output = command(events={3: interrupt})
    printed, errors = capsys.readouterr()
    assert status == 130
    assert "Stopping after this step. Once more stops at once." in printed
    what, again = errors.removeprefix("helpers.train: ").split(" To go on: ")
    assert what == f"Stopped after step 3 of 6; the checkpoint of step 3, with the history up to there, is in {output}."
    assert shlex.split(again)[1:] == [
        *("-m", "helpers.train", "--profile", "tiny", "--output", str(output), "--reward", "vowels"),
        *("--seed", "0", "--allow-no-signal", "--resume"),
    ]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert names(output) == {"checkpoint-3", "held_out.jsonl", "samples_before.jsonl", "unfinished.json"}
    seconds = checkpoints.seconds_trained(output / "checkpoint-3")

    measured, real = [], evaluation.evaluate
    monkeypatch.setattr(evaluation, "evaluate", lambda *a, **k: measured.append(1) or real(*a, **k))
    assert command("--resume")[0] == 0
    assert "Going on from step 3 of 6." in capsys.readouterr().out
    assert len(measured) == 1  # only after: before was kept
    assert (timeless(output), weights(output)) == whole
    assert resumed(output) == [3]
    result = json.loads((output / "result.json").read_text())
    assert [row["step"] for row in result["history"]] == [1, 2, 3, 4, 5, 6]
    in_steps = sum(row["seconds"] for row in result["history"])
    assert max(seconds, in_steps) < result["train_seconds"] < result["seconds"]
    assert not {"checkpoint-6", "unfinished.json"} & names(output)
    assert "samples_after.jsonl" in names(output)


def test_a_second_interrupt_stops_at_once_and_the_periodic_checkpoint_remains(command, whole, capsys):
    status, output = command(events={4: interrupt_twice})
    assert status == 130
    errors = capsys.readouterr().err
    assert "Stopped at once in step 4 of 6; the checkpoint of step 2, with the history" in errors
    assert "Traceback" not in errors
    assert command("--resume")[0] == 0
    assert (timeless(output), weights(output)) == whole
    assert resumed(output) == [2]


def test_interrupted_again_and_again(command, whole):
    assert command(events={1: interrupt})[0] == 130
    for steps in (1, 2):
        assert command("--resume", events={steps: interrupt})[0] == 130
    status, output = command("--resume")
    assert status == 0
    assert resumed(output) == [1, 2, 4]
    assert (timeless(output), weights(output)) == whole


@pytest.mark.skipif(sys.platform != "linux", reason="forks a process that has torch loaded")
@pytest.mark.parametrize("moment", ["in a step", "in the middle of saving", "between saving and its end"])
def test_a_killed_run_goes_on_from_its_last_complete_checkpoint(moment, command, whole, tmp_path, monkeypatch):
    def run():
        part = {
            "in the middle of saving": "_save_optimizer_and_scheduler",
            "between saving and its end": "_save_rng_state",
        }
        if moment in part:
            real = getattr(ResumableTrainer, part[moment])

            def save(self, folder):
                real(self, folder)
                if self.state.global_step == 4:
                    die()

            setattr(ResumableTrainer, part[moment], save)
        command(events={5: die} if moment == "in a step" else None)

    assert in_a_child(run) == -signal.SIGKILL
    output = tmp_path / "run"
    kept = 4 if moment == "in a step" else 2
    assert last_checkpoint(output) == output / f"checkpoint-{kept}"
    assert (output / "checkpoint-4").exists()
    assert command("--resume")[0] == 0
    assert (timeless(output), weights(output)) == whole  # each step once: those after the checkpoint are trained again
    assert resumed(output) == [kept]
    assert not list(output.glob("checkpoint-*"))


def test_what_was_interrupted_while_measuring_trains_no_step_more(command, monkeypatch, capsys):
    real, measured = evaluation.evaluate, []

    def evaluate(*arguments, **sampling):
        measured.append(1)
        if len(measured) == 2:
            interrupt()
        return real(*arguments, **sampling)

    monkeypatch.setattr(evaluation, "evaluate", evaluate)
    status, output = command("--max-steps", "5")  # in the middle of an epoch, which has two steps
    assert status == 130
    assert f"Interrupted; the checkpoint of step 5 is in {output}. To go on: " in capsys.readouterr().err
    trained = weights(output / "checkpoint-5")
    sampled = []
    assert command("--resume", "--max-steps", "5", events={1: lambda: sampled.append(1)})[0] == 0
    assert not sampled
    assert weights(output) == trained
    assert [row["step"] for row in timeless(output)["history"]] == [1, 2, 3, 4, 5]
    assert resumed(output) == [5]


def test_interrupted_before_training_there_is_nothing_to_go_on_from(command, monkeypatch, capsys):
    assert command(events={3: interrupt})[0] == 130  # what this leaves is not gone on from
    capsys.readouterr()
    with monkeypatch.context() as patched:
        patched.setattr(evaluation, "evaluate", lambda *_, **__: interrupt())
        status, output = command("--overwrite")
    assert status == 130
    assert "Interrupted before training. To start again: " in capsys.readouterr().err
    assert names(output) == set()
    assert command("--resume")[0] == 2
    assert "There is no complete checkpoint in" in capsys.readouterr().err
    assert command("--overwrite")[0] == 0


def test_what_does_not_go_on_is_refused_with_the_reason(command, small, monkeypatch, capsys, tmp_path):
    assert command("--resume")[0] == 2
    assert capsys.readouterr().err.endswith(" to go on from: start without --resume.\n")
    assert command(events={3: interrupt})[0] == 130
    capsys.readouterr()
    assert command("--resume", "--max-steps", "9", seed=5)[0] == 2
    assert "other settings: max_steps 6 (now 9), seed 0 (now 5). Go on" in capsys.readouterr().err
    assert command("--resume", "--reward", "passes_tests")[0] == 2
    assert "other settings: reward vowels (now passes_tests)." in capsys.readouterr().err
    problems = load_problems(small.problems)
    write_problems(problems[::-1], Path(small.problems))
    assert command("--resume")[0] == 2
    assert "other settings: SHA-256 of the problems" in capsys.readouterr().err
    write_problems(problems, Path(small.problems))
    assert command()[0] == 2
    assert "is not empty" in capsys.readouterr().err
    status, output = command("--resume")
    assert status == 0
    done = (output / "result.json").read_bytes()
    assert command("--resume")[0] == 2
    assert "is finished, as result.json there says" in capsys.readouterr().err
    assert (output / "result.json").read_bytes() == done
    with pytest.raises(SystemExit):
        command("--resume", "--overwrite")


def test_overwrite_goes_on_from_nothing_that_another_run_left(command, whole, tmp_path):
    command(events={5: interrupt}, seed=3)
    (tmp_path / "run" / "mine.txt").write_text("keep")
    command("--overwrite", events={1: interrupt_twice})
    assert names(tmp_path / "run") == {"mine.txt", "held_out.jsonl", "samples_before.jsonl", "unfinished.json"}
    status, output = command("--overwrite")
    assert status == 0
    assert (timeless(output), weights(output)) == whole
    assert (output / "mine.txt").read_text() == "keep"


def new_trainer(settings, folder, reward=vowels):
    model, tokenizer = load_policy(settings.model)
    problems = load_problems(settings.problems)
    return build_trainer(settings, model, tokenizer, problems, reward, folder, allow_no_signal=True)


def eventful_trainer(settings, folder):
    """A trainer as a notebook builds one; `trainer.events` as in `run_command`."""
    calls = itertools.count(1)
    events = {}

    def reward(completions, **columns) -> list[float | None]:
        events.get(next(calls), lambda: None)()
        return vowels(completions)

    trainer = new_trainer(settings, folder, reward)
    trainer.events = events
    return trainer


@pytest.fixture
def trainer(small, tmp_path):
    return eventful_trainer(small, tmp_path / "t")


def steps(trainer):
    return history_frame(trainer)["step"].tolist()


class BetweenMicroBatches(TrainerCallback):
    """Interrupt step 6 when a part of its completions has been learned from."""

    def on_substep_end(self, args, state, control, **kwargs):
        if state.global_step == 5 and state.log_history[-1]["step"] == 5:
            interrupt_twice()


@pytest.mark.parametrize("micro_batch", [None, 4])
def test_a_trainer_goes_on_after_interruptions_in_the_same_process(micro_batch, small, tmp_path):
    small = replace(small, per_device_train_batch_size=micro_batch)
    trainer = eventful_trainer(small, tmp_path / "t")
    trainer.events[2] = interrupt
    with pytest.raises(
        Interrupted, match=r"Stopped after step 2 of 6; .* trainer.train\(resume_from_checkpoint=True\)"
    ):
        trainer.train()
    assert steps(trainer) == [1, 2]
    if micro_batch:
        trainer.add_callback(BetweenMicroBatches)
    else:
        trainer.events[6] = interrupt_twice
    with pytest.raises(Interrupted, match="Stopped at once in step 6 of 6; the checkpoint of step 4") as caught:
        trainer.train(resume_from_checkpoint=True)
    assert caught.value._render_traceback_() == [str(caught.value)]  # in a notebook: the sentence alone
    assert caught.value.__suppress_context__
    trainer.remove_callback(BetweenMicroBatches)
    assert trainer.train(resume_from_checkpoint=True).global_step == 6
    assert steps(trainer) == [1, 2, 3, 4, 5, 6]

    whole = new_trainer(small, tmp_path / "whole")
    whole.train()
    same = zip(trainer.model.parameters(), whole.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in same)
    columns = [name for name in history_frame(whole) if "seconds" not in name]
    assert history_frame(trainer)[columns].equals(history_frame(whole)[columns])
    # What the step that was cut short had logged is not mixed into the one that replaced it.
    assert (history_frame(trainer)["grading_seconds"] < history_frame(trainer)["seconds"]).all()

    assert trainer.train(resume_from_checkpoint=True).global_step == 6  # and trains no step more
    assert steps(trainer) == [1, 2, 3, 4, 5, 6]


def test_stopped_before_the_first_checkpoint_it_says_so(trainer):
    trainer.events[1] = interrupt_twice
    with pytest.raises(Interrupted, match="Stopped at once in step 1 of 6, before the first checkpoint.$"):
        trainer.train()
    with pytest.raises(CourseError, match="There is no complete checkpoint in .* to go on from."):
        trainer.train(resume_from_checkpoint=True)


def test_sigterm_stops_as_ctrl_c_does(trainer, tmp_path):
    leftover = tmp_path / "t" / "checkpoint-2" / "leftover"  # of a checkpoint that was cut short
    leftover.parent.mkdir(parents=True)
    leftover.touch()
    trainer.events[2] = lambda: os.kill(os.getpid(), signal.SIGTERM)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match="Stopped after step 2 of 6") as caught:
        trainer.train()
    assert caught.value.status == 143
    assert signal.getsignal(signal.SIGTERM) == before
    assert last_checkpoint(tmp_path / "t") == leftover.parent and not leftover.exists()


def test_a_signal_that_was_ignored_stays_ignored(trainer):
    trainer.events[2] = interrupt
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        trainer.train()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert steps(trainer) == [1, 2, 3, 4, 5, 6]


def test_handlers_are_put_back_after_an_error_too(trainer):
    def fail():
        raise ZeroDivisionError

    trainer.events[2] = fail
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(ZeroDivisionError):
        trainer.train()
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_it_trains_outside_the_main_thread(trainer):
    thread = threading.Thread(target=trainer.train)
    thread.start()
    thread.join()
    assert steps(trainer) == [1, 2, 3, 4, 5, 6]


def test_a_checkpoint_that_lacks_weights_is_refused_but_not_for_a_tied_output_layer(trainer):
    loaded = namedtuple("loaded", "missing_keys unexpected_keys")
    trainer._issue_warnings_after_load(loaded(["lm_head.weight"], []))
    with pytest.raises(CourseError, match=r"lacks weights of this model: model.norm.weight\."):
        trainer._issue_warnings_after_load(loaded(["lm_head.weight", "model.norm.weight"], []))


def checkpoint(folder, step, size=100):
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    for name in ("model.safetensors", "optimizer.pt", "trainer_state.json"):
        (path / name).write_bytes(b"x" * size)
    return path


def test_only_a_complete_checkpoint_counts(tmp_path):
    assert last_checkpoint(tmp_path) is None
    first = checkpoint(tmp_path, 9)
    assert last_checkpoint(tmp_path) is None
    mark_complete(first, 1.5)
    checkpoint(tmp_path, 20)
    (tmp_path / "checkpoint-best").mkdir()
    assert last_checkpoint(tmp_path) == first and checkpoints.seconds_trained(first) == 1.5
    second = checkpoint(tmp_path, 10)
    mark_complete(second, 2.5)
    assert names(tmp_path) == {"checkpoint-10", "checkpoint-best"}
    for damage in (
        lambda: (second / "optimizer.pt").write_bytes(b"x" * 99),
        lambda: (second / "optimizer.pt").unlink(),
        lambda: (second / checkpoints.COMPLETE).write_text('{"sizes": '),
    ):
        kept = tmp_path / "copy"
        shutil.copytree(second, kept)
        damage()
        assert last_checkpoint(tmp_path) is None
        shutil.rmtree(second)
        kept.rename(second)
        assert last_checkpoint(tmp_path) == second


def test_a_full_disk_is_found_before_training(command, monkeypatch, capsys):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda path: usage(free=10_000_000))
    monkeypatch.setattr(evaluation, "evaluate", lambda *_, **__: pytest.fail("measured"))
    status, output = command()
    assert status == 2
    said = capsys.readouterr().err
    assert said.startswith("helpers.train: This run writes up to 11 MB (the model and two checkpoints), and the disk")
    assert said.endswith(f" that holds {output} has 10 MB left: make room, or choose another folder.\n")


def test_what_a_run_needs_is_what_it_writes(trainer, tmp_path, monkeypatch):
    def fits(folder, free):
        monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda path: namedtuple("usage", "free")(free))
        try:
            require_room(folder, trainer.model)
        except CourseError:
            return False
        return True

    trainer.train()
    (kept,) = checkpoints.checkpoint_folders(tmp_path / "t")
    model, checkpoint = (kept / "model.safetensors").stat().st_size, sum(path.stat().st_size for path in kept.iterdir())
    monkeypatch.setattr(checkpoints, "SMALL_FILES", 0)
    for folder, needed in [("elsewhere", model + 2 * checkpoint), ("t", model + checkpoint)]:  # there one lies already
        # Not to the byte: of so small a model the smaller files, too, are a tenth of the whole.
        assert not fits(tmp_path / folder, 0.7 * needed)
        assert fits(tmp_path / folder, 1.1 * needed)


@pytest.fixture
def mounted(tmp_path):
    """Mount a small file system in memory; skipped where that is not allowed."""
    places = []

    def mount(options):
        place = tmp_path / f"mounted-{len(places)}"
        place.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "none", str(place)], capture_output=True, text=True
        )
        if done.returncode:
            pytest.skip(f"cannot mount: {done.stderr.strip()}")
        places.append(place)
        return place

    yield mount
    for place in places:
        subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_is_really_full(command, mounted, capsys):
    place = mounted("size=5m")
    assert command(output=place / "run")[0] == 2
    assert "and the disk that holds" in capsys.readouterr().err
    assert names(place / "run") == set()


@pytest.mark.parametrize("kind", ["read-only", "proc", "below a file", "full to the last byte"])
def test_a_folder_that_takes_nothing_is_found_at_once(kind, command, mounted, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train, "run", lambda *_, **__: pytest.fail("went on"))
    if kind == "read-only":
        place = mounted("size=1m")
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
    elif kind == "full to the last byte":
        place = mounted("size=64k")
        with pytest.raises(OSError):
            (place / "ballast").write_bytes(b"0" * 100_000)
    else:
        place = Path("/proc/run") if kind == "proc" else tmp_path / "file" / "run"
        (tmp_path / "file").write_text("in the way")
    assert command("--overwrite", output=place)[0] == 2
    said = capsys.readouterr().err
    assert said.startswith(f"helpers.train: Results cannot be written to {place}: ") and said.count("\n") == 1


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc")
def test_ctrl_c_in_a_terminal(root, tmp_path):
    script = [sys.executable, str(root / "tests/small_run.py"), str(tmp_path)]
    options = ["--profile", "tiny", "--output", str(tmp_path / "run"), "--max-steps", "400", "--allow-no-signal"]
    environment = os.environ | {"PYTHONPATH": str(root), "PYTHONUNBUFFERED": "1"}
    environment["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # the script saves a model before the command begins
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": root, "env": environment}
    process = subprocess.Popen([*script, *options], **pipes, start_new_session=True)
    for line in process.stdout:
        if line.startswith("step   5/400"):
            break
    graders = children(process.pid)
    assert graders
    os.killpg(process.pid, signal.SIGINT)  # as the terminal does: to all processes in the foreground
    printed, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Stopping after this step." in printed
    assert errors.count("\n") == 1 and "Stopped after step" in errors
    assert not [pid for pid in graders if Path(f"/proc/{pid}").exists()]
    again = shlex.split(errors.split("To go on: ")[1])
    assert again[:3] == [sys.executable, "-m", "helpers.train"]
    done = subprocess.Popen([*script, *again[3:]], **pipes, start_new_session=True)
    said = list(itertools.takewhile(lambda line: not line.startswith("step "), done.stdout))
    assert said[-1].startswith("Going on from step")
    os.killpg(done.pid, signal.SIGTERM)
    errors = done.communicate(timeout=120)[1]
    assert done.returncode == 143
    assert errors.count("\n") == 1 and "Stopped after step" in errors


CELL = """
import sys
from pathlib import Path

sys.path[:0] = [{tests!r}, {root!r}]
from dataclasses import replace
from small_run import small_settings, vowels
from transformers import TrainerCallback
from helpers.policy import load_policy
from helpers.problems import load_problems
from helpers.training import build_trainer, history_frame

small = replace(small_settings(Path({folder!r})), max_steps=200, save_steps=50)
model, tokenizer = load_policy(small.model)
problems = load_problems(small.problems)
trainer = build_trainer(small, model, tokenizer, problems, vowels, Path({folder!r}) / "run")
"""


@pytest.mark.slow
def test_interrupting_the_kernel_of_a_notebook(root, tmp_path):
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(cwd=str(tmp_path), stderr=subprocess.DEVNULL)
    client = manager.client()
    client.start_channels()

    def execute(code, interrupt_at=None):
        """The reply, and the messages that the cell gave; the kernel is interrupted at the first of that type."""
        request, messages = client.execute(code), []
        while not messages or messages[-1]["content"].get("execution_state") != "idle":
            message = client.get_iopub_msg(timeout=120)
            if message["parent_header"].get("msg_id") != request:
                continue
            messages.append(message)
            if message["msg_type"] == interrupt_at:
                interrupt_at = None
                manager.interrupt_kernel()
        while (reply := client.get_shell_msg(timeout=120))["parent_header"]["msg_id"] != request:
            pass
        return reply["content"], messages

    def text(messages):
        return "".join(m["content"]["text"] for m in messages if m["msg_type"] == "stream")

    try:
        client.wait_for_ready(timeout=120)
        assert (
            execute(CELL.format(tests=str(root / "tests"), root=str(root), folder=str(tmp_path)))[0]["status"] == "ok"
        )
        reply, messages = execute("trainer.train()", interrupt_at="display_data")
        assert reply["status"] == "error" and reply["ename"] == "Interrupted"
        (error,) = [m["content"] for m in messages if m["msg_type"] == "error"]
        (sentence,) = error["traceback"]
        assert sentence.startswith("Stopped after step ") and "resume_from_checkpoint=True" in sentence
        assert "Stopping after this step." in text(messages)
        _, messages = execute(
            "steps = history_frame(trainer)['step'].tolist(); print(steps == [*range(1, len(steps) + 1)])"
        )
        assert text(messages) == "True\n"
        reply, messages = execute("trainer.train(resume_from_checkpoint=True)")
        assert reply["status"] == "ok"
        assert "Going on from step" in text(messages)
        assert [m["msg_type"] for m in messages].count("display_data") == 1  # a picture of its own
        _, messages = execute("print(history_frame(trainer)['step'].tolist() == [*range(1, 201)])")
        assert text(messages) == "True\n"
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
