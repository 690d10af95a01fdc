"""The recommendation that was computed last, kept so that a finished study answers at once."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from pathlib import Path
from typing import TYPE_CHECKING

from optuna_mde_trainers.spec import write_atomic
from pydantic import BaseModel, ConfigDict, ValidationError

import optuna_mde
from optuna_mde.recommendation import Recommendation

if TYPE_CHECKING:
    import optuna


class _Findings(BaseModel):
    model_config = ConfigDict(ser_json_inf_nan="constants")

    told: str
    """Digest of what the recommendation stands on."""
    recommendation: Recommendation


def recommend(study: optuna.Study, kept: Path) -> Recommendation:
    """What to train by what the study knows now: as it is kept, or computed and kept."""
    found = read(study, kept)
    if found is not None:
        return found
    recommendation = optuna_mde.recommend(study)
    findings = _Findings(told=_digest(study), recommendation=recommendation)
    write_atomic(kept, findings.model_dump_json(indent=1) + "\n")
    return recommendation


def read(study: optuna.Study, kept: Path) -> Recommendation | None:
    """What the file ``kept`` holds, unless it was written for another state of the study, or by
    another version of this package."""
    try:
        found = _Findings.model_validate_json(kept.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    return found.recommendation if found.told == _digest(study) else None


def _digest(study: optuna.Study) -> str:
    # The place of a study changes nothing but where its files are looked for.
    attrs = {key: value for key, value in study.user_attrs.items() if key != "mde_folder"}
    trials = [
        [t.number, t.state.name, t.values, t.params, t.user_attrs]
        for t in study.get_trials(deepcopy=False)
    ]
    version = importlib.metadata.version("optuna-mde")
    text = json.dumps([version, attrs, trials], sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
