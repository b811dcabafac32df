"""The tokens of a prompt by every text encoder that a transformer sees, each with its own offset.

Stable Diffusion 3 sees CLIP's chunks of 77, then T5's tokens; Flux and Chroma see T5's alone, where
the host keeps a CLIP beside it, too. Each list of pieces is matched by itself. Language models
(Qwen, Gemma) read the prompt inside a chat template, of which a host may cut the beginning off
again; what is left of it is no word of the prompt.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from modules import shared
from torch import nn

from asyndm.network import UnsupportedNetwork

# (pieces by position, for the first position of each textual inversion all of its)
Tokens = tuple[list[str], dict[int, list[int]]]
# What Forge Neo calls the one engine whose tokens a network sees; Flux's and SD3's are "_t5".
_ENGINES = tuple(
    f"text_processing_engine_{name}" for name in ("t5", "gemma", "qwen", "anima", "ministral")
)
_END = "</s>"  # of a text, in T5's pieces
_TEMPLATE = "<|template|>"  # matched by no word
_WIDE = 1 << 16  # engines ask whether an embedding is longer than the template


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
        return [_one(model, text, None)]
    clip = classic(text)
    # Off by default in the hosts: then these tokens are zeros, alike for every word. So they are in
    # AUTOMATIC1111 where it was switched on and the model not loaded again.
    engine = getattr(getattr(model, "cond_stage_model", None), "model_t5", model)
    if not getattr(shared.opts, "sd3_enable_t5", False) or getattr(engine, "t5xxl", engine) is None:
        return [clip]
    return [clip, _one(model, text, len(clip[0]))]


def _one(model: Any, text: str, count: int | None) -> Tokens:
    """An engine's pieces; ``count``: to how many tokens a host pads or cuts T5's, if it does."""
    engines = (getattr(model, name, None) for name in _ENGINES)
    engine = next((engine for engine in engines if engine is not None), None)
    if engine is not None:  # Forge
        return engine_pieces(engine, text), {}
    engine = getattr(getattr(model, "cond_stage_model", None), "model_t5", None)
    if engine is None:  # AUTOMATIC1111
        raise UnsupportedNetwork("This model's text encoder does not say how it reads a prompt.")
    ids, _ = engine.tokenize_line(text, target_token_count=count)
    return engine.tokenizer.convert_ids_to_tokens([int(token) for token in ids]), {}


def engine_pieces(engine: Any, text: str) -> list[str]:
    """The pieces that a network of the Forge family is shown, in their places.

    Args:
        engine: of the host, with ``tokenize_line`` and its tokenizer.
        text: of a prompt's part.
    """
    around = _template(engine, text)
    if around is not None and not hasattr(engine, "llama_template"):
        text = around.replace("{}", text)  # in the others tokenize_line does it
    chunks = engine.tokenize_line(text)
    chunks = chunks[0] if isinstance(chunks, tuple) else chunks
    # Anima's network sees a place for each of T5's tokens, made from Qwen's.
    rows = [getattr(chunk, "t5_tokens", None) or chunk.tokens for chunk in chunks]
    longest = max(map(len, rows))
    ids = [
        int(token) for row in rows for token in [*row, *[_pad(engine)] * (longest - len(row))]
    ]  # fmt: skip
    tokenizer = getattr(engine, "t5_tokenizer", None) or engine.tokenizer
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)  # Ernie's takes pictures as well
    pieces = list(tokenizer.convert_ids_to_tokens(ids))
    if around is None:
        return _seen(engine, ids, pieces, text)
    for part in around.split("{}"):
        own = tokenizer(part, add_special_tokens=False)["input_ids"]
        for place in _places(ids, own):
            pieces[place : place + len(own)] = [_TEMPLATE] * len(own)
    return [pieces[place] for place in _kept(engine, ids)]


def _seen(engine: Any, ids: Sequence[int], pieces: list[str], text: str) -> list[str]:
    """Without what an engine masks out; a last piece as whole as the prompt has it.

    Neo's engine of Wan ends each text that has a weight of its own and shows the network the first
    one, whose last letter it cuts off before it tokenizes: "a dog" is read as "a do", and that
    piece stands for the dog.
    """
    if not hasattr(engine, "process_attn_mask"):
        return pieces
    shown = engine.process_attn_mask([list(ids)])[0].tolist()
    pieces = [piece if seen else _TEMPLATE for piece, seen in zip(pieces, shown)]
    end = pieces.index(_END) if _END in pieces else 0
    said = "".join(pieces[:end]).replace("▁", " ").strip()
    place = text.find(said) + len(said)
    if said and said in text and (said[-1] + text[place : place + 1]).isalnum():
        pieces[end - 1] += text[place : place + 1]
    return pieces


def _pad(engine: Any) -> int:
    return int(getattr(engine, "id_pad", 0))


def _template(engine: Any, text: str) -> str | None:
    """What an engine puts a prompt in, with {} for the prompt; None = it stands alone."""
    if not hasattr(engine, "process_template"):
        return getattr(engine, "llama_template", None)
    whole = engine.process_template(text, False)  # of the positive prompt, which has the words
    return "{}".join(whole.rsplit(text, 1)) if text and whole != text else None


def _places(ids: Sequence[int], part: Sequence[int]) -> Iterable[int]:
    """Where a run of tokens begins."""
    ids, part = list(ids), list(part)
    return [at for at in range(len(ids)) if part and ids[at : at + len(part)] == part]


def _kept(engine: Any, ids: Sequence[int]) -> list[int]:
    """The tokens whose embeddings an engine leaves after it has cut its template off."""
    places = torch.arange(len(ids))
    if not hasattr(engine, "strip_template"):
        return places.tolist()
    try:  # [tokens, width]
        return engine.strip_template(places[:, None].expand(-1, _WIDE), ids)[:, 0].tolist()
    except IndexError:  # [1, layers, tokens, width], joined to [1, tokens, layers * width]
        return engine.strip_template(places.view(1, 1, -1, 1), ids)[0, :, 0].tolist()
