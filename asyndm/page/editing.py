"""The studio's Edit tab: paint over a picture, say what shall be there, compare."""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from asyndm.core.settings import SettingsError
from asyndm.page import gradio_shim as shim
from asyndm.page.preview import enlarge, outlined
from asyndm.page.verdicts import card_html, fault_line, messages_html, say
from asyndm.scenes.edit import CURVATURE, METHODS, Edited, edit, example
from asyndm.scenes.pipeline import Request, ScenePipeline
from asyndm.scenes.text import PromptError
from asyndm.scenes.world import DEFAULT_WORLD

CARDS = {
    "before": ("Before", "inside the line is drawn anew"),
    "plain": ("Plain inpainting", "the region at the pace of its surroundings"),
    "slow": ("Region slow", "the region behind its surroundings"),
}
SHOWN_SIZE = 384  # pixels of a shown picture; the model's own are 64
_SAME = 6  # of 255: a canvas that browsers scale gives its picture back nearly


def _messages(errors: Sequence[str] = (), notes: Sequence[str] = ()) -> str:
    return messages_html(errors, notes, "studio-edit-messages")


@dataclass(frozen=True)
class Held:
    """The picture that is edited (64x64), and how it was made; a region only where it has one."""

    picture: Image.Image
    request: Request
    region: np.ndarray | None = None


@dataclass(frozen=True)
class Redrawn:
    """What a click gave: pictures or none, what they were made of, and lines for the user."""

    edited: Edited | None
    before: Image.Image | None
    errors: list[str]
    notes: list[str]


def first(world: str = DEFAULT_WORLD) -> Held:
    """The example of a world."""
    shown = example(world)
    return Held(shown.picture, shown.request, shown.region)


def redraw(
    pipeline: ScenePipeline,
    held: Held,
    drawing: Any,
    prompt: str,
    seed: Any,
    curvature: Any,
    progress: Callable[[float, str], None] | None = None,
) -> Redrawn:
    """Draw anew what the canvas holds painted; bad input becomes one line.

    Args:
        drawing: the value of the canvas. Another picture than the held one was loaded by the user.
        prompt, seed, curvature: as typed.
    """
    notes = []
    picture, painted = shim.painted_over(drawing)
    if picture is not None and _same(picture, held.picture):
        picture = held.picture
        if painted is None and held.region is not None:
            painted = held.region
            notes.append("Nothing is painted: the example's own region is drawn anew.")
    try:
        request = replace(held.request, prompt=prompt, seed=seed, batch=1, painted=None)
        edited = edit(pipeline, picture, painted, request, curvature, progress)
    except (SettingsError, PromptError) as error:
        return Redrawn(None, None, [str(error)], [])
    return Redrawn(edited, picture, [], notes)


def _same(one: Image.Image, two: Image.Image) -> bool:
    """Whether a canvas shows this picture."""
    if abs(one.width - one.height) > 0.02 * max(one.size):
        return False
    small = [
        np.asarray(enlarge(each, 256).resize((32, 32), Image.Resampling.BOX).convert("RGB"), float)
        for each in (one, two)
    ]
    return float(np.abs(small[0] - small[1]).mean()) < _SAME


class EditTab:
    """The tab's components and events.

    Args:
        tab: the tab it is made in.
    """

    def __init__(self, pipeline: ScenePipeline, tab: Any) -> None:
        shown = example(pipeline.world)
        with gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=320):
                gr.HTML(
                    "<p class='studio-hint'>Paint over what shall change, say what the whole "
                    "picture shall show, press Redraw. Both pictures start from the same noise.</p>"
                )
                self.canvas = shim.canvas_over(
                    SHOWN_SIZE,
                    label="Paint over the picture",
                    elem_id="studio_edit_canvas",
                )
                self.prompt = gr.Textbox(
                    shown.request.prompt,
                    label="What the whole picture shall show",
                    lines=2,
                    max_lines=3,
                    elem_id="studio_edit_prompt",
                )
                button = gr.Button("Redraw", variant="primary", elem_id="studio_redraw")
                curvature = gr.Slider(
                    0,
                    1,
                    CURVATURE,
                    step=0.05,
                    label="Curvature k of the region",
                    elem_id="studio_edit_curvature",
                )
                self.seed = gr.Number(
                    shown.request.seed, label="Seed", precision=0, elem_id="studio_edit_seed"
                )
            with gr.Column(scale=8, min_width=320):
                self.messages = gr.HTML(
                    _messages([], [shown.story]), elem_id="studio_edit_messages"
                )
                places = self._build_cards(shown)
        self.held = gr.State(first(pipeline.world))
        # A canvas that is not to be seen has no size: its picture comes when its tab does, once.
        self.fresh = gr.State(True)
        shim.quiet(
            tab.select,
            fn=lambda held, fresh: (_on_canvas(held) if fresh else gr.update(), False),
            inputs=[self.held, self.fresh],
            outputs=[self.canvas, self.fresh],
        )
        made = gr.State()
        cleared = shim.quiet(button.click, fn=_messages, inputs=None, outputs=self.messages)
        started = cleared.then(
            _work(pipeline),
            [self.held, self.canvas, self.prompt, self.seed, curvature],
            [self.messages, made],
            api_name="edit",
        )
        started.then(show, made, [*places, made], show_progress="hidden", api_name=False)

    def taken_by(self, button: Any, method: str, last: Any, tabs: Any, messages: Any) -> None:
        """Let a button take a picture of the last run here.

        Args:
            last: the state that holds them, :class:`Held` by method.
            tabs: those of the page.
            messages: where it is said that there is none.
        """

        def take(pictures: dict[str, Held] | None) -> list[Any]:
            held = (pictures or {}).get(method)
            if held is None:
                line = "picture: there is none here yet; press Generate first."
                say([line])
                return [gr.update()] * 6 + [messages_html([line])]
            return [
                held,
                True,
                held.request.prompt,
                held.request.seed,
                _messages([], ["Paint over what shall change, and say what shall be there."]),
                gr.update(selected="edit"),
                gr.update(),
            ]

        outputs = [self.held, self.fresh, self.prompt, self.seed, self.messages, tabs, messages]
        shim.quiet(button.click, fn=take, inputs=last, outputs=outputs)

    @staticmethod
    def _build_cards(shown: Any) -> list[Any]:
        """Pictures, then verdicts."""
        pictures, verdicts = [], []
        values = show(Redrawn(shown.edited, shown.picture, [], []))
        with gr.Row(equal_height=False):
            for number, name in enumerate(CARDS):
                with gr.Column(min_width=200, elem_classes="studio-card"):
                    pictures.append(
                        shim.picture(
                            value=values[number],
                            show_label=False,
                            label=CARDS[name][0],
                            height=256,
                            elem_id=f"studio_edit_{name}_picture",
                        )
                    )
                    verdicts.append(
                        gr.HTML(values[len(CARDS) + number], elem_id=f"studio_edit_{name}_verdict")
                    )
        return [*pictures, *verdicts]


def _on_canvas(held: Held) -> Image.Image:
    return enlarge(held.picture, SHOWN_SIZE)


def _work(pipeline: ScenePipeline) -> Callable[..., Any]:
    """The click handler of Redraw."""

    # The first parameter, for Gradio 3 finds its progress among the positional ones only.
    def work(progress=gr.Progress(), *values):  # noqa: B008 (Gradio reads the default)
        started = time.perf_counter()
        progress(0, desc="starting")
        try:
            made = redraw(pipeline, *values, lambda done, text: progress(done, desc=text))
        except Exception as error:  # a bug of ours: the page stays alive and says so
            made = Redrawn(None, None, [fault_line(error)], [])
        say([*made.errors, *made.notes])
        seconds = f"2 images in {time.perf_counter() - started:.1f} seconds."
        told = [seconds] if made.edited else []
        return _messages(made.errors, [*made.notes, *told]), made

    return work


def show(made: Redrawn | None) -> list[Any]:
    """The page's pictures and verdicts, empty places for what was not made; then an empty state."""
    pictures: dict[str, Any] = dict.fromkeys(CARDS)
    verdicts: dict[str, Any] = dict.fromkeys(CARDS)
    if made is not None and made.edited is not None:
        pictures = {m: enlarge(made.edited.images[m], SHOWN_SIZE) for m in METHODS}
        pictures = {"before": outlined(made.before, made.edited.region, SHOWN_SIZE), **pictures}
        verdicts.update(made.edited.verdicts)
    cards = [card_html(*map(html.escape, CARDS[name]), verdicts[name]) for name in CARDS]
    return [*(pictures[name] for name in CARDS), *cards, None]
