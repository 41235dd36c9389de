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

RING = ring_of_gaussians()


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
    x, t = jnp.array([[0.3, -1.0], [2.5, 0.4], [-4.0, 3.0]]), jnp.array([0.02, 0.2, 0.9])
    alpha, sigma = VP()(t)

    def log_p(x, alpha, sigma):
        return GaussianMixture(alpha * RING.means, jnp.sqrt((alpha * RING.std) ** 2 + sigma**2)).log_density(x)

    np.testing.assert_allclose(RING(x, t), -sigma[:, None] * jax.vmap(jax.grad(log_p))(x, alpha, sigma), atol=1e-5)


@pytest.mark.parametrize("mixture", [GaussianMixture(jnp.array([[0.5, -1.0]]), 0.3), RING], ids=["gaussian", "ring"])
def test_density_without_training_is_exact(mixture):
    mean = jnp.mean(mixture.means, 0)
    std = jnp.sqrt(jnp.var(mixture.means, 0) + mixture.std**2)
    rng = np.random.default_rng(0)
    near = mixture.sample(rng, 400)
    x = jnp.asarray(np.concatenate([near, near + 0.5 * rng.normal(size=near.shape)]), jnp.float32)
    found = jax.jit(lambda x: log_density(mixture, VP(), x, NO_OBS, mean=mean, std=std, min_time=1e-5, tolerance=1e-5))(x)
    np.testing.assert_allclose(found, mixture.log_density(x), atol=1e-3)


def test_density_integrates_to_one():
    points = grid_points(4.5, 60)
    found = jax.jit(lambda x: log_density(RING, VP(), x, NO_OBS, tolerance=1e-3))(jnp.asarray(points))
    assert float(jnp.sum(jnp.exp(found)) * 0.15**2) == pytest.approx(1, abs=0.02)


# policies


def brute_force(target, inverse_beta):
    """argmax of -|a - target|^2 + (1/beta) log mu(a): the best of a grid, refined four times."""
    best, half = np.zeros(2), 4.5
    for _ in range(5):
        a = best + grid_points(half, 301)
        q = -((a - target) ** 2).sum(-1) + inverse_beta * np.asarray(RING.log_density(jnp.asarray(a, jnp.float32)))
        best, half = a[q.argmax()], half / 30
    return best


TARGETS = jnp.array([[3.5, 2.0], [1.5, -0.1], [-4.0, -0.3], [0.2, 3.9]])


def test_fixed_point_of_eq10_is_the_optimum():
    inverse_beta = jnp.linspace(0, 2, 41)
    policies = np.asarray(climb(RING, Quadratic(TARGETS), TARGETS, inverse_beta, jax.random.key(0), steps=400, time=1e-4))
    np.testing.assert_allclose(policies[0], TARGETS, atol=1e-3)
    for i in (2, 10, 20, 40):  # beta = 10, 2, 1, 1/2
        best = np.stack([brute_force(np.asarray(t), float(inverse_beta[i])) for t in TARGETS])
        np.testing.assert_allclose(policies[i], best, atol=1e-3)


def test_policy_moves_from_a_mode_to_the_target_as_beta_grows():
    target, mode = jnp.array([[3.6, 0.9]]), RING.means[0]
    inverse_beta = jnp.concatenate([jnp.linspace(0, 2, 21), jnp.array([5.0, 20.0, 100.0])])
    path = np.asarray(climb(RING, Quadratic(target), target, inverse_beta, jax.random.key(0), steps=300, time=1e-4))[:, 0]
    np.testing.assert_allclose(path[0], target[0], atol=1e-3)
    np.testing.assert_allclose(path[-1], mode, atol=5e-3)
    assert (np.diff(np.linalg.norm(path - np.asarray(mode), axis=1)) < 0).all()


def test_surrogate_finds_its_own_optimum():
    """Eq. 15 descends -Q + (1/beta) E_t,noise[-w(t) (sigma/alpha) log mu_t(a_t)], which quadrature evaluates on a single Gaussian.

    There noise_hat - noise = c (alpha (a - m) - alpha^2 v / sigma noise), c = sigma / (alpha^2 v + sigma^2), so that the mean
    pull is k (a - m) with k = E_t[sigma^2 c alpha], and the optimum (2 target + k/beta m) / (2 + k/beta).
    """
    mean, std = jnp.array([1.0, -0.5]), 0.4
    t = jnp.linspace(0.02, 0.98, 2001)
    alpha, sigma = VP()(t)
    k = 30 * float(jnp.mean(sigma**3 * alpha / ((alpha * std) ** 2 + sigma**2)))
    target = jnp.array([[3.0, 2.0]])
    found = climb(
        GaussianMixture(mean[None], std),
        Quadratic(target),
        target,
        jnp.full(3, 30.0),
        jax.random.key(0),
        steps=1000,
        gradient="eq15",
    )
    np.testing.assert_allclose(found[-1], (2 * target + k * mean) / (2 + k), atol=0.01)


# variance


def test_baseline_keeps_the_mean_and_lowers_the_variance():
    """Over the paper's range of times; the difference of the means is within two standard errors of zero."""
    m = 4096
    action = jnp.asarray(BANDITS["8gaussians"].actions(16, 0)) + 0.3
    k_time, k_noise = jax.random.split(jax.random.key(1))
    t = jax.random.uniform(k_time, (16, m), minval=0.02, maxval=0.98)
    noise = jax.random.normal(k_noise, (16, m, 2))
    bare, kept = (np.asarray(variance.score_terms(RING, action, t, noise, baseline)) for baseline in (False, True))
    standard_error = np.sqrt(bare.mean(0).var(0) / m + 1e-12)
    assert (abs(bare.mean((0, 1)) - kept.mean((0, 1))) < 2 * standard_error).all()
    assert (kept.var(1).sum(-1) < 0.5 * bare.var(1).sum(-1)).all()


def test_variance_of_a_gaussian_is_the_closed_form():
    """noise_hat has the noise with the factor c = sigma^2 / (alpha^2 v + sigma^2): variances w^2 c^2 d and w^2 (1 - c)^2 d."""
    std, time = 0.5, 0.3
    alpha, sigma = (float(x) for x in VP()(jnp.float32(time)))
    c = sigma**2 / ((alpha * std) ** 2 + sigma**2)
    exact = GaussianMixture(jnp.zeros((1, 2)), std)
    noise = jax.random.normal(jax.random.key(0), (2, 20_000, 2))
    found = variance.moments(exact, exact, jnp.ones((2, 2)), jnp.full((2, 20_000), time), noise)
    assert float(found["without_baseline"]) == pytest.approx(2 * (sigma**2 * c) ** 2, rel=0.03)
    assert float(found["with_baseline"]) == pytest.approx(2 * (sigma**2 * (1 - c)) ** 2, rel=0.03)
    assert float(found["mean_square"]) == pytest.approx(2 * (sigma**3 * alpha / ((alpha * std) ** 2 + sigma**2)) ** 2, rel=0.05)
    assert float(found["bias_square"]) < 1e-12
    assert float(variance.score_error(exact, exact, jnp.ones((5, 2)), time, noise[0, :5])) == pytest.approx(0, abs=1e-12)


def test_quadratic_is_a_critic():
    q = Quadratic(jnp.array([1.0, 2.0])).q_target(jnp.zeros((3, 0)), jnp.array([[1.0, 2.0], [2.0, 2.0], [1.0, 0.0]]))
    np.testing.assert_array_equal(q, [[0.0, -1.0, -4.0]])
