"""Schedules, parametrizations and samplers against closed forms and the reference numbers of the papers' code."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from srpo.diffusion import dpm_solver, edm, samplers
from srpo.diffusion.parametrization import NoisePrediction, Preconditioned
from srpo.diffusion.schedules import EDM, VP, Discrete, perturb

MEAN, VAR = 0.3, 0.04  # the scalar Gaussian of the known answers
double = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64


def gaussian_noise(schedule, mean=MEAN, var=VAR):
    """The exact noise prediction for data ~ N(mean, var): sigma (x - alpha mean) / (alpha^2 var + sigma^2)."""

    def predict(x, t):
        alpha, sigma = schedule(t)
        return sigma * (x - alpha * mean) / (alpha**2 * var + sigma**2)

    return predict


def exact_flow(schedule, x, start, stop):
    """Where the probability flow takes x: it keeps the number of standard deviations from the mean."""
    (a, s), (b, t) = schedule(start), schedule(stop)
    return b * MEAN + jnp.sqrt((b**2 * VAR + t**2) / (a**2 * VAR + s**2)) * (x - a * MEAN)


# schedules


@jax.jit
def of_vp(t):
    return VP()(t), VP().log_snr(t), VP().time(VP().log_snr(t))


@pytest.mark.parametrize(
    "t, alpha, sigma, log_snr",
    [
        (1e-3, 0.999945, 0.010485, 4.55771),
        (0.02, 0.997014, 0.077215, 2.55817),
        (0.25, 0.723657, 0.690160, 0.04739),
        (0.50, 0.281183, 0.959654, -1.22757),
        (0.75, 0.058664, 0.998278, -2.83421),
        (0.98, 0.008011, 0.999968, -4.82696),
        (1.00, 0.006572, 0.999978, -5.02498),
    ],
)
def test_vp_schedule_table_and_inverse(t, alpha, sigma, log_snr):
    found, found_log_snr, time = of_vp(t)
    np.testing.assert_allclose(found, (alpha, sigma), atol=1e-6)
    np.testing.assert_allclose(found_log_snr, log_snr, atol=1e-5)
    np.testing.assert_allclose(time, t, rtol=1e-4)


def test_vp_noise_level_in_edm_variables_and_beta():
    @jax.jit
    def found(t):
        alpha, sigma = VP()(t)
        return sigma / alpha, VP().beta(t), -2 * jax.vmap(jax.grad(VP().log_alpha))(t)

    t = np.linspace(0.01, 1, 20, dtype=np.float32)
    level, beta, slope = found(t)
    np.testing.assert_allclose(level, np.sqrt(np.expm1(19.9 * t**2 / 2 + 0.1 * t)), rtol=1e-4)
    np.testing.assert_allclose(beta, slope, rtol=1e-5)


def test_discrete_vp_betas():
    vp = Discrete.vp(5)
    np.testing.assert_allclose(vp.beta, [0.195875, 0.458818, 0.635781, 0.754878, 0.835031], atol=1e-6)
    np.testing.assert_allclose(vp.alpha_bar, [0.804125, 0.435178, 0.158500, 0.038852, 0.006409], atol=1e-6)
    alpha, sigma = map(np.asarray, jax.jit(vp)(np.arange(5)))
    np.testing.assert_allclose(alpha**2, vp.alpha_bar, rtol=1e-5)
    np.testing.assert_allclose(alpha**2 + sigma**2, 1, rtol=1e-6)


def test_cosine_betas_follow_the_squared_cosine_and_saturate():
    cosine = Discrete.cosine(20)
    u = np.arange(21) / 20
    expected = np.cos(np.pi / 2 * (u + 0.008) / 1.008) ** 2
    np.testing.assert_allclose(cosine.alpha_bar[:-1], (expected / expected[0])[1:-1], rtol=1e-6)
    assert cosine.beta[-1] == 0.999 and all(np.diff(cosine.beta) > 0)


# parametrizations

precondition = jax.jit(edm.precondition)


@pytest.mark.parametrize("alpha, sigma", [(1.0, 0.3), (0.2, 0.98)])
def test_preconditioning_is_table_1_of_edm(alpha, sigma):
    s = sigma / alpha  # in the variables of the paper
    c_in, c_skip, c_out = map(float, precondition(alpha, sigma))
    np.testing.assert_allclose(c_in * alpha, 1 / np.sqrt(s**2 + 0.25), rtol=1e-6)  # it multiplies x_t = alpha y
    np.testing.assert_allclose(c_skip * alpha, 0.25 / (s**2 + 0.25), rtol=1e-6)
    np.testing.assert_allclose(c_out, s * 0.5 / np.sqrt(s**2 + 0.25), rtol=1e-6)


class Wavy(eqx.Module):
    action_size: int = eqx.field(static=True, default=3)

    def __call__(self, x, t, obs, key=None):
        return jnp.sin(3 * x + obs) + t[..., None]


wavy = Wavy()


@pytest.mark.parametrize("schedule", [VP(), EDM()])
def test_preconditioned_noise_and_denoised_action_agree(schedule):
    rng, model = np.random.default_rng(0), Preconditioned(wavy, schedule)
    t, obs = rng.uniform(0.05, 1, 64).astype(np.float32), np.ones((64, 3), np.float32)
    action, noise = rng.normal(size=(2, 64, 3)).astype(np.float32)

    @jax.jit
    def found(t, action, noise, obs):
        alpha, sigma = schedule(t)
        x = perturb(action, noise, alpha, sigma)
        c_out = edm.precondition(alpha, sigma)[2]
        return alpha, sigma, c_out, x, model(x, t, obs), model.denoise(x, t, obs), model.error(action, t, noise, obs)

    *levels, x, predicted, denoised, error = map(np.asarray, found(t, action, noise, obs))
    alpha, sigma, c_out = (level[:, None] for level in levels)
    np.testing.assert_allclose(predicted, (x - alpha * denoised) / sigma, atol=2e-4)
    np.testing.assert_allclose(error, (denoised - action) / c_out, atol=2e-4)
    # SRPO's score term with the baseline subtracted is a pull towards the denoised action (docs/algorithms/srpo.md)
    np.testing.assert_allclose(predicted - noise, alpha / sigma * (action - denoised), atol=2e-4)


def test_noise_prediction_error_is_the_difference_of_noises():
    action, t, noise, obs = np.array([[0.5]]), np.array([0.3]), np.array([[-1.2]]), np.zeros((1, 1))
    error = float(jax.jit(NoisePrediction(wavy, VP()).error)(action, t, noise, obs).item())
    x = 0.6299 * 0.5 - 0.7767 * 1.2  # alpha(0.3) = exp(-19.9 * 0.09 / 4 - 0.015), by hand
    np.testing.assert_allclose(error, np.sin(3 * x) + 0.3 + 1.2, atol=1e-3)


def test_noise_of_a_point_mass_is_the_noise_that_was_added():
    def found(x0, noise, t):
        return gaussian_noise(VP(), 0.7, 0.0)(perturb(x0, noise, *VP()(t)), t[:, None])

    noise = np.full((3, 1), -0.4)
    np.testing.assert_allclose(jax.jit(found)(np.full((3, 1), 0.7), noise, np.array([0.1, 0.5, 0.9])), noise, rtol=1e-3)


def test_training_noise_levels_have_the_quantiles_of_their_law():
    sigma = np.asarray(jax.jit(lambda key: edm.draw_sigma(key, (100_000,)))(random.key(1)))
    np.testing.assert_allclose(np.quantile(sigma, [0.05, 0.25, 0.5, 0.75, 0.95]), [0.115, 0.289, 0.5, 0.866, 2.18], rtol=0.03)
    assert sigma.min() >= 0.002 and sigma.max() <= 80


# solvers of the probability-flow ODE


@pytest.mark.parametrize(
    "evaluations, order, orders",
    [
        (15, 3, (3, 3, 3, 3, 2, 1)),
        (16, 3, (3,) * 5 + (1,)),
        (17, 3, (3,) * 5 + (2,)),
        (15, 2, (2,) * 7 + (1,)),
        (6, 2, (2, 2, 2)),
        (4, 1, (1,) * 4),
    ],
)
def test_block_orders(evaluations, order, orders):
    assert dpm_solver.block_orders(evaluations, order) == orders


def test_block_orders_with_a_single_tail():
    assert dpm_solver.block_orders(6, 2, single_tail=True) == (2, 2, 1, 1)
    assert dpm_solver.block_orders(15, 2, single_tail=True) == (2,) * 7 + (1,)


def test_orders_must_spend_the_grid():
    with pytest.raises(ValueError, match="spend 2 intervals, the grid has 3"):
        dpm_solver.singlestep(gaussian_noise(VP()), VP(), np.ones(1), np.linspace(1, 0.1, 4), (2,))


def endpoint(form, order):
    times = dpm_solver.uniform_times(15)
    orders = dpm_solver.block_orders(15, order)
    return dpm_solver.singlestep(gaussian_noise(VP()), VP(), jnp.asarray(1.2), times, orders, form)


def test_end_points_of_the_papers_settings():
    sfbc = jax.jit(lambda: endpoint("noise", 3))
    with double(True):
        np.testing.assert_allclose(sfbc(), 0.468786, atol=1e-6)
        qgpo, exact = jax.jit(lambda: (endpoint("data", 2), exact_flow(VP(), 1.2, 1.0, 1e-3)))()
        np.testing.assert_allclose(qgpo, 0.461663, atol=1e-6)
        np.testing.assert_allclose(exact, 0.539910, atol=1e-6)
    np.testing.assert_allclose(sfbc(), 0.468786, atol=2e-5)  # in single precision


def slope(errors, counts):
    """Observed order of convergence: decimal orders of error per decimal order of steps."""
    return np.log(errors[0] / errors[1]) / np.log(counts[1] / counts[0])


@jax.jit
def times_and_exact_end():
    """96 intervals between times 0.9 and 0.1, uniform in log(alpha / sigma), and where the flow takes 1.2 over them."""
    vp = VP()
    times = vp.time(jnp.linspace(vp.log_snr(jnp.asarray(0.9)), vp.log_snr(jnp.asarray(0.1)), 97))
    return times, exact_flow(vp, 1.2, 0.9, 0.1)


@pytest.mark.parametrize("form", ["noise", "data"])
@pytest.mark.parametrize("order", [1, 2, 3, "2M"])
def test_dpm_solver_converges_with_its_order(form, order):
    """With 48 intervals, and with 96 of half the length, solved as 48 and 48: a solver that begins again keeps its order."""

    @jax.jit
    def solve(x, times):
        if order == "2M":
            return dpm_solver.multistep(gaussian_noise(VP()), VP(), x, times, form)
        return dpm_solver.singlestep(gaussian_noise(VP()), VP(), x, times, (order,) * (48 // order), form)

    with double(True):
        times, exact = map(np.asarray, times_and_exact_end())
        x = np.array(1.2)
        ends = solve(x, times[::2]), solve(solve(x, times[:49]), times[48:])
        errors = [abs(float(end) - exact) for end in ends]
        assert slope(errors, (48, 96)) == pytest.approx(2 if order == "2M" else order, abs=0.15)


def test_heun_converges_with_order_two_and_reaches_the_clean_sample():
    def denoise(x, s):
        return (VAR * x + s**2 * MEAN) / (VAR + s**2)

    solve = jax.jit(lambda x, n: edm.heun(denoise, x, edm.karras_sigmas(n)), static_argnums=1)
    exact = MEAN + np.sqrt(VAR / (VAR + 80.0**2)) * (5.0 - MEAN)
    with double(True):
        error = [abs(float(solve(5.0, n)) - exact) for n in (64, 128)]
    assert error[1] < 3e-5 and error[0] / error[1] > 3.5


def test_karras_levels():
    sigmas = np.asarray(jax.jit(lambda: edm.karras_sigmas(5))())
    np.testing.assert_allclose(sigmas[[0, 2, 4, 5]], [80, 2.5152, 0.002, 0], rtol=1e-4)  # the middle one by hand


# ancestral samplers


def test_posterior_is_bayes_rule():
    """Mean and variance of x_{k-1} given x_k and x_0, from the product of the two Gaussians."""
    schedule, x, x0 = Discrete.vp(5), 0.8, -0.3
    posterior = jax.jit(lambda k: samplers.posterior(schedule, k, x, x0))
    for k in range(1, 5):
        before, beta = schedule.alpha_bar[k - 1], schedule.beta[k]
        precision = 1 / (1 - before) + (1 - beta) / beta
        mean, std = map(float, posterior(k))
        np.testing.assert_allclose(std**2, 1 / precision, rtol=1e-4)
        np.testing.assert_allclose(
            mean, (np.sqrt(before) * x0 / (1 - before) + np.sqrt(1 - beta) * x / beta) / precision, rtol=1e-4
        )
    np.testing.assert_allclose(posterior(0), [x0, 0], atol=1e-6)


def moments(sampler, schedule, mean, var):
    predict, start = gaussian_noise(schedule, mean, var), np.random.default_rng(2).normal(size=8000).astype(np.float32)
    x = np.asarray(jax.jit(lambda x, key: sampler(predict, schedule, x, key))(start, random.key(2)))
    return x.mean(), x.var()


def through_x0(predict, schedule, x, key):
    return samplers.ddpm(lambda x, k: samplers.clean(schedule, k, x, predict(x, k)), schedule, x, key)


def test_ddpm_recovers_a_gaussian():
    mean, var = moments(through_x0, Discrete.vp(500), MEAN, VAR)
    assert mean == pytest.approx(MEAN, abs=0.01) and var == pytest.approx(VAR, rel=0.1)


def test_clipped_ddpm_recovers_a_gaussian_inside_the_bounds():
    def wide(predict, schedule, x, key):
        return samplers.ddpm_clipped(predict, schedule, x, key, clip=10.0)

    mean, var = moments(wide, Discrete.vp(500), MEAN, VAR)
    assert mean == pytest.approx(MEAN, abs=0.01) and var == pytest.approx(VAR, rel=0.1)


def test_clipped_ddpm_by_hand():
    """Two steps with a model that predicts zero noise: x / sqrt(1 - beta), noise, clip; then no noise."""

    @jax.jit
    def found(x, key):
        noise = random.normal(random.split(key, 2)[0], x.shape)
        return noise, samplers.ddpm_clipped(lambda x, k: jnp.zeros_like(x), Discrete((0.36, 0.75)), x, key)

    noise, x = map(np.asarray, found(np.full(1000, 0.1, np.float32), random.key(3)))
    expected = np.clip(np.clip(0.1 / 0.5 + np.sqrt(0.75) * noise, -1, 1) / 0.8, -1, 1)
    np.testing.assert_allclose(x, expected, atol=1e-6)


def test_gradient_flows_through_the_chain_and_stops_at_the_clip():
    schedule = Discrete.vp(5)

    @jax.jit
    @jax.value_and_grad
    def end(shift, clip):
        def denoise(x, k):
            return jnp.clip(0.5 * x + shift, -clip, clip)

        return samplers.ddpm(denoise, schedule, jnp.asarray(0.4), random.key(4))

    numeric = (float(end(0.1 + 1e-2, 10.0)[0]) - float(end(0.1 - 1e-2, 10.0)[0])) / 2e-2
    np.testing.assert_allclose(end(0.1, 10.0)[1], numeric, rtol=1e-3)
    assert float(end(5.0, 1.0)[1]) == 0
