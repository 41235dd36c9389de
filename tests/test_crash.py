"""Death at chosen moments of a training: at the n-th thing done on disk everything after it does not happen, then the run is resumed.

The results must be those of a run that never died, byte for byte. `test_a_killed_process_resumes_bit_for_bit` in
test_training.py does it once with a real SIGKILL.
"""

import os

import numpy as np
import pytest

import srpo
from srpo.config import assign_all
from srpo.data import from_arrays
from srpo.runs import checkpoint, tables
from srpo.training import train as training

CASES = {  # algorithm, what makes it tiny, sweep
    "a sweep": ("bc-gaussian", {"policy.steps": 6, "policy.batch_size": 8, "policy.hidden": (4,)}, {"policy.lr": [1e-3, 1e-2]}),
}


class Death(BaseException):
    """Nothing catches it, and nothing is written after it."""


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    end = np.arange(120) % 20 == 19
    return from_arrays(rng.normal(size=(120, 3)), rng.uniform(-1, 1, (120, 2)), rng.normal(size=120), end, name="tiny")


def dying(patched, moment):
    """From the `moment`-th call on, everything done on disk is a death; a table's rows are then written by half."""
    done = 0

    def counted(real, half=None):
        def call(*args, **options):
            nonlocal done
            done += 1
            if done == moment and half is not None:
                half(*args)
            if done >= moment:
                raise Death
            return real(*args, **options)

        return call

    def torn(self, rows):
        with open(self.path, "a") as f:
            f.write(",".join(map(str, next(iter(rows), {}).values()))[:9])

    patched.setattr(checkpoint, "created", counted(checkpoint.created))
    patched.setattr(os, "replace", counted(os.replace))
    patched.setattr(tables.Table, "append", counted(tables.Table.append, torn))


def files(path):
    return {p.name: p.read_bytes() for p in sorted(path.rglob("*")) if p.suffix in (".safetensors", ".csv")}


@pytest.mark.parametrize("case", CASES)
def test_dying_and_resuming_equals_not_dying(case, data, tmp_path, monkeypatch):
    name, tiny, sweep = CASES[case]
    algorithm = assign_all(srpo.configure(name, data), tiny)
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", -1.0)  # a checkpoint after every call
    options = {"seeds": 2, "sweep": sweep, "eval_every": 0, "quiet": True}
    whole = srpo.train(algorithm, data, out=tmp_path / "whole", **options)
    run, lives = tmp_path / "run", 0
    for moment in (6, 13, 9):
        with monkeypatch.context() as patched:
            dying(patched, moment)
            try:
                if lives == 0:
                    srpo.train(algorithm, data, out=run, **options)
                else:
                    srpo.resume(run, data, quiet=True)
            except Death:
                lives += 1
    assert lives > 1
    resumed = srpo.resume(run, data, quiet=True)
    assert files(resumed.path) == files(whole.path)
    assert not list(run.rglob("*.part"))
