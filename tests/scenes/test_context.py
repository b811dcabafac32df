"""`bench context` on the embedded model."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from asyndm import cli
from asyndm.bench import context as bench
from asyndm.bench.context_pictures import PictureSet, animal_prompts, read_folder
from asyndm.bench.context_plot import write_plot
from asyndm.bench.context_scenes import SceneSubject
from asyndm.core.schedule import PixelTime
from asyndm.core.settings import SettingsError
from asyndm.network import attach
from asyndm.network.context_claim import HELPS, judge, sentence
from asyndm.scenes.pipeline import ScenePipeline
from asyndm.scenes.world import WORLDS


@pytest.fixture(scope="module")
def subject():
    return SceneSubject(ScenePipeline.load("shadows"), 1.0)


@pytest.fixture(scope="module")
def rendered(subject):
    return subject.rendered(16, WORLDS[0])


@pytest.fixture(scope="module")
def of_shipped(subject, rendered):
    return bench.measure(subject, rendered, 4, precision="bfloat16")


def test_no_gain_is_promised_of_shadows(of_shipped):
    assert of_shipped["pictures"] == 16 and set(of_shipped["controls"]) == set(bench.CONTROLS)
    claim = judge(of_shipped)
    assert claim.verdict != HELPS and "beyond the controls;" not in sentence(of_shipped)
    parts = [claim.whole, claim.high, claim.cost]
    assert all(part.verdict != HELPS for part in parts if part is not None)
    assert claim.cost.change.low > 0 and claim.background.low > 0


def test_a_mixed_call_is_the_formula(subject, rendered):
    """D of the map's predictor against noise, timesteps and v written out by hand."""
    mine = slice(0, 2)
    captions, clean = rendered.captions[mine], rendered.latents[mine]
    slow = rendered.masks[mine, 0].long()
    sigmas = subject.parametrisation.sigma(torch.tensor([300.0, 700.0])).float()
    time = PixelTime(sigmas, slow, torch.zeros(2), (16, 16))
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    level = sigmas[slow][:, None]
    with torch.no_grad(), subject.predicting(captions) as predict:
        made = predict(clean + level * noise, time)
        call = predict.denoiser.call
    alpha = 1 / (1 + level**2)
    x = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
    context = subject.pipeline.encode(captions, 1.0)
    with torch.no_grad(), attach(subject.unet, call):
        v = subject.unet(x, torch.full((2,), 700.0), encoder_hidden_states=context).sample
    torch.testing.assert_close(
        made, alpha.sqrt() * x - (1 - alpha).sqrt() * v, atol=2e-4, rtol=1e-4
    )
    assert call.timestep_table.tolist() == pytest.approx([300, 700], abs=1e-3)


def test_nothing_is_left_in_the_network(subject, rendered):
    subject.unet.eval()
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in subject.unet.modules()]
    few = PictureSet(rendered.latents[:2], rendered.masks[:2], rendered.captions[:2])
    report = bench.measure(subject, few, 3, controls=(), calibration=few)
    assert hooks == [
        len(m._forward_hooks) + len(m._forward_pre_hooks) for m in subject.unet.modules()
    ]
    assert "Not measured: shifted, foreign, strange, boxed, attention." in sentence(report)


def test_levelled_norms_take_harm_away(subject, of_shipped):
    """On other pictures than they are calibrated on."""
    pictures = subject.rendered(32, WORLDS[0])
    tested, others = bench._split(pictures, 16)
    assert tested.captions == pictures.captions[:16] and len(others.captions) == 16
    report = bench.measure(
        subject, tested, 4, controls=(), precision="bfloat16", calibration=others
    )
    before, after = judge(of_shipped).cost.change, judge(report).cost.change
    assert after.value < before.value / 2 and after.high < before.low
    with pytest.raises(SettingsError, match="norms: levelled ones need others"):
        bench._split(PictureSet(tested.latents[:2], tested.masks[:2], tested.captions[:2]), 2)


def test_masks_of_its_own_pictures_come_from_attention(subject):
    done = []
    made = subject.made(["a red circle", "two blue stars"], 3, 2.5, done.append)
    assert made.latents.shape == (2, 10, 16, 16) and made.masks.shape == (2, 1, 16, 16)
    assert made.masks.dtype == torch.bool and 0.05 < made.masks.float().mean() < 0.7
    assert done == [2] and made.captions == ["a red circle", "two blue stars"]


def test_grown_masks_are_wider(rendered):
    assert rendered.grown(0).masks is rendered.masks
    mask = torch.zeros(1, 1, 5, 5, dtype=torch.bool)
    mask[0, 0, 1, 1] = True
    wider = PictureSet(torch.zeros(1, 1, 5, 5), mask, [""]).grown(1).masks
    assert wider[0, 0, :3, :3].all() and wider.sum() == 9


def write_folder(folder, names=("one", "two"), size=(128, 64)):
    for number, name in enumerate(names):
        Image.new("RGB", size, (200, 40 * number, 30)).save(folder / f"{name}.png")
        mask = np.zeros(size[::-1], np.uint8)
        mask[: size[1] // 2, size[0] // 2 :] = 255
        Image.fromarray(mask).save(folder / f"{name}-mask.png")
        (folder / f"{name}.txt").write_text("a red circle\n")


def test_a_folder_is_cropped_like_its_masks(tmp_path):
    write_folder(tmp_path)
    pictures, masks, captions = read_folder(tmp_path, 9, (64, 64), (16, 16))
    assert pictures.shape == (2, 64, 64, 3) and captions == ["a red circle"] * 2
    expected = torch.zeros(16, 16, dtype=torch.bool)
    expected[:8, 8:] = True
    assert torch.equal(masks, expected.expand(2, 1, 16, 16))
    assert len(read_folder(tmp_path, 9, (64, 64), (16, 16))[2]) == 2


def _remove(name):
    return lambda folder: (folder / name).unlink()


def _small_mask(folder):
    Image.new("L", (8, 8), 255).save(folder / "two-mask.png")


def _black_mask(folder):
    Image.new("L", (128, 64)).save(folder / "two-mask.png")


def _no_picture(folder):
    (folder / "two.png").write_text("x")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (_remove("two.txt"), "two.txt is missing"),
        (_remove("two-mask.png"), "two-mask.png is missing"),
        (_remove("two.png"), "fewer than two pictures"),
        (_small_mask, "the mask of two.png is 8x8, its picture 128x64"),
        (_black_mask, "of two.png: mask: it is empty"),
        (_no_picture, "two.png is not a picture"),
    ],
)
def test_a_folder_that_cannot_be_used(tmp_path, spoil, says):
    write_folder(tmp_path)
    spoil(tmp_path)
    with pytest.raises(SettingsError, match=says):
        read_folder(tmp_path, 9, (64, 64), (16, 16))


def test_the_command_writes_rows_controls_and_maps(tmp_path, monkeypatch, capsys):
    write_folder(tmp_path)
    file, plot = tmp_path / "map.json", tmp_path / "map.svg"
    argv = ["bench", "context", "--source", "folder", "--folder", str(tmp_path), "--levels", "3"]
    monkeypatch.chdir(tmp_path)
    assert cli.main([*argv, "--json", str(file), "--plot", str(plot)]) == 0
    report = json.loads(file.read_text())
    names = {"t_object", "t_background", "error", "change", "se"}
    assert all(set(row) == names for part in ("objects", "background") for row in report[part])
    assert len(report["objects"]) == len(report["background"]) == 6
    for rows in report["controls"].values():
        assert all(set(row) == {*names, "beyond", "beyond_se"} for row in rows)
    assert report["pictures"] == 2 and report["source"] == "folder"
    assert report["sentence"] == sentence(report) in capsys.readouterr().out.strip()
    assert "cannot be told from 2 pictures" in report["sentence"]
    assert "<svg" in plot.read_text()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--pictures", "1"], "pictures: 1 is out of range"),
        (["--levels", "2"], "levels: 2 is out of range"),
        (["--controls", "boxd"], "controls: 'boxd' is unknown"),
        (["--coupling", "0.3"], "coupling: 0.3 is unknown"),
        (["--source", "folder"], "folder: name it with --folder"),
        (["--source", "folder", "--folder", "nowhere"], "folder: nowhere is no folder"),
        (["--source", "made", "--prompts", "nowhere"], "prompts: nowhere is no text file"),
        (["--device", "warp"], "device: 'warp' cannot be used"),
        (["--json", "nowhere/map.json"], "nowhere is no folder"),
    ],
)
def test_bad_input_is_one_line(options, says, capsys):
    assert cli.main(["bench", "context", *options]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1


def test_an_interrupt_keeps_what_is_measured(subject, rendered, monkeypatch, capsys):
    few = PictureSet(rendered.latents[:4], rendered.masks[:4], rendered.captions[:4])
    opened = []
    plain = subject.predicting

    def predicting(captions, norms=None):
        opened.append(captions)
        if len(opened) == 2:
            raise KeyboardInterrupt
        return plain(captions, norms)

    monkeypatch.setattr(subject, "predicting", predicting)
    report = bench.measure(subject, few, 3, controls=(), batch=2)
    assert report["pictures"] == 2
    assert "2 of 4 pictures are measured" in capsys.readouterr().out


def test_a_plot_in_no_known_format_is_one_line(of_shipped, tmp_path):
    with pytest.raises(SettingsError, match="plot: .*map.xyz"):
        write_plot(of_shipped, tmp_path / "map.xyz")


def test_the_prompts_of_animals_are_all_different():
    assert len(set(animal_prompts())) == 33


def test_weights_that_do_not_fit_are_one_line(tmp_path, capsys):
    for name, says in (("none", "is missing"), ("bad", "do not fit this model")):
        if name == "bad":
            (tmp_path / name).write_bytes(b"x" * 20)
        assert cli.main(["bench", "context", "--weights", str(tmp_path / name)]) == 2
        error = capsys.readouterr().err
        assert says in error and error.count("\n") == 1
