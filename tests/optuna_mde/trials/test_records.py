from __future__ import annotations

from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState

from optuna_mde import MDESampler, suggest_mixture
from optuna_mde.trials import notes, records
from optuna_mde.trials.attributes import chunks
from optuna_mde.trials.groups import Group
from optuna_mde.trials.records import Published, Record

DOMAINS = ("web", "code")
GROUP = Group("mix/", DOMAINS, (0.0, 0.0), (1.0, 1.0))


def trial(params: dict[str, float] | None = None, **fields: Any) -> FrozenTrial:
    params = params or {}
    fields = {"value": 1.0, **fields} if fields.get("state") is None else fields
    distributions = {name: FloatDistribution(-10.0, 10.0) for name in params}
    return optuna.create_trial(params=params, distributions=distributions, **fields)


def read(params: dict[str, float] | None = None, **fields: Any) -> Record:
    return records.read_trial(trial(params, **fields))


def test_what_was_trained_comes_before_what_was_suggested() -> None:
    params = {"mix/web": 0.25, "mix/code": 0.75}
    assert read(params).mixture("mix/") == {"web": 0.25, "code": 0.75}
    said = {"mixture": {"web": 0.5, "code": 0.5}, "mixture:stage2/": {"web": 1.0}}
    assert read(params, user_attrs=said).mixture("mix/") == said["mixture"]
    assert read(params, user_attrs=said).mixture("stage2/") == {"web": 1.0}


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"mix/web": 0.5},
        {"mix/web": 0.5, "mix/code": 0.6},
        {"mix/web": 1.5, "mix/code": -0.5},
        {"other/web": 1.0},
    ],
)
def test_parameters_off_the_simplex_are_no_mixture(params: dict[str, float]) -> None:
    assert read(params).mixture("mix/") is None
    assert read(params).rates(GROUP) is None
    assert read(params).corner(GROUP) is None


@pytest.mark.parametrize(
    "attrs",
    [
        {"mixture": {"web": 0.39, "code": 0.61}},
        {"mixture": {"web": "0.39", "code": "0.61"}},
        {"mixture": {"web": 39, "code": 61}},
        {"mixture": {"web": 15_880_448_167 * 0.39, "code": 15_880_448_167 * 0.61}},
        {"mixture": {"web": 0.0039, "code": 0.0061}},
    ],
)
def test_what_was_trained_may_be_rates_counts_or_texts(attrs: dict[str, Any]) -> None:
    record = read({"mix/web": 0.5, "mix/code": 0.5}, user_attrs=attrs)
    assert record.mixture("mix/") == pytest.approx({"web": 0.39, "code": 0.61})


@pytest.mark.parametrize(
    "mixture", [{}, {"web": float("nan"), "code": 1.0}, {"web": -0.5, "code": 1.5}, {"web": 0.0}]
)
def test_what_was_trained_is_unknown_where_it_is_no_mixture(mixture: dict[str, float]) -> None:
    record = read({"mix/web": 0.5, "mix/code": 0.5}, user_attrs={"mixture": mixture})
    assert record.mixture("mix/") is None
    assert record.rates(GROUP) is None


def test_parameters_may_be_token_counts() -> None:
    counts = {"mix/web": 3e9, "mix/code": 1e9}
    distributions = dict.fromkeys(counts, FloatDistribution(0.0, 1e12))
    frozen = optuna.create_trial(params=counts, distributions=distributions, value=1.0)
    assert records.read_trial(frozen).mixture("mix/") == {"web": 0.75, "code": 0.25}


def test_corners() -> None:
    assert read({"mix/web": 1.0, "mix/code": 0.0}).corner(GROUP) == "web"
    assert read({"mix/web": 0.999, "mix/code": 0.001}).corner(GROUP) is None


@pytest.mark.parametrize(
    "attrs",
    [
        {"losses": "low", "budget": "half", "logprobs": 3, "limits": [1], "objective": {"a": 1}},
        {"losses": {"web": "low"}, "budget": -1, "logprobs": "", "mixture": {"web": "most"}},
        {"losses": None, "budget": None, "logprobs": None, "limits": None, "mixture": 0.5},
    ],
)
def test_attributes_of_other_tools_under_our_names_do_no_harm(attrs: dict[str, Any]) -> None:
    record = read({"mix/web": 1.0, "mix/code": 0.0}, user_attrs=attrs)
    assert record.losses == {}
    assert record.budget == 1.0
    assert record.logprobs is None
    assert record.mixture("mix/") == {"web": 1.0, "code": 0.0}


def test_an_unfinished_trial_is_what_it_will_be() -> None:
    study = optuna.create_study(sampler=MDESampler(seed=0))
    asked = study.ask()
    suggest_mixture(asked, DOMAINS)
    study.enqueue_trial({"mix/web": 0.3, "mix/code": 0.7})
    running, waiting = records.read_trials(study)
    assert (running.state, waiting.state) == (TrialState.RUNNING, TrialState.WAITING)
    assert running.published is not None
    assert running.published.phase == "expert"
    assert waiting.mixture("mix/") == {"web": 0.3, "code": 0.7}


def test_long_values_survive_chunks_and_shorter_ones_after_them() -> None:
    study = optuna.create_study()
    asked = study.ask()
    frozen = study.trials[0]
    groups = tuple(
        Group(f"{i}/", tuple(f"domain {j}" for j in range(64)), (0.0,) * 64, (1.0,) * 64)
        for i in range(2)
    )
    for published in (Published(0, {"x": 1.0}, "model", 1.0, groups), Published(0, {}, "design")):
        records.publish(study, study.trials[0], published)
        record = records.read_trials(study)[0]
        assert record.published == published
    assert asked.number == frozen.number
    assert all(len(v) <= 2048 for v in study.trials[0].system_attrs.values())


def test_finished_trials_are_parsed_once() -> None:
    study = optuna.create_study()
    study.add_trial(trial({"x": 1.0}))
    study.ask()
    cache: dict[int, Record] = {}
    first, again = records.read_trials(study, cache), records.read_trials(study, cache)
    assert first[0] is again[0]
    assert first[1] is not again[1]
    assert list(cache) == [0]


def test_options_of_several_workers_are_kept_together() -> None:
    study = optuna.create_study()
    notes.set_settings(study, {"expert_budget": 0.5})
    notes.set_settings(study, {})
    notes.set_settings(study, {"experts": {"web": "web.st"}})
    kept = notes.read_notes(study)
    assert kept.expert_budget("code") == 0.5
    assert kept.experts == {"web": "web.st"}


def test_relative_paths_start_from_the_studys_folder() -> None:
    study = optuna.create_study()
    assert notes.read_notes(study).resolve("runs/a.st") == "runs/a.st"
    study.set_user_attr("mde_folder", "/data/study")
    kept = notes.read_notes(study)
    assert kept.resolve("runs/a.st") == "/data/study/runs/a.st"
    assert kept.resolve("/other/a.st") == "/other/a.st"
    assert kept.resolve("s3://bucket/a.st") == "s3://bucket/a.st"


def test_a_proposal_that_is_being_written_is_not_there_yet() -> None:
    """Another worker may read between any two writes."""
    study = optuna.create_study()
    study.ask()
    domains = tuple(f"domain {j}" for j in range(64))
    group = Group("mix/", domains, (0.0,) * 64, (1.0,) * 64)
    published = Published(0, dict.fromkeys(domains, 1 / 64), "model", 1.0, (group,))
    records.publish(study, study.trials[0], published)
    written = list(study.trials[0].system_attrs.items())
    assert len(written) > 1
    for n in range(len(written)):
        half = trial(system_attrs=dict(written[:n]))
        assert records.read_trial(half).published is None
    assert records.read_trial(trial(system_attrs=dict(written))).published == published


GROUP_OF_OTHERS = (
    '[{"prefix": "mix/", "domains": ["web", "code"], "lower": [0, 0], "upper": %s,'
    ' "natural": null, "constraints": %s}]'
)


@pytest.mark.parametrize(
    "value",
    [
        "{}",
        "[{}]",
        "[1]",
        "no JSON",
        "null",
        "3",
        {"a": 1},
        GROUP_OF_OTHERS % ("[1]", "[]"),
        GROUP_OF_OTHERS % ("[1, NaN]", "[]"),
        GROUP_OF_OTHERS % ('[1, "x"]', "[]"),
        GROUP_OF_OTHERS % ("[1, 1]", '[{"coefficients": [["wiki", 1]], "rhs": 0}]'),
    ],
)
def test_state_of_another_version_is_ignored(value: Any) -> None:
    attrs = {"mde:proposal:0": value, "mde:groups:0": value, "fixed_params": [1]}
    record = read({"mix/web": 1.0, "mix/code": 0.0}, system_attrs=attrs)
    assert record.published is None
    assert record.groups == ()
    assert record.fixed == {}


def test_other_tools_notes_on_a_study_do_no_harm() -> None:
    study = optuna.create_study()
    for key, value in {"excluded": {"x": 1, "2": "broken"}, "natural": 3, "mde_folder": 1}.items():
        study.set_user_attr(key, value)
    kept = notes.read_notes(study)
    assert (kept.excluded, kept.natural, kept.folder) == ({2: "broken"}, {}, None)


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ([1], {}),
        ({"mixtures": 3}, {}),
        ({"mixtures": {"mix/": "web"}}, {}),
        ({"mixtures": {"mix/": ["web"]}}, {}),
        ({"experts": ["web.safetensors"]}, {}),
        ({"experts": {"web": 3}, "expert_budget": 0.5}, {"expert_budget": 0.5}),
        ({"expert_budget": "half"}, {}),
        ({"expert_budget": {"web": 2.0}}, {}),
        ({"objective": {"web": 1}}, {}),
        ({"objective": '{"goals": [["a", [["web", NaN]]]]}'}, {}),
    ],
)
def test_options_of_another_shape_are_left_out_and_named(
    settings: Any, kept: dict[str, Any]
) -> None:
    study = optuna.create_study(sampler=MDESampler(seed=0))
    for key, text in chunks("settings", settings, {}):
        study._storage.set_study_system_attr(study._study_id, key, text)
    with pytest.warns(UserWarning, match="the study keeps .* for the sampler's option"):
        assert notes.read_notes(study).settings == kept
    with pytest.warns(UserWarning, match="the study keeps"):
        mixture = suggest_mixture(study.ask(), DOMAINS)
    assert mixture.is_expert
