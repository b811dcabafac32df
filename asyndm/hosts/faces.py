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
}
# Of the hosts' others, by rule or family: why not.
_GUIDED = "its step is made of the unconditional prediction, which no rule here is given"
NO_FORM = {
    "PLMS": rules.NO_FORM["plms"],
    "Restart": rules.NO_FORM["restart"],
    "DPM fast": rules.NO_FORM["dpm_fast"],
    "DPM adaptive": rules.NO_FORM["dpm_adaptive"],
    "Kohaku LoNyu Yog": "it has no published form",
    "DPM++ 2s a RF": "it has no published form",
    "HeunPP2": "it has no published form",
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
