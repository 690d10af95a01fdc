from pathlib import Path

import numpy as np
import optuna
import pytest

from benchmarks import searchers
from benchmarks.cells import Cells
from benchmarks.emulator import emulator
from benchmarks.search import FIGURES, KEYS, Case, hypervolume, objectives, report, search
from benchmarks.searchers import CHECKPOINTS, SEARCHES
from benchmarks.tables import Recording


@pytest.fixture(scope="module")
def cases(recording: Recording, tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    emulated = emulator(recording, "rates", tmp_path_factory.mktemp("emulators"))
    found = objectives(recording, [emulated])
    return [Case.make(recording, emulated, name, groups) for name, groups in found.items()]


def test_hypervolume_by_hand() -> None:
    points = np.array([[1.0, 3.0], [2.0, 1.0], [2.5, 2.5], [5.0, 0.0]])
    # (4 - 1)(4 - 3) + (4 - 2)(3 - 1); the third is dominated, the fourth beyond the reference
    assert hypervolume(points, np.array([4.0, 4.0])) == pytest.approx(7.0)
    assert hypervolume(points[3:], np.array([4.0, 4.0])) == 0.0


def test_no_mixture_beats_the_best(cases: list[Case]) -> None:
    others = np.random.default_rng(3).dirichlet(np.full(3, 0.7), 300)
    for case in cases:
        if len(case.groups) == 1:
            assert min(case.regret(x[None]) for x in others) > -1e-4
        else:
            assert case.regret(others) > -1e-3


@pytest.mark.parametrize("name", ["random", "RegMix", "MDE alone (MixMin)", "natural", "olmix"])
@pytest.mark.parametrize("index", [0, 2])
def test_peers_spend_what_they_may_and_answer_with_mixtures(
    cases: list[Case], monkeypatch: pytest.MonkeyPatch, name: str, index: int
) -> None:
    if name == "RegMix":
        pytest.importorskip("lightgbm")  # of the extra `bench`
    monkeypatch.setattr(searchers, "_CANDIDATES", 2000)
    problem = cases[index].problem(0, 1)
    spent = []
    for answer in SEARCHES[name](problem, 0):
        assert answer.mixtures.min() >= 0.0
        np.testing.assert_allclose(answer.mixtures.sum(axis=1), 1.0)
        spent.append((answer.total, problem.runs))
    assert [total for total, _ in spent] == list(CHECKPOINTS)
    assert all(runs <= max(total, 32) for total, runs in spent)
    if name == "random":
        assert [runs for _, runs in spent] == list(CHECKPOINTS)


@pytest.mark.parametrize(("budget", "workers"), [(0.5, 1), (1.0, 4), (None, 1)])
def test_our_search_counts_experts_by_their_share(
    cases: list[Case], monkeypatch: pytest.MonkeyPatch, budget: float | None, workers: int
) -> None:
    monkeypatch.setattr(searchers, "CHECKPOINTS", (4, 6))
    problem = cases[0].problem(0, workers)
    runs = []
    for answer in searchers.ours(problem, 0, budget):
        runs.append(problem.runs)
        assert answer.low < answer.high
    # three experts at the budget; without log-probabilities they are runs like all others
    assert runs == {0.5: [2, 4], 1.0: [1, 3], None: [4, 6]}[budget]


def test_seed_noise_is_the_same_whoever_searches(cases: list[Case]) -> None:
    x = np.array([0.2, 0.3, 0.5])
    one, other = cases[0].problem(7, 1), cases[1].problem(7, 1)
    np.testing.assert_array_equal(one.run(x), other.run(x))
    assert not np.array_equal(one.run(x), cases[0].problem(8, 1).run(x))


def test_a_search_resumes_and_reports(cases: list[Case], tmp_path: Path) -> None:
    cells = Cells(tmp_path / "cells.csv", KEYS, FIGURES)
    search(cases[:1], cells, ["random", "uniform", "TPE"], 2, 1)
    kept = (tmp_path / "cells.csv").read_text()
    search(cases[:1], Cells(tmp_path / "cells.csv", KEYS, FIGURES), ["random", "TPE"], 2, 1)
    assert (tmp_path / "cells.csv").read_text() == kept
    text = report(cases[:1], cells, 1)
    assert "| random |" in text
    assert "| TPESampler |" in text
    assert "pilot" not in text
