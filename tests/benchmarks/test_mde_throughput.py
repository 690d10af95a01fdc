import numpy as np

from benchmarks import mde_throughput
from optuna_mde.mde.experts import ExpertTable


def test_the_plain_formula_and_the_table_agree() -> None:
    logprobs = mde_throughput.synthetic(500)
    table = ExpertTable(list(logprobs), {d: {"set": values} for d, values in logprobs.items()})
    rates = np.random.default_rng(0).dirichlet(np.full(7, 0.5), 6)
    rates[0] = np.eye(7)[2]
    stacked = np.stack(list(logprobs.values()), axis=1)
    plain = mde_throughput.plain_losses(stacked, rates)
    np.testing.assert_allclose(table.losses(rates)[:, 0], plain, atol=1e-5)
