"""The training data of a run: blocks of the corpus in the order of its schedule.

The only state of the loader is the step. It is the Trainer's, not a count of batches fetched:
worker processes fetch ahead of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from lightning.pytorch import LightningDataModule
from optuna_mde_trainers.training.schedule import Schedule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

if TYPE_CHECKING:
    import datasets

Place = tuple[str, int]  # domain, block


class DataMismatchError(RuntimeError):
    """A checkpoint belongs to other data than the run that wants to go on from it."""


class Blocks(Dataset[Tensor]):
    """All domains' blocks behind one table, because each read costs as much as sixteen rows.

    Args:
        stores: Blocks of every domain: a dataset with a column `input_ids` of one fixed length.
    """

    def __init__(self, stores: Mapping[str, datasets.Dataset]) -> None:
        from datasets import concatenate_datasets

        lengths = [len(store) for store in stores.values()]
        starts = accumulate(lengths[:-1], initial=0)
        self.starts = dict(zip(stores, starts, strict=True))
        self.table = concatenate_datasets(list(stores.values())).with_format("torch")

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, place: Place) -> Tensor:
        return self.__getitems__([place])[0]

    def __getitems__(self, places: list[Place]) -> Tensor:
        """Token ids `[len(places), block_size + 1]`, int64."""
        rows = [self.starts[domain] + block for domain, block in places]
        ids: Tensor = self.table[rows]["input_ids"]
        return ids


class MicroBatches(Sampler[list[Place]]):
    """The places of every forward pass of one rank, from a step on; its length is that of the
    whole run.

    Lightning compares the length with the number of batches since the run began, so that of the
    batches left would end a resumed run early and start it over.
    """

    def __init__(
        self, schedule: Schedule, micro_batch_size: int, *, rank: int = 0, world_size: int = 1
    ) -> None:
        self.schedule = schedule
        self.micro_batch_size = micro_batch_size
        self.rank = rank
        self.world_size = world_size
        self.first_step = 0

    def __len__(self) -> int:
        share = self.schedule.batch_size // self.world_size
        return self.schedule.steps * share // self.micro_batch_size

    def __iter__(self) -> Iterator[list[Place]]:
        for step in range(self.first_step, self.schedule.steps):
            places = self.schedule.batch(step, rank=self.rank, world_size=self.world_size)
            for start in range(0, len(places), self.micro_batch_size):
                yield places[start : start + self.micro_batch_size]


class ResumableLoader(DataLoader[Tensor]):
    """A DataLoader that a checkpoint of the Trainer brings back to its step."""

    def __init__(
        self,
        blocks: Blocks,
        places: MicroBatches,
        *,
        fingerprint: str,
        step: Callable[[], int],
        **options: Any,
    ) -> None:
        # A batch arrives as one tensor: there is nothing to collate.
        super().__init__(blocks, batch_sampler=places, collate_fn=_as_it_is, **options)
        self._places = places
        self._fingerprint = fingerprint
        self._step = step

    def state_dict(self) -> dict[str, Any]:
        """The step that comes next, and the fingerprint of the data."""
        return {"step": self._step(), "fingerprint": self._fingerprint}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on at the step of a checkpoint.

        Raises:
            DataMismatchError: If the checkpoint was made with other data.
        """
        if state["fingerprint"] != self._fingerprint:
            raise DataMismatchError(
                f"the checkpoint was made with data {state['fingerprint']}, the run has "
                f"{self._fingerprint}: delete the checkpoint to start the run afresh"
            )
        self._places.first_step = state["step"]


class BlockDataModule(LightningDataModule):
    """The one split of a run, training: blocks of tokens, without transforms.

    Validation sets are scored when the run is finished (`scoring`), every token once.

    Args:
        stores: Blocks of every domain of the schedule that is drawn from.
        schedule: The order.
        fingerprint: Fingerprint of the corpus.
        micro_batch_size: Sequences a forward pass of a rank.
        num_workers: Processes that read; 0 reads in this one.
    """

    def __init__(
        self,
        stores: Mapping[str, datasets.Dataset],
        schedule: Schedule,
        *,
        fingerprint: str,
        micro_batch_size: int,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        self.blocks = Blocks(stores)
        self.schedule = schedule
        self.micro_batch_size = micro_batch_size
        self.fingerprint = f"{fingerprint}/{schedule.fingerprint}"
        self.num_workers = num_workers

    def passes_per_step(self, world_size: int) -> int:
        """Forward passes of each rank in a step."""
        return self.schedule.batch_size // world_size // self.micro_batch_size

    def train_dataloader(self) -> ResumableLoader:
        trainer = self.trainer
        assert trainer is not None
        return ResumableLoader(
            self.blocks,
            MicroBatches(
                self.schedule,
                self.micro_batch_size,
                rank=trainer.global_rank,
                world_size=trainer.world_size,
            ),
            fingerprint=self.fingerprint,
            step=lambda: trainer.global_step,
            num_workers=self.num_workers,
            pin_memory=trainer.strategy.root_device.type == "cuda",
        )


def _as_it_is(batch: Any) -> Any:
    return batch
