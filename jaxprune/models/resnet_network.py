"""Residual networks: ResNet-18..152 for ImageNet, and the small ones for CIFAR-10.

A stem, stages of residual blocks, global average pooling and a linear head, as in He et
al., 2015, https://arxiv.org/abs/1512.03385. Images are NHWC, one batch.

* CIFAR nets (section 4.2): a 3x3 stem, basic blocks, and where a stage begins a
  shortcut without parameters (option A: subsample, pad channels with zeros) or a
  projection (option B: 1x1 convolution).
* ImageNet nets (table 1): a 7x7 stem with max-pooling, basic (18, 34) or bottleneck
  (50, 101, 152) blocks, projections. A bottleneck strides in its 3x3 convolution, as
  torchvision's weights expect; the paper's strides in the first.

Blocks are numbered through all stages, `block_0, block_1, ...`, so that removing some
renumbers the rest; the configuration says how many each stage has. A block may end in a
linear map of its channels (`adapter`), which takes the place of removed followers.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

MOMENTUM = 0.9  # of the running averages of BatchNorm
EPSILON = 1e-5  # added to the variance in BatchNorm
EXPANSION = 4  # of a bottleneck block: channels it puts out by those inside

_IMAGENET = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
}


@dataclasses.dataclass(frozen=True)
class ResNetConfig:
    """Depth and width of a network.

    Attributes:
        stage_sizes: blocks of each stage; the first block of every stage but the first
            halves the resolution.
        widths: channels of each stage; of bottleneck blocks, those inside.
        num_classes: outputs of the head.
        image_shape: height, width and channels of an input.
        adapters: blocks that end in a linear map of their channels.
        bottleneck: blocks of 1x1, 3x3 and 1x1 convolutions instead of two 3x3.
        projection: a 1x1 convolution instead of zero padding where a block changes the
            shape.
        imagenet_stem: a 7x7 convolution and max-pooling, each of stride 2, instead of
            one 3x3 convolution.
    """

    stage_sizes: tuple[int, ...]
    widths: tuple[int, ...] = (16, 32, 64)
    num_classes: int = 10
    image_shape: tuple[int, int, int] = (32, 32, 3)
    adapters: tuple[int, ...] = ()
    bottleneck: bool = False
    projection: bool = False
    imagenet_stem: bool = False

    def __post_init__(self) -> None:
        """Checks that every stage has blocks and a width."""
        if len(self.stage_sizes) != len(self.widths) or min(self.stage_sizes) < 1:
            raise ValueError(
                f"each of the stages {self.widths} needs at least one block: "
                f"stage_sizes={self.stage_sizes}"
            )

    @property
    def stages(self) -> tuple[int, ...]:
        """Stage of each block."""
        return tuple(s for s, n in enumerate(self.stage_sizes) for _ in range(n))

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels that the blocks of each stage put out."""
        expansion = EXPANSION if self.bottleneck else 1
        return tuple(expansion * width for width in self.widths)

    def stride(self, block: int) -> int:
        """Returns 2 for the first block of each stage but the first, and 1 else."""
        stage = self.stages[block]
        return 2 if stage and stage != self.stages[block - 1] else 1

    @property
    def protected(self) -> dict[int, str]:
        """Blocks that change the shape of their input, and how."""
        reasons, before = {}, self.widths[0]
        for block, stage in enumerate(self.stages):
            after = self.channels[stage]
            changes = ["halves the resolution"] if self.stride(block) > 1 else []
            if before != after:
                changes.append(f"widens {before} channels to {after}")
            if changes:
                reasons[block] = " and ".join(changes)
            before = after
        return reasons


def cifar_config(depth: int, *, projection: bool = False) -> ResNetConfig:
    """Returns the configuration of CIFAR ResNet-`depth`, depth = 6n + 2.

    >>> cifar_config(56).stage_sizes
    (9, 9, 9)
    """
    if depth < 8 or depth % 6 != 2:
        raise ValueError(f"depth={depth} must be 6n + 2: 20, 32, 44, 56, 110, ...")
    return ResNetConfig((depth // 6,) * 3, projection=projection)


def imagenet_config(depth: int) -> ResNetConfig:
    """Returns the configuration of ImageNet ResNet-`depth`.

    Size of images and number of classes are replaced with `dataclasses.replace`.

    >>> imagenet_config(152).stage_sizes
    (3, 8, 36, 3)
    """
    if depth not in _IMAGENET:
        raise ValueError(f"depth={depth} must be one of {sorted(_IMAGENET)}")
    stage_sizes, bottleneck = _IMAGENET[depth]
    return ResNetConfig(
        stage_sizes,
        (64, 128, 256, 512),
        num_classes=1000,
        image_shape=(224, 224, 3),
        bottleneck=bottleneck,
        projection=True,
        imagenet_stem=True,
    )


def small_config() -> ResNetConfig:
    """Returns a small network for 8x8 grey images, deeper than they need."""
    return ResNetConfig((7, 5), (16, 32), image_shape=(8, 8, 1))


class Block(nn.Module):
    """Two or three convolutions around a shortcut; optionally a linear map at the end.

    Attributes:
        width: channels inside.
        features: channels that come out.
        stride: of the first 3x3 convolution and of the shortcut.
        bottleneck: see `ResNetConfig`.
        projection: see `ResNetConfig`.
        adapter: whether it ends in a linear map.
    """

    width: int
    features: int
    stride: int = 1
    bottleneck: bool = False
    projection: bool = False
    adapter: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps `[B, H, W, C]` to `[B, H/stride, W/stride, features]`."""
        kernels = (1, 3, 1) if self.bottleneck else (3, 3)
        strided = kernels.index(3)
        y = x
        for number, kernel in enumerate(kernels):
            last = number == len(kernels) - 1
            if last:
                self.sow("intermediates", "features", y)
            y = _convolution(
                self.features if last else self.width,
                f"conv{number + 1}",
                kernel,
                self.stride if number == strided else 1,
            )(y)
            y = _normalize(f"bn{number + 1}", train)(y)
            y = y if last else nn.relu(y)
        if self.stride > 1 or x.shape[-1] != self.features:
            x = self._shortcut(x, train)
        self.sow("intermediates", "total", x + y)
        y = nn.relu(x + y)
        return nn.Dense(self.features, name="adapter")(y) if self.adapter else y

    def _shortcut(self, x: jax.Array, train: bool) -> jax.Array:
        if self.projection:
            x = _convolution(self.features, "shortcut", 1, self.stride)(x)
            return _normalize("shortcut_bn", train)(x)
        widened = self.features - x.shape[-1]
        x = x[:, :: self.stride, :: self.stride]
        return jnp.pad(x, ((0, 0),) * 3 + ((widened // 2, widened - widened // 2),))


class ResNet(nn.Module):
    """Maps images `[B, H, W, C]` to logits `[B, num_classes]`."""

    config: ResNetConfig

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Returns logits; with `train`, BatchNorm uses the batch's statistics."""
        config = self.config
        kernel, stride = (7, 2) if config.imagenet_stem else (3, 1)
        x = _convolution(config.widths[0], "stem", kernel, stride)(images)
        x = nn.relu(_normalize("stem_bn", train)(x))
        if config.imagenet_stem:
            x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        self.sow("intermediates", "entered", x)
        for index in range(len(config.stages)):
            x = make_block(config, index, f"block_{index}")(x, train)
        return nn.Dense(config.num_classes, name="head")(x.mean(axis=(1, 2)))


def make_block(config: ResNetConfig, index: int, name: str | None = None) -> Block:
    """Returns block `index` of a network; without a name, equal to those alike."""
    stage = config.stages[index]
    return Block(
        config.widths[stage],
        config.channels[stage],
        stride=config.stride(index),
        bottleneck=config.bottleneck,
        projection=config.projection,
        adapter=index in config.adapters,
        name=name,
    )


def _convolution(features: int, name: str, kernel: int, stride: int = 1) -> nn.Conv:
    # Explicit padding: "SAME" pads a strided convolution on one side only.
    return nn.Conv(
        features,
        (kernel, kernel),
        strides=stride,
        padding=kernel // 2,
        use_bias=False,
        kernel_init=nn.initializers.he_normal(),
        name=name,
    )


def _normalize(name: str, train: bool) -> nn.BatchNorm:
    return nn.BatchNorm(
        use_running_average=not train,
        momentum=MOMENTUM,
        epsilon=EPSILON,
        use_fast_variance=False,
        name=name,
    )
