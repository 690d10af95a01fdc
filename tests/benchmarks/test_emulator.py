from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize

from benchmarks.emulator import FAMILIES, Emulator, emulator
from benchmarks.tables import Recording, mean_of


@pytest.fixture(scope="module", params=FAMILIES)
def emulated(
    request: pytest.FixtureRequest, recording: Recording, tmp_path_factory: pytest.TempPathFactory
) -> Emulator:
    return emulator(recording, request.param, tmp_path_factory.mktemp("emulators"))


def test_it_meets_the_recorded_runs_within_their_noise(
    recording: Recording, emulated: Emulator
) -> None:
    rows = recording.designed
    error = emulated.losses(recording.mixtures[rows]) - recording.losses[rows]
    assert np.sqrt(np.mean(error**2)) < 2 * recording.noise_sd.mean()
    assert emulated.error_of(mean_of(recording)) < 0.05 * 3


def test_it_is_continuous_at_the_corners(recording: Recording, emulated: Emulator) -> None:
    corner = np.array([1.0, 0.0, 0.0])
    near = np.array([[1 - 2e-6, 1e-6, 1e-6]])
    gap = emulated.losses(near) - emulated.losses(corner[None])
    assert np.abs(gap).max() < 0.01
    row = recording.expert_rows()["web"]
    np.testing.assert_allclose(emulated.losses(corner)[0], recording.losses[row], atol=0.05)


def test_noise_has_the_covariance_of_the_repeats(recording: Recording, emulated: Emulator) -> None:
    rng = np.random.default_rng(0)
    x = np.full(3, 1 / 3)
    runs = np.array([emulated.run(x, rng) for _ in range(3000)])
    expected = recording.noise_covariance
    np.testing.assert_allclose(np.cov(runs.T), expected, atol=0.1 * expected.max())
    w = mean_of(recording)
    assert emulated.noise_of(w) == pytest.approx(recording.noise_of(w), rel=0.05)


def test_the_minimum_is_that_of_slsqp(recording: Recording, emulated: Emulator) -> None:
    w = mean_of(recording, ("books", "news"))
    x, value = emulated.minimum(w)
    assert x.sum() == pytest.approx(1.0)
    ends = [
        minimize(
            lambda z: float(emulated.losses(np.maximum(z, 0.0))[0] @ w),
            start,
            method="SLSQP",
            bounds=[(0, 1)] * 3,
            constraints={"type": "eq", "fun": lambda z: z.sum() - 1},
        )
        for start in np.random.default_rng(0).dirichlet(np.ones(3), 8)
    ]
    assert value < min(end.fun for end in ends if end.success) + 2e-4


def test_a_fit_is_read_again(recording: Recording, emulated: Emulator, tmp_path: Path) -> None:
    first = emulator(recording, emulated.family, tmp_path)
    (kept,) = tmp_path.iterdir()
    before = kept.stat().st_mtime_ns
    again = emulator(recording, emulated.family, tmp_path)
    assert kept.stat().st_mtime_ns == before
    x = np.array([[0.2, 0.5, 0.3]])
    np.testing.assert_array_equal(first.losses(x), again.losses(x))
