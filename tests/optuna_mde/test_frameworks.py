"""Frameworks that sample a dict of distributions and never call `suggest_mixture`."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from optuna_mde import MDESampler, recommend

DOMAINS = ["web", "code", "books"]
SPACE: dict[str, BaseDistribution] = {
    **{f"mix/{d}": FloatDistribution(0.0, 1.0) for d in DOMAINS},
    "lr": FloatDistribution(1e-4, 1e-2, log=True),
    "layers": IntDistribution(1, 4),
}

pytestmark = pytest.mark.usefixtures("quiet")


class Searcher:
    """The calls to Optuna that Ray Tune's `OptunaSearch` makes."""

    def __init__(
        self,
        space: dict[str, BaseDistribution],
        sampler: optuna.samplers.BaseSampler,
        points_to_evaluate: list[dict[str, Any]],
    ) -> None:
        self.space = space
        self.trials: dict[str, optuna.Trial] = {}
        self.study = optuna.create_study(
            storage=optuna.storages.InMemoryStorage(),
            sampler=sampler,
            pruner=optuna.pruners.NopPruner(),
            study_name="optuna",
            load_if_exists=True,
            direction="minimize",
        )
        for point in points_to_evaluate:
            self.study.enqueue_trial(point)

    def suggest(self, trial_id: str) -> dict[str, Any]:
        self.trials[trial_id] = self.study.ask(fixed_distributions=self.space)
        return self.trials[trial_id].params

    def on_trial_complete(self, trial_id: str, loss: float | None, error: bool = False) -> None:
        state = TrialState.COMPLETE
        if loss is None:
            state = TrialState.FAIL if error else TrialState.PRUNED
        else:
            self.trials[trial_id].report(loss, 1)
        self.study.tell(self.trials[trial_id], loss, state=state)

    def add_evaluated_point(self, params: dict[str, Any], loss: float) -> None:
        self.study.add_trial(
            optuna.trial.create_trial(params=params, distributions=self.space, value=loss)
        )


def loss_of(params: dict[str, Any]) -> float:
    return (params["mix/web"] - 0.6) ** 2 + params["mix/code"] + 0.1 * params["layers"]


def test_ray_tune_with_a_dict_space() -> None:
    sampler = MDESampler(seed=0, mixtures={"mix/": DOMAINS})
    point = {"mix/web": 0.2, "mix/code": 0.3, "mix/books": 0.5, "lr": 1e-3, "layers": 2}
    search = Searcher(SPACE, sampler, points_to_evaluate=[point])
    search.study.set_user_attr("natural", {"web": 6, "code": 3, "books": 1})
    search.add_evaluated_point({**point, "mix/web": 0.3, "mix/code": 0.2}, 1.0)
    for step in range(4):  # three workers at once
        asked = {f"{step}-{i}": search.suggest(f"{step}-{i}") for i in range(3)}
        for name, params in asked.items():
            assert abs(sum(params[f"mix/{d}"] for d in DOMAINS) - 1.0) < 1e-9
            loss = None if name in ("0-1", "1-1") else loss_of(params)
            search.on_trial_complete(name, loss, error=name == "0-1")
        search = pickle.loads(pickle.dumps(search))  # as `save` and `restore` do
    mixtures = [tuple(t.params[f"mix/{d}"] for d in DOMAINS) for t in search.study.trials]
    assert mixtures[:3] == [(0.2, 0.3, 0.5), (0.3, 0.2, 0.5), (1.0, 0.0, 0.0)]
    assert (0.6, 0.3, 0.1) in mixtures  # the natural one
    told = [t for t in search.study.trials if t.state != TrialState.FAIL]
    tried = [tuple(t.params.values()) for t in told]
    assert len(set(tried)) == len(tried)
    assert search.study.trials[-1].user_attrs["phase"] == "model"
    assert sum(recommend(search.study).mixture.values()) == pytest.approx(1.0)


def test_optuna_search_cv() -> None:
    pytest.importorskip("optuna_integration")
    pytest.importorskip("sklearn")
    from optuna_integration import OptunaSearchCV
    from sklearn.base import BaseEstimator, RegressorMixin

    class Mix(BaseEstimator):
        def __init__(self, web: float = 1.0, code: float = 0.0, books: float = 0.0) -> None:
            self.web, self.code, self.books = web, code, books

    class Blend(RegressorMixin, BaseEstimator):
        """Predicts a mixture of the columns; the best one is half web, half books."""

        def __init__(self, mix: Mix | None = None, shift: float = 0.0) -> None:
            self.mix, self.shift = mix, shift

        def fit(self, X: np.ndarray, y: np.ndarray) -> Blend:
            return self

        def predict(self, X: np.ndarray) -> np.ndarray:
            assert self.mix is not None
            return X @ [self.mix.web, self.mix.code, self.mix.books] + self.shift

    unit = FloatDistribution(0.0, 1.0)
    space = {**{f"mix__{d}": unit for d in DOMAINS}, "shift": FloatDistribution(-0.1, 0.1)}
    sampler = MDESampler(seed=0, mixtures={"mix__": DOMAINS})
    study = optuna.create_study(direction="maximize", sampler=sampler)
    X = np.random.default_rng(0).normal(size=(40, 3))
    y = X @ [0.5, 0.0, 0.5]
    search = OptunaSearchCV(Blend(Mix()), space, study=study, n_trials=14, cv=2, verbose=0)
    search.fit(X, y)
    for trial in search.trials_:
        assert abs(sum(trial.params[f"mix__{d}"] for d in DOMAINS) - 1.0) < 1e-9
    assert search.best_params_["mix__web"] == pytest.approx(0.5, abs=0.1)
    assert search.best_estimator_.mix.code == pytest.approx(0.0, abs=0.1)
    assert max(search.cv_results_["mean_test_score"]) > 0.95


def test_optunas_command_asks_ours(tmp_path: Path) -> None:
    """As docs/formats.md has it."""
    document = (Path(__file__).parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"^```sh\n(optuna create-study.*?)^```$", document, re.DOTALL | re.M)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "-ec", script],
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert '{"number": 0, "params": {"mix/web": 1.0, "mix/code": 0.0}}' in done.stdout
    study = optuna.load_study(study_name="mix", storage=f"sqlite:///{tmp_path}/study.db")
    assert study.trials[0].user_attrs["phase"] == "expert"
    assert study.trials[0].value == 3.1
