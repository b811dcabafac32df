"""Qwen-Image as Forge Neo carries it, see lookalikes.py."""

from __future__ import annotations

import torch
from lookalikes import CONTEXT, Told, by_token
from lookalikes_flux import EmbedND, rotated
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH, HEADS = 32, 2


def fused(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return torch.addcmul(by_token(shift), x, by_token(1 + scale))


class Timesteps(nn.Module):
    def forward(self, t: Tensor) -> Tensor:
        places = torch.arange(128, dtype=torch.float32) / 128
        angles = 1000 * (t[:, None].float() * torch.exp(-torch.log(torch.tensor(1e4)) * places))
        return torch.cat([angles.cos(), angles.sin()], -1)


class TimestepEmbedding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear_1, self.act = nn.Linear(256, WIDTH), nn.SiLU()
        self.linear_2 = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(self.act(self.linear_1(x)))


class QwenTimestepProjEmbeddings(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.time_proj, self.timestep_embedder = Timesteps(), TimestepEmbedding()

    def forward(self, t: Tensor, like: Tensor) -> Tensor:
        return self.timestep_embedder(self.time_proj(t).to(like.dtype))


class GELU(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(WIDTH, 4 * WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.proj(x), approximate="tanh")


class QwenFeedForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.ModuleList([GELU(), nn.Dropout(0.0), nn.Linear(4 * WIDTH, WIDTH)])

    def forward(self, x: Tensor) -> Tensor:
        for module in self.net:
            x = module(x)
        return x


QwenFeedForward.__name__ = "FeedForward"


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.heads = HEADS
        for name in ("norm_q", "norm_k", "norm_added_q", "norm_added_k"):
            setattr(self, name, nn.RMSNorm(WIDTH // HEADS, eps=1e-6))
        for name in ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj"):
            setattr(self, name, nn.Linear(WIDTH, WIDTH))
        self.to_out = nn.ModuleList([nn.Linear(WIDTH, WIDTH), nn.Dropout(0.0)])
        self.to_add_out = nn.Linear(WIDTH, WIDTH)

    def forward(self, hidden_states, encoder_hidden_states, image_rotary_emb, **mask):
        image, text, pe = hidden_states, encoder_hidden_states, image_rotary_emb

        def heads(x: Tensor, *names: str) -> list[Tensor]:
            return [getattr(self, name)(x).unflatten(-1, (HEADS, -1)) for name in names]

        own = heads(image, "to_q", "to_k", "to_v")
        words = heads(text, "add_q_proj", "add_k_proj", "add_v_proj")
        own[:2] = self.norm_q(own[0]), self.norm_k(own[1])
        words[:2] = self.norm_added_q(words[0]), self.norm_added_k(words[1])
        q, k, v = (torch.cat(pair, 1) for pair in zip(words, own))
        q, k, v = (part.transpose(1, 2) for part in (rotated(q, pe), rotated(k, pe), v))
        seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        image = self.to_out[1](self.to_out[0](seen[:, text.shape[1] :]))
        return image, self.to_add_out(seen[:, : text.shape[1]])


class QwenImageTransformerBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        for kind in ("img", "txt"):
            projection = nn.Linear(WIDTH, 6 * WIDTH)
            setattr(self, f"{kind}_mod", nn.Sequential(nn.SiLU(), projection))
            for number in (1, 2):
                norm = nn.LayerNorm(WIDTH, elementwise_affine=False, eps=1e-6)
                setattr(self, f"{kind}_norm{number}", norm)
            setattr(self, f"{kind}_mlp", QwenFeedForward())
        self.attn = Attention()

    def forward(
        self, hidden_states, encoder_hidden_states, encoder_hidden_states_mask, temb,
        image_rotary_emb, text_temb=None,
    ):  # fmt: skip
        image, text = hidden_states, encoder_hidden_states
        mods = [self.img_mod(temb).chunk(6, -1)]
        mods.append(self.txt_mod(temb if text_temb is None else text_temb).chunk(6, -1))
        own = fused(self.img_norm1(image), *mods[0][:2])
        words = fused(self.txt_norm1(text), *mods[1][:2])
        seen = self.attn(
            hidden_states=own, encoder_hidden_states=words,
            encoder_hidden_states_mask=encoder_hidden_states_mask,
            image_rotary_emb=image_rotary_emb,
        )  # fmt: skip
        image, text = (
            x + by_token(mod[2]) * part for x, mod, part in zip((image, text), mods, seen)
        )
        inside = fused(self.img_norm2(image), *mods[0][3:5])
        image = torch.addcmul(image, by_token(mods[0][5]), self.img_mlp(inside))
        inside = fused(self.txt_norm2(text), *mods[1][3:5])
        return torch.addcmul(text, by_token(mods[1][5]), self.txt_mlp(inside)), image


class QwenLastLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.silu, self.linear = nn.SiLU(), nn.Linear(WIDTH, 2 * WIDTH)
        self.norm = nn.LayerNorm(WIDTH, 1e-6, elementwise_affine=False)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        scale, shift = self.linear(self.silu(c)).chunk(2, -1)
        return fused(self.norm(x), shift, scale)


QwenLastLayer.__name__ = "LastLayer"


class QwenImageTransformer2DModel(Told):
    def __init__(self) -> None:
        super().__init__()
        self.patch_size = 2
        self.pe_embedder = EmbedND((4, 6, 6))
        self.time_text_embed = QwenTimestepProjEmbeddings()
        self.txt_norm = nn.RMSNorm(CONTEXT, eps=1e-6)
        self.img_in, self.txt_in = nn.Linear(64, WIDTH), nn.Linear(CONTEXT, WIDTH)
        self.transformer_blocks = nn.ModuleList(QwenImageTransformerBlock() for _ in range(2))
        self.norm_out, self.proj_out = QwenLastLayer(), nn.Linear(WIDTH, 64)

    def forward(self, x, timestep, context, text_t=None, **kwargs) -> Tensor:
        rows, _, _, h, w = x.shape
        height, width = (h + 1) // 2, (w + 1) // 2
        x = F.pad(x, (0, w % 2, 0, h % 2, 0, 0), mode="circular")[:, :, 0]
        x = x.view(rows, 16, height, 2, width, 2).permute(0, 2, 4, 1, 3, 5).reshape(rows, -1, 64)
        first = max(width // 2, height // 2)
        ids = torch.zeros(context.shape[1] + height * width, 3)
        ids[: context.shape[1]] += torch.arange(context.shape[1])[:, None] + first
        place = ids[context.shape[1] :].view(height, width, 3)
        place[..., 1] = torch.arange(height)[:, None] - height // 2
        place[..., 2] = torch.arange(width)[None] - width // 2
        pe = self.pe_embedder(ids.expand(rows, -1, -1)).transpose(1, 2).to(x.dtype)
        x = self.img_in(x)
        text = self.txt_in(self.txt_norm(context))

        def embed(t: Tensor) -> Tensor:
            return self.time_text_embed(t, x)

        temb = self.each(embed, timestep)
        more = {} if text_t is None else {"text_temb": embed(text_t)}
        for block in self.transformer_blocks:
            text, x = block(
                hidden_states=x, encoder_hidden_states=text, encoder_hidden_states_mask=None,
                temb=temb, image_rotary_emb=pe, **more,
            )  # fmt: skip
        x = self.proj_out(self.norm_out(x, temb)).view(rows, height, width, 16, 2, 2)
        x = x.permute(0, 3, 1, 4, 2, 5).reshape(rows, 16, 1, 2 * height, 2 * width)
        return x[..., :h, :w]
