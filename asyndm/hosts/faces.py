"""The samplers of ours and of the host's that they are the same as.

Knows the hosts' names but imports nothing of a host.
"""

from __future__ import annotations

from dataclasses import dataclass

from asyndm.core import rules


@dataclass(frozen=True)
class SamplerFace:
    """A sampler of ours: its name in the host, its rule, the host's sampler it is the twin of."""

    name: str
    rule: str
    twin: str


# No name may end in a space and a schedule's name: the host would cut it there.
SAMPLERS = (
    SamplerFace("AsynDM", "ddpm", "Euler a"),
    SamplerFace("AsynDM Euler", "euler", "Euler"),
    SamplerFace("AsynDM DPM++ 2M", "dpmpp_2m", "DPM++ 2M"),
)
_OWN = {face.name: face for face in SAMPLERS}
# Hosts before schedule types name the same sampler once more for every schedule.
_TWINS = {face.twin: face for face in SAMPLERS} | {"DPM++ 2M Karras": SAMPLERS[2]}


# Samplers of ComfyUI's that reForge alone lists, most beside its own of the same rule.
COMFY = {
    "Euler Comfy": "euler",
    "Euler A Comfy": "ddpm",
    "Euler A Turbo": "ddpm",
    "Heun Comfy": "heun",
    "DPM++ 2S Ancestral Comfy": "dpmpp_2s_a",
    "DPM++ SDE Comfy": "dpmpp_sde",
    "DPM++ SDE Classic": "dpmpp_sde",
    "DPM++ 2M Comfy": "dpmpp_2m",
    "DPM++ 2M Turbo": "dpmpp_2m",
    "DPM++ 2M SDE Comfy": "dpmpp_2m_sde",
    "DPM++ 2M SDE Turbo": "dpmpp_2m_sde",
    "DPM++ 3M SDE Comfy": "dpmpp_3m_sde",
    "RES Multistep Ancestral": "res_multistep_a",
    "Gradient Estimation": "gradient_estimation",
    "SEEDS 2 DP": "seeds_2",
    "SEEDS 3 DP": "seeds_3",
    "SA-Solver": "sa_solver",
    "SA-Solver-Pece": "sa_solver_pece",
}
# Samplers of the host's that have no namesake here: our function stands in for theirs, by rule.
EXCHANGED = {
    "DPM++ SDE": "dpmpp_sde",
    "DPM++ 2M SDE": "dpmpp_2m_sde",
    "DPM++ 2M SDE Heun": "dpmpp_2m_sde",
    "DPM++ 2S a": "dpmpp_2s_a",
    "DPM++ 3M SDE": "dpmpp_3m_sde",
    "LMS": "lms",
    "Heun": "heun",
    "DPM2": "dpm_2",
    "DPM2 a": "dpm_2_a",
    "DDIM": "ddim",
    "IPNDM": "ipndm",  # this and the next three: Forge main's and reForge's
    "IPNDM_V": "ipndm_v",
    "DEIS": "deis",
    "DDPM": "ddpm_vp",
    "UniPC": "unipc",
    "LCM": "lcm",
    "Res Multistep": "res_multistep",  # Neo's
    "RES Multistep": "res_multistep",  # reForge's
    "ER SDE": "er_sde",
    **COMFY,
}
# Of the hosts' others, by rule or family: why not.
_GUIDED = "its step is made of the unconditional prediction, which no rule here is given"
_UNPUBLISHED = "it has no published form"
_OTHER_SIZE = "some of its steps are made at another size of the picture, whose pixels are others"
_ONE_STEP_SIZE = "one step size is chosen for the whole image from its error"
# reForge's.
_REFORGE = {
    **dict.fromkeys(("Euler A2", "Euler Negative", "Kohaku_LoNyu_Yog"), _UNPUBLISHED),
    **dict.fromkeys(("DPM++ 2M DY", "DPM++ 3M DY", "DPM++ 3M SDE DY"), _UNPUBLISHED),
    **dict.fromkeys(("Euler Dy", "Euler SMEA Dy", "Euler Negative Dy"), _OTHER_SIZE),
    **dict.fromkeys(
        tuple(f"ODE ({name})" for name in ("Bosh3", "Fehlberg2", "Adaptive Heun", "Dopri5")),
        _ONE_STEP_SIZE,
    ),
    "ODE Custom": "its noise levels are its solver's own, not the host's list",
    "RES Solver": "its last network call is told another noise level than the picture has",
    "Custom Sampler": "it is one of the others, by the settings: select that one itself",
    **dict.fromkeys(
        ("Euler A Comfy RF", "DPM++ 2S Ancestral Comfy RF"),
        "its step is one of rectified flows, on latents of any kind",
    ),
    **dict.fromkeys(
        (
            *("Euler Ancestral CFG++", "DPM++ 2S Ancestral CFG++", "DPM++ SDE CFG++"),
            *("DPM++ 3M SDE CFG++", "RES Multistep CFG++", "RES Multistep Ancestral CFG++"),
            *("Gradient Estimation CFG++", "DPM++ 2S Ancestral CFG++ Dyn"),
            *("DPM++ 2S Ancestral CFG++ Intern", "DPM++ 2M DY CFG++", "Euler DY CFG++"),
            *("Euler SMEA DY CFG++", "Euler A DY CFG++"),
        ),
        _GUIDED,
    ),
}
NO_FORM = {
    "PLMS": rules.NO_FORM["plms"],
    "Restart": rules.NO_FORM["restart"],
    "DPM fast": rules.NO_FORM["dpm_fast"],
    "DPM adaptive": rules.NO_FORM["dpm_adaptive"],
    **dict.fromkeys(("Kohaku LoNyu Yog", "DPM++ 2s a RF", "HeunPP2"), _UNPUBLISHED),
    **_REFORGE,
    **dict.fromkeys(("DDIM CFG++", "DPM++ 2M CFG++", "Euler CFG++", "Euler a CFG++"), _GUIDED),
}
# Where nothing can be exchanged: the nearest of ours.
_NEAREST = {"DDIM": SAMPLERS[1]}


def is_own(sampler: str) -> bool:
    """True for a sampler of ours."""
    return sampler in _OWN


def face_for(sampler: str, exchanges: bool = True) -> tuple[SamplerFace, bool]:
    """Our sampler for the one the user selected, and whether it is its equal.

    Args:
        sampler: the host's name.
        exchanges: whether this job's host lets its samplers' functions be exchanged.
    """
    face = _OWN.get(sampler) or _TWINS.get(sampler) or (not exchanges and _NEAREST.get(sampler))
    if not face and exchanges and sampler in EXCHANGED:
        face = SamplerFace(sampler, EXCHANGED[sampler], sampler)
    return (face, True) if face else (SAMPLERS[0], False)


def is_twin(sampler: str) -> bool:
    """True for a sampler of the host's whose function ours can stand in for."""
    return sampler in _TWINS or sampler in EXCHANGED
