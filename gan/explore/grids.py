"""Views that are grids of images: seeds, classes, truncation, mixing and directions."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jax import Array

from gan.errors import UserError, lookup
from gan.explore.options import Options, default_name, sample_codes, shown_labels
from gan.inference import codes
from gan.inference import directions as latent_directions
from gan.inference import mixing as code_mixing
from gan.inference.model import Model
from gan.io import plots, sheets

PSI = (-0.5, 0.0, 0.25, 0.5, 0.7, 1.0, 1.3)
"""The truncations shown of a generator with styles: 0 is the mean style."""
BOUNDS = (0.3, 0.5, 0.7, 1.0, 1.5, 2.0, math.inf)
"""Of others, in standard deviations of the latents: infinity is no truncation."""
STRENGTHS = (-4.0, -2.5, -1.0, 0.0, 1.0, 2.5, 4.0)
"""Of a direction, in standard deviations of the codes along it."""


def seeds(options: Options, model: Model) -> list[Path]:
    """The first sample of each of several seeds, `seed` and those after it, under their numbers."""
    count = options.number(40)
    columns = min(count, 10)
    numbers = [options.seed + index for index in range(count)]
    latents = np.concatenate([np.asarray(model.latents(1, seed=number % 2**32)) for number in numbers])
    labels = np.resize(shown_labels(options, model), count)
    images = codes.draw(model, codes.encode(model, latents, labels), labels)
    images = np.concatenate([images, np.full((-count % columns, *images.shape[1:]), 255, np.uint8)])
    rows = images.reshape(-1, 1, columns, *images.shape[1:])
    names = [[str(number) for number in numbers[first : first + columns]] for first in range(0, count, columns)]
    widths = [
        sheets.sheet(row, columns=name + [""] * (columns - len(name))) for row, name in zip(rows, names, strict=True)
    ]
    return _written(options, model, np.concatenate(widths))


def classes(options: Options, model: Model) -> list[Path]:
    """The same latents, one in each row, in each class."""
    if not model.game.is_conditional:
        raise UserError(
            f"--view=classes needs a conditional generator, and that of {model.source} is unconditional; expected: a "
            "run with another config.generator.conditioning than 'none'"
        )
    labels, count = shown_labels(options, model), options.number(6)
    latents = np.asarray(model.latents(count, seed=options.seed))
    pairs = np.repeat(latents, len(labels), axis=0), np.tile(labels, count)
    images = codes.draw(model, codes.encode(model, *pairs), pairs[1]).reshape(
        count, len(labels), *model.game.image_shape
    )
    return _written(options, model, sheets.sheet(images, columns=[model.class_names[label] for label in labels]))


def truncation(options: Options, model: Model) -> list[Path]:
    """The same samples, one in each row, at several truncations."""
    has_styles, count = model.game.has_styles, options.number(6)
    values = PSI if has_styles else BOUNDS
    labels = sample_codes(options, model, count)[1]
    columns = [codes.draw(model, found, labels) for found in _truncated_codes(options, model, count, values)]
    names = [f"{'psi ' if has_styles else ''}{value:g}" if value < math.inf else "none" for value in values]
    return _written(options, model, sheets.sheet(np.stack(columns, axis=1), columns=names))


def _truncated_codes(
    options: Options, model: Model, count: int, values: tuple[float, ...]
) -> Iterator[Array | np.ndarray]:
    """The codes of the same samples at each of the truncations."""
    if model.game.has_styles:  # psi is linear, and each truncation of the mapping would be compiled
        ends = [codes.encode(model.truncated(psi), *sample_codes(options, model, count)) for psi in (0.0, 1.0)]
        yield from (ends[0] + psi * (ends[1] - ends[0]) for psi in values)
    else:
        for value in values:
            yield sample_codes(options, model if value == math.inf else model.truncated(value), count)[0]


def mixing(options: Options, model: Model) -> list[Path]:
    """Each sample of a row with the coarse, middle or fine part of each sample of a column: a sheet for each group."""
    groups, count, paths = code_mixing.groups(model), options.number(5, highest=20), []
    latents, labels = sample_codes(options, model, 2 * count)
    sources = codes.encode(model, latents, labels)
    images = codes.draw(model, sources, labels)
    first, second = (np.repeat(np.arange(count), count), np.tile(np.arange(count, 2 * count), count))
    for group in groups:
        mixed = code_mixing.mix(model, sources[first], sources[second], group)
        tiles = codes.draw(model, mixed, labels[first]).reshape(count, count, *images.shape[1:])
        blank = np.full((1, 1, *images.shape[1:]), 255, np.uint8)
        top = np.concatenate([blank, images[None, count:]], axis=1)
        body = np.concatenate([images[:count, None], tiles], axis=1)
        names = ["", *[f"{group} of"] * count]
        sheet = sheets.sheet(np.concatenate([top, body]), columns=names)
        paths += _written(options, model, sheet, f"_{group}")
    return paths


def directions(options: Options, model: Model) -> list[Path]:
    """A sample moved along each direction, one in each row; the directions as an NPZ file."""
    find = lookup({"sefa": latent_directions.sefa, "pca": latent_directions.pca}, options.method, "--method")
    layers = None
    if options.layers is not None:
        if not model.game.has_styles:
            raise UserError(
                f"--layers={options.layers} needs styles, and the generator of {model.source} has none; expected: a "
                "run with network 'stylegan2' or 'gat', or no --layers"
            )
        layers = lookup(code_mixing.groups(model), options.layers, "--layers")
    count = options.number(8, highest=codes.shape(model)[-1])
    found = find(model, count, layers=layers)
    latents, labels = sample_codes(options, model, 1)
    code = codes.encode(model, latents, labels)[0]
    moved = np.concatenate([latent_directions.move(code, found, k, STRENGTHS) for k in range(len(found.vectors))])
    images = codes.draw(model, moved, np.full(len(moved), labels[0]))
    images = images.reshape(-1, len(STRENGTHS), *images.shape[1:])
    names = [f"{k}: {share:.0%}" for k, share in enumerate(found.shares)]
    paths = _written(
        options, model, sheets.sheet(images, names, [f"{value:+g}" if value else "0" for value in STRENGTHS])
    )
    file = paths[0].with_suffix(".npz")
    found.save(file)
    return [*paths, file]


def _written(options: Options, model: Model, sheet: np.ndarray, suffix: str = "") -> list[Path]:
    """The path of the sheet, which is written."""
    stem = options.stem(default_name(options, model))
    path = stem.with_name(f"{stem.name}{suffix}.png")
    plots.save_png(path, sheet, enlarge=False)
    return [path]
