"""Describes a replica's device: its arithmetic, its memory, and how it fails."""

import torch

from pipeline.errors import ModelError
from pipeline.model.attention import AMPERE
from pipeline.model.thread_lanes import SerialRunner, ThreadPool

CPU_BATCH_TOKENS = 512
"""Tokens of a lane's micro-batch. Larger ones are not faster, and leave lanes idle at the end of a split."""
CUDA_BATCH_TOKENS = 65_536
ACTIVATION_BYTES = 32
"""Bytes of a token on a GPU, per unit of hidden size, at the peak of a layer: a safe estimate."""


def require_dtype(device: torch.device, dtype: torch.dtype) -> None:
    """Prepares a GPU's products in bfloat16.

    Raises:
        ModelError: the GPU can't compute in bfloat16.
    """
    if device.type != "cuda" or dtype != torch.bfloat16:
        return
    # A vector should not depend on how cuBLAS cuts a product.
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    found = torch.cuda.get_device_capability(device)
    if found < AMPERE:
        name, got = torch.cuda.get_device_name(device), "compute capability {}.{}".format(*found)
        raise ModelError("the GPU can't compute in bfloat16", name, got, hint="set model.dtype: float32")


def device_failed(error: RuntimeError, device: torch.device) -> bool:
    """Tells whether the device failed, and not the program.

    cuBLAS, cuDNN and the driver raise plain RuntimeErrors. After an illegal access or a lost GPU a matrix
    product is often the first call that fails; then each later call fails as well.
    """
    if isinstance(error, torch.AcceleratorError):
        return True
    if device.type != "cuda":
        return False
    if any(library in str(error) for library in ("CUBLAS_STATUS_", "CUDNN_STATUS_")):
        return True
    try:
        torch.cuda.synchronize(device)
    except RuntimeError:
        return True
    return False


def is_out_of_memory(error: RuntimeError) -> bool:
    """Tells whether memory did not suffice, on any device."""
    # Only the caching allocator raises a class of its own; libraries' handles and the CPU have only messages.
    words = ("out of memory", "can't allocate memory", "STATUS_ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in words)


def default_batch_tokens(device: torch.device, hidden_size: int) -> int:
    """Returns the tokens of a micro-batch if the config sets none."""
    if device.type != "cuda":
        return CPU_BATCH_TOKENS
    free, _ = torch.cuda.mem_get_info(device)
    return int(min(CUDA_BATCH_TOKENS, max(512, free // 2 // (ACTIVATION_BYTES * hidden_size))))


def lanes_of(device: torch.device, threads: int | None) -> ThreadPool | SerialRunner:
    """Returns the runner of a device's micro-batches."""
    if device.type == "cpu":
        return ThreadPool(threads or torch.get_num_threads())
    if threads:
        torch.set_num_threads(threads)
    return SerialRunner()
