"""Scores on the way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from optuna_mde_trainers.corpus.blocks import Corpus
from optuna_mde_trainers.run import train
from optuna_mde_trainers.scoring.sets import score_sets
from optuna_mde_trainers.spec import RunError, RunSpec
from optuna_mde_trainers.training.decoder import Decoder
from pydantic import ValidationError
from safetensors.torch import load_file

from optuna_mde.mde.logprobs import load_logprobs

MakeSpec = Callable[..., RunSpec]


def _stop_at(step: int) -> Callable[[int, int], None]:
    def on_step(done: int, steps: int) -> None:
        if done == step:
            raise KeyboardInterrupt

    return on_step


def test_a_point_is_what_the_weights_of_its_step_give(
    tiny_corpus: Corpus, make_spec: MakeSpec, tmp_path: Path
) -> None:
    """Against the weights of a checkpoint of the same step."""
    spec = make_spec({"checkpoint_every_n_steps": 12}, {"at": [0.5, 0.25, 0.49]})
    with pytest.raises(KeyboardInterrupt):
        train(spec, tmp_path, on_step=_stop_at(13))
    state = torch.load(spec.folder(tmp_path) / "last.ckpt", weights_only=True)["state_dict"]
    model = Decoder(spec.training.model, tiny_corpus.vocab_size, tiny_corpus.block_size, seed=9)
    prefix = "model."
    model.load_state_dict(
        {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    )
    scores = score_sets(model, tiny_corpus, tiny_corpus.sets, device=torch.device("cpu"))

    result = train(spec, tmp_path)
    assert [point.step for point in result.points] == [6, 12]
    assert [point.schedule for point in result.points] == [0.25, 0.5]
    assert [point.tokens for point in result.points] == [6 * 8 * 16, 12 * 8 * 16]
    assert result.points[1].losses == {name: score.loss for name, score in scores.items()}
    assert result.points[0].losses["digits"] > result.points[1].losses["digits"]
    assert result.points[1].losses["digits"] > result.losses["digits"]


def test_points_change_nothing_of_the_run(make_spec: MakeSpec, tmp_path: Path) -> None:
    plain, watched = make_spec(), make_spec(score={"at": [0.1, 0.9]})
    one, other = train(plain, tmp_path / "plain"), train(watched, tmp_path / "watched")
    assert other.losses == one.losses
    assert other.train_loss == one.train_loss
    weights = load_file(plain.folder(tmp_path / "plain") / "model.safetensors")
    for name, weight in load_file(
        watched.folder(tmp_path / "watched") / "model.safetensors"
    ).items():
        assert torch.equal(weight, weights[name])


@pytest.mark.parametrize("stop", [6, 7, 11, 12])
def test_a_run_that_was_stopped_has_all_its_points(
    make_spec: MakeSpec, tmp_path: Path, stop: int
) -> None:
    """Stopped at the step of a point, of a checkpoint, of both, and between them."""
    spec = make_spec({"checkpoint_every_n_steps": 6}, {"at": [0.25, 0.5]})
    with pytest.raises(KeyboardInterrupt):
        train(spec, tmp_path / "stopped", on_step=_stop_at(stop))
    resumed = train(spec, tmp_path / "stopped")
    straight = train(spec, tmp_path / "straight")
    assert resumed.points == straight.points
    assert resumed.losses == straight.losses


def test_an_expert_leaves_log_probabilities_at_every_point(
    tiny_corpus: Corpus, make_spec: MakeSpec, tmp_path: Path
) -> None:
    spec = make_spec(mixture={"signs": 1.0}, score={"at": [0.5], "logprobs": True})
    (point,) = train(spec, tmp_path).points
    assert point.logprobs == "points/12.safetensors"
    arrays, metadata = load_logprobs(spec.folder(tmp_path) / point.logprobs)
    assert metadata["domain"] == "signs"
    assert metadata["tokens"] == str(point.tokens)
    for name, info in tiny_corpus.sets.items():
        assert len(arrays[name]) == info.tokens
        assert -arrays[name].mean(dtype=np.float64) == pytest.approx(point.losses[name], abs=1e-6)


def test_a_finished_run_has_no_points_any_more(make_spec: MakeSpec, tmp_path: Path) -> None:
    train(make_spec(max_steps=4, score={"at": [0.5]}), tmp_path)
    assert train(make_spec(max_steps=4), tmp_path).points  # that it has more is no fault
    with pytest.raises(RunError, match=r"not scored after step 1: leave score\.at out"):
        train(make_spec(max_steps=4, score={"at": [0.2, 0.5]}), tmp_path)


def test_points_need_all_weights_on_each_device(make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec({"strategy": "fsdp", "devices": 2}, {"at": [0.5]})
    with pytest.raises(RunError, match=r"score\.at needs all weights .* fsdp"):
        train(spec, tmp_path)


@pytest.mark.parametrize("share", [0, 1, -0.5])
def test_shares_lie_inside_of_the_run(make_spec: MakeSpec, share: float) -> None:
    with pytest.raises(ValidationError, match=r"score\.at\.0"):
        make_spec(score={"at": [share]})


def test_two_ranks_share_the_scoring(
    tiny_corpus: Corpus, make_spec: MakeSpec, tmp_path: Path
) -> None:
    score = {"at": [0.5], "logprobs": True}
    alone = train(make_spec(score=score, max_steps=4), tmp_path / "alone")
    spec = make_spec({"devices": 2}, score, max_steps=4)
    both = train(spec, tmp_path / "both")
    assert both.losses == pytest.approx(alone.losses, abs=1e-4)
    assert both.points[0].losses == pytest.approx(alone.points[0].losses, abs=1e-4)
    arrays, _ = load_logprobs(spec.folder(tmp_path / "both") / "logprobs.safetensors")
    kept, _ = load_logprobs(spec.folder(tmp_path / "alone") / "logprobs.safetensors")
    for name, info in tiny_corpus.sets.items():
        assert len(arrays[name]) == info.tokens
        np.testing.assert_allclose(arrays[name], kept[name], atol=1e-3)
