"""A mixture as the configuration of the program that trains the large model.

Rates have six digits and sum to 1. Megatron-LM and MosaicML's streaming refuse a data set with
the weight 0, so that domains without a share are left out of all forms but the plain ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import yaml
from optuna_mde_studies.wording import copyable

DECIMALS = 6
"""Digits of a rate: a millionth of a trillion tokens is still a million."""


def rendered(form: str, mixture: Mapping[str, float]) -> str:
    """The text of a configuration, one of `FORMS`.

    Raises:
        ValueError: if a domain's name cannot stand in that form.
    """
    return FORMS[form](copyable(mixture, DECIMALS))


def _yaml(rates: Mapping[str, float]) -> str:
    return _dumped(dict(rates))


def _megatron(rates: Mapping[str, float]) -> str:
    """A file for `--data-args-path`, and by its words the arguments of `--data-path`."""
    for domain in rates:
        if domain.split() != [domain]:
            raise ValueError(
                f"the domain {domain!r} has a space in its name, which Megatron-LM would take for "
                "two; take --format yaml"
            )
    return "".join(f"{_plain(rate)} {domain}\n" for domain, rate in _shares(rates).items())


def _mosaicml(rates: Mapping[str, float]) -> str:
    """`streams` of a StreamingDataset, as in the YAML of llm-foundry."""
    streams = {
        domain: {"local": domain, "proportion": rate} for domain, rate in _shares(rates).items()
    }
    return _dumped({"streams": streams})


def _litgpt(rates: Mapping[str, float]) -> str:
    """Names and weights for the `CombinedStreamingDataset` of a data module of LitGPT."""
    kept = _shares(rates)
    return f"domains = {list(kept)!r}\nweights = {list(kept.values())!r}\n"


def _olmix(rates: Mapping[str, float]) -> str:
    """The section `mix` of olmix's launch configuration."""
    mix = {
        domain: {"weight": rate, "repetition_factor": 1.0}
        for domain, rate in _shares(rates).items()
    }
    return _dumped({"mix": mix})


FORMS: dict[str, Callable[[Mapping[str, float]], str]] = {
    "yaml": _yaml,
    "megatron": _megatron,
    "mosaicml": _mosaicml,
    "litgpt": _litgpt,
    "olmix": _olmix,
}


def _shares(rates: Mapping[str, float]) -> dict[str, float]:
    return {domain: rate for domain, rate in rates.items() if rate > 0}


def _plain(rate: float) -> str:
    """Without an exponent."""
    return f"{rate:.{DECIMALS}f}".rstrip("0").rstrip(".")


def _dumped(data: object) -> str:
    return str(yaml.safe_dump(data, sort_keys=False, allow_unicode=True))
