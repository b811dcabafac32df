"""Regional Prompter and Forge Couple themselves, beside AsynDM in a real WebUI.

``ASYNDM_EXTENSIONS`` names their checkouts (see ``real_hosts.py``): hako-mikan's
sd-webui-regional-prompter, Haoming02's sd-forge-couple. What is read of them is tested with
look-alikes in ``test_host_regions.py``, everywhere.
"""

from __future__ import annotations

import numpy as np
import pytest
from jobs import apart, make, note, ticked
from test_host_regions import comments, part, sent
from works import _defaults, runner_of

COLUMNS = (part(0, 128, 0, 64), part(0, 128, 64, 128))
ROWS = (part(0, 64, 0, 128), part(64, 128, 0, 128))
QUARTER = (part(0, 128, 0, 32), part(0, 128, 32, 128))


def prompter(host, **changes) -> tuple[str, list]:
    """(title, arguments) of Regional Prompter switched on."""
    asked = {
        **{"active": True, "debug": False, "tab": "Matrix", "split": "Columns", "mask": "Mask"},
        **{"prompt": "Prompt", "ratios": "1,1", "base": "0.2", "usebase": False, "common": False},
        **{"negative": False, "calc": "Attention", "options": [], "te": "0", "unet": "0"},
        **{"threshold": "0.4", "painted": None, "stop": "0", "stop_hr": "0", "flip": False},
    }
    return "Regional Prompter", list({**asked, **changes}.values())


def couple(host, **changes) -> tuple[str, list]:
    """The same of Forge Couple."""
    runner = runner_of("txt2img")
    script = next(s for s in runner.alwayson_scripts if s.title() == "Forge Couple")
    values = [True, *_defaults(host.api, "txt2img", script)[1:]]
    for name, value in changes.items():
        values[("enable", "no_hr", "mode", "separator", "direction").index(name)] = value
    return script.title(), values


PROMPTER = "a cat on grass BREAK a dog on sand"
COUPLE = "a cat on grass\na dog on sand"
CASES = {
    "prompter, columns": (prompter, {}, PROMPTER, COLUMNS),
    "prompter, columns of 1 and 3": (prompter, {"ratios": "1,3"}, PROMPTER, QUARTER),
    "prompter, rows": (prompter, {"split": "Rows"}, PROMPTER, ROWS),
    "prompter, latent": (prompter, {"calc": "Latent"}, PROMPTER, COLUMNS),
    "couple, columns": (couple, {"no_hr": False}, COUPLE, COLUMNS),
    "couple, rows": (couple, {"no_hr": False, "direction": "Vertical"}, COUPLE, ROWS),
}


@pytest.mark.parametrize("kind", ["txt2img", "hires"])
@pytest.mark.parametrize("case", CASES)
def test_the_regions_of_the_extension_itself_are_the_masks(host, case, kind):
    arguments, changes, prompt, (cat, dog) = CASES[case]
    titles = [script.title() for script in runner_of("txt2img").alwayson_scripts]
    title = {prompter: "Regional Prompter", couple: "Forge Couple"}[arguments]
    if title not in titles:
        pytest.skip(f"no {title} in this host: set ASYNDM_EXTENSIONS")
    title, values = arguments(host, **changes)
    other = {title: {"args": values}}

    def made(regions=True, **settings):
        scripts = ticked(**settings)["alwayson_scripts"] if settings else {}
        both = {**scripts, **(other if regions else {})}
        return make(host, kind, prompt=prompt, alwayson_scripts=both)

    without, plain = made(regions=False), made()
    assert apart(without.images[0], plain.images[0]) > 3, f"{title} did nothing"
    masks = [{"mask": sent(cat), "k": 0.9}, {"mask": sent(dog), "k": 0.4}]
    given, read = made(masks=masks), made(objects="cat:0.9, dog:0.4")
    assert np.array_equal(given.images[0], read.images[0]) and not note(read)
    assert apart(plain.images[0], read.images[0]) > 3
    assert f"cat (region 1), dog (region 2) of {title}" in comments(read)
    again = made()  # and the extension is as it was
    assert np.array_equal(again.images[0], plain.images[0])


def test_a_hires_pass_without_forge_couple_is_said(host):
    """Its *Compatibility* (here ``no_hr``), on by default, leaves it out of the hires pass."""
    if "Forge Couple" not in [s.title() for s in runner_of("txt2img").alwayson_scripts]:
        pytest.skip("no Forge Couple in this host: set ASYNDM_EXTENSIONS")
    made = {}
    for no_hr in (True, False):
        title, values = couple(host, no_hr=no_hr)
        both = {title: {"args": values}, **ticked(objects="cat:0.9, dog:0.4")["alwayson_scripts"]}
        made[no_hr] = make(host, "hires", prompt=COUPLE, alwayson_scripts=both)
    assert "hires pass: Forge Couple has no regions in this pass" in note(made[True])
    assert "Compatibility" in note(made[True]) and not note(made[False])
