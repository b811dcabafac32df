"""Trials: which parameters come next (Optuna), and what their pictures are worth.

A trial's value is the mean paired difference of its score to plain guidance's, prompt by prompt.
With *shuffled* verdicts each difference gets a sign by a coin, so that nothing is there to be found
but what luck and choice make.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from asyndm.bench.alignment import adaptive, drawing, scoring
from asyndm.bench.alignment.backends import Backend, Job
from asyndm.bench.alignment.methods import ADAPTIVE, Method
from asyndm.bench.alignment.plan import Plan
from asyndm.bench.alignment.scores import Score
from asyndm.bench.alignment.store import Store
from asyndm.core.settings import SettingsError

from .glimpses import Glimpses
from .space import Space

_PRUNED_AT = 0.1  # p of Wilcoxon's test below which a trial is given up
_AT_LEAST = 8  # prompts before that
_PAUSE = 0.5  # seconds between looks at what other processes do


@dataclass(frozen=True)
class Worth:
    """What a trial's pictures were worth.

    Attributes:
        differences: one a prompt that was drawn, NaN where the score has no value.
        rows: of the network, in all its pictures.
        pruned: given up before all prompts were drawn.
    """

    differences: np.ndarray
    rows: int
    pruned: bool

    @property
    def value(self) -> float:
        return float(np.nanmean(self.differences))


class Tuning:
    """One tuning, in one folder; any number of processes may work on it.

    Args:
        plan: the baseline, development prompts and seeds.
        backend, score: that draws, and that judges.
        space: of the parameters.
        folder: on a disk that all processes see.
        storage: Optuna's, as an address; one database for all processes.
        name: of the studies, an arm each.
        checkpoint: hash that profiles keep, as WebUIs have it; "" = unknown.
        seed: of what Optuna draws.

    Raises:
        SettingsError: the storage cannot be used.
    """

    def __init__(
        self,
        plan: Plan,
        backend: Backend,
        score: Score,
        space: Space,
        folder: Path,
        storage: str,
        name: str,
        checkpoint: str = "",
        seed: int = 0,
    ) -> None:
        import optuna

        self.plan, self.backend, self.score, self.space = plan, backend, score, space
        self.folder, self.name, self.seed = folder, name, seed
        self.profiles = folder / "asyndm-profiles"
        self.store = Store(folder)
        self.store.refresh()
        self.glimpses = Glimpses(folder, plan, backend, self.store)
        self.checkpoint = checkpoint
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna, self._studies = optuna, {}
        (folder / "locks").mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(folder / "locks" / "storage"):  # tables are made by one process
                self._storage = optuna.storages.RDBStorage(storage)
                if storage.startswith("sqlite"):
                    _fast(self._storage.engine)
        except Exception as error:  # of many databases' own kinds; its address may hold a password
            raise SettingsError(
                f"storage: the database cannot be used ({type(error).__name__}); give an address "
                "such as sqlite:///FILE or postgresql://HOST/NAME."
            ) from None

    def study(self, arm: str) -> Any:
        """An arm's study, made where there is none yet."""
        if arm not in self._studies:
            with FileLock(self.folder / "locks" / "storage"):
                self._studies[arm] = self._opened(arm)
        return self._studies[arm]

    def _opened(self, arm: str) -> Any:
        optuna = self._optuna
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # experimental, as some of Optuna's best parts are
            pruner = optuna.pruners.WilcoxonPruner(
                p_threshold=_PRUNED_AT, n_startup_steps=_AT_LEAST
            )
            study = optuna.create_study(
                study_name=f"{self.name}-{arm}",
                storage=self._storage,
                direction="maximize",
                load_if_exists=True,
                pruner=pruner,
            )
            count = len(study.get_trials(deepcopy=False))
            study.sampler = optuna.samplers.TPESampler(
                seed=self.seed + count, multivariate=True, constant_liar=True
            )
        return study

    def run(self, arm: str, budget: int) -> None:
        """Trials until an arm has spent its rows.

        Raises:
            SettingsError: a picture cannot be drawn or judged; what is there stays.
        """
        while self.spent(arm) < budget:
            self._one(arm)
        while self._others(arm):  # of other processes; one of them may be the best
            time.sleep(_PAUSE)

    @cached_property
    def _judging(self) -> scoring.Judging:
        return scoring.Judging(self.score, self.store)

    def usual(self, arm: str) -> tuple[float, float]:
        """(centre, spread) of the share on the development prompts; kept in the arm's study.

        Raises:
            SettingsError: the backend cannot tell the share.
        """
        if arm != ADAPTIVE:
            return 0.0, 1.0
        study = self.study(arm)
        with FileLock(self.folder / "locks" / f"usual-{arm}"):
            if "usual" not in study.user_attrs:
                seen = [one for row in self.glimpses.of(self.plan.prompts) for one in row]
                study.set_user_attr("usual", adaptive.usual(seen))
            centre, spread = study.user_attrs["usual"]
        return centre, spread

    def _others(self, arm: str) -> bool:
        """Whether a trial is running in a process that lives."""
        study, state = self.study(arm), self._optuna.trial.TrialState
        with FileLock(self.folder / "locks" / f"ask-{arm}"):
            self._revive(study, arm)
            return bool(study.get_trials(deepcopy=False, states=(state.RUNNING,)))

    def spent(self, arm: str) -> int:
        """Rows of the trials that are over."""
        return sum(one.user_attrs.get("rows", 0) for one in self.trials(arm))

    def trials(self, arm: str) -> list[Any]:
        """Those that are over, pruned ones too."""
        state = self._optuna.trial.TrialState
        return [
            one
            for one in self.study(arm).get_trials(deepcopy=False)
            if one.state in (state.COMPLETE, state.PRUNED)
        ]

    def best(self, arm: str) -> Any:
        """The best trial whose prompts were all drawn.

        Raises:
            SettingsError: there is none.
        """
        complete = self._optuna.trial.TrialState.COMPLETE  # a pruned one may have a value, too
        full = [one for one in self.trials(arm) if one.state == complete]
        if not full:
            raise SettingsError(f"tune: {arm}: no trial is over yet; let 'bench tune run' go on.")
        return max(full, key=lambda one: (one.value, -one.number))

    def method_of(self, arm: str, trial: Any) -> Method:
        """The method a trial stands for."""
        return self.space.method(arm, trial.params, self.profiles, self.checkpoint, self.usual(arm))

    # --- one trial ---

    def _one(self, arm: str) -> None:
        usual = self.usual(arm)
        with FileLock(self.folder / "locks" / f"ask-{arm}"):
            study = self.study(arm)
            self._revive(study, arm)
            if not study.get_trials(deepcopy=False):
                study.enqueue_trial(self.space.first(arm, self.plan.setup.cfg))
            trial = study.ask()
            mine = self._lock(arm, trial.number)
            mine.acquire()
        try:
            values = self.space.ask(trial, arm)
            method = self.space.method(arm, values, self.profiles, self.checkpoint, usual)
            trial.set_user_attr("method", method.text)
            worth = self.worth(method, trial, shuffled=arm == "shuffled")
            trial.set_user_attr("rows", worth.rows)
            trial.set_user_attr("prompts", len(worth.differences))
            trial.set_user_attr("mean", worth.value)
            state = self._optuna.trial.TrialState
            if worth.pruned:
                study.tell(trial, state=state.PRUNED)
            else:
                study.tell(trial, worth.value)
        finally:
            mine.release()

    def _lock(self, arm: str, number: int) -> FileLock:
        """Held for as long as a trial runs; the system gives it back when its process dies."""
        return FileLock(self.folder / "locks" / f"{arm}-{number}", timeout=0)

    def _revive(self, study: Any, arm: str) -> None:
        """Trials whose process died are tried again; their pictures are there."""
        state = self._optuna.trial.TrialState
        for one in study.get_trials(deepcopy=False, states=(state.RUNNING,)):
            lock = self._lock(arm, one.number)
            try:
                lock.acquire()
            except Timeout:
                continue
            try:
                if study.trials[one.number].state != state.RUNNING:
                    continue  # it ended in the meantime
                study.tell(one.number, state=state.FAIL)
                if one.params:
                    study.enqueue_trial(one.params)
            finally:
                lock.release()

    def worth(self, method: Method, trial: Any = None, shuffled: bool = False) -> Worth:
        """Of a method on the development prompts, batch by batch.

        Args:
            trial: told each prompt's difference; may give the rest up. None = all are drawn.
            shuffled: each difference gets a sign by a coin.

        Raises:
            SettingsError: it cannot be drawn, or no picture has a value.
        """
        prompts = self.plan.prompts
        signs = np.ones(len(prompts))
        if shuffled and trial is not None:
            signs = np.random.default_rng([self.seed, trial.number]).choice([-1, 1], len(prompts))
        size = max(1, self.backend.batch // len(self.plan.seeds))
        found: list[float] = []
        rows = 0
        for start in range(0, len(prompts), size):
            part = prompts[start : start + size]
            values, counted = self.values(method, part)
            plain, _ = self.values(self.plan.baseline, part)
            rows += counted
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # of prompts without a value
                differences = np.nanmean(values - plain, axis=1) * signs[start : start + size]
            found += differences.tolist()
            if trial is None:
                continue
            for number, difference in enumerate(differences, start):
                if np.isfinite(difference):
                    trial.report(float(difference), number)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of ties, which verdicts have many of
                if start + size < len(prompts) and trial.should_prune():
                    return Worth(np.array(found), rows, True)
        if np.isnan(found).all():
            raise SettingsError(f"tune: {self.score.name} has no value for any of these pictures.")
        return Worth(np.array(found), rows, False)

    def values(self, method: Method, prompts: list) -> tuple[np.ndarray, int]:
        """([prompts, seeds] more is better, NaN where there is none; rows of these pictures)."""
        plan, rows = self.plan, 0
        drawn = [[method] * len(plan.seeds) for _ in prompts]  # the method of each picture
        if method.rule is not None:
            seen = self.glimpses.of(prompts)
            rows = sum(one.rows for row in seen for one in row)
            drawn = [[method.at(method.rule.k(one)) for one in row] for row in seen]
        keys = [
            [plan.key(each, prompt, seed) for each, seed in zip(row, plan.seeds)]
            for row, prompt in zip(drawn, prompts)
        ]
        drawing.draw(
            plan, self.backend, self.store, quiet=True, batches=self._batches(drawn, keys, prompts)
        )
        pictures = [(key, prompt) for row, prompt in zip(keys, prompts) for key in row]
        self._judging.judge(pictures, quiet=True)
        rows += sum(self.store.records[key]["rows"] or 0 for key, _ in pictures)
        lines = self._judging.values
        cells = [[lines.get(key, {}).get("value") for key in row] for row in keys]
        values = np.array([[np.nan if v is None else float(v) for v in row] for row in cells])
        return values * (self.score.direction or 1), rows

    def _batches(
        self, drawn: list[list[Method]], keys: list[list[str]], prompts: list
    ) -> list[tuple[str, drawing.Batch]]:
        """Pictures of equal methods together, each batch with the name it is claimed by.

        The name is of the method and of where in these prompts the batch begins: processes whose
        trials have some pictures in common wait for each other there.
        """
        plan, size = self.plan, self.backend.batch
        pairs = [(row, column) for column in range(len(plan.seeds)) for row in range(len(prompts))]
        found = []
        for start in range(0, len(pairs), size):
            groups: dict[str, drawing.Batch] = {}
            first = prompts[pairs[start][0]], plan.seeds[pairs[start][1]]
            names = {}
            for row, column in pairs[start : start + size]:
                method, prompt, seed = drawn[row][column], prompts[row], plan.seeds[column]
                job = Job(method, prompt, plan.seed_of(prompt, seed))
                groups.setdefault(method.text, []).append((keys[row][column], seed, job))
                names.setdefault(method.text, plan.key(method, *first))
            found += [(names[text], batch) for text, batch in groups.items()]
        return found


def _fast(engine: Any) -> None:
    """SQLite's log beside its file: a commit waits for no disk, and still survives a kill."""
    from sqlalchemy import event

    def connected(connection: Any, record: Any) -> None:
        for line in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=60000"):
            connection.execute(f"PRAGMA {line}")

    event.listen(engine, "connect", connected)
    engine.dispose()  # connections from before
