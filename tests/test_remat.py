"""`remat`: blocks that are computed again for the gradient compute the same and store less."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from twins import jit

from gan.networks import NETWORKS

SHAPE, CLASSES = (16, 16, 3), 3
FIELDS = {
    "r3gan": ({"widths": (8, 8, 4), "blocks": 2, "group_width": 4},) * 2,
    "resnet": ({"widths": (8, 4)}, {"widths": (4, 8), "halvings": 1, "layer_norm": True}),
    "sagan": ({"widths": (8, 8), "attention": (16,)}, {"widths": (8, 8), "halvings": 1, "attention": (8,)}),
    "biggan": (
        {"widths": (8, 8), "attention": (16,), "conditioning": "shared_embedding"},
        {"widths": (8, 8), "halvings": 1, "attention": (8,)},
    ),
    "stylegan2": (
        {"widths": (8, 4), "style_width": 8, "mapping_layers": 2},
        {"widths": (8, 4), "mapping_layers": 2, "group_size": 2},
    ),
    "biggan_deep": ({"widths": (8, 8)}, {"widths": (8, 8), "halvings": 1}),
    "gat": ({"width": 8, "depth": 2, "heads": 2, "patch_size": 4, "levels": 2},) * 2,
}
PLAYERS = ("generator", "discriminator")


def test_every_network_with_the_field_is_tested():
    assert set(FIELDS) == {name for name, (g, _) in NETWORKS.items() if "remat" in g.__dataclass_fields__}


def built(network, player, remat):
    fields = FIELDS[network][PLAYERS.index(player)]
    return getattr(NETWORKS[network], player)(SHAPE, CLASSES, **fields, remat=remat)


def given(player):
    """The arguments of a player for four examples."""
    shape = (4, *SHAPE) if player == "discriminator" else (4, 12)
    return jax.random.normal(jax.random.key(1), shape), jnp.arange(4) % CLASSES


def initial(module, player):
    return jit(lambda: module.init(jax.random.key(0), *given(player), False))()


@pytest.mark.slow
@pytest.mark.parametrize("player", PLAYERS)
@pytest.mark.parametrize("network", FIELDS)
def test_a_network_of_rematerialized_blocks_is_the_same_network(network, player):
    """Paths and initial values are bitwise equal; outputs, draws, statistics and gradients are equal up to rounding."""
    plain, again = (built(network, player, remat) for remat in (False, True))
    variables = initial(plain, player)
    assert jax.tree.structure(initial(again, player)) == jax.tree.structure(variables)
    jax.tree.map(np.testing.assert_array_equal, initial(again, player), variables)
    numbers = np.random.default_rng(0)  # many initial parameters have no effect
    params = jax.tree.map(
        lambda leaf: leaf + 0.1 * numbers.normal(size=leaf.shape).astype("float32"), variables["params"]
    )
    inputs, label = given(player)
    draws = {name: jax.random.key(5) for name in ("noise", "style_mixing")}

    def gradients(module):
        """The outputs, the new statistics, and the gradients of two orders for all parameters."""

        def made(params, inputs):
            outputs, left = module.apply(
                variables | {"params": params}, inputs, label, True, rngs=draws,
                mutable=["batch_stats"],
            )  # fmt: skip
            return outputs, left

        def objective(params):
            outputs, pull, left = jax.vjp(lambda inputs: made(params, inputs), inputs, has_aux=True)
            weights = jnp.cos(jnp.arange(outputs.size, dtype=jnp.float32)).reshape(outputs.shape)
            return jnp.sum(jnp.tanh(outputs)) + jnp.sum(pull(weights)[0] ** 2), (outputs, left)

        return jit(jax.grad(objective, has_aux=True))(params)

    one, other = gradients(plain), gradients(again)
    for found, expected in zip(other, one, strict=True):
        assert jax.tree.structure(found) == jax.tree.structure(expected)
        largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
        assert largest > 1e-2
        jax.tree.map(
            lambda a, b, atol=5e-6 * largest: np.testing.assert_allclose(a, b, rtol=0, atol=atol), found, expected
        )


def test_blocks_store_only_their_inputs():
    """Numbers that R3GAN's discriminator stores of 8 images for the gradient, without its parameters."""

    def kept(remat):
        module = built("r3gan", "discriminator", remat)
        images, label = jnp.zeros((8, *SHAPE)), jnp.zeros(8, jnp.int32)
        variables = jax.eval_shape(lambda: module.init(jax.random.key(0), images, label, False))
        pull = jax.eval_shape(lambda v: jax.vjp(lambda v: module.apply(v, images, label, True), v)[1], variables)
        return sum(leaf.size for leaf in jax.tree.leaves(pull) if leaf.ndim == 4 and len(leaf) == 8)

    # A stage has 2 blocks on pixels x width numbers: 256 x 4, 64 x 8 and 16 x 8 each. A block stores x; without
    # remat also what its three convolutions and two leaky ReLUs store, of twice the width.
    inputs = 8 * 2 * (256 * 4 + 64 * 8 + 16 * 8)
    assert inputs <= kept(True) < 2 * inputs
    assert kept(False) > 3 * inputs
