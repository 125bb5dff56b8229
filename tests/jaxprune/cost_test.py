import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune import cost
from jaxprune.models import resnet


def test_parameters_are_counted():
    assert cost.count_parameters({"a": np.ones((2, 3)), "b": [np.float32(1)]}) == 7
    assert cost.count_parameters({}) == 0
    shapes = jax.eval_shape(lambda: jnp.zeros((4, 5)))
    assert cost.count_parameters(shapes) == 20


def test_flops_of_a_product_are_two_a_multiplication():
    x, y = np.ones((3, 5), np.float32), np.ones((5, 7), np.float32)
    assert cost.count_flops(jnp.dot, x, y) == 2 * 3 * 5 * 7


def test_compiled_programs_are_timed_as_they_are():
    x = jnp.ones((4, 4))
    compiled = jax.jit(jnp.dot).lower(x, x).compile()
    assert cost.measure_latency(compiled, x, x, num_repeats=1).median_ms > 0


def test_flops_are_not_counted_from_compiled_programs():
    x = jnp.ones((4, 4))
    with pytest.raises(TypeError, match="from a function"):
        cost.count_flops(jax.jit(jnp.dot).lower(x, x).compile())


def test_flops_need_a_cpu_among_the_platforms(monkeypatch):
    def missing(backend):
        raise RuntimeError(f"Unknown backend {backend}")

    monkeypatch.setattr(jax, "local_devices", missing)
    assert cost.count_flops(jnp.sin, 1.0) is None


def test_flops_that_the_backend_does_not_tell_are_none(monkeypatch):
    class Compiled:
        def __init__(self, answer):
            self.answer = answer

        def lower(self, *args):
            return self

        def compile(self):
            return self

        def cost_analysis(self):
            return self.answer

    for answer in (None, {}, [], {"flops": -1.0}, [{}]):
        monkeypatch.setattr(jax, "jit", lambda f, answer=answer: Compiled(answer))
        assert cost.count_flops(jnp.sin, 1.0) is None


def test_latency_is_that_of_the_call():
    def slow(x):
        return jax.pure_callback(lambda y: (time.sleep(0.02), y)[1], x, x)

    x = jnp.ones(())
    latency = cost.measure_latency(slow, x, num_repeats=3, num_warm_up=1)
    assert latency.num_repeats == 3
    assert 20 <= latency.lower_quartile_ms <= latency.median_ms
    assert latency.median_ms <= latency.upper_quartile_ms


def test_latency_needs_a_repeat():
    with pytest.raises(ValueError, match="num_repeats=0"):
        cost.measure_latency(jnp.sin, jnp.ones(()), num_repeats=0)


def test_blocks_that_are_alike_are_timed_once():
    config = resnet.ResNetConfig((3, 2), (4, 8), image_shape=(8, 8, 1))
    model = resnet.prunable_resnet(config)
    variables = jax.jit(model.init)(jax.random.key(0))
    blocks = [
        {name: tree[f"block_{index}"] for name, tree in variables.items()}
        for index in range(5)
    ]
    found = cost.block_latencies(
        model.refit[resnet.STACK], blocks, variables, jnp.ones((2, 8, 8, 1)), 2
    )
    assert len(found) == 5
    assert found[0] == found[1] == found[2] > 0
    assert len({found[2], found[3], found[4]}) == 3


def test_every_step_of_a_scan_is_counted():
    """XLA tells of a loop what one step costs."""
    x, kernels = jnp.ones((3, 8)), jnp.ones((5, 8, 8))

    def step(x, kernel):
        return x @ kernel, None

    def scanned(x, kernels):
        return jax.lax.scan(step, x, kernels)[0]

    def nested(x, kernels):
        return jax.jit(
            lambda x: jax.lax.scan(
                lambda x, _: (scanned(x, kernels), None), x, length=4
            )
        )(x)[0]

    product = 2 * 3 * 8 * 8
    # Beside the products, a few operations count the steps.
    assert 5 * product <= cost.count_flops(scanned, x, kernels) < 5.2 * product
    assert 20 * product <= cost.count_flops(nested, x, kernels) < 21 * product
