"""`MDESearch` by the calls that Ray's controller makes; the examples run one on Ray itself."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from optuna_mde import MDESampler, recommend, save_logprobs, suggest_mixture
from optuna_mde.gp.modeller import Modeller
from optuna_mde.trials import history
from optuna_mde.trials.layout import study_space

pytest.importorskip("ray.tune")

from optuna_mde.ray_tune import MDESearch

DOMAINS = ["web", "code", "books"]
GOOD = {"web": (0.6, 0.1, 0.3), "code": (0.1, 0.8, 0.1)}
"""Validation set -> probability of its token by the expert of each domain."""

pytestmark = pytest.mark.usefixtures("quiet")


def reported(rates: Any, folder: Path | None = None) -> dict[str, Any]:
    """What the controller hands over of a run: flattened, and with figures of its own."""
    rates = np.array([rates[domain] for domain in DOMAINS])
    loss = {name: -float(np.log(rates @ np.array(p))) for name, p in GOOD.items()}
    result = {"loss": 9.0, "training_iteration": 1, "config/mix/web": rates[0]}
    result |= {f"losses/{name}": value for name, value in loss.items()}
    if folder is not None:
        tokens = {name: np.full(4, -value) for name, value in loss.items()}
        result["logprobs"] = save_logprobs(folder / f"{rates.argmax()}.safetensors", tokens)
    return result


def test_losses_and_experts_reach_the_model(tmp_path: Path) -> None:
    space = {f"mix/{domain}": FloatDistribution(0.0, 1.0) for domain in DOMAINS}
    sampler = MDESampler(seed=0, mixtures={"mix/": DOMAINS})
    search = MDESearch(space, "loss", "min", sampler=sampler, objective={"web": 3, "code": 1})
    for name in map(str, range(6)):
        mixture = search.suggest(name)["mix"]
        result = reported(mixture, tmp_path if max(mixture.values()) == 1.0 else None)
        search.on_trial_result(name, result)
        search.on_trial_complete(name, result)
        search = pickle.loads(pickle.dumps(search))  # as `save` and `restore` do
    for trial in search.study.trials:
        losses = trial.user_attrs["losses"]
        assert trial.value == pytest.approx(0.75 * losses["web"] + 0.25 * losses["code"])
    assert sum("logprobs" in trial.user_attrs for trial in search.study.trials) == 3
    found = history.read(search.study, study_space(search.study))
    experts = Modeller().experts(found)
    assert experts is not None  # the files were opened
    columns = [experts.table.sets.index(target.name) for target in found.targets]
    by_files = experts.table.losses(found.X)[:, columns]
    np.testing.assert_allclose(by_files, found.Y, atol=1e-6)  # here MDE is exact
    assert recommend(search.study).mixture.keys() == set(DOMAINS)


def test_a_function_gives_bounds_and_cheap_experts(tmp_path: Path) -> None:
    def space(trial: optuna.Trial) -> dict[str, Any]:
        mixture = suggest_mixture(
            trial, DOMAINS, bounds={"code": (0.0, 0.4)}, natural={"web": 6, "code": 3, "books": 1}
        )
        return {"is_expert": mixture.is_expert, "budget": mixture.budget}

    search = MDESearch(space, "loss", "min", sampler=MDESampler(seed=0, expert_budget=0.25))
    for name in map(str, range(6)):
        config = search.suggest(name)
        assert config["budget"] == (0.25 if config["is_expert"] else 1.0)
        result = reported(config["mix"], tmp_path if config["is_expert"] else None)
        result["budget"] = config["budget"]
        search.on_trial_result(name, result)
        search.on_trial_complete(name, result)
        if not config["is_expert"]:
            assert config["mix"]["code"] <= 0.4
    states = [trial.state for trial in search.study.trials]
    assert states == [TrialState.PRUNED] * 3 + [TrialState.COMPLETE] * 3
    assert all(trial.value is None for trial in search.study.trials[:3])
    assert "natural" in {trial.user_attrs["phase"] for trial in search.study.trials}


def test_several_objectives_and_failures(tmp_path: Path) -> None:
    space = {f"mix/{domain}": FloatDistribution(0.0, 1.0) for domain in DOMAINS}
    search = MDESearch(
        space,
        ["a", "b"],
        ["min", "min"],
        sampler=MDESampler(seed=0, mixtures={"mix/": DOMAINS}),
        objective={"a": {"web": 1}, "b": {"code": 1}},
        limits={"web": 1.0},
    )
    result = reported(search.suggest("0")["mix"])
    search.on_trial_complete("0", result)
    search.suggest("1")
    search.on_trial_complete("1", None, error=True)
    search.suggest("2")
    with pytest.raises(ValueError, match="the run has reported no losses"):
        search.on_trial_complete("2", {"a": 1.0, "b": 1.0})
    first, second, _ = search.study.trials
    assert first.values == [result["losses/web"], result["losses/code"]]
    assert first.user_attrs["feasible"] == (result["losses/web"] <= 1.0)
    assert second.state == TrialState.FAIL
