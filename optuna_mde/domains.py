"""Domains that change in a study that has runs."""

from __future__ import annotations

from collections.abc import Mapping

import optuna

from optuna_mde.simplex.projection import MixtureError
from optuna_mde.trials.groups import DEFAULT_PREFIX
from optuna_mde.trials.notes import revisions, set_revisions
from optuna_mde.trials.records import read_trials
from optuna_mde.trials.revisions import Revision, added, checked, composed, placed


def revise_domains(
    study: optuna.Study,
    changes: Mapping[str, str | Mapping[str, float]],
    *,
    prefix: str = DEFAULT_PREFIX,
) -> None:
    """Split, merge or revise domains of a study; its runs stay, and only new experts are trained.

    From now on `suggest_mixture` is called with the new domains. A run that trained an old one
    counts as a run of what that became, by share: 30 % of ``code`` as 18 % of ``python`` and 12 %
    of ``other`` below. Bounds, constraints and the natural mixture are what `suggest_mixture` is
    given. What a study was told before stands: the call may be repeated, by every worker.

    A domain that is only added needs no call: it has rate 0 in all older runs. One that is no
    longer wanted stays in the list, with the bounds (0, 0).

    Args:
        study: the study.
        changes: ``{old domain: {new domain: share}}``, the shares of the old domain's tokens, sum
            1. A name in their place stands for the whole: of a merged domain (rates of the old
            ones add up), or of one whose text is another now.
        prefix: prefix of the mixture's parameters.

    Raises:
        MixtureError: if the changes are none, name a domain that no run has, or bring back a
            name that was revised: it says what older runs trained.

    Example:
        >>> import optuna
        >>> from optuna_mde import revise_domains
        >>> study = optuna.create_study()
        >>> revise_domains(study, {"code": {"python": 0.6, "other": 0.4}})  # a split
        >>> revise_domains(study, {"news": "press", "papers": "press"})  # a merger
        >>> revise_domains(study, {"web": "web-2"})  # other text by the same name
    """
    revision, known = checked(changes), revisions(study)
    before = known.get(prefix, [])
    after = added(before, revision)
    if after == before:
        return
    _check_known(study, list(after[-1]), prefix, before)
    set_revisions(study, {**known, prefix: after})


def _check_known(
    study: optuna.Study, names: list[str], prefix: str, before: list[Revision]
) -> None:
    """Refuse domains that no run has, where any has a mixture."""
    trained = [trial.mixture(prefix) or {} for trial in read_trials(study)]
    domains = dict.fromkeys(domain for mixture in trained for domain in mixture)
    present = placed(dict.fromkeys(domains, 0.0), {old: dict(s) for old, s in composed(before)})
    unknown = [name for name in names if name not in present]
    if domains and unknown:
        raise MixtureError(
            f"no run has a domain {unknown[0]!r}; the domains are {', '.join(present)}"
        )
