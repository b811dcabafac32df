"""Stands for ``modules/shared.py``, ``options.py`` and ``shared_state.py``."""

from __future__ import annotations

import argparse
import tempfile
from typing import Any

import torch

DEFAULTS: dict[str, Any] = {
    "always_discard_next_to_last_sigma": False, "batch_cond_uncond": True,
    "comma_padding_backtrack": 20, "enable_quantization": False, "eta_ancestral": 1.0,
    "hide_samplers": [], "img2img_fix_steps": False, "live_preview_content": "Prompt",
    "live_previews_enable": True, "s_min_uncond": 0.0, "s_min_uncond_all": False,
    "sd_model_checkpoint": None,
    "show_progress_every_n_steps": 10, "skip_early_cond": 0.0, "use_old_scheduling": False,
    "eta_ddim": 0.0, "uni_pc_lower_order_final": True, "uni_pc_order": 3,
    "uni_pc_skip_type": "time_uniform", "uni_pc_variant": "bh1",
}  # fmt: skip


class Options:
    """Attributes are settings: the user's ``data`` before the defaults."""

    data_labels = DEFAULTS  # the host's describe the settings; their names are what counts here

    def __init__(self) -> None:
        self.__dict__["data"] = dict(DEFAULTS)

    def __getattr__(self, name: str) -> Any:
        if name in self.data or name in DEFAULTS:
            return self.data.get(name, DEFAULTS.get(name))
        raise AttributeError(name)

    def __setattr__(self, name: str, value: Any) -> None:
        self.data[name] = value

    def get_default(self, name: str) -> Any:
        return DEFAULTS.get(name)

    def set(self, name: str, value: Any, is_api: bool = False, run_callbacks: bool = True) -> bool:
        self.data[name] = value
        return True


class State:
    """What the job in progress is doing."""

    interrupted = skipped = stopping_generation = False
    sampling_step = sampling_steps = 0
    current_latent = current_image = None

    def begin(self, job: str = "") -> None:
        self.__dict__.clear()

    def end(self) -> None:
        self.current_latent = None

    def interrupt(self) -> None:
        self.interrupted = True


cmd_opts = argparse.Namespace()
opts = Options()
state = State()
device = torch.device("cpu")
data_path = tempfile.gettempdir()
sd_model: Any = None  # set by sd_models
