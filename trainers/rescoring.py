"""Scoring later: kept weights on sets that did not exist when they were trained.

What a run's folder holds stays as it is. Each set adds its own files:

    scores/<set>.json           `LaterScore`
    scores/<set>.safetensors    log-probabilities of its tokens, as an expert leaves them
    scores/<set>.choices.safetensors    of a prompt/target set, as `choices.safetensors`
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from filelock import FileLock
from optuna_mde_trainers.corpus.blocks import TOKENIZER_FILE, Corpus
from optuna_mde_trainers.corpus.corpora import CorpusConfig, prepare
from optuna_mde_trainers.corpus.prompts.source import TaskSource
from optuna_mde_trainers.corpus.sources import DomainSource
from optuna_mde_trainers.corpus.tokenizer import END_OF_TEXT
from optuna_mde_trainers.run import kept_model, threads
from optuna_mde_trainers.scoring.record import expert_of, keep_choices
from optuna_mde_trainers.spec import (
    LOCK_FILE,
    RESULT_FILE,
    SCORES_FOLDER,
    SPEC_FILE,
    TOKENIZER_CONFIG_FILE,
    LaterScore,
    LaunchSpec,
    RunError,
    RunResult,
    RunSpec,
)
from optuna_mde_trainers.training.ranks import (
    Rank,
    end_with_parent,
    other_ranks,
    process_group,
    this_rank,
)

if TYPE_CHECKING:
    from optuna_mde_trainers.scoring.sets import SetScore

Source = DomainSource | TaskSource


@dataclass(frozen=True)
class FinishedRun:
    """A run's folder, read."""

    folder: Path
    spec: RunSpec
    result: RunResult
    tokenizer: Path
    """Its tokenizer.json."""
    end_of_text: str
    block_size: int

    @classmethod
    def read(cls, folder: Path) -> FinishedRun:
        """What a folder says of its run.

        Raises:
            RunError: There is no finished run.
            CorpusError: A run of release 0.1.0, whose corpus is gone.
        """
        for name in (SPEC_FILE, RESULT_FILE):
            if not (folder / name).is_file():
                raise RunError(f"{folder} holds no finished run (no {name})")
        spec = RunSpec.read(folder / SPEC_FILE)
        result = RunResult.read(folder / RESULT_FILE)
        if result.diverged is not None:
            raise RunError(f"{folder} has diverged ({result.diverged}): there are no weights")
        path = folder / TOKENIZER_CONFIG_FILE
        if path.is_file():
            tokenizer = folder / TOKENIZER_FILE
            ends, block_size = _end_and_length(path)
        else:  # release 0.1.0 kept none beside the weights
            corpus = Corpus.load(spec.launch.corpus_folder)
            tokenizer = corpus.folder / TOKENIZER_FILE
            ends, block_size = END_OF_TEXT, corpus.block_size
        return cls(folder, spec, result, tokenizer, ends, block_size)

    @property
    def in_tokens(self) -> tuple[str, int]:
        """Runs that agree in this take the same sets: tokenizer and block size."""
        return self.spec.training.tokenizer, self.block_size


def _end_and_length(path: Path) -> tuple[str, int]:
    """End of text and length of a block, by the tokenizer's configuration."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        ends, block_size = config.get("eos_token", END_OF_TEXT), config["model_max_length"]
        if not isinstance(ends, str) or type(block_size) is not int or block_size < 1:
            raise ValueError("no end of text and length of a block")
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise RunError(f"{path} is damaged ({error}): put a copy of it back") from error
    return ends, block_size


def prepare_sets(
    run: FinishedRun,
    sets: Mapping[str, Source],
    folder: Path,
    *,
    validation_tokens: int,
    progress: Callable[[str], None] = lambda _: None,
) -> Corpus:
    """A corpus of sets alone, in the tokens of a run.

    Args:
        run: Says the tokenizer and the block size.
        sets: Name -> where it comes from.
        folder: Where the corpus goes.
        validation_tokens: Scored tokens of each set of text.
        progress: Called with short lines.

    Raises:
        CorpusError: A source cannot be read, or holds too little text.
        RunError: A source of the environment holds too little text.
    """
    config = CorpusConfig(
        domains={},
        validation={n: s for n, s in sets.items() if isinstance(s, DomainSource)},
        tasks={n: s for n, s in sets.items() if isinstance(s, TaskSource)},
        tokenizer={  # type: ignore[arg-type]
            "type": "pretrained",
            "path": str(run.tokenizer),
            "end_of_text": run.end_of_text,
        },
        block_size=run.block_size,
        validation_tokens=validation_tokens,
    )
    corpus = prepare(config, folder, progress=progress)
    for name in sets:
        if name not in corpus.sets:
            raise RunError(f"{name}: {corpus.dropped[name]}")
    return corpus


def score(
    run: FinishedRun, corpus: Corpus, *, accelerator: str, logprobs: bool, devices: int = 1
) -> dict[str, LaterScore]:
    """Score a run on the sets of a corpus; one that it has been scored on is taken as it is.

    Args:
        run: The run.
        corpus: Holds the sets, in the run's tokens.
        accelerator: Lightning's accelerator.
        logprobs: Whether the log-probabilities of all tokens are kept. Experts always keep them.
        devices: Devices of this machine that share every set; each has a process of its own.

    Raises:
        RunError: The run has another set of a name, or its weights are gone.
    """
    with FileLock(run.folder / LOCK_FILE):
        found = {name: _held(run, corpus, name) for name in corpus.sets}
        missing = [name for name, held in found.items() if held is None]
        if missing:
            alone = {"devices": devices, "num_nodes": 1, "strategy": None}
            launch = run.spec.launch.model_copy(update={"accelerator": accelerator, **alone})
            found |= _scored(run, corpus, missing, launch, logprobs)
    return {name: held for name, held in found.items() if held is not None}


def _held(run: FinishedRun, corpus: Corpus, name: str) -> LaterScore | None:
    if name in run.result.losses:
        raise RunError(
            f"{run.folder} was scored on a set called {name!r} when it was trained: "
            "choose another name"
        )
    path = _place(run, name, ".json")
    if not path.is_file():
        return None
    held = LaterScore.read(path)
    if held.fingerprint != corpus.sets[name].fingerprint:
        raise RunError(
            f"{path} is of another set called {name!r}: choose another name, or delete the file"
        )
    return held


def _scored(
    run: FinishedRun, corpus: Corpus, names: list[str], launch: LaunchSpec, logprobs: bool
) -> dict[str, LaterScore]:
    rank = this_rank(launch)
    if rank.is_launched:
        raise RunError("start this command once: it starts the processes of --devices itself")
    (run.folder / SCORES_FOLDER).mkdir(exist_ok=True)
    code = "import sys; from optuna_mde_trainers.rescoring import follow; follow(*sys.argv[1:])"
    told = (run.folder, corpus.folder, launch.model_dump_json(), json.dumps(names))
    with other_ranks(rank, ["-c", code, *map(str, told)]):
        return {
            name: _recorded(run, corpus, name, scored, logprobs)
            for name, scored in _shared(run.spec, corpus, run.folder, names, launch, rank)
        }


def follow(run: str, corpus: str, launch: str, names: str) -> None:
    """Take part as one of the ranks that `score` has started; arguments as on a command line."""
    end_with_parent()
    told = LaunchSpec.model_validate_json(launch)
    spec = RunSpec.read(Path(run) / SPEC_FILE)
    sets, rank = json.loads(names), this_rank(told)
    for _ in _shared(spec, Corpus.load(corpus), Path(run), sets, told, rank):
        pass


def _shared(
    spec: RunSpec, corpus: Corpus, folder: Path, names: list[str], launch: LaunchSpec, rank: Rank
) -> Iterator[tuple[str, SetScore]]:
    """One set after the other, so that its log-probabilities are let go before the next; on
    ranks other than the first nothing."""
    import torch
    from optuna_mde_trainers.scoring.sets import score_sets
    from optuna_mde_trainers.scoring.sharding import Shard
    from optuna_mde_trainers.training.devices import scoring_device

    model = kept_model(spec, corpus, folder)
    together = nullcontext() if rank.world_size == 1 else process_group(rank, launch)
    with threads(launch, rank), together:
        device = scoring_device(launch)
        if device.type == "cuda":
            device = torch.device("cuda", rank.local_number)
        model.to(device)
        shard = Shard(rank.number, rank.world_size)
        for name in names:
            yield from score_sets(model, corpus, [name], device=device, shard=shard).items()


def _recorded(
    run: FinishedRun, corpus: Corpus, name: str, scored: SetScore, logprobs: bool
) -> LaterScore:
    """Write what is kept of a set; the record last."""
    from optuna_mde import save_logprobs

    keep = logprobs or run.result.logprobs is not None
    if keep:
        save_logprobs(
            _place(run, name, ".safetensors"),
            {name: scored.logprobs},
            sets={name: scored.fingerprint},
            tokenizer=run.spec.training.tokenizer,
            tokens=run.result.tokens,
            run=run.folder.name,
            **expert_of(run.result),
        )
    if scored.choices is not None:
        keep_choices({name: scored.choices}, _place(run, name, ".choices.safetensors"))
    record = LaterScore(
        loss=scored.loss,
        bits_per_byte=scored.bits_per_byte,
        tokens=corpus.sets[name].tokens,
        fingerprint=scored.fingerprint,
        weights=run.spec.launch.keep_weights,
        task=None if scored.choices is None else scored.choices.summary,
        logprobs=_place(run, name, ".safetensors").name if keep else None,
    )
    record.write(_place(run, name, ".json"))
    return record


def _place(run: FinishedRun, name: str, suffix: str) -> Path:
    return run.folder / SCORES_FOLDER / f"{quote(name, safe='')}{suffix}"
