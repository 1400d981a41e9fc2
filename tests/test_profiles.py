"""Which profile a machine gets, with which settings, and whether a model can be had. Each is answered at once."""

import json
import os
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from time import perf_counter

import pytest

from helpers import hub, profiles
from helpers.hub import PolicyError
from helpers.profiles import PROFILES, SettingsError, choose_profile, profile_settings, settings_here
from helpers.runtime import CourseError

QWEN = "Qwen/Qwen2.5-Coder-0.5B-Instruct"


@pytest.fixture
def machine(monkeypatch):
    """Pretend to be a machine with a GPU of so many GiB (0: none), and with or without a way to the model."""

    def pretend(gib=0.0, obstacle=None, bf16=False):
        monkeypatch.setattr(profiles, "has_gpu", lambda: gib > 0)
        monkeypatch.setattr(profiles, "gpu_gib", lambda: gib)
        monkeypatch.setattr(profiles, "bf16_gpu", lambda: bf16)
        monkeypatch.setattr(hub, "obstacle", lambda model: obstacle)

    return pretend


@pytest.mark.parametrize(
    ("gib", "obstacle", "name", "reason"),
    [
        (0, None, "tiny", "there is no GPU here"),
        (8, None, "tiny", "the GPU has 8 GiB"),
        (14.56, None, "qwen", "the GPU has 15 GiB"),  # a T4
        (22.06, None, "qwen-full", "the GPU has 22 GiB"),  # an L4
        (14.56, "the hub cannot be reached", "tiny", f"there is a GPU, but not {QWEN}: the hub cannot be reached"),
    ],
)
def test_the_profile_is_the_largest_that_can_run_and_says_why(gib, obstacle, name, reason, machine, capsys):
    machine(gib, obstacle)
    assert choose_profile() == name
    said = capsys.readouterr().out
    assert said.startswith(f"Profile {name}: ") and reason in said and said.count("\n") == 1


@pytest.mark.parametrize("name", PROFILES)
def test_the_variable_chooses_the_profile_without_looking_for_a_gpu(name, monkeypatch, capsys):
    monkeypatch.setattr(profiles, "has_gpu", lambda: pytest.fail("looked for a GPU"))
    monkeypatch.setenv("GRPO_PROFILE", name)
    assert choose_profile() == name
    assert "GRPO_PROFILE asks for it" in capsys.readouterr().out


def test_an_unknown_profile_gets_a_sentence(monkeypatch):
    monkeypatch.setenv("GRPO_PROFILE", "Tiny")
    with pytest.raises(CourseError, match="^GRPO_PROFILE=Tiny is not a profile. Choose one of: tiny, qwen, qwen-full"):
        choose_profile()


@pytest.mark.parametrize(("name", "value"), [("tiny", "1"), ("qwen", None)])
def test_only_tiny_keeps_off_the_network(name, value, monkeypatch):
    monkeypatch.setenv("GRPO_PROFILE", name)
    monkeypatch.setenv("HF_HUB_OFFLINE", "to be put back")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    choose_profile()
    assert os.environ.get("HF_HUB_OFFLINE") == value


def test_every_profile_has_its_name_and_a_line_that_describes_it():
    assert all(name == one.profile and one.description for name, one in PROFILES.items())
    assert set(profiles.GPU_GIB) == {name for name, one in PROFILES.items() if one.device == "cuda"}


@pytest.mark.parametrize("name", ["qwen", "qwen-full"])
def test_every_optimizer_step_learns_from_one_batch_of_samples_in_whole_groups(name):
    one = profile_settings(name)
    assert one.gradient_accumulation_steps * one.micro_batch == one.prompts_per_step * one.num_generations
    assert one.conversational and one.mask_truncated_completions and one.beta == 0
    assert one.learning_rate == 1e-6 and one.num_generations >= 8
    assert one.max_completion_length >= 512


def test_qwen_without_a_gpu_is_refused_with_what_to_run_instead(machine):
    machine()
    with pytest.raises(SettingsError, match=f"qwen needs a GPU for {QWEN}.*profile tiny.*GRPO_MODEL"):
        settings_here("qwen")


def test_another_model_runs_without_a_gpu_in_fp32_and_that_is_said(machine, capsys):
    machine()
    here = settings_here("qwen", model="some/folder")
    assert here == replace(profile_settings("qwen"), model="some/folder", device="cpu", precision="fp32")
    assert "some/folder runs on the CPU, in fp32 instead of fp16" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "bf16", "precision"), [("qwen", True, "fp16"), ("qwen-full", True, "bf16"), ("qwen-full", False, "fp16")]
)
def test_precision_is_what_the_gpu_computes_and_a_change_is_said(name, bf16, precision, machine, capsys):
    machine(40, bf16=bf16)
    here = settings_here(name)
    assert (here.device, here.precision) == ("cuda", precision)
    changed = precision != profile_settings(name).precision
    assert ("fp16 autocast instead" in capsys.readouterr().out) == changed


def test_the_environment_names_model_and_steps_and_arguments_come_first(machine, monkeypatch):
    machine(16)
    monkeypatch.setenv("GRPO_MODEL", "my/model")
    monkeypatch.setenv("GRPO_MAX_STEPS", "3")
    assert (settings_here("qwen").model, settings_here("qwen").max_steps) == ("my/model", 3)
    assert settings_here("qwen", model="other/model", max_steps=5) == replace(
        profile_settings("qwen"), model="other/model", max_steps=5
    )
    tiny = settings_here("tiny")
    assert (tiny.model, tiny.max_steps) == ("data/tiny_coder", 3)  # GRPO_MODEL stands for Qwen, not for the bundled one
    for steps in ("few", "²", "1.5"):
        monkeypatch.setenv("GRPO_MAX_STEPS", steps)
        with pytest.raises(SettingsError, match=f'GRPO_MAX_STEPS must be a number of steps, not "{steps}"'):
            settings_here("tiny")


def test_a_model_that_cannot_be_had_is_told_before_anything_is_loaded(machine):
    machine(16, obstacle="the hub cannot be reached")
    with pytest.raises(PolicyError, match=f"{QWEN} is not on this machine, and the hub cannot be reached.*tiny"):
        settings_here("qwen")
    with pytest.raises(PolicyError, match="There is no model folder nowhere"):
        settings_here("qwen", model="nowhere")


@pytest.fixture
def server(monkeypatch):
    """A stand-in for the hub on this machine that answers every request with `status`, or not at all."""
    started = []

    def start(status):
        class Answer(BaseHTTPRequestHandler):
            def do_GET(self):
                asked.append(self.path)
                if status is None:
                    hold.wait(20)
                    return
                self.send_response(status)
                self.end_headers()
                self.wfile.write(b'{"id": "owner/model", "siblings": []}')

            def log_message(self, *_):
                pass

        asked, hold = [], threading.Event()
        listener = HTTPServer(("127.0.0.1", 0), Answer)
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        started.append((listener, hold))
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{listener.server_port}")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        return asked

    yield start
    for listener, hold in started:
        hold.set()
        listener.shutdown()
        listener.server_close()


@pytest.mark.parametrize(
    ("status", "said"), [(200, None), (404, "does not provide it (HTTP 404)"), (503, "cannot be reached")]
)
def test_the_hub_is_asked_once(status, said, server):
    asked = server(status)
    found = hub.obstacle("owner/model")
    # The Hub's library also asks now and then what other programs should be told, which is not about the model.
    assert [path for path in asked if "agent" not in path] == ["/api/models/owner/model"]
    assert found is None if said is None else said in found


def test_a_data_set_is_asked_for_under_its_own_address(server):
    asked = server(200)
    assert hub.dataset_obstacle("owner/data") is None
    assert "/api/datasets/owner/data" in asked


def test_silence_is_an_answer_after_the_time_out(server, monkeypatch):
    server(None)
    monkeypatch.setattr(hub, "SECONDS", 0.3)
    start = perf_counter()
    assert "cannot be reached" in hub.obstacle("owner/model")
    assert perf_counter() - start < 2


def test_a_name_lookup_that_hangs_is_given_up_too(monkeypatch):
    release = threading.Event()
    monkeypatch.setattr(hub, "SECONDS", 0.3)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.HfApi.repo_info", lambda *_, **__: release.wait(20))
    start = perf_counter()
    assert "cannot be reached" in hub.obstacle("owner/model")
    release.set()
    assert perf_counter() - start < 2


def test_where_the_network_is_forbidden_nobody_is_asked(server, monkeypatch):
    asked = server(200)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in hub.obstacle("owner/model")
    assert asked == []


def test_a_folder_and_a_model_in_the_cache_need_no_network(server, tmp_path, monkeypatch):
    asked = server(500)
    assert hub.obstacle(str(tmp_path)) is None
    assert hub.obstacle("data/tiny_coder") is None
    snapshot = tmp_path / "models--owner--model" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (tmp_path / "models--owner--model" / "refs").mkdir()
    (tmp_path / "models--owner--model" / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for name in ("config.json", "tokenizer_config.json"):
        assert not hub.cached_folder("owner/model")
        (snapshot / name).write_text("{}")
    shards = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-1.safetensors"}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(shards))
    for name in set(shards["weight_map"].values()):
        assert not hub.cached_folder("owner/model")
        (snapshot / name).touch()
    assert hub.cached_folder("owner/model") == snapshot and hub.obstacle("owner/model") is None
    assert hub.locate("owner/model") == str(snapshot)  # the loaders ask nobody about a folder
    assert asked == []
