import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxprune import freezing, layouts, plan, prunable, recover

# optax raises a Python float to an integer power in Adam's bias correction.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def _promotion():
    with jax.numpy_dtype_promotion("standard"):
        yield


STACK = "blocks"
WIDTH = 4


def residual_model(depth=3, structure=None):
    """Blocks `x + tanh(x w)` and a head: the smallest model there is."""
    structure = structure or prunable.Structure({STACK: tuple(range(depth))})
    depth = len(structure.kept[STACK])

    def init(key):
        keys = jax.random.split(key, depth + 1)
        params = {
            f"block_{i}": {"w": 0.5 * jax.random.normal(keys[i], (WIDTH, WIDTH))}
            for i in range(depth)
        }
        params["head"] = jax.random.normal(keys[depth], (WIDTH, 3))
        return {"params": params}

    def activations(variables, x):
        params, outputs = variables["params"], []
        for index in range(depth):
            x = x + jnp.tanh(x @ params[f"block_{index}"]["w"])
            outputs.append(x)
        return x @ params["head"], outputs

    layout = layouts.Named("block_{}")
    return prunable.Prunable(
        structure=structure,
        stacks=(plan.Stack(STACK, depth, {"params": layout}),),
        build=lambda new: residual_model(structure=new),
        init=init,
        apply=lambda variables, x: activations(variables, x)[0],
        activations={STACK: activations},
    )


def data(count=64):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(count, WIDTH)).astype(np.float32)
    return x, (x @ rng.normal(size=(WIDTH, 3))).argmax(-1).astype(np.int32)


def fit(recipe, **options):
    model = residual_model()
    variables = model.init(jax.random.key(0))
    key = options.pop("key", jax.random.key(1))
    return recover.fine_tune(model, variables, *data(), recipe, key, **options)


def leaves_equal(a, b):
    return all(map(np.array_equal, jax.tree.leaves(a), jax.tree.leaves(b)))


RECIPE = recover.Recipe(epochs=3, batch_size=16, learning_rate=0.05)


def test_training_lowers_the_loss():
    epochs = []
    fit(recover.Recipe(8, 16, 0.05), on_epoch=epochs.append)
    assert [e.number for e in epochs] == list(range(1, 9))
    assert epochs[-1].loss < 0.5 * epochs[0].loss
    assert epochs[0].score is None


def test_one_step_is_the_one_worked_by_hand():
    """Plain gradient descent on one batch, without warm-up."""
    model, (x, y) = residual_model(), data(16)
    variables = model.init(jax.random.key(0))

    def loss(params):
        return recover.cross_entropy(model.apply({"params": params}, x), y)

    gradient = jax.grad(loss)(variables["params"])
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, variables["params"], gradient)
    trained = recover.fine_tune(
        model,
        variables,
        x,
        y,
        recover.Recipe(1, 16, 0.1, warm_up=0.0),
        jax.random.key(0),
        optimizer=optax.sgd,
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        trained["params"],
        expected,
    )


def test_the_step_is_traced_once():
    """Arrays with weak types, as `jnp.full` makes them, must not trace it again."""
    model, traces = residual_model(), []
    variables = jax.tree.map(lambda x: jnp.full(x.shape, 0.1), shapes(model))

    def loss(outputs, labels):
        traces.append(outputs.shape)
        return recover.cross_entropy(outputs, labels)

    key = jax.random.key(0)
    recover.fine_tune(model, variables, *data(), RECIPE, key, loss=loss)
    assert len(traces) == 1


def shapes(model):
    return jax.eval_shape(model.init, jax.random.key(0))


def test_the_key_alone_decides_the_order():
    assert leaves_equal(fit(RECIPE), fit(RECIPE))
    assert not leaves_equal(fit(RECIPE), fit(RECIPE, key=jax.random.key(2)))


@pytest.mark.parametrize("stop", [1, 2])
def test_training_resumes_to_the_same_bits(stop):
    states = []
    evaluate = lambda variables: float(variables["params"]["head"].sum())  # noqa: E731
    options = {"evaluate": evaluate}
    whole = fit(RECIPE, save=lambda s: states.append(jax.device_get(s)), **options)
    resumed = fit(RECIPE, resume=states[stop - 1], **options)
    assert leaves_equal(whole, resumed)


def test_where_training_starts_is_not_changed():
    model = residual_model()
    variables = model.init(jax.random.key(0))
    before = jax.device_get(variables)
    recover.fine_tune(model, variables, *data(), RECIPE, jax.random.key(1))
    assert leaves_equal(variables, before)


def test_the_best_epoch_is_returned_and_training_stops_early():
    scores = iter([0.5, 0.9, 0.1, 0.2, 0.3, 0.4])
    seen, epochs = [], []

    def evaluate(variables):
        seen.append(jax.device_get(variables))
        return next(scores)

    recipe = recover.Recipe(6, 16, 0.05, patience=1)
    best = fit(recipe, evaluate=evaluate, on_epoch=epochs.append)
    assert len(epochs) == 4
    assert epochs[-1].score == 0.9
    assert leaves_equal(best, seen[1])


def test_frozen_blocks_stay_bit_for_bit():
    model = residual_model()
    start = model.init(jax.random.key(0))["params"]
    mask = freezing.trainable_mask(start, layouts.Named("block_{}"), (1,))
    trained = fit(RECIPE, mask=mask)["params"]
    for name in start:
        same = leaves_equal(start[name], trained[name])
        assert same == (name in ("block_0", "block_2"))


def test_distillation_from_itself_is_still():
    """A student that equals its teacher has nothing to learn from it."""
    model = residual_model()
    variables = model.init(jax.random.key(0))
    teacher = recover.Teacher(model, variables, {STACK: (0, 1, 2)})
    recipe = recover.Recipe(
        2, 16, 0.05, distillation=1.0, feature_distillation=1.0, warm_up=0.0
    )
    trained = fit(recipe, teacher=teacher, optimizer=optax.sgd)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), trained, variables
    )


def test_distillation_brings_the_student_closer():
    model = residual_model()
    variables = model.init(jax.random.key(0))
    made = plan.make_plan(model.stack(STACK), [1])
    student, smaller = prunable.prune(model, variables, made)
    teacher = recover.Teacher(model, variables, student.structure.kept)
    x, y = data()
    recipe = recover.Recipe(
        20, 16, 0.02, distillation=1.0, feature_distillation=1.0, warm_up=0.0
    )
    trained = recover.fine_tune(
        student, smaller, x, y, recipe, jax.random.key(0), teacher=teacher
    )
    target = model.apply(variables, x)

    def divergence(student_variables):
        outputs = student.apply(student_variables, x)
        return float(recover.distillation_loss(outputs, target, 1.0))

    assert divergence(trained) < 0.5 * divergence(smaller)


def test_distillation_loss_is_its_formula():
    student, teacher = np.array([[1.0, 2.0, 0.5]]), np.array([[0.0, 1.0, 3.0]])
    soften = lambda z: np.exp(z / 2) / np.exp(z / 2).sum()  # noqa: E731
    p, q = soften(teacher), soften(student)
    expected = 4 * np.sum(p * np.log(p / q))
    ours = recover.distillation_loss(jnp.float32(student), jnp.float32(teacher), 2.0)
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_augmentation_is_applied_with_keys_of_its_own():
    keys = []

    def augment(key, inputs):
        jax.debug.callback(lambda k: keys.append(tuple(k.tolist())), key_data(key))
        return inputs

    key_data = jax.random.key_data
    fit(recover.Recipe(2, 32, 0.01), augment=augment)
    jax.effects_barrier()
    assert len(keys) == len(set(keys)) == 4


def test_few_examples_make_one_batch():
    trained = fit(recover.Recipe(1, batch_size=1000, learning_rate=0.1))
    assert not leaves_equal(trained, residual_model().init(jax.random.key(0)))


def test_no_epoch_changes_nothing():
    assert leaves_equal(
        fit(recover.Recipe(0)), residual_model().init(jax.random.key(0))
    )


def test_a_loss_that_is_not_finite_is_told():
    with pytest.raises(ValueError, match=r"loss is (nan|inf).*learning rate"):
        fit(RECIPE, loss=lambda outputs, labels: jnp.log(-jnp.exp(outputs)).mean())


def test_distillation_needs_a_teacher():
    with pytest.raises(ValueError, match="needs a teacher"):
        fit(recover.Recipe(1, distillation=0.5))


@pytest.mark.parametrize(
    "arguments",
    [
        {"epochs": -1},
        {"epochs": 1, "batch_size": 0},
        {"epochs": 1, "warm_up": 1.0},
        {"epochs": 1, "distillation": 1.5},
        {"epochs": 1, "temperature": 0.0},
    ],
)
def test_recipes_that_make_no_sense_are_refused(arguments):
    name = list(arguments)[-1]
    with pytest.raises(ValueError, match=f"{name}="):
        recover.Recipe(**arguments)


def test_inputs_and_labels_belong_together():
    model = residual_model()
    variables = model.init(jax.random.key(0))
    x, y = data()
    for inputs, labels in [(x, y[1:]), (x[:0], y[:0])]:
        with pytest.raises(ValueError, match="to learn from"):
            recover.fine_tune(
                model, variables, inputs, labels, RECIPE, jax.random.key(0)
            )


def test_inputs_may_be_a_tree():
    """The same numbers in a dictionary train to the same bits."""
    model = residual_model()
    in_tree = dataclasses.replace(
        model,
        activations={STACK: lambda v, x: model.activations[STACK](v, x["x"])},
    )
    variables, (x, y) = model.init(jax.random.key(0)), data()
    key = jax.random.key(1)
    expected = recover.fine_tune(model, variables, x, y, RECIPE, key)
    found = recover.fine_tune(in_tree, variables, {"x": x}, y, RECIPE, key)
    assert leaves_equal(expected, found)


def test_padded_positions_do_not_teach():
    """Positions of weight zero change nothing, as if they were not there."""
    student, teacher = np.random.default_rng(0).normal(size=(2, 4, 5, 3))
    weights = np.arange(5)[None] < np.array([5, 2, 3, 0])[:, None]
    kept = [
        recover.distillation_loss(student[row, :n], teacher[row, :n], 2.0) * n
        for row, n in enumerate((5, 2, 3))
    ]
    found = recover.distillation_loss(student, teacher, 2.0, jnp.asarray(weights))
    np.testing.assert_allclose(found, sum(kept) / 10, rtol=1e-5)
