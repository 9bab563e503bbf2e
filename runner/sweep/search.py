"""A search through a space of configurations with Optuna. Each trial is a variant whose jobs are jobs like all others.

Optuna's own record lies in the sweep's folder, so that a killed search goes on: trials that were asked for and not told
are run to their end first.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep

from runner.config.sweep import SearchSection, SweepSection
from runner.errors import ConfigError
from runner.interrupts import Interrupts
from runner.sweep.compose import Prepared
from runner.sweep.objective import Goal, objective_of
from runner.sweep.open_sweep import OpenSweep, new_sweep
from runner.sweep.plan import PlannedJob, Variant, interleaved
from runner.sweep.request import Request
from runner.sweep.results import VariantResult, job_results, variant_results
from runner.sweep.session import Session

STORAGE = "optuna.db"
WORST = 1e300  # Optuna takes no infinities


def run_search(
    request: Request, section: SweepSection, overrides: Mapping[str, Override], interrupts: Interrupts
) -> None:
    """Search until ``sweep.search.trials`` trials are told.

    Raises:
        ConfigError: the goal or the space is wrong, or Optuna is not installed.
        SweepFailedError, Interrupted: as of any sweep.
    """
    _require_optuna()
    goal = objective_of(section.search.model_dump())
    space = {key: override for key, override in overrides.items() if override.is_sweep_override()}
    if not space:
        raise ConfigError("sweep.search needs ranges: key=choice(1,2,4), key=range(1,9) or key=interval(0.1,1)")
    fixed = tuple(str(override.input_line) for key, override in overrides.items() if key not in space)
    distributions = {key: distribution(override) for key, override in space.items()}
    first = request.composer.prepare(variant_of(1, fixed, {key: _first(o) for key, o in space.items()}))
    what = [
        first.identity,
        {key: str(override.input_line) for key, override in space.items()},
        section.search.model_dump(exclude={"trials", "at_once"}), section.repeats, section.warmup,
    ]  # fmt: skip
    if first.error is not None:
        raise ConfigError(first.error)
    planned = new_sweep(request, section, [first.name], what, ())
    with OpenSweep(request, planned, interrupts) as session:
        search = Search(request, section, section.search, goal, fixed, distributions, session)
        search.run(section.search.at_once or request.at_once(first.wants_gpu))


def _require_optuna() -> None:
    try:
        import optuna  # noqa: F401
    except ImportError:
        raise ConfigError("sweep.search needs Optuna: pip install 'galley[search]'") from None


def _first(override: Override) -> str:
    """A point of the range, to know what the search is about."""
    value: Any = override.value()
    if isinstance(value, IntervalSweep):
        return str(value.start)
    return str(next(iter(override.sweep_string_iterator())))


def distribution(override: Override) -> Any:
    """Optuna's distribution of a range in Hydra's grammar.

    Raises:
        ConfigError: a range without an end.
    """
    from optuna import distributions as optuna

    value: Any = override.value()
    log = "log" in getattr(value, "tags", ())
    if isinstance(value, IntervalSweep):
        kind = optuna.IntDistribution if isinstance(value.start, int) else optuna.FloatDistribution
        return kind(value.start, value.end, log=log)
    if isinstance(value, RangeSweep):
        if value.start is None or value.stop is None:
            raise ConfigError(f"{override.input_line!r} has no end: write range(START,STOP)")
        if isinstance(value.start, int) and isinstance(value.stop, int) and isinstance(value.step, int):
            points = range(value.start, value.stop, value.step)
            if not points or value.step < 1:
                raise ConfigError(f"{override.input_line!r} has no points")
            return optuna.IntDistribution(points[0], points[-1], step=1 if log else value.step, log=log)
    assert isinstance(value, (ChoiceSweep, RangeSweep)) or override.is_sweep_override()
    return optuna.CategoricalDistribution([str(text) for text in override.sweep_string_iterator()])


def variant_of(number: int, fixed: Sequence[str], settings: Mapping[str, str]) -> Variant:
    """One point of the space as a variant."""
    return Variant(number, (*fixed, *(f"{key}={value}" for key, value in settings.items())), settings)


@dataclass
class Search:
    """Asks Optuna for points, runs them, and tells it what came of them."""

    request: Request
    section: SweepSection
    search: SearchSection
    goal: Goal
    fixed: Sequence[str]
    distributions: Mapping[str, Any]
    session: Session

    def run(self, at_once: int) -> None:
        """Everything that is missing."""
        study = self._study(self.session.sweep.path)
        self._finish_asked(study)
        while (missing := self.search.trials - len(study.trials)) > 0:
            asked = [self._ask(study) for _ in range(min(missing, at_once))]
            prepared = {number: self.request.composer.prepare(variant) for number, variant in asked}
            self.session.extend(self._plan(prepared))
            self._run(prepared)
            for number in prepared:
                self._tell(study, number, prepared[number].identity)
            self._note(len(study.trials))

    def _study(self, folder: Path) -> Any:
        """The sweep's study, made anew or gone on with. The seed moves on with it: a sampler that begins again would
        ask for the same points."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        storage = optuna.storages.RDBStorage(f"sqlite:///{folder / STORAGE}")
        study = optuna.create_study(
            study_name="sweep", storage=storage, direction=self.goal.direction, load_if_exists=True
        )
        seed = self.search.seed + len(study.trials)
        random = self.search.sampler == "random"
        samplers = optuna.samplers
        study.sampler = samplers.RandomSampler(seed) if random else samplers.TPESampler(seed=seed, constant_liar=True)
        return study

    def _ask(self, study: Any) -> tuple[int, Variant]:
        trial = study.ask(dict(self.distributions))
        settings = {key: str(trial.params[key]) for key in self.distributions}
        return trial.number, variant_of(trial.number + 1, self.fixed, settings)

    def _plan(self, prepared: Mapping[int, Prepared]) -> list[PlannedJob]:
        """The jobs of new points; a point that was tried before is not run again."""
        known = {job.identity for job in self.session.sweep.jobs if job.identity is not None}
        new = {}
        for number, found in prepared.items():
            if found.identity is None or found.identity not in known:
                new[number] = found
            if found.identity is not None:
                known.add(found.identity)
        order = interleaved([found.variant for found in new.values()], self.section.repeats, self.section.warmup)
        begin = len(self.session.sweep.jobs) + 1
        return [
            PlannedJob(place, variant, repeat, warmup, prepared[variant.number - 1].identity, variant.number - 1)
            for place, (variant, repeat, warmup) in enumerate(order, start=begin)
        ]

    def _run(self, prepared: Mapping[int, Prepared]) -> None:
        jobs = [job for job in self.session.sweep.open_jobs() if job.trial in prepared]
        self.session.run([(job, prepared[job.trial or 0]) for job in jobs], self.request.job_command)

    def _tell(self, study: Any, number: int, identity: str | None) -> None:
        """The mean over the repeats and how the bounds were kept, or that there is nothing to tell."""
        from optuna.trial import Trial, TrialState

        result = self._result(number, identity)
        value = None if result is None else result.mean(self.goal.metric)
        if result is None or value is None:
            study.tell(number, state=TrialState.FAIL)
            return
        trial = Trial(study, study.trials[number]._trial_id)
        for place, bound in enumerate(self.goal.bounds):
            trial.set_constraint(f"{place}: {bound.text}", min(bound.excess(result), WORST))
        trial.set_constraint("requirements", result.unmet)
        study.tell(trial, value)

    def _result(self, number: int, identity: str | None) -> VariantResult | None:
        results = job_results(self.session.sweep)
        own = [r for r in results if r.planned.trial == number]
        same = own or [r for r in results if identity is not None and r.planned.identity == identity]
        return next(iter(variant_results(same)), None)

    def _finish_asked(self, study: Any) -> None:
        """Of an earlier process: run to their end the trials that have jobs, and give up those that got none."""
        from optuna.trial import TrialState

        asked = [trial.number for trial in study.trials if trial.state == TrialState.RUNNING]
        planned = {job.trial: job for job in self.session.sweep.jobs}
        prepared = {n: self._again(planned[n].variant) for n in asked if n in planned}
        if any(job.trial in prepared for job in self.session.sweep.open_jobs()):
            self._run(prepared)
        for number in asked:
            found = prepared.get(number)
            self._tell(study, number, None if found is None else found.identity)
        self._note(len(study.trials))

    def _again(self, variant: Variant) -> Prepared:
        """A point of an earlier process with today's command line, which may ask for more trials."""
        return self.request.composer.prepare(variant_of(variant.number, self.fixed, variant.settings))

    def _note(self, told: int) -> None:
        """Write how many trials are told; the manifest alone then says whether the search is through."""
        self.session.replace(replace(self.session.sweep, search=self.search.model_dump(mode="json") | {"told": told}))
