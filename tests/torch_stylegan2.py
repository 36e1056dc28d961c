"""StyleGAN2's networks in PyTorch, with the weights of each example and convolutions in groups."""

import math

import jax
import numpy as np
import pytest


def torch_networks():
    """The two networks as functions of PyTorch tensors, in NCHW: weights for each example, convolutions in groups.

    Parameters have our names and layouts. The generator is given the fields of noise that evaluation mode has.
    """
    torch = pytest.importorskip("torch")
    F = torch.nn.functional

    def act(x):
        return math.sqrt(2) * F.leaky_relu(x, 0.2)

    def dense(x, params, rate=1.0):
        return x @ (params["kernel"] * rate / math.sqrt(x.shape[1])) + params["bias"] * rate

    def unit(x):
        return x / (x.square().mean(1, keepdim=True) + 1e-8).sqrt()

    def mapped(x, params):
        for name in sorted(params):
            x = act(dense(x, params[name], 0.01))
        return x

    def filtered(x, gain, padding, **geometry):
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        taps = (taps[:, None] * taps * gain).expand(x.shape[1], 1, 4, 4)
        return F.conv2d(F.pad(x, (padding,) * 4), taps, groups=x.shape[1], **geometry)

    def doubled(x):
        batch, maps, height, width = x.shape
        spread = torch.zeros(batch, maps, 2 * height, 2 * width)
        spread[:, :, ::2, ::2] = x
        return filtered(F.pad(spread, (1, 0, 1, 0)), 4, 1)

    def weighted(x, style, params, demodulates, is_upsampling=False):
        kernel = params["kernel"].permute(3, 2, 0, 1)[None]
        scales = dense(style, params["EqualDense_0"]) * (1.0 if demodulates else x.shape[1] ** -0.5)
        kernel = kernel * scales[:, None, :, None, None]
        if demodulates:
            kernel = kernel / (kernel.square().sum((2, 3, 4), keepdim=True) + 1e-8).sqrt()
        batch, outputs, inputs, taps, _ = kernel.shape
        x = x.reshape(1, -1, *x.shape[2:])
        if is_upsampling:
            kernel = kernel.transpose(1, 2).reshape(-1, outputs, taps, taps)
            x = F.conv_transpose2d(x, kernel, stride=2, groups=batch)
        else:
            x = F.conv2d(x, kernel.reshape(-1, inputs, taps, taps), padding=taps // 2, groups=batch)
        x = x.reshape(batch, outputs, *x.shape[2:])
        return filtered(x, 4, 1) if is_upsampling else x

    def generate(params, latent, label):
        mapping = params["LatentMapping_0"]
        embedding = dense(F.one_hot(torch.tensor(label), 3).float(), mapping["EqualDense_0"])
        style = mapped(torch.cat([unit(latent), unit(embedding)], dim=1), mapping["Mapping_0"])
        x = params["constant"].permute(2, 0, 1)[None].expand(len(latent), -1, -1, -1)
        image, layer = None, 0
        for stage in range(2):
            for is_upsampling in (True, False) if stage else (False,):
                conv = params[f"StyledConv_{layer}"]
                x = weighted(x, style, conv, True, is_upsampling)
                field = jax.random.normal(jax.random.fold_in(jax.random.key(0), layer), (*x.shape[2:], 1))
                x = x + conv["noise"] * torch.tensor(np.asarray(field)[None, None, :, :, 0])
                x = act(x + conv["bias"][None, :, None, None])
                layer += 1
            part = params[f"StyledImage_{stage}"]
            part = weighted(x, style, part, False) + part["bias"][None, :, None, None]
            image = part if image is None else doubled(image) + part
        return image.permute(0, 2, 3, 1)

    def convolved(x, params, gain=1.0, **geometry):
        kernel = params["kernel"].permute(3, 2, 0, 1)
        x = F.conv2d(x, kernel / math.sqrt(kernel[0].numel()), params.get("bias"), **geometry)
        return gain * (act(x) if "bias" in params else x)

    def discriminate(params, image, label, architecture):
        layers = iter(params[f"EqualConv_{index}"] for index in range(10))
        x = convolved(image.permute(0, 3, 1, 2), next(layers))
        y = convolved(x, next(layers), padding=1)
        if architecture == "resnet":
            skip = convolved(filtered(x, 1, 1, stride=2), next(layers), math.sqrt(0.5))
            x = skip + convolved(filtered(y, 1, 2), next(layers), math.sqrt(0.5), stride=2)
        else:
            x = convolved(filtered(y, 1, 2), next(layers), stride=2)
        # Groups of two neighbors: the deviation of a pair is half the distance.
        apart = (x[0::2] - x[1::2]) / 2
        deviation = (apart.square() + 1e-8).sqrt().mean((1, 2, 3)).repeat_interleave(2)
        x = torch.cat([x, deviation[:, None, None, None].expand(-1, 1, *x.shape[2:])], dim=1)
        x = convolved(x, next(layers), padding=1)
        x = act(dense(x.permute(0, 2, 3, 1).flatten(1), params["EqualDense_0"]))
        if label is None:
            return dense(x, params["EqualDense_1"])[:, 0]
        embedding = unit(dense(F.one_hot(torch.tensor(label), 3).float(), params["EqualDense_1"]))
        embedding = mapped(embedding, params["Mapping_0"])
        return (dense(x, params["EqualDense_2"]) * embedding).sum(1) / math.sqrt(6)

    return generate, discriminate
