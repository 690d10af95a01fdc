"""A question to a study that differs from its own: another objective, other bounds, limits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer
from optuna_mde_studies.commands.shared import fail

if TYPE_CHECKING:
    import optuna
    from optuna_mde_studies.definition.config import StudyConfig

ObjectiveOption = Annotated[
    str | None,
    typer.Option(
        metavar="SET|SET=WEIGHT,…|mean",
        help="Another objective than the study's; the study stays as it is.",
    ),
]
CapOption = Annotated[
    list[str] | None,
    typer.Option(metavar="DOMAIN=RATE", help="Highest rate of a domain. May be repeated."),
]
FloorOption = Annotated[
    list[str] | None,
    typer.Option(metavar="DOMAIN=RATE", help="Lowest rate of a domain. May be repeated."),
]
LimitOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="SET=LOSS",
        help="Loss of a validation set that must not be exceeded, nats per token. May be "
        "repeated.",
    ),
]


def asked(
    study: optuna.Study,
    config: StudyConfig | None,
    objective: str | None,
    caps: list[str] | None,
    floors: list[str] | None,
    limits: list[str] | None,
) -> dict[str, Any]:
    """What `optuna_mde.recommend` is to be asked beside the study; empty if nothing is."""
    highest, lowest = _numbers("--cap", caps), _numbers("--floor", floors)
    bounds = {
        domain: (lowest.get(domain), highest.get(domain)) for domain in {**lowest, **highest}
    }
    question = {
        "objective": None if objective is None else _objective(study, config, objective),
        "bounds": bounds,
        "limits": _numbers("--limit", limits),
    }
    return {name: value for name, value in question.items() if value}


def _objective(study: optuna.Study, config: StudyConfig | None, text: str) -> Any:
    """An objective as it is written on a command line."""
    from optuna_mde import get_losses
    from optuna_mde.objective import MEAN

    known = list(dict.fromkeys(name for losses in get_losses(study).values() for name in losses))
    if text == MEAN:  # over the definition's sets: others may have been scored beside them
        names = [n for n in config.corpus.set_names if n in known] if config is not None else []
        return dict.fromkeys(names, 1.0) or MEAN
    if text in known or "=" not in text:
        return text
    return _numbers("--objective", text.split(","))


def _numbers(option: str, given: Iterable[str] | None) -> dict[str, float]:
    return dict(_number(option, text) for text in given or ())


def _number(option: str, text: str) -> tuple[str, float]:
    name, equals, number = text.rpartition("=")
    name = name.strip()
    try:
        value = float(number)
    except ValueError:
        equals = ""
    if not name or not equals:
        fail(f"{option} {text}: write NAME=NUMBER, such as books=0.1")
    return name, value
