from pathlib import Path

import numpy as np
import optuna
import pytest

from benchmarks import prediction
from benchmarks.cells import Cells
from benchmarks.ours import told_study
from benchmarks.peers import Predicted
from benchmarks.prediction import Split, Targets
from benchmarks.scoring import KEYS, SCORES, coverage_table, score_table, scores_of
from benchmarks.tables import Recording
from optuna_mde import predict


def test_splits_share_their_test_mixtures_and_start_with_the_baselines(
    recording: Recording,
) -> None:
    one, other = Split.draw(recording, 0), Split.draw(recording, 1)
    assert [recording.kinds[i] for i in one.train[:2]] == ["natural", "uniform"]
    assert not set(one.train) & set(one.test)
    assert set(one.train) | set(one.test) == set(recording.designed)
    assert set(one.test) != set(other.test)


def test_targets_are_means_of_sets_and_the_sets(recording: Recording) -> None:
    targets = Targets.of(recording)
    np.testing.assert_allclose(targets.W.sum(axis=1), 1.0)
    assert targets.names[:3] == ("all sets", "own sets", "unseen sets")
    assert targets.names[-5:] == recording.sets
    np.testing.assert_allclose(targets.W[2], [0, 0, 0, 0.5, 0.5])


def test_compute_is_equal_experts_counted(recording: Recording) -> None:
    def left(name: str) -> int:
        return prediction._rows_left(prediction.expert_budgets(recording, name), 12)

    assert left("ridge on rates") == 12
    assert left("MDE affine") == 9
    assert left("optuna-mde") == 9
    assert left("optuna-mde, experts at ½") == 10
    assert left("optuna-mde, experts at ¼") == 0  # not recorded
    assert left("optuna-mde, experts of at most 4 epochs") == 10


def test_scores_by_hand() -> None:
    truth = np.array([[1.0], [2.0], [3.0], [4.0]])
    mean = truth + np.array([[0.1], [-0.1], [0.1], [0.3]])
    ((mse, order, half, most, width, needed),) = scores_of(
        Predicted(mean, np.full((4, 1), 0.15)), truth
    )
    assert mse == pytest.approx(0.03)
    assert order == 1.0
    assert (half, most) == (0.75, 0.75)
    assert width == pytest.approx(2 * 1.64485363 * 0.15)
    assert needed == pytest.approx(2 * np.quantile([0.1, 0.1, 0.1, 0.3], 0.9))


def test_recorded_runs_become_a_study_as_a_user_would_have_it(recording: Recording) -> None:
    rows = np.array([*recording.expert_rows(0.5).values(), *recording.designed[:4]])
    files = {i: recording.experts[0.5][d] for i, d in enumerate(recording.domains)}
    study = told_study(
        recording.domains,
        recording.sets,
        recording.mixtures[rows],
        recording.losses[rows],
        recording.budgets[rows],
        files,
    )
    states = [trial.state for trial in study.trials]
    pruned, complete = optuna.trial.TrialState.PRUNED, optuna.trial.TrialState.COMPLETE
    assert states == [pruned] * 3 + [complete] * 4
    corner = predict(study, {"web": 1.0})
    # a cheap expert is a feature, and no observation
    assert corner.sets == recording.sets


def test_the_table_of_a_recording(recording: Recording, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    cells = Cells(tmp_path / "cells.csv", KEYS, SCORES)
    names = ["mean", "ridge on rates", "MDE affine", "optuna-mde"]
    prediction.score_recording(recording, cells, names[:-1], quick=True)
    prediction.score_recording(recording, cells, ["optuna-mde"], quick=True)
    key = {"recording": "small", "total": 12, "target": "all sets"}
    ours = cells.values("mse", **key, method="optuna-mde, experts at ½")
    assert len(ours) == 2
    assert ours.mean() < cells.values("mse", **key, method="mean").mean()
    assert not cells.has("small", "optuna-mde, experts at ¼")  # not recorded
    size = (tmp_path / "cells.csv").stat().st_size
    prediction.score_recording(recording, cells, names[:-1], quick=True)
    assert (tmp_path / "cells.csv").stat().st_size == size
    assert "| ridge on rates |" in score_table(cells, "small", ["all sets"])
    table = coverage_table(cells, "small", Targets.of(recording).names, recording.sets)
    assert "| optuna-mde, each set |" in table
    assert "| optuna-mde, own sets |" in table
    assert "re-test correlation" in prediction.report(recording, cells)
