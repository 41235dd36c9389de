"""Diffuser: the networks against definitions, conditioning, the guided step worked by hand, value targets, planning."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bandits import fit
from jax import lax

from srpo.algorithms.diffuser import Average, Diffuser, Frame, TrajectoryModel, WindowTreatment
from srpo.config import assign_all
from srpo.core import TrainState
from srpo.data import DataError, from_arrays
from srpo.data.treated import treat
from srpo.diffusion.samplers import posterior
from srpo.diffusion.schedules import Discrete
from srpo.errors import ConfigError
from srpo.networks.layers import Linear, Normalizer
from srpo.networks.unet import Conv, GroupNorm, LinearAttention, ReturnNet, TemporalUNet, Upsample, check_sizes
from srpo.optim import adam
from srpo.policies import Planner

KEY = jax.random.key(0)
X = np.random.default_rng(1).standard_normal((2, 8, 16), np.float32)


# --- networks


@pytest.mark.parametrize("size, stride", [(5, 1), (3, 2), (1, 1)])
def test_convolution_is_the_usual_one(size, stride):
    @jax.jit
    def both(x):
        conv = Conv(Linear.create(16 * size, 4, KEY), size, stride)
        kernel = conv.linear.weight.reshape(size, 16, 4)
        usual = lax.conv_general_dilated(
            x, kernel, (stride,), [(size // 2, size // 2)], dimension_numbers=("NWC", "WIO", "NWC")
        )
        return conv(x), conv(x[0]), usual + conv.linear.bias

    found, alone, usual = both(X)
    np.testing.assert_allclose(found, usual, atol=1e-5)
    np.testing.assert_allclose(alone, found[0], atol=1e-6)


def test_upsampling_is_the_transposed_convolution():
    """Size 4, stride 2, padding 1 in PyTorch's terms: row i adds its k-th kernel slice to row 2i + k - 1."""
    found, weight, bias = map(np.asarray, jax.jit(lambda x: ((up := Upsample(16, KEY))(x), up.weight, up.bias))(X))
    kernel = np.stack([weight[1, 16:], weight[0, 16:], weight[1, :16], weight[0, :16]])  # (4, c, c)
    out = np.tile(bias, (2, 16, 1))
    for i in range(8):
        for k in range(4):
            if 0 <= 2 * i + k - 1 < 16:
                out[:, 2 * i + k - 1] += X[:, i] @ kernel[k]
    np.testing.assert_allclose(found, out, atol=1e-5)


def test_group_norm_and_attention():
    @jax.jit
    def made(x):
        attention = LinearAttention(16, KEY, heads=2, size=4)
        return GroupNorm(16)(3 * x + 1), attention, attention(x[0])

    normal, attention, found = jax.tree.map(np.asarray, made(X))
    y = normal.reshape(2, 8, 8, 2)
    np.testing.assert_allclose(y.mean((1, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(y.std((1, 3)), 1, atol=1e-3)
    n = (X[0] - X[0].mean(-1, keepdims=True)) / np.sqrt(X[0].var(-1, keepdims=True) + 1e-5)
    q, k, v = ((n @ attention.qkv).reshape(8, 2, 12)[..., i * 4 : i * 4 + 4] for i in range(3))
    over_rows = np.exp(k) / np.exp(k).sum(0)
    attended = np.concatenate([(q[:, h] / 2) @ (over_rows[:, h].T @ v[:, h]) for h in range(2)], -1)
    np.testing.assert_allclose(found, X[0] + attended @ attention.out.weight + attention.out.bias, atol=1e-5)


@pytest.mark.parametrize("horizon, multipliers, attention", [(32, (1, 2, 4, 8), False), (4, (1, 4, 8), True)])
def test_shapes_at_paper_size(horizon, multipliers, attention):
    """hopper and walker2d; halfcheetah."""

    def make(x, k):
        net = TemporalUNet(23, KEY, 32, multipliers, attention)
        value = ReturnNet(23, horizon, KEY, 32, multipliers)
        assert value.last.layers[0].weight.shape == (64 + 32, 32)
        assert len(net.up) == len(multipliers) - 1 and (net.attention is not None) == attention
        return net(x, k), value(x, k)

    args = jax.ShapeDtypeStruct((5, horizon, 23), "float32"), jax.ShapeDtypeStruct((5,), "int32")
    assert [x.shape for x in jax.eval_shape(make, *args)] == [(5, horizon, 23), (5,)]


def test_sizes_that_cannot_work_are_refused():
    with pytest.raises(ConfigError, match="a horizon of 30 rows cannot be halved 3 times; choose a multiple of 8"):
        check_sizes(30, 32, (1, 2, 4, 8))
    with pytest.raises(ConfigError, match="width 12"):
        check_sizes(32, 12, (1, 2))


# --- training


TINY = {
    "data.horizon": 2,
    "data.discount": 0.0,
    "trajectories.width": 8,
    "trajectories.multipliers": (4,),
    "trajectories.diffusion_steps": 5,
    "trajectories.steps": 200,
    "trajectories.batch_size": 32,
    "trajectories.lr": 5e-3,
    "trajectories.average.rate": 0.02,
    "trajectories.average.every": 1,
    "trajectories.average.start": 100,
    "value.width": 8,
    "value.multipliers": (4,),
    "value.steps": 600,
    "value.batch_size": 64,
    "value.lr": 5e-3,
    "value.average.rate": 0.01,
    "value.average.every": 1,
    "value.average.start": 300,
    "planning.plans": 6,
}


@pytest.fixture(scope="module")
def trained():
    """Models of independent Gaussian rows, in which nothing counts but the first reward, 8 times the first action."""
    rng, n = np.random.default_rng(0), 5000
    action, timeout = np.clip(0.2 + 0.25 * rng.normal(size=(n, 1)), -1, 1), np.arange(n) % 100 == 99
    data = from_arrays(rng.normal(size=(n, 2)), action, 8 * action[:, 0], np.zeros(n, bool), timeout, name="tiny")
    algorithm, models = assign_all(Diffuser(), TINY), {}
    data = treat(data, algorithm.data)
    for name, stage in algorithm.stages.items():
        models[name], _ = fit(stage, stage.view(data), dict(models))
    return algorithm, data, models


def test_minibatches_start_at_the_true_observation(trained):
    algorithm, data, models = trained
    model, windows = models["trajectories"], algorithm.trajectories.view(data)

    @jax.jit
    def drawn(model, windows):
        window = windows.take(windows.rows(KEY, 32))
        clean, x, k, fix = model.noised(window, jax.random.key(3))
        return window, clean, x, k, fix(jnp.zeros_like(x)), model.frame.obs(window.obs[:, 0])

    window, clean, x, k, fixed, first = jax.tree.map(np.asarray, drawn(model, windows))
    assert np.array_equal(x[:, 0, 1:], first) and np.array_equal(fixed[:, 0, 1:], first)
    assert not np.array_equal(x[:, 0, :1], clean[:, 0, :1]) and set(np.unique(k)) <= set(range(5))
    recorded = np.concatenate([data.recording.action, data.recording.obs], 1)
    rest = recorded[window.index[:, None] + np.arange(2)]
    normal = (rest - recorded.mean(0)) / recorded.std(0)
    np.testing.assert_allclose(clean[window.inside], normal[window.inside], atol=1e-4)


def test_the_value_target_is_the_discounted_return_with_the_penalty():
    done = np.array([False, False, True, False, False])
    data = from_arrays(np.zeros((5, 2)), np.zeros((5, 1)), [1.0, 2.0, 3.0, 1.0, 1.0], done, np.arange(5) == 4, name="tiny")
    data = treat(data, WindowTreatment(horizon=1, discount=0.5, penalty=100.0))
    windows = Diffuser().set("trajectories.multipliers", (1,)).set("trajectories.width", 32).trajectories.view(data)
    np.testing.assert_allclose(windows.held.value, [1 + 1 - 97 / 4, 2 - 97 / 2, -97, 1.5, 1])


def test_the_loss_weighs_the_first_action(trained):
    algorithm, data, models = trained
    stage = algorithm.trajectories
    view = stage.view(data)

    @jax.jit
    def both(model):
        window = view.take(view.rows(KEY, 8))
        clean, x, k, fix = model.noised(window, jax.random.key(3))
        state = TrainState.create(model, adam(stage.lr), target=True)
        loss = stage.update(state, window, {}, jax.random.key(3), jnp.int32(0))[1]["loss"]
        return loss, (fix(model(x, k)) - clean) ** 2

    found, error = both(models["trajectories"])  # what it is before its first step
    np.testing.assert_allclose(found, (jnp.sum(error) + 9 * jnp.sum(error[:, 0, :1])) / error.size, rtol=1e-4)


def test_trained_models_know_independent_rows(trained):
    """From a noisy window the clean one is expected at alpha x (all is normalized), and the return at mean + std alpha x of the
    first action."""
    algorithm, data, models = trained
    action = data.recording.action

    @jax.jit
    def found(model, value, view):
        windows = view.take(view.rows(jax.random.key(5), 2000))
        clean, x, k, fix = model.noised(windows, jax.random.key(6))
        alpha = model.schedule(k)[0]
        expected = 8 * (action.mean() + action.std() * alpha * x[:, 0, 0])
        errors = fix(model(x, k)) - fix(alpha[:, None, None] * x), value(x, k) - expected
        return windows.inside.all(1), *errors, jnp.std(clean), jnp.std(expected)

    model, value = models["trajectories"], models["value"]
    inside, of_rows, of_value, clean, expected = map(np.asarray, found(model, value, algorithm.trajectories.view(data)))
    assert np.sqrt(np.mean(of_rows[inside] ** 2)) < 0.25 * clean
    assert np.sqrt(np.mean(of_value[inside] ** 2)) < 0.2 * expected
    alone = jax.ShapeDtypeStruct((2, 3), "float32"), jax.ShapeDtypeStruct((), "int32")
    assert jax.eval_shape(model, *alone).shape == (2, 3) and jax.eval_shape(value, *alone).shape == ()


def test_the_average_copies_then_follows():
    net = np.ones(3, np.float32)
    state = TrainState(net, 0 * net, ())
    steps = np.array([0, 10, 19, 20, 21, 30])
    target = jax.jit(jax.vmap(lambda step: Average(rate=0.25, every=10, start=20)(state, step).target[0]))(steps)
    assert target.tolist() == [1, 1, 0, 0.25, 0, 0.25]


def test_trajectories_are_required_by_name():
    n = 30
    flat = from_arrays(np.zeros((n, 2)), np.zeros((n, 1)), np.arange(n), np.zeros(n, bool), name="flat")
    with pytest.raises(DataError, match="Diffuser needs whole trajectories"):
        Diffuser().trajectories.view(treat(flat, Diffuser().data))


# --- planning


@jax.jit
def planned(policy, obs):
    return policy.plan(obs, KEY)


def test_plans_start_exactly_at_the_observation(trained):
    algorithm, data, models = trained
    policy, obs = algorithm.make_policy(models), data.recording.obs[3]
    plan, value = planned(policy, obs)
    normal = jax.jit(lambda frame: frame.obs(obs))(models["trajectories"].frame)
    assert plan.shape == (6, 2, 3) and value.shape == (6,) and np.isfinite(plan).all()
    assert np.array_equal(plan[:, 0, 1:], np.broadcast_to(normal, (6, 2)))
    with pytest.raises(ValueError, match="give a key"):
        policy.act(obs)


def test_the_first_action_of_the_best_plan_is_followed():
    frame = Frame(*(Normalizer(np.float32([mean]), np.float32([std])) for mean, std in ((0.1, 0.5), (3.0, 2.0))))
    policy, obs = Planner(Toward(1.0, Discrete.cosine(5), frame), FirstAction(), 6, 0.5, 2, 2), np.ones(1, np.float32)
    plan, value = map(np.asarray, planned(policy, obs))
    assert len(set(value)) == 6
    action = jax.jit(lambda policy: policy.act(obs, KEY))(policy)
    np.testing.assert_allclose(action, np.clip(0.1 + 0.5 * plan[np.argmax(value), 0, 0], -1, 1)[None], atol=1e-5)


class Toward(eqx.Module):
    """A perfect model of trajectories N(0, var I): predicts the expected clean one. One action, one observation, two rows."""

    var: float
    schedule: Discrete = eqx.field(static=True)
    frame: Frame = Frame(Normalizer.identity(1), Normalizer.identity(1))
    shape: tuple[int, int] = eqx.field(static=True, default=(2, 2))

    def __call__(self, x, k):
        alpha, sigma = self.schedule(k)
        return x * alpha * self.var / (alpha**2 * self.var + sigma**2)


class FirstAction(eqx.Module):
    """The return is c times the first action plus d times the second."""

    c: float = 3.0
    d: float = -1.0

    def __call__(self, x, k):
        return self.c * x[..., 0, 0] + self.d * x[..., 1, 0]


def test_a_guided_step_by_hand():
    """Two diffusion steps with betas 1/4 and 3/4: abar = 3/4, 3/16; posterior variance at k = 1 is 3/4 * (1/4) / (13/16) = 3/13.

    Two pushes of scale 2 move x_1 by 2 * 2 * 3/13 * gradient, of which the posterior mean keeps sqrt(1/4) (1/4) / (13/16) = 2/13
    directly and 3/4 sqrt(3/4) / (13/16) of the prediction; at k = 0 the sample is the prediction.
    """
    model, obs = Toward(1.0, Discrete((0.25, 0.75))), np.float32([0.7])

    def plan(scale, free):
        return np.asarray(planned(Planner(model, FirstAction(), 5, scale, 2, free), obs)[0])

    push = 2 * 2 * 3 / 13 * np.array([3.0, -1.0])
    kept = 2 / 13 + 12 / 13 * np.sqrt(3 / 4) * np.sqrt(3 / 16)  # x0_hat = alpha x for unit variance
    change = plan(2.0, 0) - plan(0.0, 0)
    np.testing.assert_allclose(change[..., 0], np.broadcast_to(push * kept * np.sqrt(3 / 4), (5, 2)), rtol=1e-5)
    np.testing.assert_allclose(change[..., 1], 0, atol=1e-7)
    assert np.array_equal(plan(2.0, 2), plan(0.0, 0))  # the last two steps are free


def test_planning_climbs_the_return():
    """First actions N(0, 0.04): unguided plans have the sampler's spread, guided and chosen ones go up with the scale."""
    model, obs = Toward(0.04, Discrete.cosine(20)), np.zeros(1, np.float32)
    keys = jax.random.split(KEY, 200)
    plans = jax.jit(jax.vmap(lambda policy, key: policy.plan(obs, key)[0][:, 0, 0], (None, 0)))
    acts = jax.jit(jax.vmap(lambda policy, key: policy.act(obs, key)[0], (None, 0)))

    def make(scale):
        return Planner(model, FirstAction(), 16, scale, 2, 2)

    free, *pushed = (np.asarray(plans(make(scale), keys)) for scale in (0.0, 0.2, 0.4))

    @jax.jit
    def slopes_and_deviations(k):
        return posterior(model.schedule, k, 1.0, model(1.0, k))

    variance = 1.0  # of x_k, from the last step on: each is linear in the one before
    for k in range(20)[::-1]:
        slope, std = slopes_and_deviations(k)
        variance = float(slope) ** 2 * variance + float(std) ** 2
    assert abs(free.mean()) < 0.02 and free.std() == pytest.approx(variance**0.5, abs=0.01)
    assert free.mean() + 0.02 < pushed[0].mean() < pushed[1].mean() - 0.02
    assert np.asarray(acts(make(0.0), keys)).mean() > 0.2  # the best of 16
    frame = TrajectoryModel(None, model.frame, model.schedule, (2, 2)).frame
    assert frame.rows(np.zeros((2, 1)), np.ones((2, 1))).tolist() == [[0, 1], [0, 1]]  # actions first
