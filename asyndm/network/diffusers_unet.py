"""Per-pixel timesteps in the U-Nets of diffusers.

ResnetBlock2D insists on one vector an image (`temb[:, :, None, None]`), so its `time_emb_proj`
returns zeros here, and the gathered map is added after `conv1`, where the block would have added
the vector; with `time_embedding_norm="scale_shift"` it scales and shifts the output of `norm2`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from asyndm.core.grids import Size
from asyndm.network.capture import AttentionCapture
from asyndm.network.cross import CrossLayer, find_cross_attention
from asyndm.network.errors import UnsupportedNetwork
from asyndm.network.hooks import UNetHooks

if TYPE_CHECKING:
    from asyndm.core.run import NetworkCall
    from asyndm.network.norms import LevelledNorms

NORMS = ("default", "scale_shift")  # how a block may take in time


class DiffusersHooks(UNetHooks):
    """The hooks of one diffusers U-Net."""

    known_by = ("time_proj", "time_embedding", "down_blocks", "up_blocks")
    input_names = ("sample",)

    def __init__(
        self,
        unet: nn.Module,
        call: NetworkCall,
        capture: AttentionCapture | None = None,
        norms: LevelledNorms | None = None,
    ) -> None:
        self._zeros: dict[tuple, Tensor] = {}  # of the running forward, as is the next
        self._active: dict[nn.Module, Tensor] = {}  # the table behind a block's activation
        super().__init__(unet, call, capture, norms)
        self.blocks = _find_blocks(unet)
        config = getattr(unet, "config", None)
        self.concatenate = bool(getattr(config, "class_embeddings_concat", False))

    def watch_time(self) -> None:
        self.after(self.unet.time_embedding, self._time_embedded)
        for name in ("class_embedding", "add_embedding"):
            module = getattr(self.unet, name, None)
            if isinstance(module, nn.Module):
                self.after(module, self.add_part)
        for block in self.blocks:
            self.after(block.time_emb_proj, self._silence)
            if block.time_embedding_norm == "default":
                self.after(block.conv1, self._shift(block))
            else:
                self.after(block.norm2, self._scale_shift(block))

    def check_inputs(self, kwargs: dict) -> None:
        if self.capture is not None and kwargs.get("encoder_attention_mask") is not None:
            raise UnsupportedNetwork(
                "AsynDM cannot read masks where encoder_attention_mask hides words."
            )

    def cross_layers(self) -> tuple[list[CrossLayer], Callable[[Size], list[Size]]]:
        layers: list[CrossLayer] = []
        shrinks: list[Callable[[int], int]] = []
        for stage in self.unet.down_blocks:
            layers += find_cross_attention(stage, len(shrinks))
            shrinks += [_shrink(part) for part in getattr(stage, "downsamplers", None) or ()]
        level = len(shrinks)
        middle = getattr(self.unet, "mid_block", None)
        if middle is not None:
            layers += find_cross_attention(middle, level)
        for stage in self.unet.up_blocks:
            layers += find_cross_attention(stage, level)
            level -= len(getattr(stage, "upsamplers", None) or ())

        def sizes(size: Size) -> list[Size]:
            levels = [size]
            for shrink in shrinks:
                levels.append((shrink(levels[-1][0]), shrink(levels[-1][1])))
            return levels

        return layers, sizes

    def finish(self, table: Tensor) -> Tensor:
        activation = getattr(self.unet, "time_embed_act", None)
        return table if activation is None else activation(table)

    def _time_embedded(self, module: nn.Module, args: tuple, output: Tensor) -> None:
        if self.field is None:
            return
        seen = args[0]
        condition = args[1] if len(args) > 1 else None
        sinusoids = self.unet.time_proj(self.field.timesteps).to(seen)
        # forward(), not the call: this hook must not run for the table.
        if condition is None:
            self._time = module.forward(sinusoids)
        else:  # the guidance scale of distilled models enters ahead of the MLP, row by row
            sinusoids = sinusoids.expand(len(condition), -1, -1)
            self._time = module.forward(sinusoids, condition[:, None])

    def _silence(self, module: nn.Module, args: tuple, output: Tensor) -> Tensor | None:
        if self.field is None:
            return None
        kind = (output.shape, output.dtype, output.device)
        if kind not in self._zeros:
            self._zeros[kind] = torch.zeros_like(output)
        return self._zeros[kind]

    def _project(self, block: nn.Module, like: Tensor) -> Tensor:
        """The block's time features at every pixel of ``like``: [rows, C or 2C, h, w]."""
        table = self.join(self.field)
        if not getattr(block, "skip_time_act", False):
            active = block.nonlinearity  # mostly one function for all blocks
            if active not in self._active:
                self._active[active] = active(table)
            table = self._active[active]
        values = block.time_emb_proj.forward(table).to(like.dtype)
        return self.field.spread(values, *like.shape[-2:])

    def _shift(self, block: nn.Module) -> Callable:
        def hook(module: nn.Module, args: tuple, output: Tensor) -> Tensor | None:
            return None if self.field is None else output + self._project(block, output)

        return hook

    def _forget(self) -> None:
        self._zeros.clear()
        self._active.clear()
        super()._forget()

    def _scale_shift(self, block: nn.Module) -> Callable:
        def hook(module: nn.Module, args: tuple, output: Tensor) -> Tensor | None:
            if self.field is None:
                return None
            scale, shift = self._project(block, output).chunk(2, dim=1)
            return output * (1 + scale) + shift

        return hook


def _find_blocks(unet: nn.Module) -> list[nn.Module]:
    """The blocks that take in time.

    Raises:
        UnsupportedNetwork: there are none, or of a kind that takes it in otherwise.
    """
    blocks = []
    for module in unet.modules():
        name = type(module).__name__
        if "Temporal" in name or hasattr(module, "motion_modules"):
            raise UnsupportedNetwork("AsynDM makes images; this is a network for video.")
        if str(vars(module).get("norm_type", "")).startswith("ada_norm") or name == "AdaGroupNorm":
            raise UnsupportedNetwork(
                f"The network takes in time in its {name}, not only in blocks."
            )
        if not isinstance(getattr(module, "time_emb_proj", None), nn.Module):
            continue
        known = all(hasattr(module, part) for part in ("conv1", "norm2", "nonlinearity"))
        if not known or getattr(module, "time_embedding_norm", "") not in NORMS:
            raise UnsupportedNetwork(
                f"The network's {name} takes in time in a way AsynDM does not know."
            )
        blocks.append(module)
    if not blocks:
        raise UnsupportedNetwork("The network has no block that takes in time.")
    return blocks


def _shrink(part: nn.Module) -> Callable[[int], int]:
    """How a downsampler changes a side."""
    convolution = getattr(part, "conv", None)
    if not isinstance(convolution, nn.Conv2d):
        return lambda side: side // 2  # average pooling, also inside a ResnetBlock2D
    kernel, stride = convolution.kernel_size[-1], convolution.stride[-1]
    padding = 2 * convolution.padding[-1] or 1  # unpadded ones pad (0, 1) themselves
    return lambda side: (side + padding - kernel) // stride + 1
