"""The networks of GAT in PyTorch: transformers that make and judge patches of pixels, with noised levels.

Without conditioning, in float32 or under autocast. Images are [B, C, H, W] here, with the levels of an image as
channels, [B, L C, H, W]. Attention is PyTorch's own `scaled_dot_product_attention`.
"""

import math

import torch
from ml_collections import ConfigDict
from torch import Tensor, nn
from torch.nn import functional as F

from gan.networks.gat import MEAN_DECAY
from gan.networks.gat_layers import BRANCH_GAIN, LABEL_SD, noise_weights, positions, rotations
from gan.networks.stylegan2_layers import MAPPING_RATE


def dense(inputs: int, outputs: int, gain: float = 1.0) -> nn.Linear:
    """A dense layer with Xavier's uniform weights, times `gain`, and zero biases."""
    layer = nn.Linear(inputs, outputs)
    nn.init.xavier_uniform_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


class Attention(nn.Module):
    """Self-attention of tokens [B, T, width], with normalized and rotated queries and keys."""

    def __init__(self, width: int, heads: int, size: tuple[int, int], free: int = 0):
        super().__init__()
        self.qkv, self.output = dense(width, 3 * width), dense(width, width)
        self.query_norm, self.key_norm = (nn.RMSNorm(width // heads, eps=2.0**-23) for _ in range(2))
        self._heads = heads
        for name, table in zip(("cos", "sin"), rotations(size, width // heads, free), strict=True):
            self.register_buffer(name, torch.from_numpy(table), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, width] to the same."""
        query, key, value = self.qkv(x).unflatten(-1, (3, self._heads, -1)).permute(2, 0, 3, 1, 4)
        query, key = self._rotated(self.query_norm(query)), self._rotated(self.key_norm(key))
        attended = F.scaled_dot_product_attention(query.to(value.dtype), key.to(value.dtype), value)
        return self.output(attended.transpose(1, 2).flatten(2))

    def _rotated(self, x: Tensor) -> Tensor:
        even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
        turned = torch.stack([-odd, even], -1).flatten(-2)
        return x * self.cos + turned * self.sin


class SwiGLU(nn.Module):
    """W3 (silu(W1 x) * W2 x) with 8 / 3 times the features."""

    def __init__(self, width: int):
        super().__init__()
        self.hidden, self.output = dense(width, 2 * (8 * width // 3)), dense(8 * width // 3, width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, width] to the same."""
        gates, values = self.hidden(x).chunk(2, dim=-1)
        return self.output(F.silu(gates) * values)


class StyledBlock(nn.Module):
    """A transformer block whose inputs are scaled, and whose branches are gated, by a style."""

    def __init__(self, width: int, heads: int, size: tuple[int, int], modulation_gain: float):
        super().__init__()
        self.modulation = dense(width, 4 * width, modulation_gain)
        self.attention, self.mlp = Attention(width, heads, size), SwiGLU(width)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """[B, T, width] and a style after its silu, [B, 1, width], to [B, T, width]."""
        scale, gate, mlp_scale, mlp_gate = self.modulation(style).chunk(4, dim=-1)
        x = x + gate * self.attention(_normalized(x) * (1.0 + scale))
        return x + mlp_gate * self.mlp(_normalized(x) * (1.0 + mlp_scale))


class ToImage(nn.Module):
    """Tokens [B, T, width], scaled by a style, to patches [B, T, features]."""

    def __init__(self, width: int, features: int, modulation_gain: float):
        super().__init__()
        self.modulation, self.patches = dense(width, width, modulation_gain), dense(width, features)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """[B, T, width] and a style after its silu, [B, 1, width], to [B, T, features]."""
        return self.patches(_normalized(x) * (1.0 + self.modulation(style)))


class SlowDense(nn.Module):
    """A dense layer with the learning rate multiplier MAPPING_RATE."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.kernel, self.bias = nn.Parameter(torch.empty(outputs, inputs)), nn.Parameter(torch.zeros(outputs))
        nn.init.xavier_uniform_(self.kernel, 1.0 / MAPPING_RATE)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs] to [B, outputs]."""
        return F.linear(x, self.kernel * MAPPING_RATE, self.bias * MAPPING_RATE)


class MappingNetwork(nn.Module):
    """A latent [B, Z], scaled to a mean square of 1, to a style [B, features]."""

    def __init__(self, latent: int, features: int):
        super().__init__()
        self.first, self.second = SlowDense(latent, features), SlowDense(features, features)

    def forward(self, latent: Tensor) -> Tensor:
        """[B, Z] to [B, features]."""
        latent = latent * (latent.square().mean(1, keepdim=True) + 1e-8).rsqrt()
        return self.second(F.silu(self.first(latent)))


class Generator(nn.Module):
    """The generator of gan/networks/gat.py: an image, or in training those of all levels."""

    def __init__(self, settings: ConfigDict, latent_size: int, image_shape: tuple[int, int, int]):
        super().__init__()
        channels, *sides = image_shape
        self._patch, self._size = settings.patch_size, _patches_of(sides, settings.patch_size)
        self._blocks_of_level = settings.depth // settings.levels
        width, features = settings.width, channels * settings.patch_size**2
        gain = settings.modulation_gain
        self.mapping_network = MappingNetwork(latent_size, width)
        self.blocks = nn.ModuleList(StyledBlock(width, settings.heads, self._size, gain) for _ in range(settings.depth))
        self.images = nn.ModuleList(ToImage(width, features, gain) for _ in range(settings.levels))
        self.register_buffer("positions", torch.from_numpy(positions(self._size, width)), persistent=False)
        self.register_buffer("style_mean", torch.zeros(width))

    def forward(self, latent: Tensor) -> Tensor:
        """[B, Z] to [B, C, H, W], or in training to [B, L C, H, W]."""
        style = self.mapping_network(latent)
        if self.training:
            self.style_mean.lerp_(style.detach().float().mean(0), 1 - MEAN_DECAY)
        style = F.silu(style)[:, None]
        x, image, images = self.positions.to(style.dtype), 0.0, []
        for index, block in enumerate(self.blocks, start=1):
            x = block(x, style)
            if index % self._blocks_of_level == 0:
                patches = self.images[len(images)](x, style).float()
                image = image + _image_of(patches, self._size, self._patch)
                images.append(image)
        return torch.cat(images, dim=1) if self.training else image


class TransformerBlock(nn.Module):
    """A transformer block with learned scales of its branches."""

    def __init__(self, width: int, heads: int, size: tuple[int, int]):
        super().__init__()
        self.attention_norm, self.mlp_norm = (nn.RMSNorm(width, eps=1e-6) for _ in range(2))
        self.attention, self.mlp = Attention(width, heads, size, free=1), SwiGLU(width)
        self.attention_scale, self.mlp_scale = (nn.Parameter(torch.full((width,), BRANCH_GAIN)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, width] to the same."""
        x = x + self.attention_scale * self.attention(self.attention_norm(x))
        return x + self.mlp_scale * self.mlp(self.mlp_norm(x))


class PatchTokens(nn.Module):
    """Levels [B, L C, H, W] to tokens [B, 1 + T, width]: a learned class token, then the patches with their places."""

    def __init__(self, channels: int, size: tuple[int, int], settings: ConfigDict):
        super().__init__()
        self.patches = dense(channels * settings.patch_size**2, settings.width)
        self.class_token = nn.Parameter(LABEL_SD * torch.randn(settings.width))
        self.register_buffer("positions", torch.from_numpy(positions(size, settings.width)), persistent=False)
        self._patch = settings.patch_size

    def forward(self, image: Tensor) -> Tensor:
        """[B, L C, H, W] to [B, 1 + T, width]."""
        patches = image.unflatten(3, (-1, self._patch)).unflatten(2, (-1, self._patch)).permute(0, 2, 4, 3, 5, 1)
        x = self.patches(patches.flatten(3).flatten(1, 2))
        x = x + self.positions.to(x.dtype)
        return torch.cat([self.class_token.to(x.dtype).expand(len(x), 1, -1), x], dim=1)


class Discriminator(nn.Module):
    """The discriminator of gan/networks/gat.py. In training it needs the noise of all levels, from `noise_of`."""

    def __init__(self, settings: ConfigDict, image_shape: tuple[int, int, int]):
        super().__init__()
        self._channels, *self._sides = image_shape
        self._levels, width = settings.levels, settings.width
        size = _patches_of(self._sides, settings.patch_size)
        self.tokens = PatchTokens(self._levels * self._channels, size, settings)
        self.blocks = nn.ModuleList(TransformerBlock(width, settings.heads, size) for _ in range(settings.depth))
        self.norm, self.dense = nn.RMSNorm(width, eps=1e-6), dense(width, 1)

    def noise_of(self, image: Tensor) -> Tensor | None:
        """The noise of the levels of a batch, [B, L, C, H, W]; None: a single level has none."""
        shape = (len(image), self._levels, self._channels, *self._sides)
        return torch.randn(shape, device=image.device) if self._levels > 1 else None

    def forward(self, image: Tensor, noise: Tensor | None = None) -> Tensor:
        """[B, C, H, W], or levels [B, L C, H, W], to [B]. Without noise the levels have its mean, zero."""
        copies = self._levels * self._channels // image.shape[1]
        images = image.float().repeat(1, copies, 1, 1).unflatten(1, (self._levels, self._channels))
        x = self.tokens(noised(images, noise).flatten(1, 2))
        for block in self.blocks:
            x = block(x)
        return self.dense(self.norm(x[:, 0]))[:, 0]


def noised(images: Tensor, noise: Tensor | None) -> Tensor:
    """`noised` of gan/networks/gat_layers.py for levels and noise [B, L, C, H, W]; without noise, its mean."""
    weights = noise_weights(images.shape[1])
    total, before, made = 0.0, 0.0, []
    for level in reversed(range(len(weights))):
        weight = weights[level]
        if noise is not None:
            kept = (1.0 - weight) / (1.0 - before)
            total = kept * total + math.sqrt(weight**2 - (kept * before) ** 2) * noise[:, level]
        made.append((1.0 - weight) * images[:, level] + total)
        before = weight
    return torch.stack(made[::-1], dim=1)


def _normalized(x: Tensor) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], eps=1e-6)


def _patches_of(sides: list[int], patch: int) -> tuple[int, int]:
    """The rows and columns of patches."""
    height, width = sides
    return height // patch, width // patch


def _image_of(patches: Tensor, size: tuple[int, int], patch: int) -> Tensor:
    """Patches [B, T, patch^2 C] to an image [B, C, H, W]."""
    x = patches.unflatten(2, (patch, patch, -1)).unflatten(1, size)
    return x.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)
