from __future__ import annotations

from pathlib import Path

import pytest
from optuna_mde_trainers.corpus.documents import CorpusError
from optuna_mde_trainers.corpus.prompts.examples import Example
from optuna_mde_trainers.corpus.prompts.tokens import PromptRows, encode
from optuna_mde_trainers.corpus.tokenizer import END_OF_TEXT, byte_tokenizer, train_bpe
from tokenizers import Tokenizer

from tests.trainers.tasks import task_corpus

QUESTION = "Question: wo ist die Tür?\nAnswer:"
EXAMPLES = [Example(QUESTION, (" là-bas", " hier"), 1), Example("", ("none",), 0)]


def _encode(tokenizer: Tokenizer, examples: list[Example], block_size: int = 64) -> PromptRows:
    end = tokenizer.token_to_id(END_OF_TEXT)
    return encode("tasks.x", examples, tokenizer, end_of_text=end, block_size=block_size)


@pytest.mark.parametrize("kind", ["bytes", "bpe"])
def test_a_row_is_prompt_and_choice_and_its_end_is_the_choice(kind: str) -> None:
    tokenizer = (
        byte_tokenizer(END_OF_TEXT)
        if kind == "bytes"
        else train_bpe(["Question: the answer is hier. Answer: hier"] * 9, 300, END_OF_TEXT)
    )
    rows = _encode(tokenizer, EXAMPLES)
    found = list(rows.table)
    assert [(r["example"], r["is_right"]) for r in found] == [(0, False), (0, True), (1, True)]
    for row, (prompt, choice) in zip(
        found, [(QUESTION, " là-bas"), (QUESTION, " hier"), ("", "none")], strict=True
    ):
        assert row["input_ids"][0] == tokenizer.token_to_id(END_OF_TEXT)
        scored = row["target_tokens"]
        assert tokenizer.decode(row["input_ids"][-scored:]) == choice
        assert tokenizer.decode(row["input_ids"][1:-scored]) == prompt
        assert row["target_bytes"] == len(choice.encode())
    assert rows.tokens == found[1]["target_tokens"] + found[2]["target_tokens"]
    assert rows.bytes == len(" hier") + len("none")
    assert (rows.examples, rows.cut) == (2, 0)


def test_a_token_across_the_border_belongs_to_the_choice() -> None:
    tokenizer = train_bpe(["ab"] * 50, 258, END_OF_TEXT)  # "ab" is one token
    (row,) = _encode(tokenizer, [Example("a", ("b",), 0)]).table
    assert tokenizer.decode(row["input_ids"][1:]) == "ab"
    assert (len(row["input_ids"]), row["target_tokens"]) == (2, 1)


def test_a_long_prompt_loses_its_beginning_and_a_long_choice_is_refused() -> None:
    tokenizer = byte_tokenizer(END_OF_TEXT)
    rows = _encode(tokenizer, [Example("0123456789", (" yes", " no"), 1)], block_size=8)
    assert rows.cut == 2
    assert [tokenizer.decode(row["input_ids"]) for row in rows.table] == [
        "56789 yes",
        "456789 no"[-9:],
    ]
    with pytest.raises(
        CorpusError, match=r"tasks\.x: ' far too long' of example 0 .* block_size 8"
    ):
        _encode(tokenizer, [Example("?", (" far too long",), 0)], block_size=8)


def test_the_fingerprint_is_of_what_is_scored() -> None:
    tokenizer = byte_tokenizer(END_OF_TEXT)
    plain = _encode(tokenizer, EXAMPLES).fingerprint
    assert _encode(tokenizer, EXAMPLES).fingerprint == plain
    other_right = [Example(QUESTION, (" là-bas", " hier"), 0), EXAMPLES[1]]
    for changed in (other_right, EXAMPLES[:1], [Example("", ("None",), 0)]):
        assert _encode(tokenizer, changed).fingerprint != plain
    # The border between prompt and choice is a part of it.
    one = _encode(tokenizer, [Example("ab", ("c",), 0)]).fingerprint
    assert _encode(tokenizer, [Example("a", ("bc",), 0)]).fingerprint != one


def test_text_that_names_the_end_of_text_is_text() -> None:
    tokenizer = byte_tokenizer(END_OF_TEXT)
    (row,) = _encode(tokenizer, [Example(END_OF_TEXT, (" x",), 0)]).table
    assert row["input_ids"].count(tokenizer.token_to_id(END_OF_TEXT)) == 1


def test_a_corpus_holds_its_tasks(tmp_path: Path) -> None:
    corpus = task_corpus(tmp_path)
    assert {name: info.kind for name, info in corpus.sets.items()} == {
        **{"one": "text", "two": "text"},
        **{"arc": "prompts", "multirc": "prompts"},
    }
    assert corpus.end_of_text == corpus.tokenizer().token_to_id(END_OF_TEXT)
    assert (corpus.sets["arc"].blocks, corpus.sets["multirc"].blocks) == (2, 3)
    assert corpus.sets["arc"].bytes == len(" the sun") + len(" grass")
    assert len(corpus.prompt_rows("arc")) == 5
