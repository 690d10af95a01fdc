"""What a study will take, known from its definition before anything starts.

    D    training tokens of a run: steps x sequences x block size
    S    tokens that a run is scored on: all validation sets but end tasks, whose length the
         sources say only when they are read
    F    floating-point operations of training one token (`optuna_mde_trainers.training.flops`)

A run takes F (D + S / 3): a score is a forward pass, a training step three times that. In time the
same, D + S / 3 tokens at the rate of training, on as many workers as there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from optuna_mde_studies.runner.resources import places
from optuna_mde_studies.wording import amount, hours
from optuna_mde_trainers.spec import RESULT_FILE, RunResult, SpecError

from optuna_mde.answers.tables import Table

if TYPE_CHECKING:
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
class Plan:
    """The runs of a study and what they cost."""

    size: Size
    """Of the model."""
    run_tokens: int
    """Training tokens of a full run."""
    workers: int
    """Runs side by side."""
    stages: tuple[Stage, ...]

    def flops(self, stage: Stage) -> float:
        """Floating-point operations of a stage."""
        return self.size.exact * stage.work

    def seconds(self, stage: Stage, rate: float) -> float:
        """Wall seconds of a stage, where one run trains `rate` tokens a second beside others."""
        return stage.work / rate / max(1, min(self.workers, stage.runs))

    def table(self, rate: float | None = None) -> Table:
        """The plan in words; with hours where a rate is known."""
        head: tuple[str, ...] = ("at most", "runs", "training tokens", "FLOP")
        every = [*self.stages, _sum(self.stages)]
        lines = [(s.what, str(s.runs), amount(s.tokens), f"{self.flops(s):.2e}") for s in every]
        if rate is None:
            return Table(head, tuple(lines))
        times = [self.seconds(stage, rate) for stage in self.stages]
        times.append(sum(times))
        return Table(
            (*head, "time"),
            tuple((*line, hours(time)) for line, time in zip(lines, times, strict=True)),
        )


def plan(config: StudyConfig) -> Plan:
    """The plan of a study.

    Raises:
        ValueError: if the model does not fit the tokenizer; the message begins with the field.
        CorpusError: if the tokenizer cannot be loaded.
    """
    from optuna_mde_trainers.training.flops import size

    corpus, training, tokens = config.corpus, config.training, vocabulary(config)
    rows = config.model.vocab_size
    if rows is not None and rows < tokens:
        raise ValueError(
            f"model.vocab_size: {rows:,} rows are fewer than the tokenizer's {tokens:,} tokens; "
            "raise it, or leave it out"
        )
    try:
        found = size(config.model, vocab_size=tokens, block_size=corpus.block_size)
    except ValueError as error:
        raise ValueError(f"model.{error}") from None
    per_step = training.global_batch_size * corpus.block_size
    return Plan(
        size=found,
        run_tokens=training.max_steps * per_step,
        workers=places(config.launch, len(config.domains)).workers,
        stages=tuple(_stages(config, per_step)),
    )


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


def _stages(config: StudyConfig, per_step: int) -> Iterator[Stage]:
    steps, experts = config.training.max_steps, len(config.domains)
    sets = experts + len(config.corpus.validation)
    times = 1 + len(config.score.at)
    scored = times * sets * config.corpus.validation_blocks * config.corpus.block_size

    def stage(what: str, runs: int, run_steps: int) -> Stage:
        return Stage(what, runs, runs * run_steps * per_step, runs * scored)

    trained = 0 if config.warm_start else experts  # else those of the other studies serve
    yield stage("experts", trained, max(1, round(config.experts.budget * steps)))
    yield stage("search", config.search.n_trials - trained, steps)
    if config.confirm.seeds:
        yield stage("confirmation", CONFIRMED * config.confirm.seeds, steps)


def _sum(stages: tuple[Stage, ...]) -> Stage:
    return Stage(
        "all",
        sum(stage.runs for stage in stages),
        sum(stage.tokens for stage in stages),
        sum(stage.scored for stage in stages),
    )
