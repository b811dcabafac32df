"""What is Forge Neo's own among the transformers: words by its text encoders, PiD, videos."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from flow_models import forget_prompts, lent
from jobs import make, note, ticked
from test_host_flow import MODELS, PLAIN, asked, having
from torch import nn

NEO = Path(os.environ.get("ASYNDM_WEBUI_DIR", "-"), "backend/diffusion_engine/anima.py")
pytestmark = pytest.mark.skipif(not NEO.is_file(), reason="needs a real Forge Neo")


@pytest.fixture(params=MODELS["Neo"])
def model(host, request):
    yield from having(host, request.param)


@pytest.mark.parametrize(
    "prompt", ["a cat beside a dog", "a dog, (a tall tree:1.2) and a cat", "a dog beside (cat:1.3)"]
)
def test_words_lie_where_another_word_changes_what_the_network_is_shown(
    host, model, traces, monkeypatch, prompt
) -> None:
    """By the host's own encoders and tokenizers, templates and weights."""
    monkeypatch.setitem(host.shared.opts.data, "emphasis", "No norm")  # "Original" scales all rows
    made = make(host, "txt2img", **asked(model), prompt=prompt, **ticked(objects="cat"))
    (rows, ids), (others, other_ids) = (
        shown(host, text) for text in (prompt, prompt.replace("cat", "dog"))
    )
    assert rows.shape == others.shape
    changed = ((rows - others).abs().amax(-1) > 1e-6).nonzero().flatten().tolist()
    if not changed:  # Neo shows Wan nothing of what is behind a prompt's first change of weight
        assert (
            model == "wan"
            and ":" in prompt
            and "no object word is in the prompt (cat)" in note(made)
        )
        return
    # Language models look back alone: the first row that another word changes is that word's own.
    place = changed[0]
    if place == 0:  # T5 looks ahead as well: the word whose number is another, of as many rows
        assert len(ids) <= len(rows)
        (place,) = (ids != other_ids).nonzero()[0].tolist()
    assert not note(made) and made.parameters["AsynDM matched"] == [{"cat": [place]}]


def shown(host, text: str):
    """What the network is shown of a prompt, [tokens, width]; the numbers last looked up for it."""
    from modules.prompt_parser import SdConditioning

    ids = []
    model = host.shared.sd_model
    hooks = [
        module.register_forward_pre_hook(lambda module, args: ids.append(args[0].flatten().cpu()))
        for module in model.forge_objects.clip.cond_stage_model.modules()
        if isinstance(module, nn.Embedding) and module.num_embeddings > 10_000
    ]
    forget_prompts()
    try:
        rows = model.get_learned_conditioning(SdConditioning([text]))
    finally:
        for hook in hooks:
            hook.remove()
    rows = rows["crossattn"] if isinstance(rows, dict) else rows
    return rows[0].float().flatten(0, -2), ids[-1]


def test_pid_is_one_line(host, traces) -> None:
    """Neo's network that makes pixels of latents, by img2img alone."""
    host.checkpoint("sd1")
    with lent(host, "pid"):
        unticked = make(host, "img2img", **PLAIN, cfg_scale=1)
        made = make(host, "img2img", **PLAIN, cfg_scale=1, **ticked(objects="cat"))
    assert "does not know this network (PidNet)" in note(made)
    assert note(made).endswith(" and Ernie-Image. The image is synchronous."), "a whole line"
    assert np.array_equal(made.images[0], unticked.images[0])


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="the host writes videos with ffmpeg")
def test_a_video_is_one_line(host, traces) -> None:
    """Neo makes one of Wan's, of as many frames as the batch has images."""
    host.checkpoint("sd1")
    more = {**PLAIN, "sampler_name": "Euler", "batch_size": 5}  # others' noise is of five images
    with lent(host, "wan"):
        unticked = make(host, "txt2img", **more)
        made = make(host, "txt2img", **more, **ticked(objects="cat"))
    assert "a video of 2 latent frames" in note(made) and "make one frame" in note(made)
    assert len(made.images) == len(unticked.images) >= 5
    assert all(map(np.array_equal, made.images, unticked.images))
