"""The start-up rule, played by workers that read and write at arbitrary moments."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from optuna.trial import TrialState

from optuna_mde.asks.startup import Startup, shared_mixture, startup_runs
from optuna_mde.trials.groups import Group
from optuna_mde.trials.records import Published, Record

DOMAINS = ("a", "b", "c", "d")
GROUP = Group("mix/", DOMAINS, (0.0,) * 4, (1.0,) * 4, (0.4, 0.3, 0.2, 0.1))


def record(number: int, state: TrialState = TrialState.RUNNING, **fields: Any) -> Record:
    given: dict[str, Any] = {
        "started": None,
        "completed": None,
        "values": None,
        "params": {},
        "distributions": {},
        "fixed": {},
        "published": None,
        "groups": (GROUP,),
        "trained": {},
        "losses": {},
        "objective": None,
        "limits": {},
        "budget": 1.0,
        "logprobs": None,
        "constraints": {},
    }
    return Record(number=number, trial_id=number, state=state, **{**given, **fields})


def at(number: int, rates: Any, state: TrialState = TrialState.COMPLETE, **fields: Any) -> Record:
    params = dict(zip(GROUP.names, map(float, rates), strict=True))
    published = Published(number, params, "expert", 1.0, (GROUP,))
    return record(number, state, params=params, published=published, **fields)


def corner_run(number: int, domain: str, **fields: Any) -> Record:
    return at(number, [d == domain for d in DOMAINS], **{"logprobs": f"{domain}.st", **fields})


def rule(number: int, others: list[Record], **options: Any) -> Startup:
    given: dict[str, Any] = {"group": GROUP, "given": (), "lost": ()}
    given |= options
    return Startup(trial=record(number), others=others, region=given["group"].region(), **given)


def chosen(number: int, others: list[Record], **options: Any) -> str | None:
    target = rule(number, others, **options).next_target()
    return None if target is None else target.domain or target.phase


def play(seed: int) -> list[Record]:
    """Six workers; each reads, and publishes at some later moment, in any interleaving."""
    moves = random.Random(seed)
    started: list[int] = []
    decided: dict[int, Record] = {}
    published: dict[int, Record] = {}
    while len(published) < 6:
        busy = [n for n in started if n not in published]
        if (len(started) < 6 and moves.random() < 0.4) or not busy:
            started.append(len(started))  # numbers are given in the order of starting
            continue
        number = moves.choice(busy)
        if number not in decided:
            seen = [published.get(n, record(n)) for n in started if n != number]
            target = rule(number, seen).next_target()
            # none is left: a proposal of the model
            rates = [0.7, 0.1, 0.1, 0.1] if target is None else target.rates
            decided[number] = at(number, rates, TrialState.RUNNING, logprobs="x.st")
        elif moves.random() < 0.5:
            published[number] = decided[number]
        else:
            published[number] = replace(decided[number], state=TrialState.COMPLETE)
    return list(published.values())


def test_workers_never_take_the_same_target() -> None:
    for seed in range(100):
        taken = {tuple(trial.params.values()) for trial in play(seed)}
        assert len(taken) == 6, seed  # four experts, natural, and uniform or a proposal
        assert taken >= {tuple(map(float, corner)) for corner in np.eye(4)} | {GROUP.natural}


def test_experts_come_first_then_natural_and_uniform_after_four_proposals() -> None:
    told = [corner_run(i, d) for i, d in enumerate(DOMAINS)]
    assert [chosen(i, told[:i]) for i in range(5)] == [*DOMAINS, "natural"]
    told.append(at(4, GROUP.natural))
    told += [at(5 + i, [0.7, 0.1 + i / 100, 0.1, 0.1 - i / 100]) for i in range(4)]
    assert [chosen(i, told[:i]) for i in range(5, 10)] == [None] * 4 + ["uniform"]
    told.append(at(9, [0.25] * 4))
    assert chosen(10, told) is None


def test_uniform_serves_where_natural_is_not_known() -> None:
    unknown = replace(GROUP, natural=None)
    told = [corner_run(i, d) for i, d in enumerate(DOMAINS)]
    assert chosen(4, told, group=unknown) == "uniform"
    told.append(at(4, [0.25] * 4))
    assert chosen(5, told, group=unknown) is None


def test_uniform_serves_a_worker_that_waits_for_experts() -> None:
    told = [corner_run(i, d) for i, d in enumerate(DOMAINS[:3])]
    told += [corner_run(3, "d", state=TrialState.RUNNING, logprobs=None), at(4, GROUP.natural)]
    assert chosen(5, told) == "uniform"
    told.append(at(5, [0.25] * 4))
    assert chosen(6, told) is None


def test_enqueued_and_passed_in_experts_are_not_run() -> None:
    waiting = record(
        9, TrialState.WAITING, params={"mix/a": 1.0, "mix/b": 0.0, "mix/c": 0.0, "mix/d": 0.0}
    )
    assert chosen(0, [waiting]) == "b"
    assert chosen(0, [], given=["a", "b"]) == "c"


def test_a_domain_that_may_not_be_used_needs_no_expert() -> None:
    capped = Group("mix/", DOMAINS, (0.0,) * 4, (0.0, 1.0, 1.0, 1.0))
    assert chosen(0, [], group=capped) == "b"


def test_an_expert_that_fails_twice_is_missing() -> None:
    failed = corner_run(0, "a", state=TrialState.FAIL, logprobs=None)
    assert chosen(1, [failed]) == "a"
    again = corner_run(1, "a", state=TrialState.FAIL, logprobs=None)
    assert chosen(2, [failed, again]) == "b"


def test_a_pruned_expert_without_log_probabilities_is_missing() -> None:
    assert chosen(1, [corner_run(0, "a", state=TrialState.PRUNED, logprobs=None)]) == "b"
    assert chosen(1, [corner_run(0, "a", state=TrialState.PRUNED)]) == "b"


def test_a_lost_expert_is_run_again() -> None:
    running = corner_run(0, "a", state=TrialState.RUNNING)
    assert chosen(1, [running]) == "b"
    assert chosen(1, [running], lost=[0]) == "a"


def test_experts_are_skipped_where_none_leaves_log_probabilities() -> None:
    one = corner_run(0, "a", logprobs=None)
    two = corner_run(1, "b", logprobs=None)
    assert chosen(1, [one]) == "b"
    assert chosen(2, [one, two]) == "natural"
    assert chosen(3, [one, two, corner_run(2, "c")]) == "d"


def test_fixed_trials_do_not_make_others_wait() -> None:
    enqueued = record(0, params={"mix/a": 0.5}, fixed={"mix/a": 0.5})
    assert chosen(1, [enqueued]) == "a"
    assert chosen(1, [record(0)]) == "b"
    assert chosen(1, [record(0)], lost=[0]) == "a"


def test_the_model_waits_for_experts_that_are_being_trained() -> None:
    told = [corner_run(i, d) for i, d in enumerate("abc")]
    assert not rule(4, [*told, corner_run(3, "d", state=TrialState.RUNNING)]).experts_ready()
    assert rule(4, [*told, corner_run(3, "d")]).experts_ready()
    assert rule(4, told).experts_ready()
    assert not rule(4, told[:1]).experts_ready()
    assert rule(4, [], given=["a", "b"]).experts_ready()


def test_baselines_keep_the_caps() -> None:
    capped = Group("mix/", DOMAINS, (0.0,) * 4, (0.2, 1.0, 1.0, 0.1), GROUP.natural)
    target = rule(0, [], group=capped, given=DOMAINS).next_target()
    assert target is not None
    assert target.phase == "natural"
    assert (target.rates <= np.array(capped.upper)).all()
    assert target.rates.sum() == pytest.approx(1.0)


def test_baselines_are_not_run_again_when_caps_change() -> None:
    told = [corner_run(i, d) for i, d in enumerate(DOMAINS)]
    natural = at(4, GROUP.natural)
    uniform = at(5, [0.25] * 4)
    assert natural.published is not None
    tighter = Group("mix/", DOMAINS, (0.0,) * 4, (0.2, 0.9, 0.9, 0.9), GROUP.natural)
    assert chosen(6, [*told, natural, uniform], group=tighter) is None
    capped = replace(
        natural,
        published=replace(natural.published, phase="natural"),
        params=dict(zip(GROUP.names, (0.3, 0.3, 0.2, 0.2), strict=True)),
    )
    assert chosen(6, [*told, capped, uniform]) is None


def test_how_many_runs_the_model_waits_for_without_experts() -> None:
    big = Group("mix/", tuple(map(str, range(64))), (0.0,) * 64, (1.0,) * 64)
    assert [startup_runs(g) for g in (None, GROUP, big)] == [10, 6, 20]


def test_a_second_mixture_keeps_its_bounds_when_they_change() -> None:
    second = Group("late/", ("x", "y"), (0.0, 0.0), (1.0, 1.0))
    rates = {"late/x": 0.7, "late/y": 0.3}
    expert = corner_run(0, "a")
    expert = replace(expert, params={**expert.params, **rates}, groups=(GROUP, second))
    assert shared_mixture(second, [expert], GROUP).tolist() == [0.7, 0.3]
    capped = replace(second, upper=(0.5, 1.0))
    assert shared_mixture(capped, [expert], GROUP) == pytest.approx([0.5, 0.5])
    assert shared_mixture(second, [], GROUP).tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    ("lower", "upper", "experts"),
    [
        ((0.0,) * 4, (1.0,) * 4, {"a", "b", "c", "d"}),
        ((0.0,) * 4, (1.0, 0.5, 1.0, 0.0), {"a", "c"}),
        ((0.1, 0.0, 0.0, 0.0), (1.0,) * 4, {"a"}),
    ],
)
def test_under_strict_bounds_only_domains_that_may_stand_alone_are_trained_alone(
    lower: tuple[float, ...], upper: tuple[float, ...], experts: set[str]
) -> None:
    group = replace(GROUP, lower=lower, upper=upper, natural=None, strict=True)
    targets = rule(0, [], group=group)._targets()
    assert {target.domain for target in targets if target.domain} == experts
