"""What a display is told of a study whose trials are finished, here or on other machines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from optuna_mde_studies.runner.trials import best_trials, holders, num_finished, values
from optuna_mde_studies.wording import named, rates, share_of_a_run

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial
    from optuna_mde_studies.runner.display import Display


def show_trial(study: optuna.Study, progress: Display, number: int) -> None:
    """A trial has been told, and some of other machines perhaps."""
    progress.done = num_finished(study)
    progress.workers = len(holders(study)) + 1  # whoever told it holds none now
    trial = study.get_trials(deepcopy=False)[number]
    attrs = trial.user_attrs
    mixture = attrs["spec"]["training"]["mixture"]
    names = study.metric_names or [f"objective {i}" for i in range(len(study.directions))]
    reached = named(values(study).get(number, ()), names)
    predicted = ""
    if attrs.get("predicted_mean") is not None:
        predicted = f" (predicted {attrs['predicted_mean']:.4f}, sd {attrs['predicted_sd']:.4f})"
    phase = attrs.get("phase", "")
    shown = reached or _shortened(trial)
    progress.finished(f"trial {number:<3} {phase:<10} {shown}{predicted}  {rates(mixture)}")
    show_best(study, progress)


def show_best(study: optuna.Study, progress: Display) -> None:
    """The best allowed trial so far, of a study with one objective."""
    if len(study.directions) > 1 or not (found := best_trials(study)):
        return
    (best,) = found
    done, reached = study.get_trials(deepcopy=False), values(study)
    text = f"{reached[best.number][0]:.4f} by trial {best.number}"
    natural = [n for n in reached if done[n].user_attrs.get("phase") == "natural"]
    if natural:
        text += f" (natural: {reached[natural[0]][0]:.4f})"
    progress.best = text


def _shortened(trial: FrozenTrial) -> str:
    """What to say of an expert that has no value to compare with the others'."""
    return f"expert at {share_of_a_run(trial.user_attrs['budget'])}"
