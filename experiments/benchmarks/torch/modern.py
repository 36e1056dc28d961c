"""The networks of R3GAN and StyleGAN2 in PyTorch: filtered resampling, scaled and modulated layers.

Without conditioning, in float32 or under autocast. Images are [B, C, H, W] here. The filters are depthwise convolutions
of plain PyTorch. Modulated convolutions scale inputs and outputs instead of weights, as the authors of StyleGAN2 do in
training.
"""

import functools
import math

import torch
from ml_collections import ConfigDict
from torch import Tensor, nn
from torch.nn import functional as F

from gan.networks.layers.styles import MEAN_DECAY
from gan.networks.stylegan2_layers import MAPPING_RATE


class Filter(nn.Module):
    """The filter [1, 3, 3, 1], whose sum is `gain`, along both axes: a depthwise convolution or its transpose."""

    def __init__(self, channels: int, *, stride: int = 1, padding: int = 1, upsamples: bool = False, gain: float = 1.0):
        super().__init__()
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) * (gain / 8.0)
        self.register_buffer("taps", torch.outer(taps, taps).expand(channels, 1, 4, 4).clone(), persistent=False)
        apply = F.conv_transpose2d if upsamples else F.conv2d
        self._apply_taps = functools.partial(apply, stride=stride, padding=padding, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to the filtered image."""
        return self._apply_taps(x, self.taps.to(x.dtype))


def downsampling(channels: int) -> Filter:
    """Downsampling by 2, as in our networks."""
    return Filter(channels, stride=2)


def upsampling(channels: int) -> Filter:
    """Upsampling by 2, as in our networks."""
    return Filter(channels, stride=2, upsamples=True, gain=2.0)


class ResidualBlock(nn.Module):
    """R3GAN's block: x + conv1x1(a(grouped3x3(a(conv1x1(x))))), with a = leaky ReLU of slope 0.2."""

    def __init__(self, features: int, settings: ConfigDict):
        super().__init__()
        hidden, blocks = settings.expansion * features, settings.blocks * len(settings.widths)
        grouped = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden // settings.group_width)
        self.convs = nn.ModuleList(
            [nn.Conv2d(features, hidden, 1), grouped, nn.Conv2d(hidden, features, 1, bias=False)]
        )
        for conv in self.convs[:2]:
            nn.init.normal_(conv.weight, std=math.sqrt(2 / 1.04 / _fan_in(conv)) * blocks**-0.25)
            nn.init.zeros_(conv.bias)
        nn.init.zeros_(self.convs[2].weight)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to the same."""
        first, grouped, last = self.convs
        return x + last(F.leaky_relu(grouped(F.leaky_relu(first(x), 0.2)), 0.2))


class GeneratorBasis(nn.Module):
    """A linear function of the latent times a learned image for each channel: [B, Z] to [B, C, H, W]."""

    def __init__(self, latent: int, features: int, size: tuple[int, int]):
        super().__init__()
        self.dense = _mixing(nn.Linear(latent, features, bias=False))
        self.basis = nn.Parameter(torch.randn(features, *size))

    def forward(self, latent: Tensor) -> Tensor:
        """[B, Z] to [B, C, H, W]."""
        return self.basis * self.dense(latent)[:, :, None, None]


class DiscriminatorBasis(nn.Module):
    """The product with a learned image for each channel, summed over pixels, and a dense layer: logits [B]."""

    def __init__(self, features: int, size: tuple[int, int]):
        super().__init__()
        self.basis = nn.Parameter(torch.randn(features, *size) / math.sqrt(math.prod(size)))
        self.dense = _mixing(nn.Linear(features, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B]."""
        return self.dense((x * self.basis).sum((2, 3)))[:, 0]


def r3gan_generator(settings: ConfigDict, latent_size: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """Of gan/networks/r3gan.py."""
    inputs = settings.widths[0]
    layers = [GeneratorBasis(latent_size, inputs, _smallest(image_shape, settings))]
    for stage, features in enumerate(settings.widths):
        layers += [_mixing(nn.Conv2d(inputs, features, 1, bias=False))] if features != inputs else []
        layers += [upsampling(features)] if stage else []
        layers += [ResidualBlock(features, settings) for _ in range(settings.blocks)]
        inputs = features
    return nn.Sequential(*layers, _mixing(nn.Conv2d(inputs, image_shape[0], 1, bias=False)))


def r3gan_discriminator(settings: ConfigDict, image_shape: tuple[int, int, int]) -> nn.Module:
    """Of gan/networks/r3gan.py."""
    *smaller, inputs = settings.widths
    layers = [_mixing(nn.Conv2d(image_shape[0], inputs, 1, bias=False))]
    for features in (*reversed(smaller), 0):
        layers += [ResidualBlock(inputs, settings) for _ in range(settings.blocks)]
        layers += [downsampling(inputs)] if features else []
        layers += [_mixing(nn.Conv2d(inputs, features, 1, bias=False))] if features not in (0, inputs) else []
        inputs = features or inputs
    return nn.Sequential(*layers, DiscriminatorBasis(inputs, _smallest(image_shape, settings)))


class EqualDense(nn.Module):
    """A dense layer with equalized learning rate: weights, initially N(0, 1 / rate^2), times rate / sqrt(inputs)."""

    def __init__(self, inputs: int, outputs: int, *, rate: float = 1.0, bias: float = 0.0, is_linear: bool = True):
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.full((outputs,), bias))
        self._rate, self._scale, self._is_linear = rate, rate / math.sqrt(inputs), is_linear

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs] to [B, outputs]."""
        bias = self.bias if self._rate == 1.0 else self._rate * self.bias
        x = F.linear(x, self.kernel * self._scale, bias)
        return x if self._is_linear else _activated(x)


class EqualConv(nn.Module):
    """A convolution with equalized learning rate; with downsampling, the image is filtered first."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        taps: int,
        *,
        downsamples: bool = False,
        is_linear: bool = False,
        gain: float = 1.0,
    ):
        super().__init__()
        self.filter = nn.Identity()
        if downsamples:
            self.filter = Filter(inputs, stride=2) if taps == 1 else Filter(inputs, padding=2)
        self.kernel = nn.Parameter(torch.randn(outputs, inputs, taps, taps))
        if not is_linear:
            self.bias = nn.Parameter(torch.zeros(outputs))
        self._scale, self._gain, self._is_linear = 1 / math.sqrt(inputs * taps**2), gain, is_linear
        self._place = {"stride": 2} if downsamples and taps > 1 else {"padding": taps // 2}

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] to [B, outputs, H, W], or half the size."""
        x, kernel = self.filter(x), self.kernel * self._scale
        if self._is_linear:
            return F.conv2d(x, self._gain * kernel, **self._place)
        return _activated(F.conv2d(x, kernel, self.bias, **self._place), self._gain)


class SynthesisLayer(nn.Module):
    """A modulated and demodulated 3x3 convolution with noise, as in gan/networks/stylegan2.py."""

    def __init__(self, inputs: int, outputs: int, style: int, *, upsamples: bool = False):
        super().__init__()
        self.scales = EqualDense(style, inputs, bias=1.0)
        self.kernel = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.noise, self.bias = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(outputs))
        self.filter = Filter(outputs, gain=2.0) if upsamples else None

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """[B, inputs, H, W] and a style [B, W] to [B, outputs, H, W], or twice the size."""
        scales = self.scales(style)
        norms = (scales.square() @ self.kernel.square().sum((2, 3)).mT + 1e-8).rsqrt()
        x = x * scales[:, :, None, None]
        if self.filter is None:
            x = F.conv2d(x, self.kernel, padding=1)
        else:
            x = self.filter(F.conv_transpose2d(x, self.kernel.transpose(0, 1), stride=2))
        noise = self.noise * torch.randn(len(x), 1, *x.shape[2:], device=x.device)
        return _activated(torch.addcmul(noise + self.bias[:, None, None], x, norms[:, :, None, None]))


class ToRGB(nn.Module):
    """A modulated 1x1 convolution to the channels of the image."""

    def __init__(self, inputs: int, channels: int, style: int):
        super().__init__()
        self.scales = EqualDense(style, inputs, bias=1.0)
        self.kernel = nn.Parameter(torch.randn(channels, inputs, 1, 1))
        self.bias, self._scale = nn.Parameter(torch.zeros(channels)), 1 / math.sqrt(inputs)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """[B, inputs, H, W] and a style [B, W] to [B, channels, H, W]."""
        scales = self.scales(style) * self._scale
        return F.conv2d(x * scales[:, :, None, None], self.kernel, self.bias)


class Mapping(nn.Sequential):
    """Dense layers with leaky ReLUs and the learning rate multiplier MAPPING_RATE."""

    def __init__(self, inputs: int, features: int, layers: int):
        sizes = [inputs] + [features] * layers
        super().__init__(
            *(EqualDense(a, b, rate=MAPPING_RATE, is_linear=False) for a, b in zip(sizes, sizes[1:], strict=False))
        )


class MappingNetwork(nn.Module):
    """A latent [B, Z], scaled to a mean square of 1, to a style [B, features]."""

    def __init__(self, latent: int, features: int, layers: int):
        super().__init__()
        self.mapping = Mapping(latent, features, layers)

    def forward(self, latent: Tensor) -> Tensor:
        """[B, Z] to [B, features]."""
        return self.mapping(latent * (latent.square().mean(1, keepdim=True) + 1e-8).rsqrt())


class StyledGenerator(nn.Module):
    """The generator of gan/networks/stylegan2.py, without style mixing."""

    def __init__(self, settings: ConfigDict, latent_size: int, image_shape: tuple[int, int, int]):
        super().__init__()
        style, inputs = settings.style_width, settings.widths[0]
        self.mapping = MappingNetwork(latent_size, style, settings.mapping_layers)
        self.constant = nn.Parameter(torch.randn(inputs, *_smallest(image_shape, settings)))
        self.convs, self.images = nn.ModuleList(), nn.ModuleList()
        for stage, features in enumerate(settings.widths):
            pair = [SynthesisLayer(inputs, features, style, upsamples=True)] if stage else []
            self.convs.append(nn.ModuleList([*pair, SynthesisLayer(features, features, style)]))
            self.images.append(ToRGB(features, image_shape[0], style))
            inputs = features
        self.upsample = upsampling(image_shape[0])
        self.register_buffer("style_mean", torch.zeros(style))

    def forward(self, latent: Tensor) -> Tensor:
        """[B, Z] to [B, C, H, W]."""
        style = self.mapping(latent)
        if self.training:
            self.style_mean.lerp_(style.detach().mean(0), 1 - MEAN_DECAY)
        x, image = self.constant.expand(len(latent), -1, -1, -1), None
        for convs, to_image in zip(self.convs, self.images, strict=True):
            for conv in convs:
                x = conv(x, style)
            part = to_image(x, style)
            image = part if image is None else self.upsample(image) + part
        return image


class MinibatchStd(nn.Module):
    """Adds a channel: the mean standard deviation within groups of consecutive examples."""

    def __init__(self, size: int):
        super().__init__()
        self._size = size

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C + 1, H, W]."""
        groups = x.unflatten(0, (-1, min(self._size, len(x))))
        deviations = (groups.var(1, correction=0) + 1e-8).sqrt().mean((1, 2, 3))
        deviations = deviations.repeat_interleave(groups.shape[1])[:, None, None, None]
        return torch.cat([x, deviations.expand(-1, 1, *x.shape[2:])], 1)


class DownsamplingStage(nn.Module):
    """A stage of the discriminator of gan/networks/stylegan2.py."""

    def __init__(self, inputs: int, outputs: int, *, has_skip: bool):
        super().__init__()
        self.first = EqualConv(inputs, inputs, 3)
        gain = math.sqrt(0.5) if has_skip else 1.0
        self.skip = EqualConv(inputs, outputs, 1, downsamples=True, is_linear=True, gain=gain) if has_skip else None
        self.second = EqualConv(inputs, outputs, 3, downsamples=True, gain=gain)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] to [B, outputs, H / 2, W / 2]."""
        y = self.second(self.first(x))
        return y if self.skip is None else self.skip(x) + y


def stylegan2_generator(settings: ConfigDict, latent_size: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """Of gan/networks/stylegan2.py."""
    return StyledGenerator(settings, latent_size, image_shape)


def stylegan2_discriminator(settings: ConfigDict, image_shape: tuple[int, int, int]) -> nn.Module:
    """Of gan/networks/stylegan2.py."""
    *smaller, inputs = settings.widths
    layers = [EqualConv(image_shape[0], inputs, 1)]
    for features in reversed(smaller):
        layers.append(DownsamplingStage(inputs, features, has_skip=settings.architecture == "resnet"))
        inputs = features
    layers += [MinibatchStd(settings.group_size), EqualConv(inputs + 1, inputs, 3), nn.Flatten()]
    layers += [EqualDense(inputs * math.prod(_smallest(image_shape, settings)), inputs, is_linear=False)]
    return nn.Sequential(*layers, EqualDense(inputs, 1), nn.Flatten(0))


def _activated(x: Tensor, gain: float = 1.0) -> Tensor:
    return F.leaky_relu(x, 0.2) * (gain * math.sqrt(2.0))


def _mixing(layer: nn.Module) -> nn.Module:
    nn.init.normal_(layer.weight, std=_fan_in(layer) ** -0.5)
    return layer


def _fan_in(layer: nn.Module) -> int:
    return layer.weight[0].numel()


def _smallest(image_shape: tuple[int, int, int], settings: ConfigDict) -> tuple[int, int]:
    factor = 2 ** (len(settings.widths) - 1)
    return image_shape[1] // factor, image_shape[2] // factor
