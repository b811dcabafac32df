"""bench alignment: FID and KID, of whole sets, equal what is computed otherwise."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from alignment_toys import bench
from PIL import Image
from scipy import linalg

from asyndm.bench.alignment.scores import Absent, Options, open_score, sets
from asyndm.core.settings import SettingsError

pytest.importorskip("torchmetrics", reason="pip install 'asyndm[bench]'")


def fid_by_hand(one, two):
    """Heusel et al. 2017, eq. 6, by scipy's square root of a matrix."""
    covs = [np.cov(each, rowvar=False) for each in (one, two)]
    root = linalg.sqrtm(covs[0] @ covs[1]).real
    apart = one.mean(0) - two.mean(0)
    return apart @ apart + np.trace(covs[0] + covs[1] - 2 * root)


def kid_by_hand(one, two):
    """Binkowski et al. 2018, eq. 4: unbiased, of all pictures at once; sums over pairs i != j."""
    d = one.shape[1]
    same = 0.0
    for each in (one, two):
        kernel = (each @ each.T / d + 1) ** 3
        same += (kernel.sum() - np.trace(kernel)) / (len(each) * (len(each) - 1))
    return same - 2 * ((one @ two.T / d + 1) ** 3).mean()


def test_distances_by_hand():
    rng = np.random.default_rng(0)
    one = rng.normal(size=(60, 6)).astype(np.float32)
    two, far = (rng.normal(shift, 1 + shift, (60, 6)).astype(np.float32) for shift in (0.2, 1.5))
    for each in (two, far):
        assert sets.fid(one, each) == pytest.approx(fid_by_hand(one, each), rel=1e-4)
        mean, deviation = sets.kid(one, each)
        assert mean == pytest.approx(kid_by_hand(one, each), rel=1e-4) and deviation < 1e-6
    assert sets.fid(one, two) < sets.fid(one, far) and sets.kid(one, two) < sets.kid(one, far)
    state = torch.get_rng_state()
    few = sets.kid(one, np.repeat(two, 30, axis=0))
    assert few == sets.kid(one, np.repeat(two, 30, axis=0)) and torch.equal(
        state, torch.get_rng_state()
    )


class Eight(torch.nn.Module):
    """Eight features of a picture, in the place of Inception's 2048."""

    def forward(self, pixels):
        assert pixels.dtype == torch.uint8 and pixels.shape[:2] == (1, 3)
        cells = torch.nn.functional.adaptive_avg_pool2d(pixels.float() / 255, 2).flatten(1)
        return (torch.cat([cells[:, :7], pixels.float().std()[None, None] / 255], 1),)


@pytest.fixture
def eight(monkeypatch, tmp_path):
    monkeypatch.setattr(sets, "_inception", lambda path: Eight())
    monkeypatch.setattr(sets, "libraries", lambda *names: {})
    torch.save({}, tmp_path / "inception.pth")
    rng = np.random.default_rng(3)
    (tmp_path / "real" / "a").mkdir(parents=True)
    for number in range(12):
        shape = (64, 64 + number % 2, 3)  # of different sizes
        picture = Image.fromarray(rng.integers(0, 255, shape, dtype=np.uint8))
        picture.save(tmp_path / "real" / ("a" if number % 2 else ".") / f"{number // 2}.png")
    return ["--weights", f"inception={tmp_path / 'inception.pth'}", "--reference",
            str(tmp_path / "real")]  # fmt: skip


def features_of(paths):
    network = Eight()
    rows = []
    for path in paths:
        pixels = torch.from_numpy(np.array(Image.open(path).convert("RGB")))
        rows.append(network(pixels.permute(2, 0, 1)[None])[0][0].numpy())
    return np.stack(rows)


def test_methods_are_compared_by_their_whole_sets(tmp_path, eight, monkeypatch):
    rng = np.random.default_rng(4)
    for method, low in (("near", 0), ("far", 200)):
        for number in range(6):
            path = tmp_path / "made" / method / f"{number:05}" / "samples" / "0000.png"
            path.parent.mkdir(parents=True)
            pixels = rng.integers(low, 255, (48, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path)
    prompts = tmp_path / "six.txt"
    prompts.write_text("\n".join(f"a thing {n}" for n in range(6)))
    args = ["--backend", f"images:{tmp_path / 'made'}", "--methods", "near", "far",
            "--prompts", prompts, "--folder", tmp_path / "out"]  # fmt: skip
    assert bench(*args, "--scores", "fid", "kid", "contrast", *eight) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    by_name = {one["name"]: one for one in report["scores"]}
    real = features_of(sorted((tmp_path / "real").rglob("*.png")))
    for method in ("near", "far"):
        mine = features_of(sorted((tmp_path / "made" / method).rglob("*.png")))
        fid, kid = (by_name[name]["means"][method] for name in ("fid", "kid"))
        assert fid["value"] == pytest.approx(fid_by_hand(mine, real), rel=1e-3, abs=1e-5)
        assert fid["n"] == 6 and fid["low"] is None
        assert kid["value"] == pytest.approx(sets.kid(mine, real)[0])
    assert by_name["fid"]["means"]["near"]["value"] < by_name["fid"]["means"]["far"]["value"]
    assert by_name["kid"]["means"]["near"]["value"] < by_name["kid"]["means"]["far"]["value"]
    assert by_name["contrast"]["tested"] and not by_name["fid"]["tested"]
    assert "fewer than its 2048 features" in (tmp_path / "out" / "report.html").read_text()
    calls = []
    monkeypatch.setattr(sets.Fid, "features", lambda self, images: calls.append(images))
    assert bench("score", "--folder", tmp_path / "out", "--scores", "kid", *eight) == 0
    assert not calls  # features are kept, of both scores
    with_less = json.loads((tmp_path / "out" / "plan.json").read_text())
    with_less["prompts"] = with_less["prompts"][:4]
    (tmp_path / "out" / "plan.json").write_text(json.dumps(with_less))
    bench("report", "--folder", tmp_path / "out")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert sorted(report["absent"]) == ["fid", "kid"]  # values of other pictures are not shown
    assert bench("report", "--folder", tmp_path / "out", "--choose", "fid") == 2


def test_what_lacks_is_one_line(tmp_path, eight, monkeypatch):
    torch.save({}, tmp_path / "x.pth")
    weights = {"inception": tmp_path / "x.pth"}
    for options, says in (
        (Options(), "--weights inception=FOLDER"),
        (Options(weights), "--reference FOLDER"),
        (Options(weights, reference=tmp_path), None),
        (Options(weights, reference=tmp_path / "nothing"), "holds 0 pictures"),
    ):
        if says:
            with pytest.raises(Absent, match=says) as caught:
                open_score("fid", options)
            assert "\n" not in str(caught.value)
    (tmp_path / "real" / "bad.png").write_text("no picture")
    with pytest.raises(SettingsError, match=r"bad\.png is no picture"):
        list(open_score("kid", Options(weights, reference=tmp_path / "real")).reference())
    monkeypatch.undo()
    for name in [*sys.modules, "torch_fidelity"]:
        if name.partition(".")[0] == "torch_fidelity":
            monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(Absent, match=r"pip install -r requirements/fid\.txt"):
        open_score("fid", Options(weights, reference=tmp_path / "real"))


def test_inception_is_torch_fidelitys(tmp_path):
    """In the environment of requirements/fid.txt: random weights in its layout, by its own API."""
    fidelity = pytest.importorskip("torch_fidelity", reason="requirements/fid.txt")
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    path = tmp_path / "weights-inception-2015-12-05-6726825d.pth"
    torch.manual_seed(6)
    blank = FeatureExtractorInceptionV3.__new__(FeatureExtractorInceptionV3)
    with pytest.MonkeyPatch.context() as patched:  # its layers, without a download
        patched.setattr(torch, "load", lambda *args, **kwargs: {})
        patched.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        blank.__init__("inception-v3-compat", ["2048"], feature_extractor_weights_path="none")
    torch.save(blank.state_dict(), path)
    rng = np.random.default_rng(7)
    for name, low in (("real", 0), ("near", 10), ("far", 190)):
        (tmp_path / name).mkdir()
        for number in range(6):
            pixels = rng.integers(low, 255, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    options = Options({"inception": path}, reference=tmp_path / "real")
    fid, kid = open_score("fid", options), open_score("kid", options)
    others = fid.features([image for _, image in fid.reference()])
    got = {}
    for name in ("near", "far"):
        pictures = [Image.open(p) for p in sorted((tmp_path / name).glob("*.png"))]
        mine = fid.features(pictures)
        assert mine.shape == (6, 2048)
        own = fidelity.calculate_metrics(
            input1=str(tmp_path / name), input2=str(tmp_path / "real"), cuda=False, fid=True,
            kid=True, kid_subset_size=6, kid_subsets=2, feature_extractor_weights_path=str(path),
            verbose=False, cache=False, save_cpu_ram=True,
        )  # fmt: skip
        got[name] = fid.distance(mine, others).value, kid.distance(mine, others).value
        assert got[name][0] == pytest.approx(own["frechet_inception_distance"], rel=1e-3, abs=1e-6)
        assert got[name][1] == pytest.approx(
            own["kernel_inception_distance_mean"], rel=1e-3, abs=1e-7
        )
    assert got["near"] < got["far"]

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "run"), "w"))

    torch.save({"fc.weight": Evil()}, path)
    with pytest.raises(Absent, match="cannot be loaded"):
        open_score("fid", options)
    assert not (tmp_path / "run").exists()
