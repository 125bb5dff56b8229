"""A clock: thresholds of the outputs that fall with time, made of neurons.

A network that decides by its first output spike has to choose how high thresholds are:
low ones are crossed before all evidence is in, and high ones never by inputs that
excite few neurons. A hidden neuron that spikes as soon as any input has, and lifts all
outputs alike, resolves that: where outputs respond with a ramp, it has the effect of
thresholds that fall with time, and inputs with little evidence decide late instead of
never. The clock is neuron 0 of each hidden layer. Its weights are set, not learned.
"""

import jax

from jaxsnn import network
from jaxsnn.sat.response import STEP
from jaxsnn.training import Gradient

# Of the threshold, so that one spike is enough.
_ALONE = 2.0


def check(config: network.NetworkConfig) -> None:
    """Raises ValueError unless a network can have a clock.

    It needs hidden layers, all of them dense, and outputs whose response changes.
    """
    if len(config.layers) < 2:
        raise ValueError("a clock is a hidden neuron, and there are none")
    if not all(isinstance(layer, network.Dense) for layer in config.layers):
        raise ValueError("a clock needs dense layers throughout")
    if config.neuron_layers[-1].response == STEP:
        raise ValueError(
            "a clock needs outputs that respond in time, as with a ramp; steps add all "
            "that it has to say at once"
        )


def with_clock(
    config: network.NetworkConfig, params: network.Params, lift: float
) -> network.Params:
    """Returns the weights with neuron 0 of each hidden layer made a clock.

    Args:
      config: the network.
      params: its weights; those of neuron 0 of each hidden layer do not matter.
      lift: by how many thresholds the clock raises every output when its effect is
        full; from 1 on outputs spike without any evidence.

    >>> import jax.numpy as jnp
    >>> from jaxsnn.sat.response import ramp
    >>> layers = network.Dense(2), network.Dense(2, ramp(9))
    >>> config = network.NetworkConfig((3,), layers, num_steps=9)
    >>> params = network.Params((jnp.zeros((2, 3)), jnp.zeros((2, 2))))
    >>> with_clock(config, params, 0.75).weights[1]
    Array([[0.75, 0.  ],
           [0.75, 0.  ]], dtype=float32)
    >>> ticks = with_clock(config, params, 1.25)
    >>> [level.tolist() for level in network.apply(config, ticks, jnp.array([8, 1, 8]))]
    [[8.0, 1.0, 8.0], [2.0, 8.0], [8.0, 8.0]]
    """
    first, *middle, last = params.weights
    alone = _ALONE * config.threshold
    return network.Params(
        (
            first.at[0].set(alone),
            *(weights.at[0].set(0.0).at[0, 0].set(alone) for weights in middle),
            last.at[:, 0].set(lift * config.threshold),
        )
    )


def learn_beside(
    gradient: Gradient, config: network.NetworkConfig, lift: float
) -> Gradient:
    """Returns the learning rule of a network that has a clock.

    It takes and returns weights without the clock, which `with_clock` adds in the end.

    Args:
      gradient: the learning rule.
      config: the network.
      lift: as in `with_clock`.

    Raises:
      ValueError: as `check`.
    """
    check(config)

    def beside(
        params: network.Params,
        steps: jax.Array,
        labels: jax.Array,
        num_updates: jax.Array,
    ) -> tuple[jax.Array, network.Params]:
        full, back = jax.vjp(lambda params: with_clock(config, params, lift), params)
        loss, slope = gradient(full, steps, labels, num_updates)
        (slope,) = back(slope)
        return loss, slope

    return beside
