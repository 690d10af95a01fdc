"""What is written to and read from trials; with `notes` the only user of Optuna's private names.

For other people's tools (user attributes; rates are shares of the training tokens):

======================  ======================================================================
trial ``mixture``       {domain: rate} that was trained, where the parameters do not say it
                        (``mixture:<prefix>`` for a prefix other than ``mix/``)
trial ``losses``        {validation set: nats per token}
trial ``objective``     JSON text of the goals, see `Objective.to_json`
trial ``limits``        {validation set: upper limit in nats per token, or "natural"}
trial ``feasible``      whether the losses meet the limits
trial ``budget``        share of a full run that was trained (1.0)
trial ``logprobs``      URL of the token log-probabilities, relative to the study's folder or not
trial ``tokens``        tokens trained; ``parameters``: parameters of the model
trial ``phase``         what proposed the trial; ``predicted_mean``, ``predicted_sd``
trial ``constraints``   copy of `trial.set_constraint`'s values, for the dashboard
trial ``format``        version of this format
study ``natural``       {domain: share} of the natural mixture
study ``excluded``      {trial number: reason} left out by `exclude_trials`
study ``revisions``     {prefix: [{old domain: {new domain: share}}, …]} by `revise_domains`
study ``mde_folder``    folder that relative log-probability paths start from
study ``mde:scores/…``  losses that were added to finished trials, see `scores`
======================  ======================================================================

System attributes ``mde:<key>:<i>`` hold internal state as JSON, in chunks that every schema of
Optuna's storages can hold.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, PartialFixedSampler
from optuna.study import StudyDirection
from optuna.trial import BaseTrial, FrozenTrial, Trial, TrialState

from optuna_mde.scalars import as_float
from optuna_mde.simplex.projection import Array, is_corner
from optuna_mde.trials.attributes import chunks, number, numbers, read_chunks
from optuna_mde.trials.groups import DEFAULT_PREFIX, ENCODING_FOLDERS, Group, as_rates

FORMAT = 1
EXPERT = "expert"  # phase of the trials that train one domain alone

_RESULTS = ("losses", "objective", "limits", "feasible", "budget", "logprobs", "tokens")


@dataclass(frozen=True)
class Published:
    """A proposal, written on its trial before any parameter, so that other workers count it."""

    number: int
    """The trial it was made for; a retried trial inherits that of the trial it repeats."""
    params: dict[str, Any]
    phase: str
    budget: float = 1.0
    groups: tuple[Group, ...] = ()
    """The mixtures, with their bounds, that it was made for."""


@dataclass(frozen=True)
class Record:
    """One trial as this package reads it."""

    number: int
    trial_id: int
    state: TrialState
    started: datetime | None
    completed: datetime | None
    values: tuple[float, ...] | None
    params: dict[str, Any]
    """Parameters; unless the run came to an end, completed by what is enqueued or published."""
    distributions: dict[str, BaseDistribution]
    fixed: dict[str, Any]
    """Enqueued parameters."""
    published: Published | None
    groups: tuple[Group, ...]
    trained: dict[str, dict[str, float] | None]
    """Prefix -> mixture that was trained, where the trial says so; None where it is no mixture."""
    losses: dict[str, float]
    objective: str | None
    limits: dict[str, float | str]
    budget: float
    logprobs: str | None
    constraints: dict[str, float]
    tokens: float | None = None
    parameters: float | None = None
    added: frozenset[str] = frozenset()
    """Sets in `losses` that the trial did not report itself: they were added later."""
    more_logprobs: tuple[str, ...] = ()
    """URLs of log-probability files that were added later, the latest first."""
    _mixtures: dict[str, dict[str, float] | None] = field(default_factory=dict, compare=False)
    _rates: dict[object, Array | None] = field(default_factory=dict, compare=False)

    @property
    def logprob_urls(self) -> tuple[str, ...]:
        """All files of the trial's token log-probabilities; of a set, the first that has it
        counts."""
        return (*filter(None, [self.logprobs]), *self.more_logprobs)

    @property
    def reported(self) -> tuple[str, ...]:
        """Validation sets whose losses the trial reported itself."""
        return tuple(name for name in self.losses if name not in self.added)

    @property
    def finished(self) -> bool:
        """Whether the trial has ended, in whatever way."""
        return self.state.is_finished()

    @property
    def is_unpublished(self) -> bool:
        """Whether the trial is running without a proposal."""
        return self.state == TrialState.RUNNING and self.published is None

    @property
    def is_silent(self) -> bool:
        """Whether a running trial has not said yet what it will try."""
        return self.is_unpublished and not self.distributions

    @property
    def is_torn(self) -> bool:
        """Whether a running trial has parameters and no proposal.

        A database may be read table by table, attributes before parameters, while another process
        writes a proposal and then the parameters; a second read finds the proposal.
        """
        return self.is_unpublished and bool(self.distributions)

    @cached_property
    def seconds(self) -> float | None:
        """Duration of a finished run."""
        if self.started is None or self.completed is None:
            return None
        return (self.completed - self.started).total_seconds()

    def mixture(self, prefix: str) -> dict[str, float] | None:
        """{domain: rate} of the mixture with this prefix; None where no valid one is known."""
        if prefix not in self._mixtures:
            self._mixtures[prefix] = self._find_mixture(prefix)
        return self._mixtures[prefix]

    def _find_mixture(self, prefix: str) -> dict[str, float] | None:
        if prefix in self.trained:
            return self.trained[prefix]
        own = next((g for g in self.groups if g.prefix == prefix), None)
        if own is not None:
            names: Sequence[str] = own.names
        else:
            folders = tuple(prefix + folder for folder in ENCODING_FOLDERS)
            names = [n for n in self.params if n.startswith(prefix) and not n.startswith(folders)]
        rates = {name.removeprefix(prefix): self.params.get(name) for name in names}
        given = _floats(rates) if rates else None
        return None if given is None else as_rates(given, scale=False)

    def rates(self, group: Group) -> Array | None:
        """Rates `[K]` of the trial's mixture; None where it has none that the group can hold."""
        key = (group.prefix, group.domains, group.origins)
        if key not in self._rates:
            mixture = self.mixture(group.prefix)
            self._rates[key] = None if mixture is None else group.rates(mixture)
        return self._rates[key]

    def shown(self, group: Group) -> dict[str, float]:
        """{domain: rate} as people are shown it: of present domains where these were revised, else
        as trained."""
        rates = self.rates(group) if group.origins else None
        if rates is None:
            return self.mixture(group.prefix) or {}
        return dict(zip(group.domains, rates.tolist(), strict=True))

    def corner(self, group: Group) -> str | None:
        """The domain of which the trial trains nothing else; None inside the simplex.

        A domain that has become part of another, or all of it, is not that one.
        """
        rates = self.rates(group)
        if rates is None or not is_corner(rates):
            return None
        domain = group.domains[int(rates.argmax())]
        return domain if self.alone(group.prefix) == domain else None

    def alone(self, prefix: str) -> str | None:
        """The domain, present or not, of which the trial trains nothing else."""
        mixture = self.mixture(prefix)
        if not mixture:
            return None
        domain = max(mixture, key=mixture.__getitem__)
        return domain if is_corner(np.array([mixture[domain]])) else None


def read_trial(trial: FrozenTrial) -> Record:
    """Parse a trial. Attributes of other tools under our names are ignored, never trusted."""
    user, system = trial.user_attrs, dict(trial.system_attrs)
    fixed = system.get("fixed_params")
    fixed = dict(fixed) if isinstance(fixed, Mapping) else {}
    published = _published(system)
    params = dict(trial.params)
    if not trial.state.is_finished() or trial.state == TrialState.FAIL:
        params = {**(published.params if published else {}), **fixed, **params}
    trained = {}
    for key, value in user.items():
        if key == "mixture" or key.startswith("mixture:"):
            prefix = key.removeprefix("mixture").removeprefix(":") or DEFAULT_PREFIX
            given = _floats(value) if isinstance(value, Mapping) else None
            if given is not None:
                trained[prefix] = as_rates(given, scale=True)
    limits = user.get("limits")
    limits = limits if isinstance(limits, Mapping) else {}
    natural = {str(name): "natural" for name, limit in limits.items() if limit == "natural"}
    objective, logprobs = user.get("objective"), user.get("logprobs")
    budget = number(user.get("budget"))
    return Record(
        number=trial.number,
        trial_id=trial._trial_id,
        state=trial.state,
        started=trial.datetime_start,
        completed=trial.datetime_complete,
        values=None if trial.values is None else tuple(trial.values),
        params=params,
        distributions=trial.distributions,
        fixed=fixed,
        published=published,
        groups=_groups(system),
        trained=trained,
        losses=numbers(user.get("losses")),
        objective=objective if isinstance(objective, str) else None,
        limits={**{k: v for k, v in numbers(limits).items() if math.isfinite(v)}, **natural},
        budget=budget if budget is not None and 0.0 < budget <= 1.0 else 1.0,
        logprobs=logprobs if isinstance(logprobs, str) and logprobs else None,
        constraints=dict(trial.constraints),
        tokens=number(user.get("tokens")),
        parameters=number(user.get("parameters")),
    )


def read_trials(study: optuna.Study, cache: dict[int, Record] | None = None) -> list[Record]:
    """Every trial of the study, by number, whatever the pruner shows.

    Args:
        study: the study, or what a pruner makes of it.
        cache: finished trials by number, extended in place.
    """
    records = []
    for trial in study._get_trials(deepcopy=False, use_cache=False):
        known = cache.get(trial.number) if cache is not None else None
        if known is None or known.trial_id != trial._trial_id:
            known = read_trial(trial)
            if known.is_torn:
                known = read_trial(study._storage.get_trial(trial._trial_id))
            if cache is not None and known.finished:
                cache[trial.number] = known
        records.append(known)
    return records


def live(trial: BaseTrial) -> Trial | None:
    """The running trial of a study behind a helper's argument; None for fixed and frozen ones."""
    trial = getattr(trial, "_delegate", trial)  # optuna-integration's TorchDistributedTrial
    trial = getattr(trial, "ot_trial", trial)  # what a define-by-run space of Ray Tune is given
    return trial if isinstance(trial, Trial) else None


def read_live(trial: Trial) -> Record:
    """What the storage holds of a running trial now."""
    return read_trial(trial.storage.get_trial(trial._trial_id))


def enqueued(trial: Trial) -> dict[str, Any]:
    """Parameters that a running trial was enqueued with."""
    fixed = trial._fixed_params
    return dict(fixed) if isinstance(fixed, Mapping) else {}


def samplers(study: optuna.Study) -> Iterator[BaseSampler]:
    """The study's sampler, and those inside it (PartialFixedSampler)."""
    sampler: BaseSampler | None = study.sampler
    while sampler is not None:
        yield sampler
        sampler = getattr(sampler, "_base_sampler", None)


def partially_fixed(study: optuna.Study) -> dict[str, Any]:
    """Values of `PartialFixedSampler`, which it hides from the sampler inside it."""
    fixed: dict[str, Any] = {}
    for sampler in samplers(study):
        if isinstance(sampler, PartialFixedSampler):
            fixed = {**sampler._fixed_params, **fixed}
    return fixed


def identity(study: optuna.Study) -> tuple[Any, int]:
    """Storage and id of a study: two studies never share both."""
    return study._storage, study._study_id


def is_maximised(study: optuna.Study) -> tuple[bool, ...]:
    """For each objective, whether it is maximised."""
    return tuple(d == StudyDirection.MAXIMIZE for d in study.directions)


def contains(distribution: BaseDistribution, value: Any) -> bool:
    """Whether a parameter may take the value."""
    try:
        return distribution._contains(distribution.to_internal_repr(value))
    except (ValueError, TypeError):
        return False


def set_trial_attr(study: optuna.Study, trial: FrozenTrial, key: str, value: Any) -> None:
    """Write a user attribute from inside a sampler, visible to the objective as well."""
    study._storage.set_trial_user_attr(trial._trial_id, key, value)
    trial.user_attrs[key] = value


def publish(study: optuna.Study, trial: FrozenTrial, proposal: Published) -> None:
    """Write a proposal on its trial."""
    data = {
        "number": proposal.number,
        "params": proposal.params,
        "phase": proposal.phase,
        "budget": proposal.budget,
        "groups": [group.to_json() for group in proposal.groups],
    }
    for key, text in chunks("proposal", data, trial.system_attrs):
        study._storage.set_trial_system_attr(trial._trial_id, key, text)


def register(trial: Trial, group: Group) -> None:
    """Write a mixture on its running trial, before any of its parts is suggested."""
    known = trial._cached_frozen_trial.system_attrs  # nobody else writes on a running trial
    groups = {g.prefix: g for g in _groups(known)}
    if groups.get(group.prefix) == group:
        return
    groups[group.prefix] = group
    for key, text in chunks("groups", [g.to_json() for g in groups.values()], known):
        trial.storage.set_trial_system_attr(trial._trial_id, key, text)
        known[key] = text


def set_mixture(trial: BaseTrial, prefix: str, mixture: Mapping[str, float]) -> None:
    """Write what is trained on a trial whose parameters do not say it."""
    trial.set_user_attr(mixture_key(prefix), dict(mixture))


def mixture_key(prefix: str) -> str:
    """Name of the user attribute that holds the mixture with this prefix."""
    return "mixture" if prefix == DEFAULT_PREFIX else f"mixture:{prefix}"


def clear_results(trial: Trial) -> None:
    """Remove results that a retried trial inherited from the one it repeats."""
    inherited = [key for key in _RESULTS if trial.user_attrs.get(key) is not None]
    if inherited and trial.storage.get_trial_system_attrs(trial._trial_id).get("retry_history"):
        for key in inherited:
            trial.set_user_attr(key, None)


def _groups(system_attrs: Mapping[str, Any]) -> tuple[Group, ...]:
    try:
        return tuple(Group.from_json(item) for item in read_chunks(system_attrs, "groups") or ())
    except (KeyError, TypeError, ValueError):
        return ()  # of a version that this one cannot read


def _published(system_attrs: Mapping[str, Any]) -> Published | None:
    data = read_chunks(system_attrs, "proposal")
    if data is None:
        return None
    try:
        groups = tuple(Group.from_json(item) for item in data["groups"])
        params, budget = dict(data["params"]), float(data["budget"])
        return Published(int(data["number"]), params, str(data["phase"]), budget, groups)
    except (KeyError, TypeError, ValueError):
        return None


def _floats(values: Mapping[Any, Any]) -> dict[str, float] | None:
    """Numbers, or their texts, as floats; None where one is neither."""
    floats = {str(name): as_float(value) for name, value in values.items()}
    known = {name: value for name, value in floats.items() if value is not None}
    return known if len(known) == len(values) else None
