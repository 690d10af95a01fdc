"""Where an end-task set comes from, and how its rows become prompts and targets.

A row is an example with one target, or with several choices of which one is right; or rows of
equal prompts are choices of one question, and a column says which are right (MultiRC).
"""

from __future__ import annotations

from typing import Any, Self

from optuna_mde_trainers.corpus.sources import FILE_BUILDERS, DomainSource
from pydantic import BaseModel, ConfigDict, model_validator

_ARC = {
    "path": "allenai/ai2_arc",
    "split": "validation",
    "prompt": "Question: {question}\nAnswer:",
    "choices": "choices.text",
    "labels": "choices.label",
    "answer": "answerKey",
}

# Columns and prompts of published sets; what is written beside `template` counts before it.
TEMPLATES: dict[str, dict[str, str]] = {
    "arc_easy": {**_ARC, "name": "ARC-Easy"},
    "arc_challenge": {**_ARC, "name": "ARC-Challenge"},
    "openbookqa": {
        "path": "allenai/openbookqa",
        "name": "main",
        "split": "validation",
        "prompt": "Question: {question_stem}\nAnswer:",
        "choices": "choices.text",
        "labels": "choices.label",
        "answer": "answerKey",
    },
    "multirc": {
        "path": "aps/super_glue",
        "name": "multirc",
        "split": "validation",
        "prompt": "{paragraph}\nQuestion: {question}\nAnswer:",
        "target": "{answer}",
        "is_right": "label",
    },
}
COLUMNS = {"prompt": "{prompt}", "target": "{target}"}  # where nothing is said
_PLACE = ("path", "name", "split")


class TaskSource(BaseModel):
    """One end-task set: the arguments of `datasets.load_dataset`, and a template."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    template: str | None = None
    """A published set: arc_easy, arc_challenge, openbookqa, multirc. It fills in the other fields;
    with `path` of a file format it says columns and prompt alone."""
    path: str | None = None
    """A dataset of the Hugging Face hub, a local folder, or a format (json, csv, parquet, …)."""
    name: str | None = None
    """Configuration of a dataset of the hub."""
    data_files: str | list[str] | dict[str, str | list[str]] | None = None
    """Files or patterns, also by split."""
    split: str | None = None
    """Split to read. None: `train`, the name that files without a split have."""
    revision: str | None = None
    """Version of a dataset of the hub."""
    prompt: str | None = None
    """What the model is given, with columns in braces: `Question: {question}`, also
    `{question[stem]}`. May be empty."""
    target: str | None = None
    """What it is to say, with columns in braces; a space is put before it where none stands."""
    choices: str | None = None
    """In the place of `target`: column of a list of choices; dots lead into a field of it."""
    answer: str | None = None
    """Column that says which choice is right: its place from 0, or one of `labels`."""
    labels: str | None = None
    """Column of a list of the choices' labels. None: `answer` is a place from 0."""
    is_right: str | None = None
    """Column that says whether the row's target is right (1) or wrong (0). Rows of equal prompts
    are then choices of one question. None: every target is right."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, fields: Any) -> Any:
        if not isinstance(fields, dict):
            return fields
        if fields.get("template") is None:
            said = any(fields.get(name) is not None for name in ("prompt", "target", "choices"))
            return fields if said else {**fields, **COLUMNS}
        name = fields["template"]
        if not isinstance(name, str) or name not in TEMPLATES:
            known = ", ".join(TEMPLATES)
            raise ValueError(f"no template is called {name!r}; there are {known}")
        filled = dict(TEMPLATES[name])
        if fields.get("path") is not None:  # another place than the published one
            filled = {key: value for key, value in filled.items() if key not in _PLACE}
        return {**filled, **fields}

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if self.path is None:
            raise ValueError("give path (a dataset, or json, csv, parquet with data_files)")
        if self.path == "text":
            raise ValueError("path 'text' has no columns for prompt and target; use json or csv")
        if self.prompt is None:
            raise ValueError("give template, or prompt with target or choices")
        if (self.target is None) == (self.choices is None):
            raise ValueError("give either target, or choices with answer")
        if self.choices is not None and self.answer is None:
            raise ValueError("choices need answer, the column that says which one is right")
        if self.choices is None and (self.answer or self.labels):
            raise ValueError("answer and labels go with choices")
        if self.choices is not None and self.is_right is not None:
            raise ValueError("is_right goes with target, not with choices")
        if self.path not in FILE_BUILDERS and self.split is None:
            raise ValueError(f"give the split of {self.path} to score, such as validation or test")
        self.text_source  # noqa: B018 - its own checks
        return self

    @property
    def text_source(self) -> DomainSource:
        """The same place as a source of text."""
        return DomainSource(
            path=self.path,
            name=self.name,
            data_files=self.data_files,
            split=self.split or "train",
            revision=self.revision,
        )
