"""Where documents lie in a block, for models whose positions see their own document alone.

A document is opened by end-of-text (`corpus.blocks`); a block may begin in the middle of one.
"""

from __future__ import annotations

import torch
from torch import Tensor


def document_of(ids: Tensor, end_of_text: int) -> Tensor:
    """Number of the document that each position belongs to: `[b, t]` -> `[b, t]`, from 0 or 1."""
    return (ids == end_of_text).cumsum(dim=-1)


def same_document(ids: Tensor, end_of_text: int) -> Tensor:
    """Which positions each sees, `[b, 1, t, t]` bool: those up to it, of its own document."""
    documents = document_of(ids, end_of_text)
    t = ids.shape[-1]
    causal = torch.ones(t, t, dtype=torch.bool, device=ids.device).tril()
    return (documents[:, :, None] == documents[:, None, :]).logical_and(causal)[:, None]


def positions(ids: Tensor, end_of_text: int) -> Tensor:
    """Place of each position in its document, `[b, t]`, from 0."""
    places = torch.arange(ids.shape[-1], device=ids.device).expand_as(ids)
    opened = torch.where(ids == end_of_text, places, 0).cummax(dim=-1).values
    return places - opened
