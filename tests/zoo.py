"""The network families the exporter is held to, randomly initialised, and the blocks that each must give.

The tables of blocks are worked out by hand from the architectures and from the rules of SISE (arXiv 2010.00672): the
input of every spatial down-sampling after the stem, plus the last map before global pooling; always a tensor that
every path from the image to the logits passes through.

Weights are random and seeded. One pass through the network fits every normalisation to the activations it meets and
then perturbs it, so that nothing is trivially 0 or 1, and no activation dies or explodes however deep the network is.
Most channels are shifted to be clearly on or clearly off: a ReLU whose input lies within rounding of zero has one
gradient in float32 and another in float64, and a deep network of fresh weights has millions of them.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASSES = 1000


@functools.cache
def _operators() -> torch.library.Library:
    """Declare what ``import torchvision`` looks for and a CPU build of torch lacks."""
    library = torch.library.Library("torchvision", "DEF")
    for declaration in (
        "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
        "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    ):
        library.define(declaration)
    return library


@dataclass(frozen=True)
class ExpectedBlock:
    """``channels`` maps of ``side``×``side``, the output of the torch module ``module``."""

    module: str
    channels: int
    side: int
    function: bool = False
    """Whether the last step is a function, not a module: the block is then named after its tensor."""

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.channels, self.side, self.side


@dataclass(frozen=True)
class Family:
    """One architecture, and the blocks that it must give, shallow to deep."""

    name: str
    make: Callable[[], nn.Module]
    blocks: tuple[ExpectedBlock, ...]
    size: int = 224

    @property
    def taps(self) -> tuple[str, ...]:
        return tuple(block.module for block in self.blocks)

    def image(self) -> Tensor:
        """The image that the network was fitted to, 1×3×H×W, float32."""
        return torch.randn(1, 3, self.size, self.size, generator=torch.Generator().manual_seed(7))

    def build(self) -> nn.Module:
        """The network in float32 and eval mode; the same weights every time."""
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = self.make()
        return fitted(module, self.image())


def fitted(module: nn.Module, image: Tensor, seed: int = 0) -> nn.Module:
    """Fresh, perturbed, well-conditioned weights for a network, in place; eval mode, no in-place activations."""
    module.eval().requires_grad_(False)
    pools = sum(isinstance(child, nn.MaxPool2d) for child in module.modules())
    fit = _Fit(torch.Generator().manual_seed(seed), separate_all=pools > 1)
    hooks = []
    for child in module.modules():
        if hasattr(child, "inplace"):
            setattr(child, "inplace", False)  # noqa: B010
        if isinstance(child, nn.BatchNorm2d):
            hooks.append(child.register_forward_hook(fit.norm))
        elif isinstance(child, nn.Conv2d | nn.Linear):
            hooks.append(child.register_forward_hook(fit.linear))
        elif isinstance(child, nn.ReLU):
            hooks.append(child.register_forward_pre_hook(fit.relu))
        elif isinstance(child, nn.LayerNorm):
            child.weight.uniform_(0.5, 1.5, generator=fit.generator)
            child.bias.normal_(0, 0.3, generator=fit.generator)
        if isinstance(scale := getattr(child, "layer_scale", None), nn.Parameter):
            scale.uniform_(0.2, 0.6, generator=fit.generator)
    with torch.no_grad():
        module(image)
    for hook in hooks:
        hook.remove()
    return module


class _Fit:
    """Hooks that give every layer its weights while the image passes through it."""

    def __init__(self, generator: torch.Generator, *, separate_all: bool) -> None:
        self.generator = generator
        self._separate_all = separate_all
        self._started = False
        self._bias = torch.zeros(0)
        self._output = torch.zeros(0)
        self._version = 0

    def norm(self, norm: nn.BatchNorm2d, inputs: tuple[Tensor], _output: Tensor) -> Tensor:
        """Statistics near those of the input, a scale near 1, and a bias that puts each channel on or off."""
        assert norm.running_mean is not None
        assert norm.running_var is not None
        (x,) = inputs
        variance, mean = torch.var_mean(x, dim=(0, 2, 3))
        noise = torch.randn(2, norm.num_features, generator=self.generator)
        norm.running_mean.copy_(mean + 0.1 * variance.sqrt() * noise[0])
        norm.running_var.copy_((variance + 1e-3) * torch.exp(0.2 * noise[1]))
        norm.weight.uniform_(0.5, 1.5, generator=self.generator)
        norm.bias.copy_(norm.weight * self._shift(norm.num_features))
        norm.bias.add_(clear_of_kinks(norm.forward(x)))
        return self._remember(norm.bias, norm.forward(x))

    def linear(self, layer: nn.Conv2d | nn.Linear, inputs: tuple[Tensor], _output: Tensor) -> Tensor:
        """Outputs of unit variance, and biases as in :meth:`norm` where the layer has any."""
        (x,) = inputs
        layer.weight.normal_(0, layer.weight[0].numel() ** -0.5, generator=self.generator)
        bias, layer.bias = layer.bias, None
        if isinstance(layer, nn.Conv2d) and layer.groups == 1 and (self._separate_all or not self._started):
            self._separate(layer, x)  # The only max-pool of a network lies behind its first convolution.
        self._started = True
        y = layer.forward(x)
        layer.bias = bias
        if bias is None:
            return y
        if isinstance(layer, nn.Conv2d) and y.shape[2:].numel() > 1:
            variance, mean = torch.var_mean(y, dim=(0, 2, 3))
            scale = (variance + 1e-6).rsqrt()
            layer.weight.mul_(scale.reshape(-1, 1, 1, 1))
            bias.copy_(self._shift(len(bias)) - mean * scale)
        else:
            layer.weight.div_(y.std() if y.numel() > 1 else 1.0)
            bias.normal_(0, 0.5, generator=self.generator)
        if isinstance(layer, nn.Conv2d) or y.ndim == 2:
            bias.add_(clear_of_kinks(layer.forward(x)))
        return self._remember(bias, layer.forward(x))

    def relu(self, _relu: nn.ReLU, inputs: tuple[Tensor]) -> Tensor | None:
        """Behind a residual sum: move the bias of the last layer that was added."""
        (x,) = inputs
        if x is self._output and x._version == self._version:
            return None
        offset = clear_of_kinks(x)
        self._bias.add_(offset)
        return x + offset.reshape(-1, *[1] * (x.ndim - 2))

    def _remember(self, bias: Tensor, output: Tensor) -> Tensor:
        self._bias, self._output, self._version = bias, output, output._version
        return output

    def _shift(self, channels: int) -> Tensor:
        """Means, in standard deviations: half of the channels mostly above zero, half mostly below."""
        on = torch.rand(channels, generator=self.generator) < 0.5
        size = torch.rand(channels, generator=self.generator)
        return torch.where(on, 1.0 + size, -0.5 - size)

    def _separate(self, conv: nn.Conv2d, x: Tensor) -> None:
        """Draw filters again until no two values that a max-pool may choose between are nearly equal."""
        y = conv.forward(x)
        gaps, wanted = window_gap(y), 0.2 / y.shape[2:].numel()
        for _ in range(8):
            weak = (gaps < wanted).nonzero().flatten()
            if not len(weak):
                return
            fresh = torch.empty_like(conv.weight[weak])
            fresh.normal_(0, conv.weight[0].numel() ** -0.5, generator=self.generator)
            found = window_gap(F.conv2d(x, fresh, None, conv.stride, conv.padding, conv.dilation))
            better = found > gaps[weak]
            conv.weight[weak[better]] = fresh[better]
            gaps[weak[better]] = found[better]


def clear_of_kinks(x: Tensor) -> Tensor:
    """Per channel, the small offset that keeps x farthest from where a ReLU, ReLU6 or hard sigmoid bends."""
    values = x.transpose(0, 1).flatten(1).sort(dim=1).values.contiguous()
    spread = values.std(dim=1, keepdim=True) if values.shape[1] > 1 else torch.ones(len(values), 1)
    offsets = torch.linspace(-0.25, 0.25, 64) * spread
    clearance = torch.full_like(offsets, torch.inf)
    for kink in (-3.0, 0.0, 3.0, 6.0):
        wanted = kink - offsets
        after = torch.searchsorted(values, wanted)
        for i in (after - 1, after):
            nearest = values.gather(1, i.clamp(0, values.shape[1] - 1))
            clearance = torch.minimum(clearance, (nearest - wanted).abs())
    return offsets.gather(1, clearance.argmax(1, keepdim=True)).flatten()


def window_gap(x: Tensor) -> Tensor:
    """Per channel of 1×C×H×W, between the two largest values of what one or two max-pools see, in standard deviations.

    2×2 and 3×3 windows, and 7×7 ones: a 3×3 window behind a 3×3 one of stride 2, as GoogLeNet has.
    """
    if min(x.shape[2:]) < 3:
        return torch.full((x.shape[1],), torch.inf)
    smallest = torch.full((x.shape[1],), torch.inf)
    padded = F.pad(x[0], (3, 3, 3, 3), value=-torch.inf)
    for size in (2, 3, 7):
        first, second = padded, torch.full_like(padded, -torch.inf)
        for dim in (1, 2):
            strips = [
                [values.narrow(dim, at, values.shape[dim] - size + 1) for values in (first, second)]
                for at in range(size)
            ]
            first, second = strips[0]
            for largest, next_to_it in strips[1:]:
                second = torch.maximum(torch.minimum(first, largest), torch.maximum(second, next_to_it))
                first = torch.maximum(first, largest)
        smallest = torch.minimum(smallest, (first - second).nan_to_num(torch.inf).amin((1, 2)))
    return smallest / (x[0].std((1, 2)) + 1e-12)


def _torchvision(name: str, **options: object) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        _operators()
        from torchvision import models

        module: nn.Module = getattr(models, name)(weights=None, **options)
        return module

    return make


def _resnet_v1() -> nn.Module:
    """ResNet-50 as first published: a bottleneck strides in its first 1×1 convolution, not in its 3×3."""
    module = _torchvision("resnet50")()
    for stage in ("layer2", "layer3", "layer4"):
        first = module.get_submodule(f"{stage}.0")
        for name, stride in (("conv1", (2, 2)), ("conv2", (1, 1))):
            convolution = first.get_submodule(name)
            assert isinstance(convolution, nn.Conv2d)
            convolution.stride = stride
    return module


def _vgg(name: str) -> Callable[[], nn.Module]:
    """A VGG whose two hidden layers of 4096 units, 500 MB of weights, are 256 wide."""

    def make() -> nn.Module:
        module = _torchvision(name, num_classes=1)()
        module.classifier = nn.Sequential(
            nn.Linear(512 * 7 * 7, 256),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(256, 256),
            nn.ReLU(),
            nn.Linear(256, CLASSES),
        )
        return module

    return make


def _table(*blocks: tuple[str, int, int] | tuple[str, int, int, bool]) -> tuple[ExpectedBlock, ...]:
    return tuple(ExpectedBlock(*block) for block in blocks)


_BOTTLENECK_RESNET = _table(
    ("relu", 64, 112), ("layer1", 256, 56), ("layer2", 512, 28), ("layer3", 1024, 14), ("layer4", 2048, 7)
)

FAMILIES: tuple[Family, ...] = (
    Family(
        "vgg16",
        _vgg("vgg16"),
        # The activations of conv1_2, conv2_2, conv3_3, conv4_3 and conv5_3: the inputs of the five max-pools.
        _table(
            ("features.3", 64, 224),
            ("features.8", 128, 112),
            ("features.15", 256, 56),
            ("features.22", 512, 28),
            ("features.29", 512, 14),
        ),
    ),
    Family(
        "vgg16_bn",
        _vgg("vgg16_bn"),
        _table(
            ("features.5", 64, 224),
            ("features.12", 128, 112),
            ("features.22", 256, 56),
            ("features.32", 512, 28),
            ("features.42", 512, 14),
        ),
    ),
    Family(
        "resnet18",
        _torchvision("resnet18"),
        _table(("relu", 64, 112), ("layer1", 64, 56), ("layer2", 128, 28), ("layer3", 256, 14), ("layer4", 512, 7)),
    ),
    Family("resnet50", _torchvision("resnet50"), _BOTTLENECK_RESNET),
    Family("resnet50_v1", _resnet_v1, _BOTTLENECK_RESNET),
    Family("resnet101", _torchvision("resnet101"), _BOTTLENECK_RESNET),
    Family("resnet152", _torchvision("resnet152"), _BOTTLENECK_RESNET),
    Family("resnext50_32x4d", _torchvision("resnext50_32x4d"), _BOTTLENECK_RESNET),
    Family(
        "densenet121",
        _torchvision("densenet121"),
        # The last module is ``features``: F.relu(inplace=True) writes into what it returned.
        _table(
            ("features.relu0", 64, 112),
            ("features.transition1.conv", 128, 56),
            ("features.transition2.conv", 256, 28),
            ("features.transition3.conv", 512, 14),
            ("features", 1024, 7, True),
        ),
    ),
    Family(
        "squeezenet1_0",
        _torchvision("squeezenet1_0"),
        # The 1000 maps behind the last convolution are only averaged: they are class scores, not a block.
        _table(("features.1", 96, 109), ("features.5", 256, 54), ("features.10", 512, 27), ("features.12", 512, 13)),
    ),
    Family(
        "squeezenet1_1",
        _torchvision("squeezenet1_1"),
        _table(("features.1", 64, 111), ("features.4", 128, 55), ("features.7", 256, 27), ("features.12", 512, 13)),
    ),
    Family(
        "googlenet",
        _torchvision("googlenet", init_weights=False),
        _table(
            ("conv1", 64, 112),
            ("conv3", 192, 56),
            ("inception3b", 480, 28),
            ("inception4e", 832, 14),
            ("inception5b", 1024, 7),
        ),
    ),
    Family(
        "inception_v3",
        _torchvision("inception_v3", init_weights=False),
        # 149² and 147², 73² and 71² are one level: a convolution without padding is no down-sampling.
        _table(
            ("Conv2d_2b_3x3", 64, 147),
            ("Conv2d_4a_3x3", 192, 71),
            ("Mixed_5d", 288, 35),
            ("Mixed_6e", 768, 17),
            ("Mixed_7c", 2048, 8),
        ),
        size=299,
    ),
    Family(
        "mobilenet_v2",
        _torchvision("mobilenet_v2"),
        # The narrow outputs of the inverted bottlenecks; the last map is the 1280-channel convolution's.
        _table(
            ("features.1", 16, 112),
            ("features.3", 24, 56),
            ("features.6", 32, 28),
            ("features.13", 96, 14),
            ("features.18", 1280, 7),
        ),
    ),
    Family(
        "mobilenet_v3_large",
        _torchvision("mobilenet_v3_large"),
        _table(
            ("features.1", 16, 112),
            ("features.3", 24, 56),
            ("features.6", 40, 28),
            ("features.12", 112, 14),
            ("features.16", 960, 7),
        ),
    ),
    Family(
        "mobilenet_v3_small",
        _torchvision("mobilenet_v3_small"),
        # Its first bottleneck strides, so that the stem's own output is the input of a down-sampling.
        _table(
            ("features.0", 16, 112),
            ("features.1", 16, 56),
            ("features.3", 24, 28),
            ("features.8", 48, 14),
            ("features.12", 576, 7),
        ),
    ),
    Family(
        "efficientnet_b0",
        _torchvision("efficientnet_b0"),
        _table(
            ("features.1", 16, 112),
            ("features.2", 24, 56),
            ("features.3", 40, 28),
            ("features.5", 112, 14),
            ("features.8", 1280, 7),
        ),
    ),
    Family(
        "regnet_x_400mf",
        _torchvision("regnet_x_400mf"),
        _table(
            ("stem", 32, 112),
            ("trunk_output.block1", 32, 56),
            ("trunk_output.block2", 64, 28),
            ("trunk_output.block3", 160, 14),
            ("trunk_output.block4", 400, 7),
        ),
    ),
    Family(
        "regnet_y_400mf",
        _torchvision("regnet_y_400mf"),
        _table(
            ("stem", 32, 112),
            ("trunk_output.block1", 48, 56),
            ("trunk_output.block2", 104, 28),
            ("trunk_output.block3", 208, 14),
            ("trunk_output.block4", 440, 7),
        ),
    ),
    Family(
        "convnext_tiny",
        _torchvision("convnext_tiny"),
        # The input of a strided convolution is the LayerNorm's output, channels first.
        _table(
            ("features.2.0", 96, 56),
            ("features.4.0", 192, 28),
            ("features.6.0", 384, 14),
            ("features.7", 768, 7),
        ),
    ),
)
