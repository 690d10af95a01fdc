from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from optuna_mde_trainers.corpus.blocks import Corpus
from optuna_mde_trainers.run import train
from optuna_mde_trainers.spec import RunSpec
from optuna_mde_trainers.training.data import BlockDataModule
from optuna_mde_trainers.training.fit import fit
from optuna_mde_trainers.training.models import build
from optuna_mde_trainers.training.module import LanguageModel
from optuna_mde_trainers.training.schedule import Schedule
from torch.nn.functional import cross_entropy

MakeSpec = Callable[..., RunSpec]


def _parts(
    spec: RunSpec, corpus: Corpus
) -> tuple[torch.nn.Module, LanguageModel, BlockDataModule, Schedule]:
    training = spec.training
    model = build(
        training.model,
        vocab_size=corpus.vocab_size,
        max_positions=corpus.block_size,
        seed=training.seed,
    )
    schedule = Schedule(
        training.mixture,
        {name: info.blocks for name, info in corpus.domains.items()},
        steps=training.max_steps,
        batch_size=training.global_batch_size,
        seed=training.seed,
    )
    data = BlockDataModule(
        {name: corpus.train_blocks(name) for name in corpus.domains},
        schedule,
        fingerprint=corpus.fingerprint,
        micro_batch_size=training.micro_batches,
    )
    return model, LanguageModel(model, training.optimizer, training.max_steps), data, schedule


def test_the_trainer_computes_what_a_bare_loop_does_bit_by_bit(
    tiny_corpus: Corpus, make_spec: MakeSpec, tmp_path: Path
) -> None:
    spec = make_spec()
    trained, module, data, _ = _parts(spec, tiny_corpus)
    fit(module, data, spec, tmp_path)

    model, bare, data, schedule = _parts(spec, tiny_corpus)
    optimisers = bare.configure_optimizers()
    optimizer, rates = optimisers["optimizer"], optimisers["lr_scheduler"]["scheduler"]
    losses = []
    for step in range(spec.training.max_steps):
        ids = data.blocks.__getitems__(schedule.batch(step))
        loss = cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), spec.training.gradient_clip_val)
        optimizer.step()
        rates.step()
        losses.append(loss.detach())
    assert torch.equal(module.train_losses, torch.stack(losses))
    for a, b in zip(trained.parameters(), model.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("number", "error", "first"),
    [(signal.SIGINT, KeyboardInterrupt, 1), (signal.SIGTERM, SystemExit, 9)],
)
def test_a_run_stops_at_once_when_asked_to(
    make_spec: MakeSpec,
    tmp_path: Path,
    number: signal.Signals,
    error: type[BaseException],
    first: int,
) -> None:
    """On Ctrl-C as it is, on SIGTERM with a checkpoint; the handlers are then as before."""
    spec = make_spec()
    steps: list[int] = []

    def send(step: int, steps_of_run: int) -> None:
        steps.append(step)
        if step == 8:
            os.kill(os.getpid(), number)

    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    with pytest.raises(error) as caught:
        train(spec, tmp_path / "stopped", on_step=send)
    assert caught.type is not SystemExit
    assert len(steps) <= 9
    assert {n: signal.getsignal(n) for n in before} == before

    steps.clear()
    resumed = train(spec, tmp_path / "stopped", on_step=lambda step, _: steps.append(step))
    assert steps[0] == first
    assert resumed.losses == train(spec, tmp_path / "straight").losses


def test_training_is_quiet(
    make_spec: MakeSpec, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    level = logging.getLogger("lightning.pytorch").level
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_NTASKS", "4")  # what a cluster sets means nothing to a run
        train(make_spec(), tmp_path)
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("lightning.pytorch").level == level
