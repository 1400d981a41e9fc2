"""Interrupted runs: signals, kills, damaged files and full disks. A run that continues ends equal to the bit."""

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
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from jupyter_client.manager import start_new_kernel
from small_run import small_settings, small_trainer, vowels
from transformers import TrainerCallback

from helpers import evaluation, profiles, rewards, run_folder, train
from helpers.problems import load_problems, write_problems
from helpers.run_folder import Interrupted, last_checkpoint
from helpers.runtime import CourseError
from helpers.training import ResumableTrainer, history_frame

STEPS = 6
FLAGS = ["--profile", "tiny", "--reward", "vowels", "--allow-no-signal"]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return replace(small_settings(tmp_path_factory.mktemp("small")), max_steps=STEPS)


def eventful(events):
    """Return a reward that does something at one of its calls: {3: interrupt} interrupts the third step."""
    calls = itertools.count(1)

    def vowels_with_events(completions, **columns):
        events.get(next(calls), lambda: None)()
        return vowels(completions)

    vowels_with_events.__name__ = "vowels"
    return vowels_with_events


def run_command(small, folder, *arguments, events=None, seed=0):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(rewards, "vowels", eventful(events or {}), raising=False)
        patched.setitem(profiles.PROFILES, "tiny", small)
        return train.main([*FLAGS, "--output", str(folder), "--seed", str(seed), *arguments]), folder


@pytest.fixture
def command(small, tmp_path):
    return lambda *arguments, output="run", **options: run_command(small, tmp_path / output, *arguments, **options)


@pytest.fixture
def refusal(command, capsys):
    """Run the command, which must end with status 2, and return the one sentence that it says."""

    def run(*arguments, **options):
        capsys.readouterr()
        assert command(*arguments, **options)[0] == 2
        (sentence,) = capsys.readouterr().err.splitlines()
        return sentence.removeprefix("helpers.train: ")

    return run


@pytest.fixture(scope="module")
def stopped(small, tmp_path_factory):
    """A run that was stopped after step 3, for tests to copy."""
    status, output = run_command(small, tmp_path_factory.mktemp("stopped") / "run", events={3: interrupt})
    assert status == 130
    return output


@pytest.fixture(scope="module")
def whole(small, tmp_path_factory):
    """The same run without any interruption."""
    status, output = run_command(small, tmp_path_factory.mktemp("whole") / "run")
    assert status == 0
    return end_of(output)


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


def interrupt_twice():
    interrupt(), interrupt()


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def end_of(folder):
    """Return everything that must be the same at the end of a run: the result without times, and the weights."""
    result = json.loads((folder / "result.json").read_text())
    result["history"] = [{k: v for k, v in row.items() if "seconds" not in k} for row in result["history"]]
    weights = (folder / "model.safetensors").read_bytes()
    return {
        key: value for key, value in result.items() if "seconds" not in key and key not in ("resumed", "peak_memory")
    }, weights


def names(folder):
    return {path.name for path in folder.iterdir()}


# --- the command line ------------------------------------------------------------------------------------------------


def test_an_interrupted_run_keeps_what_it_has_and_continues_to_the_same_end(command, whole, capsys, monkeypatch):
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    status, output = command(events={3: interrupt})
    printed, errors = capsys.readouterr()
    assert status == 130
    assert "Stopping after this step. Press Ctrl-C again to stop now." in printed
    what, again = errors.removeprefix("helpers.train: ").split(" To continue: ")
    assert what == f"Stopped after step 3 of 6. The checkpoint of step 3, with the history up to it, is in {output}."
    assert shlex.split(again)[1:] == ["-m", "helpers.train", *FLAGS, "--output", str(output), "--seed", "0", "--resume"]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert names(output) == {"checkpoint-3", "before.json", "unfinished.json"}

    measured, real = [], evaluation.evaluate
    monkeypatch.setattr(evaluation, "evaluate", lambda *a, **k: measured.append(1) or real(*a, **k))
    assert command("--resume", events={2: interrupt})[0] == 130
    assert "Resuming from step 3 of 6." in capsys.readouterr().out
    assert not measured  # the first evaluation was kept
    assert command("--resume")[0] == 0
    assert len(measured) == 1
    assert end_of(output) == whole
    result = json.loads((output / "result.json").read_text())
    assert result["resumed"] == [3, 5]
    assert [row["step"] for row in result["history"]] == [1, 2, 3, 4, 5, 6]
    assert sum(row["seconds"] for row in result["history"]) == pytest.approx(result["train_seconds"])
    assert result["train_seconds"] < result["seconds"]
    assert "samples_problems_after.jsonl" in names(output) and not {"checkpoint-6", "unfinished.json"} & names(output)


@pytest.mark.skipif(sys.platform != "linux", reason="forks a process that has torch loaded")
@pytest.mark.parametrize("moment", ["in a step", "while saving", "at the end of saving"])
def test_a_killed_run_continues_from_its_last_complete_checkpoint(moment, command, whole, tmp_path):
    parts = {"while saving": "_save_optimizer_and_scheduler", "at the end of saving": "_save_rng_state"}

    def run():
        if part := parts.get(moment):
            real = getattr(ResumableTrainer, part)

            def save(self, folder):
                real(self, folder)
                if self.state.global_step == 4:
                    die()

            setattr(ResumableTrainer, part, save)
        command(events={5: die} if moment == "in a step" else None)

    child = multiprocessing.get_context("fork").Process(target=run)
    child.start()
    child.join(120)
    assert child.exitcode == -signal.SIGKILL
    output = tmp_path / "run"
    kept = 4 if moment == "in a step" else 2
    assert last_checkpoint(output) == output / f"checkpoint-{kept}"
    assert (output / "checkpoint-4").exists()
    assert command("--resume")[0] == 0
    assert end_of(output) == whole  # every step counts once: those after the checkpoint are trained again
    assert not list(output.glob("checkpoint-*"))


def test_a_run_interrupted_while_measuring_trains_no_step_more(command, monkeypatch, capsys):
    real, measured = evaluation.evaluate, []

    def evaluate(*arguments, **sampling):
        measured.append(1)
        if len(measured) == 2:
            interrupt()
        return real(*arguments, **sampling)

    monkeypatch.setattr(evaluation, "evaluate", evaluate)
    status, output = command("--max-steps", "5")  # in the middle of an epoch, which has four steps
    assert status == 130
    assert "Interrupted. The checkpoint of step 5, with the history up to it, is in " in capsys.readouterr().err
    trained = (output / "checkpoint-5" / "model.safetensors").read_bytes()
    assert command("--resume", "--max-steps", "5", events={1: lambda: pytest.fail("sampled")})[0] == 0
    result, weights = end_of(output)
    assert weights == trained
    assert [row["step"] for row in result["history"]] == [1, 2, 3, 4, 5]


def test_a_run_that_starts_again_continues_from_nothing_that_another_left(command, refusal, whole, monkeypatch, capsys):
    _, output = command(events={5: interrupt}, seed=3)
    (output / "mine.txt").write_text("keep")
    with monkeypatch.context() as patched:
        patched.setattr(evaluation, "evaluate", lambda *_, **__: interrupt())
        assert command("--overwrite")[0] == 130
    assert "Interrupted. There is no checkpoint yet. To start again: " in capsys.readouterr().err
    assert names(output) == {"mine.txt"}
    assert refusal("--resume").endswith(" to resume from: start again with --overwrite instead.")
    assert command("--overwrite")[0] == 0
    assert end_of(output) == whole
    assert (output / "mine.txt").read_text() == "keep"


def test_a_run_that_cannot_be_resumed_is_refused_with_the_reason(command, refusal, small, stopped, tmp_path):
    output = shutil.copytree(stopped, tmp_path / "run")
    assert "other settings: max_steps 6 (now 9), seed 0 (now 5). Resume" in refusal("--resume", "--max-steps=9", seed=5)
    assert "other settings: reward vowels (now passes_tests)." in refusal("--resume", "--reward", "passes_tests")
    problems = load_problems(small.problems)
    write_problems(problems[::-1], Path(small.problems))
    assert "other settings: SHA-256 of the problems" in refusal("--resume")
    write_problems(problems, Path(small.problems))
    assert command("--resume")[0] == 0
    done = (output / "result.json").read_bytes()
    assert "is complete (result.json exists)" in refusal("--resume")
    assert (output / "result.json").read_bytes() == done
    with pytest.raises(SystemExit):
        command("--resume", "--overwrite")


# --- damage ----------------------------------------------------------------------------------------------------------


def flip(path):
    """Change the last ten bytes of a file, and keep its size."""
    content = path.read_bytes()
    path.write_bytes(content[:-10] + bytes(255 - byte for byte in content[-10:]))


CHECKPOINT, RECORD, DAMAGED = "checkpoint-3/", "unfinished.json", "unfinished.json is damaged: start again with"


@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        (CHECKPOINT + "model.safetensors", flip, "is damaged: model.safetensors changed after it was saved. Start"),
        (CHECKPOINT + "rng_state.pth", Path.unlink, "is damaged: rng_state.pth changed"),
        (CHECKPOINT + "trainer_state.json", flip, "There is no complete checkpoint in"),
        (CHECKPOINT + "checksums.json", lambda path: path.write_text("null"), "is damaged: checksums.json changed"),
        (RECORD, lambda path: path.write_text("[]"), DAMAGED),
        (RECORD, lambda path: path.write_text(path.read_text()[:-20]), DAMAGED),
        (RECORD, lambda path: path.write_text(path.read_text().replace("false", "true")), DAMAGED),
    ],
)
def test_damage_is_reported_in_one_sentence(name, damage, said, stopped, refusal, tmp_path):
    shutil.copytree(stopped, tmp_path / "run")
    damage(tmp_path / "run" / name)
    assert said in refusal("--resume")
    assert not (tmp_path / "run" / "result.json").exists()


def test_a_run_killed_before_its_checksums_were_written_continues(stopped, command, whole, tmp_path):
    shutil.copytree(stopped, tmp_path / "run")
    (tmp_path / "run" / "checkpoint-3" / "checksums.json").unlink()
    assert command("--resume")[0] == 0
    assert end_of(tmp_path / "run") == whole


def test_only_a_complete_checkpoint_counts(tmp_path):
    for step, state in ((9, '{"epoch": 1}'), (10, '{"epoch": '), (20, None)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if state:
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(state)
    (tmp_path / "checkpoint-best").mkdir()
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-9"
    run_folder.seal_checkpoint(tmp_path / "checkpoint-9")
    assert names(tmp_path) == {"checkpoint-9", "checkpoint-best"}


# --- disks -----------------------------------------------------------------------------------------------------------


def test_the_space_that_a_run_asks_for_is_what_it_writes(trainer, tmp_path, monkeypatch):
    trainer.train()
    (kept,) = run_folder.checkpoint_folders(tmp_path / "t")
    model, checkpoint = (kept / "model.safetensors").stat().st_size, sum(path.stat().st_size for path in kept.iterdir())
    monkeypatch.setattr(run_folder, "SMALL_FILES", 0)
    # The folder "t" already contains one. Not to the byte, because so small a model is hardly larger than the rest.
    for folder, needed in [("elsewhere", model + 2 * checkpoint), ("t", model + checkpoint)]:
        for share, refusal in [(0.7, pytest.raises(CourseError)), (1.1, nullcontext())]:
            usage = namedtuple("usage", "free")(share * needed)
            monkeypatch.setattr(run_folder.shutil, "disk_usage", lambda path, usage=usage: usage)
            with refusal:
                run_folder.require_room(tmp_path / folder, trainer.model)


@pytest.fixture
def mounted(tmp_path):
    """Mount a small file system in memory. Skips the test if that is not allowed."""
    place = tmp_path / "mounted"

    def mount(options):
        place.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", place], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"cannot mount: {done.stderr.strip()}")
        return place

    yield mount
    if place.is_mount():
        subprocess.run(["umount", place], check=True)


def fill(place, leave=0):
    with (place / "ballast").open("wb", buffering=0) as file:
        with pytest.raises(OSError):
            while True:
                file.write(b"0" * 4096)
        file.truncate(file.tell() - leave)


# There is room left for nothing, for the weights, or for some of the small files.
@pytest.mark.parametrize(("step", "leave"), [(1, 0), (4, 250_000), (6, 30_000)])
def test_a_disk_that_fills_in_the_middle(step, leave, command, refusal, whole, mounted, monkeypatch):
    monkeypatch.setattr(run_folder, "SMALL_FILES", 0)
    place = mounted("size=8m")
    said = refusal(output=place / "run", events={step: lambda: fill(place, leave)})
    saved = {1: 2, 4: 4, 6: 6}[step]
    assert f"The checkpoint of step {saved} cannot be written to {place / 'run'}: No space left on device." in said
    (place / "ballast").unlink()
    kept = f"The checkpoint of step {saved - 2}, with the history" if step > 1 else "There is no checkpoint yet."
    way_on = "--resume" if step > 1 else "--overwrite"
    assert kept in said and said.endswith(way_on)
    assert command(way_on, output=place / "run")[0] == 0
    assert end_of(place / "run") == whole


def test_a_disk_that_fills_while_measuring(refusal, mounted, monkeypatch):
    monkeypatch.setattr(run_folder, "SMALL_FILES", 0)
    place, real = mounted("size=8m"), evaluation.evaluate
    monkeypatch.setattr(evaluation, "evaluate", lambda *a, **k: (real(*a, **k), fill(place))[0])
    assert refusal(output=place / "run").startswith(f"Results cannot be written to {place / 'run'}: ")


@pytest.mark.parametrize("kind", ["read-only", "below a file", "full to the last byte", "nearly full"])
def test_a_folder_without_room_for_the_results_is_found_at_once(kind, refusal, mounted, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "evaluate", lambda *_, **__: pytest.fail("measured"))
    said = "Results cannot be written to {}: "
    if kind == "read-only":
        place = mounted("size=1m")
        subprocess.run(["mount", "-o", "remount,ro", place], check=True)
    elif kind == "full to the last byte":
        fill(place := mounted("size=64k"))
    elif kind == "nearly full":
        place = mounted("size=5m")
        said = (
            "This run writes up to 11 MB (the model and two checkpoints), but the disk that contains {} has only 5 MB"
        )
    else:
        place = tmp_path / "file" / "run"
        place.parent.write_text("in the way")
    assert refusal("--overwrite", output=place).startswith(said.format(place))


# --- the trainer, as a notebook builds it ----------------------------------------------------------------------------


def new_trainer(settings, folder):
    """Return a trainer with `trainer.events`, as in `eventful`."""
    events = {}
    trainer = small_trainer(settings, folder, eventful(events))
    trainer.events = events
    return trainer


@pytest.fixture
def trainer(small, tmp_path):
    return new_trainer(small, tmp_path / "t")


def steps(trainer):
    return history_frame(trainer)["step"].tolist()


class BetweenMicroBatches(TrainerCallback):
    """Interrupt step 6 after a part of its completions."""

    def on_substep_end(self, args, state, control, **kwargs):
        if state.global_step == 5 and state.log_history[-1]["step"] == 5:
            interrupt_twice()


@pytest.mark.parametrize("micro_batch", [None, 4])
def test_a_trainer_continues_in_the_same_process(micro_batch, small, tmp_path):
    small = replace(small, per_device_train_batch_size=micro_batch)
    trainer = new_trainer(small, tmp_path / "t")
    trainer.events[2] = interrupt
    way_on = r"To continue: trainer.train\(resume_from_checkpoint=True\)$"
    with pytest.raises(Interrupted, match=rf"^Stopped after step 2 of 6\. .* {way_on}"):
        trainer.train()
    assert steps(trainer) == [1, 2]
    if micro_batch:
        trainer.add_callback(BetweenMicroBatches)
    else:
        trainer.events[6] = interrupt_twice
    stopped = r"^Stopped at once in step 6 of 6\. The checkpoint of step 4, .* build the trainer again"
    with pytest.raises(Interrupted, match=stopped) as caught:
        trainer.train(resume_from_checkpoint=True)
    assert caught.value.status == 130
    assert caught.value._render_traceback_() == [str(caught.value)]  # in a notebook: only the sentence
    assert caught.value.__suppress_context__
    # TRL still holds half of step 6, and with it the run would silently end with other weights.
    with pytest.raises(CourseError, match="build the trainer again"):
        trainer.train(resume_from_checkpoint=True)

    trainer = new_trainer(small, tmp_path / "t")
    assert trainer.train(resume_from_checkpoint=True).global_step == 6
    whole = new_trainer(small, tmp_path / "whole")
    whole.train()
    same = zip(trainer.model.parameters(), whole.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in same)
    columns = [name for name in history_frame(whole) if "seconds" not in name]
    assert history_frame(trainer)[columns].equals(history_frame(whole)[columns])
    assert trainer.train(resume_from_checkpoint=True).global_step == 6  # and trains no step more
    assert steps(trainer) == [1, 2, 3, 4, 5, 6]


def test_a_trainer_stopped_before_its_first_checkpoint_has_nothing_to_resume(trainer, small, tmp_path):
    trainer.events[1] = interrupt_twice
    with pytest.raises(Interrupted, match=r"Stopped at once in step 1 of 6\. There is no checkpoint yet\.$"):
        trainer.train()
    with pytest.raises(CourseError, match="There is no complete checkpoint in .* to resume from."):
        new_trainer(small, tmp_path / "t").train(resume_from_checkpoint=True)


def test_sigterm_stops_as_ctrl_c_does(trainer, tmp_path):
    leftover = tmp_path / "t" / "checkpoint-2" / "leftover"  # from a checkpoint that was cut short
    leftover.parent.mkdir(parents=True)
    leftover.touch()
    trainer.events[2] = lambda: os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(Interrupted, match="Stopped after step 2 of 6") as caught:
        trainer.train()
    assert caught.value.status == 143
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


def test_an_error_in_a_reward_is_not_hidden_and_the_handlers_are_put_back(trainer):
    trainer.events[2] = lambda: 1 / 0
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


# --- real processes --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc")
def test_ctrl_c_in_a_terminal(root, tmp_path):
    script = [sys.executable, str(root / "tests/small_run.py"), str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(root), "PYTHONUNBUFFERED": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": root, "env": environment}

    def stopped_by(signum, options):
        """Send the signal after the first step. Return what was printed before, the exit status and the errors."""
        process = subprocess.Popen([*script, *options], **pipes, start_new_session=True)
        said = list(itertools.takewhile(lambda line: not line.startswith("step "), process.stdout))
        graders = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.killpg(process.pid, signum)  # as a terminal does: to all processes in the foreground
        printed, errors = process.communicate(timeout=120)
        assert "Stopping after this step." in printed
        assert errors.count("\n") == 1 and "Stopped after step" in errors
        assert not [pid for pid in graders if Path(f"/proc/{pid}").exists()]
        return said, process.returncode, errors

    _, status, errors = stopped_by(signal.SIGINT, [*FLAGS, "--output", str(tmp_path / "run"), "--max-steps", "400"])
    assert status == 130
    again = shlex.split(errors.split("To continue: ")[1])
    assert again[:3] == [sys.executable, "-m", "helpers.train"]
    said, status, _ = stopped_by(signal.SIGTERM, again[3:])
    assert said[-1].startswith("Resuming from step")
    assert status == 143


CELL = """
import sys
sys.path[:0] = [{tests!r}, {root!r}]
from dataclasses import replace
from pathlib import Path
from small_run import small_settings, small_trainer
from helpers.training import history_frame
folder = Path({folder!r})
trainer = small_trainer(replace(small_settings(folder), max_steps=200, save_steps=50), folder / "run")
"""


@pytest.mark.slow
def test_interrupting_the_kernel_of_a_notebook(root, tmp_path):
    manager, client = start_new_kernel(cwd=str(tmp_path), stderr=subprocess.DEVNULL)

    def execute(code, at_picture=lambda: None):
        messages = []

        def keep(message):
            messages.append(message)
            if message["msg_type"] == "display_data":
                at_picture()

        reply = client.execute_interactive(code, output_hook=keep, timeout=120)["content"]
        return reply, messages, "".join(m["content"]["text"] for m in messages if m["msg_type"] == "stream")

    try:
        reply, _, _ = execute(CELL.format(tests=str(root / "tests"), root=str(root), folder=str(tmp_path)))
        assert reply["status"] == "ok"
        reply, _, text = execute("trainer.train()", at_picture=manager.interrupt_kernel)
        assert reply["ename"] == "Interrupted" and "Stopping after this step." in text
        (sentence,) = reply["traceback"]
        assert sentence.startswith("Stopped after step ") and "resume_from_checkpoint=True" in sentence
        reply, messages, text = execute("trainer.train(resume_from_checkpoint=True)")
        assert reply["status"] == "ok" and "Resuming from step" in text
        assert [m["msg_type"] for m in messages].count("display_data") == 1  # a picture of its own
        assert execute("print(history_frame(trainer)['step'].tolist() == [*range(1, 201)])")[2] == "True\n"
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
