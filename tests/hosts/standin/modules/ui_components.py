"""Stands for ``modules/ui_components.py``."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any
from unittest import mock

import gradio as gr

# Gradio 4 writes a file of types beside a class that derives from a component.
_no_file = (
    mock.patch("gradio.component_meta.create_or_modify_pyi")
    if int(gr.__version__.split(".")[0]) >= 4
    else nullcontext()
)
with _no_file:

    class InputAccordion(gr.Checkbox):
        """A hidden tick box with an accordion around what is built inside ``with``."""

        def __init__(self, value: bool, **kwargs: Any) -> None:
            name = kwargs.pop("elem_id")
            super().__init__(value, **kwargs, elem_id=f"{name}-checkbox", visible=False)
            self.accordion = gr.Accordion(kwargs.get("label"), open=value, elem_id=name)

        def __enter__(self) -> InputAccordion:
            self.accordion.__enter__()
            return self

        def __exit__(self, *error: Any) -> None:
            self.accordion.__exit__(*error)

        def get_block_name(self) -> str:
            return "checkbox"
