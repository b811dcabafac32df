"""What the adaptive arm knows of each development picture before it is drawn, measured once.

A user pays for it at every picture, so its rows are counted in every trial all the same.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

from asyndm.bench.alignment import drawing
from asyndm.bench.alignment.adaptive import Glimpse
from asyndm.bench.alignment.backends import Backend, Job
from asyndm.bench.alignment.plan import Plan
from asyndm.bench.alignment.prompt_sets import Prompt
from asyndm.bench.alignment.store import Lines, Store

_PAUSE = 0.2  # seconds between looks at what other processes measure


class Glimpses:
    """Those of a folder, which many processes fill.

    Args:
        folder: of the tuning.
        plan: its prompts and seeds.
        backend: that measures.
        store: gives the right to.
    """

    def __init__(self, folder: Path, plan: Plan, backend: Backend, store: Store) -> None:
        self._plan, self._backend, self._store = plan, backend, store
        self._lines = Lines(folder / "glimpses")
        self._known: dict[str, Glimpse] = {}

    def of(self, prompts: list[Prompt]) -> list[list[Glimpse]]:
        """[prompts][seeds]; what is not known yet is measured.

        Raises:
            SettingsError: the backend cannot tell.
        """
        plan = self._plan
        pairs = [(prompt, seed) for seed in plan.seeds for prompt in prompts]
        size = max(1, self._backend.batch)
        for start in range(0, len(pairs), size):
            self._measure(pairs[start : start + size])
        return [[self._known[self._key(p, s)] for s in plan.seeds] for p in prompts]

    def _key(self, prompt: Prompt, seed: int) -> str:
        return self._plan.key(drawing.PROBE, prompt, seed)

    def _missing(self, pairs: list[tuple[Prompt, int]]) -> list[tuple[Prompt, int]]:
        return [pair for pair in pairs if self._key(*pair) not in self._known]

    def _refresh(self) -> None:
        for line in self._lines.new():
            known = Glimpse(line["objects"], line["share"], line["rows"])
            self._known.setdefault(line["key"], known)

    def _measure(self, pairs: list[tuple[Prompt, int]]) -> None:
        while self._missing(pairs):
            lock = self._store.claim(f"glimpse-{self._key(*pairs[0])}")
            if lock is None:
                time.sleep(_PAUSE)
                self._refresh()
                continue
            try:
                self._refresh()
                todo = self._missing(pairs)
                if todo:
                    jobs = [Job(drawing.PROBE, p, self._plan.seed_of(p, s)) for p, s in todo]
                    seen = drawing.glimpsed(jobs, self._backend)
                    found = {self._key(*pair): one for pair, one in zip(todo, seen)}
                    self._lines.append([{"key": key, **asdict(one)} for key, one in found.items()])
                    self._known |= found
            finally:
                lock.release()
