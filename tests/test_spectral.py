"""gan.networks.layers.spectral: a largest singular value of one, for dense and convolutional kernels and embeddings."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from gan.networks.conv.primitives import Conv, ConvTranspose
from gan.networks.layers import spectral


class Player(nn.Module):
    @nn.compact
    def __call__(self, x, label):
        x = ConvTranspose(3, (4, 4), stride=2, output_size=(8, 8))(Conv(6, (3, 3))(x))
        return nn.Dense(2)(x.reshape(len(x), -1)) + nn.Embed(4, 2)(label)


def iterated(params, count):
    def again(_, vectors):
        return spectral.normalized(params, vectors)[1]

    vectors = jax.lax.fori_loop(1, count, again, spectral.initial_vectors(params, jax.random.key(1)))
    return spectral.normalized(params, vectors)


def test_the_largest_singular_value_is_one_after_some_iterations():
    params = Player().init(jax.random.key(0), jnp.zeros((2, 4, 4, 1)), jnp.zeros(2, jnp.int32))["params"]
    divided, vectors = jax.jit(iterated, static_argnums=1)(params, 60)
    matrices = {
        "Conv_0/kernel": divided["Conv_0"]["kernel"].reshape(-1, 6),
        # Stored as the kernel of the adjoint, [4, 4, outputs, inputs].
        "ConvTranspose_0/kernel": np.moveaxis(divided["ConvTranspose_0"]["kernel"], 2, -1).reshape(-1, 3),
        "Dense_0/kernel": divided["Dense_0"]["kernel"],
        "Embed_0/embedding": divided["Embed_0"]["embedding"],
    }
    assert set(vectors) == set(matrices)  # no bias
    for name, matrix in matrices.items():
        np.testing.assert_allclose(np.linalg.norm(matrix, 2), 1.0, rtol=2e-3, err_msg=name)
    np.testing.assert_array_equal(divided["Dense_0"]["bias"], params["Dense_0"]["bias"])
    without = spectral.initial_vectors(params, jax.random.key(1), embeddings=False)
    assert set(without) == set(matrices) - {"Embed_0/embedding"}
    divided, _ = spectral.normalized(params, without)
    np.testing.assert_array_equal(divided["Embed_0"]["embedding"], params["Embed_0"]["embedding"])


def test_the_gradient_is_that_of_the_quotient():
    # W / sigma(W) does not change with the size of W: its gradient along W is zero. A fixed sigma would give W / sigma.
    params = {"Dense_0": {"kernel": jax.random.normal(jax.random.key(2), (5, 3))}}
    _, vectors = iterated(params, 200)
    weights = jax.random.normal(jax.random.key(3), (5, 3))

    def value(scale):
        scaled = jax.tree.map(lambda leaf: scale * leaf, params)
        return jnp.sum(weights * spectral.normalized(scaled, vectors)[0]["Dense_0"]["kernel"])

    np.testing.assert_allclose(jax.grad(value)(1.0), 0.0, atol=1e-4)
