"""gan.networks.dcgan: the published parameter counts, any size, any channels."""

import math

import jax
import jax.numpy as jnp
import pytest

from configs import dcgan
from gan import data
from gan.build import make_game
from gan.errors import UserError
from gan.game import parameter_count
from gan.inference import sampling
from gan.networks.dcgan import Discriminator, Generator, stage_sizes


def count(module, inputs):
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), inputs, jnp.zeros(2, jnp.int32), False))
    return parameter_count(shapes["params"])


def test_the_parameter_counts_of_the_widespread_64_pixel_form():
    # G: 100*512*16 + 512*256*16 + 256*128*16 + 128*64*16 + 64*3*16 + 2*(512+256+128+64) = 3,576,704.
    # D: 3*64*16 + 64*128*16 + 128*256*16 + 256*512*16 + 512*16 + 2*(128+256+512) = 2,765,568.
    shape = (64, 64, 3)
    assert count(Generator(shape), jnp.zeros((2, 100))) == 3_576_704
    assert count(Discriminator(shape), jnp.zeros((2, *shape))) == 2_765_568


@pytest.mark.parametrize(
    "shape", [(28, 28, 1), (32, 32, 3), (64, 64, 3), (48, 80, 1), (8, 8, 1), (33, 17, 3), (128, 128, 3)]
)
def test_any_height_width_and_channels(shape):
    def play(key):
        generator, discriminator = Generator(shape, width=4), Discriminator(shape, width=4)
        latent, label = jnp.zeros((2, 16)), jnp.zeros(2, jnp.int32)
        image, _ = generator.init_with_output(key, latent, label, False)
        logits, _ = discriminator.init_with_output(key, image, label, False)
        return image, logits

    image, logits = jax.eval_shape(play, jax.random.key(0))
    assert image.shape == (2, *shape)
    assert logits.shape == (2,)


@pytest.mark.parametrize("shape, labels", [((28, 28, 1), 0), ((33, 17, 3), 5)])
def test_a_latent_may_be_an_image(shape, labels):
    module = Generator(shape, labels, width=4, depth=2, image_latent=True, conditioning="concat" if labels else "none")
    latent, label = jnp.zeros((2, math.prod(shape))), jnp.zeros(2, jnp.int32)
    image, _ = jax.eval_shape(lambda: module.init_with_output(jax.random.key(0), latent, label, False))
    assert image.shape == (2, *shape)
    # Down: C+K to 4 and 4 to 8 channels; up: 8 to 4, and the 4 + 4 joined at half the size to C; 2 * (4 + 8 + 4) of BN.
    channels = shape[-1]
    assert count(module, latent) == 16 * ((channels + labels) * 4 + 4 * 8 + 8 * 4 + 8 * channels) + 2 * (4 + 8 + 4)


def test_a_pixel_of_an_image_latent_reaches_the_pixels_around_it():
    module = Generator((16, 16, 1), width=4, depth=1, batch_norm=False, image_latent=True, kernel_init="normal(0.5)")
    latent = jax.random.normal(jax.random.key(1), (1, 256))
    variables = module.init(jax.random.key(0), latent, None, False)
    gradient = jax.grad(lambda z: module.apply(variables, z, None, False)[0, 8, 8, 0])(latent).reshape(16, 16)
    rows, columns = jnp.nonzero(gradient)
    # A pixel is of two by two transposed kernels, and each of these of four pixels: 6 by 6.
    assert {int(x) for x in rows} | {int(x) for x in columns} <= set(range(5, 12)) and len(rows) > 8


@pytest.mark.parametrize(
    "latent, conditioning, line",
    [
        (jnp.zeros((2, 63)), "none", "image_latent=True needs latents of the image's size, 64; expected: .*size=0"),
        (jnp.zeros((2, 64)), "concat_embedding", "concat_embedding' has no meaning with image_latent=True"),
    ],
)
def test_a_latent_that_is_no_image_is_one_line(latent, conditioning, line):
    module = Generator((8, 8, 1), 3, image_latent=True, conditioning=conditioning)
    with pytest.raises(UserError, match=line):
        jax.eval_shape(lambda: module.init(jax.random.key(0), latent, jnp.zeros(2, jnp.int32), False))


def test_stages_end_at_about_four_pixels():
    assert stage_sizes((28, 28, 1), 0) == [(28, 28), (14, 14), (7, 7), (4, 4)]
    assert stage_sizes((64, 64, 1), 0)[-1] == (4, 4)
    assert stage_sizes((64, 64, 1), 2)[-1] == (16, 16)


def test_without_normalization_a_logit_depends_on_its_own_image():
    # D at 64x64x3: the first convolution gains 64 biases, the others have
    # 128+256+512 biases instead of 2 * (128+256+512) scales and offsets.
    shape = (64, 64, 3)
    assert count(Discriminator(shape, batch_norm=False), jnp.zeros((2, *shape))) == 2_765_568 + 64 - 896

    def discriminate(batch_norm, images):
        module = Discriminator((8, 8, 1), width=4, depth=2, batch_norm=batch_norm, kernel_init="normal(0.5)")
        variables = module.init(jax.random.key(0), images, None, False)
        return module.apply(variables, images, None, True, mutable=["batch_stats"])[0][0]

    images = jax.random.normal(jax.random.key(1), (4, 8, 8, 1))
    others = images.at[1:].multiply(3.0)
    assert jnp.abs(discriminate(False, images) - discriminate(False, others)) < 1e-5
    assert jnp.abs(discriminate(True, images) - discriminate(True, others)) > 1e-3


def test_the_default_config_learns_bundled_digits_by_class():
    config = dcgan.get_config()
    dataset = data.open_dataset(config.data)
    assert (len(dataset), len(data.open_dataset(config.data, "test")), dataset.image_shape) == (4000, 1000, (28, 28, 1))
    game = make_game(config, image_shape=dataset.image_shape, num_classes=len(dataset.class_names))
    assert game.discriminates_classes and sampling.class_columns(game) == 10
    # Width 24, sizes 28, 14, 7, 4. G: 100*1536 + 96*48*16 + 48*24*16 + 24*16 + 2*(96+48+24) + 10*100 of the labels.
    # D with biases: 24*16 + 24*48*16 + 48*96*16 + 24+48+96 + 1536 + 10*1536 of the labels.
    inputs = jnp.zeros((2, 100)), jnp.zeros((2, 28, 28, 1))
    players = [game.generator.module, game.discriminator.module]
    assert [count(player, x) for player, x in zip(players, inputs, strict=True)] == [247_480, 109_608]
