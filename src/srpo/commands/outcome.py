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
        print(f"next: {'; '.join(next_commands(run))}", file=sys.stderr)
    return 1 if run.failures else 0


def next_commands(run) -> list[str]:
    """What to do with a trained run: what its data and its policies allow. Where there is no environment, but episodes were
    set aside, they are judged by those."""
    from srpo.deploy.describe import exportable
    from srpo.runs import options

    (seed, *more_seeds), (point, *more_points) = run.seeds, run.points
    one = (["--seed", seed] if more_seeds else []) + (options.at(point) if more_points else [])
    evaluate = f"{options.evaluate(run)} --episodes 100" + (
        "" if run.info["data"]["env_id"] else " --env ID, if there is a simulator"
    )
    first = [options.judge(run)] if not run.info["data"]["env_id"] and run.info["settings"].get("data.holdout") else [evaluate]
    return first + ([options.export(run, *one, "--to", "policy.safetensors")] if exportable(run) else [])
