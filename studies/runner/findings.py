"""The recommendation that was computed last, kept so that a finished study answers at once."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from optuna_mde_trainers.spec import write_atomic
from pydantic import BaseModel, ConfigDict, ValidationError

import optuna_mde
from optuna_mde.answers.answer import Recommendation
from optuna_mde.trials.notes import stored_objective

if TYPE_CHECKING:
    import optuna


class _Findings(BaseModel):
    model_config = ConfigDict(ser_json_inf_nan="constants")

    told: str
    """Digest of what the recommendation stands on."""
    recommendation: Recommendation
    content: str = ""
    """Digest of the recommendation: one that was changed or damaged is computed anew."""

    def digest(self) -> str:
        return _digest_of(self.model_dump_json(include={"recommendation"}))


def recommend(
    study: optuna.Study, kept: Path, fitting: Callable[[], None] = lambda: None
) -> Recommendation:
    """What to train by what the study knows now.

    Args:
        study: of at least one finished run.
        kept: file of the last recommendation. It is computed anew, and kept there, when the
            study or the version of this package is another one than it was then.
        fitting: called before it is computed, which takes seconds.
    """
    told, found = _digest(study), _read(kept)
    if found is not None and found.told == told:
        return found.recommendation
    fitting()
    recommendation = optuna_mde.recommend(study)
    findings = _Findings(told=told, recommendation=recommendation)
    findings.content = findings.digest()
    with suppress(OSError):  # a machine that only reads may not see or write the shared folder
        write_atomic(kept, findings.model_dump_json(indent=1) + "\n")
    return recommendation


def _read(kept: Path) -> _Findings | None:
    try:
        found = _Findings.model_validate_json(kept.read_bytes())
    except (OSError, ValidationError):  # written by another version
        return None
    return found if found.content == found.digest() else None


def _digest(study: optuna.Study) -> str:
    # The place of a study changes nothing but where its files are looked for.
    attrs = {key: value for key, value in study.user_attrs.items() if key != "mde_folder"}
    attrs["objective"] = stored_objective(study)
    trials = [
        [t.number, t.state.name, t.values, t.params, t.user_attrs]
        for t in study.get_trials(deepcopy=False)
    ]
    version = importlib.metadata.version("optuna-mde")
    known = [field.name for field in fields(Recommendation)]
    text = json.dumps([version, known, attrs, trials], sort_keys=True, default=str)
    return _digest_of(text)


def _digest_of(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).hexdigest()
