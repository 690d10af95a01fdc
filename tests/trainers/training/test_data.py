from __future__ import annotations

import itertools

import pytest
import torch
from optuna_mde_trainers.corpus.blocks import Corpus
from optuna_mde_trainers.training.data import (
    Blocks,
    DataMismatchError,
    MicroBatches,
    ResumableLoader,
)
from optuna_mde_trainers.training.schedule import Schedule


@pytest.fixture
def blocks(tiny_corpus: Corpus) -> Blocks:
    return Blocks({name: tiny_corpus.train_blocks(name) for name in tiny_corpus.domains})


def _schedule(corpus: Corpus, seed: int = 0) -> Schedule:
    held = {name: info.blocks for name, info in corpus.domains.items()}
    mixture = {"letters": 0.5, "digits": 0.25, "signs": 0.25}
    return Schedule(mixture, held, steps=9, batch_size=6, seed=seed)


def _loader(
    blocks: Blocks, schedule: Schedule, *, step: int = 0, micro_batch_size: int = 6, **options: int
) -> ResumableLoader:
    return ResumableLoader(
        blocks,
        MicroBatches(schedule, micro_batch_size),
        fingerprint=schedule.fingerprint,
        step=lambda: step,
        **options,
    )


def test_blocks_are_read_by_domain_and_number(tiny_corpus: Corpus, blocks: Blocks) -> None:
    assert len(blocks) == sum(info.blocks for info in tiny_corpus.domains.values())
    places = [(name, i) for name in ("signs", "letters") for i in (5, 0, 2)]
    ids = blocks.__getitems__(places)
    assert ids.shape == (6, tiny_corpus.block_size + 1)
    assert ids.dtype == torch.int64
    for row, (name, block) in zip(ids, places, strict=True):
        assert torch.equal(row, tiny_corpus.train_blocks(name)[block]["input_ids"])
        assert torch.equal(row, blocks[name, block])


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("micro_batch_size", [6, 2])
def test_the_loader_follows_the_schedule(
    tiny_corpus: Corpus, blocks: Blocks, micro_batch_size: int, num_workers: int
) -> None:
    schedule = _schedule(tiny_corpus)
    loader = _loader(blocks, schedule, micro_batch_size=micro_batch_size, num_workers=num_workers)
    batches = list(loader)
    assert len(batches) == len(loader) == 9 * 6 // micro_batch_size
    assert all(len(batch) == micro_batch_size for batch in batches)
    places = itertools.chain.from_iterable(schedule.batch(step) for step in range(9))
    assert torch.equal(torch.cat(batches), blocks.__getitems__(list(places)))


@pytest.mark.parametrize("step", [1, 4, 9])
def test_a_loader_goes_on_at_the_step_of_its_state(
    tiny_corpus: Corpus, blocks: Blocks, step: int
) -> None:
    schedule = _schedule(tiny_corpus)
    everything = list(_loader(blocks, schedule, micro_batch_size=3))
    resumed = _loader(blocks, schedule, micro_batch_size=3)
    resumed.load_state_dict(_loader(blocks, schedule, step=step).state_dict())
    rest = list(resumed)
    assert len(resumed) == len(everything)
    assert len(rest) == len(everything) - 2 * step
    assert all(torch.equal(a, b) for a, b in zip(rest, everything[2 * step :], strict=True))


def test_the_state_of_other_data_is_refused(tiny_corpus: Corpus, blocks: Blocks) -> None:
    state = _loader(blocks, _schedule(tiny_corpus), step=3).state_dict()
    other = _schedule(tiny_corpus, seed=1)
    with pytest.raises(DataMismatchError, match=f"has {other.fingerprint}: delete the checkpoint"):
        _loader(blocks, other).load_state_dict(state)
