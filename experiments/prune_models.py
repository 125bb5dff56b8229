"""The models that --model names, made for a data set."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

from experiments import model_names, prune_task, prune_weights, run_state
from experiments.prune_weights import Architecture, Source
from jaxprune import checkpoints
from jaxprune.models import bert, resnet, t5, t5_network, vit


def _resnet_head(variables: Any) -> dict[str, Any]:
    return {"params": {"head": variables["params"]["head"]}}


_RESNET = Architecture(
    resnet.prunable_resnet,
    resnet.pruned_config,
    resnet.ResNet,
    resnet.weight_table,
    new_head=_resnet_head,
)


def for_images(
    name: str,
    directory: str | None,
    image_shape: Sequence[int],
    class_names: Sequence[str],
) -> Source:
    """Returns the unpruned model of a name.

    Args:
        name: as given to --model.
        directory: of weights in Hugging Face layout, None for others.
        image_shape: height, width and channels of the images.
        class_names: of the data set.

    Raises:
        run_state.UsageError: if a user's function does not give a model.
    """
    if ":" in name:
        return prune_weights.own(name, prune_task.CLASSIFICATION)
    if name == "vit":
        return _vit(name, directory, image_shape, class_names)
    depth = model_names.resnet_depth(name)
    if depth is None:
        config = resnet.small_config()
    elif depth in model_names.IMAGENET_DEPTHS:
        config = resnet.imagenet_config(depth)
    else:
        config = resnet.cifar_config(depth)
    height, width, channels = image_shape
    config = dataclasses.replace(
        config, image_shape=(height, width, channels), num_classes=len(class_names)
    )
    model = resnet.prunable_resnet(config)
    return Source(name, model, prune_task.CLASSIFICATION, _RESNET, config)


def _vit(
    name: str,
    directory: str | None,
    image_shape: Sequence[int],
    class_names: Sequence[str],
) -> Source:
    if directory is None:
        written = _small_vit(image_shape)
    else:
        written = model_names.read_config(directory, name)
    try:
        config = vit.config_from_hf(written, num_classes=len(class_names))
    except ValueError as error:
        raise run_state.usage_error("weights", directory, str(error)) from error
    if config.image_shape != tuple(image_shape):
        raise run_state.usage_error(
            "weights",
            directory,
            f"reads images of {config.image_shape}, the data set has "
            f"{tuple(image_shape)}",
        )
    base = {**written, **_labels(class_names)}
    architecture = Architecture(
        vit.prunable_vit,
        vit.pruned_config,
        vit.ViT,
        vit.weight_table,
        to_json=lambda config: vit.config_to_hf(config, base),
        new_head=vit.head_variables,
        folder=prune_weights.Folder(_path(directory)),
    )
    model = vit.prunable_vit(config)
    return Source(name, model, prune_task.CLASSIFICATION, architecture, config)


def _small_vit(image_shape: Sequence[int]) -> dict[str, Any]:
    """Returns the config.json of a network that a CPU trains in minutes."""
    height, width, channels = image_shape
    fits = [p for p in (16, 8, 4, 2, 1) if height % p == width % p == 0]
    # Seven patches on a side, or as many as there can be with more than one pixel.
    enough = [p for p in fits if min(height, width) // p >= 7 and p > 1]
    return {
        "model_type": "vit",
        "image_size": [height, width],
        "num_channels": channels,
        "patch_size": (enough or [p for p in fits if p <= 2])[0],
        "hidden_size": 64,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "hidden_act": "gelu",
    }


def _labels(class_names: Sequence[str]) -> dict[str, Any]:
    """Returns what config.json says about classes."""
    named = {str(number): label for number, label in enumerate(class_names)}
    return {
        "id2label": named,
        "label2id": {label: int(number) for number, label in named.items()},
    }


def _path(directory: str | None) -> pathlib.Path | None:
    return None if directory is None else pathlib.Path(directory)


def for_texts(
    name: str,
    directory: str | None,
    tokenizer: Any,
    max_length: int,
    class_names: Sequence[str],
    size: str = "small",
) -> Source:
    """Returns the unpruned model of a name.

    Args:
        name: as given to --model.
        directory: of weights in Hugging Face layout, whose config.json tells the
            sizes; None for a network that is trained here.
        tokenizer: what makes tokens of texts.
        max_length: tokens of a text at most.
        class_names: of the data set.
        size: of a network that is trained here, small or base.

    Raises:
        run_state.UsageError: if config.json asks for what is not done here, or a
            user's function does not give a model.
    """
    if ":" in name:
        return prune_weights.own(name, prune_task.TEXT_CLASSIFICATION)
    make = _t5 if name == "t5" else _bert
    try:
        source = make(name, directory, tokenizer, max_length, class_names, size)
    except ValueError as error:
        raise run_state.usage_error("weights", directory, str(error)) from error
    token, token_id = max(tokenizer.get_vocab().items(), key=lambda item: item[1])
    if token_id >= source.config.vocab_size:
        raise run_state.usage_error(
            "weights",
            directory,
            f"its tokenizer gives {token!r} the id {token_id}, its model has a "
            f"vocab_size of {source.config.vocab_size}",
        )
    return source


def _bert(
    name: str,
    directory: str | None,
    tokenizer: Any,
    max_length: int,
    class_names: Sequence[str],
    size: str,
) -> Source:
    if directory is None:
        written = _bert_sizes(size, tokenizer.get_vocab_size(), max_length)
    else:
        written = model_names.read_config(directory, name)
    base = {**written, **_labels(class_names)}
    config = bert.config_from_hf(
        written, head=bert.Head.CLASSIFICATION, num_labels=len(class_names)
    )
    architecture = Architecture(
        bert.prunable_bert,
        bert.pruned_config,
        bert.Bert,
        bert.weight_table,
        to_json=lambda config: bert.config_to_hf(config, base),
        new_head=bert.head_variables,
        folder=prune_weights.Folder(_path(directory), tokenizer),
    )
    model = bert.prunable_bert(config)
    return Source(name, model, prune_task.TEXT_CLASSIFICATION, architecture, config)


# Width, width inside the MLP, blocks, heads.
_BERT_SIZES = {"small": (64, 128, 6, 4), "base": (768, 3072, 12, 12)}


def _bert_sizes(size: str, vocab_size: int, max_length: int) -> dict[str, Any]:
    """Returns a config.json: of BERT-base, or small, which a CPU trains in minutes."""
    width, inside, layers, heads = _BERT_SIZES[size]
    base = size == "base"
    return {
        "model_type": "bert",
        "vocab_size": 30522 if base else vocab_size,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": inside,
        "max_position_embeddings": 512 if base else max_length,
        "type_vocab_size": 2 if base else 1,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
    }


def _t5(
    name: str,
    directory: str | None,
    tokenizer: Any,
    max_length: int,
    class_names: Sequence[str],
    size: str,
) -> Source:
    del max_length, class_names  # relative positions, and answers in words
    if directory is None:
        written, tensors = _t5_sizes(size, tokenizer.get_vocab_size()), None
    else:
        written = model_names.read_config(directory, name)
        tensors = checkpoints.load_safetensors(directory)
    config = t5.config_from_hf(written, tensors)
    architecture = Architecture(
        t5.prunable_t5,
        t5.pruned_config,
        t5_network.T5,
        t5.weight_table,
        to_json=lambda config: t5.config_to_hf(config, written),
        folder=prune_weights.Folder(_path(directory), tokenizer),
    )
    return Source(
        name, t5.prunable_t5(config), prune_task.ANSWERS, architecture, config
    )


# Width, width of a head, width inside the MLP, blocks of each stack, heads.
_T5_SIZES = {"small": (64, 16, 128, 4, 4), "base": (768, 64, 3072, 12, 12)}


def _t5_sizes(size: str, vocab_size: int) -> dict[str, Any]:
    """Returns a config.json: of T5-base, or small, which a CPU trains in minutes."""
    width, of_head, inside, layers, heads = _T5_SIZES[size]
    return {
        "model_type": "t5",
        "is_encoder_decoder": True,
        "vocab_size": 32128 if size == "base" else vocab_size,
        "d_model": width,
        "d_kv": of_head,
        "d_ff": inside,
        "num_layers": layers,
        "num_decoder_layers": layers,
        "num_heads": heads,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
    }
