"""A page with the WebUI's accordions, as a program: prints its address; ``page.py PORT``.

The stand-in draws AsynDM's own script in two tabs, each with the prompt and the gallery a host
has, in a column as wide as a host's. No job can be started.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPO / "tests" / "hosts"), str(REPO)]


def build(source: str | None = None):
    """The page; ``source``: the mask source as a user's own default (Settings > Defaults)."""
    from driver import StandIn

    StandIn()
    import gradio as gr
    from modules import scripts

    with gr.Blocks(css=(REPO / "style.css").read_text("utf-8"), analytics_enabled=False) as page:
        _checkpoints(gr)
        with gr.Tabs():
            for runner, tab in (
                (scripts.scripts_txt2img, "txt2img"),
                (scripts.scripts_img2img, "img2img"),
            ):
                with gr.TabItem(tab):
                    _tab(gr, runner, tab, source)
    return page


def _checkpoints(gr):
    """A host's list of checkpoints; the file of the second tells that it is Flux."""
    from modules import sd_models, shared
    from test_shown import FLUX, safetensors

    flux = sd_models.CheckpointInfo(str(Path(tempfile.mkdtemp()) / "flux"), "eps")
    safetensors(Path(flux.filename), [f"{name}.weight" for name in FLUX])
    sd_models.checkpoints_list["flux"] = flux
    names = ["tiny-sd1", "flux"]
    chosen = gr.Dropdown(
        names, value=names[0], label="Checkpoint", elem_id="setting_sd_model_checkpoint"
    )
    chosen.change(lambda name: shared.opts.set("sd_model_checkpoint", name), chosen, None)


def _tab(gr, runner, tab, source):
    (script,) = (s for s in runner.alwayson_scripts if s.title() == "AsynDM")
    prompt = gr.Textbox(label="Prompt", lines=2, elem_id=f"{tab}_prompt")
    script.after_component(prompt, elem_id=f"{tab}_prompt")
    with gr.Row():
        with gr.Column():
            script.controls = made = script.ui(runner.is_img2img)  # a host keeps them there
        with gr.Column():
            gallery = gr.Gallery(elem_id=f"{tab}_gallery")
    script.after_component(gallery, elem_id=f"{tab}_gallery")
    for component in made:
        if source and (component.elem_id or "").endswith("_mask_source"):
            component.value = source  # as a host's ui-config.json does, after the page is built


if __name__ == "__main__":
    import gradio as gr
    import uvicorn
    from fastapi import FastAPI

    port, source = int(sys.argv[1]), (*sys.argv[2:], None)[0]
    page = build(source).queue()
    print(f"http://127.0.0.1:{port}", flush=True)
    app = gr.mount_gradio_app(FastAPI(), page, path="/")
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")
