"""Stands for Forge's canvas: two pictures, the one below and the strokes on it."""

from __future__ import annotations

import gradio as gr


class ForgeCanvas:
    def __init__(
        self, no_upload=False, no_scribbles=False, contrast_scribbles=False, height=None,
        scribble_color="#000000", scribble_color_fixed=False, scribble_width=25,
        scribble_width_fixed=False, scribble_alpha=100, scribble_alpha_fixed=False,
        scribble_softness=0, scribble_softness_fixed=False, visible=True, numpy=False,
        initial_image=None, elem_id=None, elem_classes=None,
    ) -> None:  # fmt: skip
        self.background = gr.Image(label="background", type="pil", image_mode="RGBA")
        self.foreground = gr.Image(label="foreground", type="pil", image_mode="RGBA")
