import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprune import layouts, plan

NAMED = layouts.Named("block_{}")
STACK = plan.Stack(
    "blocks",
    5,
    {"params": NAMED, "batch_stats": NAMED, "constants": None},
    protected={2: "halves the resolution"},
)


def blocks(num_blocks=5):
    tree = {f"block_{i}": {"w": jnp.full((2,), float(i))} for i in range(num_blocks)}
    return {**tree, "head": {"w": jnp.full((2,), 9.0)}}


VARIABLES = {"params": blocks(), "batch_stats": blocks(), "constants": {"c": 1}}


def weights(params):
    return [float(block["w"][0]) for block in NAMED.blocks(params)]


def test_all_collections_lose_the_same_blocks():
    made = plan.make_plan(STACK, [3, 1])
    assert made == plan.Plan("blocks", kept=(0, 2, 4), removed=(1, 3))
    pruned = plan.apply_plan(made, STACK, VARIABLES)
    assert weights(pruned["params"]) == [0, 2, 4]
    assert weights(pruned["batch_stats"]) == [0, 2, 4]
    assert pruned["constants"] == {"c": 1}


@settings(max_examples=25, deadline=None)
@given(st.sets(st.sampled_from([0, 1, 3, 4])))
def test_kept_and_removed_partition_the_stack(removed):
    made = plan.make_plan(STACK, removed)
    assert sorted(made.kept + made.removed) == list(range(5))
    covered = [b for first, last in made.spans() for b in range(first, last + 1)]
    assert tuple(covered) == made.removed
    assert weights(plan.apply_plan(made, STACK, VARIABLES)["params"]) == [*made.kept]


def test_removing_nothing_is_the_identity():
    made = plan.make_plan(STACK, [])
    pruned = plan.apply_plan(made, STACK, VARIABLES)
    chex.assert_trees_all_equal(pruned, VARIABLES)


def test_refusals_say_why():
    assert plan.refusals(STACK, [1, 2, 7]) == {
        2: "halves the resolution",
        7: "not within 0..4",
    }
    with pytest.raises(ValueError, match=r"block 2: halves the resolution; block 7"):
        plan.make_plan(STACK, [1, 2, 7])


def test_a_stack_keeps_one_block():
    bare = plan.Stack("blocks", 2, {"params": NAMED})
    with pytest.raises(ValueError, match="lose all its blocks"):
        plan.make_plan(bare, [0, 1])


def test_collections_without_layout_are_refused():
    with pytest.raises(ValueError, match=r"no layout for the collections \['cache'\]"):
        plan.apply_plan(plan.make_plan(STACK, [1]), STACK, {"cache": {}})


def test_another_depth_is_refused():
    with pytest.raises(ValueError, match=r"'params' holds 4 blocks.*has 5"):
        plan.apply_plan(plan.make_plan(STACK, [1]), STACK, {"params": blocks(4)})


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_blocks": 0},
        {"num_blocks": 2, "stages": (0,)},
        {"num_blocks": 2, "protected": {2: "?"}},
        {"num_blocks": 2, "protected": {-1: "?"}},
    ],
)
def test_contradictory_facts_are_refused(arguments):
    with pytest.raises(ValueError, match="block"):
        plan.Stack("blocks", layouts={"params": NAMED}, **arguments)


def test_first_and_last_blocks_can_be_protected():
    protected = {0: "first", 1: "last"}
    stack = plan.Stack("blocks", 2, {"params": NAMED}, protected=protected)
    with pytest.raises(ValueError, match=r"first.*last"):
        plan.make_plan(stack, [0, 1])


def advance(optimizer, params, opt_state):
    # optax raises a Python float to an integer power in its bias correction.
    with jax.numpy_dtype_promotion("standard"):
        _, opt_state = optimizer.update(params, opt_state, params)
    return opt_state


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.sgd(0.1, momentum=0.9),
        optax.adamw(0.1),
        optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.1), optax.ema(0.9)),
        optax.inject_hyperparams(optax.adam)(0.1),
        optax.MultiSteps(optax.adam(0.1), 2),
        optax.multi_transform(
            {"a": optax.adam(0.1), "b": optax.sgd(0.1)},
            lambda params: jax.tree.map(lambda _: "a", params),
        ),
    ],
    ids=["momentum", "adamw", "chain", "injected", "multi_steps", "multi_transform"],
)
def test_moments_follow_their_parameters(optimizer):
    params = blocks()
    opt_state = advance(optimizer, params, optimizer.init(params))
    made = plan.make_plan(STACK, [0, 3])
    pruned = plan.apply_plan(made, STACK, {"params": params})["params"]
    pruned_state = plan.apply_plan_to_optimizer(made, STACK, opt_state, params)
    assert jax.tree.structure(pruned_state) == jax.tree.structure(
        optimizer.init(pruned)
    )
    expected = [
        np.take(leaf, made.kept, axis=0)
        for leaf in jax.tree.leaves(stacked_moments(opt_state, params))
    ]
    ours = jax.tree.leaves(stacked_moments(pruned_state, pruned))
    assert len(expected) > 0
    for ours_leaf, expected_leaf in zip(ours, expected, strict=True):
        np.testing.assert_array_equal(ours_leaf, expected_leaf)
    advance(optimizer, pruned, pruned_state)


def stacked_moments(opt_state, params):
    """Each params-shaped part of an optax state as an array over blocks."""
    same = jax.tree.structure(params)
    parts = jax.tree.leaves(opt_state, is_leaf=lambda x: jax.tree.structure(x) == same)
    return [
        np.stack([block["w"] for block in NAMED.blocks(part)])
        for part in parts
        if jax.tree.structure(part) == same
    ]


@pytest.mark.parametrize("whole_blocks", [True, False])
def test_masked_moments_follow_too(whole_blocks):
    params = blocks()
    mask = {name: name != "block_1" for name in params}
    if not whole_blocks:
        mask = {name: {"w": value} for name, value in mask.items()}
    optimizer = optax.masked(optax.adam(0.1), mask)
    opt_state = advance(optimizer, params, optimizer.init(params))
    made = plan.make_plan(STACK, [0])
    mu = plan.apply_plan_to_optimizer(made, STACK, opt_state, params).inner_state[0].mu
    assert set(mu) == {"block_0", "block_1", "block_2", "block_3", "head"}
    frozen = mu["block_0"] if whole_blocks else mu["block_0"]["w"]
    assert isinstance(frozen, optax.MaskedNode)
    old = opt_state.inner_state[0].mu["block_2"]["w"]
    np.testing.assert_array_equal(mu["block_1"]["w"], old)


def test_stacked_moments_follow():
    params = {"layers": jnp.arange(12.0).reshape(3, 4)}
    stack = plan.Stack("blocks", 3, {"params": layouts.Stacked(("layers",))})
    optimizer = optax.adam(0.1)
    opt_state = advance(optimizer, params, optimizer.init(params))
    made = plan.make_plan(stack, [1])
    pruned = plan.apply_plan_to_optimizer(made, stack, opt_state, params)
    np.testing.assert_array_equal(
        pruned[0].mu["layers"], opt_state[0].mu["layers"][jnp.array([0, 2])]
    )


def test_protected_blocks_are_discovered():
    params = {
        "block_0": {"w": jnp.ones(2), "relative_bias": jnp.ones(3)},
        "block_1": {"w": jnp.ones(2)},
        "block_2": {"w": jnp.ones(2)},
        "block_3": {"w": jnp.ones(2)},
    }
    params["head"] = {"w": params["block_3"]["w"]}
    stack = plan.Stack("blocks", 4, {"params": NAMED})
    found = plan.discover_protected(
        stack, params, [(8, 2), (8, 2), (8, 4), (8, 4)], input_shape=(8, 2)
    )
    assert found == {
        0: "holds ['relative_bias'], which other blocks lack",
        2: "changes the shape (8, 2) to (8, 4)",
        3: "holds ['w'], tied to a parameter elsewhere",
    }
    found = plan.discover_protected(stack, params, [(8, 2)] * 4)
    assert "not known" in found[0] or "relative_bias" in found[0]
