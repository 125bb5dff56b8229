"""A teacher that knows its logits teaches the same, and is not asked again."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxprune import recover, teaching
from tests.jaxprune import recover_test

# optax raises a Python float to an integer power in Adam's bias correction.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def _promotion():
    with jax.numpy_dtype_promotion("standard"):
        yield


def test_known_logits_teach_the_same_and_are_asked_for_once():
    model = recover_test.residual_model()
    calls = []

    def apply(variables, x):
        calls.append(len(x))
        return model.apply(variables, x)

    teacher = recover.Teacher(
        dataclasses.replace(model, apply=apply), model.init(jax.random.key(2)), {}
    )
    recipe = dataclasses.replace(recover_test.RECIPE, distillation=0.5)
    asked = recover_test.fit(recipe, teacher=teacher)
    calls.clear()
    # 48 does not divide the 64 examples; one shape, one program.
    known = teaching.with_logits(teacher, recover_test.data()[0], 48)
    assert set(calls) == {48}
    calls.clear()
    told = recover_test.fit(recipe, teacher=known)
    assert not calls
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), asked, told)


def test_logits_that_need_too_much_memory_are_not_kept():
    model = recover_test.residual_model()
    teacher = recover.Teacher(model, model.init(jax.random.key(2)), {})
    x, _ = recover_test.data()
    assert teaching.with_logits(teacher, x, 16, max_bytes=64 * 3 * 4 - 1) is teacher
    assert teaching.with_logits(teacher, x, 16, max_bytes=64 * 3 * 4) is not teacher


@pytest.mark.parametrize(
    ("count", "options"), [(63, {}), (64, {"augment": lambda key, x: x})]
)
def test_logits_of_other_inputs_are_refused(count, options):
    model = recover_test.residual_model()
    logits = np.zeros((count, 3), np.float32)
    teacher = recover.Teacher(model, model.init(jax.random.key(2)), {}, logits)
    with pytest.raises(ValueError, match=f"those of {count} inputs"):
        recover_test.fit(recover_test.RECIPE, teacher=teacher, **options)
