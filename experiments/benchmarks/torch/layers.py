"""Layers that the PyTorch networks share: convolutions with our padding, and initializers by the names of configs."""

import math
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from gan.config import specs


class Same(nn.Conv2d):
    """A convolution whose output is the input's size over the stride, rounded up; the odd cell of padding is last."""

    def __init__(
        self, inputs: int, outputs: int, taps: int, size: Sequence[int], *, stride: int = 1, bias: bool = True
    ):
        (top, bottom), (left, right) = (_edges(length, taps, stride) for length in size)
        super().__init__(inputs, outputs, taps, stride, padding=(top, left), bias=bias)
        self._odd = (0, right - left, 0, bottom - top)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] to [B, outputs, H / stride, W / stride]."""
        return super().forward(F.pad(x, self._odd) if any(self._odd) else x)


class Enlarge(nn.ConvTranspose2d):
    """The transpose of `Same` from size `small` to `large`; or, with padding="VALID", of one without padding."""

    def __init__(
        self, inputs: int, outputs: int, taps: int, small: Sequence[int], large: Sequence[int], *,
        stride: int = 2, padding: str = "SAME", bias: bool = True
    ):  # fmt: skip
        before = [_edges(length, taps, stride)[0] if padding == "SAME" else 0 for length in large]
        made = [stride * (length - 1) + taps - 2 * edge for length, edge in zip(small, before, strict=True)]
        missing = [max(0, wanted - length) for wanted, length in zip(large, made, strict=True)]
        super().__init__(inputs, outputs, taps, stride, before, missing, bias=bias)
        self._size = tuple(large)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, *small] to [B, outputs, *large]."""
        x = super().forward(x)
        return x if x.shape[2:] == self._size else x[:, :, : self._size[0], : self._size[1]]


def _edges(length: int, taps: int, stride: int) -> tuple[int, int]:
    padding = max(stride * (math.ceil(length / stride) - 1) + taps - length, 0)
    return padding // 2, padding - padding // 2


def _truncated_normal(sd: float) -> Callable[[Tensor], Tensor]:
    return lambda weight: nn.init.trunc_normal_(weight, std=sd, a=-2 * sd, b=2 * sd)


INITIALIZERS: Mapping[str, Callable[..., Callable[[Tensor], Tensor]]] = {
    "normal": lambda sd: lambda weight: nn.init.normal_(weight, std=sd),
    "truncated_normal": _truncated_normal,
    "xavier_uniform": lambda: nn.init.xavier_uniform_,
    "xavier_normal": lambda: nn.init.xavier_normal_,
    "fan_in_uniform": lambda: lambda weight: nn.init.kaiming_uniform_(weight, a=math.sqrt(5)),
    "he_normal": lambda: lambda weight: nn.init.kaiming_normal_(weight, nonlinearity="relu"),
    "orthogonal": lambda scale=1.0: lambda weight: nn.init.orthogonal_(weight, scale),
}


def initialized(
    module: nn.Module, kernel: str, *, dense: str = "", bias: float = 0.0, scale_sd: float = 0.0
) -> nn.Module:
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            text = dense if dense and isinstance(layer, nn.Linear) else kernel
            specs.call(INITIALIZERS, text, "kernel_init")(layer.weight)
            if layer.bias is not None:
                nn.init.constant_(layer.bias, bias)
        elif isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) and layer.affine:
            nn.init.normal_(layer.weight, 1.0, scale_sd)
    return module


def rectifier(slope: float = 0.2) -> nn.Module:
    return nn.LeakyReLU(slope, inplace=True) if slope else nn.ReLU(inplace=True)
