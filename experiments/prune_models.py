"""The models that --model names, made for a data set."""

import dataclasses
from collections.abc import Sequence

from experiments import model_names, prune_task, prune_weights
from experiments.prune_weights import Architecture, Source
from jaxprune.models import resnet

_RESNET = Architecture(
    resnet.prunable_resnet, resnet.pruned_config, resnet.ResNet, resnet.weight_table
)


def for_images(name: str, image_shape: Sequence[int], num_classes: int) -> Source:
    """Returns the unpruned model of a name.

    Args:
        name: as given to --model.
        image_shape: height, width and channels of the images.
        num_classes: of the data set.

    Raises:
        run_state.UsageError: if a user's function does not give a model.
    """
    if ":" in name:
        return prune_weights.own(name, prune_task.CLASSIFICATION)
    depth = model_names.resnet_depth(name)
    config = resnet.small_config() if depth is None else resnet.cifar_config(depth)
    height, width, channels = image_shape
    config = dataclasses.replace(
        config, image_shape=(height, width, channels), num_classes=num_classes
    )
    model = resnet.prunable_resnet(config)
    return Source(name, model, prune_task.CLASSIFICATION, _RESNET, config)
