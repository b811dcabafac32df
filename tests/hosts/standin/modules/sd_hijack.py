"""Stands for ``modules/sd_hijack.py``, ``sd_hijack_clip.py`` and textual inversion's embeddings.

The tokeniser has CLIP's real vocabulary; the encoder is small, deterministic and made for this.
"""

from __future__ import annotations

import zlib
from collections import namedtuple
from collections.abc import Sequence

import clip_pieces
import torch
from torch import Tensor, nn

from modules import prompt_parser
from modules.shared import opts

WIDTH = 32
PromptChunkFix = namedtuple("PromptChunkFix", ["offset", "embedding"])


class Tokenizer:
    """CLIP's, as transformers gives it to a host."""

    def __call__(self, text: str) -> list[int]:
        return [clip_pieces.ids()[piece] for piece in clip_pieces.pieces(text)]

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        return [clip_pieces.vocabulary()[number] for number in ids]


class Embedding:
    """A textual inversion: a word of the prompt that stands for ``vec`` [vectors, WIDTH]."""

    def __init__(self, vec: Tensor, name: str) -> None:
        self.vec, self.name, self.vectors = vec, name, len(vec)


class EmbeddingDatabase:
    def __init__(self) -> None:
        self.word_embeddings: dict[str, Embedding] = {}
        self._ids: list[tuple[list[int], Embedding]] = []

    def register_embedding(self, embedding: Embedding, model: nn.Module) -> None:
        self.word_embeddings[embedding.name] = embedding
        self._ids.append((model.cond_stage_model.tokenizer(embedding.name), embedding))

    def find_embedding_at_position(
        self, tokens: list[int], at: int
    ) -> tuple[Embedding | None, int | None]:
        for ids, embedding in self._ids:
            if tokens[at : at + len(ids)] == ids:
                return embedding, len(ids)
        return None, None


class Hijack:
    def __init__(self) -> None:
        self.embedding_db = EmbeddingDatabase()
        self.comments: list[str] = []


model_hijack = Hijack()


class PromptChunk:
    """77 tokens with start and end, their weights, and where embeddings stand (from 0 = first)."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.multipliers: list[float] = []
        self.fixes: list[PromptChunkFix] = []


class TextEncoder(nn.Module):
    """``cond_stage_model``: texts -> [texts, 77 * chunks, WIDTH]."""

    chunk_length, id_start, id_end = (
        75,
        clip_pieces.ids()[clip_pieces.START],
        clip_pieces.ids()[clip_pieces.END],
    )

    def __init__(self) -> None:
        super().__init__()
        self.hijack, self.tokenizer = model_hijack, Tokenizer()
        self.comma_token = self.tokenizer(",")[0]
        self._vectors: dict[int, Tensor] = {}

    def tokenize_line(self, line: str) -> tuple[list[PromptChunk], int]:
        """(chunks, number of tokens)."""
        chunks: list[PromptChunk] = []
        chunk, comma, length = PromptChunk(), -1, self.chunk_length

        def close() -> None:
            nonlocal chunk, comma
            rest = length - len(chunk.tokens)
            chunk.tokens = [self.id_start, *chunk.tokens, *[self.id_end] * (rest + 1)]
            chunk.multipliers = [1.0, *chunk.multipliers, *[1.0] * (rest + 1)]
            chunks.append(chunk)
            chunk, comma = PromptChunk(), -1

        for text, weight in prompt_parser.parse_prompt_attention(line):
            if text == "BREAK" and weight == -1:
                close()
                continue
            ids, at = self.tokenizer(text), 0
            while at < len(ids):
                full = len(chunk.tokens) == length
                if ids[at] == self.comma_token:
                    comma = len(chunk.tokens)
                elif full and comma >= 0 and length - comma <= opts.comma_padding_backtrack:
                    tail = chunk.tokens[comma + 1 :], chunk.multipliers[comma + 1 :]
                    del chunk.tokens[comma + 1 :], chunk.multipliers[comma + 1 :]
                    close()
                    chunk.tokens, chunk.multipliers = tail
                if len(chunk.tokens) == length:
                    close()
                embedding, taken = self.hijack.embedding_db.find_embedding_at_position(ids, at)
                if embedding is None:
                    add, taken = [ids[at]], 1
                else:
                    if len(chunk.tokens) + embedding.vectors > length:
                        close()
                    chunk.fixes.append(PromptChunkFix(len(chunk.tokens), embedding))
                    add = [0] * embedding.vectors
                chunk.tokens += add
                chunk.multipliers += [weight] * len(add)
                at += taken
        if chunk.tokens or not chunks:
            count = length * len(chunks) + len(chunk.tokens)
            close()
        else:
            count = length * len(chunks)
        return chunks, count

    def forward(self, texts: Sequence[str]) -> Tensor:
        lines = [self.tokenize_line(text)[0] for text in texts]
        most = max(map(len, lines))
        empty = self.tokenize_line("")[0]
        return torch.stack(
            [torch.cat([self._encode(c) for c in [*line, *empty * (most - len(line))]])
             for line in lines]
        )  # fmt: skip

    def _encode(self, chunk: PromptChunk) -> Tensor:
        """Every token knows a little of those before it; weights act at the end."""
        z = torch.stack([self._vector(number) for number in chunk.tokens])
        for offset, embedding in chunk.fixes:
            z[offset + 1 : offset + 1 + embedding.vectors] = embedding.vec
        place = torch.arange(len(z)).float()
        past = z.cumsum(0) / (place + 1)[:, None]
        wave = torch.sin(place[:, None] / 10 ** torch.linspace(0, 2, WIDTH))
        return (z + past + 0.3 * wave) * torch.tensor(chunk.multipliers)[:, None]

    def _vector(self, number: int) -> Tensor:
        if number not in self._vectors:
            (piece,) = self.tokenizer.convert_ids_to_tokens([number])
            generator = torch.Generator().manual_seed(zlib.crc32(piece.encode()))
            self._vectors[number] = torch.randn(WIDTH, generator=generator)
        return self._vectors[number]
