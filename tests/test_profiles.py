"""Which settings a machine gets for a profile, and whether a model is available. Each answer comes at once."""

import json
import os
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from time import perf_counter
from types import SimpleNamespace

import pytest

from helpers import hub, profiles
from helpers.answers import function_ended
from helpers.hub import PolicyError
from helpers.problems import PROMPT_MODES
from helpers.profiles import PROFILES, SettingsError, profile_settings, settings_here
from helpers.runtime import CourseError

QWEN = "Qwen/Qwen2.5-Coder-0.5B-Instruct"
CHAT, BASE = (SimpleNamespace(chat_template=template) for template in ("{{ messages }}", None))  # of tokenizers


@pytest.fixture
def machine(monkeypatch):
    """Pretend to be a machine with or without a GPU, with or without bf16, with or without a way to the model."""

    def pretend(gpu, bf16=False, obstacle=None):
        monkeypatch.setattr(profiles, "has_gpu", lambda: gpu)
        monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: bf16)
        monkeypatch.setattr(hub, "obstacle", lambda model: obstacle)

    return pretend


def test_every_profile_has_its_name_and_a_line_that_describes_it():
    assert all(name == one.profile and one.description for name, one in PROFILES.items())


@pytest.mark.parametrize(("name", "value"), [("tiny", "1"), ("qwen", None)])
def test_only_tiny_keeps_off_the_network(name, value, machine, monkeypatch):
    machine(gpu=True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "to be put back")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert settings_here(name) == PROFILES[name]
    assert os.environ.get("HF_HUB_OFFLINE") == value


@pytest.mark.parametrize("name", ["qwen", "qwen-full"])
def test_every_optimizer_step_learns_from_one_batch_of_samples_in_whole_groups(name):
    one = profile_settings(name)
    assert one.gradient_accumulation_steps * one.micro_batch == one.prompts_per_step * one.num_generations
    assert one.prompt is None and one.mask_truncated_completions and one.beta == 0
    assert one.learning_rate == 1e-6 and one.num_generations >= 8
    assert one.max_completion_length >= 512


def test_the_models_template_decides_the_prompt_mode_unless_the_settings_do():
    one = profile_settings("qwen")
    assert (one.with_prompt(CHAT).prompt, one.with_prompt(BASE).prompt) == ("chat", "plain")
    for mode in PROMPT_MODES:
        asked = replace(one, prompt=mode).with_prompt(CHAT)
        assert asked.prompt == mode and asked.with_prompt(CHAT) == asked
    with pytest.raises(CourseError, match='"prefill" needs a chat template'):
        replace(one, prompt="prefill").with_prompt(BASE)


def test_truncated_completions_stay_in_the_loss_of_a_model_that_continues_plain_text():
    masking, other = profile_settings("qwen"), replace(profile_settings("qwen"), mask_truncated_completions=False)
    for tokenizer, mode, masked in ((CHAT, "chat", True), (CHAT, "prefill", True), (CHAT, "plain", False)):
        assert replace(masking, prompt=mode).with_prompt(tokenizer).mask_truncated_completions == masked
        assert not replace(other, prompt=mode).with_prompt(tokenizer).mask_truncated_completions
    assert replace(masking.with_prompt(BASE), prompt=None, mask_truncated_completions=True) == masking


@pytest.mark.parametrize("mode", [None, *PROMPT_MODES])
def test_the_rule_ends_a_body_that_the_groups_sampler_writes_and_nothing_else(mode):
    ruled = function_ended if mode in ("prefill", "plain") else None
    one = replace(profile_settings("tiny"), prompt=mode)
    assert replace(one, group_sampling=True).ends is replace(one, group_sampling=True).sampling["ends"] is ruled
    assert one.ends is None


def test_evaluation_is_as_long_as_training_unless_it_has_a_length_of_its_own():
    one = replace(profile_settings("tiny"), max_completion_length=7)
    assert one.sampling["max_completion_length"] == 7
    assert replace(one, eval_max_completion_length=9).sampling["max_completion_length"] == 9


def test_weights_without_an_adapter_are_float32_and_under_one_what_the_settings_say():
    one = replace(profile_settings("tiny"), lora_base="bf16")
    assert one.base_precision == "fp32"
    assert [replace(one, lora_rank=4, lora_base=kind).base_precision for kind in ("bf16", "fp32")] == ["bf16", "fp32"]


def test_qwen_cpu_needs_a_model_and_no_gpu(machine):
    machine(gpu=False)
    assert settings_here("qwen-cpu") == PROFILES["qwen-cpu"]
    machine(gpu=False, obstacle="the hub cannot be reached")
    with pytest.raises(PolicyError, match=f"{QWEN} is not on this machine"):
        settings_here("qwen-cpu")


def test_qwen_without_a_gpu_is_refused_with_what_to_run_instead(machine):
    machine(gpu=False)
    with pytest.raises(SettingsError, match=f"qwen needs a GPU for {QWEN}.*profile tiny.*GRPO_MODEL"):
        settings_here("qwen")


def test_another_model_runs_without_a_gpu_in_fp32_and_a_line_says_so(machine, capsys):
    machine(gpu=False)
    here = settings_here("qwen", model="some/folder")
    assert here == replace(profile_settings("qwen"), model="some/folder", device="cpu", precision="fp32")
    assert "some/folder runs on the CPU, in fp32 instead of fp16" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "bf16", "precision"), [("qwen", True, "fp16"), ("qwen-full", True, "bf16"), ("qwen-full", False, "fp16")]
)
def test_the_gpu_supports_the_precision_and_a_change_is_printed(name, bf16, precision, machine, capsys):
    machine(gpu=True, bf16=bf16)
    here = settings_here(name)
    assert (here.device, here.precision) == ("cuda", precision)
    changed = precision != profile_settings(name).precision
    assert ("fp16 autocast instead" in capsys.readouterr().out) == changed


def test_the_environment_names_model_and_steps_and_arguments_come_first(machine, monkeypatch):
    machine(gpu=True)
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


def test_a_model_that_is_not_available_is_reported_before_anything_is_loaded(machine):
    machine(gpu=True, obstacle="the hub cannot be reached")
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
    ("status", "said"), [(200, None), (404, "does not provide it (HTTP 404)"), (503, "does not provide it (HTTP 503)")]
)
def test_the_hub_is_asked_once(status, said, server):
    asked = server(status)
    found = hub.obstacle("owner/model")
    # The Hub's library also asks now and then what other programs should be told, which is not about the model.
    assert [path for path in asked if "agent" not in path] == ["/api/models/owner/model"]
    assert found is None if said is None else said in found


def test_a_data_set_is_asked_for_under_its_own_address(server):
    asked = server(200)
    assert hub.obstacle("owner/data", "dataset") is None
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


def test_if_the_network_is_forbidden_nobody_is_asked(server, monkeypatch):
    asked = server(200)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in hub.obstacle("owner/model")
    assert asked == []


def test_a_folder_and_a_model_in_the_cache_need_no_network(server, tmp_path, monkeypatch):
    asked = server(500)
    assert hub.locate("data/tiny_coder").endswith("data/tiny_coder")
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
    assert hub.locate("owner/model") == str(snapshot)  # the loaders ask nobody about a folder
    assert asked == []
