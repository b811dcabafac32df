"""*AsynDM: measure this checkpoint* inside a WebUI."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from jobs import make, ticked
from PIL import Image

TITLE = "AsynDM: measure this checkpoint"
PROMPT = "a cat on a bike"


def measure(host, pictures=4, levels=4, objects="", **request):
    return host.txt2img(
        prompt=PROMPT, steps=3, script_name=TITLE, script_args=[pictures, levels, objects],
        **{"width": 64, "height": 64, **request},
    )  # fmt: skip


@pytest.fixture
def reports(host, monkeypatch):
    """The reports of the jobs, and the meters' own calls."""
    from asyndm.hosts import measuring

    kept = []
    told = measuring.Measurement.told

    def keep(self):
        report, said = told(self)
        kept.append((report, said, self))
        return report, said

    monkeypatch.setattr(measuring.Measurement, "told", keep)
    return kept


@pytest.fixture
def comments(monkeypatch, host):
    """What stands below the images of the jobs, on a page; the API does not send it."""
    from modules import processing

    kept = []
    js = processing.Processed.js

    def keep(self, *given):
        kept.append(self.comments)
        return js(self, *given)

    monkeypatch.setattr(processing.Processed, "js", keep)
    return kept


def test_its_map_is_in_the_gallery_before_the_pictures(host, traces, reports, comments):
    made = measure(host, batch_size=2)
    ((report, said, _),) = reports
    assert report["pictures"] + report["left_out"] == 4
    assert {"shifted", "foreign", "strange", "boxed", "attention"} >= set(report["controls"])
    assert len(report["objects"]) == 10
    assert len(made.images) == 5 and made.info["index_of_first_image"] == 1
    assert made.images[0].shape[1] > 2 * 4 * 58 and made.images[1].shape == (64, 64, 3)
    assert said in comments[-1] and made.info["infotexts"][0] == said
    assert "context" in said
    assert "AsynDM" not in made.parameters


def test_its_rows_are_saved_beside_its_picture(host, traces, reports, comments):
    measure(host, pictures=2)  # the API's jobs save no images by themselves
    assert "so the map's rows are not saved" in comments[-1]
    made = measure(host, pictures=2, batch_size=2, save_images=True)
    ((report, said, _),) = reports[1:]
    says = "AsynDM: the map's rows are in "
    (line,) = [line for line in comments[-1].splitlines() if line.startswith(says)]
    path = Path(line.removeprefix(says))
    rows = json.loads(path.read_text("utf-8"))
    kept = {name: rows[name] for name in report}
    assert kept == json.loads(json.dumps(report)) and rows["sentence"] == said
    assert "sd1" in rows["model"] and rows["made"]["prompt"] == PROMPT
    picture = path.with_suffix(".png")  # and the pictures of the job, each under its own name
    assert np.array_equal(np.asarray(Image.open(picture).convert("RGB")), made.images[0])


def test_a_folder_that_takes_no_file_is_one_line(host, comments, monkeypatch):
    from asyndm.hosts import measuring

    monkeypatch.setattr(measuring, "beside", lambda image, ending: Path("/proc/1/no/map.json"))
    made = measure(host, pictures=2, batch_size=2, save_images=True)
    assert "the map's rows could not be saved as /proc/1/no/map.json" in comments[-1]
    assert len(made.images) == 3


def test_the_pictures_are_those_of_a_plain_job(host, traces, reports):
    plain = host.txt2img(
        prompt=PROMPT, steps=3, batch_size=2, n_iter=2, sampler_name="Euler a", width=64, height=64
    )
    made = measure(host, **ticked(curvature=0.9))  # ticked: measured all the same, not steered
    for one, two in zip(plain.images, made.images[1:], strict=True):
        np.testing.assert_array_equal(one, two)


def test_one_noise_level_is_the_host_s_own_prediction(host, reports, monkeypatch):
    """The error in uniform cells, against a call of the host's denoiser without any of ours."""
    from asyndm.hosts import measuring

    seen = []
    ask = measuring._Asked.__call__

    def both(self, x, time):
        denoised = ask(self, x, time)
        if time.uniform and len(seen) < 3:
            run, step = self.run, self.run.denoiser.step
            run._detach()
            level = time.sigma_table[-1].expand(len(x))
            plain = run.job.denoiser(x, level, **self.extra)
            run.denoiser.step = step
            run.attach()
            seen.append(float((denoised - plain).abs().max() / plain.abs().max()))
        return denoised

    monkeypatch.setattr(measuring._Asked, "__call__", both)
    measure(host, pictures=2)
    assert len(seen) == 3 and max(seen) < 2e-3, seen


def test_an_interrupt_leaves_the_pictures_and_what_is_measured(host, traces, reports, monkeypatch):
    from asyndm.network.context_map import ContextMeter

    add = ContextMeter.add
    batches = []

    def stop(self, predict, latents, masks, seeds, tick=None):
        batches.append(seeds)

        def press():
            tick()
            if len(batches) == 2:
                host.shared.state.interrupt()

        return add(self, predict, latents, masks, seeds, press)

    monkeypatch.setattr(ContextMeter, "add", stop)
    made = measure(host, pictures=8, batch_size=2)
    ((report, said, measurement),) = reports
    assert measurement.interrupted and report["pictures"] + report["left_out"] == 2
    assert f"Stopped at {report['pictures']} pictures." in said
    plain = host.txt2img(
        prompt=PROMPT, steps=3, batch_size=2, n_iter=2, sampler_name="Euler a", width=64, height=64
    )
    for one, two in zip(plain.images, made.images[1:], strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"objects": "zebra"}, "no object word is in the prompt"),
        ({"pictures": 1}, "pictures: 1 is out of range"),
        ({"levels": 99}, "levels: 99 is out of range"),
    ],
)
def test_what_cannot_be_measured_is_one_line(host, traces, comments, change, says):
    made = measure(host, **{"pictures": 2, "batch_size": 2, **change})
    lines = [line for line in comments[-1].splitlines() if says in line]
    assert len(lines) == 1 and len(made.images) >= 2
    assert made.info["index_of_first_image"] == 0


def test_unused_it_is_only_in_the_list(host, traces):
    from modules import scripts

    titles = [script.title() for script in scripts.scripts_txt2img.selectable_scripts]
    assert TITLE in titles
    assert TITLE not in [s.title() for s in scripts.scripts_img2img.selectable_scripts]
    made = make(host, "txt2img", prompt=PROMPT)
    assert "asyndm" not in json.dumps(made.info).lower()
