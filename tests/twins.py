"""A network and the same network written in PyTorch, from the same parameters: outputs and gradients of two orders."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

# Compilation takes nearly all of the time of these programs.
jit = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
)


def drawn(module, inputs, *, sd=0.3, seed=0):
    """Random values for all parameters of a module: many initial values have no effect."""
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), inputs, jnp.zeros(len(inputs), jnp.int32), False))
    leaves, treedef = jax.tree.flatten(shapes["params"])
    numbers = np.random.default_rng(seed)
    return jax.tree.unflatten(treedef, [sd * numbers.normal(size=leaf.shape).astype("float32") for leaf in leaves])


def attended(x, params):
    """Self-attention in PyTorch: [B, C, H, W] to the same, from the parameters of our layer."""
    torch = pytest.importorskip("torch")
    F = torch.nn.functional

    def mapped(x, name):
        return F.conv2d(x, params[name]["kernel"].permute(3, 2, 0, 1))

    query = mapped(x, "query").flatten(2)
    key, value = (F.max_pool2d(mapped(x, name), 2).flatten(2) for name in ("key", "value"))
    weights = torch.softmax(query.transpose(1, 2) @ key, dim=-1)
    seen = (value @ weights.transpose(1, 2)).unflatten(2, x.shape[2:])
    return x + params["gamma"] * mapped(seen, "output")


def check_same(ours, theirs, params, inputs, *, tolerance=1e-4):
    """Both functions (params, inputs) agree: outputs to 1e-4 of the largest, gradients to `tolerance`.

    That is, of each gradient's largest number, or of a hundredth of the largest of all, where one is zero but for
    rounding: of a bias before a normalization.

    Compared are the outputs y, and the gradients for all parameters and inputs of sum tanh(y) + |d <c, y> / d
    inputs|^2 with fixed c: R1's second derivatives are among them.
    """
    torch = pytest.importorskip("torch")

    def objective(params, inputs):
        outputs, pull = jax.vjp(lambda inputs: ours(params, inputs), inputs)
        weights = jnp.cos(jnp.arange(outputs.size, dtype=jnp.float32)).reshape(outputs.shape)
        return jnp.sum(jnp.tanh(outputs)) + jnp.sum(pull(weights)[0] ** 2), outputs

    (_, outputs), gradients = jit(jax.value_and_grad(objective, (0, 1), has_aux=True))(params, inputs)

    leaves, treedef = jax.tree.flatten((params, inputs))
    leaves = [torch.tensor(leaf, requires_grad=True) for leaf in leaves]
    their_params, their_inputs = jax.tree.unflatten(treedef, leaves)
    their_outputs = theirs(their_params, their_inputs)
    weights = torch.cos(torch.arange(their_outputs.numel(), dtype=torch.float32)).reshape(their_outputs.shape)
    (gradient,) = torch.autograd.grad(their_outputs, their_inputs, weights, create_graph=True)
    expected = torch.autograd.grad(torch.tanh(their_outputs).sum() + (gradient**2).sum(), leaves)

    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(gradients)]
    pairs = zip(["outputs", *paths], [outputs, *jax.tree.leaves(gradients)], [their_outputs, *expected], strict=True)
    floor = 0.01 * max(float(their.abs().max()) for their in expected)
    for path, actual, their in pairs:
        their = their.detach().numpy()
        atol = 1e-4 * np.abs(their).max() if path == "outputs" else tolerance * max(np.abs(their).max(), floor)
        np.testing.assert_allclose(actual, their, rtol=0, atol=atol, err_msg=path)
