"""Training: a short run from nothing, its resumption, and the positive control."""

import numpy as np
import pytest
import torch

from asyndm.bench.repaint import SETS, sample_job, sample_jobs
from asyndm.scenes import mixed, train
from asyndm.scenes.model import TRAINED, WEIGHTS, Autoencoder, SceneModel
from asyndm.scenes.pipeline import Request, ScenePipeline
from asyndm.scenes.text import COUPLINGS
from asyndm.scenes.world import draw, sample_scene, sample_wish


def small_corpus(monkeypatch, folder):
    monkeypatch.setattr(train, "_CHUNK", 40)
    return train.load_corpus(folder, 40, workers=1)


def test_the_linear_encoder_is_principal_components(monkeypatch, tmp_path):
    corpus = small_corpus(monkeypatch, tmp_path)
    autoencoder = Autoencoder()
    pixels = train.to_input(corpus.pictures, torch.device("cpu"))
    autoencoder.fit(pixels)
    latents = autoencoder.encode(pixels)
    assert latents.shape == (40, 10, 16, 16)
    assert abs(latents.square().mean() - latents.mean((0, 2, 3)).square().mean() - 1) < 0.05
    # independent: numpy's singular values tell what ten components can explain
    patches = pixels.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).reshape(-1, 48)
    centred = (patches - patches.mean(0)).double().numpy()
    lost = (np.linalg.svd(centred, compute_uv=False)[10:] ** 2).sum() / centred.size
    error = (autoencoder.decode_linear(latents) - pixels).double().square().mean().item()
    assert abs(error - lost) < 1e-6


def test_a_run_is_resumed_where_it_was(monkeypatch, tmp_path):
    corpus = small_corpus(monkeypatch, tmp_path)
    autoencoder = train.fit_encoder(corpus, tmp_path, torch.device("cpu"))
    latents = train.encode_corpus(corpus, autoencoder, tmp_path, torch.device("cpu"))

    def go(minutes):
        torch.manual_seed(0)
        model = SceneModel()
        train.train_diffusion(
            model, corpus, latents, tmp_path, minutes, 4, torch.device("cpu"), compiled=False
        )
        return torch.load(tmp_path / "diffusion.pt", weights_only=True)

    first = go(0.04)
    second = go(0.08)
    assert second["step"] > first["step"] > 0
    assert second["spent"] >= 0.08 * 60 > first["spent"]
    name = "1.conv_in.weight"
    assert not torch.equal(first["average"][name], second["average"][name])
    again = go(0.08)  # nothing left to do
    assert again["step"] == second["step"]


def test_the_decoder_learns(monkeypatch, tmp_path):
    corpus = small_corpus(monkeypatch, tmp_path)
    device = torch.device("cpu")
    autoencoder = train.fit_encoder(corpus, tmp_path, device)
    pixels = train.to_input(corpus.pictures, device)

    def error():
        with torch.no_grad():
            return (autoencoder.decode(autoencoder.encode(pixels)) - pixels).abs().mean().item()

    before = error()
    train.train_decoder(autoencoder, corpus, tmp_path, 0.15, device)
    assert error() < before
    assert (tmp_path / "decoder.pt").exists()


def test_mixed_timesteps_are_those_of_a_run():
    objects = torch.rand(400, 16, 16) < 0.2
    timesteps, mask = mixed.mixed_timesteps(objects, 1000, torch.Generator().manual_seed(1))
    background, slow = timesteps.unbind(1)
    assert (slow >= background).all() and slow.max() <= 999
    # design: an object lags by at most k * i * (n - i) / n clock units, here with k = 1
    passed = 1 - background / 999
    assert (slow - background <= 999 * passed * (1 - passed) + 1e-3).all()
    own = [torch.equal(a, b) for a, b in zip(mask, objects)]
    empty = [not a.any() for a in mask]
    assert 0.4 < np.mean(own) < 0.6 and 0.15 < np.mean(empty) < 0.35


def test_the_positive_control_learns_mixed_noise(monkeypatch, tmp_path):
    corpus = small_corpus(monkeypatch, tmp_path)
    torch.manual_seed(0)
    model = SceneModel()
    model.autoencoder.fit(train.to_input(corpus.pictures, torch.device("cpu")))
    latents = model.autoencoder.encode(train.to_input(corpus.pictures, torch.device("cpu")))
    before = model.unet.conv_in.weight.clone()
    objects = mixed.true_objects(corpus.pictures)
    tokens = torch.from_numpy(corpus.tokens.astype(np.int64))
    steps = mixed.fine_tune(model, latents, tokens, objects, 0.05, batch=4)
    assert mixed.fine_tune(model, latents, tokens, objects, 0, batch=2, most=3) == 3
    assert steps > 0 and not torch.equal(before, model.unet.conv_in.weight)
    hooks = [m for m in model.modules() if m._forward_hooks or m._forward_pre_hooks]
    assert not hooks and not any(p.requires_grad for p in model.unet.parameters())


def test_true_objects_are_where_they_were_drawn():
    rng = np.random.default_rng(3)
    scene = sample_scene(rng, sample_wish(rng))
    cells = mixed.true_objects(np.asarray(draw(scene))[None])[0]
    for thing in scene.things:
        assert cells[int(thing.y / 4), int(thing.x / 4)]
    covered = sum((thing.size / 4) ** 2 for thing in scene.things)
    assert 0.3 * covered < cells.sum() < 1.6 * covered


def test_a_world_may_have_a_decoder_of_its_own(monkeypatch, tmp_path):
    """The shipped encoder, a narrower decoder; the file knows its world and both are read back."""
    monkeypatch.setattr(train, "_CHUNK", 40)
    export = tmp_path / "auroras.safetensors"
    argv = ["train", "--folder", str(tmp_path), "--scenes", "40", "--workers", "1", "--graph"]
    argv += ["--world", "auroras", "--start-from", str(WEIGHTS), "--keep-encoder"]
    argv += ["--decoder-width", "32", "--object-weight", "4", "--decoder-minutes", "0.02"]
    argv += ["--minutes", "0.02", "--batch", "4", "--export", str(export)]
    monkeypatch.setattr("sys.argv", argv)
    train.main()
    assert export.stat().st_size <= 5_700_000
    model, shipped = SceneModel.load(export), SceneModel.load("shadows")
    assert (model.world, shipped.world) == ("auroras", "shadows")
    for name in ("mean", "basis", "scale"):
        own, theirs = (getattr(one.autoencoder, name) for one in (model, shipped))
        assert own.equal(theirs)
    trained = torch.load(tmp_path / "decoder.pt", weights_only=True)["refine.0.weight"]
    assert model.autoencoder.refine[0].weight.equal(trained.half().float())
    assert not trained.equal(torch.load(tmp_path / "encoder.pt")["refine.0.weight"])


def test_another_world_is_learned_with_the_shipped_autoencoder(monkeypatch, tmp_path):
    """Exports on the way and at the end; they lack the autoencoder, and load with it."""
    monkeypatch.setattr(train, "_CHUNK", 40)
    export = tmp_path / "beams.safetensors"
    argv = ["train", "--folder", str(tmp_path), "--scenes", "40", "--workers", "1"]
    argv += ["--world", "beams", "--start-from", str(WEIGHTS), "--keep-autoencoder"]
    argv += ["--minutes", "0.03", "--batch", "4", "--snapshots", "2", "--export", str(export)]
    monkeypatch.setattr("sys.argv", argv)
    train.main()
    with np.load(tmp_path / "corpus_beams_40.npz") as corpus:
        first = corpus["pictures"][0]
    rng = np.random.default_rng([2510, 4504, 0])
    wish = sample_wish(rng)
    coupling = COUPLINGS[rng.integers(len(COUPLINGS))]
    assert (first == np.asarray(draw(sample_scene(rng, wish, coupling, "beams")))).all()
    shipped = SceneModel.load("shadows").state_dict()
    for path in (tmp_path / "beams-1of2.safetensors", export):
        assert path.stat().st_size < 5_700_000
        model = SceneModel.load(path).state_dict()
        for name, value in model.items():
            if name.startswith("autoencoder."):
                assert value.equal(shipped[name])
        assert not model["unet.conv_in.weight"].equal(shipped["unet.conv_in.weight"])


def test_a_world_is_named_where_weights_are_asked_for(tmp_path):
    """The trained ones lie in the package, within their size; any other name is a file's."""
    assert sum(path.stat().st_size for path in TRAINED.values()) <= 12_000_000
    for world in TRAINED:
        assert ScenePipeline.load(world).model.world == world
    with pytest.raises(FileNotFoundError, match="sunsets is missing"):
        ScenePipeline.load("sunsets")


def test_the_world_of_the_weights_is_the_one_that_is_drawn():
    """Levelled norms are calibrated on it, and `bench repaint` paints in it."""
    pipeline = ScenePipeline.random()
    pipeline.model.world = "auroras"
    drawn = [job.picture for job in sample_jobs(pipeline, "development", 2, Request(""))]
    rng = np.random.default_rng(SETS["development"][0])
    assert (drawn[0] == sample_job(rng, 0, "auroras").picture).all()
    assert (drawn[0] != sample_job(np.random.default_rng(SETS["development"][0])).picture).any()
