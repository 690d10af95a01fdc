"""90 % intervals of noise-free losses."""

from __future__ import annotations

from dataclasses import dataclass

Z90 = 1.6448536269514722  # half width of a 90 % interval, in sd


@dataclass(frozen=True)
class Interval:
    """A 90 % interval of a noise-free loss, nats per token."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.4f} [{self.low:.4f}, {self.high:.4f}]"


def interval(mean: float, sd: float) -> Interval:
    return Interval(float(mean), float(mean - Z90 * sd), float(mean + Z90 * sd))


def signed(found: Interval, sign: float) -> Interval:
    if sign > 0:
        return found
    return Interval(-found.mean, -found.high, -found.low)
