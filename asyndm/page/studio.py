"""The page that runs without a WebUI: the embedded model, with and without AsynDM, side by side."""

from __future__ import annotations

import dataclasses
import html
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from typing import Any

import gradio as gr

from asyndm.core.settings import RULES, Settings, SettingsError
from asyndm.core.sigmas import SCHEDULES
from asyndm.core.words import match_objects, objects_of
from asyndm.page import gradio_shim as shim
from asyndm.page.controls import (
    CSS,
    STUDIO_FIELDS,
    build_accordion,
    settings_of,
    tokens_html,
)
from asyndm.page.editing import EditTab, Held
from asyndm.page.preview import enlarge, film_strip
from asyndm.page.serving import serve
from asyndm.page.verdicts import card_html, fault_line, messages_html, say
from asyndm.scenes.pipeline import Request, Result, ScenePipeline
from asyndm.scenes.text import COUPLINGS, PromptError

METHODS = {"synchronous": "Synchronous", "concave": "Concave", "asyndm": "AsynDM"}
_METHOD_NOTES = {
    "synchronous": "every pixel on the straight line",
    "concave": "every pixel on the curve",
    "asyndm": "only objects on the curve",
}
_WORLDS = {
    "auroras": "The small world <b>auroras</b>: a curtain of light above each object tells where "
    "it is, how wide and of what colour.",
    "shadows": "The small world <b>shadows</b>: each object has a shadow, a reflection or a pool "
    "of light.",
}
EXAMPLES = (
    "two red circles and a blue square on a lake at night",
    "a green star above a purple triangle at sunset",
    "three yellow triangles in the snow",
    "a red square left of a blue circle on a beach",
    "a blue star and two green squares in a meadow",
)
_FIRST_LINE = "Write a prompt, or take one of the examples, and press Generate."
_FILM_HEAD = "<div class='studio-film'><h3>What steered AsynDM, step by step</h3></div>"
SHOWN_SIZE = 384  # pixels of a shown image; the model's own are 64
CANVAS_SIZE = 256


@dataclass
class Made:
    """What a click on Generate gave: a result or none, and one-line messages for the user."""

    result: Result | None
    errors: list[str]
    notes: list[str]


def make(
    pipeline: ScenePipeline,
    form: dict[str, Any],
    setting_values: list[Any],
    drawing: Any = None,
    loaded: Any = None,
    progress: Callable[[float, str], None] | None = None,
) -> Made:
    """Generate from what the page holds; bad input becomes one line, and an image where possible.

    Args:
        form: the fields of :class:`Request` other than ``painted``.
        setting_values: of the accordion, see :func:`asyndm.page.controls.settings_of`.
        drawing, loaded: the canvas and the mask file; the file wins.
    """
    errors: list[str] = []
    try:
        settings = settings_of(setting_values, STUDIO_FIELDS)
    except SettingsError as error:
        errors.append(str(error))
        settings = Settings()
    try:
        request = Request(**form)
        if settings.enabled:
            try:
                if settings.mask_source == "given":
                    request = dataclasses.replace(request, painted=_mask_of(drawing, loaded))
                result = pipeline.generate(request, settings, tuple(METHODS), progress)
                return Made(result, errors, list(result.notes))
            except SettingsError as error:
                errors.append(str(error))
                request = dataclasses.replace(request, painted=None)
        plain = Settings(eta=settings.eta)
        result = pipeline.generate(request, plain, ("synchronous",), progress)
    except (SettingsError, PromptError) as error:
        return Made(None, _once([*errors, str(error)]), [])
    notes = list(result.notes)
    if errors:
        notes.append("Made without AsynDM, because of the line above.")
    elif not settings.enabled:
        notes.append("AsynDM is off: tick Enable AsynDM to see its image beside this one.")
    return Made(result, _once(errors), notes)


def _once(lines: list[str]) -> list[str]:
    """The lines without repetitions: a plain image may fail for the reason AsynDM did."""
    return list(dict.fromkeys(lines))


def _mask_of(drawing: Any, loaded: Any) -> Any:
    """The mask the user gave: the loaded file, else the drawing.

    Raises:
        SettingsError: nothing is painted.
    """
    mask = shim.painted(loaded)
    if mask is None:
        mask = shim.painted(drawing)
    if mask is None:
        raise SettingsError("painted mask: it is empty; paint on the canvas or load a picture.")
    return mask


def tokens_view(pipeline: ScenePipeline, prompt: str, expression: str) -> str:
    """The prompt's tokens with the object words marked, or the line that tells what is wrong."""
    if not prompt.strip():
        return ""
    try:
        tokens = pipeline.tokenizer.tokens(prompt)
        objects = objects_of(prompt, expression)
    except (SettingsError, PromptError) as error:
        return f'<p class="asyndm-missing">{html.escape(str(error))}</p>'
    matched, unmatched = match_objects(objects, tokens)
    return tokens_html(tokens, matched, unmatched, auto=not expression.strip())


def verdict_html(method: str, verdict: Any | None, measured: Any | None = None) -> str:
    """The checker's reading of one method's image, and what it cost."""
    what = _METHOD_NOTES[method]
    if measured is not None:
        what += f"; {html.escape(str(measured))}"
    return card_html(METHODS[method], what, verdict)


def build_page(pipeline: ScenePipeline, defaults: Settings | None = None) -> gr.Blocks:
    """The studio as Gradio blocks; serve it with :func:`serve`."""
    plain = gr.themes.Soft(
        primary_hue="blue",
        secondary_hue="blue",
        neutral_hue="slate",
        radius_size="sm",
        spacing_size="sm",
        font=["system-ui", "-apple-system", "Segoe UI", "DejaVu Sans", "sans-serif"],
        font_mono=["ui-monospace", "DejaVu Sans Mono", "monospace"],
    ).set(
        body_background_fill="#f5f6f8",
        block_background_fill="white",
        block_border_width="0px",
        block_shadow="none",
        input_background_fill="#fbfcfd",
        input_border_color="*neutral_300",
        input_border_width="1px",
        block_title_background_fill="transparent",
        block_title_background_fill_dark="transparent",
        block_title_text_color="*neutral_700",
        block_title_text_weight="600",
        block_title_padding="0",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_label_text_color="*neutral_700",
        block_label_text_weight="600",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        checkbox_label_background_fill_selected="*primary_600",
    )
    with gr.Blocks(
        title="AsynDM studio",
        theme=plain,
        css=CSS + "".join(map(_style, ("accordion.css", "studio.css"))),
        analytics_enabled=False,
    ) as page:
        gr.HTML(
            "<div class='studio-head'><h1>AsynDM studio</h1><p>Objects and background denoise at "
            "their own pace. Write a prompt, tick AsynDM and compare at the same seed.</p>"
            f"<p>{_WORLDS.get(pipeline.world, pipeline.world)}</p></div>"
        )
        with gr.Tabs(elem_id="studio_tabs") as tabs:
            with gr.Tab("Draw", id="draw", elem_id="studio_draw_tab"):
                with gr.Row(equal_height=False):
                    with gr.Column(scale=5, min_width=380):
                        form, dice, generate = _build_form()
                        controls = build_accordion(defaults, fields=STUDIO_FIELDS)
                        with gr.Column(visible=False, elem_id="studio_paint") as paint:
                            drawing = shim.canvas(
                                CANVAS_SIZE,
                                label="Paint where the objects go",
                                elem_id="studio_canvas",
                            )
                            loaded = shim.upload(
                                label="or load a square mask, white = object",
                                height=150,
                                elem_id="studio_mask_file",
                            )
                    with gr.Column(scale=8, min_width=480):
                        messages = gr.HTML(
                            messages_html([], [_FIRST_LINE]),
                            elem_id="studio_messages",
                        )
                        pictures, verdicts, edits = _build_results()
                        with gr.Column(visible=False, elem_id="studio_film") as reel:
                            gr.HTML(_FILM_HEAD)
                            strips = [  # the theme is each browser's own: the style shows one
                                shim.picture(show_label=False, container=False, elem_id=name)
                                for name in ("studio_strip", "studio_strip_dark")
                            ]
            with gr.Tab("Edit", id="edit", elem_id="studio_edit_tab") as edit_tab:
                editing = EditTab(pipeline, edit_tab)
        held = gr.State()
        work = _work(pipeline, list(form))
        inputs = [drawing, loaded, *form.values(), *controls.inputs()]
        cleared = shim.quiet(generate.click, fn=messages_html, inputs=None, outputs=messages)
        started = cleared.then(work, inputs, [messages, held], api_name="generate")
        last = gr.State()
        outputs = [*pictures.values(), *verdicts.values(), *strips, reel, held, last]
        started.then(_show, held, outputs, show_progress="hidden", api_name=False)
        for method, button in edits.items():
            editing.taken_by(button, method, last, tabs, messages)
        shim.quiet(
            dice.click, fn=lambda: random.randrange(2**32), inputs=None, outputs=form["seed"]
        )
        source = controls.components["mask_source"]
        shim.quiet(
            source.change,
            fn=lambda name: gr.update(visible=name == "given"),
            inputs=source,
            outputs=paint,
        )
        text = [form["prompt"], controls.components["objects"]]
        for component in text:
            shim.quiet(
                component.change,
                fn=lambda prompt, words: tokens_view(pipeline, prompt, words),
                inputs=text,
                outputs=controls.tokens,
            )
    return shim.one_at_a_time(page)


def _style(name: str) -> str:
    return resources.files("asyndm.page").joinpath(name).read_text("utf-8")


def _build_form() -> tuple[dict[str, Any], gr.Button, gr.Button]:
    """The request's controls by field name, the dice and the Generate button."""
    form: dict[str, Any] = {}
    first = {field.name: field.default for field in dataclasses.fields(Request)}
    form["prompt"] = gr.Textbox(
        label="Prompt", placeholder=EXAMPLES[0], lines=2, max_lines=3, elem_id="studio_prompt"
    )
    gr.Examples([[text] for text in EXAMPLES], form["prompt"], label="Try one of these")
    generate = gr.Button("Generate", variant="primary", elem_id="studio_generate")
    with gr.Row():
        form["steps"] = gr.Number(
            first["steps"], label="Steps", elem_id="studio_steps", min_width=90
        )
        form["cfg"] = gr.Number(first["cfg"], label="CFG", elem_id="studio_cfg", min_width=90)
        form["seed"] = gr.Number(
            first["seed"], label="Seed", precision=0, elem_id="studio_seed", min_width=110
        )
        dice = gr.Button("New seed", size="sm", elem_id="studio_dice", min_width=80)
    with gr.Row():
        form["rule"] = gr.Dropdown(
            list(RULES), value=first["rule"], label="Rule", min_width=110, elem_id="studio_rule"
        )
        form["schedule"] = gr.Dropdown(
            list(SCHEDULES),
            value=first["schedule"],
            label="Schedule",
            min_width=110,
            elem_id="studio_schedule",
        )
        form["coupling"] = gr.Dropdown(
            [f"{level:g}" for level in COUPLINGS],  # text: Gradio 3 loses 1.0 on its way
            value=f"{first['coupling']:g}",
            label="Scene coupling",
            min_width=110,
            elem_id="studio_coupling",
        )
    return form, dice, generate


def _build_results() -> tuple[dict[str, Any], dict[str, Any], dict[str, gr.Button]]:
    """An image, a verdict and a button that takes the image to Edit for each method."""
    pictures, verdicts, edits = {}, {}, {}
    with gr.Row(equal_height=False):
        for method, label in METHODS.items():
            with gr.Column(min_width=150, elem_classes="studio-card"):
                pictures[method] = shim.picture(
                    show_label=False, label=label, height=256, elem_id=f"studio_{method}"
                )
                verdicts[method] = gr.HTML(
                    verdict_html(method, None), elem_id=f"studio_verdict_{method}"
                )
                edits[method] = gr.Button("Edit", size="sm", elem_id=f"studio_edit_{method}")
    return pictures, verdicts, edits


def _work(pipeline: ScenePipeline, names: list[str]) -> Callable[..., Any]:
    """The click handler of Generate: values in the order canvas, file, form, settings."""

    # The first parameter, for Gradio 3 finds its progress among the positional ones only.
    def work(progress=gr.Progress(), *values):  # noqa: B008 (Gradio reads the default)
        drawing, loaded, *values = values
        form = dict(zip(names, values[: len(names)], strict=True))
        form["coupling"] = float(form["coupling"])
        started = time.perf_counter()
        progress(0, desc="starting")
        try:
            made = make(
                pipeline,
                form,
                values[len(names) :],
                drawing,
                loaded,
                lambda fraction, text: progress(fraction, desc=text),
            )
        except Exception as error:  # a bug of ours: the page stays alive and says so
            made = Made(None, [fault_line(error)], [])
        say([*made.errors, *made.notes])
        told = [_summary(made.result, started)] if made.result else []
        return messages_html(made.errors, [*made.notes, *told]), made.result

    return work


def _summary(result: Result, started: float) -> str:
    """How many images came in what time."""
    count = len(result.images)
    seconds = time.perf_counter() - started
    return f"{count} image{'s' if count > 1 else ''} in {seconds:.1f} seconds."


def _show(result: Result | None) -> list[Any]:
    """The page's images, verdicts and strips for a result; empty places for what was not made."""
    images = result.images if result else {}
    pictures = [enlarge(images[m][0], SHOWN_SIZE) if m in images else None for m in METHODS]
    verdicts = [
        verdict_html(
            m, *((v[m][0] if m in v else None) for v in (result.verdicts, result.measured))
        )
        if result
        else verdict_html(m, None)
        for m in METHODS
    ]
    film = result.film if result and result.film and result.film.masks else None
    strips = [film and film_strip(film, dark=dark) for dark in (False, True)]
    last = {m: Held(images[m][0], result.request) for m in images if result.request}
    return [*pictures, *verdicts, *strips, gr.update(visible=film is not None), None, last]


def add_arguments(parser: Any) -> None:
    """The studio's command line options."""
    parser.add_argument("--port", type=int, default=7860, help="0 = a free one (default 7860)")
    parser.add_argument(
        "--listen", action="store_true", help="let other computers of the network connect"
    )


def run(pipeline: ScenePipeline, args: Any) -> int:
    """Serve the page with the options of :func:`add_arguments`."""
    serve(build_page(pipeline), "0.0.0.0" if args.listen else "127.0.0.1", args.port)
    return 0
