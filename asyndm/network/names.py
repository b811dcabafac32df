"""What a checkpoint tells of its network before it is loaded: the names of its weights."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from pathlib import Path

from asyndm.network.dit import TransformerHooks
from asyndm.network.families import FAMILIES

LONGEST = 100 << 20  # bytes of a header, as the safetensors format has it
GGUF_HEAD = 4 << 20  # bytes in which a GGUF file names its tensors; image models stay far below
PREFIXES = ("", "model.diffusion_model.", "diffusion_model.", "model.", "transformer.")
WEIGHTLESS = {"pe_embedder", "pos_embed"}  # modules that networks are known by and no file holds


def weight_names(path: Path) -> list[str] | None:
    """The names of the tensors in a safetensors or GGUF file, from its head alone.

    Returns:
        None where a file does not tell (a pickle, a file that is not there or broken).
    """
    try:
        with path.open("rb") as file:
            head = file.read(8)
            if head[:4] == b"GGUF":
                found = re.findall(rb"[A-Za-z_][\w.]*\.(?:weight|bias|scale)", file.read(GGUF_HEAD))
                return [name.decode() for name in found]
            length = int.from_bytes(head, "little")
            if path.suffix != ".safetensors" or not 2 <= length <= LONGEST:
                return None
            return list(json.loads(file.read(length)))
    except (OSError, ValueError, TypeError):
        return None


def name_a_transformer(names: Collection[str]) -> bool:
    """Whether weights of these names are one of the transformers AsynDM knows."""
    families = [
        set(family.known_by) - WEIGHTLESS
        for family in FAMILIES
        if issubclass(family, TransformerHooks)
    ]
    for prefix in PREFIXES:
        own = {n[len(prefix) :].split(".", 1)[0] for n in names if n.startswith(prefix)}
        if any(known <= own for known in families):
            return True
    return False
