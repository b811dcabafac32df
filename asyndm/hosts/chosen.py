"""Whether the page has use for the settings of transformers: what is loaded, or chosen to be.

AUTOMATIC1111 loads a checkpoint where it is chosen, Forge with the next picture. Nothing is loaded
here, and the host's lock is not waited for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from asyndm.hosts import shims
from asyndm.network import UnsupportedNetwork, is_transformer
from asyndm.network.names import name_a_transformer, weight_names

log = logging.getLogger("asyndm")


def of_transformers(network_of: Callable[[Any], nn.Module]) -> bool:
    """Whether the checkpoint in use is a transformer AsynDM knows.

    The network tells where the chosen checkpoint is loaded; else its file does, and where that is
    none that tells, the network that is there.

    Args:
        network_of: the network of the host's ``sd_model``.
    """
    try:
        chosen, model = shims.chosen_file(), shims.loaded_model()
        loaded = getattr(getattr(model, "sd_checkpoint_info", None), "filename", None)
        if chosen is not None and (loaded is None or Path(loaded) != chosen):
            names = weight_names(chosen)
            if names is not None:
                return name_a_transformer(names)
        return loaded is not None and is_transformer(network_of(model))
    except UnsupportedNetwork:
        return False  # compiled: it gets its line with the picture
    except Exception:
        log.exception("AsynDM: what is loaded")
        return False
