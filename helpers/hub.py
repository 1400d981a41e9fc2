"""Find a model or a data set: in a local folder, in the Hub library's cache, or on the Hub.

Everything here answers within 5 seconds, whereas transformers' own loaders retry for a minute without a network.
"""

import json
import os
import re
import threading
from pathlib import Path

from helpers.runtime import CourseError, project_root

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")  # such as "Qwen/Qwen2.5-Coder-0.5B-Instruct"
SECONDS = 5.0  # to wait for an answer from the Hub


class PolicyError(CourseError, ValueError):
    """A model that cannot be loaded. The message says why in one sentence."""


def is_adapter(folder: str | Path) -> bool:
    """Return whether a folder contains a LoRA adapter instead of a whole model."""
    return (Path(folder) / "adapter_config.json").is_file()


def locate(model: str | Path) -> str:
    """Return the folder to load a model or an adapter from, or its Hub id if it first has to be downloaded.

    A relative folder is looked up in the working folder, then in the project. Raises PolicyError for a folder that
    contains no model, and for a Hub id that is neither in the cache nor available from the Hub.

    >>> Path(locate("data/tiny_coder")).name
    'tiny_coder'
    """
    folders = Path(os.path.expanduser(model)), project_root() / model
    for folder in folders:
        if folder.is_dir():
            if not (folder / "config.json").is_file() and not is_adapter(folder):
                raise PolicyError(f"The folder {model} contains no model: it has no config.json.")
            return str(folder)
    if any(folder.parent.is_dir() for folder in folders) or not HUB_ID.fullmatch(str(model)):
        raise PolicyError(f"There is no model folder {model}.")
    # Given the id of a cached model, the loaders would still ask the Hub for news, and without a network they would
    # retry for a minute. Given the folder in the cache, they read it and ask nobody.
    if cached := cached_folder(str(model)):
        return str(cached)
    if reason := obstacle(str(model)):
        raise PolicyError(
            f"{model} is not on this machine, and {reason}: connect to the network, name a folder that contains a "
            "model (GRPO_MODEL, or --model), or run the profile tiny, which needs neither."
        )
    return str(model)


def cached_folder(model: str) -> Path | None:
    """Return the cached folder of a Hub id if configuration, tokenizer and all weights are there, else None."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(model, "config.json")
    if not isinstance(config, str):
        return None
    folder = Path(config).parent
    weights, index = {"model.safetensors"}, folder / "model.safetensors.index.json"
    if index.exists():
        weights = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    return folder if all((folder / name).exists() for name in {"tokenizer_config.json", *weights}) else None


def obstacle(repository: str, kind: str = "model") -> str | None:
    """Return why a "model" or "dataset" cannot be fetched from the Hub, as half a sentence, or None if it can.

    The Hub is asked once, through the proxy and at the address that the environment names (HF_ENDPOINT).
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError

    if constants.is_offline_mode():
        return "HF_HUB_OFFLINE is set, so the Hub was not contacted"
    unreachable = f"{constants.ENDPOINT} cannot be reached"
    answers: list[str | None] = []

    def ask() -> None:
        try:
            HfApi(endpoint=constants.ENDPOINT).repo_info(repository, repo_type=kind, timeout=SECONDS)
            answers.append(None)
        except HfHubHTTPError as error:
            answers.append(f"{constants.ENDPOINT} does not provide it (HTTP {error.response.status_code})")
        except Exception:
            # A missing name, route or certificate, or a timeout: they all mean the same to the reader.
            answers.append(unreachable)

    # Resolving a host name has no timeout of its own, so the question runs in a thread that can be given up.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(SECONDS)
    return answers[0] if answers else unreachable
