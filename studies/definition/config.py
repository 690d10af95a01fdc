"""The fields of a study definition and what each means."""

from __future__ import annotations

import re
import shlex
from typing import Annotated, Any, Literal, Self

from optuna_mde_trainers.corpus.corpora import CorpusConfig
from optuna_mde_trainers.spec import (
    SUM_TOLERANCE,
    LaunchConfig,
    ModelConfig,
    OptimizerConfig,
    ScoreConfig,
    TrainingConfig,
    TrainingSpec,
    with_base_width,
)
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    WithJsonSchema,
    model_validator,
)

from optuna_mde.objective import Objective

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


class ExpertsConfig(_Section):
    """How long experts train. They need not be good models: only their comparison counts."""

    budget: Annotated[float, Field(gt=0, le=1)] = EXPERT_BUDGET
    """Share of a run's steps, over which warm-up and decay are scaled as well."""
    max_epochs: Annotated[float, Field(gt=0)] | None = MAX_EPOCHS
    """Passes over its domain's text after which an expert stops. None: no limit."""


class WorkersConfig(LaunchConfig):
    """Where runs take place: nothing that a loss depends on."""

    workers: Count | Literal["auto"] = "auto"
    """Runs side by side, each a process with one thread. auto: one for each `devices` GPUs;
    without GPUs, what cores and memory allow."""
    launcher: Literal["in_process", "subprocess", "torchrun", "slurm", "ray"] = "in_process"
    """Where a worker trains: itself; or in a process of its own for every run, which gives its
    memory back and whose crash fails one run alone; the same with ranks by torchrun; as a job of
    Slurm; as a task of a Ray cluster."""
    command: Annotated[str, Field(min_length=1)] | None = None
    """A trainer of the user's, with `{spec}` and `{out}` in it. None: ours."""
    time_limit: Annotated[float, Field(gt=0)] | None = None
    """Minutes after which a run in a process of its own is ended. None: no limit."""
    slurm: dict[str, Any] | None = None
    """Options of the jobs, by their names in submitit: partition, time, mem, account, qos, …"""
    ray: Annotated[str, Field(min_length=1)] | None = None
    """Address of the Ray cluster: auto, or HOST:PORT. Given, runs are its tasks."""

    @property
    def runs_here(self) -> bool:
        """Whether runs use the devices of this machine, and of it alone."""
        return self.launcher not in ("slurm", "ray") and self.num_nodes == 1

    @model_validator(mode="before")
    @classmethod
    def _implied(cls, fields: Any) -> Any:
        """`ray: auto` and `slurm: {…}` say their launcher."""
        if isinstance(fields, dict) and "launcher" not in fields:
            for name in ("slurm", "ray"):
                if fields.get(name) is not None:
                    return {**fields, "launcher": name}
        return fields

    @model_validator(mode="after")
    def _check_launcher(self) -> Self:
        if self.command is not None:
            self._check_command(self.command)
        elif self.time_limit is not None and self.launcher == "in_process":
            raise ValueError("time_limit needs launcher: subprocess, or a command")
        for name, given in (("slurm", self.slurm), ("ray", self.ray)):
            if given is not None and self.launcher != name:
                raise ValueError(f"{name} is of launcher: {name}, and it is {self.launcher}")
        if self.launcher in ("torchrun", "slurm", "ray") and isinstance(self.devices, list):
            raise ValueError(f"devices must be a number with launcher: {self.launcher}")
        if self.launcher in ("torchrun", "ray") and self.num_nodes > 1:
            raise ValueError(
                f"num_nodes must be 1 with launcher: {self.launcher}; launcher: slurm starts a "
                "run on several nodes"
            )
        if (
            self.launcher == "slurm"
            and self.time_limit is None
            and "time" not in (self.slurm or {})
        ):
            raise ValueError("slurm needs time, the minutes of a job, or launch.time_limit")
        return self

    def _check_command(self, command: str) -> None:
        try:
            parts = shlex.split(command)
        except ValueError as error:
            raise ValueError(f"command cannot be split as a shell does ({error})") from None
        if not any("{out}" in part or "{spec}" in part for part in parts):
            raise ValueError(
                "command needs {spec}, the file to read, or {out}, the folder to write into: "
                "python my_train.py --spec {spec} --out {out}"
            )
        if self.launcher == "torchrun":
            raise ValueError("launcher: torchrun is of our trainer; write torchrun into command")


class TargetConfig(_Section):
    """The run that the mixture is for, which reads more tokens than the study's own runs."""

    tokens: Annotated[float, Field(gt=0)]
    """Its training tokens."""
    max_epochs: Annotated[float, Field(gt=0)] | dict[str, Annotated[float, Field(gt=0)]] | None = (
        None
    )
    """Times that it may read a domain's whole source, for all domains or by domain: a cap on the
    rates. None: no cap."""
    repetition: Literal["matched"] | None = None
    """`matched`: every domain is cut to the share that makes a run of the study repeat it as often
    as the target run would (arXiv 2606.07597). None: all of the text is used."""


class DomainChange(_Section):
    """What a domain of older runs counts as. One of the fields is set."""

    split_into: dict[str, Annotated[float, Field(gt=0, le=1)]] | None = None
    """New domains -> their shares of its tokens, which sum to 1."""
    merged_into: str | None = None
    """The domain that holds its text now, beside other text. Rates of merged domains add up."""
    revised_as: str | None = None
    """The name under which its text goes on, which is not the same text any more."""

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        said = [name for name, value in self if value is not None]
        if len(said) != 1:
            raise ValueError(
                "one of split_into, merged_into and revised_as is needed"
                + (f", not {' and '.join(said)}" if said else "")
            )
        total = sum((self.split_into or {"": 1.0}).values())
        if abs(total - 1.0) > SUM_TOLERANCE:
            raise ValueError(
                f"shares of split_into must sum to 1, and sum to {total:g}; "
                f"divide each by {total:g}"
            )
        return self

    @property
    def became(self) -> dict[str, float]:
        """Domain -> share of the old one's tokens."""
        whole = self.merged_into or self.revised_as
        return {whole: 1.0} if whole is not None else dict(self.split_into or {})


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


STUDY_NAME = "[A-Za-z0-9][A-Za-z0-9_.-]*"
STUDY_NAME_RULE = "letters a to z, digits, `_`, `.` and `-`, the first one a letter or digit"


def _check_name(name: str) -> str:
    if not re.fullmatch(STUDY_NAME, name):
        raise ValueError(f"a name has {STUDY_NAME_RULE}; {name!r:.80} has others")
    return name


def _check_objective(objective: Any) -> Any:
    try:
        Objective.parse(objective)
    except ValueError as error:  # "objective: " stands before it already
        raise ValueError(
            str(error).removeprefix("objective ").removeprefix("'objective': ")
        ) from None
    return objective


_WEIGHTS = {"type": "object", "additionalProperties": {"type": "number", "minimum": 0}}
_SETS = {"type": "array", "items": {"type": "string"}}
OBJECTIVE_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"type": ["string", "null"]},
        _WEIGHTS,
        {
            "type": "object",
            "additionalProperties": {"anyOf": [_WEIGHTS, _SETS, {"type": "string"}]},
        },
    ]
}


class StudyConfig(_Section):
    """A study, from its text to its confirmed mixture."""

    name: Annotated[
        str, AfterValidator(_check_name), Field(json_schema_extra={"pattern": f"^{STUDY_NAME}$"})
    ]
    """Name of the Optuna study and of its folder: letters, digits, `_`, `.` and `-`."""
    corpus: CorpusConfig
    """The text: training domains, unseen validation sets, tokenizer, block size."""
    storage: Annotated[str, Field(min_length=1)] | None = None
    """URL of the Optuna storage that machines share. None: a file of SQLite in the study's folder,
    for one machine."""
    runs: Annotated[str, Field(min_length=1)] | None = None
    """Folder that machines share, a path or a URL: corpus and runs lie in `<runs>/<name>`. None:
    the study's own folder."""
    objective: Annotated[
        Any, AfterValidator(_check_objective), WithJsonSchema(OBJECTIVE_SCHEMA)
    ] = "mean"
    """What is minimised: weights of validation sets, `mean` of all, one set, or named groups of
    weights, each of which becomes an objective of its own. Weights are made to sum to 1."""
    former_domains: dict[str, DomainChange] = {}
    """Domains that older runs of the study trained -> what they have become."""
    search: SearchConfig
    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    training: TrainingConfig
    score: ScoreConfig = ScoreConfig()
    experts: ExpertsConfig = ExpertsConfig()
    target: TargetConfig | None = None
    launch: WorkersConfig = WorkersConfig()
    confirm: ConfirmConfig = ConfirmConfig()
    warm_start: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Other studies, by folder or by name, whose runs the search learns from as from its own."""

    @model_validator(mode="before")
    @classmethod
    def _with_base_width(cls, fields: Any) -> Any:
        return with_base_width(fields)

    @property
    def goals(self) -> Objective:
        """The objective as the sampler understands it."""
        return Objective.parse(self.objective)

    @property
    def domains(self) -> tuple[str, ...]:
        """The training domains, in the order of the definition."""
        return tuple(self.corpus.domains)

    @property
    def revisions(self) -> list[dict[str, dict[str, float]]]:
        """What former domains have become, each after those that it came from.

        Raises:
            ValueError: if they have become each other.
        """
        left = {name: change.became for name, change in self.former_domains.items()}
        ordered: list[dict[str, dict[str, float]]] = []
        while left:
            later = {new for shares in left.values() for new in shares}
            first = [name for name in left if name not in later]
            if not first:
                raise ValueError(f"{' and '.join(left)} have become each other; take one out")
            ordered += [{name: left.pop(name)} for name in first]
        return ordered

    @property
    def sets(self) -> tuple[str, ...]:
        """Every validation set: domains that are gone leave theirs behind."""
        return (*self.corpus.set_names, *self.former_domains)


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
    return TrainingSpec(
        mixture=mixture,
        corpus=corpus,
        tokenizer=tokenizer,
        model=config.model,
        optimizer=config.optimizer,
        **{**dict(config.training), "seed": seed},
    )
