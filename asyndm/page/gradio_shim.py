"""The differences between Gradio 3.41 (A1111, reForge) and Gradio 4.40 (Forge), in one place."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read while gradio is imported

import gradio as gr  # noqa: E402
import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

GRADIO_4 = int(gr.__version__.split(".")[0]) >= 4

BRUSH = "#2b6cb0"


def picture(**kwargs: Any) -> gr.Image:
    """An output image without loss (Gradio 4 would send lossy WebP)."""
    options = {"type": "pil", "interactive": False, "show_share_button": False, **kwargs}
    return gr.Image(**options, format="png") if GRADIO_4 else gr.Image(**options)


def upload(**kwargs: Any) -> gr.Image:
    """An image the user loads from a file, at its own size."""
    options = {"type": "pil", "interactive": True, **kwargs}
    if GRADIO_4:
        return gr.Image(**options, sources=["upload"], image_mode="RGBA")
    return gr.Image(**options, source="upload", tool=None, image_mode="RGBA")


def mask_canvas(
    label: str, elem_id: str, host_canvas: Callable[..., Any] | None = None
) -> list[gr.components.Component]:
    """A picture to paint a mask over, in a WebUI.

    Args:
        host_canvas: makes a canvas of the host's own, with ``background`` and ``foreground``.

    Returns:
        The components whose values are the mask; the first takes a picture to paint over. Gradio
        3: one, its own sketch. Gradio 4: background and foreground of the host's canvas, or where
        it has none one that a mask can only be loaded into.
    """
    if not GRADIO_4:
        sketch = gr.Image(
            label=label,
            elem_id=elem_id,
            source="upload",
            tool="sketch",
            type="pil",
            image_mode="RGBA",
            interactive=True,
            height=360,
            brush_color=BRUSH,
        )
        return [sketch]
    if host_canvas is None:
        return [upload(label=label, elem_id=elem_id)]
    made = host_canvas(
        elem_id=elem_id,
        height=360,
        scribble_color=BRUSH,
        scribble_color_fixed=True,
        scribble_alpha=70,
        scribble_alpha_fixed=True,
        scribble_softness_fixed=True,
    )
    return [made.background, made.foreground]


def mask_parts(host_canvas: Callable[..., Any] | None = None) -> int:
    """How many components :func:`mask_canvas` makes with that canvas."""
    return 2 if GRADIO_4 and host_canvas is not None else 1


def with_js(listener: Any, js: str, **kwargs: Any) -> Any:
    """Attach an event whose inputs pass through a JavaScript function first."""
    return listener(**{"js" if GRADIO_4 else "_js": js}, **kwargs)


def box_that_follows(accordion: Any, file: str, **kwargs: Any) -> gr.Checkbox:
    """A tick box that nobody sees, with the accordion's tick: some hosts keep no other default.

    Args:
        accordion: the host's InputAccordion.
        file: name of the script's file, for the host's key.
    """
    box = gr.Checkbox(accordion.value, visible=False, **kwargs)
    box.custom_script_source = file
    with_js(accordion.change, "ticked => ticked", fn=None, inputs=[accordion], outputs=[box])
    return box


def canvas(size: int, **kwargs: Any) -> gr.components.Component:
    """An empty square to paint on; :func:`painted` reads its value."""
    if GRADIO_4:
        return gr.Sketchpad(
            type="numpy",
            image_mode="RGBA",
            canvas_size=(size, size),
            crop_size=(size, size),
            transforms=(),
            layers=False,
            brush=gr.Brush(default_size=size // 8, colors=[BRUSH], color_mode="fixed"),
            eraser=gr.Eraser(default_size=size // 8),
            show_share_button=False,
            **kwargs,
        )
    return gr.Image(
        source="canvas",
        tool="color-sketch",
        type="numpy",
        image_mode="RGB",
        shape=(size, size),
        brush_radius=size // 8,
        brush_color=BRUSH,
        show_share_button=False,
        **kwargs,
    )


def canvas_over(size: int, **kwargs: Any) -> gr.components.Component:
    """A picture to paint over; :func:`painted_over` reads its value."""
    if GRADIO_4:
        return gr.ImageEditor(
            type="pil",
            image_mode="RGBA",
            sources=(),  # else its brush is not at hand until it is clicked
            canvas_size=(size, size),
            transforms=(),
            layers=False,
            format="png",
            brush=gr.Brush(default_size=size // 10, colors=[BRUSH], color_mode="fixed"),
            eraser=gr.Eraser(default_size=size // 10),
            show_share_button=False,
            **kwargs,
        )
    return gr.Image(
        source="upload",
        tool="sketch",
        type="pil",
        image_mode="RGB",
        interactive=True,
        brush_radius=size // 10,  # no height: the sketch would cut the picture to it
        brush_color=BRUSH,
        show_share_button=False,
        **kwargs,
    )


def painted_over(value: Any) -> tuple[Image.Image | None, np.ndarray | None]:
    """(the picture on a :func:`canvas_over`, what is painted on it as bool [H, W] or None)."""
    if not isinstance(value, dict):
        return None, None
    if "mask" in value:  # Gradio 3: white strokes on black
        mask = painted(value["mask"])
        return value["image"], mask if mask is not None and mask.any() else None
    ground = value.get("background")
    return None if ground is None else ground.convert("RGB"), painted(value)


def painted(value: Any) -> np.ndarray | None:
    """The painted pixels of a canvas or the bright pixels of a loaded picture.

    Args:
        value: what :func:`canvas` (an array, or Gradio 4's dictionary of layers) or
            :func:`upload` (a PIL image) hands to the event.

    Returns:
        bool [H, W], or None where nothing was painted or loaded.
    """
    if value is None:
        return None
    if isinstance(value, dict):  # Gradio 4: strokes are the opaque part of the layers
        strokes = [np.asarray(layer)[..., 3] > 127 for layer in value.get("layers", ())]
        mask = np.logical_or.reduce(strokes) if strokes else None
    elif isinstance(value, Image.Image):
        flat = Image.new("RGBA", value.size, "black")
        flat.alpha_composite(value.convert("RGBA"))
        return np.asarray(flat.convert("L")) > 127
    else:  # Gradio 3: strokes on white paper
        mask = np.asarray(value)[..., :3].min(axis=-1) < 235
    return mask if mask is not None and mask.any() else None


def quiet(listener: Any, **kwargs: Any) -> Any:
    """Attach a light event: no queue, no spinner over its output, not part of the API."""
    return listener(**kwargs, queue=False, show_progress="hidden", api_name=False)


def quiet_each_time(listener: Any, **kwargs: Any) -> Any:
    """:func:`quiet`, and no event is dropped while another is under way (Gradio 4 would)."""
    return quiet(listener, **kwargs, **({"trigger_mode": "multiple"} if GRADIO_4 else {}))


def one_at_a_time(blocks: gr.Blocks) -> gr.Blocks:
    """Queue the page's events: one generation at a time, the others wait in line."""
    if GRADIO_4:
        return blocks.queue(default_concurrency_limit=1, api_open=False)
    return blocks.queue(concurrency_count=1, api_open=False)
