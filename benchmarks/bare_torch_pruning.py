"""ResNet-20 pruned by Torch-Pruning and fine-tuned in plain PyTorch: the peer of pruning.py; no code of edgedl.

python bare_torch_pruning.py ASSETS SEED EPOCHS RATIOS BORDER CRITERION...    prints one JSON line a criterion
"""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch_pruning as tp
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from resnet20_torch import ResNet20

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
IMPORTANCE = {
    "l1": lambda: tp.importance.GroupMagnitudeImportance(p=1),
    "l2": lambda: tp.importance.GroupMagnitudeImportance(p=2),
    "taylor": tp.importance.GroupTaylorImportance,
}


def arrays(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Raw images 0..1 `[n, 3, h, w]` and labels."""
    with np.load(path) as file:
        x = torch.from_numpy(file["x"]).permute(0, 3, 1, 2).float() / 255
        return x, torch.from_numpy(file["y"]).long()


def accuracy(net: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    net.eval()
    with torch.no_grad():
        found = torch.cat([net((part - MEAN) / STD).argmax(1) for part in x.split(250)])
    return float((found == y).float().mean())


def augmented(x: torch.Tensor, random: torch.Generator, border: str) -> torch.Tensor:
    """Left-right flips, and shifts of up to 4 pixels over black ("zero") or a mirrored border ("reflect")."""
    flip = torch.rand(len(x), generator=random) < 0.5
    x = torch.where(flip.view(-1, 1, 1, 1), x.flip(3), x)
    places = torch.randint(0, 9, (len(x), 2), generator=random).tolist()
    padded = F.pad(x, (4, 4, 4, 4), mode="reflect" if border == "reflect" else "constant")
    return torch.stack([p[:, i : i + 32, j : j + 32] for p, (i, j) in zip(padded, places, strict=True)])


def trained(
    net: torch.nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    epochs: int,
    seed: int,
    border: str,
    teacher: torch.nn.Module | None,
) -> torch.nn.Module:
    """SGD with Nesterov 0.02 one-cycle, batch 64, weight decay 5e-4; with a teacher 0.1 CE + 0.9 x 16 x KL at 4."""
    torch.manual_seed(seed)
    random = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(net.parameters(), 0.02, 0.9, weight_decay=5e-4, nesterov=True)
    steps = epochs * -(-len(x) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps=steps)
    for _ in range(epochs):
        net.train()
        for index in torch.randperm(len(x), generator=random).split(64):
            batch = (augmented(x[index], random, border) - MEAN) / STD
            out = net(batch)
            loss = F.cross_entropy(out, y[index])
            if teacher is not None:
                with torch.no_grad():
                    wanted = F.log_softmax(teacher(batch) / 4, 1)
                soft = F.kl_div(F.log_softmax(out / 4, 1), wanted, log_target=True, reduction="batchmean")
                loss = 0.1 * loss + 0.9 * 16 * soft
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return net.eval()


def pruned(
    net: torch.nn.Module, ratio: float, criterion: str, x: torch.Tensor, y: torch.Tensor
) -> tuple[torch.nn.Module, float]:
    """Channels removed in small steps, by global ranking, until the MACs are 1 / ratio of what they were.

    The residual stream stays: Torch-Pruning 1.6.1 cannot narrow what a shortcut pads with zero channels (a network comes
    out whose shapes do not fit).
    """
    net, example = copy.deepcopy(net), torch.zeros(1, 3, 32, 32)
    before, _ = tp.utils.count_ops_and_params(net, example)
    stream = [m for name, m in net.named_modules() if name == "conv1" or name.endswith("conv2")]
    pruner = tp.pruner.MetaPruner(
        net, example, importance=IMPORTANCE[criterion](), global_pruning=True, pruning_ratio=0.9, iterative_steps=200,
        ignored_layers=[net.linear, *stream],
    )  # fmt: skip
    now = before
    while now * ratio > before:
        if criterion == "taylor":
            net.zero_grad()
            F.cross_entropy(net((x[:512] - MEAN) / STD), y[:512]).backward()
        pruner.step()
        now, _ = tp.utils.count_ops_and_params(net, example)
    return net, before / now


def main(assets: Path, seed: int, epochs: int, ratios: list[float], border: str, criteria: list[str]) -> None:
    torch.set_num_threads(2)
    dense = ResNet20()
    state = torch.load(assets / "models/pytorch_resnet_cifar10/resnet20-12fca82f.th", "cpu", weights_only=True)[
        "state_dict"
    ]
    dense.load_state_dict({k.removeprefix("module."): v for k, v in state.items()})
    x, y = arrays(assets / "datasets/cifar10_jpeg/train_6000.npz")
    held = arrays(assets / "datasets/cifar10_jpeg/val_1000_from_test.npz")
    teacher = trained(copy.deepcopy(dense), x, y, epochs, seed, border, None)
    print(json.dumps({"criterion": "dense", "accuracy": accuracy(teacher, *held)}), flush=True)
    for ratio in ratios:
        for criterion in criteria:
            net, fewer = pruned(dense.eval(), ratio, criterion, x, y)
            cut = accuracy(net, *held)
            after = accuracy(trained(net, x, y, epochs, seed, border, teacher), *held)
            line = {"criterion": criterion, "ratio": ratio, "fewer": fewer, "cut": cut, "accuracy": after}
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    folder, seed, epochs, ratios, border, *names = sys.argv[1:]
    main(Path(folder), int(seed), int(epochs), [float(r) for r in ratios.split(",")], border, names)
