"""Domains that are split, merged, revised or added in a study that has runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch

from optuna_mde import (
    MDESampler,
    recommend,
    report_losses,
    revise_domains,
    save_logprobs,
    suggest_mixture,
)
from optuna_mde.gp.modeller import Modeller
from optuna_mde.observations import Observations
from optuna_mde.simplex.projection import MixtureError
from optuna_mde.trials import history
from optuna_mde.trials.facts import read_facts
from optuna_mde.trials.layout import study_space
from tests.optuna_mde.toy import quietly

pytestmark = quietly

SHARES = {"python": 0.6, "other": 0.4}
_rng = np.random.default_rng(0)
TOKENS = {name: _rng.uniform(0.02, 0.9, 40) for name in ("web", "python", "other", "books")}
TOKENS["code"] = 0.6 * TOKENS["python"] + 0.4 * TOKENS["other"]
TOKENS["sources"] = TOKENS["code"]
SETS = {"early": slice(0, 25), "late": slice(20, 40)}


def losses_of(mixture: dict[str, float]) -> dict[str, float]:
    """Losses of the mixture of the domains' own probabilities: MDE is exact here."""
    mixed = sum(rate * TOKENS[domain] for domain, rate in mixture.items())
    return {name: float(-np.log(mixed[part]).mean()) for name, part in SETS.items()}


class Trainer:
    """Trains nothing; keeps which experts it was asked for."""

    def __init__(self, folder: Path, domains: list[str], keeps: bool = True, **options: Any):
        self.folder, self.domains, self.keeps, self.options = folder, domains, keeps, options
        self.experts: list[str] = []

    def __call__(self, trial: optuna.Trial) -> Any:
        mixture = suggest_mixture(trial, self.domains, **self.options)
        url = None
        if mixture.is_expert:
            domain = max(mixture, key=mixture.__getitem__)
            self.experts.append(domain)
            if self.keeps:
                logs = np.log(TOKENS[domain])
                path = self.folder / f"{trial.number}.safetensors"
                url = save_logprobs(path, {name: logs[part] for name, part in SETS.items()})
        return report_losses(trial, losses_of(mixture), logprobs=url, budget=mixture.budget)


def begun(folder: Path, n_trials: int = 8, budget: float = 1.0, **options: Any) -> optuna.Study:
    study = optuna.create_study(sampler=MDESampler(seed=0, expert_budget=budget))
    study.optimize(Trainer(folder, ["web", "code", "books"], **options), n_trials=n_trials)
    return study


def observed(study: optuna.Study) -> Observations:
    return history.read(study, study_space(study))


def mde_losses(found: Observations) -> np.ndarray:
    """`[n, M]` MDE losses of the rows, by the files that there are."""
    experts = Modeller().experts(found)
    assert experts is not None
    return experts.table.losses(found.ingredients(np.full(len(found.X), True)))


def test_runs_of_a_domain_that_was_split_lie_at_its_shares(tmp_path: Path) -> None:
    study = begun(tmp_path)
    before = observed(study)
    revise_domains(study, {"code": SHARES})
    found = observed(study)
    assert found.domains == ("web", "python", "other", "books")
    web, code, books = before.X.T
    np.testing.assert_allclose(found.X, np.stack([web, 0.6 * code, 0.4 * code, books], axis=1))
    np.testing.assert_array_equal(found.numbers, before.numbers)
    group = study_space(study).groups[0]
    shown = [trial.shown(group) for trial in read_facts(study).trials]
    np.testing.assert_allclose([list(mixture.values()) for mixture in shown], found.X)
    code_expert = int(np.flatnonzero(code == 1.0)[0])
    assert not found.corner[code_expert]  # one point of the new simplex, inside an edge


def test_the_mde_loss_of_old_runs_stays_what_it_was(tmp_path: Path) -> None:
    study = begun(tmp_path)
    before = mde_losses(observed(study))
    revise_domains(study, {"code": SHARES})
    found = observed(study)
    assert {file.domain: file.of for file in found.experts} == {
        "web": "",
        "python": "code",
        "other": "code",
        "books": "",
        "code": "",
    }
    np.testing.assert_allclose(mde_losses(found), before, atol=1e-6)  # float32 files
    study.optimize(Trainer(tmp_path, ["web", "python", "other", "books"]), n_trials=2)
    found = observed(study)
    assert not any(found.fullest[domain].of for domain in found.domains)
    after = mde_losses(found)[: len(before)]
    np.testing.assert_allclose(after, before, atol=1e-6)


@pytest.mark.parametrize("budget", [1.0, 0.5])
def test_only_the_new_experts_are_trained_and_first(tmp_path: Path, budget: float) -> None:
    natural = {"web": 0.5, "code": 0.3, "books": 0.2}
    study = begun(tmp_path, 10, budget, natural=natural)
    revise_domains(study, {"code": SHARES})
    natural = {"web": 0.5, "python": 0.18, "other": 0.12, "books": 0.2}
    trainer = Trainer(tmp_path, ["web", "python", "other", "books"], natural=natural)
    study.optimize(trainer, n_trials=5)
    assert trainer.experts == ["python", "other"]
    later = [trial.user_attrs["phase"] for trial in study.trials[10:]]
    assert later == ["expert", "expert", "model", "model", "model"]


def test_answers_are_mixtures_of_the_new_domains(tmp_path: Path) -> None:
    study = begun(tmp_path, 10, natural={"web": 0.5, "code": 0.3, "books": 0.2})
    revise_domains(study, {"code": SHARES})
    at_once = recommend(study)
    assert list(at_once.mixture) == ["web", "python", "other", "books"]
    named = {row.name: row.mixture for row in at_once.rows}
    assert named["natural"] == pytest.approx(
        {"web": 0.5, "python": 0.18, "other": 0.12, "books": 0.2}
    )
    study.optimize(Trainer(tmp_path, ["web", "python", "other", "books"]), n_trials=4)
    found = recommend(study)
    value = np.mean(list(losses_of(found.mixture).values()))
    grid = np.random.default_rng(1).dirichlet(np.ones(4), 3000)
    names = list(found.mixture)
    best = min(
        np.mean(list(losses_of(dict(zip(names, row.tolist(), strict=True))).values()))
        for row in grid
    )
    assert value <= best + 2e-3


def test_the_first_mixture_of_a_split_domains_parts_is_the_optimum_of_their_experts(
    tmp_path: Path,
) -> None:
    study = begun(tmp_path, 10, natural={"web": 0.5, "code": 0.3, "books": 0.2})
    revise_domains(study, {"code": SHARES})
    domains = ["web", "python", "other", "books"]
    trainer = Trainer(tmp_path, domains)
    study.optimize(trainer, n_trials=2)
    assert observed(study).untried
    study.optimize(trainer, n_trials=1)
    assert not observed(study).untried
    mixture = {d: study.trials[-1].params[f"mix/{d}"] for d in domains}

    def mean_loss(rates: np.ndarray) -> float:
        return float(np.mean(list(losses_of(dict(zip(domains, rates, strict=True))).values())))

    rates = np.full(4, 0.25)
    for _ in range(3000):  # expectation maximisation, MDE being exact here
        gradient = [
            np.mean([(TOKENS[d][part] / mixed[part]).mean() for part in SETS.values()])
            for mixed in [sum(r * TOKENS[d] for r, d in zip(rates, domains, strict=True))]
            for d in domains
        ]
        rates = rates * gradient
    assert mean_loss(np.array(list(mixture.values()))) <= mean_loss(rates) + 1e-5


def test_rates_of_merged_domains_add_up_and_the_merged_one_has_an_expert(tmp_path: Path) -> None:
    domains = ["web", "python", "other"]
    study = optuna.create_study(sampler=MDESampler(seed=0))
    study.optimize(Trainer(tmp_path, domains), n_trials=7)
    old = observed(study).X
    revise_domains(study, {"python": "code", "other": "code"})
    found = observed(study)
    assert found.domains == ("web", "code")
    np.testing.assert_allclose(found.X, np.stack([old[:, 0], old[:, 1] + old[:, 2]], axis=1))
    assert found.corner.sum() == 1  # web's expert: python's is none of code
    assert [file.domain for file in found.experts] == ["web", "python", "other"]
    assert found.retired == ("python", "other")
    np.testing.assert_allclose(found.held, old[:, 1:])
    trainer = Trainer(tmp_path, ["web", "code"])
    study.optimize(trainer, n_trials=2)
    assert trainer.experts == ["code"]


def test_a_revised_domain_has_its_runs_and_an_expert_of_its_own(tmp_path: Path) -> None:
    study = begun(tmp_path)
    revise_domains(study, {"code": "sources"})
    trainer = Trainer(tmp_path, ["web", "sources", "books"])
    study.optimize(trainer, n_trials=3)
    assert trainer.experts == ["sources"]
    # its own file comes first, and the older one is what is left if that cannot be used
    assert [f.of for f in observed(study).experts if f.domain == "sources"] == ["", "code"]


def test_revisions_compose(tmp_path: Path) -> None:
    study = begun(tmp_path)
    code = observed(study).X[:, 1]
    revise_domains(study, {"code": SHARES})
    revise_domains(study, {"other": {"c": 0.5, "web": 0.5}})
    revise_domains(study, {"python": "programs", "c": "programs"})
    found = observed(study)
    assert found.domains == ("web", "programs", "books")
    np.testing.assert_allclose(found.X[:, 1], (0.6 + 0.2) * code)


def test_every_worker_reads_what_was_revised(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    study = optuna.create_study(storage=url, study_name="s", sampler=MDESampler(seed=0))
    study.optimize(Trainer(tmp_path, ["web", "code"]), n_trials=3)
    revise_domains(study, {"code": SHARES})
    other = optuna.load_study(study_name="s", storage=url, sampler=MDESampler(seed=0))
    revise_domains(other, {"code": SHARES})  # as every start of a script says it
    assert other.user_attrs["revisions"] == {"mix/": [{"code": SHARES}]}
    trainer = Trainer(tmp_path, ["web", "python", "other"])
    other.optimize(trainer, n_trials=2)
    assert trainer.experts == ["python", "other"]
    with pytest.raises(MixtureError, match="'code' has become python, other"):
        suggest_mixture(study.ask(), ["web", "code"])
    study.sampler = MDESampler(mixtures={"mix/": ["web", "code"]})
    with pytest.raises(MixtureError, match="'code' has become python, other"):
        study.ask()


def test_a_domain_that_is_added_is_in_the_next_answer(tmp_path: Path) -> None:
    study = begun(tmp_path, 8, budget=0.5)
    trainer = Trainer(tmp_path, ["web", "code", "books", "other"])
    study.optimize(trainer, n_trials=1)
    assert trainer.experts == ["other"]
    assert list(recommend(study).mixture) == ["web", "code", "books", "other"]
    found = observed(study)
    assert not found.X[:-1, 3].any()


def test_runs_of_a_split_domain_are_told_by_its_parts_experts_once_all_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TOKENS, "code", 0.5 * TOKENS["code"] + 0.1)  # no mixture of its parts
    study = begun(tmp_path)
    by_its_own = mde_losses(observed(study))
    n = len(by_its_own)
    revise_domains(study, {"code": SHARES})
    trainer = Trainer(tmp_path, ["web", "python", "other", "books"])
    study.optimize(trainer, n_trials=1)
    assert observed(study).retired == ("code",)
    np.testing.assert_allclose(mde_losses(observed(study))[:n], by_its_own, atol=1e-6)
    study.optimize(trainer, n_trials=2)
    found = observed(study)
    assert found.retired == ()
    mixtures = [dict(zip(found.domains, row.tolist(), strict=True)) for row in found.X[:n]]
    wanted = [list(losses_of(mixture).values()) for mixture in mixtures]
    np.testing.assert_allclose(mde_losses(found)[:n], wanted, atol=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {"code": "sources"},  # other text
        {"code": {"python": 0.6, "web": 0.4}},  # web has text of its own
        {"code": {"python": 0.6, "press": 0.4}, "books": "press"},  # of two
    ],
)
def test_runs_of_a_domain_that_its_parts_do_not_make_up_are_told_by_its_own_expert(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    monkeypatch.setitem(TOKENS, "code", 0.5 * TOKENS["code"] + 0.1)
    monkeypatch.setitem(TOKENS, "press", 0.5 * (TOKENS["books"] + TOKENS["code"]))
    study = begun(tmp_path)
    before = observed(study)
    wanted = mde_losses(before)
    revise_domains(study, changes)
    study.optimize(Trainer(tmp_path, list(observed(study).domains)), n_trials=3)
    found = observed(study)
    assert not any(found.fullest[domain].of for domain in found.domains)
    assert "code" in found.retired
    np.testing.assert_allclose(mde_losses(found)[: len(wanted)], wanted, atol=1e-6)
    surrogate = Modeller().surrogate(found, study_space(study).region().blocks)
    features = surrogate.features
    _, _, prior = features.lift(surrogate.runs.X)
    earlier = Modeller().surrogate(before, study_space(begun(tmp_path / "b")).region().blocks)
    _, _, alone = earlier.features.lift(torch.from_numpy(before.X))
    # but for the coreset's error
    np.testing.assert_allclose(prior[: len(wanted)].numpy(), alone.numpy(), atol=2e-3)


def test_what_cannot_be_revised_is_refused(tmp_path: Path) -> None:
    study = begun(tmp_path, 4)
    for changes, said in (
        ({}, "changes must be"),
        ({"code": 3}, "must become"),
        ({"code": {}}, "must become"),
        ({"code": {"python": 0.6, "other": 0.5}}, "sum to 1.1; divide each by 1.1"),
        ({"code": {"python": 1.0, "other": 0.0}}, "must be above 0"),
        ({"code": {"python": "all"}}, "must be a number"),
        ({"cod": SHARES}, "no run has a domain 'cod'; the domains are web, code, books"),
        ({"code": {"code": 0.6, "other": 0.4}}, "take a name of its own, such as 'code-2'"),
    ):
        with pytest.raises(MixtureError, match=said):
            revise_domains(study, changes)  # type: ignore[arg-type]
    revise_domains(study, {"code": SHARES})
    with pytest.raises(MixtureError, match="'code' was revised before"):
        revise_domains(study, {"code": "python"})
    with pytest.raises(MixtureError, match="'python' cannot become 'code'"):
        revise_domains(study, {"python": "code"})
    assert study.user_attrs["revisions"] == {"mix/": [{"code": SHARES}]}


def test_strange_revisions_in_a_storage_are_left_out(tmp_path: Path) -> None:
    study = begun(tmp_path, 4)
    for value in ("code", {"mix/": "code"}, {"mix/": [{"code": {"a": "x"}}, 3]}, [1]):
        study.set_user_attr("revisions", value)
        assert observed(study).domains == ("web", "code", "books")
