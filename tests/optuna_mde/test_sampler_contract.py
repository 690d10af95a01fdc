"""Optuna's public suite for samplers, in the start-up phase and in the model phase."""

from __future__ import annotations

from collections.abc import Callable

import optuna
import pytest

pytest.register_assert_rewrite("optuna.testing.pytest_samplers")

from optuna.testing.pytest_samplers import (  # noqa: E402
    BasicSamplerTestCase,
    MultiObjectiveSamplerTestCase,
    RelativeSamplerTestCase,
)

from optuna_mde import MDESampler  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")


class TestStartup(BasicSamplerTestCase, RelativeSamplerTestCase, MultiObjectiveSamplerTestCase):
    @pytest.fixture
    def sampler(self) -> Callable[[], optuna.samplers.BaseSampler]:
        return lambda: MDESampler(seed=0, n_startup_trials=1000)


@pytest.mark.slow  # a minute: some 600 fits and acquisitions
class TestModel(BasicSamplerTestCase, RelativeSamplerTestCase, MultiObjectiveSamplerTestCase):
    @pytest.fixture
    def sampler(self) -> Callable[[], optuna.samplers.BaseSampler]:
        return lambda: MDESampler(seed=0, n_startup_trials=1)
