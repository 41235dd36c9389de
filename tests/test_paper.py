"""The 2-D experiments against closed forms: densities, fixed points of the policy, variance of its gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from srpo.diffusion.density import log_density
from srpo.diffusion.schedules import VP
from srpo.errors import ConfigError
from srpo.paper import bandits, variance
from srpo.paper.bandits import BANDITS, NO_OBS, GaussianMixture, Quadratic, ring_of_gaussians
from srpo.paper.study import climb, grid_points

RING = jax.device_get(jax.jit(ring_of_gaussians)())
schedule = jax.jit(VP())


# data


@pytest.mark.parametrize("name", BANDITS)
def test_actions_have_shape_range_and_seed(name):
    bandit = BANDITS[name]
    a = bandit.actions(2001, 3)
    assert a.shape == (2001, 2) and a.dtype == np.float32 and np.isfinite(a).all()
    assert np.mean(abs(a) < bandit.extent) > 0.999 and abs(a).max() > bandit.extent / 2
    np.testing.assert_array_equal(a, bandit.actions(2001, 3))
    assert not np.array_equal(a, bandit.actions(2001, 4))


def test_geometry_of_the_generators():
    ring = np.linalg.norm(BANDITS["rings"].actions(4000, 0), axis=1)
    assert set(np.unique(np.round(ring / 0.75).astype(int))) <= {0, 1, 2, 3, 4, 5}
    assert np.quantile(abs(ring - 0.75 * np.round(ring / 0.75)), 0.95) < 0.2
    x, y = BANDITS["checkerboard"].actions(4000, 0).T / 2
    assert (((np.floor(x) + np.floor(y)) % 2) == ((np.floor(x) + np.floor(y)) % 2)[0]).all()
    spirals = BANDITS["2spirals"].actions(20_000, 0)
    assert abs(spirals.mean(0)).max() < 0.05  # one arm is the other turned by half a circle
    for name, modes, std in (("8gaussians", 8, 2**0.5 / 4), ("25gaussians", 25, 0.3)):
        mixture, a = BANDITS[name].mixture(), BANDITS[name].actions(5000, 0)
        apart = np.linalg.norm(a[:, None] - np.asarray(mixture.means), axis=-1)
        assert set(apart.argmin(1)) == set(range(modes))
        assert np.sqrt(np.mean(apart.min(1) ** 2) / 2) == pytest.approx(std, rel=0.03)


def test_unknown_data_set_names_the_closest():
    with pytest.raises(ConfigError, match="did you mean 'swissroll'"):
        bandits.find("swisrol")


# density


def test_mixture_predicts_the_noise_of_its_own_diffused_density():
    """eps = -sigma d log p_t(x) / dx, and p_t is the mixture with means alpha m and variance alpha^2 std^2 + sigma^2."""

    @jax.jit
    def both(x, t):
        alpha, sigma = VP()(t)

        def log_p(x, alpha, sigma):
            return GaussianMixture(alpha * RING.means, jnp.sqrt((alpha * RING.std) ** 2 + sigma**2)).log_density(x)

        return RING(x, t), -sigma[:, None] * jax.vmap(jax.grad(log_p))(x, alpha, sigma)

    found, expected = both(np.array([[0.3, -1.0], [2.5, 0.4], [-4.0, 3.0]]), np.array([0.02, 0.2, 0.9]))
    np.testing.assert_allclose(found, expected, atol=1e-5)


ONE = GaussianMixture(np.float32([[0.5, -1.0]] * 8), RING.std)  # eight parts in one place, for which the ring's program serves


@jax.jit
def found_density(mixture, x, mean, std, min_time, tolerance):
    return log_density(mixture, VP(), x, NO_OBS, mean=mean, std=std, min_time=min_time, tolerance=tolerance)


@pytest.mark.parametrize("mixture", [ONE, RING], ids=["gaussian", "ring"])
def test_density_without_training_is_exact(mixture):
    means, rng = np.asarray(mixture.means), np.random.default_rng(0)
    near = mixture.sample(rng, 200)
    x = np.concatenate([near, near + 0.5 * rng.normal(size=near.shape)]).astype(np.float32)
    found = found_density(mixture, x, means.mean(0), np.sqrt(means.var(0) + np.float32(mixture.std) ** 2), 1e-5, 1e-5)
    np.testing.assert_allclose(found, mixture.log_density(x), atol=1e-3)


def test_density_integrates_to_one():
    found = found_density(RING, grid_points(4.5, 20), np.zeros(2, np.float32), np.ones(2, np.float32), 1e-3, 1e-3)
    assert np.exp(np.asarray(found)).sum() * 0.45**2 == pytest.approx(1, abs=0.02)


# policies


def brute_force(target, inverse_beta):
    """argmax of -|a - target|^2 + (1/beta) log mu(a): the best of a grid, refined five times."""
    best, half = np.zeros(2), 4.5
    for _ in range(6):
        a = best + grid_points(half, 101)
        q = -((a - target) ** 2).sum(-1) + inverse_beta * np.asarray(RING.log_density(a.astype(np.float32)))
        best, half = a[q.argmax()], half / 10
    return best


TARGETS = np.float32([[3.5, 2.0], [1.5, -0.1], [-4.0, -0.3], [0.2, 3.9], [3.6, 0.9]])


@pytest.fixture(scope="module")
def path():
    """Where policies with these targets go as 1/beta grows from 0 to 2 in twenty steps, then to 5, 20 and 100; and these 1/beta."""
    inverse_beta = np.append(np.linspace(0, 2, 21), [5, 20, 100]).astype(np.float32)
    climbed = climb(RING, Quadratic(TARGETS), TARGETS, inverse_beta, jax.random.key(0), steps=400, time=1e-4)
    return np.asarray(climbed), inverse_beta


def test_fixed_point_of_eq10_is_the_optimum(path):
    policies, inverse_beta = path
    np.testing.assert_allclose(policies[0], TARGETS, atol=1e-3)
    for i in (1, 5, 10, 20):  # beta = 10, 2, 1, 1/2
        best = np.stack([brute_force(t, float(inverse_beta[i])) for t in TARGETS[:4]])
        np.testing.assert_allclose(policies[i, :4], best, atol=1e-3)


def test_policy_moves_from_a_mode_to_the_target_as_beta_grows(path):
    policy, mode = path[0][:, -1], RING.means[0]
    np.testing.assert_allclose(policy[-1], mode, atol=5e-3)
    assert (np.diff(np.linalg.norm(policy - mode, axis=1)) < 0).all()


def test_surrogate_finds_its_own_optimum():
    """Eq. 15 descends -Q + (1/beta) E_t,noise[-w(t) (sigma/alpha) log mu_t(a_t)], which quadrature evaluates on a single Gaussian.

    There noise_hat - noise = c (alpha (a - m) - alpha^2 v / sigma noise), c = sigma / (alpha^2 v + sigma^2), so that the mean
    pull is k (a - m) with k = E_t[sigma^2 c alpha], and the optimum (2 target + k/beta m) / (2 + k/beta).
    """
    mean, std = np.float32([1.0, -0.5]), np.float32(0.4)
    alpha, sigma = map(np.asarray, schedule(np.linspace(0.02, 0.98, 2001)))
    k = 30 * np.mean(sigma**3 * alpha / ((alpha * std) ** 2 + sigma**2))
    target, exact = np.float32([[3.0, 2.0]]), GaussianMixture(mean[None], std)
    key = jax.random.key(0)
    found = climb(exact, Quadratic(target), target, np.full(3, 30, np.float32), key, steps=1000, gradient="eq15")
    np.testing.assert_allclose(np.asarray(found)[-1], (2 * target + k * mean) / (2 + k), atol=0.01)


# variance


def test_baseline_keeps_the_mean_and_lowers_the_variance():
    """Over the paper's range of times; the difference of the means is within two standard errors of zero."""
    m, rng = 4096, np.random.default_rng(1)
    action = BANDITS["8gaussians"].actions(16, 0) + np.float32(0.3)
    t, noise = rng.uniform(0.02, 0.98, (16, m)).astype(np.float32), rng.normal(size=(16, m, 2)).astype(np.float32)
    terms = jax.jit(lambda *drawn: [variance.score_terms(RING, *drawn, baseline) for baseline in (False, True)])
    bare, kept = map(np.asarray, terms(action, t, noise))
    standard_error = np.sqrt(bare.mean(0).var(0) / m + 1e-12)
    assert (abs(bare.mean((0, 1)) - kept.mean((0, 1))) < 2 * standard_error).all()
    assert (kept.var(1).sum(-1) < 0.5 * bare.var(1).sum(-1)).all()


def test_variance_of_a_gaussian_is_the_closed_form():
    """noise_hat has the noise with the factor c = sigma^2 / (alpha^2 v + sigma^2): variances w^2 c^2 d and w^2 (1 - c)^2 d."""
    std, time = 0.5, 0.3
    alpha, sigma = map(float, schedule(time))
    c = sigma**2 / ((alpha * std) ** 2 + sigma**2)
    exact = GaussianMixture(np.zeros((1, 2), np.float32), std)
    noise = np.random.default_rng(0).normal(size=(2, 20_000, 2)).astype(np.float32)
    found = variance.moments(exact, exact, np.ones((2, 2)), np.full((2, 20_000), time), noise)
    assert float(found["without_baseline"]) == pytest.approx(2 * (sigma**2 * c) ** 2, rel=0.03)
    assert float(found["with_baseline"]) == pytest.approx(2 * (sigma**2 * (1 - c)) ** 2, rel=0.03)
    assert float(found["mean_square"]) == pytest.approx(2 * (sigma**3 * alpha / ((alpha * std) ** 2 + sigma**2)) ** 2, rel=0.05)
    assert float(found["bias_square"]) < 1e-12
    assert float(variance.score_error(exact, exact, np.ones((5, 2)), time, noise[0, :5])) == pytest.approx(0, abs=1e-12)


def test_quadratic_is_a_critic():
    q = jax.jit(Quadratic.q_target)(Quadratic(np.array([1, 2])), None, np.array([[1, 2], [2, 2], [1, 0]]))
    np.testing.assert_array_equal(q, [[0, -1, -4]])
