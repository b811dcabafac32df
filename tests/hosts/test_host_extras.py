"""What users add to a prompt or a job, together with AsynDM; a real host only."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from jobs import apart, make, scene, ticked
from safetensors.torch import save_file

pytestmark = pytest.mark.skipif(
    not os.environ.get("ASYNDM_WEBUI_DIR"), reason="no real WebUI: set ASYNDM_WEBUI_DIR"
)


def check(host, prompt: str, plain_prompt: str = "a cat beside a dog", kind="txt2img", **more):
    """It does something; k = 1e-9 is the twin; k = 0.9 is another image, without a note."""
    without = make(host, kind, prompt=plain_prompt, **more)
    plain = make(host, kind, prompt=prompt, **more)
    same = make(host, kind, prompt=prompt, **more, **ticked(curvature=1e-9))
    made = make(host, kind, prompt=prompt, **more, **ticked(curvature=0.9))
    assert not np.array_equal(without.images[0], plain.images[0])
    assert apart(plain.images[0], same.images[0]) <= 1
    assert apart(plain.images[0], made.images[0]) > 3
    assert "AsynDM note" not in made.parameters
    return made


def test_lora(host, traces):
    from modules import shared

    folder = Path(shared.cmd_opts.lora_dir)
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(2)
    tensors = {}
    for name, module in host.network().named_modules():
        if name.endswith(("attn2.to_q", "attn2.to_k")):
            wide, narrow = module.weight.shape
            key = f"lora_unet_{name.replace('.', '_')}"
            tensors[f"{key}.lora_down.weight"] = torch.randn(4, narrow, generator=generator) * 0.1
            tensors[f"{key}.lora_up.weight"] = torch.randn(wide, 4, generator=generator) * 0.1
            tensors[f"{key}.alpha"] = torch.tensor(4.0)
    save_file(tensors, str(folder / "randomlora.safetensors"))
    import networks  # of the host's Lora extension

    networks.list_available_networks()
    made = check(host, "a cat beside a dog <lora:randomlora:1>")
    assert "randomlora" in str(made.info["infotexts"][0])
    make(host, "txt2img")  # takes the weights out again


def test_hypernetwork(host, traces):
    if host.backend != "A1111":
        pytest.skip("this host has no hypernetworks")
    from modules import shared
    from modules.hypernetworks import hypernetwork

    os.makedirs(shared.cmd_opts.hypernetwork_dir, exist_ok=True)
    hypernetwork.create_hypernetwork(
        "randomnet", ["768", "320", "640", "1280"], True, [1, 2, 1], weight_init="XavierNormal"
    )
    shared.reload_hypernetworks()
    check(host, "a cat beside a dog <hypernet:randomnet:1>")
    make(host, "txt2img")  # takes it out again


def test_textual_inversion(host, traces):
    from modules import shared

    folder = shared.cmd_opts.embeddings_dir
    os.makedirs(folder, exist_ok=True)
    vectors = torch.randn(3, 768, generator=torch.Generator().manual_seed(4)) * 0.02
    save_file({"emb_params": vectors}, os.path.join(folder, "mydogconcept.safetensors"))
    if host.backend == "Forge":
        database, again = shared.sd_model.text_processing_engine.embeddings, {}
    else:
        from modules import sd_hijack

        database, again = sd_hijack.model_hijack.embedding_db, {"force_reload": True}
    database.add_embedding_dir(folder)
    database.load_textual_inversion_embeddings(**again)
    made = check(host, "a cat beside mydogconcept")
    assert made.images
    words = make(
        host,
        "txt2img",
        prompt="a cat beside mydogconcept",
        **ticked(curvature=0.9, objects="mydogconcept"),
    )
    said = words.info.get("comments") or ""
    assert "AsynDM note" not in words.parameters
    assert not said or "mydogconcept (tokens 4, 5, 6)" in said


def test_only_masked(host, traces):
    def one(**settings):
        more = ticked(**settings) if settings else {}
        more |= {"inpaint_full_res": True, "inpaint_full_res_padding": 16}
        return make(host, "inpaint", **more)

    plain = one()
    assert apart(plain.images[0], one(curvature=1e-9).images[0]) <= 1
    made = one(curvature=0.9, mask_source="given", lead=0.5)
    assert apart(plain.images[0], made.images[0]) > 3
    outside = np.ones((128, 128), bool)
    outside[20:108, 20:108] = False
    assert apart(plain.images[0][outside], made.images[0][outside]) == 0


def test_a_batch_of_pictures_runs_one_job_again_and_again(host, traces):
    """img2img's batch tab calls the host with the same processing object for every picture."""
    from modules import processing, scripts

    runner = scripts.scripts_img2img
    script = next(s for s in runner.alwayson_scripts if s.title() == "AsynDM")
    arguments = list(host.api.init_default_script_args(runner))
    arguments[script.args_from] = {"curvature": 0.9}
    pictures = [scene(), scene().rotate(90)]
    p = processing.StableDiffusionProcessingImg2Img(
        sd_model=host.shared.sd_model,
        prompt="a cat beside a dog",
        sampler_name="Euler a",
        seed=1,
        steps=5,
        width=128,
        height=128,
        cfg_scale=4,
        denoising_strength=0.8,
        init_images=[pictures[0]],
        do_not_save_samples=True,
        do_not_save_grid=True,
    )
    p.is_api = True  # or the page's own values of steps, seed and so on were taken
    p.scripts, p.script_args = runner, arguments
    for picture in pictures:
        p.init_images = [picture]
        together = np.asarray(processing.process_images(p).images[0])
        alone = make(host, "img2img", init_images=[picture], **ticked(curvature=0.9))
        assert apart(together, alone.images[0]) <= 1
