"""Settings of one kind of network, shown only where such a network is in use.

The page's script asks when a checkpoint was chosen, a picture is made or *More* is opened; the
style sheet hides the controls while the answer is no and they are at their defaults. They are
always there, so that their values are sent and pasted like all others.
"""

from __future__ import annotations

from collections.abc import Callable

import gradio as gr

from asyndm.page.gradio_shim import quiet_each_time

HIDDEN = ["asyndm-hidden"]


def mark_html(transformer: bool) -> str:
    """What the style sheet looks for."""
    return '<i class="asyndm-transformer"></i>' if transformer else "<i></i>"


def watch_network(prefix: str, transformer: Callable[[], bool]) -> None:
    """The place of the answer and the button that asks for it, in the current block; nobody sees
    either.

    Args:
        prefix: of the element ids.
        transformer: whether the network in use is one.
    """
    place = gr.HTML("", elem_id=f"{prefix}_network", elem_classes=HIDDEN)
    ask = gr.Button("", elem_id=f"{prefix}_ask_network", elem_classes=HIDDEN)
    quiet_each_time(ask.click, fn=lambda: mark_html(transformer()), outputs=place)
