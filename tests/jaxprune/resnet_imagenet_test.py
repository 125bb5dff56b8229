"""ImageNet ResNets and projection shortcuts; the rest is in resnet_test.py."""

import dataclasses
import functools
import pathlib
import zipfile

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune import cost, plan, prunable
from jaxprune.models import resnet, weights
from tests.jaxprune import resnet_test

STACK = resnet.STACK
SMALL = resnet.ResNetConfig(
    (2, 1),
    (4, 6),
    num_classes=3,
    image_shape=(21, 18, 2),
    projection=True,
    imagenet_stem=True,
)
CONFIGS = {
    "basic": SMALL,
    "bottleneck": dataclasses.replace(
        SMALL, stage_sizes=(2, 2), bottleneck=True, adapters=(2,)
    ),
    "cifar with projections": dataclasses.replace(
        resnet_test.CONFIG,
        stage_sizes=(1, 1),
        projection=True,
        image_shape=(7, 8, 2),
    ),
}


def prunable_with_adapters(config):
    kept = tuple(range(len(config.stages)))
    structure = prunable.Structure({STACK: kept}).with_adapters(STACK, config.adapters)
    return resnet.prunable_resnet(dataclasses.replace(config, adapters=()), structure)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_forward_pass_matches_a_naive_one(config):
    model = prunable_with_adapters(config)
    variables = resnet_test.randomized(jax.jit(model.init)(jax.random.key(0)))
    rng = np.random.default_rng(1)
    images = rng.normal(size=(2, *config.image_shape)).astype(np.float32)
    logits, outputs = jax.jit(model.activations[STACK])(variables, images)
    expected = [resnet_test.naive_resnet(variables, x, config) for x in images]
    np.testing.assert_allclose(logits, expected, rtol=3e-4, atol=3e-4)
    channels = [config.channels[stage] for stage in config.stages]
    assert [x.shape[-1] for x in outputs] == channels


def num_parameters(config):
    init = resnet.prunable_resnet(config).init
    return cost.count_parameters(jax.eval_shape(init, jax.random.key(0))["params"])


@pytest.mark.parametrize(
    ("depth", "parameters"),
    # Of torchvision's models; those of 50 and 152 are also the paper's.
    [
        (18, 11_689_512),
        (34, 21_797_672),
        (50, 25_557_032),
        (101, 44_549_160),
        (152, 60_192_808),
    ],
)
def test_published_sizes(depth, parameters):
    assert num_parameters(resnet.imagenet_config(depth)) == parameters


# Of MPruner's published tables: blocks removed of each stage, blocks left, and millions
# of parameters left. Where two removals give the published numbers (they differ by 3072
# parameters), it is the one like those of the other rows.
PUBLISHED = {
    152: [
        ("K1 .99", (0, 2, 21, 1), 26, "31.71"),
        ("K1 .98", (0, 2, 25, 1), 22, "27.24"),
        ("K2 .99", (0, 2, 14, 1), 33, "39.53"),
        ("K2 .98", (0, 2, 15, 1), 32, "38.41"),
        ("second K1 .99", (0, 3, 26, 1), 20, "25.84"),
        ("second K1 .98", (0, 4, 31, 1), 14, "19.98"),
        ("second K1 Part .99", (0, 3, 29, 1), 17, "22.49"),
        ("second K1 Part .98", (0, 4, 28, 1), 17, "23.33"),
        # Published as 26 blocks, which no removal with 33.66 million leaves.
        ("second K2 .99", (0, 3, 19, 1), 27, "33.66"),
        ("second K2 .98", (0, 4, 22, 1), 23, "30.03"),
        ("second K2 Part .98", (0, 3, 24, 1), 22, "28.08"),
    ],
    50: [
        ("K1 .98", (0, 1, 1, 0), 14, "24.16"),
        ("K1 .95", (1, 2, 3, 0), 10, "21.57"),
        ("second .98", (0, 2, 1, 0), 13, "23.88"),
        ("second .95", (2, 3, 3, 0), 8, "21.22"),
        # Published with the next row's parameters, and that one with this row's.
        ("second Part .98", (0, 2, 3, 0), 11, "21.65"),
        ("second Part .95", (1, 3, 3, 0), 9, "21.29"),
    ],
}


@functools.cache
def unpruned(depth):
    """The network, and the shapes of its variables."""
    model = resnet.prunable_resnet(resnet.imagenet_config(depth))
    return model, jax.eval_shape(model.init, jax.random.key(0))


@pytest.mark.parametrize(
    ("depth", "row"),
    [(depth, row) for depth, rows in PUBLISHED.items() for row in rows],
    ids=lambda value: value[0] if isinstance(value, tuple) else str(value),
)
def test_published_bookkeeping(depth, row):
    _, removed, left, millions = row
    config = resnet.imagenet_config(depth)
    blocks = []  # the last ones of each stage
    for stage, count in enumerate(removed):
        end = sum(config.stage_sizes[: stage + 1])
        blocks += range(end - count, end)
    model, shapes = unpruned(depth)
    made = plan.make_plan(model.stack(STACK), blocks)
    smaller, shapes = prunable.prune(model, shapes, made)
    assert smaller.stack(STACK).num_blocks == left
    assert f"{cost.count_parameters(shapes['params']) / 1e6:.2f}" == millions


def test_the_paper_keeps_31_709_224_parameters_of_resnet_152():
    config = resnet.imagenet_config(152)
    sizes = tuple(np.subtract(config.stage_sizes, (0, 2, 21, 1)).tolist())
    smaller = dataclasses.replace(config, stage_sizes=sizes)
    assert num_parameters(smaller) == 31_709_224


def test_blocks_that_must_stay():
    halves = "halves the resolution and widens"
    # Only there is the first block of the first stage as wide as the stem.
    assert resnet.imagenet_config(18).protected == {
        2: f"{halves} 64 channels to 128",
        4: f"{halves} 128 channels to 256",
        6: f"{halves} 256 channels to 512",
    }
    assert resnet.imagenet_config(50).protected == {
        0: "widens 64 channels to 256",
        3: f"{halves} 256 channels to 512",
        7: f"{halves} 512 channels to 1024",
        13: f"{halves} 1024 channels to 2048",
    }
    with pytest.raises(ValueError, match=r"depth=20 must be one of \[18, 34, 50"):
        resnet.imagenet_config(20)


def test_pruning_renumbers_and_a_zero_branch_goes_without_changing_a_bit():
    config = CONFIGS["bottleneck"]
    model = prunable_with_adapters(config)
    variables = jax.jit(model.init)(jax.random.key(0))
    params = dict(variables["params"])
    zero = jax.tree.map(jnp.zeros_like, params["block_1"]["bn3"])
    params["block_1"] = {**params["block_1"], "bn3": zero}
    variables = {**variables, "params": params}
    made = plan.make_plan(model.stack(STACK), [1])
    smaller, pruned = prunable.prune(model, variables, made)
    images = np.ones((2, *config.image_shape), np.float32)
    np.testing.assert_array_equal(
        jax.jit(model.apply)(variables, images), jax.jit(smaller.apply)(pruned, images)
    )
    table = resnet.weight_table(resnet.pruned_config(config, smaller.structure))
    tensors = weights.write(table, pruned)
    assert tensors["layer2.0.adapter.weight"].shape == (24, 24)
    assert tensors["layer2.0.downsample.0.weight"].shape == (24, 16, 1, 1)
    assert not [name for name in tensors if name.startswith("layer1.1.")]
    again = weights.read(table, tensors, pruned)
    chex.assert_trees_all_equal(again, pruned)


# Against the field's own software.


def torchvision_name(name):
    """The name that torchvision gives a tensor of transformers' ResNet."""
    name = name.removeprefix("resnet.")
    if name.startswith("classifier.1."):
        return "fc." + name.rsplit(".", 1)[1]
    parts = name.split(".")
    if parts[0] == "embedder":
        return f"{'conv1' if parts[2] == 'convolution' else 'bn1'}.{parts[-1]}"
    _, _, stage, _, index, *rest = parts
    block = f"layer{int(stage) + 1}.{index}"
    if rest[0] == "shortcut":
        part = "downsample.0" if rest[1] == "convolution" else "downsample.1"
    else:
        number = int(rest[1]) + 1
        part = f"conv{number}" if rest[2] == "convolution" else f"bn{number}"
    return f"{block}.{part}.{rest[-1]}"


def transformers_outputs(config, tensors, images):
    """Logits and block outputs of transformers' model of the same weights."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    theirs = transformers.ResNetForImageClassification(
        transformers.ResNetConfig(
            num_channels=config.image_shape[-1],
            embedding_size=config.widths[0],
            hidden_sizes=list(config.channels),
            depths=list(config.stage_sizes),
            layer_type="bottleneck" if config.bottleneck else "basic",
            num_labels=config.num_classes,
        )
    ).eval()
    names = {torchvision_name(name): name for name in theirs.state_dict()}
    for entry in resnet.weight_table(config):  # reads their files, too
        assert entry.aliases == (names[entry.name],)
    renamed = {names[name]: torch.from_numpy(x) for name, x in tensors.items()}
    missing = theirs.load_state_dict(renamed, strict=False)
    assert not missing.unexpected_keys
    assert all(name.endswith("num_batches_tracked") for name in missing.missing_keys)
    outputs = []
    for stage in theirs.resnet.encoder.stages:
        for block in stage.layers:
            block.register_forward_hook(lambda *call: outputs.append(call[2]))
    with torch.no_grad():
        logits = theirs(torch.from_numpy(np.moveaxis(images, -1, 1).copy())).logits
    return logits.numpy(), [np.moveaxis(x.numpy(), 1, -1) for x in outputs]


def compare_with_transformers(config):
    model = resnet.prunable_resnet(config)
    # Residual branches so scaled that the signal does not grow with depth.
    variables = jax.tree.map(np.asarray, jax.jit(model.init)(jax.random.key(0)))
    rng = np.random.default_rng(2)

    def drawn(path, x):
        name = path[-1].key
        if name == "kernel":
            return x
        last = path[-2].key == ("bn3" if config.bottleneck else "bn2")
        low, high = {
            "scale": (0.02, 0.2) if last else (0.5, 1.5),
            "var": (0.5, 1.5),
        }.get(name, (-0.2, 0.2))
        return rng.uniform(low, high, x.shape).astype(np.float32)

    variables = jax.tree.map_with_path(drawn, variables)
    images = rng.normal(size=(1, *config.image_shape)).astype(np.float32)
    logits, outputs = jax.jit(model.activations[STACK])(variables, images)
    tensors = weights.write(resnet.weight_table(config), variables)
    their_logits, their_outputs = transformers_outputs(config, tensors, images)
    assert len(outputs) == len(their_outputs) == sum(config.stage_sizes)
    for ours, theirs in zip(outputs, their_outputs, strict=True):
        assert 0.1 < np.abs(theirs).max() < 100
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(logits, their_logits, rtol=1e-4, atol=1e-4)


@pytest.mark.peer
@pytest.mark.parametrize("name", ["basic", "bottleneck"])
def test_block_outputs_are_those_of_transformers(name):
    compare_with_transformers(dataclasses.replace(CONFIGS[name], adapters=()))


@pytest.mark.peer
@pytest.mark.slow
@pytest.mark.parametrize("depth", [50, 152])
def test_true_geometry_agrees_with_transformers(depth):
    config = resnet.imagenet_config(depth)
    compare_with_transformers(dataclasses.replace(config, image_shape=(64, 64, 3)))


@pytest.mark.peer
@pytest.mark.parametrize("depth", [18, 50])
def test_tensors_are_named_and_shaped_as_in_torchvision(depth):
    models = pytest.importorskip("torchvision.models")
    config = dataclasses.replace(resnet.imagenet_config(depth), image_shape=(32, 32, 3))
    theirs = getattr(models, f"resnet{depth}")().eval()
    tensors = {name: x.numpy() for name, x in theirs.state_dict().items()}
    model = resnet.prunable_resnet(config)
    like = jax.eval_shape(model.init, jax.random.key(0))
    variables = weights.read(resnet.weight_table(config), tensors, like)
    images = np.random.default_rng(3).normal(size=(2, 32, 32, 3)).astype(np.float32)
    import torch

    with torch.no_grad():
        expected = theirs(torch.from_numpy(np.moveaxis(images, -1, 1).copy())).numpy()
    logits = jax.jit(model.apply)(variables, images)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


DATA = pathlib.Path("../shared/data")
WEIGHTS = DATA / "resnet_cifar10" / "resnet56.safetensors"
IMAGES = DATA / "cifar10_jpeg" / "test.zip"


def torch_cifar_resnet(torch, tensors):
    """Returns a function of NCHW images: the published CIFAR ResNet in plain torch."""
    tensors = {name: torch.from_numpy(x) for name, x in tensors.items()}
    functional = torch.nn.functional

    def norm(name, x):
        mean, var = tensors[f"{name}.running_mean"], tensors[f"{name}.running_var"]
        weight, bias = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
        return functional.batch_norm(x, mean, var, weight, bias)

    def block(name, x, stride):
        conv = functional.conv2d
        y = conv(x, tensors[f"{name}.conv1.weight"], stride=stride, padding=1)
        y = functional.relu(norm(f"{name}.bn1", y))
        y = norm(f"{name}.bn2", conv(y, tensors[f"{name}.conv2.weight"], padding=1))
        if stride > 1:
            quarter = x.shape[1] // 2
            x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, quarter, quarter))
        return functional.relu(x + y)

    def forward(x):
        x = functional.conv2d(x, tensors["conv1.weight"], padding=1)
        x = functional.relu(norm("bn1", x))
        for stage in (1, 2, 3):
            for index in range(9):
                stride = 2 if stage > 1 and index == 0 else 1
                x = block(f"layer{stage}.{index}", x, stride)
        x = x.mean((2, 3))
        return functional.linear(x, tensors["linear.weight"], tensors["linear.bias"])

    return forward


@pytest.mark.peer
@pytest.mark.skipif(
    not (WEIGHTS.exists() and IMAGES.exists()), reason="the data are not at hand"
)
def test_published_resnet_56_predicts_as_in_torch():
    torch = pytest.importorskip("torch")
    image_module = pytest.importorskip("PIL.Image")
    from safetensors.numpy import load_file

    with zipfile.ZipFile(IMAGES) as archive:
        names = sorted(n for n in archive.namelist() if n.endswith(".jpg"))[::20]
        pixels = np.array(
            [np.asarray(image_module.open(archive.open(name))) for name in names]
        )
    assert len(pixels) == 500
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    images = ((pixels / 255 - mean) / deviation).astype(np.float32)
    tensors = load_file(WEIGHTS)
    config = resnet.cifar_config(56)
    model = resnet.prunable_resnet(config)
    like = jax.eval_shape(model.init, jax.random.key(0))
    variables = weights.read(resnet.weight_table(config), tensors, like)
    apply = jax.jit(model.apply)
    ours = np.concatenate([apply(variables, x) for x in np.split(images, 5)])
    forward = torch_cifar_resnet(torch, tensors)
    with torch.no_grad():
        theirs = forward(torch.from_numpy(np.moveaxis(images, -1, 1).copy())).numpy()
    np.testing.assert_array_equal(ours.argmax(-1), theirs.argmax(-1))
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)
    labels = np.array([name.split("/")[-2] for name in names])
    classes = np.array(sorted(set(labels)))
    # Lossy images; the published 93.6 % are of the originals.
    assert (classes[theirs.argmax(-1)] == labels).mean() > 0.7
