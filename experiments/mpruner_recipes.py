"""The settings of MPruner's tables, as runs of `prune_model` on what can be run here.

Each group fine-tunes one model to its task once and prunes it in every setting of the
paper: thresholds, strides K, a second iteration, freezing ("Part"), Wanda afterwards.
"""

import dataclasses
from collections.abc import Mapping

# What the paper allows an iteration to cost, in points of accuracy, is four.
COMMON = ("--max_accuracy_drop=0.04",)


@dataclasses.dataclass(frozen=True)
class Setting:
    """One line of a table.

    Attributes:
        name: of its directory.
        flags: of prune_model, besides those of the group.
        paper: what the paper's nearest line says, in words.
    """

    name: str
    flags: tuple[str, ...]
    paper: str = ""


@dataclasses.dataclass(frozen=True)
class Group:
    """A model, a task, and the settings in which it is pruned.

    Attributes:
        title: of the table.
        base: flags that fine-tune the unpruned model; `{data_dir}` and `{minilm}` are
            filled in.
        task: flags of every run.
        settings: lines of the table.
        caution: what differs from the paper.
    """

    title: str
    base: tuple[str, ...]
    task: tuple[str, ...]
    settings: tuple[Setting, ...]
    caution: str


def _grid(
    thresholds: Mapping[str, str], strides: tuple[int, ...] = (1,)
) -> tuple[Setting, ...]:
    """Returns a setting for each threshold (with the paper's words) and stride."""
    return tuple(
        Setting(
            f"K{stride}_{threshold}",
            (f"--threshold={threshold}", f"--stride={stride}", "--max_rounds=1"),
            words if stride == 1 else "",
        )
        for threshold, words in thresholds.items()
        for stride in strides
    )


def _more(threshold: str) -> tuple[Setting, ...]:
    """Returns the paper's other settings at one threshold."""
    at = f"--threshold={threshold}"
    levels = "--sparsity=0.1,0.2,0.3,0.4,0.5"
    return (
        Setting(f"second_{threshold}", (at, "--max_rounds=2")),
        Setting(f"part_{threshold}", (at, "--max_rounds=1", "--freeze")),
        Setting(f"wanda_{threshold}", (at, "--max_rounds=1", levels)),
    )


def _layers(thresholds: Mapping[int, str]) -> tuple[Setting, ...]:
    """Returns a setting for each number of layers that a threshold leaves."""
    long = ("--max_rounds=1", "--recovery_epochs=2", "--learning_rate=2e-4")
    settings = [
        Setting(f"layers_{left}", (f"--threshold={threshold}", *long))
        for left, threshold in thresholds.items()
    ]
    # Tried after the line above had been seen on the same examples: with half of the
    # error probability, both hold together (Bonferroni).
    again = (*settings[1].flags, "--recovery_epochs=5", "--confidence=0.975")
    return (*settings, Setting(f"{settings[1].name}_long", again))


_EMOTION = {
    "0.99": "BERT-base, .99: 12 to 10 layers, .920 to .921",
    "0.98": "BERT-base, .98: 12 to 8 layers, .920 to .934",
    "0.95": "",
    "0.9": "",
}
# Few texts select, so that many certify.
_TEXTS = (
    "--model=bert",
    "--max_length=64",
    "--batch_size=32",
    "--learning_rate=1e-4",
    "--selection_examples=500",
)
_CIFAR = ("--dataset=cifar10_jpeg", "--data_dir={data_dir}/cifar10_jpeg")
_PRETRAINED = (
    "MiniLM-L6 (6 layers, 384 wide) instead of BERT-base (12 layers, 768 wide)"
)


# Late blocks, which hold most parameters: together half of them, of few operations.
_HALF_OF_PARAMETERS = {
    20: "7,8",
    32: "6,11,12,13",
    44: "8,10,15,16,17,18",
    56: "10,12,14,16,19,20,21,22,23",
}


def _half(depth: int) -> tuple[Setting, ...]:
    """Returns settings that leave half.

    Whatever they lose is told: they are not rejected.
    """
    once = ("--max_rounds=1", "--max_accuracy_drop=0.2")
    return (
        Setting("half_params", (f"--remove={_HALF_OF_PARAMETERS[depth]}", *once)),
        Setting("half_flops", ("--threshold=0.95", *once)),
    )


def _resnet(depth: int) -> Group:
    task = (
        f"--model=resnet{depth}",
        *_CIFAR,
        "--learning_rate=1e-3",
    )
    weights = f"--weights={{data_dir}}/resnet_cifar10/resnet{depth}.safetensors"
    words = {
        "0.99": "ResNet-152, .99: 50 to 26 blocks, 76.82 to 73.37",
        "0.98": "ResNet-152, .98: 50 to 22 blocks, 76.82 to 72.16",
        "0.95": "ResNet-50, .95: 16 to 10 blocks, 76.75 to 72.45",
    }
    return Group(
        f"ResNet-{depth} on CIFAR-10 (JPEG q75)",
        (weights, "--finetune_epochs={epochs}"),
        task,
        (*_grid(words, (1, 2, 3)), *_more("0.98"), *_half(depth)),
        "CIFAR-10 after lossy JPEG compression and its ResNets, not ImageNet",
    )


def _geometry(
    title: str,
    task: tuple[str, ...],
    settings: tuple[Setting, ...],
    base: tuple[str, ...] = (),
) -> Group:
    """Returns a model of the paper at its true size, hardly trained."""
    few = (
        "--training_examples=64",
        "--calibration_examples=64",
        "--selection_examples=64",
        "--certificate_examples=256",
        "--batch_size=16",
    )
    return Group(
        f"{title} at its true size, on 64 examples",
        (*base, "--train_epochs=1"),
        (*task, *few),
        settings,
        "random weights: that it runs is shown, not how well",
    )


def _without(name: str, paper: str, *removed: tuple[str, int, int]) -> Setting:
    """Returns a setting that removes ranges of blocks, by stack.

    Args:
        name: of the setting.
        paper: its parameters as published.
        *removed: prefix of the stack, first block, and the one after the last.
    """
    blocks = [f"{stack}{b}" for stack, *span in removed for b in range(*span)]
    flags = (f"--remove={','.join(blocks)}", "--max_rounds=1", "--max_accuracy_drop=1")
    return Setting(name, flags, paper)


_EMOTIONS = ("--dataset=emotion", "--data_dir={data_dir}/emotion", "--max_length=32")

# Blocks of ResNet-50 and ResNet-152 begin with stages of 3, 4, 6 and 3, 8, 36. Their
# heads have 10 classes here: 2 028 510 parameters fewer than with 1000.
GEOMETRIES: dict[str, Group] = {
    "resnet50_size": _geometry(
        "ResNet-50",
        ("--model=resnet50", *_CIFAR),
        (_without("K1_0.95", "21.57 M", ("", 2, 3), ("", 5, 7), ("", 10, 13)),),
    ),
    "resnet152_size": _geometry(
        "ResNet-152",
        ("--model=resnet152", *_CIFAR),
        (_without("K1_0.99", "31.709224 M", ("", 9, 11), ("", 26, 47), ("", 49, 50)),),
    ),
    "bert_base_size": _geometry(
        "BERT-base",
        ("--model=bert", *_EMOTIONS),
        (
            _without("K1_0.99", "95.31111 M", ("", 10, 12)),
            _without("K1_0.98", "81.135366 M", ("", 8, 12)),
            _without("second_0.98", "66.959622 M", ("", 6, 12)),
        ),
        ("--size=base",),
    ),
    "t5_base_size": _geometry(
        "T5-base",
        ("--model=t5", *_EMOTIONS),
        (
            _without(
                "K1_0.99", "135.588864 M", ("encoder:", 9, 12), ("decoder:", 5, 12)
            ),
        ),
        ("--size=base",),
    ),
}

GROUPS: dict[str, Group] = {
    "minilm_emotion": Group(
        "MiniLM-L6 on dair-ai/emotion",
        ("--weights={minilm}", "--train_epochs={epochs}"),
        (*_TEXTS, "--dataset=emotion", "--data_dir={data_dir}/emotion"),
        # Thresholds that leave four, three and two layers of what two epochs make.
        (
            *_layers({4: "0.92", 3: "0.855", 2: "0.67"}),
            *_grid(_EMOTION),
            *_more("0.9"),
        ),
        _PRETRAINED,
    ),
    "bert_emotion": Group(
        "BERT (6 layers, 64 wide, trained here) on dair-ai/emotion",
        ("--train_epochs={epochs}",),
        (
            "--model=bert",
            "--max_length=32",
            "--learning_rate=1e-3",
            "--dataset=emotion",
            "--data_dir={data_dir}/emotion",
        ),
        (*_grid(_EMOTION), *_more("0.95")),
        "a small network without pretraining instead of BERT-base",
    ),
    "minilm_sst2": Group(
        "MiniLM-L6 on SST-2",
        ("--weights={minilm}", "--train_epochs={epochs}"),
        (
            *_TEXTS,
            "--dataset=sst2",
            "--data_dir={data_dir}/sst2",
            # Of 60 614: as many as emotion has.
            "--training_examples=16000",
        ),
        _grid({"0.98": "", "0.93": "", "0.9": "", "0.8": "", "0.7": ""}),
        f"{_PRETRAINED}; a quarter of SST-2 instead of Yahoo",
    ),
    **{f"resnet{depth}": _resnet(depth) for depth in (20, 32, 44, 56)},
    "t5_digits": Group(
        "T5 (4 + 4 layers, 64 wide, trained here) sorting digits",
        ("--train_epochs={epochs}",),
        ("--model=t5", "--learning_rate=1e-3", "--dataset=sorted_digits"),
        _grid(
            {"0.99": "T5-base, .99: 12/12 to 9/5 layers, BLEU .227 to .212", "0.9": ""}
        ),
        "a toy",
    ),
    "t5_emotion": Group(
        "T5 (4 + 4 layers, 64 wide, trained here) answering dair-ai/emotion in words",
        ("--train_epochs={epochs}",),
        (
            "--model=t5",
            "--max_length=32",
            "--learning_rate=1e-3",
            "--dataset=emotion",
            "--data_dir={data_dir}/emotion",
        ),
        _grid({"0.99": "T5-base, .99: 12/12 to 9/5 layers, BLEU .227 to .212"}),
        "a small network without pretraining, and no generated questions",
    ),
    **GEOMETRIES,
}
