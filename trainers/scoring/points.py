"""Scores on the way, at chosen shares of a run, kept while it trains.

    points/<step>.json           `Point`
    points/<step>.safetensors    log-probabilities, as at the end, where they are asked for

They lie on disk before the checkpoint of their step, so that a run that is killed and goes on has
all of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from optuna_mde_trainers.spec import POINTS_FOLDER, Point, RunSpec

if TYPE_CHECKING:
    from optuna_mde_trainers.scoring.sets import SetScore


def point_steps(spec: RunSpec) -> list[int]:
    """Steps after which a run is scored: the nearest ones to `score.at`, without the last."""
    steps = spec.training.max_steps
    return sorted({max(1, round(share * steps)) for share in spec.score.at} - {steps})


def keep_point(
    scores: Mapping[str, SetScore], spec: RunSpec, folder: Path, *, step: int, block_size: int
) -> None:
    """Write a point of a run; one that has diverged writes none.

    Args:
        scores: Validation set -> its score at the step.
        spec: The run.
        folder: The run's.
        step: Steps done.
        block_size: Tokens of a training sequence.
    """
    if not all(math.isfinite(score.loss) for score in scores.values()):
        return
    place = folder / POINTS_FOLDER
    place.mkdir(exist_ok=True)
    tokens = step * spec.training.global_batch_size * block_size
    if spec.score.logprobs:
        from optuna_mde import save_logprobs

        seen = [name for name, rate in spec.training.mixture.items() if rate]
        save_logprobs(
            place / f"{step}.safetensors",
            {name: score.logprobs for name, score in scores.items()},
            sets={name: score.fingerprint for name, score in scores.items()},
            tokenizer=spec.training.tokenizer,
            tokens=tokens,
            run=folder.name,
            **({"domain": seen[0]} if len(seen) == 1 else {}),
        )
    Point(
        step=step,
        tokens=tokens,
        schedule=step / spec.training.max_steps,
        losses={name: score.loss for name, score in scores.items()},
        tasks={n: s.choices.summary for n, s in scores.items() if s.choices is not None},
        logprobs=f"{POINTS_FOLDER}/{step}.safetensors" if spec.score.logprobs else None,
    ).write(place / f"{step}.json")


def kept_points(folder: Path, steps: Iterable[int]) -> list[Point]:
    """The points of a run that are on disk, in the order of their steps."""
    paths = (folder / POINTS_FOLDER / f"{step}.json" for step in sorted(steps))
    return [Point.read(path) for path in paths if path.is_file()]
