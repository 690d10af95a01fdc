"""What a study will take, known from its definition before anything starts.

    D    training tokens of a run: steps x sequences x block size
    S    tokens that a run is scored on: all validation sets but end tasks, whose length the
         sources say only when they are read
    F    floating-point operations of training one token (`optuna_mde_trainers.training.flops`)

A run takes F (D + S / 3): a score is a forward pass, a training step three times that. In time the
same, D + S / 3 tokens at the rate of training, on as many workers as there are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING

from optuna_mde_studies.runner.identity import find
from optuna_mde_studies.runner.resources import places
from optuna_mde_studies.runner.trials import FINISHED, lost_experts, num_finished
from optuna_mde_studies.wording import amount, hours
from optuna_mde_trainers.spec import RESULT_FILE, RunResult, SpecError

from optuna_mde.answers.tables import Table
from optuna_mde.trials.groups import DEFAULT_PREFIX

if TYPE_CHECKING:
    import optuna
    from optuna_mde_studies.definition.config import StudyConfig
    from optuna_mde_studies.runner.folder import StudyFolder
    from optuna_mde_trainers.training.flops import Size

CONFIRMED = 4
"""Mixtures of a confirmation, at most: recommended, natural, uniform, best expert."""


@dataclass(frozen=True)
class Stage:
    """Runs of one kind, at most: experts stop sooner on little text, mixtures may coincide."""

    what: str
    runs: int
    tokens: int
    """Training tokens of all of them."""
    scored: int
    """Tokens that they are scored on."""

    @property
    def work(self) -> float:
        """Tokens of training that would take as long."""
        return self.tokens + self.scored / 3


@dataclass(frozen=True)
class Done:
    """What a begun study has already."""

    trials: int = 0
    """Finished ones, as `search.n_trials` counts them."""
    experts: frozenset[str] = frozenset()
    """Domains of which one is trained, or none is tried again."""
    is_confirmed: bool = False


@dataclass(frozen=True)
class Plan:
    """The runs of a study and what they cost."""

    size: Size | None
    """Of the model; None where a command of the user's trains one that is not known."""
    run_tokens: int
    """Training tokens of a full run."""
    workers: int
    """Runs side by side."""
    stages: tuple[Stage, ...]

    def flops(self, stage: Stage) -> float | None:
        """Floating-point operations of a stage."""
        return None if self.size is None else self.size.exact * stage.work

    def seconds(self, stage: Stage, rate: float) -> float:
        """Wall seconds of a stage, where one run trains `rate` tokens a second beside others."""
        return stage.work / rate / max(1, min(self.workers, stage.runs))

    def table(self, rate: float | None = None) -> Table:
        """The plan in words; with hours where a rate is known."""
        every = [*self.stages, _sum(self.stages)]
        lines = [(s.what, str(s.runs), amount(s.tokens), *self._work(s)) for s in every]
        head = ("at most", "runs", "training tokens", *(("FLOP",) if self.size else ()))
        if rate is None:
            return Table(head, tuple(lines))
        times = [self.seconds(stage, rate) for stage in self.stages]
        times.append(sum(times))
        return Table(
            (*head, "time"),
            tuple((*line, hours(time)) for line, time in zip(lines, times, strict=True)),
        )

    def _work(self, stage: Stage) -> tuple[str, ...]:
        flops = self.flops(stage)
        return () if flops is None else (f"{flops:.2e}",)


def done(config: StudyConfig, folder: StudyFolder, offered: Collection[str] = ()) -> Done:
    """What the study in a folder has finished; nothing where there is none.

    Args:
        config: its definition.
        folder: the study's.
        offered: domains whose experts other studies have, and `run` takes over.

    Raises:
        StudyError: if its storage cannot be opened.
    """
    study = find(folder, config.name)
    if study is None:
        return Done(experts=frozenset(offered))
    had = finished(config, study, is_confirmed=folder.confirmation.is_file())
    return replace(had, experts=had.experts.union(offered))


def finished(config: StudyConfig, study: optuna.Study, *, is_confirmed: bool = False) -> Done:
    """What a study has finished, experts that were taken over among them."""
    trials = study.get_trials(deepcopy=False, states=FINISHED)
    alone = {f"{DEFAULT_PREFIX}{domain}": domain for domain in config.domains}
    experts = {alone[p] for t in trials for p in alone.keys() & t.params if t.params[p] == 1.0}
    return Done(num_finished(study), frozenset(experts).union(lost_experts(study)), is_confirmed)


def plan(config: StudyConfig, had: Done = Done()) -> Plan:
    """The plan of a study, without what it has already.

    Raises:
        ValueError: if the model does not fit the tokenizer; the message begins with the field.
        CorpusError: if the tokenizer cannot be loaded.
    """
    per_step = config.training.global_batch_size * config.corpus.block_size
    return Plan(
        size=None if config.launch.command is not None else _size(config),
        run_tokens=config.training.max_steps * per_step,
        workers=places(config.launch, len(config.domains)).workers,
        stages=tuple(_stages(config, per_step, had)),
    )


def _size(config: StudyConfig) -> Size:
    from optuna_mde_trainers.training.flops import size

    tokens = vocabulary(config)
    rows = config.model.vocab_size
    if rows is not None and rows < tokens:
        raise ValueError(
            f"model.vocab_size: {rows:,} rows are fewer than the tokenizer's {tokens:,} tokens; "
            "raise it, or leave it out"
        )
    try:
        return size(config.model, vocab_size=tokens, block_size=config.corpus.block_size)
    except ValueError as error:
        raise ValueError(f"model.{error}") from None


def vocabulary(config: StudyConfig) -> int:
    """Tokens of the study's tokenizer, which is loaded if it exists already."""
    from optuna_mde_trainers.corpus import tokenizer

    asked = config.corpus.tokenizer
    if asked.type == "bpe":
        return asked.vocab_size
    return tokenizer.vocabulary_size(tokenizer.build(asked, []))


def finished_rate(folder: StudyFolder) -> float | None:
    """Tokens a second in the runs that the study has finished already, if any: their median."""
    rates = []
    for path in folder.runs.glob(f"*/{RESULT_FILE}"):
        try:
            result = RunResult.read(path)
        except (OSError, SpecError):
            continue
        if result.seconds:
            rates.append(result.tokens / result.seconds)
    return median(rates) if rates else None


def left(config: StudyConfig, had: Done) -> tuple[int, int]:
    """Experts and other trials that are still to be run."""
    trials = max(0, config.search.n_trials - had.trials)
    experts = min(len(config.domains) - len(had.experts), trials)
    return experts, trials - experts


def _stages(config: StudyConfig, per_step: int, had: Done) -> Iterator[Stage]:
    steps = config.training.max_steps
    sets = len(config.domains) + len(config.corpus.validation)
    times = 1 + len(config.score.at)
    scored = times * sets * config.corpus.validation_blocks * config.corpus.block_size

    def stage(what: str, runs: int, run_steps: int) -> Stage:
        return Stage(what, runs, runs * run_steps * per_step, runs * scored)

    experts, others = left(config, had)
    yield stage("experts", experts, max(1, round(config.experts.budget * steps)))
    yield stage("search", others, steps)
    if config.confirm.seeds and not (had.is_confirmed and experts + others == 0):
        yield stage("confirmation", CONFIRMED * config.confirm.seeds, steps)


def _sum(stages: tuple[Stage, ...]) -> Stage:
    return Stage(
        "all",
        sum(stage.runs for stage in stages),
        sum(stage.tokens for stage in stages),
        sum(stage.scored for stage in stages),
    )
