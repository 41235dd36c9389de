"""Diffuser: the networks against definitions, conditioning, the guided step worked by hand, value targets, planning."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bandits import fit, start
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
X = jax.random.normal(jax.random.key(1), (2, 8, 16))


# --- networks


@pytest.mark.parametrize("size, stride", [(5, 1), (3, 2), (1, 1)])
def test_convolution_is_the_usual_one(size, stride):
    conv = Conv(Linear.create(16 * size, 4, KEY), size, stride)
    kernel = conv.linear.weight.reshape(size, 16, 4)
    usual = lax.conv_general_dilated(X, kernel, (stride,), [(size // 2, size // 2)], dimension_numbers=("NWC", "WIO", "NWC"))
    np.testing.assert_allclose(conv(X), usual + conv.linear.bias, atol=1e-5)
    np.testing.assert_allclose(conv(X[0]), conv(X)[0], atol=1e-6)


def test_upsampling_is_the_transposed_convolution():
    """Size 4, stride 2, padding 1 in PyTorch's terms: row i adds its k-th kernel slice to row 2i + k - 1."""
    up = Upsample(16, KEY)
    kernel = jnp.stack([up.weight[1, 16:], up.weight[0, 16:], up.weight[1, :16], up.weight[0, :16]])  # (4, c, c)
    out = np.tile(up.bias, (2, 16, 1))
    for i in range(8):
        for k in range(4):
            if 0 <= 2 * i + k - 1 < 16:
                out[:, 2 * i + k - 1] += X[:, i] @ kernel[k]
    np.testing.assert_allclose(up(X), out, atol=1e-5)


def test_group_norm_and_attention():
    y = GroupNorm(16)(3 * X + 1).reshape(2, 8, 8, 2)
    np.testing.assert_allclose(y.mean((1, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(y.std((1, 3)), 1, atol=1e-3)
    attention = LinearAttention(16, KEY, heads=2, size=4)
    n = (X[0] - X[0].mean(-1, keepdims=True)) / np.sqrt(X[0].var(-1, keepdims=True) + 1e-5)
    q, k, v = ((n @ attention.qkv).reshape(8, 2, 12)[..., i * 4 : i * 4 + 4] for i in range(3))
    heads = [(q[:, h] / 2) @ (jax.nn.softmax(k[:, h], 0).T @ v[:, h]) for h in range(2)]
    np.testing.assert_allclose(attention(X[0]), X[0] + attention.out(jnp.concatenate(heads, -1)), atol=1e-5)


@pytest.mark.parametrize("horizon, multipliers, attention", [(32, (1, 2, 4, 8), False), (4, (1, 4, 8), True)])
def test_shapes_at_paper_size(horizon, multipliers, attention):
    """hopper and walker2d; halfcheetah."""

    def make(x, k):
        net = TemporalUNet(23, KEY, 32, multipliers, attention)
        value = ReturnNet(23, horizon, KEY, 32, multipliers)
        assert value.last.layers[0].weight.shape == (64 + 32, 32)
        assert len(net.up) == len(multipliers) - 1 and (net.attention is not None) == attention
        return net(x, k), value(x, k), net(x[0], k[0]), value(x[0], k[0])

    args = jax.ShapeDtypeStruct((5, horizon, 23), "float32"), jax.ShapeDtypeStruct((5,), "int32")
    assert [x.shape for x in jax.eval_shape(make, *args)] == [(5, horizon, 23), (5,), (horizon, 23), ()]


def test_sizes_that_cannot_work_are_refused():
    with pytest.raises(ConfigError, match="a horizon of 30 rows cannot be halved 3 times; choose a multiple of 8"):
        check_sizes(30, 32, (1, 2, 4, 8))
    with pytest.raises(ConfigError, match="width 12"):
        check_sizes(32, 12, (1, 2))


# --- training


def episodes(n=60, length=20, **options):
    rng = np.random.default_rng(0)
    timeout = np.arange(n) % length == length - 1
    arrays = rng.normal(size=(n, 2)), rng.uniform(-0.9, 0.9, (n, 1)), rng.normal(size=n)
    return from_arrays(*arrays, np.zeros(n, bool), timeout, name="tiny", **options)


TINY = {
    "data.horizon": 4,
    "trajectories.width": 8,
    "trajectories.multipliers": (4,),
    "trajectories.diffusion_steps": 5,
    "value.width": 8,
    "value.multipliers": (4,),
    "planning.plans": 6,
}


@pytest.fixture(scope="module")
def trained():
    """Models as they are before training: enough to plan with."""
    algorithm = assign_all(Diffuser(), TINY)
    data, trained = treat(episodes(), algorithm.data), {}
    for name, stage in algorithm.stages.items():
        trained[name] = stage.result(start(stage, stage.view(data), dict(trained), KEY))
    return algorithm, data, trained


def test_minibatches_start_at_the_true_observation(trained):
    algorithm, data, models = trained
    model, windows = models["trajectories"], algorithm.trajectories.view(data)

    @jax.jit
    def drawn(model, windows):
        window = windows.take(windows.rows(KEY, 32))
        clean, x, k, fix = model.noised(window, jax.random.key(3))
        return window, clean, x, k, fix(jnp.zeros_like(x)), model.frame.obs(window.obs[:, 0])

    window, clean, x, k, fixed, first = drawn(model, windows)
    assert jnp.array_equal(x[:, 0, 1:], first) and jnp.array_equal(fixed[:, 0, 1:], first)
    assert not jnp.array_equal(x[:, 0, :1], clean[:, 0, :1]) and set(np.unique(k)) <= set(range(5))
    recorded = np.concatenate([data.recording.action, data.recording.obs], 1)
    rest = recorded[np.asarray(window.index)[:, None] + np.arange(4)]
    inside = np.asarray(window.inside)
    normal = (rest - recorded.mean(0)) / recorded.std(0)
    np.testing.assert_allclose(clean[inside], normal[inside], atol=1e-4)


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


def test_trained_models_know_independent_rows():
    """Rows are independent Gaussians and nothing counts but the first reward, the first action itself: from a noisy window the clean
    one is expected at alpha x (all is normalized), and the return at mean + std alpha x of the first action."""
    rng, n = np.random.default_rng(0), 5000
    action, timeout = 0.2 + 0.25 * rng.normal(size=(n, 1)), np.arange(n) % 100 == 99
    action = np.clip(action, -1, 1)
    data = from_arrays(rng.normal(size=(n, 2)), action, 8 * action[:, 0], np.zeros(n, bool), timeout, name="tiny")
    short = {"steps": 500, "batch_size": 48, "lr": 5e-3, "average.start": 200, "average.every": 1, "average.rate": 0.01}
    shorter = short | {"steps": 300, "batch_size": 32, "average.start": 150, "average.rate": 0.02}
    settings = {f"{stage}.{key}": v for stage, own in (("trajectories", shorter), ("value", short)) for key, v in own.items()}
    algorithm = assign_all(Diffuser(), TINY | settings | {"data.discount": 0.0})
    data = treat(data, algorithm.data)
    model, _ = fit(algorithm.trajectories, algorithm.trajectories.view(data))
    value, _ = fit(algorithm.value, algorithm.value.view(data), {"trajectories": model})

    @jax.jit
    def found(model, value, view):
        windows = view.take(view.rows(jax.random.key(5), 2000))
        clean, x, k, fix = model.noised(windows, jax.random.key(6))
        alpha = model.schedule(k)[0]
        expected = 8 * (action.mean() + action.std() * alpha * x[:, 0, 0])
        errors = fix(model(x, k)) - fix(alpha[:, None, None] * x), value(x, k) - expected
        return windows.inside.all(1), *errors, jnp.std(clean), jnp.std(expected)

    inside, of_rows, of_value, clean, expected = map(np.asarray, found(model, value, algorithm.trajectories.view(data)))
    assert np.sqrt(np.mean(of_rows[inside] ** 2)) < 0.25 * clean
    assert np.sqrt(np.mean(of_value[inside] ** 2)) < 0.2 * expected


def test_the_average_copies_then_follows():
    net = jnp.ones(3)
    state = TrainState(net, jnp.zeros(3), adam(1e-3).init(net))
    average = Average(rate=0.25, every=10, start=20)

    def after(step):
        return average(state, jnp.int32(step)).target[0]

    assert [after(step) for step in (0, 10, 19, 20, 21, 30)] == [1, 1, 0, 0.25, 0, 0.25]


def test_trajectories_are_required_by_name():
    n = 30
    flat = from_arrays(np.zeros((n, 2)), np.zeros((n, 1)), np.arange(n), np.zeros(n, bool), name="flat")
    with pytest.raises(DataError, match="Diffuser needs whole trajectories"):
        Diffuser().trajectories.view(treat(flat, Diffuser().data))


# --- planning


def test_plans_start_exactly_at_the_observation(trained):
    algorithm, data, models = trained
    policy = algorithm.make_policy(models)
    plan, value, action = jax.jit(lambda policy, obs: (*policy.plan(obs, KEY), policy.act(obs, KEY)))(
        policy, data.recording.obs[3]
    )
    assert plan.shape == (6, 4, 3) and value.shape == (6,) and np.isfinite(plan).all()
    assert jnp.array_equal(plan[:, 0, 1:], jnp.broadcast_to(models["trajectories"].frame.obs(data.recording.obs[3]), (6, 2)))
    best = plan[jnp.argmax(value), 0, 0] * data.recording.action.std() + data.recording.action.mean()
    np.testing.assert_allclose(action, jnp.clip(best, -1, 1)[None], atol=1e-4)
    with pytest.raises(ValueError, match="give a key"):
        policy.act(data.recording.obs[3])


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
    model, obs = Toward(1.0, Discrete((0.25, 0.75))), jnp.asarray([0.7])

    def make(scale, free):
        return Planner(model, FirstAction(), 5, scale, 2, free)

    def plan(*a):
        return make(*a).plan(obs, KEY)[0]

    push = 2 * 2 * 3 / 13 * jnp.asarray([3.0, -1.0])
    kept = 2 / 13 + 12 / 13 * np.sqrt(3 / 4) * np.sqrt(3 / 16)  # x0_hat = alpha x for unit variance
    change = plan(2.0, 0) - plan(0.0, 0)
    np.testing.assert_allclose(change[..., 0], jnp.broadcast_to(push * kept * np.sqrt(3 / 4), (5, 2)), rtol=1e-5)
    np.testing.assert_allclose(change[..., 1], 0, atol=1e-7)
    assert jnp.array_equal(plan(2.0, 2), plan(0.0, 0))  # the last two steps are free


def test_planning_climbs_the_return():
    """First actions N(0, 0.04): unguided plans have the sampler's spread, guided and chosen ones go up with the scale."""
    model, obs = Toward(0.04, Discrete.cosine(20)), jnp.zeros(1)
    keys = jax.random.split(KEY, 200)
    plans = jax.jit(jax.vmap(lambda policy, key: policy.plan(obs, key)[0][:, 0, 0], (None, 0)))
    acts = jax.jit(jax.vmap(lambda policy, key: policy.act(obs, key)[0], (None, 0)))

    def make(scale):
        return Planner(model, FirstAction(), 16, scale, 2, 2)

    free = plans(make(0.0), keys)
    variance = 1.0  # of x_k, from the last step on: each is linear in the one before
    for k in range(20)[::-1]:
        slope, std = posterior(model.schedule, k, 1.0, model(1.0, k))
        variance = float(slope) ** 2 * variance + float(std) ** 2
    assert abs(float(free.mean())) < 0.02 and float(free.std()) == pytest.approx(variance**0.5, abs=0.01)
    means = [float(plans(make(scale), keys).mean()) for scale in (0.0, 0.2, 0.4)]
    assert means[0] + 0.02 < means[1] < means[2] - 0.02
    assert float(acts(make(0.0), keys).mean()) > 0.2  # the best of 16
    frame = TrajectoryModel(None, model.frame, model.schedule, (2, 2)).frame
    assert frame.rows(jnp.zeros((2, 1)), jnp.ones((2, 1))).tolist() == [[0, 1], [0, 1]]  # actions first
