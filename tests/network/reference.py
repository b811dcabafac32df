"""Independent answers: the blocks written out once more, fed pixel by pixel.

Nothing here comes from asyndm: each table timestep's features are taken from a *plain* run of the
network at that timestep, and put together pixel by pixel with exact fractions.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from fractions import Fraction

import torch
from torch import Tensor, nn


def cell(position: int, count: int, full: int) -> int:
    """The cell of ``full`` that holds the centre of block ``position`` of ``count``."""
    return int((Fraction(position) + Fraction(1, 2)) * full / count)


def reference(case, inputs, pixel_time, timesteps: Tensor, images: list[int]) -> Tensor:
    """The network's output with every pixel at its own timestep."""
    unet = case.unet
    name = "emb_layers" if case.ldm else "time_emb_proj"
    blocks = [m for m in unet.modules() if isinstance(getattr(m, name, None), nn.Module)]
    features: dict[nn.Module, list[Tensor]] = {block: [] for block in blocks}
    handles = []
    for block in blocks:

        def keep(module, args, output, block=block):
            features[block].append(output.clone())

        handles.append(getattr(block, name).register_forward_hook(keep))
    for timestep in timesteps.tolist():
        case(inputs, timestep)
    for handle in handles:
        handle.remove()

    latent_h, latent_w = pixel_time.size
    grid_h, grid_w = pixel_time.index.shape[1:]

    def time_map(block: nn.Module, height: int, width: int) -> Tensor:
        rows = []
        for row, image in enumerate(images):
            place = torch.tensor(
                [
                    [
                        int(
                            pixel_time.index[
                                image,
                                cell(cell(y, height, latent_h), latent_h, grid_h),
                                cell(cell(x, width, latent_w), latent_w, grid_w),
                            ]
                        )
                        for x in range(width)
                    ]
                    for y in range(height)
                ]
            )
            values = torch.stack([f[row] for f in features[block]])  # [R, C]
            rows.append(values[place].permute(2, 0, 1))
        return torch.stack(rows)

    forward = _ldm_block if case.ldm else _diffusers_block
    with ExitStack() as stack:
        for block in blocks:
            stack.enter_context(_replaced(block, forward, time_map))
        return case(inputs, float(timesteps[0]))


@contextmanager
def _replaced(block: nn.Module, forward, time_map):
    block.forward = lambda x, *args, **kwargs: forward(
        block, x, lambda h: time_map(block, *h.shape[-2:])
    )
    yield
    del block.forward


def _ldm_block(block: nn.Module, x: Tensor, time) -> Tensor:
    h = block.in_layers[1](block.in_layers[0](x))
    h, x = block.h_upd(h), block.x_upd(x)
    h = block.in_layers[2](h)
    if block.use_scale_shift_norm:
        scale, shift = time(h).chunk(2, dim=1)
        h = block.out_layers[0](h) * (1 + scale) + shift
        h = block.out_layers[1:](h)
    else:
        h = block.out_layers(h + time(h))
    return block.skip_connection(x) + h


def _diffusers_block(block: nn.Module, x: Tensor, time) -> Tensor:
    h = torch.nn.functional.silu(block.norm1(x))
    for sampler in (block.upsample, block.downsample):
        if sampler is not None:
            x, h = sampler(x), sampler(h)
    h = block.conv1(h)
    if block.time_embedding_norm == "scale_shift":
        scale, shift = time(h).chunk(2, dim=1)
        h = block.norm2(h) * (1 + scale) + shift
    else:
        h = block.norm2(h + time(h))
    h = block.conv2(torch.nn.functional.silu(h))
    shortcut = x if block.conv_shortcut is None else block.conv_shortcut(x)
    return (shortcut + h) / block.output_scale_factor
