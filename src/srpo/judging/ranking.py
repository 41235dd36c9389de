"""The ranking: every policy's numbers from the evidence, and the order in which they are to be taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from srpo.judging.evidence import Evidence
from srpo.judging.panel import Candidate

SOON = 0.5  # of the steps that are known of the behavior: of a policy of which fewer are, too little is known
DRAWS = 1000


@dataclass(frozen=True)
class Judged:
    """One policy, in recorded rewards."""

    candidate: Candidate
    loose: float  # return in the learned model, not discounted; nothing is promised where the model knows nothing
    low: float  # its 95 % interval: networks and starts drawn with replacement
    high: float
    gain: float  # over the behavior, let loose in the same model
    gain_low: float  # its 95 % interval
    gain_high: float
    known: float  # steps of which the model knows something
    doubt: float  # how much the networks disagree along its way, times as much as along the behavior's
    tied: bool  # trusted, and its return cannot be told from that of the policy with the largest lower end
    value: float  # discounted, by fitted Q, at the first states of the held-out episodes
    q_gain: float  # over the behavior's, at all held-out states
    q_low: float
    q_high: float
    likelihood: float  # nats per step above those of the recorded actions; below zero: acts off the data
    td_error: float  # times the behavior's
    effective_share: float | None  # of the held-out rows that its weights leave, if it was trained with weights
    objection: str  # why it is not trusted, or nothing

    @property
    def trusted(self) -> bool:
        return not self.objection


def bootstrap(value: np.ndarray, draws: int = DRAWS) -> np.ndarray:
    """(draws, policies) means of values (policies, members, episodes): members, then episodes, drawn with replacement, the same for all policies."""
    rng = np.random.default_rng(0)
    _, members, episodes = value.shape
    some = value[:, rng.integers(0, members, (draws, members))].mean(2)  # (policies, draws, episodes)
    weight = rng.multinomial(episodes, np.full(episodes, 1 / episodes), draws) / episodes
    return np.einsum("pde,de->dp", some, weight)


def weigh(candidates: Sequence[Candidate], evidence: Evidence, shares: Sequence[float | None]) -> list[Judged]:
    """Every policy with its numbers, best first: by the lower end of its return. Those that cannot be told from the first by it
    come before all others, by how little the networks doubt their way: what is as good is not chosen by the noise of its
    return, but by what is surer (as in the rule of one standard error, Breiman et al., 1984)."""
    loose, known, doubt = (x.mean((1, 2)) for x in (evidence.loose, evidence.known, evidence.doubt))
    drawn = bootstrap(evidence.loose)
    low, high = np.quantile(drawn[:, :-1], [0.025, 0.975], axis=0)
    gain_low, gain_high = np.quantile(drawn[:, :-1] - drawn[:, -1:], [0.025, 0.975], axis=0)
    q_gain = evidence.value[:-1] - evidence.value[-1:]
    q_low, q_high = np.quantile(bootstrap(q_gain), [0.025, 0.975], axis=0)
    nats, ratio = evidence.likelihood.mean(1), evidence.td_error / max(evidence.td_error[-1], 1e-12)
    numbers = {
        "loose": loose[:-1], "low": low, "high": high, "known": known[:-1], "doubt": doubt[:-1] / max(doubt[-1], 1e-12),
        "gain": loose[:-1] - loose[-1], "gain_low": gain_low, "gain_high": gain_high,
        "value": evidence.start_value[:-1].mean((1, 2)), "q_gain": q_gain.mean((1, 2)), "q_low": q_low, "q_high": q_high,
        "likelihood": nats[:-1] - nats[-1], "td_error": ratio[:-1],
    }  # fmt: skip
    tied, judged = _like_the_first(drawn[:, :-1], low), []
    for i, (candidate, share) in enumerate(zip(candidates, shares, strict=True)):
        mine = {name: float(x[i]) for name, x in numbers.items()}
        objection = _objection(mine, float(known[-1]))
        alike = bool(tied[i]) and not objection
        judged.append(Judged(candidate=candidate, effective_share=share, objection=objection, tied=alike, **mine))
    return sorted(judged, key=_place)


def _like_the_first(drawn: np.ndarray, low: np.ndarray) -> np.ndarray:
    """(policies,) whether the 95 % interval of the difference to the one with the largest lower end reaches zero; drawn: (draws,
    policies) returns, low: the lower ends of theirs."""
    first = np.argmax(np.where(np.isfinite(low), low, -np.inf))
    return np.quantile(drawn - drawn[:, [first]], 0.975, axis=0) >= 0


def _place(j: Judged) -> tuple[bool, float]:
    """Sorts policies: the tied ones by their doubt, then the others by the lower ends of their returns."""
    if j.tied:
        return False, j.doubt
    return True, -j.low if np.isfinite(j.low) else np.inf


def _objection(numbers: Mapping[str, float], of_behavior: float) -> str:
    """Why a policy of which this is found is not trusted; `of_behavior`: the steps that are known of the behavior."""
    if not np.isfinite([numbers["loose"], numbers["low"], numbers["high"]]).all():
        return "its return in the model is not finite"
    if numbers["known"] < SOON * of_behavior:
        return f"it is known for {numbers['known']:.0f} steps, the behavior for {of_behavior:.0f}"
    return ""
