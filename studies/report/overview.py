"""What the trials of a study hold, as the pictures and the report see it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from optuna.trial import TrialState
from optuna_mde_studies.exchange.origin import is_own
from optuna_mde_studies.runner.experiment import RUN_ATTR
from optuna_mde_studies.runner.recovery import INTERRUPTED
from optuna_mde_studies.runner.target import SOURCE_ATTR, TOKENS_ATTR
from optuna_mde_studies.runner.trials import is_forbidden, lost_experts

from optuna_mde.objective import Objective
from optuna_mde.trials import records
from optuna_mde.trials.facts import Facts, read_facts
from optuna_mde.trials.groups import DEFAULT_PREFIX, Group
from optuna_mde.trials.layout import study_space
from optuna_mde.trials.targets import is_told_for, present_objective, present_values
from optuna_mde.visualization import runs as shown
from optuna_mde.visualization.answered import Answered, ask

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

    from optuna_mde.answers.answer import Recommendation


@dataclass(frozen=True)
class Run(shown.Run):
    """One trial, finished or not."""

    state: str
    """complete, running, pruned, interrupted or failed; "left out" where somebody excluded it."""
    parameters: dict[str, Any]
    """The parameters beside the mixture."""
    losses: dict[str, float]
    """Validation set -> nats per token."""
    accuracy: dict[str, float]
    """End task -> share of the questions whose right choice is the likeliest by byte."""
    budget: float
    """Share of a full run that was trained."""
    tokens: int | None
    weights: int | None
    """Number of weights of the model that was trained."""
    seconds: float | None
    """From the start of the trial to its end."""
    folder: str = ""
    """Its folder, relative to the study's, if our trainer has made one."""
    flops: float | None = None
    """Floating-point operations of its training, by the trainer's formula."""
    device_seconds: float | None = None
    """Seconds of its training steps times devices."""
    taken_over: bool = False
    """Whether it comes from a table or another study, and has cost this one nothing."""
    forbidden: bool = False
    """Whether the bounds and constraints in force forbid its mixture."""

    @property
    def is_shortened(self) -> bool:
        """Whether it is an expert that ended on a share of a full run: evidence, no candidate."""
        return self.state == "pruned" and self.budget < 1 and bool(self.losses)


@dataclass(frozen=True)
class Overview:
    """All runs of a study, and the names that they share."""

    study: str
    domains: tuple[str, ...]
    sets: tuple[str, ...]
    objectives: tuple[str, ...]
    """A name for each objective value."""
    maximise: tuple[bool, ...]
    goals: Objective | None
    """How the objectives are made of the validation losses; None if no run says it."""
    natural: dict[str, float]
    """Domain -> share of the text at hand; empty when unknown."""
    runs: tuple[Run, ...]
    target_tokens: float | None = None
    """Tokens of the run that the mixture is for, if the study says."""
    source_tokens: dict[str, int] = field(default_factory=dict)
    """Domain -> tokens of its whole source; empty where unknown."""
    bounds: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Domain -> floor and cap in force, of those that have one or the other."""
    lost_experts: tuple[str, ...] = ()
    """Domains whose experts failed for good."""

    @property
    def complete(self) -> tuple[Run, ...]:
        """Runs that are candidates for the best one."""
        return tuple(run for run in self.runs if run.values)

    @property
    def finished(self) -> tuple[Run, ...]:
        """Runs that something was learned from, shortened experts among them."""
        return tuple(run for run in self.runs if run.values or run.is_shortened)

    @property
    def counted(self) -> frozenset[str]:
        """Validation sets with a weight in an objective, where they are not simply all."""
        goals = self.goals.goals if self.goals else ()
        return frozenset(name for _, weights in goals for name, _ in weights)


def read(study: Study) -> Overview:
    """Reads a study once. Trials that wait for a worker are left out.

    Of several mixtures in one study the first is the mixture, the parts of the others are
    parameters.
    """
    facts = read_facts(study)
    known = {record.number: record for record in facts.trials}
    trials = [
        trial
        for trial in study.get_trials(deepcopy=False)
        if trial.state != TrialState.WAITING and trial.number in known
    ]
    parsed = [known[trial.number] for trial in trials]
    groups = [group.prefix for record in parsed for group in record.groups]
    prefix = groups[0] if groups else DEFAULT_PREFIX
    excluded, group = facts.notes.excluded, _group(study, facts, prefix)
    goals = present_objective(parsed, facts.notes)
    runs = tuple(
        _run(trial, record, prefix, group, goals, left_out=trial.number in excluded)
        for trial, record in zip(trials, parsed, strict=True)
    )
    return Overview(
        study=study.study_name,
        domains=tuple(dict.fromkeys(domain for run in runs for domain in run.mixture)),
        sets=tuple(dict.fromkeys(name for run in runs for name in run.losses)),
        objectives=_objective_names(study, goals),
        maximise=records.is_maximised(study),
        goals=goals,
        natural=facts.notes.natural,
        runs=runs,
        target_tokens=_number(study.user_attrs.get(TOKENS_ATTR)),
        source_tokens={
            name: int(tokens)
            for name, tokens in _numbers(study.user_attrs.get(SOURCE_ATTR)).items()
        },
        bounds=_bounds(group) if group else {},
        lost_experts=tuple(lost_experts(study, facts)),
    )


def _group(study: Study, facts: Facts, prefix: str) -> Group | None:
    """The mixture as it is in force now; None where no trial has one."""
    groups = study_space(study, facts=facts).groups
    return next((group for group in groups if group.prefix == prefix), None)


def _bounds(group: Group) -> dict[str, tuple[float, float]]:
    ends = zip(group.domains, group.lower, group.upper, strict=True)
    return {d: (float(a), float(b)) for d, a, b in ends if a > 0.0 or b < 1.0}


def answered(
    study: Study, recommendation: Recommendation | None = None
) -> tuple[Answered | None, str]:
    """The study with its recommendation, to draw what it predicts; else nothing and the reason."""
    try:
        found = ask(study, None, None, recommendation)
    except ValueError as error:
        return None, str(error)
    return found, ""


def _objective_names(study: Study, goals: Objective | None) -> tuple[str, ...]:
    number = len(study.directions)
    if study.metric_names:
        return tuple(study.metric_names)
    if goals and len(goals.names) == number:
        return tuple("loss" if name == "objective" else f"{name} loss" for name in goals.names)
    return ("objective",) if number == 1 else tuple(f"objective {i}" for i in range(number))


def _run(
    trial: FrozenTrial,
    record: records.Record,
    prefix: str,
    group: Group | None,
    goals: Objective | None,
    *,
    left_out: bool,
) -> Run:
    attrs = trial.user_attrs
    mean, sd = _number(attrs.get("predicted_mean")), _number(attrs.get("predicted_sd"))
    told = is_told_for(record, goals)
    counts = trial.state == TrialState.COMPLETE and not left_out
    return Run(
        number=trial.number,
        state="left out" if left_out else _state(trial),
        phase=str(attrs.get("phase") or ""),
        mixture=(record.mixture(prefix) or {}) if group is None else record.shown(group),
        parameters={k: v for k, v in trial.params.items() if not k.startswith(prefix)},
        values=present_values(record, goals) if counts else (),
        losses=record.losses,
        accuracy=_numbers(attrs.get("accuracy")),
        predicted=None if mean is None or sd is None or not told else (mean, sd),
        budget=record.budget,
        tokens=_count(attrs.get("tokens")),
        weights=_count(attrs.get("parameters")),
        seconds=record.seconds,
        folder=str(attrs.get(RUN_ATTR) or ""),
        flops=_number(attrs.get("flops")),
        device_seconds=_number(attrs.get("device_seconds")),
        taken_over=not is_own(trial),
        forbidden=is_forbidden(record, group),
    )


def _state(trial: FrozenTrial) -> str:
    interrupted = trial.state == TrialState.FAIL and trial.user_attrs.get(INTERRUPTED)
    return "interrupted" if interrupted else _STATES[trial.state]


_STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.RUNNING: "running",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.WAITING: "waiting",
}


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _numbers(value: object) -> dict[str, float]:
    items = value.items() if isinstance(value, dict) else ()
    return {str(k): float(v) for k, v in items if isinstance(v, int | float)}


def _count(value: object) -> int | None:
    return value if isinstance(value, int) else None
