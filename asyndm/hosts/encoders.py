"""The tokens of a prompt by every text encoder that a transformer sees, each with its own offset.

Stable Diffusion 3 sees CLIP's chunks of 77, then T5's tokens; Flux and Chroma see T5's alone, where
the host keeps a CLIP beside it, too. Each list of pieces is matched by itself.
"""

from __future__ import annotations

from typing import Any

from modules import shared
from torch import nn

from asyndm.network import UnsupportedNetwork

# (pieces by position, for the first position of each textual inversion all of its)
Tokens = tuple[list[str], dict[int, list[int]]]


def transformer_tokens(model: Any, network: nn.Module, classic: Any, text: str) -> list[Tokens]:
    """One entry a text encoder, in the order of the network's text tokens.

    Args:
        model: the host's ``sd_model``.
        network: of it.
        classic: text -> the tokens of CLIP's chunks.
        text: of a prompt's part.

    Raises:
        UnsupportedNetwork: an encoder that does not say how it reads a prompt.
    """
    if not hasattr(network, "joint_blocks"):
        return [_t5(model, text, None)]
    clip = classic(text)
    # Off by default in the hosts: then these tokens are zeros, alike for every word.
    if not getattr(shared.opts, "sd3_enable_t5", False):
        return [clip]
    return [clip, _t5(model, text, len(clip[0]))]


def _t5(model: Any, text: str, count: int | None) -> Tokens:
    """T5's pieces; ``count``: to how many tokens a host pads or cuts them, if it does."""
    engine = getattr(model, "text_processing_engine_t5", None)
    if engine is not None:  # Forge
        chunks, _ = engine.tokenize_line(text)
        longest = max(len(chunk.tokens) for chunk in chunks)
        ids = [
            token
            for chunk in chunks
            for token in [*chunk.tokens, *[engine.id_pad] * (longest - len(chunk.tokens))]
        ]
    else:  # AUTOMATIC1111
        engine = getattr(getattr(model, "cond_stage_model", None), "model_t5", None)
        if engine is None:
            raise UnsupportedNetwork(
                "This model's text encoder does not say how it reads a prompt."
            )
        ids, _ = engine.tokenize_line(text, target_token_count=count)
    return engine.tokenizer.convert_ids_to_tokens([int(token) for token in ids]), {}
