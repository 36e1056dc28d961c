"""The usual ways to make a PyTorch program fast, by name. This module does not need PyTorch.

A variant is `eager`, or any of these with a plus between them:

  foreach, fused    Adam over all tensors at once, or in one kernel a tensor
  channels_last     images and kernels with their channels innermost
  compile           torch.compile of both networks
  reduce_overhead   torch.compile(mode="reduce-overhead"): the compiled kernels replayed as CUDA graphs (on a GPU only)
  one_thread        a single thread, which is faster for small networks (on a CPU only)

The precision is the config's, not the variant's: with `config.compute_dtype` bfloat16 the networks run under autocast.
"""

from ml_collections import ConfigDict

VARIANTS = (
    "eager", "foreach", "fused", "fused+one_thread", "fused+channels_last", "fused+reduce_overhead",
    "fused+channels_last+reduce_overhead", "fused+compile", "fused+channels_last+compile",
)  # fmt: skip
"""Variants that take long to compile come last; of these, the fastest ones at small batches come first."""

COMPILED = frozenset({"compile", "reduce_overhead"})
WITHOUT_CONVOLUTIONS = ("mlp", "gat")
"""Networks for which the memory layout of images has no effect."""


def words_of(variant: str) -> frozenset[str]:
    """The parts of a variant's name."""
    return frozenset(variant.split("+"))


def is_compiled(variant: str) -> bool:
    """Whether a variant takes tens of seconds before its first step."""
    return bool(words_of(variant) & COMPILED)


def variants_of(config: ConfigDict, device: str) -> tuple[str, ...]:
    """The variants that have an effect on a config on a device, "cpu" or "cuda"."""
    without_effect = {"reduce_overhead"} if device == "cpu" else {"one_thread"}
    if config.generator.network in WITHOUT_CONVOLUTIONS:
        without_effect |= {"channels_last"}
    return tuple(name for name in VARIANTS if not without_effect & words_of(name))
