"""Small torch models with the structure of the real ones, random weights and random BatchNorm statistics, seeded.

`build(name)` gives `(module in eval mode, {input name: example tensor with batch 2})`; `export(name, folder)` the path of
an .onnx made by edgedl's own exporter. Input names are the arguments of `forward`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Example = dict[str, Tensor]
Built = tuple[nn.Module, Example]
BATCH = 2


def image(channels: int = 3, size: int = 32) -> Example:
    return {"x": torch.randn(BATCH, channels, size, size)}


def conv_bn(
    i: int, o: int, k: int, stride: int = 1, groups: int = 1, act: Callable[[], nn.Module] | None = nn.ReLU
) -> Any:
    layers = [nn.Conv2d(i, o, k, stride, k // 2, groups=groups, bias=False), nn.BatchNorm2d(o)]
    return nn.Sequential(*layers, *([act()] if act else []))


class Basic(nn.Module):
    def __init__(self, i: int, o: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv_bn(i, o, 3, stride), conv_bn(o, o, 3, act=None)
        self.downsample = None if i == o and stride == 1 else conv_bn(i, o, 1, stride, act=None)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv2(self.conv1(x)) + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    def __init__(self, i: int, o: int, stride: int, groups: int = 1) -> None:
        super().__init__()
        m = o // 4
        self.body = nn.Sequential(conv_bn(i, m, 1), conv_bn(m, m, 3, stride, groups), conv_bn(m, o, 1, act=None))
        self.downsample = None if i == o and stride == 1 else conv_bn(i, o, 1, stride, act=None)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    def __init__(self, block: Any, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.stem = conv_bn(3, widths[0], 7, 2)
        self.pool = nn.MaxPool2d(3, 2, 1)
        pairs = zip((widths[0], *widths), widths, strict=False)
        stages = [(block(i, o, 1 + (n > 0)), block(o, o, 1)) for n, (i, o) in enumerate(pairs)]
        self.stages = nn.Sequential(*(b for stage in stages for b in stage))
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(widths[-1], 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.flatten(self.avgpool(self.stages(self.pool(self.stem(x)))), 1))


def resnet() -> Built:
    """ResNet with basic blocks, as ResNet-18 (He et al., 2016)."""
    return ResNet(Basic, (8, 16, 32)), image(size=64)


def resnet_bottleneck() -> Built:
    """ResNet with bottlenecks, as ResNet-50."""
    return ResNet(Bottleneck, (16, 32)), image(size=64)


def resnext() -> Built:
    """Grouped convolutions in the bottlenecks, as ResNeXt (Xie et al., 2017)."""
    return ResNet(lambda i, o, s: Bottleneck(i, o, s, groups=4), (16, 32)), image(size=64)


class SqueezeExcite(nn.Module):
    def __init__(self, c: int, act: Callable[[], nn.Module], gate: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.pool, self.fc1, self.fc2 = nn.AdaptiveAvgPool2d(1), nn.Conv2d(c, 8, 1), nn.Conv2d(8, c, 1)
        self.act, self.gate = act(), gate()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.fc2(self.act(self.fc1(self.pool(x)))))


class InvertedResidual(nn.Module):
    def __init__(self, i: int, o: int, k: int, stride: int, act: Any, gate: Any = None) -> None:
        super().__init__()
        m = i * 3
        layers = [conv_bn(i, m, 1, act=act), conv_bn(m, m, k, stride, m, act=act)]
        layers += [SqueezeExcite(m, nn.SiLU if act is nn.SiLU else nn.ReLU, gate)] if gate else []
        self.body = nn.Sequential(*layers, conv_bn(m, o, 1, act=None))
        self.residual = i == o and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.residual else self.body(x)


class Mobile(nn.Module):
    def __init__(self, blocks: list[tuple[int, int, int, int, Any, Any]], act: Any) -> None:
        super().__init__()
        last = blocks[-1][1]
        self.stem = conv_bn(3, blocks[0][0], 3, 2, act=act)
        self.blocks = nn.Sequential(*(InvertedResidual(*b) for b in blocks))
        self.head, self.avgpool = conv_bn(last, last * 2, 1, act=act), nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Linear(last * 2, 32), act(), nn.Dropout(0.2), nn.Linear(32, 10))

    def forward(self, x: Tensor) -> Tensor:
        x = self.avgpool(self.head(self.blocks(self.stem(x))))
        return self.classifier(x.view(x.shape[0], -1))


def mobilenet_v2() -> Built:
    """Inverted residuals with ReLU6 (Sandler et al., 2018)."""
    a = nn.ReLU6
    return Mobile([(8, 8, 3, 1, a, None), (8, 16, 3, 2, a, None), (16, 16, 3, 1, a, None)], a), image()


def mobilenet_v3() -> Built:
    """Hard-swish and squeeze-and-excitation with hard-sigmoid (Howard et al., 2019)."""
    r, h, g = nn.ReLU, nn.Hardswish, nn.Hardsigmoid
    return Mobile([(8, 8, 3, 1, r, g), (8, 16, 3, 2, r, None), (16, 16, 5, 1, h, g), (16, 24, 5, 2, h, g)], h), image()


def efficientnet() -> Built:
    """SiLU, squeeze-and-excitation with sigmoid, depthwise 3x3 and 5x5 (Tan and Le, 2019)."""
    a, g = nn.SiLU, nn.Sigmoid
    return Mobile([(8, 8, 3, 1, a, g), (8, 16, 5, 2, a, g), (16, 16, 5, 1, a, g)], a), image()


class Attention(nn.Module):
    """Multi-head attention written out, one projection for query, key and value."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads, self.qkv, self.proj = heads, nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        scores = q @ k.transpose(-2, -1) / math.sqrt(c // self.heads)
        if mask is not None:
            scores = scores + mask
        return self.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, n, c))


class Encoder(nn.Module):
    def __init__(self, dim: int, heads: int, attention: str = "own") -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = Attention(dim, heads) if attention == "own" else nn.MultiheadAttention(dim, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(dim, dim * 2), nn.GELU(), nn.Linear(dim * 2, dim))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + (self.attn(y) if isinstance(self.attn, Attention) else self.attn(y, y, y, need_weights=False)[0])
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    def __init__(self, attention: str) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 24, 8, 8)
        self.token, self.position = nn.Parameter(torch.randn(1, 1, 24)), nn.Parameter(torch.randn(1, 17, 24))
        self.blocks = nn.Sequential(*(Encoder(24, 3, attention) for _ in range(2)))
        self.norm, self.head = nn.LayerNorm(24), nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.position
        return self.head(self.norm(self.blocks(x))[:, 0])


def vit() -> Built:
    """Vision transformer with a class token (Dosovitskiy et al., 2021), attention written out."""
    return ViT("own"), image()


def vit_mha() -> Built:
    """The same with nn.MultiheadAttention, as in torchvision."""
    return ViT("torch"), image()


class ConvNeXtBlock(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dw, self.norm = nn.Conv2d(dim, dim, 7, padding=3, groups=dim), nn.LayerNorm(dim, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.scale = nn.Parameter(torch.randn(dim))

    def forward(self, x: Tensor) -> Tensor:
        y = self.mlp(self.norm(self.dw(x).permute(0, 2, 3, 1))) * self.scale
        return x + y.permute(0, 3, 1, 2)


class LayerNorm2d(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        x = F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


def convnext() -> Built:
    """ConvNeXt (Liu et al., 2022): depthwise 7x7, layer normalization over channels, layer scale."""
    first = (nn.Conv2d(3, 12, 4, 4), LayerNorm2d(12, eps=1e-6), ConvNeXtBlock(12), ConvNeXtBlock(12))
    second = (LayerNorm2d(12, eps=1e-6), nn.Conv2d(12, 24, 2, 2), ConvNeXtBlock(24))
    head = (nn.AdaptiveAvgPool2d(1), LayerNorm2d(24, eps=1e-6), nn.Flatten(1), nn.Linear(24, 10))
    return nn.Sequential(*first, *second, *head), {"input": torch.randn(BATCH, 3, 32, 32)}


class UNet(nn.Module):
    def __init__(self, up: str) -> None:
        super().__init__()
        self.a, self.b = nn.Sequential(conv_bn(3, 8, 3), conv_bn(8, 8, 3)), conv_bn(8, 16, 3)
        self.c, self.d, self.e = conv_bn(16, 32, 3), conv_bn(32, 16, 3), conv_bn(16, 8, 3)
        transposed = up == "transposed"
        self.up1 = nn.ConvTranspose2d(32, 16, 2, 2) if transposed else self._upsample("bilinear", 32, 16)
        self.up2 = nn.ConvTranspose2d(16, 8, 2, 2) if transposed else self._upsample("nearest", 16, 8)
        self.out = nn.Conv2d(8, 2, 1)

    @staticmethod
    def _upsample(mode: str, i: int, o: int) -> nn.Module:
        corners = None if mode == "nearest" else False
        return nn.Sequential(nn.Upsample(scale_factor=2, mode=mode, align_corners=corners), nn.Conv2d(i, o, 1))

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        b = self.b(F.max_pool2d(a, 2))
        c = self.c(F.max_pool2d(b, 2))
        d = self.d(torch.cat([self.up1(c), b], 1))
        return self.out(self.e(torch.cat([self.up2(d), a], 1)))


def unet() -> Built:
    """U-Net (Ronneberger et al., 2015) with transposed convolutions."""
    return UNet("transposed"), image()


def unet_upsample() -> Built:
    """U-Net with bilinear and nearest upsampling."""
    return UNet("resize"), image()


class Recurrent(nn.Module):
    def __init__(self, cell: Any, last: bool = True, **options: Any) -> None:
        super().__init__()
        self.rnn, self.last = cell(10, 12, batch_first=True, **options), last
        self.fc = nn.Linear(24 if options.get("bidirectional") else 12, 4)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.rnn(x)
        return self.fc(y[:, -1] if self.last else y.mean(1))


def lstm() -> Built:
    """LSTM classifier, two layers, last step."""
    return Recurrent(nn.LSTM, num_layers=2), {"x": torch.randn(BATCH, 15, 10)}


def lstm_bidirectional() -> Built:
    """Bidirectional LSTM classifier, mean over time."""
    return Recurrent(nn.LSTM, last=False, bidirectional=True), {"x": torch.randn(BATCH, 15, 10)}


def gru() -> Built:
    """GRU classifier, last step."""
    return Recurrent(nn.GRU), {"x": torch.randn(BATCH, 15, 10)}


def gru_bidirectional() -> Built:
    """Bidirectional GRU of two layers, mean over time."""
    return Recurrent(nn.GRU, last=False, bidirectional=True, num_layers=2), {"x": torch.randn(BATCH, 15, 10)}


def rnn() -> Built:
    """Elman network with tanh."""
    return Recurrent(nn.RNN), {"x": torch.randn(BATCH, 15, 10)}


class Bert(nn.Module):
    def __init__(self, dim: int = 24) -> None:
        super().__init__()
        self.words, self.positions, self.types = nn.Embedding(50, dim), nn.Embedding(16, dim), nn.Embedding(2, dim)
        self.norm, self.pooler, self.out = nn.LayerNorm(dim), nn.Linear(dim, dim), nn.Linear(dim, 3)
        self.layers = nn.ModuleList(nn.ModuleDict(self._layer(dim)) for _ in range(2))
        self.register_buffer("position_ids", torch.arange(16)[None])

    @staticmethod
    def _layer(dim: int) -> dict[str, nn.Module]:
        norms = {"norm1": nn.LayerNorm(dim), "norm2": nn.LayerNorm(dim)}
        return {"attn": Attention(dim, 4), "up": nn.Linear(dim, 2 * dim), "down": nn.Linear(2 * dim, dim), **norms}

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> dict[str, Tensor]:
        positions = self.positions(self.position_ids[:, : input_ids.shape[1]])
        x = self.norm(self.words(input_ids) + positions + self.types(token_type_ids))
        mask = (1.0 - attention_mask[:, None, None, :].to(x.dtype)) * -1e4
        for layer in self.layers:
            x = layer["norm1"](x + layer["attn"](x, mask))
            x = layer["norm2"](x + layer["down"](F.gelu(layer["up"](x))))
        return {"logits": self.out(torch.tanh(self.pooler(x[:, 0]))), "last_hidden_state": x}


def bert() -> Built:
    """BERT (Devlin et al., 2019): word, position and type embeddings, attention mask, pooler; two named outputs."""
    mask = torch.ones(BATCH, 12, dtype=torch.int64)
    mask[0, 9:] = 0
    types = torch.cat([torch.zeros(BATCH, 6), torch.ones(BATCH, 6)], 1).long()
    return Bert(), {"input_ids": torch.randint(0, 50, (BATCH, 12)), "attention_mask": mask, "token_type_ids": types}


class Generator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i, o, stride, padding in ((20, 32, 1, 0), (32, 16, 2, 1), (16, 8, 2, 1)):
            layers += [nn.ConvTranspose2d(i, o, 4, stride, padding, bias=False), nn.BatchNorm2d(o), nn.ReLU(True)]
        self.main = nn.Sequential(*layers, nn.ConvTranspose2d(8, 3, 4, 2, 1, bias=False), nn.Tanh())

    def forward(self, z: Tensor) -> Tensor:
        return self.main(z)


def dcgan() -> Built:
    """DCGAN generator (Radford et al., 2016): transposed convolutions from 1x1 to 32x32."""
    return Generator(), {"z": torch.randn(BATCH, 20, 1, 1)}


def shuffle(x: Tensor, groups: int) -> Tensor:
    b, c, h, w = x.shape
    return x.view(b, groups, c // groups, h, w).transpose(1, 2).reshape(b, c, h, w)


class ShuffleUnit(nn.Module):
    def __init__(self, c: int, stride: int) -> None:
        super().__init__()
        self.stride, i = stride, c if stride == 2 else c // 2
        self.right = nn.Sequential(conv_bn(i, c, 1), conv_bn(c, c, 3, stride, c, None), conv_bn(c, i, 1))
        self.left = nn.Sequential(conv_bn(i, i, 3, 2, i, None), conv_bn(i, i, 1)) if stride == 2 else None

    def forward(self, x: Tensor) -> Tensor:
        if self.left is not None:
            return shuffle(torch.cat([self.left(x), self.right(x)], 1), 2)
        left, right = x.chunk(2, 1)
        return shuffle(torch.cat([left, self.right(right)], 1), 2)


class ShuffleNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.fc = conv_bn(3, 8, 3, 2), nn.Linear(32, 10)
        self.units = nn.Sequential(ShuffleUnit(8, 2), ShuffleUnit(16, 1), ShuffleUnit(16, 2), ShuffleUnit(32, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.units(self.stem(x)).mean([2, 3]))


def shufflenet_v2() -> Built:
    """ShuffleNet V2 (Ma et al., 2018): channel split, concat and shuffle."""
    return ShuffleNet(), image()


class Detector(nn.Module):
    def __init__(self, anchors: int = 3, classes: int = 4) -> None:
        super().__init__()
        self.classes = classes
        self.body = nn.ModuleList([conv_bn(3, 8, 3, 2), conv_bn(8, 16, 3, 2), conv_bn(16, 16, 3, 2)])
        self.boxes = nn.ModuleList(nn.Conv2d(16, anchors * 4, 3, padding=1) for _ in range(2))
        self.scores = nn.ModuleList(nn.Conv2d(16, anchors * classes, 3, padding=1) for _ in range(2))
        self.register_buffer("priors", torch.rand(anchors * (8 * 8 + 4 * 4), 4))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        second = self.body[1](self.body[0](x))
        maps = (second, self.body[2](second))
        scores = [
            c(m).permute(0, 2, 3, 1).reshape(x.shape[0], -1, self.classes)
            for c, m in zip(self.scores, maps, strict=True)
        ]
        boxes = [
            c(m).permute(0, 2, 3, 1).contiguous().view(x.shape[0], -1, 4) for c, m in zip(self.boxes, maps, strict=True)
        ]
        raw = torch.cat(boxes, 1)
        centre = self.priors[:, :2] + raw[..., :2] * 0.1 * self.priors[:, 2:]
        size = self.priors[:, 2:] * torch.exp(raw[..., 2:] * 0.2)
        return F.softmax(torch.cat(scores, 1), -1), torch.cat([centre - size / 2, centre + size / 2], -1)


def ssd() -> Built:
    """SSD-like detection head (Liu et al., 2016): permute, reshape, concatenate, boxes decoded against priors."""
    return Detector(), image()


class Causal(nn.Module):
    def __init__(self, i: int, o: int, dilation: int) -> None:
        super().__init__()
        self.pad, self.conv = 2 * dilation, nn.Conv1d(i, o, 3, dilation=dilation)
        self.norm, self.skip = nn.BatchNorm1d(o), nn.Conv1d(i, o, 1) if i != o else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(F.pad(x, (self.pad, 0)))) + self.skip(x))


def tcn() -> Built:
    """Temporal convolutional network (Bai et al., 2018): causal dilated 1-D convolutions."""
    blocks = (Causal(6, 12, 1), Causal(12, 12, 2), Causal(12, 12, 4))
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(12, 5)), {
        "input": torch.randn(BATCH, 6, 40)
    }


class SpectrumFrontEnd(nn.Module):
    def __init__(self, n: int = 64, hop: int = 32) -> None:
        super().__init__()
        t, f = torch.arange(n), torch.arange(n // 2 + 1)
        angle = 2 * math.pi * f[:, None] * t[None] / n
        window = torch.hann_window(n)
        self.register_buffer("kernel", torch.cat([torch.cos(angle), -torch.sin(angle)])[:, None] * window)
        self.register_buffer("mel", torch.rand(n // 2 + 1, 16))
        self.hop, self.conv, self.fc = hop, nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4, 3)

    def spectrum(self, x: Tensor) -> Tensor:
        re, im = F.conv1d(x[:, None], self.kernel, stride=self.hop).chunk(2, 1)
        return re**2 + im**2

    def forward(self, waveform: Tensor) -> Tensor:
        mel = torch.log(self.spectrum(waveform).transpose(1, 2) @ self.mel + 1e-3)
        return self.fc(F.relu(self.conv(mel[:, None])).amax((2, 3)))


class StftFrontEnd(SpectrumFrontEnd):
    def spectrum(self, x: Tensor) -> Tensor:
        window = torch.hann_window(64)
        s = torch.stft(x, 64, 32, window=window, center=False, return_complex=False, onesided=True)
        return s.pow(2).sum(-1)


def stft_conv() -> Built:
    """Keyword spotting on a waveform: the STFT as a strided 1-D convolution, mel filters, logarithm."""
    return SpectrumFrontEnd(), {"waveform": torch.randn(BATCH, 512)}


def stft() -> Built:
    """The same with torch.stft."""
    return StftFrontEnd(), {"waveform": torch.randn(BATCH, 512)}


class Stateful(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.mask = nn.LSTM(33, 16, num_layers=2, batch_first=True), nn.Linear(16, 33)

    def forward(self, frame: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y, (h, c) = self.rnn(frame, (h, c))
        return frame * torch.sigmoid(self.mask(y)), h, c


def speech_stateful() -> Built:
    """One frame of speech enhancement with the LSTM's states as inputs and outputs."""
    state = torch.randn(2, BATCH, 16)
    return Stateful(), {"frame": torch.rand(BATCH, 1, 33), "h": state, "c": state * 0.5}


class ByteCnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Embedding(257, 16, padding_idx=256), nn.LayerNorm(16)
        self.conv, self.fc = nn.Conv1d(16, 24, 5, stride=2), nn.Linear(24, 6)

    def forward(self, bytes: Tensor) -> Tensor:
        x = F.gelu(self.conv(self.norm(self.embed(bytes)).transpose(1, 2)))
        return F.softmax(self.fc(x.max(dim=2).values), dim=1)


def byte_cnn() -> Built:
    """File type from bytes: embedding, layer normalization, 1-D convolution, global max."""
    return ByteCnn(), {"bytes": torch.randint(0, 257, (BATCH, 64))}


def pixel_shuffle() -> Built:
    """Super-resolution by pixel shuffle (Shi et al., 2016), 3x."""
    layers = (nn.Conv2d(1, 16, 5, padding=2), nn.Tanh(), nn.Conv2d(16, 8, 3, padding=1), nn.Tanh())
    return nn.Sequential(*layers, nn.Conv2d(8, 9, 3, padding=1), nn.PixelShuffle(3)), {
        "input": torch.randn(BATCH, 1, 12, 14)
    }


class Activations(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        kinds = (nn.SiLU(), nn.GELU(), nn.GELU("tanh"), nn.Mish(), nn.PReLU(8), nn.Hardtanh(-0.5, 0.7), nn.ELU(0.7))
        kinds += (nn.SELU(), nn.Softplus(), nn.LeakyReLU(0.1), nn.LogSigmoid(), nn.Softsign(), nn.CELU(0.5))
        self.kinds, self.conv = nn.ModuleList(kinds), nn.Conv2d(3, 8, 3, padding=1, groups=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return torch.stack([kind(x) for kind in self.kinds], 1).mean((3, 4))


def activations() -> Built:
    """Thirteen activations side by side."""
    return Activations(), image(size=8)


def norms() -> Built:
    """Instance, group and batch normalization, asymmetric and reflecting padding, grouped convolution."""
    first = (nn.ReflectionPad2d(2), nn.Conv2d(3, 8, 5), nn.InstanceNorm2d(8, affine=True), nn.ReLU())
    second = (nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(8, 16, 3, 2, groups=4), nn.GroupNorm(4, 16), nn.ReLU())
    third = (nn.Conv2d(16, 16, 3, padding=2, dilation=2), nn.BatchNorm2d(16), nn.AvgPool2d(3, 2, 1, ceil_mode=True))
    return nn.Sequential(*first, *second, *third), {"input": torch.randn(BATCH, 3, 16, 16)}


BUILDERS: dict[str, Callable[[], Built]] = {
    f.__name__: f
    for f in (
        resnet, resnet_bottleneck, resnext, mobilenet_v2, mobilenet_v3, efficientnet, vit, vit_mha, convnext, unet,
        unet_upsample, lstm, lstm_bidirectional, gru, gru_bidirectional, rnn, bert, dcgan, shufflenet_v2, ssd, tcn,
        stft_conv, stft, speech_stateful, byte_cnn, pixel_shuffle, activations, norms,
    )
}  # fmt: skip
BATCH_AXES = {"speech_stateful": {"h": 1, "c": 1}}  # of inputs whose first axis is not the batch


def randomize(module: nn.Module) -> nn.Module:
    """Statistics, scales and shifts of normalizations that are not the identity; PReLU slopes that differ."""
    for m in module.modules():
        if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d):
            m.running_mean.normal_(0, 0.3)
            m.running_var.uniform_(0.5, 2)
        if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d | nn.LayerNorm | nn.GroupNorm | nn.InstanceNorm2d):
            nn.init.uniform_(m.weight, 0.7, 1.3)
            nn.init.normal_(m.bias, 0, 0.2)
        if isinstance(m, nn.PReLU):
            nn.init.uniform_(m.weight, 0.05, 0.5)
    return module


def build(name: str) -> Built:
    """The model called `name` in eval mode, and example inputs by name."""
    with torch.random.fork_rng():
        torch.manual_seed(20)
        module, example = BUILDERS[name]()
        return randomize(module).eval(), example


def shapes(name: str) -> dict[str, str]:
    """The inputs of a model as `LoadOptions.inputs` has them: "?x3x32x32", "?x12:int64"."""
    _, example = build(name)
    axes = {key: BATCH_AXES.get(name, {}).get(key, 0) for key in example}
    text = {k: "x".join("?" if a == axes[k] else str(d) for a, d in enumerate(v.shape)) for k, v in example.items()}
    return {k: text[k] + ("" if v.is_floating_point() else ":int64") for k, v in example.items()}


def export(name: str, folder: Path) -> Path:
    """The model as an .onnx file with a dynamic batch, by edgedl's exporter."""
    from edgedl.converters._torch_export import export as exported
    from edgedl.converters._torch_inputs import arguments, read_inputs

    module, _ = build(name)
    proto, _ = exported(module, read_inputs(shapes(name), *arguments(module), name))
    path = folder / f"{name}.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


if __name__ == "__main__":
    import sys

    for each in BUILDERS:
        print(export(each, Path(sys.argv[1])))
