from __future__ import annotations

import copy
import math
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from optuna.trial import FixedTrial
from scipy import stats

from optuna_mde import MDESampler, Mixture, suggest_mixture
from optuna_mde.simplex.projection import MixtureError
from optuna_mde.trials import records
from optuna_mde.trials.groups import make_group

DOMAINS = ["web", "code", "books"]


def random_study(**options: Any) -> optuna.Study:
    return optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0), **options)


def trained(study: optuna.Study, **options: Any) -> Mixture:
    """The mixture of one more trial, told."""
    trial = study.ask()
    mixture = suggest_mixture(trial, DOMAINS, **options)
    study.tell(trial, 1.0)
    return mixture


def test_parts_are_plain_parameters() -> None:
    study = optuna.create_study(sampler=MDESampler(seed=0))
    for _ in range(5):
        mixture = trained(study)
        trial = study.trials[-1]
        assert {f"mix/{d}": rate for d, rate in mixture.items()} == trial.params
        assert abs(sum(trial.params.values()) - 1.0) < 1e-12
        assert "mixture" not in trial.user_attrs


def test_a_foreign_samplers_values_are_mapped_and_written_down() -> None:
    study = random_study()
    bounds = {"web": (0.0, 0.3), "code": (0.2, 1.0)}
    for _ in range(20):
        mixture = trained(study, bounds=bounds)
        assert sum(mixture.values()) == pytest.approx(1.0, abs=1e-12)
        assert mixture["web"] <= 0.3
        assert mixture["code"] >= 0.2
        assert study.trials[-1].user_attrs["mixture"] == mixture


@pytest.mark.parametrize("rates", [(0.1, 0.9, 0.0), (1.0, 0.0, 0.0), (0.2, 0.3, 0.5)])
def test_points_on_the_simplex_are_taken_as_they_are(rates: tuple[float, ...]) -> None:
    study = random_study()
    params = {f"mix/{d}": rate for d, rate in zip(DOMAINS, rates, strict=True)}
    study.enqueue_trial(params)
    with pytest.warns(UserWarning, match=r"is run as it is.*outside \[0, 0.05\]"):
        mixture = trained(study, bounds={"web": (0.0, 0.05)})
    assert tuple(mixture.values()) == rates
    assert study.trials[-1].params == params
    assert "mixture" not in study.trials[-1].user_attrs


def test_an_enqueued_mixture_that_breaks_a_constraint_is_warned_of() -> None:
    study = random_study()
    study.enqueue_trial({"mix/web": 0.5, "mix/code": 0.5, "mix/books": 0.0})
    with pytest.warns(UserWarning, match=r"code >= 2\*web is not met"):
        trained(study, constraints=["code >= 2*web"])


@pytest.mark.filterwarnings("ignore:Fixed parameter")
@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"web": 1.0, "code": 1.0, "books": 2.0}, [0.25, 0.25, 0.5]),
        ({"web": 0.0, "code": 0.0, "books": 0.0}, [1 / 3, 1 / 3, 1 / 3]),
        ({"web": -0.5, "code": 0.5, "books": 0.0}, [0.0, 1.0, 0.0]),
        ({"web": 0.5, "code": 0.4999, "books": 0.0}, [0.5 / 0.9999, 0.4999 / 0.9999, 0.0]),
    ],
)
def test_enqueued_values_off_the_simplex_are_normalised(
    params: dict[str, float], expected: list[float]
) -> None:
    for study in (random_study(), optuna.create_study(sampler=MDESampler(seed=0))):
        study.enqueue_trial({f"mix/{d}": rate for d, rate in params.items()})
        mixture = trained(study)
        assert list(mixture.values()) == pytest.approx(expected)
        assert study.trials[0].user_attrs["mixture"] == mixture


@pytest.mark.filterwarnings("ignore:the mixture is run as it is")
def test_parts_that_are_enqueued_keep_their_values() -> None:
    for study in (random_study(), optuna.create_study(sampler=MDESampler(seed=0))):
        study.enqueue_trial({"mix/code": 0.7})
        mixture = trained(study, bounds={"code": (0.0, 0.5)})
        assert mixture["code"] == pytest.approx(0.7, abs=1e-12)
        assert sum(mixture.values()) == pytest.approx(1.0, abs=1e-12)


def test_constraints_hold_for_foreign_samplers() -> None:
    study = random_study()
    for _ in range(20):
        mixture = trained(study, constraints=["code >= 2*books", "web <= 0.4"])
        assert mixture["code"] >= 2 * mixture["books"]
        assert mixture["web"] <= 0.4


@pytest.mark.parametrize(
    "constraint",
    [
        "web + code + books >= 1",
        "web + code + books <= 1",
        "0.1*web + 0.1*code + 0.1*books >= 0.1",
        "web >= web",
        "web + code <= 1",
        "1e308*web >= code",
        "books >= 0.2",  # with books fixed at 0.2 by its bounds
    ],
)
def test_a_constraint_that_every_mixture_meets_is_dropped(constraint: str) -> None:
    bounds = {"books": (0.2, 0.2)} if constraint.startswith("books") else None
    free = make_group(DOMAINS, bounds).region()
    region = make_group(DOMAINS, bounds, constraints=[constraint]).region()
    assert len(region.b) == 0
    assert region.center.tolist() == free.center.tolist()


@pytest.mark.parametrize(
    "constraint", ["web + code + books >= 1.01", "web >= web + 0.1", "2*web <= -1e308"]
)
def test_a_constraint_that_no_mixture_meets_is_refused(constraint: str) -> None:
    with pytest.raises(MixtureError, match="no mixture meets"):
        make_group(DOMAINS, constraints=[constraint])


def test_parts_that_are_fixed_may_leave_a_constraint_without_a_say() -> None:
    region = make_group(DOMAINS, constraints=["web + code >= 0.5"]).region({"books": 0.5})
    assert region.center == pytest.approx([0.25, 0.25, 0.5])


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((15_880_448_167, 7_940_224_083.5, 7_940_224_083.5), (0.5, 0.25, 0.25)),
        ((1e308, 1e308, 0.0), (0.5, 0.5, 0.0)),
        (("0.39", "0.6", "0.01"), (0.39, 0.6, 0.01)),
        (("6e9", 3_000_000_000, 1e9), (0.6, 0.3, 0.1)),
        ((3e9, 1e9, None), (0.75, 0.25, 0.0)),
    ],
)
def test_enqueued_token_counts_and_texts_are_rates(values: Any, expected: Any) -> None:
    for study in (random_study(), optuna.create_study(sampler=MDESampler(seed=0))):
        parts = zip(DOMAINS, values, strict=True)
        study.enqueue_trial({f"mix/{d}": value for d, value in parts if value is not None})
        mixture = trained(study)
        assert list(mixture.values()) == pytest.approx(expected, abs=1e-9)
        read = records.read_trials(study)[0].mixture("mix/")
        assert read == pytest.approx(dict(mixture), abs=1e-12)


@pytest.mark.parametrize("value", ["most", None, math.inf, [0.5]])
def test_an_enqueued_value_that_is_no_rate_is_named(value: Any) -> None:
    for study in (random_study(), optuna.create_study(sampler=MDESampler(seed=0))):
        study.enqueue_trial({"mix/web": value, "mix/code": 0.5, "mix/books": 0.5})
        with pytest.raises(
            MixtureError, match=r"parameter 'mix/web' is enqueued as .*give a rate"
        ):
            suggest_mixture(study.ask(), DOMAINS)


@pytest.mark.parametrize(
    "params",
    [
        {"mix/WEB": 0.5, "mix/code": 0.3, "mix/books": 0.2},
        {"mix/WEB": 1.0},
        {"mix/web": 0.6, "mix/code": 0.2, "mix/books": 0.0, "mix/wiki": 0.2},
        {"mix/ web": 5e9, "mix/code": 3e9, "mix/books": 2e9},
    ],
)
def test_an_enqueued_rate_of_no_domain_is_named(params: dict[str, float]) -> None:
    for study in (random_study(), optuna.create_study(sampler=MDESampler(seed=0))):
        study.enqueue_trial(params)
        strange = next(name for name in params if name[4:] not in DOMAINS)
        trial = study.ask()
        with pytest.raises(MixtureError, match=f"'{strange}', but the mixture.*'mix/books'"):
            suggest_mixture(trial, DOMAINS)
        assert study.trials[0].params == {}


def test_a_framework_that_enqueues_a_rate_of_no_domain_is_warned() -> None:
    study = optuna.create_study(sampler=MDESampler(seed=0, mixtures={"mix/": DOMAINS}))
    study.enqueue_trial({"mix/WEB": 0.5, "mix/code": 0.3, "mix/books": 0.2})
    trial = study.ask()
    with pytest.warns(UserWarning, match="trial 0 trains another mixture: enqueued 'mix/WEB'"):
        rates = [trial.suggest_float(f"mix/{d}", 0, 1) for d in DOMAINS]
    assert rates[1:] == [0.3, 0.2]


def test_parameters_beside_a_whole_mixture_may_have_its_prefix() -> None:
    whole = {"mix/web": 0.5, "mix/code": 0.3, "mix/books": 0.2}
    for other in ({"mix/temperature": 2.0}, {"mix/stage2/web": 1.0}, {"mix/wiki": 0.0}):
        study = random_study()
        study.enqueue_trial({**whole, **other})
        assert list(trained(study).values()) == [0.5, 0.3, 0.2]


def test_arguments_may_be_numbers_of_numpy_and_torch(tmp_path: Path) -> None:
    study = optuna.create_study(storage=f"sqlite:///{tmp_path}/study.db")
    mixture = suggest_mixture(
        study.ask(),
        DOMAINS,
        bounds={"web": (np.float32(0.25), torch.tensor(0.5))},
        natural={"web": np.int64(3), "code": torch.tensor(1.0, requires_grad=True)},
    )
    assert 0.25 <= mixture["web"] <= 0.5
    assert study.user_attrs["natural"] == {"web": 0.75, "code": 0.25, "books": 0.0}


@pytest.mark.parametrize("encoding", ["exponential", "sticks"])
def test_encodings_are_uniform_on_the_simplex(encoding: Any) -> None:
    study = random_study()
    draws = []
    for _ in range(200):
        trial = study.ask()
        mixture = suggest_mixture(trial, DOMAINS, encoding=encoding)
        draws.append(list(mixture.values()))
        assert trial.user_attrs["mixture"] == mixture
    n_parameters = {"exponential": 3, "sticks": 2}[encoding]
    assert len(study.trials[0].params) == n_parameters
    for part in np.array(draws).T:
        assert stats.kstest(part, stats.beta(1, 2).cdf).pvalue > 1e-3


@pytest.mark.parametrize("encoding", ["exponential", "sticks"])
@pytest.mark.parametrize("ends", [0.0, 1.0])
def test_encodings_survive_the_ends_of_their_ranges(encoding: Any, ends: float) -> None:
    names = {"exponential": DOMAINS, "sticks": DOMAINS[:-1]}[encoding]
    folder = {"exponential": "exponential", "sticks": "stick"}[encoding]
    trial = FixedTrial({f"mix/{folder}/{d}": ends for d in names})
    mixture = suggest_mixture(trial, DOMAINS, encoding=encoding)
    assert sum(mixture.values()) == pytest.approx(1.0)


def test_our_sampler_needs_no_encoding() -> None:
    study = optuna.create_study(sampler=MDESampler(seed=0))
    mixture = trained(study, encoding="sticks")
    assert set(study.trials[0].params) == {f"mix/{d}" for d in DOMAINS}
    assert mixture.is_expert


def test_replays_give_what_was_trained() -> None:
    fixed = FixedTrial({"mix/web": 0.2, "mix/code": 0.3, "mix/books": 0.5})
    assert suggest_mixture(fixed, DOMAINS) == {"web": 0.2, "code": 0.3, "books": 0.5}
    study = random_study()
    first = trained(study)
    assert suggest_mixture(study.best_trial, DOMAINS) == first
    # also after bounds have changed, and with a domain that was added since
    bounds = {"web": (0.0, 0.01)}
    replayed = suggest_mixture(study.best_trial, [*DOMAINS, "wiki"], bounds=bounds)
    assert replayed == {**first, "wiki": 0.0}
    off = FixedTrial({"mix/web": 2.0, "mix/code": 1.0, "mix/books": 1.0})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert suggest_mixture(off, DOMAINS)["web"] == pytest.approx(0.5)
    assert off.user_attrs["mixture"]["web"] == pytest.approx(0.5)


def test_mixtures_are_dictionaries_with_two_facts() -> None:
    mixture = Mixture({"web": 1.0, "code": 0.0}, is_expert=True, budget=0.5)
    for same in (pickle.loads(pickle.dumps(mixture)), copy.deepcopy(mixture), copy.copy(mixture)):
        assert same == mixture == {"web": 1.0, "code": 0.0}
        assert (same.is_expert, same.budget) == (True, 0.5)


def test_natural_shares_are_kept_on_the_study() -> None:
    study = random_study()
    trained(study, natural={"web": 600, "code": 300, "books": 100})
    assert study.user_attrs["natural"] == {"web": 0.6, "code": 0.3, "books": 0.1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"domains": ["web"]}, "at least two"),
        ({"domains": ["web", "web"]}, "'?web'? more than once"),
        ({"domains": "web"}, "list of names"),
        ({"domains": ["web", ""]}, "list of names"),
        ({"bounds": {"wiki": (0, 1)}}, "'wiki'; the domains are"),
        ({"bounds": {"web": 0.5}}, r"pair \(low, high\), got 0.5"),
        ({"bounds": {"web": (0.7, 1), "code": (0.6, 1)}}, "= 1.3 > 1"),
        ({"bounds": dict.fromkeys(DOMAINS, (0.0, 0.3))}, "= 0.9 < 1"),
        ({"natural": {"wiki": 1.0}}, "'wiki'"),
        ({"natural": {"web": -1.0, "code": 2.0}}, "at least 0"),
        ({"natural": {"web": 0.0}}, "not all of them 0"),
        ({"natural": {"web": "a"}}, "the natural share of 'web' must be a number, got 'a'"),
        ({"natural": {"web": math.nan}}, "at least 0"),
        ({"natural": [0.5, 0.5]}, "natural must be a mapping"),
        ({"bounds": {"web": ("0", "1")}}, r"pair \(low, high\)"),
        ({"constraints": ["1e400*web >= code"]}, "too large"),
        ({"constraints": ["1e308*web + 1e308*web >= code"]}, "too large"),
        ({"constraints": [None]}, "list of inequalities"),
        ({"prefix": ""}, "prefix"),
        ({"encoding": "softmax"}, "'softmax'"),
        ({"constraints": ["code >= 2*wiki"]}, "wiki"),
        ({"constraints": "code >= web"}, "list of inequalities"),
        (
            {"constraints": ["code >= 0.6", "web >= 0.6"]},
            "no mixture meets code >= 0.6; web >= 0.6",
        ),
    ],
)
def test_user_errors_name_what_is_wrong(options: dict[str, Any], message: str) -> None:
    with pytest.raises(MixtureError, match=message):
        suggest_mixture(random_study().ask(), **{"domains": DOMAINS, **options})


def test_sixty_four_domains() -> None:
    domains = [f"domain {i}" for i in range(64)]
    study = random_study()
    mixture = suggest_mixture(study.ask(), domains, bounds=dict.fromkeys(domains, (0.0, 0.1)))
    assert sum(mixture.values()) == pytest.approx(1.0, abs=1e-12)
    assert max(mixture.values()) <= 0.1
