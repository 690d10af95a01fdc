from __future__ import annotations

import pytest
from optuna_mde_trainers.corpus.documents import (
    Chosen,
    Documents,
    batches,
    content_key,
    excerpt,
    first_bytes,
    num_bytes,
    shuffled,
    split,
    without_copies,
)


def chosen(number: int, size: int = 10) -> Chosen:
    texts = [f"text {i}" for i in range(number)]
    names = tuple(f"name {i}" for i in range(number))
    return Chosen(texts, tuple(range(number)), names, (size,) * number)


MIT = "MIT License\n\nCopyright (c) {owner}\n\nPermission is hereby granted, free of charge,\n"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("int x;\n", "int  x;\n\n", True),
        ("Int X;\n", "int x;\n", True),
        (MIT.format(owner="2019 Ann"), MIT.format(owner="2024 Bob & Co"), True),
        ("1 + 1 = 2", "1 - 1 = 2", False),
        ("conv1d", "conv2d", False),
        ("x\n" * 2000 + "Copyright A", "x\n" * 2000 + "Copyright B", False),
    ],
)
def test_what_counts_as_a_copy(one: str, other: str, same: bool) -> None:
    assert (content_key(one) == content_key(other)) is same


def test_of_copies_the_first_stays_over_all_sources() -> None:
    seen: set[bytes] = set()
    first = without_copies(Documents(["a", "b", "c"], ["one", "two", "One"]), seen)
    second = without_copies(Documents(None, [None, "two", " \n", "three", "three"]), seen)
    assert first.names == ("a", "b")
    assert list(first.texts()) == ["one", "two"]
    assert list(second.texts()) == ["three"]
    assert second.sizes == (5,)
    assert second.num_bytes == 5


def test_documents_without_names_are_split_by_their_text() -> None:
    texts = [f"document {i}" for i in range(100)]
    _, held = split(without_copies(Documents(None, texts), set()), 0.2)
    _, again = split(without_copies(Documents(None, texts[::-1]), set()), 0.2)
    assert set(held.texts()) == set(again.texts())


def test_a_split_holds_out_its_share_and_keeps_it_when_documents_come() -> None:
    train, held = split(chosen(5_000), 0.1)
    assert sorted(train.indices + held.indices) == list(range(5_000))
    assert len(held.indices) == pytest.approx(500, abs=3 * (5_000 * 0.1 * 0.9) ** 0.5)
    assert set(held.names) <= set(split(chosen(6_000), 0.1)[1].names)
    assert set(held.names) <= set(split(chosen(5_000), 0.2)[1].names)


def test_the_order_is_one_of_the_seed() -> None:
    one, again, other = (shuffled(chosen(100), seed) for seed in (0, 0, 1))
    assert one == again
    assert one.indices != other.indices
    assert sorted(one.indices) == sorted(other.indices) == list(range(100))
    assert list(one.texts()) == [f"text {i}" for i in one.indices]


@pytest.mark.parametrize(("limit", "number"), [(None, 7), (1, 1), (20, 2), (21, 3), (1000, 7)])
def test_the_first_documents_that_hold_some_bytes(limit: int | None, number: int) -> None:
    assert first_bytes(chosen(7), limit).indices == tuple(range(number))


def test_an_excerpt_is_whole_lines_from_within_the_text() -> None:
    text = "".join(f"line {i}\n" for i in range(1_000))
    part = excerpt(text, 100)
    assert part in text
    assert 50 < len(part) <= 100
    assert part.startswith("line ")
    assert part.endswith("\n")
    assert part == excerpt(text, 100)
    assert excerpt(text, len(text)) == text


def test_excerpts_begin_at_different_places() -> None:
    bodies = ["".join(f"{name} {i}\n" for i in range(500)) for name in "abcdefghij"]
    first_lines = {int(excerpt(body, 100).split()[1]) for body in bodies}
    assert len(first_lines) == 10
    assert max(first_lines) - min(first_lines) > 100


def test_a_text_without_lines_is_cut_anywhere() -> None:
    assert len(excerpt("a" * 1_000, 100)) == 100


def test_batches_keep_order_and_bound_their_size() -> None:
    texts = ["a" * 30 for _ in range(10)]
    assert [len(batch) for batch in batches(texts, 90)] == [3, 3, 3, 1]
    assert list(batches([], 90)) == []
    assert num_bytes("aä") == 3
