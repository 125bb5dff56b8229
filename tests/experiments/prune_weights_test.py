"""A pruned model, written and begun from again."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import prune_models, prune_weights, run_state
from jaxprune import checkpoints
from jaxprune.models.resnet import STACK
from jaxprune.prunable import Structure

NAMES = tuple("0123456789")


def resnet(name):
    return prune_models.for_images(name, None, (8, 8, 1), NAMES)


def write(source, structure, workdir):
    """Writes random weights of a structure and returns them."""
    model = source.model.build(structure)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda leaf: jnp.asarray(rng.uniform(0.5, 1, leaf.shape), leaf.dtype), shapes
    )
    workdir.mkdir(exist_ok=True)
    prune_weights.write(source, model, variables, workdir)
    return variables


def test_what_was_pruned_is_pruned_further(tmp_path):
    source = resnet("resnet20")
    left = Structure({STACK: (0, 1, 3, 4, 6, 7)})
    variables = write(source, left, tmp_path / "once")
    path = str(tmp_path / "once" / "checkpoint")
    again = prune_weights.begun_from(resnet("resnet20"), path)
    assert again.model.stack(STACK).num_blocks == 6
    read = prune_weights.read(again, path, jax.random.key(1)).variables
    chex.assert_trees_all_equal(read, variables)
    # The same network, by its configuration.
    module = again.module(again.model.structure)
    assert module == source.module(left) is not None
    # Without its last block, in its own numbering and in that of ResNet-20.
    write(again, Structure({STACK: (0, 1, 2, 3, 4)}), tmp_path / "twice")
    path = str(tmp_path / "twice" / "checkpoint")
    written = Structure.from_json(checkpoints.load(path)[1]["structure"])
    assert written == Structure({STACK: (0, 1, 3, 4, 6)})
    last = prune_weights.begun_from(resnet("resnet20"), path)
    assert last.model.stack(STACK).num_blocks == 5
    prune_weights.read(last, path, jax.random.key(1))


def test_other_weights_leave_the_model_whole(tmp_path):
    source = resnet("resnet20")
    assert prune_weights.begun_from(source, None) is source
    assert prune_weights.begun_from(source, str(tmp_path)) is source
    write(source, source.model.structure, tmp_path)
    assert prune_weights.begun_from(source, str(tmp_path / "checkpoint")) is source


def test_a_configuration_beside_the_checkpoint_comes_first(tmp_path):
    source = resnet("resnet20")
    write(source, Structure({STACK: (0, 1, 3, 6)}), tmp_path)
    (tmp_path / "checkpoint" / "config.json").write_text("{}")
    assert prune_weights.begun_from(source, str(tmp_path / "checkpoint")) is source


@pytest.mark.parametrize(
    ("name", "structure", "told"),
    [
        ("resnet32", Structure({STACK: (0, 5, 9, 14)}), "of another model"),
        (
            "resnet20",
            Structure({STACK: (0, 1, 3, 6)}, {STACK: (1,)}),
            "ends in linear maps",
        ),
    ],
)
def test_what_cannot_be_taken_further_is_refused(tmp_path, name, structure, told):
    write(resnet(name), structure, tmp_path)
    with pytest.raises(run_state.UsageError, match=told):
        prune_weights.begun_from(resnet("resnet20"), str(tmp_path / "checkpoint"))
