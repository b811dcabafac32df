"""The row in which a user saves presets of their own."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any

import gradio as gr

from asyndm.core.presets import USER
from asyndm.core.settings import SettingsError
from asyndm.page.gradio_shim import quiet


def preset_line(prefix: str) -> Any:
    """Where one line about a preset is shown; nothing is there until then."""
    return gr.HTML(visible=False, elem_id=f"{prefix}_preset_line")


def preset_row(preset: Any, line: Any, components: dict[str, Any], prefix: str) -> None:
    """A name, and buttons that save the present settings under it, remove it, list all anew.

    Args:
        preset: the control whose choices the presets are.
        line: of :func:`preset_line`.
        components: what a preset holds, by setting.
        prefix: of the element ids.
    """
    with gr.Row(elem_classes="asyndm-presets"):
        name = gr.Textbox(
            label="Name of your preset", max_lines=1, elem_id=f"{prefix}_preset_name", scale=3
        )
        save_button, remove_button, list_button = (
            gr.Button(text, size="sm", min_width=60, elem_id=f"{prefix}_preset_{action}")
            for action, text in (("save", "Save"), ("remove", "Remove"), ("list", "List anew"))
        )
    fields = list(components)

    def save(name: str, *values: Any) -> Any:
        return _change(lambda: USER.save(name, dict(zip(fields, values, strict=True))))

    def remove(name: str) -> Any:
        return _change(lambda: USER.remove(name))

    inputs, outputs = [name, *components.values()], [preset, line]
    quiet(save_button.click, fn=save, inputs=inputs, outputs=outputs)
    quiet(remove_button.click, fn=remove, inputs=name, outputs=outputs)
    quiet(list_button.click, fn=lambda: _change(lambda: None), outputs=outputs)
    quiet(preset.input, fn=problem_of, inputs=preset, outputs=line)


def problem_of(name: str | None) -> Any:
    """The line about a preset whose file went or cannot be read; else it is taken away."""
    try:
        USER.values(name or "default")
    except SettingsError as error:
        return _line(error)
    return _line()


def _change(change: Callable[[], str | None]) -> tuple[Any, Any]:
    """What is shown of the presets after a change, and of what went wrong."""
    try:
        saved = change()
    except SettingsError as error:
        return gr.update(), _line(error)
    chosen = {"value": saved} if saved else {}
    return gr.update(choices=USER.names(), **chosen), _line()


def _line(error: SettingsError | None = None) -> Any:
    text = f'<span class="asyndm-missing">{html.escape(str(error))}</span>' if error else ""
    return gr.update(value=text, visible=bool(text))
