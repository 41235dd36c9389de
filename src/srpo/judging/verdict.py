"""From the ranking to advice: which policy to take, whether any is better than cloning, and when nothing can be said."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from srpo.judging.evidence import Evidence
from srpo.judging.panel import Candidate, labels
from srpo.judging.ranking import Judged, weigh
from srpo.text import exact


@dataclass(frozen=True)
class Judgement:
    """What `srpo judge` says; printing it shows the ranking and the advice."""

    data: str
    episodes: int  # held out
    discount: float
    returned: float  # mean discounted return of the held-out episodes whose recording settles it
    predicted: float  # the behavior's value at their first states
    slope: float  # of held-out returns to go against the behavior's Q: 1 if calibrated
    correlation: float
    horizon: int  # steps that policies were let loose for, at most
    loose: float  # the behavior's return in the learned model
    known: float  # its steps of which the model knows something
    ranking: tuple[Judged, ...]  # best first
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
        names = labels([j.candidate for j in self.ranking])
        width = max(44, *(len(name) + 2 for name in names))
        columns = f"{'':<{width}}{'seed':>5}{'return':>10}{'95 % interval':>20}{'gain':>9}{'known':>7}{'doubt':>7}{'Q':>9}{'nats':>8}{'TD':>6}"
        lines = [_line(j, name.ljust(width)) for j, name in zip(self.ranking, names, strict=True)]
        return "\n".join([head, columns, *lines, *self.advice])


def _line(j: Judged, name: str) -> str:
    interval = f"{j.low:.3g} to {j.high:.3g}"
    text = f"{name}{j.candidate.seed:>5}{j.loose:>10.4g}{interval:>20}{j.gain:>9.3g}{j.known:>7.0f}{j.doubt:>7.2f}"
    text += f"{j.q_gain:>9.3g}{j.likelihood:>8.2f}{j.td_error:>6.2f}"
    return text + (f"  not trusted: {j.objection}" if j.objection else "")


def judgement(data: str, discount: float, candidates: Sequence[Candidate], evidence: Evidence, shares: Sequence[float | None]):
    """The whole: ranking, answer and advice."""
    ranking = weigh(candidates, evidence, shares)
    answer, advice = _advise(ranking, evidence)
    return Judgement(
        data,
        len(evidence.returns),
        discount,
        *_given_back(evidence),
        evidence.slope,
        evidence.correlation,
        evidence.horizon,
        float(evidence.loose[-1].mean()),
        float(evidence.known[-1].mean()),
        tuple(ranking),
        answer,
        tuple(advice),
    )


def _advise(ranking: Sequence[Judged], evidence: Evidence) -> tuple[str, list[str]]:
    best, lines = ranking[0], [_cloning(evidence)]
    if not np.isfinite(evidence.loose[-1]).all():
        return "none", [*lines, "nothing can be compared with that: train the model more slowly (--set model.lr=0.001)"]
    reliable, said = _reliable(evidence)
    trusted = [j for j in ranking if j.trusted]
    if len(trusted) < len(ranking):
        lines.append(f"{len(ranking) - len(trusted)} of {len(ranking)} policies are not trusted: they soon leave what is known")
    if not trusted:
        return "none", [*lines, "none can be trusted: train closer to the data (a smaller beta), or clone (--algo bc)"]
    several = evidence.loose.shape[-1] > 1
    if several and max(j.gain_high for j in trusted) < 0:
        return "none", [*lines, "none is better than cloning: clone (--algo bc), or record better data"]
    lines += [_take(best), *_others(ranking), *_temperatures(best, trusted), *_checkpoint(best, ranking), said]
    if best.low > evidence.record:
        lines.append(
            f"it promises {best.low:.4g} or more, and no recorded episode has more than {evidence.record:.4g}: doubt it"
        )
    if not best.trusted:
        return "cannot tell", [*lines, f"cannot tell how good it is: {best.objection}"]
    if not several:
        only = "one start says nothing of others; set more episodes aside (data.holdout)"
        return "cannot tell", [*lines, f"cannot tell whether it is better than cloning: {only}"]
    if best.gain_low <= 0:
        return "cannot tell", [*lines, "cannot tell whether it is better than cloning: the interval of its gain contains zero"]
    if reliable and best.q_high < 0:
        against = f"by fitted Q it is worse than the behavior, by {-best.q_gain:.3g} (to {-best.q_high:.3g})"
        return "cannot tell", [*lines, f"cannot tell whether it is better than cloning: {against}"]
    return "take", [
        *lines,
        f"better than cloning by {best.gain:.3g} (95 % interval {best.gain_low:.3g} to {best.gain_high:.3g})",
    ]


def _cloning(evidence: Evidence) -> str:
    """What the behavior comes to in the model: what all gains are measured from."""
    return (
        f"let loose in a model of the data, a clone of the behavior comes to {evidence.loose[-1].mean():.4g}, and is known for "
        f"{evidence.known[-1].mean():.0f} of {evidence.horizon} steps"
    )


def _reliable(evidence: Evidence) -> tuple[bool, str]:
    """Whether the behavior's Q predicts what held-out episodes returned: within their spread, and not against their order."""
    settled = evidence.returns[evidence.settled]
    if len(settled) == 0:
        return False, "fitted Q: every held-out episode was cut too soon to say what it would have returned: it is not heard"
    returned, predicted = _given_back(evidence)
    spread = settled.std() + 2 * settled.std() / np.sqrt(len(settled))
    fine = bool(abs(predicted - returned) <= spread and evidence.correlation > 0)
    text = f"fitted Q: held-out episodes returned {returned:.4g} (discounted), the behavior's Q predicts {predicted:.4g}"
    heard = "" if fine else ": it is not heard"
    return fine, f"{text}; its correlation with returns to go is {evidence.correlation:.2f}{heard}"


def _given_back(evidence: Evidence) -> tuple[float, float]:
    """What held-out episodes returned in the mean, and what the behavior's Q predicts of them: of those that settle it alone."""
    if not evidence.settled.any():
        return float("nan"), float("nan")
    return float(evidence.returns[evidence.settled].mean()), float(evidence.start_value[-1][:, evidence.settled].mean())


def _take(best: Judged) -> str:
    c = best.candidate
    point = "".join(f" {path}={exact(value)}" for path, value in c.point) + ("" if c.beta is None else f" beta={c.beta:.3g}")
    return f"first: {c.run}, seed {c.seed},{point} step {c.step}"


def _others(ranking: Sequence[Judged]) -> list[str]:
    """How many policies are as good as the first by what they come to, if there are such."""
    tied = sum(j.tied for j in ranking)
    if tied < 2:
        return []
    return [f"its return cannot be told from that of {tied - 1} more; of these the networks agree most along its way"]


def _temperatures(best: Judged, trusted: Sequence[Judged]) -> list[str]:
    """How the temperatures of the best policy's run compare at its step: means over seeds."""
    gains = defaultdict(list)
    for j in trusted:
        if (j.candidate.run, j.candidate.step) == (best.candidate.run, best.candidate.step):
            gains[", ".join(j.candidate.values)].append(j.gain)
    if len(gains) < 2:
        return []
    parts = [f"{values}: {np.mean(g):.3g}" for values, g in gains.items()]
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
