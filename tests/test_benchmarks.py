"""The benchmarks as programs."""

import importlib
import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import srpo
from srpo.algorithms.iql import IQL
from srpo.algorithms.srpo import ScoreRegularizedPolicy
from srpo.core import Batch
from srpo.diffusion.schedules import VP

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import gpu
import imitation
import judge_report
import optimum
import training

BENCHMARKS = Path(training.__file__).parent


@pytest.mark.parametrize("name", sorted(path.stem for path in BENCHMARKS.glob("*.py")))
def test_what_a_benchmark_takes_from_the_library_is_there(name):
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as e:
        assert e.name == "torch"  # which no test needs


def test_the_gpu_benchmark_times_every_stage_it_is_asked_for():
    data = srpo.load_dataset("hopper-medium-expert-mini")
    small = {"critic.hidden": (8,), "policy.hidden": (8,), "behavior.width": 8, "behavior.blocks": 1, "behavior.batch_size": 4}
    bench = gpu.Bench(srpo.configure("srpo", data, **small), data)
    rows = [bench.row("critic", 2, "float32", 0.01), bench.row("critic", 2, "bfloat16", 0.01)]
    assert all(r["us"] > 0 and r["us_per_seed"] == r["us"] / r["seeds"] for r in rows)
    us = rows[0]["us_per_seed"]
    shown = gpu.table(rows, {"microseconds": {"critic": 5 * us}}).splitlines()
    assert len(shown) == 3 and shown[1].split()[-1] == "5.0"  # times plain PyTorch
    found = gpu.ceilings(32, 0.0)
    assert set(found) == {"float32 TFLOP/s", "bfloat16 TFLOP/s", "copy GB/s"} and min(found.values()) > 0


def test_the_judge_s_report_finds_rank_correlations_and_what_each_criterion_loses(tmp_path):
    header = (
        "data,policy,algorithm,seed,step,default,score,place,low,loose,high,gain,known,doubt,q_start,td_error,nats,critic\n"
    )
    rows = "".join(
        f"d-v0,srpo @{i},srpo,0,{i},{int(i == 2)},{score},{i + 1},{low},0,0,0,9,1,{-low},{td},0,\n"
        for i, (score, low, td) in enumerate([(50, 4, 1.0), (60, 3, 0.5), (10, 2, 2.0), (0, 1, "nan")])
    )
    (tmp_path / "d.csv").write_text(header + rows)
    panel = judge_report.Panel(tmp_path / "d.csv")
    assert panel.regret("`srpo judge`") == 10 and panel.spearman("`srpo judge`") == pytest.approx(0.8)
    assert panel.regret("fitted Q at first states") == 60 and panel.regret("TD error") == 0 and panel.default == 50
    shown = judge_report.table([panel])
    assert "| critic's Q at first states | - | - |" in shown and "| TD error | 1.00, 0.0 |" in shown
    assert "4 policies, true scores 0.0 to 60.0, median 30.0; taken: srpo @0 seed 0, 50.0" in shown
    judge_report.picture([panel], tmp_path / "judge.png")
    assert (tmp_path / "judge.png").stat().st_size > 10_000


def test_a_step_is_compared_with_the_products_right_before_and_after_it():
    # a machine that is half as fast from the middle on, steps at 80 % of its products
    assert training.share(1.0, [1 / 80, 1 / 60, 1 / 40], [100.0, 100.0, 50.0, 50.0]) == pytest.approx(0.8)


def test_calls_are_timed_once_they_no_longer_grow():
    class Loop:
        step = 1

        def calls(self):
            for n in (1, 2, 4, 4, 4):
                self.step += n
                yield

    stage_loop = Loop()
    training.grow(stage_loop, stage_loop.calls())
    assert stage_loop.step == 1 + 1 + 2 + 4 + 4


def test_the_optimum_of_srpo_is_where_its_direction_vanishes():
    # Q falls with the squared distance from 0.5, the behavior is N(0, 0.2^2): eq. 15 vanishes between the two
    class Critic(eqx.Module):
        def q_target(self, obs, action):
            return -jnp.sum((action - 0.5) ** 2, -1)[None]

    class Normal(eqx.Module):
        schedule: VP = VP()

        def __call__(self, x, t, obs):
            alpha, sigma = self.schedule(t)
            return (sigma / (alpha**2 * 0.2**2 + sigma**2))[..., None] * x

    class Zero(eqx.Module):
        def __call__(self, obs):
            return jnp.zeros(2)

    def acted(beta):
        policy = optimum.Optimum(Critic(), Normal(), Zero(), beta, ScoreRegularizedPolicy())
        return np.asarray(policy.act(jnp.zeros((3, 1)), jax.random.key(0)))

    t = jnp.linspace(0.02, 0.98, 10_000)
    alpha, sigma = VP()(t)
    pull = float(jnp.mean(sigma**3 * alpha / (alpha**2 * 0.2**2 + sigma**2)))  # of the score on an action, per unit of it
    for beta in (0.02, 0.2):
        np.testing.assert_allclose(acted(beta), beta / (pull + 2 * beta), atol=0.03)
    assert acted(0.02).max() < acted(0.2).min()


def test_shuffled_weights_are_the_same_numbers_on_other_rows():
    class Critic(eqx.Module):
        def q_target(self, obs, action):
            return action[None, :, 0]

        def v(self, obs):
            return obs[:, 0]

    batch = Batch(jnp.zeros((5, 1)), jnp.arange(5.0)[:, None] / 3, *[jnp.zeros(5)] * 4)
    plain, shuffled = (p.weight({"critic": Critic()}, batch) for p in (IQL().policy, imitation.ShuffledIQL().policy))
    np.testing.assert_allclose(plain, np.exp(np.arange(5.0)), rtol=1e-5)
    assert sorted(np.asarray(shuffled)) == sorted(np.asarray(plain)) and not np.any(shuffled == plain)


def test_every_recipe_of_imitation_is_one():
    steps = [imitation.recipe(name, 7).policy.steps for name in imitation.TITLES]
    assert steps == [7] * len(steps) and imitation.recipe("shuffled", 7).critic == imitation.recipe("weighted", 7).critic
