"""Rows on the host: the same draws and the same numbers as on the device, so training from either is bit-equal."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import srpo
from srpo import config
from srpo.algorithms.qgpo import QGPO
from srpo.config import setting, static
from srpo.core import Algorithm, Stage, TrainState, descend
from srpo.data import from_arrays
from srpo.data.treated import treat
from srpo.data.treatments import Treatment
from srpo.optim import adam
from srpo.runs.grid import Grid
from srpo.steps import step_keys
from srpo.training.feed import feed
from srpo.training.loop import StageLoop

ODD = Treatment(reward="standardize", keep_timeouts=True, normalize_obs=True, clip_action=0.5)


@pytest.fixture(scope="module")
def data():
    """Eight episodes of 25 steps that end in turn by themselves and by time-outs, and what follows."""
    rng, n = np.random.default_rng(0), 210
    obs, action = rng.normal(3, 2, (n, 3)), rng.uniform(-1, 1, (n, 2))
    end = np.arange(n) % 25 == 24
    terminal = end & (np.arange(n) // 25 % 2 == 0)
    return from_arrays(obs, action, rng.normal(size=n), terminal, end & ~terminal, next_obs=obs + 1, name="tiny")


def views(data, name, treatment=None, **options):
    """The view of that name on the device, and on the host."""
    both = (treat(data, treatment, on_device) for on_device in (True, False))
    return [getattr(one, name)(**options) if options else getattr(one, name) for one in both]


@pytest.mark.parametrize("treatment", [None, ODD])
@pytest.mark.parametrize("name, options", [("transitions", {}), ("steps", {}), ("windows", {"horizon": 6, "max_length": 20})])
def test_both_draw_the_same_rows_and_gather_the_same_numbers(data, name, options, treatment):
    there, here = views(data, name, treatment, **options)
    assert here.on_host and not there.on_host and here.n_rows == there.n_rows
    rows = here.rows(jax.random.key(3), 500)
    np.testing.assert_array_equal(rows, there.rows(jax.random.key(3), 500))
    taken = jax.device_get(jax.jit(lambda rows: there.take(rows))(rows))
    for found, expected in zip(*map(jax.tree.leaves, (here.table.take(np.asarray(rows)), taken)), strict=True):
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == expected.dtype
    assert_equal(jax.jit(lambda rows: here.take(rows))(np.asarray(rows)[:5]), jax.tree.map(lambda x: x[:5], taken))


def trained(loop, stops):
    loop.start()
    for stop in stops:
        loop.advance(stop)
    loop.close()
    return loop.state, loop.log


def assert_equal(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


class Line(Stage):
    """A linear model of the reward, or of the value of a window, by noisy gradients."""

    of: str = static("transitions", "the view")
    steps: int = static(20, "gradient steps")
    batch_size: int = static(16, "rows per step")
    lr: float = setting(1e-2, "learning rate")

    def view(self, dataset):
        return dataset.windows(4) if self.of == "windows" else dataset.transitions

    def init(self, data, given, key):
        mean, std = data.moments("obs")
        return TrainState.create((mean / std, jax.random.normal(key, mean.shape)), adam(self.lr))

    def update(self, state, batch, given, key, step):
        obs, target = (batch.obs[:, -1], batch.value) if self.of == "windows" else (batch.obs - batch.next_obs, batch.reward)

        def loss(model):
            shift, weight = model
            error = jnp.sum(weight * jnp.tanh(obs - shift), -1) - target + 0.1 * jax.random.normal(key)
            return jnp.mean(error**2), {"loss": jnp.mean(error**2)}

        return descend(state, adam(self.lr), loss)

    def result(self, state):
        return state.model


class Lines(Algorithm):
    data: Treatment = Treatment(normalize_obs=True)
    line: Line = Line()

    def make_policy(self, trained):
        raise NotImplementedError


@pytest.mark.parametrize("of", ["transitions", "windows"])
def test_training_from_the_host_is_bit_equal_and_so_is_resuming(data, of, tmp_path, monkeypatch):
    """Two seeds, which draw different rows, times two values, in blocks of seven steps."""
    monkeypatch.setattr("srpo.training.feed.BLOCK_STEPS", 7)
    monkeypatch.setattr("srpo.training.feed.HOST_STEPS", 7)
    algorithm = Lines(line=Line(of=of))
    grid = Grid.create(algorithm, (3, 1), {"line.lr": [1e-3, 1e-2]})

    def loop(on_device, file):
        return StageLoop("line", grid, algorithm.line.view(treat(data, algorithm.data, on_device)), {}, tmp_path / file)

    expected = trained(loop(True, "none"), [20])
    assert_equal(trained(loop(False, "none"), [1, 2, 14, 20]), expected)
    stopped = loop(False, "state")
    trained(stopped, [5, 9])
    stopped.save()
    again = loop(False, "state")
    again.start()
    assert again.step == 9
    assert_equal(trained(again, [20]), expected)


def test_a_table_is_filled_in_order_from_the_host(data):
    stage = config.assign_all(QGPO(), {"support.steps": 4}).support
    view = treat(data, on_device=False).transitions
    shares = jax.jit(lambda: [stage.draw(view, jax.random.key(0), step) for step in range(4)])()
    rows = np.concatenate(shares)
    np.testing.assert_array_equal(np.unique(rows), np.arange(view.n_rows))
    assert (np.diff(rows) >= 0).all() and len(set(map(len, shares))) == 1


def test_blocks_hold_the_rows_of_their_steps_for_every_seed(data):
    stage = Line()
    view, keys = treat(data, on_device=False).transitions, jax.random.split(jax.random.key(2), 2)
    blocks = feed(stage, view, keys)
    taken, end = blocks.at(13)
    assert end == stage.steps
    for seed, step in ((0, 0), (1, 13)):
        expected = view.rows(step_keys(keys[seed], step)[0], stage.batch_size)
        np.testing.assert_array_equal(taken.batches.index[seed, step], expected)
    blocks.close()


def test_what_fails_while_gathering_ahead_is_raised_in_the_loop(data, monkeypatch):
    view = treat(data, on_device=False).transitions
    blocks = feed(Line(), view, jax.random.split(jax.random.key(2), 1))
    monkeypatch.setattr(type(view.table), "take", lambda self, rows: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        blocks.at(0)
    blocks.close()


def test_moments_in_pieces_are_those_of_the_whole(data, monkeypatch):
    monkeypatch.setattr("srpo.data.table.ROWS_AT_ONCE", 17)
    table = treat(data).all_steps
    for field in ("obs", "action"):
        whole = getattr(data, field).astype(np.float64)
        np.testing.assert_allclose(table.moments(field), [whole.mean(0), whole.std(0)], rtol=1e-12)


def test_stages_that_train_alike_share_their_program(tmp_path):
    rng = np.random.default_rng(0)
    data = from_arrays(rng.normal(size=(40, 3)), rng.uniform(-1, 1, (40, 2)), rng.normal(size=40), np.zeros(40, bool))

    def program(seeds=(0,), **settings):
        algorithm = srpo.configure("bc-gaussian", data, **settings)
        view = algorithm.stages["policy"].view(treat(data, algorithm.data))
        return StageLoop("policy", Grid.create(algorithm, seeds, None), view, {}, tmp_path / "none").compiled()

    assert program() is program(seeds=(1, 2), **{"policy.lr": 1e-2})  # jit tells their shapes apart
    assert program() is not program(**{"policy.hidden": (4,)})
