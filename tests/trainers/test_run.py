from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from optuna_mde_trainers.corpus.blocks import Corpus
from optuna_mde_trainers.run import train
from optuna_mde_trainers.spec import DivergedError, RunError, RunResult, RunSpec, naming
from safetensors.torch import load_file

from optuna_mde.mde.logprobs import load_logprobs

MakeSpec = Callable[..., RunSpec]

# For each case: trains in children that are killed as soon as a step is done, one after the other,
# and then to the end. The children are forks, so that Lightning is imported once.
KILLED_RUNS = """
import json, os, signal, sys
from pathlib import Path
import optuna_mde_trainers.training.fit
from optuna_mde_trainers.run import train
from optuna_mde_trainers.spec import RunSpec

for spec, runs, kills in json.load(sys.stdin):
    spec, runs = RunSpec.model_validate(spec), Path(runs)
    for kill_at in kills:
        def on_step(step, steps):
            if step == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
        child = os.fork()
        if child == 0:
            train(spec, runs, on_step=on_step)
            os._exit(1)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    steps = []
    train(spec, runs, on_step=lambda step, _: steps.append(step))
    print(steps[0])
"""


def _weights(runs: Path, spec: RunSpec) -> dict[str, torch.Tensor]:
    return load_file(runs / spec.folder_name / "model.safetensors")


def _assert_same_run(one: RunResult, other: RunResult) -> None:
    assert one.model_dump(exclude={"seconds", "ledger"}) == other.model_dump(
        exclude={"seconds", "ledger"}
    )


def test_a_run_learns_and_says_what_it_did(
    tiny_corpus: Corpus, make_spec: MakeSpec, tmp_path: Path
) -> None:
    spec = make_spec(max_steps=60)
    steps: list[tuple[int, int]] = []
    result = train(spec, tmp_path, on_step=lambda *step: steps.append(step))

    assert steps == [(step, 60) for step in range(1, 61)]
    assert list(result.losses) == list(tiny_corpus.sets)
    assert max(result.losses[name] for name in tiny_corpus.domains) < 0.8 * math.log(257)
    info = tiny_corpus.sets["digits"]
    bits = result.losses["digits"] * info.tokens / math.log(2) / info.bytes
    assert result.bits_per_byte["digits"] == pytest.approx(bits)
    assert result.tokens == 60 * 8 * 16
    assert result.parameters == sum(w.numel() for w in _weights(tmp_path, spec).values())
    for name, rate in spec.training.mixture.items():
        realised = result.realised[name]
        assert abs(realised.rate - rate) < 1 / 480
        assert realised.tokens == round(realised.rate * 480) * 16
        assert realised.epochs == realised.tokens / tiny_corpus.domains[name].tokens
    assert 0 < result.seconds < 60

    folder = tmp_path / spec.folder_name
    assert {path.name for path in folder.iterdir() if path.name != "run.lock"} == {
        "spec.json",
        "model.safetensors",
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "result.json",
    }
    assert RunSpec.read(folder / "spec.json") == spec
    assert RunResult.read(folder / "result.json") == result


def test_the_same_spec_gives_the_same_bits(make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec()
    torch.manual_seed(1)
    one = train(spec, tmp_path / "one")
    torch.manual_seed(2)
    other = train(spec, tmp_path / "other")
    _assert_same_run(one, other)
    reordered = make_spec(mixture={"signs": 0.2, "letters": 0.5, "digits": 0.3})
    _assert_same_run(one, train(reordered, tmp_path / "reordered"))
    assert train(make_spec(seed=1), tmp_path / "one").losses != one.losses


def test_reading_workers_change_nothing(make_spec: MakeSpec, tmp_path: Path) -> None:
    alone = train(make_spec(max_steps=6), tmp_path / "alone")
    helped = train(make_spec({"num_workers": 2}, max_steps=6), tmp_path / "helped")
    _assert_same_run(alone, helped)


def test_accumulated_gradients_are_those_of_the_whole_step(
    make_spec: MakeSpec, tmp_path: Path
) -> None:
    whole = train(make_spec(), tmp_path)
    parts = train(make_spec(micro_batch_size=2), tmp_path)
    assert parts.losses == pytest.approx(whole.losses, rel=1e-4)
    assert parts.train_loss == pytest.approx(whole.train_loss, rel=1e-4)


def test_killed_and_started_again_it_ends_with_the_same_bits(
    make_spec: MakeSpec, tmp_path: Path
) -> None:
    # A checkpoint every 5 of 24 steps, and kills before the first one, between two, right after
    # one, past half of the run, and with the last step done; then the step that each goes on with.
    cases: list[tuple[list[int], int, dict[str, int]]] = [
        ([3], 1, {}),
        ([7], 6, {}),
        ([11, 13], 11, {}),
        ([4, 19, 24], 21, {}),
        ([13], 11, {"micro_batch_size": 4}),
    ]
    specs = [make_spec({"checkpoint_every_n_steps": 5}, **training) for _, _, training in cases]
    folders = [tmp_path / f"killed {kills}" for kills, _, _ in cases]
    done = subprocess.run(
        [sys.executable, "-c", KILLED_RUNS],
        input=json.dumps(
            [
                (spec.model_dump(mode="json"), str(folder), kills)
                for spec, folder, (kills, _, _) in zip(specs, folders, cases, strict=True)
            ]
        ),
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    assert [int(step) for step in done.stdout.split()] == [first for _, first, _ in cases]
    for spec, folder in zip(specs, folders, strict=True):
        straight = train(spec, tmp_path / "straight")
        resumed = RunResult.read(folder / spec.folder_name / "result.json")
        _assert_same_run(resumed, straight)
        weights = _weights(folder, spec)
        for name, weight in _weights(tmp_path / "straight", spec).items():
            assert torch.equal(weights[name], weight)


def test_a_finished_run_is_not_trained_again(make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec()
    first = train(spec, tmp_path)

    def on_step(step: int, steps: int) -> None:
        raise AssertionError("trained again")

    again = train(make_spec({"num_threads": 2}), tmp_path, on_step=on_step)
    assert again == first


def test_a_run_of_the_first_release_is_not_trained_again(
    make_spec: MakeSpec, tmp_path: Path
) -> None:
    """Its folder had another name, and its files lack what came later."""
    spec = make_spec(max_steps=4)
    train(spec, tmp_path)
    name = naming.first_release_name(spec.training)
    assert name is not None
    folder = (tmp_path / spec.folder_name).rename(tmp_path / name)
    content = json.loads((folder / "result.json").read_text())
    del content["ledger"]
    (folder / "result.json").write_text(json.dumps({**content, "version": 1, "seconds": 99}))
    assert train(spec, tmp_path).seconds == 99
    logged = train(make_spec(score={"logprobs": True}, max_steps=4), tmp_path)
    assert (folder / str(logged.logprobs)).exists()
    assert not (tmp_path / spec.folder_name).exists()


def test_fields_of_a_newer_version_are_not_trained_without(
    make_spec: MakeSpec, tmp_path: Path
) -> None:
    content = make_spec().model_dump(mode="json") | {"version": 99}
    content["training"]["dropout"] = 0.1
    with pytest.raises(RunError, match=r"training\.dropout.*update"):
        train(RunSpec.parse(content), tmp_path)


def test_asking_a_finished_run_needs_no_torch(make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec()
    train(spec, tmp_path)
    code = (
        "import sys; from pathlib import Path;"
        "from optuna_mde_trainers.run import train; from optuna_mde_trainers.spec import RunSpec;"
        f"train(RunSpec.read(Path({str(tmp_path / spec.folder_name / 'spec.json')!r})),"
        f" Path({str(tmp_path)!r}));"
        "print({'torch', 'lightning', 'datasets'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_finished_run_is_scored_again_when_more_is_asked(
    tiny_corpus: Corpus, make_spec: MakeSpec, tmp_path: Path
) -> None:
    everything = train(make_spec(score={"logprobs": True}), tmp_path / "at_once")

    def no_step(step: int, steps: int) -> None:
        raise AssertionError("trained again")

    little = train(make_spec(score={"sets": ["mixed"]}), tmp_path / "later")
    assert list(little.losses) == ["mixed"]
    one = make_spec(score={"sets": ["digits"], "logprobs": True})
    more = train(one, tmp_path / "later", on_step=no_step)
    assert list(more.losses) == ["mixed", "digits"]
    path = tmp_path / "later" / one.folder_name / "logprobs.safetensors"
    assert list(load_logprobs(path)[0]) == ["digits"]
    most = train(make_spec(score={"logprobs": True}), tmp_path / "later", on_step=no_step)
    assert most.losses == everything.losses
    assert most.bits_per_byte == everything.bits_per_byte
    logprobs, metadata = load_logprobs(path)
    fingerprints = {name: info.fingerprint for name, info in tiny_corpus.sets.items()}
    assert json.loads(metadata["sets"]) == fingerprints
    other, _ = load_logprobs(tmp_path / "at_once" / one.folder_name / "logprobs.safetensors")
    for name, values in logprobs.items():
        np.testing.assert_array_equal(values, other[name])


def test_an_expert_file_says_whose_it_is(
    tiny_corpus: Corpus, make_spec: MakeSpec, tmp_path: Path
) -> None:
    spec = make_spec(mixture={"digits": 1.0}, score={"logprobs": True})
    result = train(spec, tmp_path)
    logprobs, metadata = load_logprobs(tmp_path / spec.folder_name / str(result.logprobs))
    assert metadata["domain"] == "digits"
    assert metadata["tokenizer"] == tiny_corpus.tokenizer_fingerprint
    assert metadata["tokens"] == str(result.tokens)
    for name, info in tiny_corpus.sets.items():
        assert logprobs[name].dtype == np.float32
        assert logprobs[name].shape == (info.tokens,)
        assert -logprobs[name].mean(dtype=np.float64) == result.losses[name]
    assert result.realised["letters"].tokens == 0
    assert result.losses["digits"] == min(result.losses.values())


def test_a_set_that_has_changed_is_scored_again(
    tiny_corpus: Corpus, make_spec: MakeSpec, tmp_path: Path
) -> None:
    first = train(make_spec(), tmp_path / "runs")
    changed = tmp_path / "corpus"
    shutil.copytree(tiny_corpus.folder, changed)
    shutil.rmtree(changed / "validation" / "mixed")
    shutil.copytree(changed / "validation" / "digits", changed / "validation" / "mixed")
    facts = json.loads((changed / "corpus.json").read_text())
    facts["sets"]["mixed"]["fingerprint"] = facts["sets"]["digits"]["fingerprint"]
    (changed / "corpus.json").write_text(json.dumps(facts))
    again = train(make_spec({"corpus_folder": str(changed)}), tmp_path / "runs")
    assert again.losses["mixed"] == again.losses["digits"] == first.losses["digits"]


def test_two_processes_share_one_run(make_spec: MakeSpec, tmp_path: Path) -> None:
    """The second waits for the first, and takes its result."""
    spec = make_spec()
    trained = threading.Event()
    results: list[RunResult] = []
    inside = threading.Event()

    def second() -> None:
        inside.wait()
        results.append(train(spec, tmp_path, on_step=lambda *_: trained.set()))

    thread = threading.Thread(target=second)
    thread.start()
    first = train(spec, tmp_path, on_step=lambda *_: inside.set())
    thread.join()
    assert results == [first]
    assert not trained.is_set()


def test_a_diverged_run_says_so(make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec(
        optimizer={"lr": 1e30, "warmup_steps": 0, "weight_decay": 0}, gradient_clip_val=0
    )
    steps: list[int] = []
    for _ in range(2):  # it is not tried again
        with pytest.raises(DivergedError, match=r"training loss is nan at step \d+ of 24"):
            train(spec, tmp_path, on_step=lambda step, _: steps.append(step))
    folder = spec.folder(tmp_path)
    assert steps == list(range(1, 11))  # given up well before the end
    result = RunResult.read(folder / "result.json")
    assert result.diverged is not None
    assert "lower training.optimizer.lr (1e+30)" in result.diverged
    assert result.losses == {}
    assert not (folder / "model.safetensors").exists()


def test_errors_name_the_mend(tiny_corpus: Corpus, make_spec: MakeSpec, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"score\.sets names prose, but .* has .*mixed"):
        train(make_spec(score={"sets": ["mixed", "prose"]}), tmp_path)
    with pytest.raises(RunError, match=r"training\.mixture: mixture names web"):
        train(make_spec(mixture={"web": 1.0}), tmp_path)
    with pytest.raises(RunError, match=rf"corpus is c0, but .* {tiny_corpus.fingerprint}"):
        train(make_spec(corpus="c0"), tmp_path)
    with pytest.raises(RunError, match=r"training\.tokenizer is t0"):
        train(make_spec(tokenizer="t0"), tmp_path)
    with pytest.raises(RunError, match=r"training\.model\.vocab_size \(100\) .* 257"):
        train(make_spec(model={"vocab_size": 100}), tmp_path)
    spec = make_spec(score={"sets": ["mixed"]}, max_steps=1)
    train(spec, tmp_path)
    (tmp_path / spec.folder_name / "model.safetensors").unlink()
    with pytest.raises(RunError, match=r"delete result\.json"):
        train(make_spec(max_steps=1), tmp_path)


def test_threads_are_given_back(make_spec: MakeSpec, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    seen: list[int] = []
    train(
        make_spec({"num_threads": 2}, max_steps=2),
        tmp_path,
        on_step=lambda *_: seen.append(torch.get_num_threads()),
    )
    assert seen == [2, 2]
    assert torch.get_num_threads() == before


def test_bfloat16_is_trained_and_scored_in_float32(make_spec: MakeSpec, tmp_path: Path) -> None:
    full = train(make_spec(), tmp_path)
    half = train(make_spec(precision="bf16-mixed"), tmp_path)
    assert half.losses != full.losses
    assert half.losses == pytest.approx(full.losses, rel=0.02)
