"""The models that --model names, made for a data set."""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence
from typing import Any

from experiments import model_names, prune_task, prune_weights, run_state
from experiments.prune_weights import Architecture, Source
from jaxprune.models import bert, resnet


def _resnet_head(variables: Any) -> dict[str, Any]:
    return {"params": {"head": variables["params"]["head"]}}


_RESNET = Architecture(
    resnet.prunable_resnet,
    resnet.pruned_config,
    resnet.ResNet,
    resnet.weight_table,
    new_head=_resnet_head,
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
    if depth is None:
        config = resnet.small_config()
    elif depth in model_names.IMAGENET_DEPTHS:
        config = resnet.imagenet_config(depth)
    else:
        config = resnet.cifar_config(depth)
    height, width, channels = image_shape
    config = dataclasses.replace(
        config, image_shape=(height, width, channels), num_classes=num_classes
    )
    model = resnet.prunable_resnet(config)
    return Source(name, model, prune_task.CLASSIFICATION, _RESNET, config)


def for_texts(
    name: str,
    directory: str | None,
    tokenizer: Any,
    length: int,
    class_names: Sequence[str],
) -> Source:
    """Returns the unpruned model of a name.

    Args:
        name: as given to --model.
        directory: of weights in Hugging Face layout, whose config.json tells the
            sizes; None for a small network that is trained here.
        tokenizer: what makes tokens of texts.
        length: of the batches, in tokens.
        class_names: of the data set.

    Raises:
        run_state.UsageError: if config.json asks for what is not done here, or a
            user's function does not give a model.
    """
    if ":" in name:
        return prune_weights.own(name, prune_task.TEXT_CLASSIFICATION)
    if directory is None:
        written = _small_bert(tokenizer.get_vocab_size(), length)
    else:
        written = model_names.read_config(directory, name)
    named = {str(number): label for number, label in enumerate(class_names)}
    labels = {"id2label": named, "label2id": {v: int(k) for k, v in named.items()}}
    try:
        config = bert.config_from_hf(
            written, head=bert.Head.CLASSIFICATION, num_labels=len(class_names)
        )
    except ValueError as error:
        raise run_state.usage_error("weights", directory, str(error)) from error
    if tokenizer.get_vocab_size() > config.vocab_size:
        raise run_state.usage_error(
            "weights",
            directory,
            f"its tokenizer knows {tokenizer.get_vocab_size()} tokens, its model only "
            f"{config.vocab_size}",
        )
    architecture = Architecture(
        bert.prunable_bert,
        bert.pruned_config,
        bert.Bert,
        bert.weight_table,
        to_json=functools.partial(_written_bert, {**written, **labels}),
        new_head=bert.head_variables,
        folder=prune_weights.Folder(
            None if directory is None else pathlib.Path(directory), tokenizer
        ),
    )
    model = bert.prunable_bert(config)
    return Source(name, model, prune_task.TEXT_CLASSIFICATION, architecture, config)


def _small_bert(vocab_size: int, length: int) -> dict[str, Any]:
    """Returns the config.json of a network that a CPU trains in minutes."""
    return {
        "model_type": "bert",
        "vocab_size": vocab_size,
        "hidden_size": 64,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "max_position_embeddings": length,
        "type_vocab_size": 1,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
    }


def _written_bert(base: dict[str, Any], config: bert.BertConfig) -> dict[str, Any]:
    return bert.config_to_hf(config, base)
