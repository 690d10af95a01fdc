from __future__ import annotations

import pytest
from optuna_mde_trainers.corpus.documents import batches, content_key, excerpt, num_bytes

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
