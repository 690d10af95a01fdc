"""What is kept on a study rather than on its trials; attributes as listed in `records`."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna

from optuna_mde.mde.logprobs import is_missing, resolve
from optuna_mde.mde.urls import found_below
from optuna_mde.objective import Objective, ObjectiveError
from optuna_mde.scalars import is_number
from optuna_mde.simplex.projection import MixtureError
from optuna_mde.trials.attributes import chunks, numbers, read_chunks
from optuna_mde.trials.groups import Group
from optuna_mde.trials.revisions import Origins, Revision, composed, read

EXPERT_BUDGET = 1.0
"""Share of a full run that an expert trains where nobody says another."""


@dataclass(frozen=True)
class Notes:
    """Everything that is kept on a study."""

    natural: dict[str, float]
    """{domain: share} of the natural mixture; empty where the study does not know it."""
    excluded: dict[int, str]
    """{trial number: reason} of the trials that are left out."""
    folder: str | None
    """Where relative log-probability paths start."""
    revisions: dict[str, list[Revision]]
    """Prefix -> how domains became others, in order."""
    roots: tuple[str, ...]
    """The current folder and that of the storage's file: below them, files that the storage names
    may be read."""
    settings: dict[str, Any]
    """Options of the sampler: mixtures, experts, expert_budget, objective."""
    present: str | None = None
    """JSON text of the objective that the study was given with `set_objective`."""

    @property
    def mixtures(self) -> dict[str, list[str]]:
        """Prefix -> domains of mixtures that no helper registers."""
        return self.settings.get("mixtures", {})

    def origins(self, prefix: str) -> Origins:
        """What domains of older runs count as by now."""
        return composed(self.revisions.get(prefix, ()))

    def is_revised(self, group: Group) -> bool:
        """Whether the mixture has domains that have become others since."""
        return any(old in group.domains for old, _ in self.origins(group.prefix))

    @property
    def experts(self) -> dict[str, str]:
        """Domain -> URL of log-probability files that were passed in."""
        return self.settings.get("experts", {})

    @property
    def objective(self) -> str | None:
        """JSON text of the sampler's objective."""
        return self.settings.get("objective")

    def expert_budget(self, domain: str) -> float:
        """Share of a full run that the domain's expert trains."""
        value = self.settings.get("expert_budget", EXPERT_BUDGET)
        return float(value.get(domain, EXPERT_BUDGET) if isinstance(value, Mapping) else value)

    def strange_budgets(self, domains: Collection[str]) -> list[str]:
        """What ``expert_budget`` names beside these domains."""
        value = self.settings.get("expert_budget", EXPERT_BUDGET)
        return sorted(set(value) - set(domains)) if isinstance(value, Mapping) else []

    def resolve(self, url: str) -> str:
        """A URL as it can be opened from here.

        A relative path is one of the study's folder or of the current one. Where no file lies
        there, as a process of another folder has written it, it is looked for below the storage's
        folder and those that the environment allows.
        """
        path = resolve(url, self.folder)
        return (found_below(url, self.roots) or path) if is_missing(path) else path


def read_notes(study: optuna.Study, user: Mapping[str, Any] | None = None) -> Notes:
    """What the study itself keeps; ``user`` are its `user_attrs`, if they are read already."""
    user = user_attrs(study) if user is None else user
    system = system_attrs(study)
    excluded, folder = user.get("excluded"), user.get("mde_folder")
    folder = folder if isinstance(folder, str) else None
    return Notes(
        natural=_natural(user),
        excluded={
            int(number): str(reason)
            for number, reason in (excluded.items() if isinstance(excluded, Mapping) else ())
            if str(number).isdecimal()
        },
        folder=folder,
        revisions=_revisions(user),
        # Not the folder: whoever can write to the storage could name any.
        roots=(os.curdir, *_storage_folder(study)),
        settings=_usable(read_chunks(system, "settings")),
        present=_present(system),
    )


def stored_objective(study: optuna.Study) -> str | None:
    """JSON text of the study's present objective, else of the sampler's; None without one."""
    system = system_attrs(study)
    return _present(system) or _usable(read_chunks(system, "settings")).get("objective")


def system_attrs(study: optuna.Study) -> dict[str, Any]:
    """The study's system attributes, which hold what is ours alone."""
    return study._storage.get_study_system_attrs(study._study_id)


def _settings(study: optuna.Study) -> dict[str, Any]:
    return _usable(read_chunks(system_attrs(study), "settings"))


def _present(system: Mapping[str, Any]) -> str | None:
    text = read_chunks(system, "objective")
    return text if _is_objective(text) else None


def _storage_folder(study: optuna.Study) -> list[str]:
    """The folder of the study's SQLite or journal file, if it lies in one."""
    backend = getattr(study._storage, "_backend", study._storage)
    path = getattr(backend, "_file_path", None)
    url = getattr(backend, "url", None)
    if isinstance(url, str) and url.startswith("sqlite"):
        path = url.partition(":///")[2].partition("?")[0] or None
    return [os.path.dirname(path) or os.curdir] if isinstance(path, str) else []


def user_attrs(study: optuna.Study) -> dict[str, Any]:
    """The study's user attributes."""
    # not study.user_attrs: HyperbandPruner's study has none
    return study._storage.get_study_user_attrs(study._study_id)


def _natural(user: Mapping[str, Any]) -> dict[str, float]:
    shares = numbers(user.get("natural")).items()
    return {domain: share for domain, share in shares if 0.0 <= share < math.inf}


def _revisions(user: Mapping[str, Any]) -> dict[str, list[Revision]]:
    value = user.get("revisions")
    items = value.items() if isinstance(value, Mapping) else ()
    return {str(prefix): read(revisions) for prefix, revisions in items}


def _usable(settings: Any) -> dict[str, Any]:
    """The options as they are meant; those of another shape are left out and named."""
    if settings is None:
        return {}
    if not isinstance(settings, dict):
        warnings.warn(f"the study keeps {settings!r} for the sampler's options", stacklevel=4)
        return {}
    usable = {key: value for key, value in settings.items() if _is_option(key, value)}
    for key in sorted(settings.keys() - usable.keys()):
        warnings.warn(
            f"the study keeps {settings[key]!r} for the sampler's option {key!r}, which is left "
            f"out; MDESampler({key}=...) writes it anew",
            stacklevel=4,
        )
    return usable


def _is_option(key: str, value: Any) -> bool:
    items = list(value.items()) if isinstance(value, dict) else None
    if key == "mixtures":
        return items is not None and all(p and _are_domains(domains) for p, domains in items)
    if key == "experts":
        return items is not None and all(isinstance(url, str) for _, url in items)
    if key == "expert_budget":
        shares = [value] if items is None else [share for _, share in items]
        return all(is_number(share) and 0.0 < share <= 1.0 for share in shares)
    return key != "objective" or _is_objective(value)


def _are_domains(domains: Any) -> bool:
    if not isinstance(domains, list) or not all(isinstance(d, str) and d for d in domains):
        return False
    return len(set(domains)) == len(domains) >= 2


def _is_objective(text: Any) -> bool:
    try:
        return isinstance(text, str) and bool(Objective.from_json(text))
    except ObjectiveError:
        return False


def natural(study: optuna.Study) -> dict[str, float]:
    """{domain: share} of the natural mixture; empty where the study does not know it."""
    return _natural(user_attrs(study))


def excluded(study: optuna.Study) -> dict[int, str]:
    """{trial number: reason} of the trials that are left out."""
    return read_notes(study).excluded


def set_natural(study: optuna.Study, shares: Mapping[str, float]) -> None:
    """Keep the natural mixture on the study."""
    if natural(study) != dict(shares):
        study._storage.set_study_user_attr(study._study_id, "natural", dict(shares))


def has_objective(study: optuna.Study) -> bool:
    """Whether the study was given an objective beside those that its trials carry."""
    return _present(system_attrs(study)) is not None


def set_present_objective(study: optuna.Study, text: str) -> None:
    """Keep the objective that counts from now on, as JSON text."""
    system = system_attrs(study)
    if _present(system) != text:
        for key, part in chunks("objective", text, system):
            study._storage.set_study_system_attr(study._study_id, key, part)


def set_excluded(study: optuna.Study, reasons: Mapping[int, str]) -> None:
    """Keep the trials that are left out, and why, on the study."""
    value = {str(number): reason for number, reason in sorted(reasons.items())}
    study._storage.set_study_user_attr(study._study_id, "excluded", value)


def revisions(study: optuna.Study) -> dict[str, list[Revision]]:
    """Prefix -> how domains of the mixture became others, in order."""
    return _revisions(user_attrs(study))


def check_present(study: optuna.Study, prefix: str, domains: Collection[str]) -> None:
    """Refuse domains that have become others: a worker may run an older script.

    Raises:
        MixtureError: if there are any.
    """
    refuse_revised(revisions(study).get(prefix, ()), domains)


def refuse_revised(known: Iterable[Revision], domains: Collection[str]) -> None:
    """Refuse domains that have become others.

    Args:
        known: the revisions of their mixture.
        domains: those that are to be trained.

    Raises:
        MixtureError: if there are any.
    """
    became = {
        old: shares for revision in known for old, shares in revision.items() if old in domains
    }
    if became:
        told = "; ".join(f"{old!r} has become {', '.join(became[old])}" for old in became)
        raise MixtureError(f"{told} (revise_domains); take these in its place")


def set_revisions(study: optuna.Study, value: Mapping[str, Sequence[Revision]]) -> None:
    """Keep how domains became others on the study."""
    kept = {prefix: list(each) for prefix, each in value.items()}
    study._storage.set_study_user_attr(study._study_id, "revisions", kept)


def set_settings(study: optuna.Study, value: Mapping[str, Any]) -> None:
    """Keep the sampler's options on the study, beside those that other workers brought."""
    known = _settings(study)
    if known != {**known, **value}:
        for key, text in chunks("settings", {**known, **value}, system_attrs(study)):
            study._storage.set_study_system_attr(study._study_id, key, text)
