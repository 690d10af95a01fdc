"""Losses that are added to finished trials, and a study's present objective."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from optuna_mde import (
    MDESampler,
    add_losses,
    get_losses,
    predict,
    recommend,
    report_losses,
    save_logprobs,
    set_objective,
    suggest_mixture,
)
from optuna_mde.answers.fitted import fit_study
from tests.optuna_mde.toy import DOMAINS, SETS, SHARES, quietly

pytestmark = quietly

FAQ = np.array([0.05, 0.3, 0.6])  # probability of the further set's tokens, by domain
WEIGHTS = {"books": 1.0, "faq": 3.0}


def train(trial: optuna.Trial, folder: Path, *, knows_faq: bool) -> Any:
    """A run, and what scoring its kept weights on the further set gives, in the trial's `faq`."""
    mixture = suggest_mixture(trial, DOMAINS)
    rates = np.array(list(mixture.values()))
    table = dict(zip(SETS, SHARES, strict=True)) | {"faq": FAQ}
    losses = {name: -float(np.log(row @ rates)) for name, row in table.items()}
    own = list(table) if knows_faq else SETS
    url = None
    if mixture.is_expert:
        logprobs = {name: np.full(4, -loss) for name, loss in losses.items()}
        url = save_logprobs(folder / f"{trial.number}", {name: logprobs[name] for name in own})
        save_logprobs(folder / f"faq-{trial.number}", {"faq": logprobs["faq"]})
    trial.set_user_attr("faq", losses["faq"])
    return report_losses(
        trial,
        {name: losses[name] for name in own},
        objective=WEIGHTS if knows_faq else None,
        logprobs=url,
    )


def study_in(storage: Any, folder: Path, *, n_trials: int, knows_faq: bool) -> optuna.Study:
    study = optuna.create_study(storage=storage, sampler=MDESampler(seed=0))
    for _ in range(n_trials):
        study.optimize(lambda t: train(t, folder, knows_faq=knows_faq), n_trials=1)
    return study


def scored(study: optuna.Study, folder: Path) -> None:
    found = {t.number: {"faq": t.user_attrs["faq"]} for t in study.trials}
    experts = [t.number for t in study.trials if t.user_attrs["phase"] == "expert"]
    add_losses(study, found, logprobs={n: folder / f"faq-{n}" for n in experts})


def test_a_set_that_was_added_serves_as_one_that_was_reported(tmp_path: Path) -> None:
    """The first four trials are the same whatever is weighed: three experts, then the uniform."""
    later = study_in(f"sqlite:///{tmp_path}/later.db", tmp_path, n_trials=4, knows_faq=False)
    scored(later, tmp_path)
    set_objective(later, WEIGHTS)
    first = study_in(None, tmp_path, n_trials=4, knows_faq=True)
    one, other = fit_study(later), fit_study(first)
    assert one.observations.outputs == other.observations.outputs == (*SETS, "faq")
    np.testing.assert_array_equal(one.observations.Y, other.observations.Y)
    assert one.observations.objective == other.observations.objective
    assert one.experts is not None
    assert sorted(one.experts.table.sets) == sorted((*SETS, "faq"))
    assert recommend(later).mixture == pytest.approx(recommend(first).mixture, abs=1e-4)
    fresh = optuna.load_study(
        study_name=None, storage=f"sqlite:///{tmp_path}/later.db", sampler=MDESampler(seed=0)
    )
    proposals = [
        suggest_mixture(study.ask(), DOMAINS) for study in (later, fresh, first)
    ]  # a warm sampler, another process's, and the study that knew the set from the start
    assert dict(proposals[0]) == pytest.approx(dict(proposals[2]), abs=1e-4)
    assert proposals[1]["books"] > 0.5


def test_values_and_attributes_of_the_trials_stay_what_was_told(tmp_path: Path) -> None:
    study = study_in(None, tmp_path, n_trials=3, knows_faq=False)
    before = [(t.values, dict(t.user_attrs)) for t in study.trials]
    scored(study, tmp_path)
    assert [(t.values, dict(t.user_attrs)) for t in study.trials] == before
    assert get_losses(study)[1] == study.trials[1].user_attrs["losses"] | {
        "faq": study.trials[1].user_attrs["faq"]
    }


def test_the_mean_is_over_what_runs_report_until_the_objective_names_more(tmp_path: Path) -> None:
    study = study_in(None, tmp_path, n_trials=4, knows_faq=False)
    before = recommend(study)
    scored(study, tmp_path)
    assert fit_study(study).weights.tolist() == [[1 / 3, 1 / 3, 1 / 3, 0]]
    assert fit_study(study, "mean").weights.tolist() == [[1 / 3, 1 / 3, 1 / 3, 0]]
    seen = recommend(study).best_seen
    assert seen is not None
    assert before.best_seen is not None
    assert seen.trial == before.best_seen.trial
    asked = recommend(study, {"faq": 1})
    assert asked.mixture["books"] == max(asked.mixture.values())


def test_a_running_trial_is_told_by_the_present_objective(tmp_path: Path) -> None:
    study = study_in(None, tmp_path, n_trials=3, knows_faq=False)
    trial = study.ask()
    set_objective(study, "books")
    value = train(trial, tmp_path, knows_faq=False)
    assert value == trial.user_attrs["losses"]["books"]
    seen = recommend(study).best_seen
    assert seen is not None
    assert seen.observed == pytest.approx(
        min(loss["books"] for loss in get_losses(study).values())
    )


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_many_may_add_at_once(tmp_path: Path, kind: str) -> None:
    def storage() -> Any:
        if kind == "sqlite":
            return f"sqlite:///{tmp_path}/study.db"
        return JournalStorage(JournalFileBackend(f"{tmp_path}/journal"))

    first = study_in(storage(), tmp_path, n_trials=3, knows_faq=False)
    studies = [optuna.load_study(study_name=first.study_name, storage=storage()) for _ in range(4)]

    def add(i: int) -> None:
        add_losses(studies[i], {n: {f"set {i}": float(n), "x" * 3000: 1.0} for n in range(3)})

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, range(4)))
    found = get_losses(first)
    assert all(found[n][f"set {i}"] == n for n in range(3) for i in range(4))


def short_experts(n: int = 6) -> optuna.Study:
    """Experts on half a run that left no files, and full runs."""
    study = optuna.create_study()
    rng = np.random.default_rng(0)
    rates = [*np.eye(3), *rng.dirichlet(np.ones(3), n)]
    for i, row in enumerate(rates):
        study.enqueue_trial({f"mix/{d}": r for d, r in zip(DOMAINS, row.tolist(), strict=True)})
        trial = study.ask()
        suggest_mixture(trial, DOMAINS)
        losses = dict(zip(SETS, (-np.log(SHARES @ row)).tolist(), strict=True))
        try:
            study.tell(trial, report_losses(trial, losses, budget=0.5 if i < 3 else 1.0))
        except optuna.TrialPruned:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    return study


@pytest.mark.filterwarnings("ignore:a run on 0.5")
def test_nothing_is_predicted_of_a_set_that_no_full_run_was_scored_on() -> None:
    study = short_experts()
    add_losses(study, {0: {"faq": 2.0}})
    for ask in (
        lambda: recommend(study, "faq"),
        lambda: recommend(study, limits={"faq": 3.0}),
        lambda: predict(study, {"web": 1.0}, objective={"faq": 1, "web": 1}),
    ):
        with pytest.raises(ValueError, match=r"no full run has a loss of faq \(1 of 9 finished"):
            ask()
    # where nobody asks for it, nothing is made up either
    assert set(recommend(study).losses) == set(SETS)
    assert set(predict(study, {"web": 1.0}).sets) == set(SETS)


@pytest.mark.filterwarnings("ignore:a run on 0.5")
def test_an_answer_on_few_runs_of_a_set_says_how_few_they_are() -> None:
    study = short_experts()
    for number, known in ((3, 1), (4, 2)):
        add_losses(study, {number: {"faq": study.trials[number].params["mix/web"] + 2.0}})
        found = recommend(study, "faq")
        assert not found.signal
        said = found.warnings[0]
        assert found.notes[0] == said
        assert f"of trials {', '.join(map(str, range(3 + known, 9)))}: {known} of 6 full" in said
        assert "take them as a guess" in said
    # all sets are spoken of by their own evidence
    assert recommend(study, "web").signal
    assert not any("take them as a guess" in said for said in recommend(study, "web").warnings)


def test_runs_that_lack_what_the_study_now_searches_for_are_named(tmp_path: Path) -> None:
    study = study_in(None, tmp_path, n_trials=6, knows_faq=False)
    scored(study, tmp_path)
    set_objective(study, WEIGHTS)
    trial = study.ask()
    suggest_mixture(trial, DOMAINS)
    losses = dict.fromkeys(SETS, 1.0)
    with pytest.warns(
        UserWarning, match="trial 6 has no loss on faq, which the study's objective"
    ):
        study.tell(trial, report_losses(trial, losses, objective={"web": 1}))
    assert (
        "faq, of which no loss is known of trial 6: 6 of 7 full runs" in recommend(study).notes[0]
    )


def test_of_two_scores_the_later_counts(tmp_path: Path) -> None:
    study = study_in(None, tmp_path, n_trials=1, knows_faq=False)
    add_losses(study, {0: {"faq": 2.0}})
    add_losses(study, {0: {"faq": 1.5}})
    assert get_losses(study)[0].items() >= {"faq": 1.5}.items()


def test_strange_batches_are_ignored(tmp_path: Path) -> None:
    study = study_in(None, tmp_path, n_trials=1, knows_faq=False)
    key = "mde:scores/" + "0" * 32 + ":0"
    strange = (
        "[]",
        "{",
        "[" * 2000,
        '{"losses": {"0": {"faq": "x"}, "a": 1}, "logprobs": {"0": 3}}',
    )
    for text in strange:
        study.set_user_attr(key, text)
        assert set(get_losses(study)[0]) == set(SETS)


def test_what_cannot_be_added_is_named(tmp_path: Path) -> None:
    study = study_in(None, tmp_path, n_trials=2, knows_faq=False)
    running = study.ask().number
    refused: list[tuple[Any, str]] = [
        ({0: {"faq": 2.0, "news": math.nan}}, "losses of trial 0: NaN for 'news'"),
        ({9: {"faq": 1.0}}, "no trial 9; numbers run from 0 to 2"),
        ({running: {"faq": 1.0}}, "trial 2 is running"),
        ({0: {"web": 1.0}}, "trial 0 reported a loss of 'web' itself"),
        ({0: {"faq": "much"}}, "losses of trial 0: the loss of 'faq' must be a number"),
        ({0: {}}, "losses of trial 0: losses must be"),
        ([0.5], "losses must be a mapping by trial number"),
    ]
    for losses, message in refused:
        with pytest.raises(ValueError, match=message):
            add_losses(study, losses)
    with pytest.raises(ValueError, match="logprobs of trial 0 must be the URL"):
        add_losses(study, {}, logprobs={0: 5})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="weighs faq, which no run has a loss of"):
        set_objective(study, "faq")
    with pytest.raises(ValueError, match=r"2 value\(s\) .*, the study 1"):
        set_objective(study, {"a": ["web"], "b": ["code"]})
    plain = optuna.create_study()
    plain.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    with pytest.raises(ValueError, match=r"no run of study .* reports losses"):
        add_losses(plain, {0: {"faq": 1.0}})


def test_a_further_file_that_is_gone_costs_its_sets_alone(tmp_path: Path) -> None:
    study = study_in(None, tmp_path, n_trials=4, knows_faq=False)
    scored(study, tmp_path)
    (tmp_path / "faq-1").unlink()
    with pytest.warns(UserWarning, match="goes on without its sets of the expert of 'code'"):
        table = fit_study(study).experts
    assert table is not None
    assert {
        s: len(t.experts) for s, t in zip(table.table.sets, table.table.tables, strict=True)
    } == {
        **dict.fromkeys(SETS, 3),
        "faq": 2,
    }
