import numpy as np
import pytest
from scipy.stats import spearmanr

from benchmarks import peers
from benchmarks.peers import Evidence
from benchmarks.prediction import mde_losses
from benchmarks.tables import Recording, mean_of

pytest.importorskip("lightgbm")
pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def evidence(recording: Recording) -> Evidence:
    rows = np.array([*recording.expert_rows().values(), *recording.designed[:24]])
    expert = np.arange(len(rows)) < len(recording.domains)
    mde = mde_losses(recording, 1.0)
    return Evidence(recording.mixtures[rows], recording.losses[rows], expert, mde)


@pytest.mark.parametrize("name", [*peers.RATES_ONLY, *peers.WITH_MDE])
def test_every_model_orders_mixtures_that_it_has_not_seen(
    recording: Recording, evidence: Evidence, name: str
) -> None:
    test = recording.designed[24:]
    W = np.stack([mean_of(recording), np.eye(5)[1]])
    model = {**peers.RATES_ONLY, **peers.WITH_MDE}[name]
    seen = evidence.without_experts() if name in peers.RATES_ONLY else evidence
    predicted = model(seen, recording.mixtures[test], W)
    assert predicted.mean.shape == (len(test), 2)
    truth = recording.losses[test] @ W.T
    if name == "mean":
        np.testing.assert_allclose(predicted.mean, (seen.Y @ W.T).mean(axis=0)[None].repeat(30, 0))
    else:
        assert spearmanr(predicted.mean[:, 1], truth[:, 1])[0] > 0.6
    if predicted.sd is not None:
        inside = np.abs(predicted.mean - truth) < 3 * predicted.sd
        assert inside.mean() > 0.7


@pytest.mark.parametrize("model", [peers.log_linear, peers.exponential])
def test_laws_find_a_law(model: peers.Model) -> None:
    rng = np.random.default_rng(0)
    X, Z = rng.dirichlet(np.ones(3), 40), rng.dirichlet(np.ones(3), 20)

    def law(rates: np.ndarray) -> np.ndarray:
        return 2.0 + np.exp(rates @ np.array([[0.5, -1.0], [-1.5, 0.2], [-0.5, -0.4]]))

    predicted = model(Evidence(X, law(X), np.zeros(40, bool)), Z, np.eye(2))
    np.testing.assert_allclose(predicted.mean, law(Z), atol=0.02)


def test_an_affine_correction_is_found_without_the_experts() -> None:
    rng = np.random.default_rng(0)
    X = np.concatenate([np.eye(3), rng.dirichlet(np.ones(3), 60)])
    Y = np.stack([0.3 + 1.2 * X[:, 0], 2.0 - X[:, 1]], axis=1)
    expert = np.arange(63) < 3
    Y[expert] = 99.0
    evidence = Evidence(X, Y, expert, lambda rates: rates[:, :2])
    Z = rng.dirichlet(np.ones(3), 5)
    predicted = peers.mde_affine(evidence, Z, np.eye(2)).mean
    # one run's worth of belief in slope 1 remains
    np.testing.assert_allclose(predicted[:, 0], 0.3 + 1.2 * Z[:, 0], atol=0.01)
    np.testing.assert_allclose(predicted[:, 1], 2.0 - Z[:, 1], atol=0.05)
