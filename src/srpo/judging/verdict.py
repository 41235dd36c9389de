"""From evidence to a ranking and advice: which policy to take, whether any is better than cloning, and when nothing can be said."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from srpo.judging.evidence import Evidence
from srpo.judging.panel import Candidate

FAR = 0.0  # nats per step below the recorded actions: a policy that knows the data acts more, not less, as they mostly do
ODD = 1.05  # times the behavior's own error of one step on held-out transitions: beyond, Q does not fit this policy
DRAWS = 1000


@dataclass(frozen=True)
class Judged:
    """One policy. Values are discounted returns in recorded rewards, `gain` that over the behavior's at the same states."""

    candidate: Candidate
    value: float  # at the first states of the held-out episodes
    gain: float
    low: float  # 95 % interval of the gain: members and episodes drawn with replacement
    high: float
    likelihood: float  # nats per step above those of the recorded actions; below zero: acts off the data
    td_error: float  # times the behavior's
    effective_share: float | None  # of the held-out rows that its weights leave, if it was trained with weights
    objection: str  # why it is not trusted, or nothing

    @property
    def trusted(self) -> bool:
        return not self.objection


@dataclass(frozen=True)
class Judgement:
    """What `srpo judge` says; printing it shows the ranking and the advice."""

    data: str
    episodes: int  # held out
    discount: float
    returned: float  # mean discounted return of the held-out episodes
    predicted: float  # the behavior's value at their first states
    slope: float  # of held-out returns to go against the behavior's Q: 1 if calibrated
    correlation: float
    ranking: tuple[Judged, ...]  # best first, those that are not trusted last
    answer: str  # "take", "cannot tell" or "none"
    advice: tuple[str, ...]

    @property
    def choice(self) -> Candidate | None:
        """The policy to take; None if none can be trusted."""
        return self.ranking[0].candidate if self.answer != "none" else None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        rows = [asdict(j) | {"trusted": j.trusted, "recipe": j.candidate.recipe} for j in self.ranking]
        for row in rows:
            row["candidate"]["point"] = dict(row["candidate"]["point"])
        chosen = None if self.choice is None else rows[0]["candidate"]
        return asdict(self) | {"ranking": rows, "choice": chosen, "advice": list(self.advice)}

    def __str__(self) -> str:
        head = f"{len(self.ranking)} policies on {self.data}, judged by {self.episodes} held-out episodes (discount {self.discount:g})"
        columns = f"{'':<44}{'seed':>5}{'value':>10}{'gain':>9}{'95 % interval':>20}{'nats':>8}{'TD':>6}"
        return "\n".join([head, columns, *map(_line, self.ranking), *self.advice])


def _line(j: Judged) -> str:
    interval = f"{j.low:.3g} to {j.high:.3g}"
    text = f"{j.candidate.recipe:<44}{j.candidate.seed:>5}{j.value:>10.4g}{j.gain:>9.3g}{interval:>20}{j.likelihood:>8.2f}{j.td_error:>6.2f}"
    return text + (f"  not trusted: {j.objection}" if j.objection else "")


def bootstrap(gain: np.ndarray, draws: int = DRAWS) -> np.ndarray:
    """(draws, policies) means of `gain` (policies, members, episodes): members, then episodes, drawn with replacement, the same for all policies."""
    rng = np.random.default_rng(0)
    _, members, episodes = gain.shape
    some = gain[:, rng.integers(0, members, (draws, members))].mean(2)  # (policies, draws, episodes)
    weight = rng.multinomial(episodes, np.full(episodes, 1 / episodes), draws) / episodes
    return np.einsum("pde,de->dp", some, weight)


def weigh(candidates: Sequence[Candidate], evidence: Evidence, shares: Sequence[float | None]) -> list[Judged]:
    """Every policy with its numbers, best first."""
    gain = evidence.value[:-1] - evidence.value[-1:]
    low, high = np.quantile(bootstrap(gain), [0.025, 0.975], axis=0)
    nats = evidence.likelihood.mean(1)
    ratio = evidence.td_error / evidence.td_error[-1]
    judged = []
    for i, candidate in enumerate(candidates):
        likelihood = float(nats[i] - nats[-1])
        objection = _objection(float(gain[i].mean()), likelihood, float(ratio[i]))
        value = float(evidence.start_value[i].mean())
        numbers = (value, float(gain[i].mean()), float(low[i]), float(high[i]), likelihood, float(ratio[i]))
        judged.append(Judged(candidate, *numbers, shares[i], objection))
    return sorted(judged, key=_order)


def _order(j: Judged) -> tuple[bool, float]:
    """Those that are trusted by the lower end of their gain, then the others, whose gain means nothing, by their error."""
    return not j.trusted, -j.low if j.trusted else j.td_error if np.isfinite(j.td_error) else np.inf


def _objection(gain: float, likelihood: float, ratio: float) -> str:
    if not np.isfinite([gain, likelihood, ratio]).all():
        return "its Q is not finite"
    if likelihood < -FAR:
        return f"it acts {-likelihood:.1f} nats per step off the data"
    if ratio > ODD:
        return f"its Q errs {ratio:.1f} times as much as the behavior's"
    return ""


def judgement(data: str, discount: float, candidates: Sequence[Candidate], evidence: Evidence, shares: Sequence[float | None]):
    """The whole: ranking, answer and advice."""
    ranking = weigh(candidates, evidence, shares)
    answer, advice = _advise(ranking, evidence, 1 / (1 - discount))
    return Judgement(
        data,
        len(evidence.returns),
        discount,
        float(evidence.returns.mean()),
        float(evidence.start_value[-1].mean()),
        evidence.slope,
        evidence.correlation,
        tuple(ranking),
        answer,
        tuple(advice),
    )


def _advise(ranking: Sequence[Judged], evidence: Evidence, horizon: float) -> tuple[str, list[str]]:
    trusted = [j for j in ranking if j.trusted]
    reliable, said = _reliable(evidence)
    left_out = f"{len(ranking) - len(trusted)} of {len(ranking)} policies are not trusted: they act far off the data, or their Q does not fit"
    lines = [said] + ([left_out] if len(trusted) < len(ranking) else [])
    if not trusted:
        return "none", [*lines, "none can be trusted: train closer to the data (a smaller beta), or clone (--algo bc)"]
    best = trusted[0]
    if best.high < 0:
        return "none", [*lines, "none is better than cloning: clone (--algo bc), or record better data"]
    lines += [_take(best), *_temperatures(best, trusted), *_checkpoint(best, ranking)]
    if not reliable:
        return "cannot tell", [*lines, "cannot tell how good it is: Q does not give back what the held-out episodes returned"]
    if evidence.ends_after > horizon:
        late = f"episodes end by themselves, after {evidence.ends_after:.0f} steps, and the discount sees about {horizon:.0f}"
        return "cannot tell", [
            *lines,
            f"cannot tell whether it is better than cloning: {late}; a larger q.discount sees further",
        ]
    if best.low <= 0:
        return "cannot tell", [*lines, "cannot tell whether it is better than cloning: the interval of its gain contains zero"]
    return "take", [*lines, f"better than the behavior by {best.gain:.3g} (95 % interval {best.low:.3g} to {best.high:.3g})"]


def _reliable(evidence: Evidence) -> tuple[bool, str]:
    """Whether the behavior's Q predicts what held-out episodes returned: within their spread, and not against their order."""
    returned, predicted = evidence.returns.mean(), evidence.start_value[-1].mean()
    spread = evidence.returns.std() + 2 * evidence.returns.std() / np.sqrt(len(evidence.returns))
    fine = bool(abs(predicted - returned) <= spread and evidence.correlation > 0)
    text = f"{len(evidence.returns)} held-out episodes returned {returned:.4g}, the behavior's Q predicts {predicted:.4g}"
    return fine, f"{text}; its correlation with returns to go is {evidence.correlation:.2f}"


def _take(best: Judged) -> str:
    c = best.candidate
    point = "".join(f" {path}={value:g}" for path, value in c.point) + ("" if c.beta is None else f" beta={c.beta:.3g}")
    return f"first: {c.run}, seed {c.seed},{point} step {c.step}"


def _temperatures(best: Judged, trusted: Sequence[Judged]) -> list[str]:
    """How the recipes of the best policy's algorithm compare at its step: means over seeds."""
    gains = defaultdict(list)
    for j in trusted:
        if (j.candidate.run, j.candidate.step) == (best.candidate.run, best.candidate.step):
            gains[j.candidate.point, j.candidate.beta].append(j.gain)
    if len(gains) < 2:
        return []
    parts = [
        f"{', '.join(f'{path.rpartition(chr(46))[2]}={value:.3g}' for path, value in (*point, *((('beta', beta),) if beta is not None else ())))}: {np.mean(g):.3g}"
        for (point, beta), g in gains.items()
    ]
    return [f"gain over seeds at step {best.candidate.step}: {'; '.join(parts)}"]


def _checkpoint(best: Judged, ranking: Sequence[Judged]) -> list[str]:
    """What the last policy of the same training would be."""
    c = best.candidate
    same = [
        j
        for j in ranking
        if (j.candidate.run, j.candidate.seed, j.candidate.point, j.candidate.beta) == (c.run, c.seed, c.point, c.beta)
    ]
    last = max(same, key=lambda j: j.candidate.step)
    if last.candidate.step == c.step:
        return ["checkpoint: the last one" + (f" of {len(same)}" if len(same) > 1 else "")]
    how = f"gain {last.gain:.3g} for {best.gain:.3g}" if last.trusted else last.objection
    return [f"checkpoint: step {c.step}, not the last, {last.candidate.step} ({how})"]
