"""The fields of a study definition, what each means, and what must agree between them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal

from optuna_mde_trainers.corpus.corpora import CorpusConfig
from optuna_mde_trainers.spec import (
    SUM_TOLERANCE,
    DecoderConfig,
    OptimizerConfig,
    TrainingSpec,
    explain,
)
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from optuna_mde.objective import Objective
from optuna_mde.simplex.projection import check_bounds

FieldPath = tuple[str | int, ...]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(ge=0, le=1)]


EXPERT_BUDGET = 0.5
"""Share of a run that an expert trains. As good as a full one or better in searches of up to 24
runs' worth on three corpora, and far better where a domain is scarce (`docs/definition.md`)."""

MAX_EPOCHS = 4.0
"""Where an expert stops. On a corpus with one scarce domain, that domain's expert gained .01 nats
per token on its own set from 4 epochs to 8, and lost 1.0 on the mean of all sets."""


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class SearchConfig(_Section):
    """How many mixtures are tried, and which are allowed."""

    n_trials: Count
    """Finished trials in all, the experts (one a domain) included."""
    seed: Seed = 0
    """Seed of the sampler."""
    bounds: dict[str, tuple[Rate, Rate]] = {}
    """Domain -> lowest and highest rate that a proposal may give it. Not named: 0 to 1."""
    natural: dict[str, Rate] | None = None
    """The mixture to beat, domain -> rate. None: each domain's share of the text found."""


class TrainingConfig(_Section):
    """Length and loop of every run; the names are those of Lightning's Trainer."""

    max_steps: Count
    """Optimizer steps."""
    global_batch_size: Count
    """Sequences a step."""
    micro_batch_size: Count | None = None
    """Sequences a forward pass; gradients are accumulated. None: the whole step at once."""
    seed: Seed = 0
    """Seed of the weights and of the data order, the same for all mixtures of the search."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """Lightning's precision. It changes the losses, so it never changes by itself."""
    gradient_clip_val: Annotated[float, Field(ge=0)] = 1.0
    """Largest norm of a step's gradient. 0: no clipping."""


class ExpertsConfig(_Section):
    """How long experts train. They need not be good models: only their comparison counts."""

    budget: Annotated[float, Field(gt=0, le=1)] = EXPERT_BUDGET
    """Share of a run's steps, over which warm-up and decay are scaled as well."""
    max_epochs: Annotated[float, Field(gt=0)] | None = MAX_EPOCHS
    """Passes over its domain's text after which an expert stops. None: no limit."""


class LaunchConfig(_Section):
    """Where runs take place: nothing that a loss depends on."""

    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = "auto"
    """Lightning's accelerator."""
    workers: Count | Literal["auto"] = "auto"
    """Runs side by side, each a process with one thread. auto: what cores and memory allow."""
    logger: Literal["csv", "tensorboard"] | None = None
    """Log of the training loss in the folder of every run."""
    checkpoint_every_n_steps: Count = 200
    """Steps between two checkpoints, from which a killed run goes on."""


def _check_seeds(seeds: int) -> int:
    if seeds != 0 and seeds < 2:
        raise ValueError(
            "2 fresh seeds at least tell a difference from noise; take 2 or more, or 0 for no "
            f"confirmation (got {seeds})"
        )
    return seeds


class ConfirmConfig(_Section):
    """The test at the end: the mixtures that matter, trained again with fresh seeds."""

    seeds: Annotated[int, AfterValidator(_check_seeds)] = 3
    """Fresh seeds, the same ones for every mixture. 0: no test."""


def _check_objective(objective: Any) -> Any:
    try:
        Objective.parse(objective)
    except ValueError as error:  # "objective: " stands before it already
        raise ValueError(
            str(error).removeprefix("objective ").removeprefix("'objective': ")
        ) from None
    return objective


class StudyConfig(_Section):
    """A study, from its text to its confirmed mixture."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    """Name of the Optuna study and of its folder: letters, digits, `_`, `.` and `-`."""
    corpus: CorpusConfig
    """The text: training domains, unseen validation sets, tokenizer, block size."""
    objective: Annotated[Any, AfterValidator(_check_objective)] = "mean"
    """What is minimised: weights of validation sets, `mean` of all, one set, or named groups of
    weights, each of which becomes an objective of its own. Weights are made to sum to 1."""
    search: SearchConfig
    model: DecoderConfig = DecoderConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    training: TrainingConfig
    experts: ExpertsConfig = ExpertsConfig()
    launch: LaunchConfig = LaunchConfig()
    confirm: ConfirmConfig = ConfirmConfig()

    @property
    def goals(self) -> Objective:
        """The objective as the sampler understands it."""
        return Objective.parse(self.objective)

    @property
    def domains(self) -> tuple[str, ...]:
        """The training domains, in the order of the definition."""
        return tuple(self.corpus.domains)


def inconsistencies(config: StudyConfig) -> Iterator[tuple[FieldPath, str]]:
    """What is right by itself but does not fit together: field and sentence."""
    domains = config.domains
    yield from _domain_problems(config)
    yield from objective_problems(config, (*domains, *config.corpus.validation))
    yield from bounds_problems(config, domains)
    yield from _natural_problems(config)
    if domains and config.search.n_trials <= len(domains):
        yield (
            ("search", "n_trials"),
            f"{config.search.n_trials} trials leave nothing to search, because {len(domains)} "
            f"domains need an expert each first; take at least {len(domains) + 2}",
        )
    yield from _training_problems(config)


def objective_problems(
    config: StudyConfig, sets: Iterable[str]
) -> Iterator[tuple[FieldPath, str]]:
    """Validation sets that the objective weighs and that do not exist."""
    known = list(sets)
    for name in config.goals.sets:
        if name not in known:
            yield (
                _objective_field(config.objective, name),
                f"no validation set is called {name!r}; there are {', '.join(known)}",
            )


def bounds_problems(
    config: StudyConfig, domains: tuple[str, ...]
) -> Iterator[tuple[FieldPath, str]]:
    """Bounds of unknown domains, and bounds between which no rates sum to 1."""
    bounds = config.search.bounds
    for name, (low, high) in bounds.items():
        if name not in config.domains:
            yield (
                ("search", "bounds", name),
                f"no domain is called {name!r}; there are {', '.join(config.domains)}",
            )
        elif low > high:
            yield (
                ("search", "bounds", name),
                f"the lowest rate {low:g} is above the highest {high:g}; swap them",
            )
    if any(name not in config.domains or low > high for name, (low, high) in bounds.items()):
        return
    lower, upper = zip(*(bounds.get(name, (0.0, 1.0)) for name in domains), strict=True)
    try:
        check_bounds(domains, lower, upper)
    except ValueError as error:
        yield ("search", "bounds"), str(error)


def _domain_problems(config: StudyConfig) -> Iterator[tuple[FieldPath, str]]:
    if len(config.domains) < 2:
        yield (
            ("corpus", "domains"),
            f"a mixture needs two domains or more, and there are {len(config.domains)}; "
            "add domains",
        )


def _natural_problems(config: StudyConfig) -> Iterator[tuple[FieldPath, str]]:
    natural = config.search.natural
    if natural is None:
        return
    missing = [name for name in config.domains if name not in natural]
    unknown = [name for name in natural if name not in config.domains]
    if missing or unknown:
        wrong = [f"no rate for {', '.join(missing)}"] if missing else []
        wrong += [f"no domain is called {', '.join(unknown)}"] if unknown else []
        yield ("search", "natural"), f"{' and '.join(wrong)}; name every domain once"
        return
    total = math.fsum(natural.values())
    if abs(total - 1) > SUM_TOLERANCE:
        rates = " + ".join(f"{rate:g}" for rate in natural.values())
        yield (
            ("search", "natural"),
            f"rates must sum to 1, and {rates} = {total:g}; divide each by {total:g}",
        )


def _training_problems(config: StudyConfig) -> Iterator[tuple[FieldPath, str]]:
    try:
        training_spec(config, {"uniform": 1.0}, corpus="", tokenizer="", seed=0)
    except ValidationError as error:
        yield ("training",), explain(error)


def training_spec(
    config: StudyConfig, mixture: dict[str, float], *, corpus: str, tokenizer: str, seed: int
) -> TrainingSpec:
    """The training part of a run of this study.

    Args:
        config: the study's definition.
        mixture: domain -> rate, summing to 1.
        corpus: fingerprint of the corpus.
        tokenizer: fingerprint of its tokenizer.
        seed: seed of the run, which may differ from the definition's in repeats.
    """
    training = config.training.model_dump(exclude={"seed"})
    return TrainingSpec(
        mixture=mixture,
        corpus=corpus,
        tokenizer=tokenizer,
        model=config.model,
        optimizer=config.optimizer,
        seed=seed,
        **training,
    )


def _objective_field(objective: Any, name: str) -> FieldPath:
    if isinstance(objective, dict):
        if name in objective and not isinstance(objective[name], dict | list):
            return ("objective", name)
        for group, weights in objective.items():
            if isinstance(weights, dict) and name in weights:
                return ("objective", group, name)
            if weights == name or (isinstance(weights, list) and name in weights):
                return ("objective", group)
    return ("objective",)
