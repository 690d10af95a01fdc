"""What must agree between the fields of a study definition."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from optuna_mde_studies.definition.config import StudyConfig, training_spec
from optuna_mde_studies.wording import shown
from optuna_mde_trainers.spec import SUM_TOLERANCE, explain
from pydantic import ValidationError

from optuna_mde.simplex.projection import check_bounds

FieldPath = tuple[str | int, ...]
Check = Callable[[StudyConfig], Iterator[tuple[FieldPath, str]]]


def inconsistencies(
    config: StudyConfig, wrong: Collection[FieldPath] = ()
) -> Iterator[tuple[FieldPath, str]]:
    """What is right by itself but does not fit together: field and sentence.

    Args:
        config: the definition.
        wrong: fields that are wrong by themselves; of what depends on them nothing is said.
    """
    for check, fields in _CHECKS:
        if not any(_overlap(field, path) for field in fields for path in wrong):
            yield from check(config)


def _overlap(one: FieldPath, other: FieldPath) -> bool:
    """Whether a field is the other, or one of them is inside the other."""
    depth = min(len(one), len(other))
    return one[:depth] == other[:depth]


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
    if not domains:  # which is said already
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


def _former_problems(config: StudyConfig) -> Iterator[tuple[FieldPath, str]]:
    known = {*config.domains, *config.former_domains}
    for name, change in config.former_domains.items():
        field = ("former_domains", name)
        if name in config.domains:
            yield (
                field,
                f"{name} is in corpus.domains still; a domain whose text is another now needs "
                f"another name there, and here `{name}: {{revised_as: NAME}}`",
            )
        for new in change.became:
            if new not in known:
                yield field, f"no domain is called {new!r}; there are {', '.join(config.domains)}"
    try:
        _ = config.revisions
    except ValueError as error:
        yield ("former_domains",), str(error)


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


def _target_problems(config: StudyConfig) -> Iterator[tuple[FieldPath, str]]:
    target, training = config.target, config.training
    if target is None:
        return
    tokens = training.max_steps * training.global_batch_size * config.corpus.block_size
    if target.tokens < tokens:
        yield (
            ("target", "tokens"),
            f"{target.tokens:g} are fewer than the {tokens:,} of one run of the study; give those "
            "of the run that the mixture is for",
        )
    limits = target.max_epochs
    for name in limits if isinstance(limits, dict) else ():
        if name not in config.domains:
            yield (
                ("target", "max_epochs", name),
                f"no domain is called {name!r}; there are {', '.join(config.domains)}",
            )


def cap_problems(
    config: StudyConfig, capped: Mapping[str, float], domains: tuple[str, ...]
) -> Iterator[tuple[FieldPath, str]]:
    """Caps of `target.max_epochs` that no mixture within the bounds keeps to.

    Args:
        config: the definition.
        capped: domain -> highest rate that its text allows, where it is below 1.
        domains: those of the corpus.
    """
    bounds = config.search.bounds
    field: FieldPath = ("target", "max_epochs")
    for name, cap in capped.items():
        low = bounds.get(name, (0.0, 1.0))[0]
        if low > cap:
            yield (
                field,
                f"{name} has text for a rate of {cap:.3g} at most, and search.bounds asks for "
                f"{low:g} or more; raise max_epochs, or lower one of tokens and the bound",
            )
    room = sum(min(capped.get(name, 1.0), bounds.get(name, (0.0, 1.0))[1]) for name in domains)
    if capped and room < 1.0:
        yield (
            field,
            f"the domains' text gives rates that sum to {room:.3g} at most; raise max_epochs, or "
            "lower target.tokens",
        )


def _trials_problems(config: StudyConfig) -> Iterator[tuple[FieldPath, str]]:
    domains = config.domains
    if domains and not config.warm_start and config.search.n_trials <= len(domains):
        yield (
            ("search", "n_trials"),
            f"{config.search.n_trials} trials leave nothing to search, because {len(domains)} "
            f"domains need an expert each first; take at least {len(domains) + 2}",
        )


def _score_problems(config: StudyConfig) -> Iterator[tuple[FieldPath, str]]:
    if config.score.at and config.launch.shards_weights:
        yield (
            ("score", "at"),
            f"all weights are needed on each device, and launch.strategy is "
            f"{config.launch.strategy}; take ddp, or leave score.at out",
        )


def _training_problems(config: StudyConfig) -> Iterator[tuple[FieldPath, str]]:
    try:
        training_spec(config, {"uniform": 1.0}, corpus="", tokenizer="", seed=0)
    except ValidationError as error:
        yield ("training",), explain(error)


def _runs_problems(config: StudyConfig) -> Iterator[tuple[FieldPath, str]]:
    """What a URL cannot do that a path can."""
    runs, launch = config.runs, config.launch
    if runs is None or "://" not in runs:
        return
    field: FieldPath = ("runs",)
    parts = urlsplit(runs)
    if "::" in runs:
        yield field, f"{shown(runs)} names several file systems; give the URL of one"
    if parts.password is not None:
        yield (
            field,
            f"{shown(runs)}: a password would be kept in the storage; take it out, and say it in "
            f"the environment, as FSSPEC_{parts.scheme.upper()}_PASSWORD",
        )
    if parts.query or parts.fragment:
        yield field, f"{shown(runs)}: what stands behind ? or # names no folder; take it out"
    if launch.launcher in ("slurm", "ray") or launch.num_nodes > 1:
        what = f"launch.{launch.launcher}" if launch.num_nodes == 1 else "launch.num_nodes"
        yield (
            field,
            f"runs of {what} take place on other machines, which see folders alone and no URL; "
            "name a path that they share, or start `optuna-mde work` on each of them",
        )
    if config.storage is not None and config.storage.startswith("grpc:"):
        yield (
            field,
            "a grpc storage keeps its lock in a folder that machines share, which no URL is; name "
            "a path, or the URL of the database itself as storage",
        )


_DOMAINS: FieldPath = ("corpus", "domains")
_SETS: tuple[FieldPath, ...] = (
    _DOMAINS,
    ("corpus", "validation"),
    ("corpus", "tasks"),
    ("former_domains",),
)
_RUN: tuple[FieldPath, ...] = (
    ("training", "max_steps"),
    ("training", "global_batch_size"),
    ("corpus", "block_size"),
)
_CHECKS: tuple[tuple[Check, tuple[FieldPath, ...]], ...] = (
    (_domain_problems, (_DOMAINS,)),
    (_former_problems, (_DOMAINS, ("former_domains",))),
    (lambda config: objective_problems(config, config.sets), (("objective",), *_SETS)),
    (lambda config: bounds_problems(config, config.domains), (_DOMAINS, ("search", "bounds"))),
    (_natural_problems, (_DOMAINS, ("search", "natural"))),
    (_target_problems, (_DOMAINS, ("target",), *_RUN)),
    (_trials_problems, (_DOMAINS, ("search", "n_trials"), ("warm_start",))),
    (_score_problems, (("score",), ("launch",))),
    (_training_problems, (("training",), ("model",), ("optimizer",))),
    (_runs_problems, (("runs",), ("launch",), ("storage",))),
)
"""Every check, and the fields that it reads."""


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
