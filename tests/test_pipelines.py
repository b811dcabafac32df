"""A checkpoint of diffusers: loaded, measured, and refused in one line."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import tiny_checkpoint
import torch
from PIL import Image

from asyndm import cli
from asyndm.core.schedule import PixelTime
from asyndm.core.settings import SettingsError
from asyndm.network import UnsupportedNetwork
from asyndm.network.context_claim import sentence

PROMPTS = ["a cat riding a bike", "two cats and a red umbrella"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_checkpoint.save(tmp_path_factory.mktemp("sd1"))


@pytest.fixture(scope="module")
def checkpoint(folder):
    from asyndm.pipelines import Checkpoint

    return Checkpoint.load(folder)


def test_the_folder_is_that_of_stable_diffusion(folder):
    parts = {"model_index.json", "unet", "vae", "text_encoder", "tokenizer", "scheduler"}
    assert parts <= {path.name for path in folder.iterdir()}
    assert (folder / "unet" / "diffusion_pytorch_model.safetensors").is_file()


def test_what_a_checkpoint_is(checkpoint):
    assert checkpoint.size == (32, 32) and checkpoint.factor == 2
    assert float(checkpoint.parametrisation.sigmas[-1]) == pytest.approx(14.61, abs=0.01)
    assert checkpoint.tokens("a cat")[1:3] == ["a</w>", "cat</w>"]
    capture = checkpoint.capture(PROMPTS)
    assert capture.columns == [[[[2], [5]]], [[[2], [6]]]]  # cat, bike; cats, umbrella
    assert checkpoint.capture(["and the", "of"]) is None
    written = checkpoint.capture(PROMPTS, "red umbrella")
    assert written.columns == [[[[]]], [[[5, 6]]]]


def test_latents_come_back_as_the_picture(checkpoint):
    """In the scale of the network: by the pipeline's own decoder."""
    pictures = np.random.default_rng(0).integers(0, 255, (2, 32, 32, 3), np.uint8)
    latents = checkpoint.encode(pictures)
    assert latents.shape == (2, 4, 16, 16)
    vae = checkpoint.pipe.vae
    pixels = torch.from_numpy(pictures[:1]).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        plain = vae.encode(pixels).latent_dist.mean * vae.config.scaling_factor
    torch.testing.assert_close(latents[:1], plain)


def test_its_own_pictures_are_the_pipeline_s(checkpoint):
    steps = []
    latents, maps = checkpoint.make(PROMPTS, [3, 4], steps=3, cfg=5.0, report=steps.append)
    assert steps == [0, 1, 2] and maps.shape[:2] == (2, 2) and not maps.isnan().any()
    plain = checkpoint.pipe(
        PROMPTS,
        generator=[torch.Generator().manual_seed(s) for s in (3, 4)],
        num_inference_steps=3,
        guidance_scale=5.0,
        output_type="latent",
    ).images
    assert torch.equal(latents, plain)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in checkpoint.unet.modules())
    with pytest.raises(SettingsError, match="no object word is in 'and the'"):
        checkpoint.make(["and the"], [0])


@pytest.mark.parametrize("xl", [False, True])
def test_one_noise_level_is_the_network_s_own_prediction(checkpoint, tmp_path, xl):
    from asyndm.bench.context_checkpoint import CheckpointSubject
    from asyndm.pipelines import Checkpoint

    if xl:
        checkpoint = Checkpoint.load(tiny_checkpoint.save(tmp_path, xl=True))
    subject = CheckpointSubject(checkpoint, checkpoint.size)
    clean, noise = (torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(s))
                    for s in (0, 1))  # fmt: skip
    sigma = checkpoint.parametrisation.sigma(torch.tensor([600.0])).float()
    time = PixelTime(sigma, torch.zeros(2, 1, 1, dtype=torch.long), torch.zeros(1), (16, 16))
    with torch.no_grad(), subject.predicting(PROMPTS) as predict:
        made = predict(clean + sigma * noise, time)
        masks = predict.masks()
    alpha = checkpoint.pipe.scheduler.alphas_cumprod[600]
    x = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
    encoded = checkpoint.pipe.encode_prompt(PROMPTS, "cpu", 1, True) if not xl else (
        checkpoint.pipe.encode_prompt(PROMPTS, device="cpu", do_classifier_free_guidance=True)
    )  # fmt: skip
    more = {}
    if xl:
        told = torch.tensor([[32.0, 32, 0, 0, 32, 32]] * 2)
        more = {"added_cond_kwargs": {"text_embeds": encoded[2], "time_ids": told}}
    with torch.no_grad():
        eps = checkpoint.unet(x, 600, encoder_hidden_states=encoded[0], **more).sample
    plain = (x - (1 - alpha).sqrt() * eps) / alpha.sqrt()
    torch.testing.assert_close(made, plain, atol=2e-3, rtol=1e-3)
    assert masks.shape == (2, 16, 16) and masks.dtype == torch.bool and masks.any()


def test_the_command_measures_it(folder, tmp_path, capsys):
    argv = ["bench", "context", "--checkpoint", str(folder), "--levels", "3", "--pictures", "3"]
    argv += ["--steps", "2", "--json", str(tmp_path / "map.json")]
    assert cli.main(argv) == 0
    report = json.loads((tmp_path / "map.json").read_text())
    assert report["model"] == "model" and report["source"] == "made" and report["size"] == [32, 32]
    assert report["pictures"] == 3 and "attention" in report["controls"]
    assert sentence(report) in capsys.readouterr().out


def test_the_command_measures_a_folder_in_half_precision(folder, tmp_path):
    for name in ("one", "two"):
        Image.new("RGB", (80, 60), (90, 140, 30)).save(tmp_path / f"{name}.png")
        mask = Image.new("L", (80, 60))
        mask.paste(255, (30, 20, 50, 40))
        mask.save(tmp_path / f"{name}-mask.png")
        (tmp_path / f"{name}.txt").write_text("a green field\n")
    file = tmp_path / "map.json"
    argv = ["bench", "context", "--checkpoint", str(folder), "--source", "folder", "--levels", "3"]
    argv += ["--folder", str(tmp_path), "--precision", "bfloat16", "--json", str(file)]
    assert cli.main([*argv, "--size", "64"]) == 0
    report = json.loads(file.read_text())
    assert report["pictures"] == 2 and report["size"] == [64, 64]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--checkpoint", "nowhere"], "checkpoint: nowhere cannot be loaded"),
        (["--checkpoint", "FOLDER", "--source", "rendered"], "source: rendered scenes are"),
        (["--checkpoint", "FOLDER", "--size", "33"], "size: it must be a multiple of 2"),
        (["--checkpoint", "FOLDER", "--steps", "0"], "steps: 0 is out of range"),
    ],
)
def test_bad_input_is_one_line(folder, options, says, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    options = [str(folder) if option == "FOLDER" else option for option in options]
    assert cli.main(["bench", "context", *options]) == 2
    error = capsys.readouterr().err.splitlines()
    assert any(line.startswith(f"asyndm: {says}") for line in error)


def test_what_is_predicted_is_read_from_the_scheduler(checkpoint, monkeypatch):
    import diffusers

    from asyndm.pipelines import Checkpoint

    def with_scheduler(**changes):
        changes = {"beta_start": 0.00085, "beta_end": 0.012, **changes}
        changes = {"beta_schedule": "scaled_linear", **changes}
        monkeypatch.setattr(checkpoint.pipe, "scheduler", diffusers.DDIMScheduler(**changes))
        return Checkpoint(checkpoint.pipe)

    made = with_scheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True)
    assert type(made.parametrisation).__name__ == "VParametrisation"
    assert made.parametrisation.sigmas[-1] == pytest.approx(4519, abs=1)  # as WebUIs have it
    with pytest.raises(UnsupportedNetwork, match="predicts 'sample'"):
        with_scheduler(prediction_type="sample")
    with pytest.raises(UnsupportedNetwork, match="noise levels are of no use"):
        with_scheduler(beta_start=0.0, beta_end=0.0)
    with pytest.raises(UnsupportedNetwork, match="does not know object"):
        Checkpoint(object())


def test_without_the_library_one_line_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    assert cli.main(["bench", "context", "--checkpoint", "x"]) == 2
    assert "pip install 'asyndm[bench]'" in capsys.readouterr().err
