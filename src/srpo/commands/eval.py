"""Evaluate the policies of a run in its environment: every seed and every swept value, the last one or one that was kept.

Every episode is kept in the run's evals.csv, with the versions of MuJoCo and Gymnasium.

  srpo eval RUN --episodes 100
  srpo eval RUN --step 500000                       what --keep kept then, such as the choice of srpo judge
  srpo eval RUN --json                              one JSON object, for scripts
  srpo eval RUN --video out.mp4                     one episode of the first policy, as a film (no screen needed)
  srpo eval RUN --env Hopper-v5                     another environment of the same sizes
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from srpo.commands import add_algo, add_step, open_run
from srpo.system import strict_json
from srpo.text import plain


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="folder of a finished run")
    add("--episodes", type=int, default=20, metavar="N", help="episodes per seed and swept value; default 20")
    add("--env", metavar="ID", help="Gymnasium id; default the one of the data")
    add("--max-steps", type=int, metavar="N", help="cut episodes after N steps; needed where the environment never does")
    add("--video", type=Path, metavar="FILE.mp4", help="also write a film of one episode (extra: video)")
    add("--seed", type=int, help="seed of the policy in the film; default the first one")
    add_step(add)
    add_algo(add)
    add("--json", action="store_true", help="print one JSON object on standard output and nothing else there")
    add("--quiet", action="store_true", help="no progress")


def main(args: argparse.Namespace) -> int:
    from srpo.errors import ConfigError

    if args.episodes < 1:
        raise ConfigError(f"--episodes {args.episodes}: expected one or more")
    if args.max_steps is not None and args.max_steps < 1:
        raise ConfigError(f"--max-steps {args.max_steps}: expected one or more")
    if args.seed is not None and args.video is None:
        raise ConfigError(f"--seed {args.seed} chooses the policy of the film, found no --video; all seeds are evaluated")
    from srpo.evaluation.scores import evaluate
    from srpo.training.progress import Bars

    run = open_run(args.run, args.algo)
    run.require_complete()
    film = None
    if args.video is not None:  # first: it takes seconds, and may fail
        from srpo.evaluation.video import record

        shown = {} if args.max_steps is None else {"frames": args.max_steps}
        film = str(record(run, args.video, seed=args.seed, env_id=args.env, step=args.step, **shown))
    with Bars(args.quiet) as bars:
        bars.open("time steps", 1000)
        evaluation = evaluate(run, args.episodes, args.env, bars.update, max_steps=args.max_steps, step=args.step)
    if args.json:
        print(strict_json.dumps(evaluation.as_dict() | {"video": film}))
        for note in evaluation.notes:
            print(plain(f"warning: {note}"), file=sys.stderr)
    else:
        print(evaluation)
        print(f"episodes: {plain(run.path / 'evals.csv')}" + (f"; film: {plain(film)}" if film else ""))
    return 0
