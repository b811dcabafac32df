"""The AsynDM controls: built from the settings' own fields, the same for studio and WebUI."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from asyndm.core.presets import KEPT, USER
from asyndm.core.settings import CHOICES, TRANSFORMER_ONLY, WEBUI_ONLY, Settings, SettingsError
from asyndm.page.faces import FACES, GUIDANCE, Face
from asyndm.page.gradio_shim import quiet
from asyndm.page.plot import curve_svg
from asyndm.page.saving import preset_line, preset_row

FIELDS = tuple(field.name for field in dataclasses.fields(Settings))
PREFIX = "asyndm"  # of every element's id


STUDIO_FIELDS = tuple(name for name in FIELDS if name not in WEBUI_ONLY)
# The values of a WebUI's accordion by position, for ever: API clients send them as a list. What
# stands here is followed by the mask, and only then by settings that came later. A WebUI has its
# own eta.
POSITIONAL = (
    *("enabled", "objects", "curve", "curvature", "threshold", "mask_source", "first_step"),
    *("origin", "smoothing", "soft", "start", "end", "lead", "hires", "show_masks", "save_masks"),
)
LATER = tuple(name for name in FIELDS if name not in (*POSITIONAL, "eta"))
WEBUI_FIELDS = (*POSITIONAL, *LATER)


@dataclass
class Controls:
    """The components of one accordion.

    ``components``: by field name, in the order of the settings' declaration, which is also the
    order of :meth:`inputs` and of the values that :func:`settings_of` takes.
    """

    components: dict[str, Any]
    tokens: gr.HTML
    plot: gr.HTML

    def inputs(self) -> list[Any]:
        return list(self.components.values())


def settings_of(values: Sequence[Any], fields: Sequence[str] = FIELDS) -> Settings:
    """Settings from the values of :meth:`Controls.inputs`; other fields have their defaults.

    Raises:
        SettingsError: a value cannot be used.
    """
    return Settings.from_dict(dict(zip(fields, values, strict=True)))


def values_of(settings: Settings, fields: Sequence[str] = FIELDS) -> list[Any]:
    """The inverse of :func:`settings_of`."""
    return [getattr(settings, name) for name in fields]


def build_accordion(
    defaults: Settings | None = None,
    *,
    fields: Sequence[str] = FIELDS,
    open: bool = True,
    prefix: str = PREFIX,
) -> Controls:
    """The controls inside an accordion of their own (the studio's)."""
    with gr.Accordion("AsynDM", open=open, elem_id=f"{prefix}_accordion"):
        return build_controls(defaults, fields=fields, prefix=prefix)


def build_controls(
    defaults: Settings | None = None,
    *,
    fields: Sequence[str] = FIELDS,
    enabled: Any = None,
    hidden: Sequence[str] = (),
    painted: Callable[[], None] | None = None,
    prefix: str = PREFIX,
) -> Controls:
    """The controls, laid out in the current block.

    Args:
        defaults: what the controls show first.
        fields: the settings that get a control.
        enabled: a component that already stands for "enabled", such as the WebUI's
            InputAccordion; None = a checkbox is made.
        hidden: settings whose control is there, at its default, but not shown.
        painted: makes what is shown only while the mask is to be painted.
        prefix: of the element ids; the WebUI needs one a tab.
    """
    defaults = defaults or Settings()
    made = {"enabled": enabled} if enabled is not None else {}

    def place(name: str) -> None:
        if name in fields and name not in made:
            made[name] = _component(
                name, getattr(defaults, name), prefix, visible=name not in hidden
            )

    changed = [name for name in fields if name not in KEPT]
    chosen = preset_of(values_of(defaults, changed), changed)
    with gr.Column(elem_classes="asyndm-face"):
        place("enabled")
        preset = gr.Radio(
            USER.names(),
            value=chosen,
            label="Preset",
            elem_id=f"{prefix}_preset",
            elem_classes=["asyndm-box", "asyndm-choice", "asyndm-row"],
        )
        line = preset_line(prefix)
        place("objects")
        tokens = gr.HTML(elem_id=f"{prefix}_tokens")
        with gr.Row(elem_classes="asyndm-strength"):
            with gr.Column(min_width=200):
                place("curvature")
                place("show_masks")
            with gr.Column(min_width=200):
                plot = gr.HTML(
                    curve_svg(defaults.curve, defaults.curvature), elem_id=f"{prefix}_plot"
                )
        place("mask_source")
        for name in fields:  # a setting that is new and has no face yet is shown here
            if not FACES.get(name, Face("")).advanced:
                place(name)
        if painted is not None:
            # The style sheet hides it: that also holds where the choice is a user's own default.
            with gr.Column(elem_classes="asyndm-painting"):
                painted()
        with gr.Accordion("More", open=False, elem_id=f"{prefix}_more"):
            guiding = [name for name in fields if FACES.get(name, Face("")).folded == GUIDANCE]
            if guiding:
                with gr.Accordion(GUIDANCE, open=False, elem_id=f"{prefix}_guiding"):
                    for name in guiding:
                        place(name)
            for name in fields:
                place(name)
            if USER.folder is not None:
                preset_row(preset, line, {name: made[name] for name in changed}, prefix)
    controls = Controls({name: made[name] for name in fields}, tokens, plot)
    shape = [controls.components["curve"], controls.components["curvature"]]
    for component in shape:
        quiet(component.change, fn=curve_svg, inputs=shape, outputs=plot)
    # What the picture is of, and whether the box is ticked, stays the user's.
    quiet(
        preset.input,  # not change: it would fire again when a page is restored
        fn=lambda name: preset_values(name, changed),
        inputs=preset,
        outputs=[controls.components[name] for name in changed],
    )
    present = [controls.components[name] for name in changed]
    for component in present:  # also where values were pasted
        quiet(
            component.change,
            fn=lambda *values: preset_of(values, changed),
            inputs=present,
            outputs=preset,
        )
    return controls


def preset_values(name: str | None, fields: Sequence[str]) -> list[Any]:
    """The values of some controls under a preset."""
    try:
        values = USER.values(name or "default")
    except SettingsError:  # its file went, or cannot be read: the line below the presets says so
        values = USER.values("default")
    return [values[field] for field in fields]


def preset_of(values: Sequence[Any], fields: Sequence[str]) -> str | None:
    """The preset whose values these are, None where they are no preset's."""
    for name, settings in USER.readable().items():
        if all(map(_same, values, [settings[field] for field in fields])):
            return name
    return None


def _same(one: Any, other: Any) -> bool:
    if isinstance(other, float) and not isinstance(one, bool):
        return isinstance(one, int | float) and abs(one - other) < 1e-6
    return one == other


def _component(name: str, value: Any, prefix: str, visible: bool = True) -> Any:
    """The control of one setting, by its face, else by its type."""
    face = FACES.get(name) or Face(name.replace("_", " ").capitalize())
    common = {"label": face.label, "elem_id": f"{prefix}_{name}", "visible": visible}
    common["elem_classes"] = ["asyndm-box"]
    if name in TRANSFORMER_ONLY:  # shown where such a network is in use: page/networks.py
        common["elem_classes"] += ["asyndm-of-transformers"]
    if face.info:
        common["info"] = face.info
    if isinstance(value, bool):
        common["elem_classes"] += ["asyndm-check"]
        return gr.Checkbox(value, **common)
    if name in CHOICES:
        labels = face.choices or {}
        common["elem_classes"] += ["asyndm-choice", *(["asyndm-row"] * (not face.advanced))]
        pairs = [(labels.get(choice, choice), choice) for choice in CHOICES[name]]
        return gr.Radio(pairs, value=value, **common)
    if face.span:
        low, high, step = face.span
        common["elem_classes"] += ["asyndm-slider"]
        return gr.Slider(low, high, value, step=step, **common)
    if isinstance(value, float):
        return gr.Number(value, **common)
    return gr.Textbox(value, placeholder=face.placeholder, max_lines=1, **common)


def tokens_html(
    tokens: Sequence[str], matched: dict[str, list[int]], unmatched: Sequence[str], auto: bool
) -> str:
    """The prompt's tokens as chips; those of objects stand out, missing objects are named."""
    owner = {position: word for word, positions in matched.items() for position in positions}
    chips = "".join(
        f'<span class="asyndm-token{" asyndm-taken" if i in owner else ""}" '
        f'title="{html.escape(owner.get(i, "not an object"), quote=True)}">'
        f"{html.escape(token)}</span>"
        for i, token in enumerate(tokens)
    )
    words = ", ".join(html.escape(word) for word in matched) or "none"
    said = f"Objects {'found in the prompt' if auto else 'as you wrote'}: <b>{words}</b>."
    if unmatched:
        missing = ", ".join(html.escape(word) for word in unmatched)
        said += f' <span class="asyndm-missing">Not in the prompt: {missing}.</span>'
    return f'<div class="asyndm-tokens"><div>{chips}</div><p>{said}</p></div>'


CSS = """
.asyndm-tokens {font-size: 13px; line-height: 1.9}
.asyndm-tokens p {margin: 2px 0 0 !important}
.asyndm-token {display: inline-block; padding: 0 7px; margin: 0 4px 3px 0; border-radius: 6px;
  line-height: 1.6; background: rgba(120, 130, 145, .13)}
.asyndm-taken {background: rgba(224, 122, 63, .22); font-weight: 600;
  box-shadow: inset 0 -2px 0 #e07a3f}
.asyndm-missing {color: #b4452c !important}
"""
