"""A page with the accordion's controls and chips, as the script wires them; prints its address."""

from __future__ import annotations

import sys
from pathlib import Path

import gradio as gr

from asyndm.core.found import Found, mark
from asyndm.page.chips import asking_button, wire_chips
from asyndm.page.controls import WEBUI_FIELDS, build_controls
from asyndm.page.gradio_shim import GRADIO_4, quiet

ROOT = Path(__file__).resolve().parents[2]
PASTED = "a (red:1.2) cat beside a <b>dog</b> on a sofa"


def build() -> gr.Blocks:
    script = (ROOT / "javascript" / "asyndm.js").read_text("utf-8")
    css = (ROOT / "style.css").read_text("utf-8")
    with gr.Blocks(analytics_enabled=False, css=css) as page:
        for tab in ("txt2img", "img2img"):
            with gr.Tab(tab):
                prompt = gr.Textbox(lines=3, label="Prompt", elem_id=f"{tab}_prompt")
                paste = gr.Button("Paste", elem_id=f"{tab}_paste")
                with gr.Accordion("AsynDM", open=False, elem_id=f"{tab}_asyndm"):
                    controls = build_controls(fields=WEBUI_FIELDS, prefix=f"{tab}_asyndm")
                found = gr.Textbox("", visible=False)
                objects = controls.components["objects"]
                wire_chips(asking_button(f"{tab}_asyndm"), controls.tokens, prompt, objects, found)
                kept = Found({mark(PASTED, ""): ("sofa",)}).to_text()
                quiet(
                    paste.click,
                    fn=lambda kept=kept: (PASTED, "", kept),
                    inputs=[],
                    outputs=[prompt, objects, found],
                )
        # As the WebUIs run an extension's script; here when the page has loaded.
        tick = "setInterval(() => document.dispatchEvent(new Event('input')), 400)"
        run = f"() => {{ {script}\n{tick} }}"
        page.load(**{"fn": None, "js" if GRADIO_4 else "_js": run})
    return page


if __name__ == "__main__":
    page = build()
    _, url, _ = page.launch(
        server_name="127.0.0.1",
        server_port=int(sys.argv[1]),
        prevent_thread_lock=True,
        quiet=True,
        share=False,
    )
    print(url, flush=True)
    page.block_thread()
