"""The README of a packed recording: what it holds, what made it, and how noisy it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from benchmarks.tables import EXPERT, KINDS, Recording, mean_of


def readme(recording: Recording) -> str:
    """Markdown text."""
    about = recording.about
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    corpus = about["corpus"]
    full = recording.budgets == 1.0
    seconds = np.median(recording.seconds[full])
    lines = [
        f"# Recorded runs: {recording.name}",
        "",
        f"{len(recording.index)} of {about['runs_designed']} designed runs "
        f"({_kinds(recording)}) on {len(recording.domains)} domains, with the losses on "
        f"{len(recording.sets)} validation sets in nats per token. "
        "`benchmarks/tables.py` describes the files and reads them.",
        "",
        "- Made by `python -m benchmarks.record definition.yaml FOLDER`, with the "
        "`definition.yaml` and `recording.yaml` that lie here, which resumes.",
        f"- A full run: {about['max_steps']} steps, {about['tokens']:,} tokens, "
        f"{seconds:.0f} s (median; one thread, on cores shared with other work).",
        f"- Versions: {versions}. The text is that of the packages in `recording.json` "
        "(`made_from`, `text_packages`).",
        f"- Fingerprints: corpus `{corpus['fingerprint']}`, tokenizer `{corpus['tokenizer']}`, "
        f"source `{corpus['source']}`.",
        f"- Natural mixture: {_rates(recording)}.",
        "",
        *_noise(recording),
        "",
        *_experts(recording),
    ]
    return "\n".join(lines) + "\n"


def _kinds(recording: Recording) -> str:
    counts = {kind: recording.kinds.count(kind) for kind in KINDS}
    return ", ".join(f"{kind} {count}" for kind, count in counts.items() if count)


def _rates(recording: Recording) -> str:
    pairs = zip(recording.domains, recording.natural, strict=True)
    return ", ".join(f"{name} {100 * rate:.1f} %" for name, rate in pairs)


def _noise(recording: Recording) -> Iterator[str]:
    groups = recording.repeated
    runs = sum(map(len, groups))
    yield "## Noise"
    yield ""
    if not groups:
        yield "No mixture has been repeated yet."
        return
    yield (
        f"From {len(groups)} mixtures with several seeds ({runs} runs). Spread: sd over the "
        f"{len(recording.designed)} mixtures of one seed. Share: of the sets' summed variance. "
        "Re-test: Spearman correlation between two seeds over the repeated mixtures. "
        "Reliability: 1 − seed variance / spread²."
    )
    yield ""
    yield "| set | mean loss | spread | share | seed sd | re-test ρ | reliability |"
    yield "|---|---|---|---|---|---|---|"
    variance = recording.losses[recording.designed].var(axis=0, ddof=1)
    for name, weights in _weightings(recording):
        single = weights.max() == 1.0
        share = f"{100 * variance[weights.argmax()] / variance.sum():.0f} %" if single else ""
        mean = (recording.losses[recording.designed] @ weights).mean()
        retest = f"{recording.retest(weights):.3f}".replace("nan", "–")
        yield (
            f"| {name} | {mean:.3f} | {recording.spread_of(weights):.4f} | {share} "
            f"| {recording.noise_of(weights):.4f} | {retest} "
            f"| {recording.reliability(weights):.3f} |"
        )


def _weightings(recording: Recording) -> Iterator[tuple[str, np.ndarray]]:
    yield "mean of all", mean_of(recording)
    yield "mean of the domains' own", mean_of(recording, recording.own)
    yield "mean of the unseen", mean_of(recording, recording.unseen)
    for name in recording.sets:
        label = f"{name} (unseen)" if name in recording.unseen else name
        yield label, mean_of(recording, (name,))


def _experts(recording: Recording) -> Iterator[str]:
    budgets = sorted(recording.experts, reverse=True)
    yield "## Experts"
    yield ""
    yield (
        "Loss on the expert's own set / mean over all sets, by budget (share of a full run's "
        "steps); epochs of its text in brackets where it repeats."
    )
    yield ""
    yield f"| domain | {' | '.join(f'{budget:g}' for budget in budgets)} |"
    yield f"|---|{'---|' * len(budgets)}"
    for domain in recording.domains:
        cells = [_expert_cell(recording, domain, budget) for budget in budgets]
        yield f"| {domain} | {' | '.join(cells)} |"


def _expert_cell(recording: Recording, domain: str, budget: float) -> str:
    rows: Sequence[int] = [
        row
        for row in recording.rows(EXPERT, budget=budget)
        if recording.mixtures[row, recording.domains.index(domain)] == 1.0
    ]
    if not rows:
        return ""
    losses = recording.losses[rows[0]]
    seen = recording.epochs(domain, budget)
    note = f" ({seen:.1f} epochs)" if seen > 1 else ""
    return f"{losses[recording.sets.index(domain)]:.3f} / {losses.mean():.3f}{note}"
