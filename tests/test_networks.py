"""gan.networks: the class of a network states what it does, and layers depend on no architecture."""

import ast
import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from flax.errors import InvalidRngError

from configs import default
from gan.build import make_game
from gan.errors import UserError
from gan.networks import NETWORKS

FOLDER = Path(__file__).parent.parent / "gan" / "networks"
SHAPES = {"conv_gan": (28, 28, 1)}
FIELDS = {
    "r3gan": {"widths": (4, 4), "group_width": 4},
    "resnet": {"widths": (4, 4)},
    "sagan": {"widths": (4, 4)},
    "biggan": {"widths": (4, 4)},
    "biggan_deep": {"widths": (4, 4)},
    "stylegan2": {"widths": (4, 4), "mapping_layers": 1},
    "gat": {"width": 8, "depth": 2, "heads": 2, "patch_size": 8, "levels": 2},
}
HALVINGS = {"resnet", "sagan", "biggan", "biggan_deep"}


def built(network, player):
    fields = FIELDS.get(network, {})
    if player == "discriminator" and network in HALVINGS:
        fields = {**fields, "halvings": 1}
    return getattr(NETWORKS[network], player)(SHAPES.get(network, (32, 32, 3)), 0, **fields)


def inputs(network, player):
    return jnp.zeros((4, *SHAPES.get(network, (32, 32, 3)))) if player == "discriminator" else jnp.zeros((4, 8))


def initial(network, player):
    module, label = built(network, player), jnp.zeros(4, jnp.int32)
    return jax.eval_shape(lambda: module.init(jax.random.key(0), inputs(network, player), label, False))


def draws(network, player):
    """Whether a network draws random numbers in training."""

    def train(variables):
        label = jnp.zeros(4, jnp.int32)
        return built(network, player).apply(variables, inputs(network, player), label, True, mutable=["batch_stats"])

    try:
        jax.eval_shape(train, initial(network, player))
    except InvalidRngError:
        return True
    return False


@pytest.mark.parametrize("network", NETWORKS)
def test_a_generator_states_its_styles(network):
    module = built(network, "generator")
    perturbations = initial(network, "generator").get("perturbations", {})
    assert module.styles == ("styles" in perturbations)
    assert module.styles == hasattr(module, "mapping") == hasattr(module, "synthesis") == hasattr(module, "truncation")


@pytest.mark.parametrize("network", NETWORKS)
def test_a_discriminator_states_its_groups_and_rows(network):
    module = built(network, "discriminator")
    names = {field.name for field in dataclasses.fields(module)}
    assert module.takes_rows == ("rows" in names)
    assert module.group_size == (4 if network == "stylegan2" else 1)
    if draws(network, "discriminator"):
        assert module.takes_rows


@pytest.mark.parametrize(
    ("network", "fields"),
    [(network, {}) for network in NETWORKS] + [
        ("dcgan", {"batch_norm": False}), ("mlp", {"layers": (2, 1)}), ("r3gan", {"widths": (4, 8, 8), "blocks": 1}),
        ("stylegan2", {"widths": (4, 4, 4), "architecture": "orig"}), ("stylegan2", {"widths": (4, 4, 4)}),
        ("sagan", {"widths": (4, 4, 4), "attention": (16,)}), ("biggan", {"widths": (), "halvings": 0, "width": 1}),
        ("biggan_deep", {"widths": (4, 4, 8), "attention": (16,), "remat": True}), ("resnet", {"widths": (4, 4, 4)}),
        ("gat", {"depth": 3, "levels": 1, "remat": True}), ("gat", {"depth": 1, "levels": 1}),
    ],
)  # fmt: skip
def test_a_discriminator_states_its_layers_from_the_image_on(network, fields):
    module = built(network, "discriminator").clone(**fields)
    calls = []

    def record(call, args, kwargs, context):
        if len(context.module.path) == 1 and context.method_name == "__call__":
            calls.append(context.module.path[0])
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        image, label = inputs(network, "discriminator"), jnp.zeros(4, jnp.int32)
        shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), image, label, False))
    layers = module.layers_from_image()
    names = [name for layer in layers for name in layer]
    assert len(set(names)) == len(names) and all(layers)
    # In the order of the calls, from the first on, and without those that make the logit.
    assert names == [name for name in dict.fromkeys(calls) if name in names]
    with_params = [name for name in dict.fromkeys(calls) if name in shapes["params"]]
    assert with_params[: len(names)] == names and set(shapes["params"]) > set(names)
    assert len(with_params) == len(names) + 1  # the dense layer of the logit


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("player", ["generator", "discriminator"])
def test_a_network_states_its_conditioning_and_independent_statistics(network, player):
    module = built(network, player)
    assert module.conditioning == "none"
    assert module.batch_independent_stats <= set(initial(network, player).get("batch_stats", {}))


@pytest.mark.parametrize("network", NETWORKS)
def test_capabilities_are_not_fields_of_a_config(network):
    for player, name in (("generator", "styles"), ("discriminator", "takes_rows")):
        config = default.get_config()
        with config.unlocked():
            config[player] = default.player(network=network, **{name: True})
        with pytest.raises(UserError, match=rf"config\.{player}\.{name} is not a field of network") as caught:
            make_game(config, image_shape=SHAPES.get(network, (32, 32, 3)))
        assert "batch_independent_stats" not in str(caught.value)


def imported(path):
    """The modules of gan.networks that a file imports."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    names = {name for node in nodes for name in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))}
    return {name.removeprefix("gan.networks.") for name in names if name.startswith("gan.networks.")}


@pytest.mark.parametrize("path", sorted((FOLDER / "layers").glob("*.py")), ids=lambda path: path.name)
def test_layers_depend_on_no_architecture(path):
    assert {name.split(".")[0] for name in imported(path)} <= {"layers", "conv"}


@pytest.mark.parametrize("path", sorted((FOLDER / "conv").glob("*.py")), ids=lambda path: path.name)
def test_convolutions_depend_on_no_layer(path):
    assert {name.split(".")[0] for name in imported(path)} <= {"conv"}
