"""Study definitions on disk: YAML in, a checked `StudyConfig` out; errors name line and field.

A definition is a YAML file, or the name of one that is shipped with the package. Overrides
(`training.max_steps=200`) are applied to the text's values before anything is checked, so that an
override passes through the same checks as the file.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from optuna_mde_studies.definition import partial
from optuna_mde_studies.definition.config import StudyConfig
from optuna_mde_studies.definition.consistency import FieldPath, inconsistencies
from optuna_mde_studies.wording import shown
from pydantic import BaseModel, ValidationError

SUFFIXES = (".yaml", ".yml")


class DefinitionError(ValueError):
    """What is wrong in a definition: one sentence a line, with the place and the mend."""

    rest: Definition | None = None
    """Where fields are wrong by themselves: the definition with something right in their place, if
    that can be had. Of its sources those are left that are what was written."""


@dataclass(frozen=True)
class Definition:
    """A checked definition and where each of its fields was written."""

    config: StudyConfig
    label: str
    """The file as the user named it."""
    places: dict[FieldPath, str]
    """Field -> `file:line` (or the override that set it)."""
    plain: StudyConfig | None = None
    """The same without overrides. None: there are none, or nothing is whole without them."""
    is_file: bool = True
    """Whether it was read from a file; else it came with a storage."""

    @property
    def as_written(self) -> StudyConfig:
        """The definition as its file has it, as far as that can be had."""
        return self.plain or self.config

    def place(self, field: FieldPath) -> str:
        """`file:line: a.b.c` of the field, or of the nearest one around it that was written."""
        return _place(field, self.places, self.label)

    def located(self, message: str) -> str:
        """A message that begins with a field, of the corpus or whole, with the field's place."""
        field, colon, rest = message.partition(": ")
        path: FieldPath = tuple(field.split("."))
        if path[0] in type(self.config.corpus).model_fields:
            path = ("corpus", *path)
        if not colon or path[0] not in StudyConfig.model_fields:
            return f"{self.label}: {message}"
        return f"{self.place(path)}: {rest}"


def read(name: str, overrides: Sequence[str] = ()) -> Definition:
    """Reads and checks a definition.

    Args:
        name: path of a YAML file, or the name of a shipped definition (`demo`).
        overrides: `dotted.field=value`, the value in YAML.

    Raises:
        DefinitionError: for whatever is wrong, all problems at once where possible.
    """
    definition, problems = examine(name, overrides)
    if problems:
        raise DefinitionError("\n".join(problems))
    return definition


def examine(name: str, overrides: Sequence[str] = ()) -> tuple[Definition, list[str]]:
    """The definition, and what does not agree in it: for who has more to say of it.

    Raises:
        DefinitionError: if fields are wrong by themselves, so that nothing can be built on them.
    """
    label, text = _find(name)
    return examine_fields(*_parse(text, label), label, overrides)


def examine_fields(
    data: dict[str, Any], places: dict[FieldPath, str], label: str, overrides: Sequence[str]
) -> tuple[Definition, list[str]]:
    """As `examine`, of fields that are read already.

    Args:
        data: the definition; overrides are written into it.
        places: where each field was written.
        label: where the definition is.
        overrides: `dotted.field=value`, the value in YAML.
    """
    plain = _without_overrides(data) if overrides else None
    for override in overrides:
        _override(data, places, override)
    try:
        config = StudyConfig.model_validate(data)
    except ValidationError as error:
        raise _refused(error, data, places, label) from None
    definition = Definition(config, label, places, plain)
    return definition, _placed(inconsistencies(config), places, label)


def _without_overrides(data: dict[str, Any]) -> StudyConfig | None:
    try:
        return StudyConfig.model_validate(copy.deepcopy(data))
    except ValidationError:
        return None


def _refused(
    error: ValidationError, data: dict[str, Any], places: dict[FieldPath, str], label: str
) -> DefinitionError:
    """What is wrong with fields by themselves, and what the others do not agree in."""
    said, rest = _problems(error, data, places, label), None
    found = partial.without(data, _wrong(error, data), _wrong)
    if found is not None:
        config, wrong = found
        said += _placed(inconsistencies(config, partial.named(wrong)), places, label)
        rest = Definition(partial.right_sources(config, wrong), label, places)
    refused = DefinitionError("\n".join(said))
    refused.rest = rest
    return refused


def _placed(
    found: Iterable[tuple[FieldPath, str]], places: dict[FieldPath, str], label: str
) -> list[str]:
    return [f"{_place(path, places, label)}: {_cut(text)}" for path, text in found]


def shipped() -> list[str]:
    """Names of the definitions that come with the package."""
    found = (Path(entry.name) for entry in files("optuna_mde_studies").iterdir())
    return sorted(path.stem for path in found if path.suffix in SUFFIXES)


def _find(name: str) -> tuple[str, str]:
    path = Path(name)
    if path.is_file():
        try:
            return name, path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DefinitionError(f"{name}: cannot be read as UTF-8 text ({error})") from None
    if name in shipped():
        resource = files("optuna_mde_studies") / f"{name}.yaml"
        return f"{name}.yaml", resource.read_text(encoding="utf-8")
    mend = f"shipped definitions are found by name: {', '.join(shipped())}"
    if path.stem in shipped():
        mend = f"the shipped one runs by its name alone: `{path.stem}`"
    raise DefinitionError(f"{name}: no such definition; {mend}")


# --- YAML with positions -------------------------------------------------------------------------


def _parse(text: str, label: str) -> tuple[dict[str, Any], dict[FieldPath, str]]:
    loader = None
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        lines = dict(_lines(node, loader, (), label)) if node is not None else {}
        data = loader.construct_document(node) if node is not None else None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark is not None else ""
        raise DefinitionError(f"{label}{line}: not valid YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise DefinitionError(f"{label}: not valid YAML: {reason}") from None
    except DefinitionError:
        raise
    except (ValueError, OverflowError, RecursionError) as error:  # 2020-99-99, [[[[[…
        raise DefinitionError(f"{label}: a value cannot be read ({error})") from None
    finally:
        if loader is not None:
            loader.dispose()
    if not isinstance(data, dict):
        raise DefinitionError(
            f"{label}:1: a definition is a mapping (`name: …`, `corpus: …`), "
            f"not {type(data).__name__}"
        )
    return data, {path: f"{label}:{line}" for path, line in lines.items()}


def _lines(
    node: yaml.Node, loader: yaml.SafeLoader, path: FieldPath, label: str
) -> Iterator[tuple[FieldPath, int]]:
    """Yields the line, from 1, on which every field begins; refuses a key that is there twice."""
    if isinstance(node, yaml.SequenceNode):
        for index, child in enumerate(node.value):
            yield (*path, index), child.start_mark.line + 1
            yield from _lines(child, loader, (*path, index), label)
    if not isinstance(node, yaml.MappingNode):
        return
    seen: set[Hashable] = set()
    for key_node, child in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge" or not isinstance(key_node, yaml.ScalarNode):
            continue
        key: Any = loader.construct_object(key_node)
        line = key_node.start_mark.line + 1
        if not isinstance(key, str) and path[:1] != ("model",):  # transformers has numbers there
            written = _cut(" ".join(key_node.value.split()), LONGEST // 4)
            raise DefinitionError(
                f"{label}:{line}: {dotted((*path, written))}: YAML reads this name as "
                f"{key!r:.80}; put it in quotes, '{written}'"
            )
        if key in seen:
            raise DefinitionError(
                f"{label}:{line}: {dotted((*path, key))}: written twice; keep one"
            )
        seen.add(key)
        yield (*path, key), line
        yield from _lines(child, loader, (*path, key), label)


def _override(data: dict[str, Any], places: dict[FieldPath, str], override: str) -> None:
    name, equals, text = override.partition("=")
    override = shown(override)
    path: FieldPath = tuple(name.strip().split("."))
    if not equals or not all(path):
        raise DefinitionError(
            f"--set {override}: write `field=value`, such as `training.max_steps=200`"
        )
    section: Any = data
    for depth, key in enumerate(path[:-1], 1):
        if section.get(key) is None:
            section[key] = {}
            places[path[:depth]] = f"--set {override}"
        section = section[key]
        if not isinstance(section, dict):
            raise DefinitionError(f"--set {override}: {dotted(path[:depth])} has no fields")
    try:
        section[path[-1]] = yaml.safe_load(text)
    except yaml.YAMLError:
        raise DefinitionError(f"--set {override}: the value is not valid YAML") from None
    for known in [known for known in places if known[: len(path)] == path]:
        del places[known]
    places[path] = f"--set {override}"


# --- pydantic's errors in the user's words -------------------------------------------------------


LONGEST = 400
"""Characters of a message: a field's name or value may be a whole file."""


def dotted(path: FieldPath) -> str:
    return _cut(".".join(map(str, path)), LONGEST // 4)


def _cut(text: str, length: int = LONGEST) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _place(path: FieldPath, places: dict[FieldPath, str], label: str) -> str:
    written = next((path[:n] for n in range(len(path), 0, -1) if path[:n] in places), None)
    place = places[written] if written is not None else label
    return f"{place}: {dotted(path)}" if path else place


def _problems(
    error: ValidationError, data: dict[str, Any], places: dict[FieldPath, str], label: str
) -> list[str]:
    """One line a field; the arms of a union, which pydantic lists one by one, are joined."""
    by_field: dict[FieldPath, list[str]] = {}
    received: dict[FieldPath, str] = {}
    meant: set[FieldPath] = set()
    for problem in error.errors(include_url=False):
        kind, location = problem["type"], problem["loc"]
        path = _written(location, data)
        if kind == "missing":
            path, message = (*path, location[-1]), "missing; add it"
        elif kind == "extra_forbidden":
            suggestion, field = _suggestion(path)
            message = "unknown key" + suggestion
            meant |= {field} if field else set()
        elif kind == "value_error":
            message = str(problem["ctx"]["error"])
        else:
            message = _said(kind, path) or problem["msg"][0].lower() + problem["msg"][1:]
            received[path] = f" (got {shown(repr(problem['input'])):.80})"
        messages = by_field.setdefault(path, [])
        if message not in messages:
            messages.append(message)
    for field in meant:  # a key that is only misspelt is not missing as well
        if by_field.get(field) == ["missing; add it"]:
            del by_field[field]
    return [
        f"{_place(path, places, label)}: {_cut(', or '.join(messages))}{received.get(path, '')}"
        for path, messages in by_field.items()
    ]


def _wrong(error: ValidationError, data: dict[str, Any]) -> list[FieldPath]:
    """The fields that an error is about."""
    found = []
    for problem in error.errors(include_url=False):
        path = _written(problem["loc"], data)
        found.append((*path, problem["loc"][-1]) if problem["type"] == "missing" else path)
    return found


def _said(kind: str, path: FieldPath) -> str:
    """What pydantic says of Python's types, for a reader of YAML; empty where its words do."""
    if kind == "model_type":
        section = _section(path)
        known = ", ".join(section.model_fields) if section is not None else ""
        return f"fields of its own are needed, `{{field: value}}`; known here: {known}"
    if kind == "dict_type":
        return "names with values are needed, `{name: value}`"
    if kind in ("tuple_type", "too_long"):
        return "a list of two is needed, `[first, second]`"
    if kind in ("int_parsing", "int_from_float", "int_type"):
        return "a whole number is needed (1000 or 1_000, not 1e3)"
    if kind in ("finite_number", "int_parsing_size"):
        return "a number of finite size is needed"
    return ""


def _written(location: tuple[str | int, ...], data: Any) -> FieldPath:
    """The part of pydantic's location that is a path in the data (unions and checks add names)."""
    path: list[str | int] = []
    for key in location:
        try:
            data = data[key]
        except (KeyError, IndexError, TypeError):
            continue
        path.append(key)
    return tuple(path)


def _suggestion(path: FieldPath) -> tuple[str, FieldPath | None]:
    """What may have been meant by an unknown key: the nearest one of its section, or the section
    it belongs to. In words, and as a field."""
    key = str(path[-1])
    section = _section(path[:-1])
    known = list(section.model_fields) if section is not None else []
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    if near:
        return f"; did you mean `{near[0]}`?", (*path[:-1], near[0])
    elsewhere = next(((*home, key) for home in _homes(StudyConfig, key)), None)
    if elsewhere:
        return f"; did you mean `{dotted(elsewhere)}`?", elsewhere
    return f"; known here: {', '.join(known)}" if known else "; remove it", None


def _section(path: FieldPath) -> type[BaseModel] | None:
    """The model that checks the mapping at `path`."""
    kind: Any = StudyConfig
    for key in path:
        model = _model(kind)
        if model is not None:
            field = model.model_fields.get(str(key))
            kind = field.annotation if field is not None else None
        else:
            kind = next(iter(reversed(get_args(kind))), None)  # dict[str, Item] -> Item
    return _model(kind)


def _model(kind: Any) -> type[BaseModel] | None:
    if get_origin(kind) in (Union, UnionType, Annotated):
        return next((found for arm in get_args(kind) if (found := _model(arm))), None)
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _homes(model: type[BaseModel], key: str, path: FieldPath = ()) -> Iterator[FieldPath]:
    if key in model.model_fields and path:
        yield path
    for name, field in model.model_fields.items():
        inner = _model(field.annotation)
        if inner is not None:
            yield from _homes(inner, key, (*path, name))
