"""Scores added to trials that were finished before: losses on more sets, more experts' files.

Finished trials are read-only in Optuna, so these lie on the study, in batches that are written
once and never changed: processes that add at the same time lose nothing of each other's. A batch
is the user attribute ``mde:scores/<id>:<i>``, JSON in chunks (a study that is renamed in Optuna
Dashboard keeps its user attributes alone)::

    {"time": seconds since 1970,
     "losses": {trial number: {validation set: nats per token}},
     "logprobs": {trial number: URL}}

What a trial reported itself stands; of a set that was added twice to one trial, the later counts.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import optuna

from optuna_mde.trials.attributes import chunks, number, numbers, read_chunks
from optuna_mde.trials.records import Record

_BATCH = re.compile(r"mde:(scores/[0-9a-f]{32}):0")


@dataclass(frozen=True)
class Scores:
    """All that was added to a study's trials."""

    losses: dict[int, dict[str, float]] = field(default_factory=dict)
    """{trial number: {validation set: nats per token}}."""
    logprobs: dict[int, tuple[str, ...]] = field(default_factory=dict)
    """{trial number: URLs of further log-probability files}, the latest first."""

    def on(self, trial: Record) -> Record:
        """A trial with what was added to it."""
        losses = self.losses.get(trial.number, {})
        urls = self.logprobs.get(trial.number, ())
        added = {name: loss for name, loss in losses.items() if name not in trial.losses}
        if not added and not urls:
            return trial
        return replace(
            trial, losses=trial.losses | added, added=frozenset(added), more_logprobs=urls
        )


def read_scores(user_attrs: Mapping[str, Any]) -> Scores:
    """What was added, of a study's user attributes. Batches of another shape are ignored."""
    found: list[tuple[float, str, Mapping[str, Any]]] = []
    for attribute in user_attrs:
        match = _BATCH.fullmatch(attribute)
        batch = read_chunks(user_attrs, match[1]) if match else None
        if match and isinstance(batch, Mapping):
            found.append((number(batch.get("time")) or 0.0, match[1], batch))
    losses: dict[int, dict[str, float]] = {}
    urls: dict[int, tuple[str, ...]] = {}
    for _, _, batch in sorted(found, key=lambda item: item[:2]):
        for trial, values in _by_trial(batch.get("losses")).items():
            losses.setdefault(trial, {}).update(numbers(values))
        for trial, url in _by_trial(batch.get("logprobs")).items():
            if isinstance(url, str) and url:
                urls[trial] = (url, *(u for u in urls.get(trial, ()) if u != url))
    return Scores(losses, urls)


def write_scores(
    study: optuna.Study,
    losses: Mapping[int, Mapping[str, float]],
    logprobs: Mapping[int, str],
) -> None:
    """Add a batch to what a study keeps."""
    batch = {"time": time.time(), "losses": losses, "logprobs": logprobs}
    for key, text in chunks(f"scores/{uuid.uuid4().hex}", batch, {}):
        study._storage.set_study_user_attr(study._study_id, key, text)


def _by_trial(value: Any) -> dict[int, Any]:
    items = value.items() if isinstance(value, Mapping) else ()
    return {int(key): item for key, item in items if str(key).isdecimal()}
