"""What PyTorch computes on: its device, its precision, its memory, and how fast its products are there."""

from typing import Any

import torch

from experiments.benchmarks import timing

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

THREADS = torch.get_num_threads()


def facts() -> dict[str, Any]:
    """What PyTorch is and runs on, and what products of float32 are computed in."""
    is_gpu = DEVICE.type == "cuda"
    return {
        "device": torch.cuda.get_device_name() if is_gpu else "cpu",
        "torch": torch.__version__,
        "threads": THREADS,
        "float32": "TF32" if is_gpu else "float32",
    }


def allow_tf32() -> None:
    """Lets products and convolutions of float32 be computed in TF32 on a GPU, as JAX does there by default."""
    if DEVICE.type == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True


def synchronize() -> None:
    """Waits until everything that was launched is computed."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def release_memory() -> None:
    """Gives back the device memory that dropped programs have left with PyTorch, for another process to use."""
    torch.compiler.reset()  # CUDA graphs hold a pool of their own
    if DEVICE.type == "cuda":
        torch.cuda.empty_cache()


def matrix_rate(size: int, dtype: str = "float32") -> float:
    """Operations a second of PyTorch's product of two matrices [size, size]."""
    torch.set_num_threads(THREADS)
    allow_tf32()
    left, right = torch.randn(2, size, size, device=DEVICE).to(getattr(torch, dtype))

    def product() -> None:
        torch.mm(left, right)
        synchronize()

    return timing.best_rate(product, 2 * size**3)
