"""Stands for ``modules/script_callbacks.py``: errors of callbacks are logged, and swallowed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

callback_map: dict[str, list[Callable]] = {"before_ui": [], "cfg_denoiser": [], "cfg_denoised": []}


@dataclass
class CFGDenoiserParams:
    """Before the network's calls of a step: all rows, unconditional ones last."""

    x: Tensor
    image_cond: Tensor
    sigma: Tensor
    sampling_step: int  # one behind
    total_sampling_steps: int
    text_cond: Tensor
    text_uncond: Tensor
    denoiser: Any


@dataclass
class CFGDenoisedParams:
    """After them."""

    x: Tensor
    sampling_step: int
    total_sampling_steps: int
    inner_model: Any


def _call(kind: str, *args: Any) -> None:
    for callback in list(callback_map[kind]):
        try:
            callback(*args)
        except Exception:
            logging.exception("error in a %s callback", kind)


def on_before_ui(callback: Callable[[], None]) -> None:
    callback_map["before_ui"].append(callback)


def on_cfg_denoiser(callback: Callable[[CFGDenoiserParams], None]) -> None:
    callback_map["cfg_denoiser"].append(callback)


def on_cfg_denoised(callback: Callable[[CFGDenoisedParams], None]) -> None:
    callback_map["cfg_denoised"].append(callback)


def before_ui_callback() -> None:
    _call("before_ui")


def cfg_denoiser_callback(params: CFGDenoiserParams) -> None:
    _call("cfg_denoiser", params)


def cfg_denoised_callback(params: CFGDenoisedParams) -> None:
    _call("cfg_denoised", params)


def remove_callbacks_for_function(callback: Callable) -> None:
    for callbacks in callback_map.values():
        callbacks[:] = [each for each in callbacks if each is not callback]
