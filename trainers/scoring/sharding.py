"""A set shared by the processes of a run: each scores a part of its rows, and one has them all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Shard:
    """One process's part. All of them have to ask for the same things in the same order."""

    number: int = 0
    """Of the process, from 0."""
    size: int = 1
    """Processes."""

    def rows(self, total: int) -> range:
        """This process's rows of so many: contiguous, in the order of the processes."""
        return range(self.number * total // self.size, (self.number + 1) * total // self.size)

    def together(self, part: np.ndarray) -> np.ndarray | None:
        """All parts in the order of the rows, at process 0; None at the others."""
        if self.size == 1:
            return part
        import torch.distributed

        # Objects, as the parts may differ in length; one after the other, to hold one copy.
        if self.number:
            torch.distributed.send_object_list([part], dst=0)
            return None
        parts = [part]
        for other in range(1, self.size):
            box: list[np.ndarray | None] = [None]
            torch.distributed.recv_object_list(box, src=other)
            assert box[0] is not None
            parts.append(box[0])
        return np.concatenate(parts)
