"""From evidence to a ranking and advice: which policy to take, whether any is better than cloning, and when nothing can be said."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

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
        columns = f"{'':<44}{'seed':>5}{'return':>10}{'95 % interval':>20}{'gain':>9}{'known':>7}{'Q':>9}{'nats':>8}{'TD':>6}"
        return "\n".join([head, columns, *map(_line, self.ranking), *self.advice])


def _line(j: Judged) -> str:
    interval = f"{j.low:.3g} to {j.high:.3g}"
    text = f"{j.candidate.recipe:<44}{j.candidate.seed:>5}{j.loose:>10.4g}{interval:>20}{j.gain:>9.3g}{j.known:>7.0f}"
    text += f"{j.q_gain:>9.3g}{j.likelihood:>8.2f}{j.td_error:>6.2f}"
    return text + (f"  not trusted: {j.objection}" if j.objection else "")


def bootstrap(value: np.ndarray, draws: int = DRAWS) -> np.ndarray:
    """(draws, policies) means of values (policies, members, episodes): members, then episodes, drawn with replacement, the same for all policies."""
    rng = np.random.default_rng(0)
    _, members, episodes = value.shape
    some = value[:, rng.integers(0, members, (draws, members))].mean(2)  # (policies, draws, episodes)
    weight = rng.multinomial(episodes, np.full(episodes, 1 / episodes), draws) / episodes
    return np.einsum("pde,de->dp", some, weight)


def weigh(candidates: Sequence[Candidate], evidence: Evidence, shares: Sequence[float | None]) -> list[Judged]:
    """Every policy with its numbers, best first: by the lower end of its return."""
    loose, known = evidence.loose.mean((1, 2)), evidence.known.mean((1, 2))
    drawn = bootstrap(evidence.loose)
    low, high = np.quantile(drawn[:, :-1], [0.025, 0.975], axis=0)
    gain_low, gain_high = np.quantile(drawn[:, :-1] - drawn[:, -1:], [0.025, 0.975], axis=0)
    q_gain = evidence.value[:-1] - evidence.value[-1:]
    q_low, q_high = np.quantile(bootstrap(q_gain), [0.025, 0.975], axis=0)
    nats, ratio = evidence.likelihood.mean(1), evidence.td_error / evidence.td_error[-1]
    numbers = {
        "loose": loose[:-1], "low": low, "high": high, "known": known[:-1],
        "gain": loose[:-1] - loose[-1], "gain_low": gain_low, "gain_high": gain_high,
        "value": evidence.start_value[:-1].mean((1, 2)), "q_gain": q_gain.mean((1, 2)), "q_low": q_low, "q_high": q_high,
        "likelihood": nats[:-1] - nats[-1], "td_error": ratio[:-1],
    }  # fmt: skip
    judged = []
    for i, (candidate, share) in enumerate(zip(candidates, shares, strict=True)):
        mine = {name: float(x[i]) for name, x in numbers.items()}
        objection = _objection(mine, float(known[-1]))
        judged.append(Judged(candidate=candidate, effective_share=share, objection=objection, **mine))
    return sorted(judged, key=lambda j: -j.low if np.isfinite(j.low) else np.inf)


def _objection(numbers: Mapping[str, float], of_behavior: float) -> str:
    """Why a policy of which this is found is not trusted; `of_behavior`: the steps that are known of the behavior."""
    if not np.isfinite([numbers["loose"], numbers["low"], numbers["high"]]).all():
        return "its return in the model is not finite"
    if numbers["known"] < SOON * of_behavior:
        return f"it is known for {numbers['known']:.0f} steps, the behavior for {of_behavior:.0f}"
    return ""


def judgement(data: str, discount: float, candidates: Sequence[Candidate], evidence: Evidence, shares: Sequence[float | None]):
    """The whole: ranking, answer and advice."""
    ranking = weigh(candidates, evidence, shares)
    answer, advice = _advise(ranking, evidence)
    return Judgement(
        data,
        len(evidence.returns),
        discount,
        float(evidence.returns.mean()),
        float(evidence.start_value[-1].mean()),
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
    reliable, said = _reliable(evidence)
    trusted = [j for j in ranking if j.trusted]
    if len(trusted) < len(ranking):
        lines.append(f"{len(ranking) - len(trusted)} of {len(ranking)} policies are not trusted: they soon leave what is known")
    if not trusted:
        return "none", [*lines, "none can be trusted: train closer to the data (a smaller beta), or clone (--algo bc)"]
    if max(j.gain_high for j in trusted) < 0:
        return "none", [*lines, "none is better than cloning: clone (--algo bc), or record better data"]
    lines += [_take(best), *_temperatures(best, trusted), *_checkpoint(best, ranking), said]
    if best.low > evidence.record:
        lines.append(
            f"it promises {best.low:.4g} or more, and no recorded episode has more than {evidence.record:.4g}: doubt it"
        )
    if not best.trusted:
        return "cannot tell", [*lines, f"cannot tell how good it is: {best.objection}"]
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
    returned, predicted = evidence.returns.mean(), evidence.start_value[-1].mean()
    spread = evidence.returns.std() + 2 * evidence.returns.std() / np.sqrt(len(evidence.returns))
    fine = bool(abs(predicted - returned) <= spread and evidence.correlation > 0)
    text = f"fitted Q: held-out episodes returned {returned:.4g} (discounted), the behavior's Q predicts {predicted:.4g}"
    heard = "" if fine else ": it is not heard"
    return fine, f"{text}; its correlation with returns to go is {evidence.correlation:.2f}{heard}"


def _take(best: Judged) -> str:
    c = best.candidate
    point = "".join(f" {path}={value:g}" for path, value in c.point) + ("" if c.beta is None else f" beta={c.beta:.3g}")
    return f"first: {c.run}, seed {c.seed},{point} step {c.step}"


def _temperatures(best: Judged, trusted: Sequence[Judged]) -> list[str]:
    """How the temperatures of the best policy's run compare at its step: means over seeds."""
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
