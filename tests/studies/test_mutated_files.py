"""Files of a study with something wrong in them: what is read can be used, or a sentence says
which file and what to do, and no other error ever comes out. Tables: `exchange/test_mutations`."""

from __future__ import annotations

import copy
import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optuna_mde_studies.runner.confirm import Confirmation, verdict
from optuna_mde_studies.runner.folder import StudyError, StudyFolder
from optuna_mde_trainers.corpus.blocks import Corpus, set_folder
from optuna_mde_trainers.corpus.documents import CorpusError
from optuna_mde_trainers.rescoring import FinishedRun
from optuna_mde_trainers.spec import RunError, RunResult, RunSpec, SpecError

from optuna_mde.mde.logprobs import ExpertFileError, load_logprobs, save_logprobs
from optuna_mde.objective import Objective

VALUES: list[Any] = [
    *(
        None,
        True,
        False,
        0,
        -1,
        1.5,
        float("nan"),
        float("inf"),
        -float("inf"),
        10**400,
        -(10**30),
    ),
    *(
        "",
        "x",
        "\0",
        "é漢字\ud800",
        "../../etc/passwd",
        "/etc/passwd",
        "http://a/b",
        "1e3",
        "%s{}$",
    ),
    *("a" * 5000, [], [1], ["a"], [[]], [None], {}, {"a": 1}, {"": None}, {"a": {"b": [1]}}),
    *([0, 10**18], "!!python/object:os.system", "<script>", "..", "C:\\x"),
]
PIECES = [b"\0", b"\xff\xfe", b"{", b"}", b'"', b",", b"NaN", b"\n", b"[" * 5000, b"1e999", b"\\u"]


def places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = data.items() if isinstance(data, dict) else enumerate(data)
    for key, value in items:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


def of_json(rng: random.Random, base: Any) -> bytes:
    """JSON of which one value, key or byte is another."""
    data = copy.deepcopy(base)
    *way, last = rng.choice(list(places(data)))
    section: Any = data
    for key in way:
        section = section[key]
    kind = rng.choice(["set", "set", "set", "drop", "rename", "all"])
    if kind == "set":
        section[last] = rng.choice(VALUES)
    elif kind == "drop":
        del section[last]
    elif kind == "rename" and isinstance(section, dict):
        section[str(rng.choice(VALUES))] = section.pop(last)
    elif kind == "all":
        data = rng.choice(VALUES)
    text = json.dumps(data, ensure_ascii=rng.random() < 0.5)
    return of_bytes(rng, text.encode("utf-8", "surrogatepass"))


def of_bytes(rng: random.Random, text: bytes) -> bytes:
    """The same, as often as not, or with a piece put in, a piece cut out or an end."""
    place = rng.randrange(len(text) + 1)
    kind = rng.random()
    if kind < 0.15:
        return text[:place] + rng.choice(PIECES) + text[place:]
    if kind < 0.2:
        return text[:place]
    if kind < 0.25:
        return text[:place] + text[place + rng.randrange(20) :]
    return text


def of_tensors(rng: random.Random, data: bytes) -> bytes:
    """A safetensors file with another header, or other numbers."""
    size = int.from_bytes(data[:8], "little")
    if rng.random() < 0.7:
        header = of_json(rng, json.loads(data[8 : 8 + size]))
        said = len(header) if rng.random() < 0.9 else rng.choice([0, 1, 10**6, 2**63])
        return said.to_bytes(8, "little") + header + data[8 + size :]
    values = np.frombuffer(data[8 + size :], dtype="<f4").copy()
    values[rng.randrange(len(values))] = rng.choice([np.nan, np.inf, 5.0, -np.inf, -1e30])
    return of_bytes(rng, data[: 8 + size] + values.tobytes())


# --- what each file is read by, and what must be possible with what was read ---------------------


def as_spec(path: Path) -> None:
    spec = RunSpec.read(path)
    assert len(spec.folder_name) == 16
    assert spec.folder(Path("runs")).parent == Path("runs")


def as_result(path: Path) -> None:
    result = RunResult.read(path)
    assert all(np.isfinite(loss) for loss in result.losses.values())
    for name in (result.logprobs, *(point.logprobs for point in result.points)):
        assert name is None or Path("run", name).resolve().is_relative_to(Path("run").resolve())
    result.write(path.with_name("written.json"))


def as_run(path: Path) -> None:
    run = FinishedRun.read(path.parent)
    assert run.block_size >= 1
    assert run.tokenizer.parent == path.parent


def as_confirmation(path: Path) -> None:
    found = Confirmation.read(path)
    assert found is not None
    goals = Objective.parse(next(iter(next(iter(found.losses.values()))[0])))
    for differences in found.differences(goals).values():
        verdict(differences, len(found.seeds))
    assert all(np.isfinite(run.high) for run in found.fresh_runs(goals).values())


def as_corpus(path: Path) -> None:
    corpus = Corpus.load(path.parent)
    for name in (*corpus.domains, *corpus.sets):
        assert set_folder(corpus.folder, "train", name).parent == corpus.folder / "train"
    assert all(0 <= share <= 1 for share in corpus.natural.values())


def as_expert(path: Path) -> None:
    arrays, metadata = load_logprobs(path)
    assert all(array.ndim == 1 and array.max() <= 1e-3 for array in arrays.values())
    assert isinstance(metadata, dict)


Mutate = Callable[[random.Random, Any], bytes]
KINDS: dict[str, tuple[Callable[[Path], None], tuple[type[Exception], ...]]] = {
    "spec.json": (as_spec, (SpecError,)),
    "result.json": (as_result, (SpecError,)),
    "tokenizer_config.json": (as_run, (RunError,)),
    "confirm.json": (as_confirmation, (StudyError,)),
    "corpus.json": (as_corpus, (CorpusError,)),
    "logprobs.safetensors": (as_expert, (ExpertFileError,)),
}


@pytest.fixture
def originals(tiny_run, tmp_path, monkeypatch) -> dict[str, tuple[Path, Mutate, Any]]:
    """Name -> a whole file of its kind, how to change it, and what is changed."""
    monkeypatch.chdir(tmp_path)
    folder = StudyFolder(tiny_run / "runs/tiny")
    run = next(path.parent for path in folder.runs.glob("*/logprobs.safetensors"))
    shutil.copytree(run, "run")
    shutil.copy(folder.confirmation, "confirm.json")
    Path("corpus").mkdir()
    shutil.copy(folder.corpus / "corpus.json", "corpus/corpus.json")
    logprobs = {name: -np.ones(6, np.float32) for name in ("code", "news")}
    save_logprobs("run/logprobs.safetensors", logprobs, sets={"code": "a", "news": "b"})
    found: dict[str, tuple[Path, Mutate, Any]] = {}
    for path in (Path("confirm.json"), Path("corpus/corpus.json"), *Path("run").glob("*.json")):
        found[path.name] = (path, of_json, json.loads(path.read_bytes()))
    expert = Path("run/logprobs.safetensors")
    found[expert.name] = (expert, of_tensors, expert.read_bytes())
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_each_of_300_mutated_files_is_read_or_refused_in_a_sentence(kind, originals):
    use, refused = KINDS[kind]
    path, mutate, base = originals[kind]
    use(path)
    rng, said = random.Random(7), []
    for _ in range(300):
        path.write_bytes(mutate(rng, base))
        try:
            use(path)
        except refused as error:
            said.append(str(error))
    assert len(said) > 60
    for text in said:
        assert path.name in text or kind == "tokenizer_config.json", text
        assert "\n" not in text.strip(), text
        assert len(text) < 2000
        assert "pattern" not in text
