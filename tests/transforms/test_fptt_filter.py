"""With SGD, FPTT's regulariser is a linear filter of gradients: its gain, its noise, and where it becomes unstable."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import assert_same

import onward
from onward.transforms.fptt import fptt, settle
from onward.transforms.fptt_filter import largest_strength

pytestmark = [pytest.mark.usefixtures("promotion"), pytest.mark.product("proximal", "momentum")]


class TestTheFilter:
    """With SGD the running form is a linear filter of the gradients. W̄ needs no store: it is W − λ₋/(2α)."""

    RATE = 0.4
    SETTINGS = pytest.mark.parametrize(("alpha", "proximal"), [(0.5, 1.0), (0.8, 2.0), (2.0, 0.5), (0.05, 1.0)])

    def answers(self, alpha, proximal, gradients, momentum=None):
        """The steps v, which are the filtered gradient G if there is no momentum, λ and W̄ before them, and W, by the
        optimiser itself.
        """
        optimizer = optax.chain(fptt(alpha, proximal=proximal), optax.sgd(self.RATE, momentum))

        def step(carry, g):
            W, state = carry
            multiplier, average = settle(W, state)
            updates, state = optimizer.update(g, state, W)
            return (W + updates, state), (-updates / self.RATE, multiplier, average, W)

        W = jnp.array(0.7)
        return jax.jit(lambda: jax.lax.scan(step, (W, optimizer.init(W)), jnp.asarray(gradients))[1])()

    @SETTINGS
    def test_the_average_is_the_weights_less_half_the_multiplier_before(self, alpha, proximal):
        gradients = np.random.default_rng(0).normal(size=30)
        filtered, multipliers, averages, weights = self.answers(alpha, proximal, gradients)
        before = np.concatenate([[0.0], multipliers[:-1]])
        assert_same(averages, weights - jnp.asarray(before) / (2 * alpha))
        assert_same(filtered, jnp.asarray(gradients) - multipliers + proximal / 2 * before)

    @SETTINGS
    def test_gain_noise_and_what_becomes_of_alternation_are_those_of_its_impulse_response(self, alpha, proximal):
        found = onward.transforms.FPTTFilter(alpha * self.RATE, proximal)
        response = np.asarray(self.answers(alpha, proximal, np.eye(1, 3000)[0])[0])
        signs = (-1.0) ** np.arange(3000)
        np.testing.assert_allclose(found.gain, response.sum(), rtol=1e-10)
        np.testing.assert_allclose(found.alternating, signs @ response, rtol=1e-10)
        np.testing.assert_allclose(found.noise, response @ response, rtol=1e-10)
        mu, factor = found.matched
        ball = factor * mu ** np.arange(3000)
        np.testing.assert_allclose([ball.sum(), ball @ ball], [found.gain, found.noise], rtol=1e-10)

    @pytest.mark.parametrize(("alpha", "proximal"), [(2.5, 2.0), (0.5, 1.0), (0.3, 0.0)])
    def test_with_the_momentum_of_sgd_too(self, alpha, proximal):
        found = onward.transforms.FPTTFilter(alpha * self.RATE, proximal, 0.9)
        response = np.asarray(self.answers(alpha, proximal, np.eye(1, 3000)[0], 0.9)[0])
        alternating = (-1.0) ** np.arange(3000) @ response
        sums = [response.sum(), alternating, response @ response]
        np.testing.assert_allclose([found.gain, found.alternating, found.noise], sums, rtol=1e-10)
        mu, factor = found.matched
        ball = factor * mu ** np.arange(3000)
        np.testing.assert_allclose([ball.sum(), ball @ ball], [found.gain, found.noise], rtol=1e-10)

    def test_the_noise_of_the_documentation(self):
        a = 0.3
        of_paper, of_script = (onward.transforms.FPTTFilter(a, c).noise for c in (1.0, 2.0))
        np.testing.assert_allclose(of_paper, (5 + 7 * a + 6 * a**2) / ((1 + a) ** 2 * (5 - 3 * a)), rtol=1e-12)
        np.testing.assert_allclose(of_script, (5 + 6 * a) / ((1 + 2 * a) * (5 - 4 * a)), rtol=1e-12)

    @pytest.mark.parametrize("proximal", [0.0, 1.0, 2.0])
    @pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
    def test_the_largest_strength_is_where_a_pole_leaves_the_circle(self, proximal, momentum):
        limit = largest_strength(proximal, momentum)

        def largest_pole(a):
            poles = np.roots([1, a - 1 - momentum, 0.5 + momentum - a * proximal / 2, -momentum / 2])
            return np.abs(poles).max()

        assert all(largest_pole(share * limit) < 1 for share in (0.01, 0.5, 0.999))
        assert largest_pole(1.001 * limit) > 1
        with pytest.raises(ValueError, match="strength must be above 0 and below"):
            onward.transforms.FPTTFilter(limit, proximal, momentum)
        with pytest.raises(ValueError, match=r"momentum must be at least 0 and below 1, got 1\.0"):
            onward.transforms.FPTTFilter(0.1, proximal, 1.0)

    def test_in_a_steady_drift_the_average_is_one_step_ahead(self):
        _, _, averages, weights = self.answers(0.5, 1.0, np.ones(400))
        np.testing.assert_allclose(averages[-2], weights[-1], rtol=1e-10)

    @pytest.mark.parametrize(("alpha", "proximal"), [(0.5, 1.0), (0.5, 2.0), (3.0, 2.0), (0.1, 0.0)])
    def test_the_largest_stable_rate_for_every_proximal_factor(self, alpha, proximal):
        limit = onward.transforms.largest_fptt_rate(alpha, proximal)

        @jax.jit
        def end(rate):
            optimizer = optax.chain(fptt(alpha, proximal=proximal), optax.sgd(rate))

            def step(carry, _):
                W, state = carry
                updates, state = optimizer.update(W, state, W)
                return (W + updates, state), W

            return jnp.abs(
                jax.lax.scan(step, (jnp.array(1.0), optimizer.init(jnp.array(1.0))), None, 4000)[1][-20:]
            ).max()

        assert end(0.99 * limit) < 1e-6
        assert end(1.01 * limit) > 1e3

    @pytest.mark.usefixtures("as_in_use")
    def test_a_filter_that_is_unstable_is_refused(self):
        with pytest.raises(ValueError, match=r"strength must be above 0 and below 1\.25, got 1\.3"):
            onward.transforms.FPTTFilter(1.3, 2.0)
        with pytest.raises(ValueError, match="proximal must be from 0 to 2, got 3"):
            onward.transforms.FPTTFilter(0.1, 3)
