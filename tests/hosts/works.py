"""The table "what works with what": its rows, and the file that a run on a real host writes.

A row is one job: one of the host's own scripts, or what else people run. It has three cells, each
the largest difference of two pictures in 1/255, or a few words where there is none:

- plain: with the extension there and not ticked, beside the host without the extension; 0 is right;
- ticked: ticked beside not ticked; more than 0 is right;
- masks: ticked with *Show masks* beside ticked; 0 is right.
"""

from __future__ import annotations

import datetime
import inspect
import json
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jobs import PROMPT, request, scene, ticked

CELLS = ("plain", "ticked", "masks")
NOT_RUN = "not run"
JOBS = "jobs of the host"  # the key of the file under which every host's own list stands
MATRIX = "a cat beside a dog|in rain"
CODE = "from modules.processing import process_images\nreturn process_images(p)"
SMALL = {"pixels": 64, "mask_blur": 4}
# The host's scripts that are chosen, by file: what is set of their arguments, what of the request.
CHOSEN: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "prompt_matrix": ({}, {"prompt": MATRIX}),
    "prompts_from_file": ({"prompt_txt": "a cat\na dog on a sofa"}, {}),
    "xyz_grid": (
        {"x_type": 1, "x_values": "1, 2", "y_type": 0, "z_type": 0, "include_lone_images": True},
        {},
    ),
    "custom_code": ({"code": CODE, "indent_level": 2}, {}),
    "loopback": ({"loops": 2, "append_interrogation": "None"}, {}),
    "sd_upscale": ({"upscaler_index": 0, "overlap": 32}, {"width": 96, "height": 96}),
    "poor_mans_outpainting": ({**SMALL, "direction": ["left"]}, {}),
    "outpainting_mk_2": ({**SMALL, "direction": ["left"]}, {}),
    "img2imgalt": (
        {"original_prompt": PROMPT, "override_steps": True, "st": 5},
        {},
    ),
}
OTHER_MODEL = "another checkpoint of the same kind"
# The scripts that are always there and have no box to tick: what is set of the request.
ALWAYS: dict[str, dict[str, Any]] = {
    "comments": {"prompt": f"{PROMPT} # in a red room"},
    "sampler": {"sampler_name": "DPM++ 2M", "scheduler": "Karras"},
    "seed": {"subseed": 5, "subseed_strength": 0.4},
    "hypertile_script": {  # tiles have at least 128 pixels
        **{"width": 256, "height": 256},
        "override_settings": {"hypertile_enable_unet": True, "hypertile_max_tile_unet": 64},
    },
    "refiner": {"refiner_checkpoint": OTHER_MODEL, "refiner_switch_at": 0.5},
    "rescale_cfg": {},
    "forge_stylealign": {"batch_size": 2},
    "soft_inpainting": {"denoising_strength": 0.8},
    # extensions: see ASYNDM_EXTENSIONS in real_hosts.py
    "rp": {"prompt": "a cat on grass BREAK a dog on sand"},
    "forge_couple": {"prompt": "a cat on grass\na dog on sand"},
}
# The one region its detector is surest of. Any detector will do, one with random weights too: its
# folder is named by ASYNDM_SETTINGS='{"ad_extra_models_dir": ..., "ad_script_names":
# "asyndm_script"}'.
# (Its fork for Neo repaints at 1024 x 1024 unless "ad_match_inpaint_bbox_size" is "Off".)
ADETAILER = {"ad_model": "tiny-face.pt", "ad_confidence": 0, "ad_mask_k": 1}
SCENE = "a picture of the scene"
# What of the arguments of those scripts is set, from the first on.
VALUES: dict[str, list[Any]] = {
    "controlnet": [{"enabled": True, "module": "reference_only", "image": None}],
    "rescale_cfg": [0.7],
    "extra_options_section": [0.4],  # of EXTRA
    "forge_multidiffusion": [True, "MultiDiffusion", 64, 64, 32, 4],  # tiles of half the image
    "forge_dynamic_thresholding": [True, 2.0],  # a scale to mimic below the request's own
    "forge_latent_modifier": [True, 20.0],  # sharpness; all of it is 0 at first
    # Acts only where the network is two or four times as wide as at its top: ASYNDM_CHECKPOINTS.
    "forge_freeu": [True, 1.5, 1.6, 0.9, 0.2],
    "!adetailer": [True, False, ADETAILER],
    "compile": ["dynamic"],
    "image_stitch": [True, [SCENE], 0],
}
# The network a script acts on, where the checkpoint's is not of that kind: see neo_models.py.
NETWORKS = {"image_stitch": "flux2"}
# A setting that a user put beside the prompt (Settings > Settings in UI), for Extra options.
EXTRA = {f"extra_options_{tab}": ["eta_ancestral"] for tab in ("txt2img", "img2img")}
# What makes the same picture as without it: a comment is taken out, memory is spared.
SAME = ("comments", "forge_never_oom")
REFUSED = ("forge_multidiffusion", "compile")  # one clear line, and the image of the unticked box
DROPPED = {"x_values_dropdown": [], "y_values_dropdown": [], "z_values_dropdown": []}
# What else people run: kind of job, what is added to the request.
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "txt2img": ("txt2img", {}),
    "batch of 2, 2 times": ("txt2img", {"batch_size": 2, "n_iter": 2}),
    "hires fix": ("hires", {}),
    "img2img": ("img2img", {}),
    "inpaint": ("inpaint", {}),
    "inpaint, only masked": ("inpaint", {"inpaint_full_res": True}),
    "style": ("txt2img", {"styles": ["rainy"]}),
    "style, hires fix": ("hires", {"styles": ["rainy"]}),
    "img2img, batch tab": ("batch", {}),
}


def runner_of(tab: str) -> Any:
    from modules import scripts

    return scripts.scripts_img2img if tab == "img2img" else scripts.scripts_txt2img


def stem(script: Any) -> str:
    return Path(script.filename).stem


def rows() -> list[tuple[str, str, str]]:
    """(name, tab, the script's file or "") of every job there is on this host."""
    found = [(name, _tab(kind), "") for name, (kind, _) in OTHERS.items()]
    for kind in ("selectable_scripts", "alwayson_scripts"):
        for tab in ("txt2img", "img2img"):
            # ours are not in the host that is there to compare: every row has its number in both
            scripts = [s for s in getattr(runner_of(tab), kind) if "asyndm" not in stem(s)]
            found += [(f"{script.title()} ({tab})", tab, stem(script)) for script in scripts]
    return found


def own_rows(folder: Path) -> list[str]:
    """Names of the jobs that the host itself has; those of extensions put into it are not."""
    found = list(OTHERS)
    for tab in ("txt2img", "img2img"):
        for script in runner_of(tab).scripts:
            if Path(script.filename).resolve().is_relative_to(folder.resolve()):
                found.append(f"{script.title()} ({tab})")
    return sorted(set(found))


def numbers() -> list[int]:
    """Which rows are run: all, or those of ``ASYNDM_ROWS``, "0-8,12"."""
    chosen: list[int] = []
    for part in os.environ.get("ASYNDM_ROWS", "0-99").split(","):
        first, _, last = part.partition("-")
        chosen += range(int(first), int(last or first) + 1)
    return chosen


def without(api: Any, row: tuple[str, str, str]) -> tuple[str, dict] | None:
    """The same job without what an always-on script does; None for other rows."""
    name, tab, file = row
    job = asked(api, row)
    if job is None or not file or "script_name" in job[1] or file in SAME:
        return None
    kept = {"prompt", "width", "height", "batch_size", "denoising_strength"}
    return request(_kind(file, tab), **{k: v for k, v in job[1].items() if k in kept})


def asked(api: Any, row: tuple[str, str, str], **settings: Any) -> tuple[str, dict] | None:
    """(the API's function, its request), None where nobody has said how this script is run."""
    name, tab, file = row
    if not file:
        kind, more = OTHERS[name]
        if kind == "batch":
            return kind, ticked(**settings) if settings else {}
        return request(kind, **more, **(ticked(**settings) if settings else {}))
    scripts = runner_of(tab)
    script = next(s for s in scripts.scripts if s.title() == name.rpartition(" (")[0])
    tick = ticked(**settings) if settings else {}
    values = _defaults(api, tab, script)
    if script in scripts.selectable_scripts:
        if file not in CHOSEN:
            return None
        given, more = CHOSEN[file]
        names = list(inspect.signature(script.run).parameters)[1:]
        given = {**DROPPED, **given}
        values = [given.get(n, value) for n, value in zip(names, values, strict=True)]
        more = {**more, "script_name": script.title(), "script_args": values}
        return request(tab, **more, **tick)
    more = {key: _sent(value) for key, value in ALWAYS.get(file, {}).items()}
    if file in VALUES:
        values = [_sent(v) for v in VALUES[file]] + values[len(VALUES[file]) :]
    elif values and isinstance(values[0], bool):
        values = [True, *values[1:]]
    elif file not in ALWAYS:
        return None  # nothing to tick, and nobody has said how it is run
    else:
        values = []
    both = dict(tick.get("alwayson_scripts", {}))
    if values:
        both[script.title()] = {"args": values}
    return request(_kind(file, tab), **more, **({"alwayson_scripts": both} if both else {}))


def _kind(file: str, tab: str) -> str:
    return "inpaint" if file == "soft_inpainting" else tab


def _other_model() -> str:
    from modules import sd_models

    names = {Path(i.filename).stem: i.title for i in sd_models.checkpoints_list.values()}
    return next((title for name, title in names.items() if name.endswith("sd1-b")), "")


def _sent(value: Any) -> Any:
    """An argument as a client sends it, its picture included."""
    from driver import _encoded

    if value == OTHER_MODEL:
        return _other_model()
    if value == SCENE:
        return _encoded(scene())
    if isinstance(value, list):
        return [_sent(each) for each in value]
    if isinstance(value, dict) and value.get("image", "") is None:
        return {**value, "image": _encoded(scene())}
    return value


def prepare(host: Any) -> None:
    """What a user has in the host beside the extension: a style, a model used once."""
    from modules import shared, styles

    host.txt2img(prompt="", steps=1)  # hosts leave notes on a model they use for the first time

    shared.prompt_styles.styles["rainy"] = styles.PromptStyle("rainy", "{prompt}, rain", "", "")
    counted = soft_inpainting()
    if counted is not None:
        counted["cpu_count"] = lambda: 8


def soft_inpainting() -> dict[str, Any] | None:
    """The names of Forge main's Soft Inpainting, where it counts the machine's cores.

    Its last step, how far the picture has changed, is cut into 6 parts on more than 6 cores, and
    on fewer into a number of pixels // -1, which is none: nothing has changed, and whatever was
    sampled, the answer is the picture that was sent. The table's row is that of a large machine.
    """
    for script in runner_of("img2img").alwayson_scripts:
        if stem(script) == "soft_inpainting":
            names = type(script).post_sample.__globals__
            return names if "cpu_count" in names and "n_jobs = -1" in _source(script) else None
    return None


def _source(script: Any) -> str:
    return Path(script.filename).read_text("utf-8")


@contextmanager
def fitted(host: Any, row: tuple[str, str, str]) -> Iterator[None]:
    """The host as the row's script wants it, and afterwards as it was.

    Neo's torch.compile script leaves the network compiled; here the compiler is torch's ``eager``,
    which needs no other one on the machine. Its script of reference images acts on networks that
    are told of them; its loader names those by their files.
    """
    file = row[2]
    if file == "compile":
        import torch

        own = torch.compile
        torch.compile = lambda network, **_: own(network, backend="eager")
        try:
            yield
        finally:
            torch.compile = own
            for script in runner_of(row[1]).alwayson_scripts:
                if stem(script) == file:
                    script._remove_compile_wrapper(host.root())
            vars(host.root()).pop("apply_model", None)
    elif file in NETWORKS:
        from backend.args import dynamic_args
        from flow_models import lent

        with lent(host, NETWORKS[file]):
            dynamic_args.klein = True
            try:
                yield
            finally:
                dynamic_args.klein = False
                dynamic_args.ref_latents.clear()
    else:
        yield


def version(made: Any) -> str:
    """The host's version as it writes it below an image."""
    return (re.search(r"Version: ([^,\n]+)", made.info["infotexts"][0]) or [None, "unknown"])[1]


class Table:
    """One host's rows of the file, written by a run: every row has its own date and version.

    Args:
        host: its name.
        cells: of every row.
        jobs: names of all that this host has (:func:`own_rows`), run or not; () = not asked.
    """

    def __init__(self, host: str, cells: Sequence[str] = CELLS, jobs: Sequence[str] = ()) -> None:
        self.host, self.cells, self.version, self.rows = host, cells, "unknown", {}
        self.jobs = list(jobs)

    def tell(self, row: str, cell: str, value: Any) -> None:
        self.rows.setdefault(row, dict.fromkeys(self.cells, NOT_RUN))[cell] = value

    def write(self, path: Path) -> None:
        """Merge into the file: the rows that were run are new, all others stay as they were."""
        table = json.loads(path.read_text("utf-8")) if path.exists() else {}
        ran = {"date": datetime.date.today().isoformat(), "version": self.version}
        mine = {name: {**cells, **ran} for name, cells in self.rows.items()}
        table[self.host] = {**table.get(self.host, {}), **mine}
        if self.jobs:
            table.setdefault(JOBS, {})[self.host] = {**ran, "names": self.jobs}
        text = json.dumps(table, indent=1, ensure_ascii=False, sort_keys=True)
        path.write_text(text + "\n", "utf-8")


def made_of(host: Any, function: str, request: dict[str, Any]) -> Any:
    """What the host makes of :func:`asked`'s answer."""
    if function == "batch":
        return batch_tab(host, **request)
    return getattr(host, function)(**request)


def difference(one: Sequence[np.ndarray], two: Sequence[np.ndarray]) -> int | str:
    """The largest of two lists of pictures, in 1/255; in words where they have no such."""
    if len(one) != len(two):
        return f"wrong: {len(one)} pictures, {len(two)} expected"
    if any(a.shape != b.shape for a, b in zip(one, two)):
        return "wrong: pictures of another size"
    return max(int(np.abs(a.astype(int) - b.astype(int)).max()) for a, b in zip(one, two))


@dataclass
class Batch:
    """The pictures of img2img's batch tab, as :class:`driver.Made` holds them."""

    images: list[np.ndarray]
    info: dict[str, Any]


def batch_tab(host: Any, alwayson_scripts: dict[str, Any] | None = None) -> Batch:
    """Two pictures in a folder through the host's own function behind img2img's batch tab."""
    from modules import img2img, processing

    scripts = runner_of("img2img")
    arguments = list(host.api.init_default_script_args(scripts))
    for script in scripts.alwayson_scripts:
        given = (alwayson_scripts or {}).get(script.title())
        if given:
            end = script.args_from + len(given["args"])
            arguments[script.args_from : end] = given["args"]
    p = processing.StableDiffusionProcessingImg2Img(
        sd_model=host.shared.sd_model,
        prompt=PROMPT,
        sampler_name="Euler a",
        seed=1,
        steps=5,
        width=128,
        height=128,
        cfg_scale=4,
        denoising_strength=0.8,
        do_not_save_grid=True,
        override_settings={},
    )
    p.is_api = True  # or the page's own values of steps, seed and so on were taken
    p.scripts, p.script_args = scripts, arguments
    with tempfile.TemporaryDirectory() as folder:
        pictures, out = Path(folder) / "in", Path(folder) / "out"
        pictures.mkdir()
        for name, turned in (("a", 0), ("b", 90)):
            scene().rotate(turned).save(pictures / f"{name}.png")
        made = img2img.process_batch(p, str(pictures), str(out), "", arguments)
    images = [np.asarray(image.convert("RGB")) for image in made.images]
    return Batch(images, {"infotexts": made.infotexts, "comments": made.comments})


def _tab(kind: str) -> str:
    return "img2img" if kind in ("img2img", "inpaint", "batch") else "txt2img"


def _defaults(api: Any, tab: str, script: Any) -> list[Any]:
    if hasattr(api, "init_default_script_args"):
        values = api.init_default_script_args(runner_of(tab))
    else:  # the stand-in
        values = api._defaults[tab == "img2img"]
    return list(values[script.args_from : script.args_to])
