"""Spectral normalization of any network as a function of its parameters: W / sigma(W), one power iteration per use.

Kernels and embeddings are found by the names of the parameters, so a network needs no special layers.

Reference: Miyato et al. 2018, arXiv:1802.05957, algorithm 1.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array


def initial_vectors(params: Any, key: Array, *, embeddings: bool = True) -> dict[str, Array]:
    """A random unit vector [out] for each kernel of `params`, and with `embeddings` for each embedding, by its path.

    `normalized` changes only the parameters that have a vector. The published networks normalize the embeddings of a
    discriminator, which multiply its features, and not those of a generator: SAGAN's scales and offsets of the classes,
    and BigGAN's shared embedding (Brock's code notes that normalizing it harms the generator). A generator's linear
    maps of an embedding are kernels.
    """
    vectors = {}
    for index, (path, leaf) in enumerate(_matrices(params).items()):
        if path.endswith("embedding") and not embeddings:
            continue
        vectors[path] = _unit(jax.random.normal(jax.random.fold_in(key, index), (_as_matrix(path, leaf).shape[1],)))
    return vectors


def normalized(params: Any, vectors: dict[str, Array]) -> tuple[Any, dict[str, Array]]:
    """`params` with each kernel and embedding W [in, out] divided by its largest singular value, and the new vectors.

    With u the vector: v = W u / |W u|, then u <- W^T v / |W^T v| and sigma = v^T W u. The gradient flows only through
    W, not through u and v. A convolution's kernel is the matrix [taps * inputs, outputs].
    """
    new_vectors = {}

    def divided(path: tuple, leaf: Array) -> Array:
        name = _name(path)
        if name not in vectors:
            return leaf
        matrix = _as_matrix(name, leaf)
        fixed = jax.lax.stop_gradient(matrix)
        left = _unit(fixed @ vectors[name])
        right = _unit(fixed.T @ left)
        new_vectors[name] = right
        return leaf / jnp.maximum(left @ matrix @ right, 1e-12)

    return jax.tree_util.tree_map_with_path(divided, params), new_vectors


def _matrices(params: Any) -> dict[str, Array]:
    leaves = {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    return {name: leaf for name, leaf in leaves.items() if name.endswith(("kernel", "embedding")) and leaf.ndim > 1}


def _name(path: tuple) -> str:
    return "/".join(str(entry.key) for entry in path)


def _as_matrix(name: str, leaf: Array) -> Array:
    if "ConvTranspose" in name:  # stored as the kernel of the adjoint convolution: [kh, kw, outputs, inputs]
        leaf = jnp.swapaxes(leaf, -1, -2)
    if name.endswith("embedding"):  # one row per label: the linear map of the one-hot label
        return leaf
    return leaf.reshape(-1, leaf.shape[-1])


def _unit(vector: Array) -> Array:
    return vector / (jnp.linalg.norm(vector) + 1e-12)
