"""How every setting is shown: label, explanation, choices, where it stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Face:
    """How one setting looks. ``choices``: label by value; ``span``: slider's low, high, step.

    A setting without a face still gets a control, by its type: see :func:`_component`.
    """

    label: str
    info: str | None = None
    choices: dict[str, str] | None = None
    span: tuple[float, float, float] | None = None
    advanced: bool = False
    placeholder: str | None = None
    folded: str | None = None  # the accordion it is in, besides "More"


GUIDANCE = "Guidance"


def _guiding(*words: str | None, **how: Any) -> Face:
    return Face(*words, advanced=True, folded=GUIDANCE, **how)


FACES = {
    "enabled": Face("Enable AsynDM"),
    "objects": Face(
        "Object words",
        "Empty = found in the prompt. shark:0.7: its own k. bike > shark: the shark waits.",
        placeholder="auto, or e.g. shark:0.7, bike",
    ),
    "curve": Face("Curve of the objects", advanced=True),
    "curvature": Face("Curvature k", "How far objects lag; 0 = synchronous.", span=(0, 1, 0.05)),
    "threshold": Face(
        "Mask threshold",
        "Object = attention above this x mean.",
        span=(0, 3, 0.05),
        advanced=True,
    ),
    "mask_source": Face(
        "Mask",
        "Dynamic: read at every step. Fixed: from a first synchronous pass, takes twice as long.",
        choices={"dynamic": "dynamic", "fixed": "fixed", "given": "painted"},
    ),
    "first_step": Face(
        "At the first step every pixel is",
        choices={"objects": "object (paper)", "background": "background"},
        advanced=True,
    ),
    "eta": Face(
        "eta", "Noise of the ddpm rule: 1 = DDPM, 0 = DDIM.", span=(0, 1, 0.05), advanced=True
    ),
    "origin": Face(
        "Clock starts",
        choices={"host": "with the host's first call", "paper": "one interval earlier (paper)"},
        advanced=True,
    ),
    "smoothing": Face(
        "Mask smoothing",
        "Weight of earlier steps in the attention.",
        span=(0, 0.95, 0.05),
        advanced=True,
    ),
    "soft": Face("Soft masks", "Between 0 and 1 instead of yes or no.", advanced=True),
    "start": Face(
        "Masks steer from", "Fraction of the steps.", span=(0, 0.95, 0.05), advanced=True
    ),
    "end": Face("Masks steer up to", "Fraction of the steps.", span=(0.05, 1, 0.05), advanced=True),
    "lead": Face(
        "Context lead",
        "Inpainting: how far the kept region runs ahead; 1 = clean from the start.",
        span=(0, 1, 0.05),
        advanced=True,
    ),
    "hires": Face("Hires pass too", advanced=True),
    "show_masks": Face("Show masks", "Heat maps and the film of timesteps join the gallery."),
    "save_masks": Face(
        "Save masks", "Beside the images, and the mask in black and white.", advanced=True
    ),
    "only_hires": Face("Only in the hires pass", advanced=True),
    "mask_invert": Face("Invert the painted mask", advanced=True),
    "mask_grow": Face(
        "Grow the painted mask", "Pixels; negative = shrink.", span=(-64, 64, 1), advanced=True
    ),
    "mask_feather": Face(
        "Feather the painted mask", "Pixels over which it fades.", span=(0, 128, 1), advanced=True
    ),
    "mask_colours": Face(
        "Colours of the painted mask",
        "One object a colour, with its own k; empty = all colours are one object.",
        placeholder="red=shark:0.7, #00f=bike",
        advanced=True,
    ),
    "norms": Face(
        "Group norms",
        "Levelled: each pixel by statistics of its own noise level. The first job calibrates.",
        choices={"host": "the model's own", "levelled": "levelled"},
        advanced=True,
    ),
    "text_timestep": Face(
        "Time of the words",
        "Stable Diffusion 3, Flux, Chroma: the noise level that text tokens are told.",
        choices={"scalar": "the host's", "objects": "the objects' mean"},
        advanced=True,
    ),
    "softmax": Face(
        "Attention to words",
        "Stable Diffusion 3, Flux, Chroma: each pixel's share among words, or among pixels, too.",
        choices={"text": "among words", "joint": "among all"},
        advanced=True,
    ),
    "adetailer": Face(
        "ADetailer's inner passes too",
        "Needs asyndm_script among ADetailer's script names.",
        advanced=True,
    ),
    "profile": Face(
        "Profile",
        "Of the learned curve: the name of a file in the folder asyndm-profiles.",
        placeholder="my profile",
        advanced=True,
    ),
    "clock": _guiding(
        "Clock",
        "Synchronous leaves guidance alone; concave is one slow clock for all pixels.",
    ),
    "guidance": _guiding(
        "Guidance method",
        "CFG is the host's own. SEG, PAG and TPG take half as long again.",
        choices={
            "cfg": "CFG",
            "s-cfg": "S-CFG",
            "seg": "SEG",
            "pag": "PAG",
            "tpg": "TPG",
            "apg": "APG",
            "cfg++": "CFG++",
            "cfg++w": "CFG++ by weight",
        },
    ),
    "perturbed_scale": _guiding("Strength of SEG, PAG and TPG", span=(0, 10, 0.1)),
    "seg_blur": _guiding(
        "Blur of SEG", "Pixels of the attention; above 9999 the mean.", span=(0, 10000, 0.5)
    ),
    "cfgpp_lambda": _guiding("Lambda of CFG++", "In place of the CFG scale.", span=(0, 1, 0.05)),
    "apg_eta": _guiding("Parallel part of APG", "1 = all of it, as in CFG.", span=(0, 1, 0.05)),
    "apg_momentum": _guiding("Momentum of APG", span=(-1, 1, 0.05)),
    "apg_norm": _guiding("Norm limit of APG", "0 = none.", span=(0, 100, 0.5)),
    "interval_low": _guiding("Guided above this sigma", "0 = to the end.", span=(0, 15, 0.05)),
    "interval_high": _guiding(
        "Guided up to this sigma", "0 = from the beginning.", span=(0, 15, 0.05)
    ),
    "zigzag": _guiding(
        "Zigzag steps",
        "Z-Sampling: fraction of the steps, each of which takes two to three times as long.",
        span=(0, 1, 0.05),
    ),
    "zigzag_up": _guiding("Guidance on a zigzag's way up", span=(0, 10, 0.1)),
}
