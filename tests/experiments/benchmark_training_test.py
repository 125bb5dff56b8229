import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.baselines import s4nn_per_sample
from jaxsnn import s4nn
from jaxsnn.network import Dense, NetworkConfig


def test_the_peer_makes_the_same_update():
    """Otherwise its seconds would say nothing."""
    config = NetworkConfig((20,), (Dense(8), Dense(3)), num_steps=12)
    params = s4nn.init(jax.random.key(0), config)
    params = jax.tree.map(lambda w: w - 0.4 * w.mean(), params)
    gradient = jax.jit(s4nn.gradient(config, s4nn.Rule(s4nn_per_sample.MARGIN)))
    rng = np.random.default_rng(0)
    for label in range(3):
        steps = rng.integers(0, 12, 20)
        _, updates = gradient(params, jnp.asarray(steps[None]), jnp.array([label]), 0)
        weights = [np.asarray(w, np.float64).copy() for w in params.weights]
        s4nn_per_sample.learn(weights, steps, label, 12, rate=0.5)
        for after, before, update in zip(
            weights, params.weights, updates.weights, strict=True
        ):
            np.testing.assert_allclose(after, before - 0.5 * update, atol=1e-5)
