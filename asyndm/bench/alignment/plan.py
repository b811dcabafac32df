"""What a folder was asked for: methods, prompts, seeds; and the pictures that makes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from asyndm.core.settings import SettingsError

from .backends import Job, Setup
from .methods import Method, finished, parse
from .prompt_sets import Prompt
from .store import key_of, written


@dataclass
class Plan:
    """All of one comparison; kept in the folder as plan.json.

    Attributes:
        methods: the first is the baseline.
        companions: method -> CFG matched to it, by what ("rows", "guidance").
        pilots: method -> what development prompts told of its effective guidance.
        prompts, seeds: all methods draw them all; seed numbers from 0.
        same_noise: a seed number is the same noise for all prompts.
        setup, identity: see the backend.
        backend: as it was written.
        scores: those asked for; the first is the one that tests are about.
        family: methods whose p values are corrected together, named before the first picture.
        named_at: pictures that were there when it was named.
        chosen: what was chosen on development prompts, from how many.
        source: where the prompts come from.
    """

    methods: list[Method]
    prompts: list[Prompt]
    seeds: list[int]
    setup: Setup
    identity: dict[str, Any]
    backend: str = "embedded"
    same_noise: bool = False
    companions: dict[str, dict[str, Method]] = field(default_factory=dict)
    unmatched: dict[str, str] = field(default_factory=dict)
    pilots: dict[str, dict[str, Any]] = field(default_factory=dict)
    scores: list[str] = field(default_factory=list)
    family: list[str] = field(default_factory=list)
    named_at: int = 0
    chosen: dict[str, Any] = field(default_factory=dict)
    source: dict[str, Any] = field(default_factory=dict)

    @property
    def baseline(self) -> Method:
        return self.methods[0]

    @property
    def drawn(self) -> list[Method]:
        """The methods and their companions, each once."""
        more = [one for kinds in self.companions.values() for one in kinds.values()]
        return list({one.text: one for one in (*self.methods, *more)}.values())

    def seed_of(self, prompt: Prompt, seed: int) -> int:
        """The noise of a picture: the same for all methods."""
        if self.same_noise or self.backend.startswith("images:"):
            return seed
        start = int.from_bytes(hashlib.sha256(prompt.text.encode()).digest()[:4], "big")
        return (start + seed) % 2**32

    def key(self, method: Method, prompt: Prompt, seed: int) -> str:
        shared = self.setup.as_dict()
        made = method.canonical(shared.pop("cfg"), shared.pop("steps"))
        parts = {"method": made, "setup": shared, "model": self.identity, "prompt": prompt.text}
        return key_of({**parts, "seed": self.seed_of(prompt, seed)})

    def batches(self, size: int) -> Iterator[list[tuple[str, int, Job]]]:
        """(key, seed number, job) in batches of one method; the first prompts come first."""
        pairs = [(prompt, seed) for seed in self.seeds for prompt in self.prompts]
        for start in range(0, len(pairs), size):
            for method in self.drawn:
                jobs = [
                    (self.key(method, p, s), s, Job(method, p, self.seed_of(p, s)))
                    for p, s in pairs[start : start + size]
                ]
                yield from [[job] for job in jobs] if method.by_prompt else [jobs]

    def keys(self, method: Method) -> list[list[str]]:
        """[prompts][seeds]."""
        return [[self.key(method, p, s) for s in self.seeds] for p in self.prompts]

    # --- its file ---

    def save(self, folder: Path) -> None:
        """To plan.json.

        Raises:
            SettingsError: it cannot be written.
        """
        values = {
            "methods": [one.text for one in self.methods],
            "companions": {
                name: {kind: one.text for kind, one in kinds.items()}
                for name, kinds in self.companions.items()
            },
            "prompts": [one.as_dict() for one in self.prompts],
            "setup": self.setup.as_dict(),
        }
        for name in _PLAIN:
            values[name] = getattr(self, name)
        text = json.dumps(values, indent=1, ensure_ascii=False)
        written(folder / "plan.json", text.encode())

    @classmethod
    def load(cls, folder: Path) -> Plan:
        """From plan.json.

        Raises:
            SettingsError: there is none, or it cannot be read.
        """
        path = folder / "plan.json"
        try:
            values = json.loads(path.read_text("utf-8"))
            size = values["setup"].get("size")
            read = finished if values["backend"].startswith("images:") else _read
            values["setup"]["size"] = tuple(size) if size else None
            values.setdefault("pilots", {})  # of folders from before there were any
            return cls(
                methods=[read(text) for text in values["methods"]],
                prompts=[Prompt(**one) for one in values["prompts"]],
                setup=Setup(**values["setup"]),
                companions={
                    name: {kind: parse(text)[0] for kind, text in kinds.items()}
                    for name, kinds in values["companions"].items()
                },
                **{name: values[name] for name in _PLAIN},
            )
        except FileNotFoundError:
            raise SettingsError(
                f"folder: {folder} holds no run; draw one by 'bench alignment run' first."
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SettingsError(f"folder: {path} cannot be read ({error}).") from None


def _read(text: str) -> Method:
    return parse(text)[0]


_PLAIN = ("seeds", "identity", "backend", "same_noise", "unmatched", "scores", "family")
_PLAIN += ("named_at", "chosen", "source", "pilots")
