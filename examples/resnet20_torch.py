"""ResNet-20 for CIFAR-10 from its PyTorch state dict to an int8 .tflite: the module, and one call.

python examples/resnet20_torch.py resnet20-12fca82f.th DATA.npz    (x: NCHW float32, normalized as it was trained; y)

The module is that of github.com/akamaster/pytorch_resnet_cifar10; shortcuts of option A (He et al., 2016, 4.2).
"""

import sys

from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """Two 3x3 convolutions; where the width doubles, the shortcut is every second pixel with zero channels around."""

    def __init__(self, i: int, o: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o)
        self.conv2, self.bn2 = nn.Conv2d(o, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o)
        self.stride, self.added = stride, (o - i) // 2

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.added:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.added, self.added))
        return F.relu(y + x)


class ResNet20(nn.Module):
    """Three stages of three blocks; logits of 10 classes for `x` `[n, 3, 32, 32]`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(Block(16, 16, 1), Block(16, 16, 1), Block(16, 16, 1))
        self.layer2 = nn.Sequential(Block(16, 32, 2), Block(32, 32, 1), Block(32, 32, 1))
        self.layer3 = nn.Sequential(Block(32, 64, 2), Block(64, 64, 1), Block(64, 64, 1))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(F.avg_pool2d(x, x.size()[3]).flatten(1))


def main(weights: str, data: str, out: str = "resnet20") -> None:
    """int8 .tflite of the state dict, held to the original at every step."""
    import edgedl

    report = edgedl.compress(
        weights, out, data={"source": data}, quantize={"scheme": "int8"}, formats=["tflite"],
        load={"module": "resnet20_torch:ResNet20", "inputs": {"x": "1x3x32x32"}},
    )  # fmt: skip
    print(report["artifacts"][0]["name"], report["artifacts"][0]["metrics"])


if __name__ == "__main__":
    main(*sys.argv[1:])
