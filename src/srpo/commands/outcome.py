"""What `srpo train` says in the end: where the run is, how it scored, and what may be done with it next."""

from __future__ import annotations

import sys

from srpo.system import strict_json
from srpo.text import plain


def report(run, as_json: bool) -> int:
    """Where the run is and how it scored; exit code 1 if some of its runs failed."""
    from srpo.evaluation.scores import training_scores

    evaluation = training_scores(run)
    if as_json:
        scores = None if evaluation is None else evaluation.as_dict()
        print(strict_json.dumps({"run": str(run.path), "evaluation": scores, "failures": run.failures}))
    else:
        if evaluation is not None:
            print(evaluation)
        tables = ["metrics.csv", *(["evals.csv"] if evaluation is not None else [])]
        there = [name for name in ("curves.png", *tables) if (run.path / name).exists()]
        print(f"run: {plain(run.path)} ({', '.join(there)})")
        if run.failures:
            print(_failed(run), file=sys.stderr)
        if commands := next_commands(run):
            print(f"next: {'; '.join(commands)}", file=sys.stderr)
    return 1 if run.failures else 0


def _failed(run) -> str:
    """How many runs failed, and how the first did."""
    from srpo.training.survivors import Failure

    failed = sum(run.failed(seed, point) is not None for seed in run.seeds for point in run.points)
    return f"failed: {failed} of {len(run.seeds) * len(run.points)} runs ({Failure(**run.failures[0])})"


def next_commands(run) -> list[str]:
    """What to do with a trained run: what its data and its policies allow, nothing if all of them failed. Where there is no
    environment, but episodes were set aside, they are judged by those."""
    from srpo.deploy.describe import exportable
    from srpo.runs import options

    trained = ((seed, point) for seed in run.seeds for point in run.points if run.failed(seed, point) is None)
    if (first := next(trained, None)) is None:
        return []
    seed, point = first
    one = (["--seed", seed] if len(run.seeds) > 1 else []) + (options.at(point) if len(run.points) > 1 else [])
    evaluate = f"{options.evaluate(run)} --episodes 100" + (
        "" if run.info["data"]["env_id"] else " --env ID, if there is a simulator"
    )
    scored = [options.judge(run)] if not run.info["data"]["env_id"] and run.info["settings"].get("data.holdout") else [evaluate]
    return scored + ([options.export(run, *one, "--to", "policy.safetensors")] if exportable(run) else [])
