"""Krea 2 as Forge Neo has it.

Single-stream blocks over text and image. One projection of time serves all blocks, each adds
weights of its own to it and takes a vector for every token as well as one a row: nothing has to be
silenced, what a block adds up is done for the table and spread over the tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from asyndm.network.dit import TransformerHooks
from asyndm.network.errors import UnsupportedNetwork
from asyndm.network.joint import TEXT, JointLayer, K, Q, Tap
from asyndm.network.ldm_unet import timestep_embedding
from asyndm.network.stations import Station


class KreaHooks(TransformerHooks):
    """The hooks of one Krea 2."""

    known_by = ("pe_embedder", "first", "blocks", "tmlp", "txtfusion", "txtmlp", "last",
                "tproj")  # fmt: skip
    frames = True

    def find_stations(self) -> list[Station]:
        self.patch = int(self.unet.patch)
        self._projected: Tensor | None = None  # [rows of the table, 1, 6 * E]
        return []

    def joint_layers(self) -> list[JointLayer]:
        layers = []
        for block in self.unet.blocks:
            attention = block.attn
            each = attention.heads // attention.kvheads  # heads may share the keys of one

            def read(output: tuple[Tensor, Tensor], each: int = each) -> dict[str, Tensor]:
                q, k = output
                keys = k.repeat_interleave(each, dim=1).transpose(1, 2)
                return {Q: q.transpose(1, 2), K: keys, TEXT: keys}

            layers.append(JointLayer(attention.heads, (Tap(attention.qknorm, read, joint=True),)))
        return layers

    def check_inputs(self, kwargs: dict[str, Any]) -> None:
        if kwargs.get("ref_latents"):
            raise UnsupportedNetwork(
                "Krea 2 with reference images tells two times at once, which AsynDM does not know: "
                "take the references out."
            )

    def watch_embedding(self) -> None:
        network = self.unet
        self.after(network.pe_embedder, self.take_rotation)
        self.embed_with(
            network.tmlp,
            lambda timesteps, like: timestep_embedding(1000 * timesteps.float(), network.tdim),
        )
        self.before(network.tproj, self._ask_all)
        self.after(network.tproj, self._split)
        for block in network.blocks:
            self.before(block.mod, self._ask_block)
            self.after(block.mod, self._spread)
        self.before(network.last.modulation, self._ask_all)
        self.after(network.last.modulation, self._spread)

    def _ask_all(self, module: nn.Module, args: tuple) -> tuple | None:
        if self.field is None:
            return None
        return (torch.cat([args[0], self.table(False).to(args[0])[:, None]]), *args[1:])

    def _split(self, module: nn.Module, args: tuple, output: Tensor) -> Tensor | None:
        if self.field is None:
            return None
        self._projected = output[self.field.rows :]
        return output[: self.field.rows]

    def _ask_block(self, module: nn.Module, args: tuple) -> tuple | None:
        return None if self.field is None else (torch.cat([args[0], self._projected]), *args[1:])

    def _spread(self, module: nn.Module, args: tuple, output: tuple) -> tuple | None:
        """Each of a block's vectors [rows, 1, E] -> one a token."""
        if self.field is None:
            return None
        height, width = self._tokens.size
        tokens = self.text_tokens + height * width
        return tuple(
            self._tokens.spread(part.flatten(0, 1), self.text_tokens, tokens) for part in output
        )

    def _forget(self) -> None:
        super()._forget()
        self._projected = None
