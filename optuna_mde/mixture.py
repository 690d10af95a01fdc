"""A trial's mixture: one plain float for each domain, rates that sum to 1.

What was trained is written down: rates that already lie on the simplex are taken as they are,
whoever proposed them; only values off it are mapped onto the bounded simplex, and the trial then
says so in its user attribute ``mixture``.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import optuna
from optuna.trial import BaseTrial, FrozenTrial, Trial

from optuna_mde.simplex.projection import TOLERANCE, Array, MixtureError, is_corner
from optuna_mde.trials import records
from optuna_mde.trials.groups import DEFAULT_PREFIX, Group, check_enqueued, make_group
from optuna_mde.trials.notes import check_present, read_notes, set_natural
from optuna_mde.trials.records import EXPERT, Record

Encoding = Literal["weights", "exponential", "sticks"]


class Mixture(dict[str, float]):
    """Rates by domain, in the order that was asked for; they sum to 1, with exact zeros.

    Attributes:
        is_expert: whether the run trains one domain alone. Its token log-probabilities, handed to
            `report_losses`, are what Mixture of Data Experts is made of.
        budget: share of a full run that this trial should train; below 1 only for cheap experts.
    """

    def __init__(
        self, rates: Mapping[str, float], *, is_expert: bool = False, budget: float = 1.0
    ) -> None:
        super().__init__(rates)
        self.is_expert = is_expert
        self.budget = budget


def suggest_mixture(
    trial: BaseTrial,
    domains: Sequence[str],
    *,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    natural: Mapping[str, float] | None = None,
    prefix: str = DEFAULT_PREFIX,
    encoding: Encoding = "weights",
    constraints: Sequence[str] = (),
) -> Mixture:
    """Suggest a mixture of `domains`.

    Every part is an ordinary parameter ``prefix + domain`` in [0, 1], so that ``trial.params`` is
    the mixture. Call it before other ``suggest_...``, so that all are proposed together.

    Args:
        trial: a running trial, or a `FixedTrial` or `FrozenTrial` to replay.
        domains: names of the K >= 2 domains. One that is added later counts as 0 in old trials.
        bounds: ``{domain: (low, high)}``, (0, 1) where not given. Proposals keep them; an expert
            outside them is run as it is, and an enqueued mixture too, with a warning.
        natural: shares (or token counts) of the domains as they occur, the usual baseline.
        prefix: prefix of the parameters' names; a study may hold several mixtures.
        encoding: how samplers other than MDESampler draw: ``"weights"`` normalises the parts,
            which hardly ever gives one domain more than half; ``"exponential"`` and ``"sticks"``
            (K - 1 parameters) are uniform on the simplex. MDESampler needs none and ignores it.
        constraints: linear inequalities such as ``"code >= 2*math"``, kept like bounds; one that
            every mixture meets has no effect.

    Raises:
        MixtureError: if the arguments describe no mixture, or enqueued values name a domain that
            it does not have.

    Example:
        >>> import optuna
        >>> from optuna_mde import suggest_mixture
        >>> study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        >>> mixture = suggest_mixture(study.ask(), ["web", "code", "books"])
        >>> round(sum(mixture.values()), 9)
        1.0
    """
    group = make_group(domains, bounds, natural, prefix, constraints)
    if encoding not in ("weights", "exponential", "sticks"):
        raise MixtureError(
            f"encoding must be 'weights', 'exponential' or 'sticks', got {encoding!r}"
        )
    running = records.live(trial)
    if running is not None:
        check_enqueued(group, records.enqueued(running))
        if natural is not None:
            set_natural(running.study, dict(zip(group.domains, group.natural or (), strict=True)))
        return _of_running(trial, running, group, encoding)
    if isinstance(trial, FrozenTrial):
        return _of_recorded(trial, group)
    return _of_given(trial, group) if encoding == "weights" else _encoded(trial, group, encoding)


def _of_running(trial: BaseTrial, running: Trial, group: Group, encoding: Encoding) -> Mixture:
    """The mixture that a sampler proposes, or that was enqueued.

    The storage is asked again only by corners, and by rates that are not taken as they are.
    """
    ours = _proposes_mixtures(running.study)
    if not ours or records.enqueued(running):  # else the sampler looks, as it reads the study
        check_present(running.study, group.prefix, group.domains)
    records.clear_results(running)
    if encoding != "weights" and not ours:
        return _encoded(trial, group, encoding)
    records.register(running, group)
    raw = _parts(trial, group)
    if not _is_mixture(raw):
        record = records.read_live(running)
        rates = _onto_simplex(group, raw, record.fixed)
    else:
        rates = raw
        broken = _broken(group, rates)
        if not broken and not is_corner(rates):
            _write(trial, group, rates, raw)
            return _mixture(group, rates, None)
        record = records.read_live(running)
        published = record.published
        if published is None or published.phase != EXPERT:  # an expert ignores bounds by design
            _warn_of(broken)
    _write(trial, group, rates, raw)
    return _mixture(group, rates, record, _expert_budget(running.study, group, rates, record))


def _of_recorded(trial: FrozenTrial, group: Group) -> Mixture:
    """What a finished trial trained."""
    record = records.read_trial(trial)
    rates = record.rates(group)
    return (
        _of_given(trial, group) if rates is None else _mixture(group, rates, record, record.budget)
    )


def _of_given(trial: BaseTrial, group: Group) -> Mixture:
    """What the parameters of a trial without a study say."""
    raw = _parts(trial, group)
    rates = raw if _is_mixture(raw) else _onto_simplex(group, raw, {})
    if rates is raw:
        _warn_of(_broken(group, rates))
    _write(trial, group, rates, raw)
    return _mixture(group, rates, None)


def _parts(trial: BaseTrial, group: Group) -> Array:
    # float, as an enqueued value may be the text of a number
    return np.array([float(trial.suggest_float(name, 0.0, 1.0)) for name in group.names])


def _is_mixture(raw: Array) -> bool:
    return bool(0.0 <= raw.min() <= raw.max() <= 1.0 and abs(raw.sum() - 1.0) <= TOLERANCE)


def _proposes_mixtures(study: optuna.Study) -> bool:
    from optuna_mde.sampler import MDESampler

    return any(isinstance(sampler, MDESampler) for sampler in records.samplers(study))


def _onto_simplex(group: Group, raw: Array, fixed: Mapping[str, Any]) -> Array:
    """Map values off the simplex onto it, inside the bounds; `fixed` parts keep theirs."""
    kept = {
        d: float(fixed[n]) for d, n in zip(group.domains, group.names, strict=True) if n in fixed
    }
    weights = np.clip(np.nan_to_num(raw, nan=0.0), 0.0, None)
    weights /= max(1.0, weights.max())  # token counts, of which no sum overflows any more
    if len(kept) == group.size:
        kept = {}  # nothing is left that could make up for them
    free = np.array([domain not in kept for domain in group.domains])
    mass = max(0.0, 1.0 - weights[~free].sum())
    total = weights[free].sum()
    weights[free] = mass * (weights[free] / total if total > 0 else 1.0 / free.sum())
    region = group.region(kept)
    return region.snap(weights)[0] if total > 0 or kept else region.center


def _encoded(trial: BaseTrial, group: Group, encoding: Encoding) -> Mixture:
    """A mixture uniform on the simplex from independent uniform parameters.

    Exponential: -log u, normalised (the recipe of Optuna's FAQ). Sticks: part j takes a
    Beta(1, K - j) quantile of what is left.
    """
    k = group.size
    if encoding == "exponential":
        folder, parts = "exponential/", group.domains
    else:
        folder, parts = "stick/", group.domains[:-1]
    names = [f"{group.prefix}{folder}{part}" for part in parts]
    u = np.array([float(trial.suggest_float(name, 0.0, 1.0)) for name in names])
    if encoding == "exponential":
        weights = -np.log(np.clip(u, 1e-300, 1.0))
        shares = weights / weights.sum() if weights.sum() > 0 else np.full(k, 1.0 / k)
    else:
        breaks = np.append(1.0 - (1.0 - u) ** (1.0 / np.arange(k - 1, 0, -1)), 1.0)
        shares = breaks * np.cumprod(np.append(1.0, 1.0 - breaks[:-1]))
    lower = np.array(group.lower)
    rates = group.region().snap(lower + (1.0 - lower.sum()) * shares)[0]
    _write(trial, group, rates, None)
    return _mixture(group, rates, None)


def _write(trial: BaseTrial, group: Group, rates: Array, raw: Array | None) -> None:
    """Write the mixture on the trial where the parameters do not say it."""
    if isinstance(trial, FrozenTrial):
        return
    mixture = dict(zip(group.domains, rates.tolist(), strict=True))
    known = trial.user_attrs.get(records.mixture_key(group.prefix))
    said = raw is not None and np.array_equal(raw, rates)
    if known != mixture and (known is not None or not said):
        records.set_mixture(trial, group.prefix, mixture)


def _broken(group: Group, rates: Array) -> list[str]:
    """What the rates break: bounds and constraints, in words."""
    parts = zip(group.domains, rates, group.lower, group.upper, strict=True)
    outside = [
        f"{domain} = {rate:.4g} is outside [{low:g}, {high:g}]"
        for domain, rate, low, high in parts
        if not low - TOLERANCE <= rate <= high + TOLERANCE
    ]
    values = dict(zip(group.domains, rates, strict=True))
    return outside + [
        f"{constraint} is not met"
        for constraint in group.constraints
        if sum(c * values[d] for d, c in constraint.coefficients) < constraint.rhs - TOLERANCE
    ]


def _warn_of(broken: Sequence[str]) -> None:
    if broken:
        warnings.warn(f"the mixture is run as it is, though {'; '.join(broken)}", stacklevel=4)


def _mixture(group: Group, rates: Array, record: Record | None, budget: float = 1.0) -> Mixture:
    mixture = dict(zip(group.domains, rates.tolist(), strict=True))
    first = record is None or not record.groups or record.groups[0].prefix == group.prefix
    expert = first and bool(is_corner(rates))
    return Mixture(mixture, is_expert=expert, budget=budget if expert else 1.0)


def _expert_budget(study: optuna.Study, group: Group, rates: Array, record: Record) -> float:
    """Share of a full run to train, as proposed; of an enqueued corner, that of its expert."""
    if not is_corner(rates):
        return 1.0
    enqueued = all(name in record.fixed for name in group.names)
    published = record.published
    if published is not None and (published.phase == EXPERT or not enqueued):
        return published.budget
    return read_notes(study).expert_budget(group.domains[int(rates.argmax())])
