"""A trial becomes a spec, the spec a run, and the run what the study is told."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from optuna_mde_studies.definition.config import StudyConfig, training_spec
from optuna_mde_studies.runner import expert_files
from optuna_mde_studies.runner.folder import StudyFolder, stored_config
from optuna_mde_studies.runner.launchers import Launcher, RunFailedError, launcher
from optuna_mde_studies.runner.remote import RemoteRuns
from optuna_mde_studies.runner.target import bounds, caps, source_tokens
from optuna_mde_studies.wording import listed
from optuna_mde_trainers.spec import (
    RESULT_FILE,
    SPEC_VERSION,
    LaunchConfig,
    LaunchSpec,
    RunResult,
    RunSpec,
    ScoreSpec,
    SpecError,
    TrainingSpec,
    explain,
)
from pydantic import ValidationError

from optuna_mde import report_losses, suggest_mixture
from optuna_mde.trials.attributes import numbers
from optuna_mde.trials.notes import has_objective

if TYPE_CHECKING:
    from pathlib import Path

    import optuna
    from optuna_mde_trainers.corpus.blocks import Corpus

    from optuna_mde.objective import Objective

SPEC_ATTR = "spec"
"""Trial attribute: the training and score parts of the run's spec and its version, written before
it trains."""
RUN_ATTR = "run"
"""Trial attribute: the run's folder, relative to the study's."""
SAME_RATE = 1e-9
"""Mixtures that differ less are the same training."""


class ForeignSpecError(RunFailedError):
    """The spec on a trial is not one that this study has written."""


@dataclass(frozen=True)
class Experiment:
    """What all runs of a study share."""

    config: StudyConfig
    folder: StudyFolder
    corpus: Corpus

    @classmethod
    def open(cls, folder: StudyFolder, config: StudyConfig | None = None) -> Experiment:
        """The experiment of a study whose corpus is built.

        Args:
            folder: the study's.
            config: the definition. None: the one in the folder.
        """
        from optuna_mde_trainers.corpus.blocks import Corpus

        if config is None:
            config = stored_config(folder)
            folder = folder.placed(config)
        return cls(config, folder, Corpus.load(folder.corpus))

    @property
    def domains(self) -> tuple[str, ...]:
        """Domains that hold enough text, in the definition's order."""
        return tuple(self.corpus.domains)

    @property
    def natural(self) -> dict[str, float]:
        """The definition's natural mixture over these domains, else the shares of the text."""
        given = self.config.search.natural or {}
        total = sum(given.get(name, 0.0) for name in self.domains)
        if not total:
            return dict(self.corpus.natural)
        return {name: given[name] / total for name in self.domains}

    @property
    def goals(self) -> Objective:
        """What is minimised; a mean is over the sets that the definition names."""
        return objective_on(self.config, self.corpus)

    @property
    def bounds(self) -> dict[str, tuple[float, float]]:
        """Domain -> lowest and highest rate of proposals: the definition's, and what the target
        run has text for."""
        given, target = self.config.search.bounds, self.config.target
        held = {name: given[name] for name in self.domains if name in given}
        return bounds(held, caps(target, source_tokens(self.corpus)))

    @property
    def expert_steps(self) -> dict[str, int]:
        """Domain -> steps that its expert trains: the definition's share of a run, or as many as
        its epochs allow."""
        training, experts = self.config.training, self.config.experts
        steps = round(experts.budget * training.max_steps)
        if experts.max_epochs is None:
            return dict.fromkeys(self.domains, max(1, steps))
        per_step = training.global_batch_size * self.corpus.block_size
        return {
            name: max(1, min(steps, math.floor(experts.max_epochs * held.tokens / per_step)))
            for name, held in self.corpus.domains.items()
        }

    @property
    def expert_budget(self) -> dict[str, float]:
        """The same as shares of a full run, for the sampler."""
        full = self.config.training.max_steps
        return {name: steps / full for name, steps in self.expert_steps.items()}

    def propose(self, trial: optuna.Trial, study: optuna.Study) -> RunSpec:
        """The spec of the trial's run; a retried trial keeps the one that was written on it."""
        mixture = suggest_mixture(
            trial,
            self.domains,
            bounds=self.bounds,
            natural=self.natural,
        )
        if SPEC_ATTR not in trial.user_attrs:
            score = ScoreSpec(at=self.config.score.at, logprobs=mixture.is_expert)
            steps = round(mixture.budget * self.config.training.max_steps)
            with self.folder.asking():
                seed = self.config.training.seed + _repeats(study, mixture)
                training = self.training(mixture, seed=seed, max_steps=steps)
                parts = {
                    "version": SPEC_VERSION,
                    "training": training.model_dump(mode="json"),
                    "score": score.model_dump(mode="json"),
                }
                trial.set_user_attr(SPEC_ATTR, parts)
        spec = self.spec(trial.user_attrs)
        trial.set_user_attr(RUN_ATTR, self._relative(spec))
        return spec

    def training(
        self, mixture: Mapping[str, float], *, seed: int, max_steps: int | None = None
    ) -> TrainingSpec:
        """The training part of a run on this corpus, whole or shortened with its schedule."""
        training = training_spec(
            self.config,
            dict(mixture),
            corpus=self.corpus.fingerprint,
            tokenizer=self.corpus.tokenizer_fingerprint,
            seed=seed,
        )
        if max_steps is None or max_steps == training.max_steps:
            return training
        optimizer = training.optimizer
        if optimizer.warmup_steps is not None:  # else it is a share of the steps already
            warmup = round(optimizer.warmup_steps * max_steps / training.max_steps)
            optimizer = optimizer.model_copy(update={"warmup_steps": warmup})
        return training.model_copy(update={"max_steps": max_steps, "optimizer": optimizer})

    @property
    def launch(self) -> LaunchSpec:
        """As the definition says: one thread, next to other workers."""
        asked = dict(self.config.launch)
        launch = {name: asked[name] for name in LaunchConfig.model_fields}
        launch["logger"] = self._loggers
        folder = str(self.folder.corpus.resolve())
        return LaunchSpec(corpus_folder=folder, num_threads=1, **launch)

    @property
    def _loggers(self) -> dict[str, dict[str, Any]]:
        """Loggers that show the study's runs as one group, unless the definition says another.

        Those of csv and tensorboard need nothing: the group is the folder of runs.
        """
        group: dict[str, dict[str, Any]] = {
            "wandb": {"group": self.config.name},
            "mlflow": {"experiment_name": self.config.name},
        }
        if "MLFLOW_TRACKING_URI" not in os.environ:  # a server's counts before a folder
            group["mlflow"]["tracking_uri"] = f"sqlite:///{self.folder.path.resolve()}/mlflow.db"
        asked = self.config.launch.logger
        return {name: {**group.get(name, {}), **options} for name, options in asked.items()}

    def launched(self, training: TrainingSpec, score: ScoreSpec) -> RunSpec:
        """The whole spec."""
        return RunSpec(training=training, launch=self.launch, score=score)

    def spec(self, attrs: Mapping[str, Any]) -> RunSpec:
        """The spec that was written on a trial.

        Raises:
            ForeignSpecError: if it is none of this study's runs. Whoever can write to the storage
                chooses mixtures and seeds, and nothing else of what is trained here.
        """
        try:
            spec = RunSpec.parse({**attrs[SPEC_ATTR], "launch": self.launch.model_dump()})
        except (ValidationError, TypeError, ValueError) as error:
            reason = explain(error) if isinstance(error, ValidationError) else str(error)
            raise ForeignSpecError(f"the trial's spec cannot be used ({reason})") from None
        steps, full = spec.training.max_steps, self.config.training.max_steps
        ours = self.training(spec.training.mixture, seed=spec.training.seed, max_steps=steps)
        foreign = spec.training.mixture.keys() - set(self.domains)
        if spec.training != ours or steps > full or foreign:
            raise ForeignSpecError("the trial's spec is none of this study's definition")
        return spec

    @cached_property
    def launcher(self) -> Launcher:
        """What performs the runs."""
        return self.carrying(launcher(self.config.launch))

    def carrying(self, performs: Launcher) -> Launcher:
        """A launcher whose runs come to where the study's files lie."""
        mirror = self.folder.mirror
        return performs if mirror is None else RemoteRuns(performs, mirror)

    def train(self, spec: RunSpec, on_step: Callable[[int, int], None]) -> RunResult:
        """Trains and scores, or takes the result of a run that is finished already.

        Raises:
            RunFailedError: if the run has not scored what the study needs.
        """
        self._set_damaged_aside(spec)
        result = self.launcher.run(spec, self.folder.runs, on_step)
        path = spec.folder(self.folder.runs) / RESULT_FILE
        missing = sorted(self._wanted(spec) - result.losses.keys())
        fault = f"{path} has no loss of {listed(missing)}" if missing else ""
        if not fault and self.config.launch.command is not None and spec.score.logprobs:
            fault = self._unusable(path, result)
        if fault:
            if self.config.launch.command is not None:  # whose next try must not take it up
                path.replace(path.with_suffix(".damaged"))
            raise RunFailedError(fault)
        return result

    def _unusable(self, path: Path, result: RunResult) -> str:
        """Why the log-probabilities of an expert that a command has trained cannot be used."""
        if not result.logprobs:
            return (
                f"{path} names no file of log-probabilities, which score.logprobs of the spec "
                f'asks an expert for: write one, and "logprobs": its name ({expert_files.PAGE})'
            )
        file = path.with_name(result.logprobs)
        fault = expert_files.fault(file, result.losses, self.corpus.sets)
        return f"{file}: {fault} ({expert_files.PAGE})" if fault else ""

    def finished(self, spec: RunSpec) -> RunResult | None:
        """The result of a run that has been trained and scored as its spec asks."""
        try:
            result = self.launcher.finished(spec, self.folder.runs)
        except SpecError:  # damaged: whoever takes the run up sets it aside
            result = None
        if result is None:
            return None
        scored = self._wanted(spec) <= result.losses.keys()
        return result if scored and (result.logprobs or not spec.score.logprobs) else None

    def _set_damaged_aside(self, spec: RunSpec) -> None:
        """A result that cannot be read makes way for the run, which is performed again."""
        try:
            self.launcher.finished(spec, self.folder.runs)
        except SpecError as error:
            path = spec.folder(self.folder.runs) / RESULT_FILE
            path.replace(path.with_suffix(".damaged"))
            self.folder.share(path.parent, removes=True)
            if self.folder.say is not None:
                self.folder.say(f"{error}: set aside, and the run performed again")

    def _wanted(self, spec: RunSpec) -> set[str]:
        return set(self.corpus.sets if spec.score.sets is None else spec.score.sets)

    def report(
        self, trial: optuna.Trial, spec: RunSpec, result: RunResult
    ) -> float | tuple[float, ...]:
        """Records the run on its trial.

        Returns:
            The objective value(s), to be told.

        Raises:
            optuna.TrialPruned: for a shortened expert, which is evidence but no candidate.
        """
        logprobs = None
        if result.logprobs:
            logprobs = f"{self._relative(spec)}/{result.logprobs}"
        for name, value in _cost(result).items():
            trial.set_user_attr(name, value)
        if right := accuracies(result):
            trial.set_user_attr("accuracy", right)
        return report_losses(
            trial,
            result.losses,
            objective=None if has_objective(trial.study) else self.config.objective,
            logprobs=logprobs,
            budget=spec.training.max_steps / self.config.training.max_steps,
            tokens=result.tokens,
            parameters=result.parameters,
        )

    def _relative(self, spec: RunSpec) -> str:
        """The run's folder, from the study's."""
        return f"{self.folder.runs.name}/{spec.folder(self.folder.runs).name}"


def objective_on(config: StudyConfig, corpus: Corpus) -> Objective:
    """The objective of a definition; a mean is over those of its sets that the corpus holds, which
    may hold others that were scored later."""
    held = [name for name in config.sets if name in corpus.sets]
    return config.goals.averaging(held)


def same_mixture(
    one: Mapping[str, float], other: Mapping[str, float], within: float = SAME_RATE
) -> bool:
    """Whether no rate of two mixtures differs by more; one that is not named is 0."""
    return all(abs(one.get(name, 0.0) - other.get(name, 0.0)) <= within for name in {*one, *other})


def accuracies(result: RunResult) -> dict[str, float]:
    """End task -> share of its examples whose right choice is the likeliest by byte."""
    return {
        name: task.accuracy_norm
        for name, task in result.tasks.items()
        if task.accuracy_norm is not None
    }


def _cost(result: RunResult) -> dict[str, float]:
    """What the run cost, as attributes of its trial."""
    ledger = result.ledger
    if ledger is None:
        return {"device_seconds": result.seconds}
    known = {"flops": ledger.flops, "device_seconds": ledger.device_seconds}
    return {name: value for name, value in known.items() if value is not None}


def _repeats(study: optuna.Study, mixture: Mapping[str, float]) -> int:
    """Trials that run this very mixture already: the next one takes another seed."""
    from optuna.trial import TrialState

    return sum(
        same_mixture(trained, mixture)
        for other in study.get_trials(deepcopy=False)
        if other.state != TrialState.FAIL and (trained := _trained(other.user_attrs))
    )


def _trained(attrs: Mapping[str, Any]) -> dict[str, float]:
    """The mixture in a trial's spec; empty where another hand has written something else."""
    found: Any = attrs
    for key in (SPEC_ATTR, "training", "mixture"):
        found = found.get(key) if isinstance(found, Mapping) else None
    return numbers(found)
