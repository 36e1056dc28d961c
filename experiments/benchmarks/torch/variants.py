"""The ways in which PyTorch's users make one program fast, by name. Nothing here needs PyTorch.

A variant is `eager`, or any of these with a plus between them:

  foreach, fused    Adam over all tensors at once, or in one kernel a tensor
  channels_last     images and kernels with their channels innermost
  compile           torch.compile of both networks
  reduce_overhead   torch.compile(mode="reduce-overhead"): the compiled kernels replayed as CUDA graphs (on a GPU only)
  one_thread        no threads beside this one, which small networks are quicker without (on a CPU only)

The precision is the config's, not the variant's: with `config.compute_dtype` bfloat16 the networks run under autocast.
"""

from ml_collections import ConfigDict

VARIANTS = (
    "eager", "foreach", "fused", "fused+one_thread", "fused+channels_last", "fused+reduce_overhead",
    "fused+channels_last+reduce_overhead", "fused+compile", "fused+channels_last+compile",
)  # fmt: skip
"""Those that take long to compile are last; of these, those that are the best at small batches are first."""

COMPILED = frozenset({"compile", "reduce_overhead"})
WITHOUT_CONVOLUTIONS = ("mlp",)
"""Networks to which the order of an image's axes means nothing."""


def words_of(variant: str) -> frozenset[str]:
    """What a variant consists of."""
    return frozenset(variant.split("+"))


def is_compiled(variant: str) -> bool:
    """Whether a variant takes tens of seconds before its first step."""
    return bool(words_of(variant) & COMPILED)


def variants_of(config: ConfigDict, device: str) -> tuple[str, ...]:
    """The variants that make a difference to a config on a device, "cpu" or "cuda"."""
    without_effect = {"reduce_overhead"} if device == "cpu" else {"one_thread"}
    if config.generator.network in WITHOUT_CONVOLUTIONS:
        without_effect |= {"channels_last"}
    return tuple(name for name in VARIANTS if not without_effect & words_of(name))
