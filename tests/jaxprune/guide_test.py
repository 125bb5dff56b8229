"""Runs the examples of docs/guide_prune.md, in order, in one namespace."""

import pathlib
import re

GUIDE = pathlib.Path(__file__).parents[2] / "docs" / "guide_prune.md"


def test_the_guide_runs():
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), flags=re.DOTALL)
    assert blocks
    namespace = {"__name__": "guide"}
    for block in blocks:
        exec(compile(block, str(GUIDE), "exec"), namespace)
    assert namespace["logits"].shape == (64, 10)
    assert len(namespace["net"].blocks) == 4
    assert namespace["left"].num_layers < namespace["config"].num_layers
    assert namespace["right"].shape == (16,)
    x, net = namespace["x"], namespace["net"]
    smaller, pruned = namespace["smaller"], namespace["pruned"]
    assert (abs(net(x) - smaller.apply(pruned, x)) < 1e-5).all()
