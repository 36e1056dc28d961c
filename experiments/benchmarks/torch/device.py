"""PyTorch's device: its precision, its memory and its speed."""

from typing import Any

import torch

from experiments.benchmarks import timing

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

THREADS = torch.get_num_threads()


def facts() -> dict[str, Any]:
    """The device, the version of PyTorch, and the precision of float32 products."""
    is_gpu = DEVICE.type == "cuda"
    return {
        "device": torch.cuda.get_device_name() if is_gpu else "cpu",
        "torch": torch.__version__,
        "threads": THREADS,
        "float32": "TF32" if is_gpu else "float32",
    }


def allow_tf32() -> None:
    """Allows TF32 in float32 products and convolutions on a GPU, as JAX does by default."""
    if DEVICE.type == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True


def synchronize() -> None:
    """Waits for all pending computations."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def release_memory() -> None:
    """Frees the cached device memory of deleted programs, for another process."""
    torch.compiler.reset()  # CUDA graphs hold a pool of their own
    if DEVICE.type == "cuda":
        torch.cuda.empty_cache()


def matrix_rate(size: int, dtype: str = "float32") -> float:
    """Operations per second of PyTorch's product of two matrices [size, size]."""
    torch.set_num_threads(THREADS)
    allow_tf32()
    left, right = torch.randn(2, size, size, device=DEVICE).to(getattr(torch, dtype))

    def product() -> None:
        torch.mm(left, right)
        synchronize()

    return timing.best_rate(product, 2 * size**3)
