"""Where and how one process computes: on which device, in which precision, and beside how many others."""

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

import torch

from aladin.config import check_choice
from aladin.errors import ConfigError, MemoryFull
from aladin.network.tensors import each_tensor

Precision = Literal["fp32", "bf16", "fp16"]
PRECISIONS: tuple[str, ...] = get_args(Precision)
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
CPU = torch.device("cpu")
DEVICES = "auto, cpu, cuda, cuda:N or mps"
Value = TypeVar("Value")


@dataclass(frozen=True)
class Run:
    """One process: `world` of them share the work, told apart by `rank`."""

    precision: Precision = "fp32"
    device: torch.device = CPU
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        check_choice("precision", self.precision, PRECISIONS)
        assert 0 <= self.rank < self.world, "each process has a rank of its own"

    @property
    def writes(self) -> bool:
        """Whether this process writes files and tells what goes on; one of them does."""
        return self.rank == 0

    def context(self) -> AbstractContextManager[object]:
        """Within it matrix products are computed as `precision` says."""
        if self.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, DTYPES[self.precision])

    def put(self, value: Value) -> Value:
        """A tensor, or a dataclass with all its tensors, on the device. Copies to a GPU do not hold up what comes after."""
        if self.device.type != "cuda":
            return each_tensor(value, lambda tensor: tensor.to(self.device))
        return each_tensor(value, lambda tensor: _pinned(tensor).to(self.device, non_blocking=True))

    def ready(self, value: Value) -> Value:
        """The same value, so that `put` takes no time over it; any thread may prepare it."""
        if self.device.type != "cuda":
            return value
        with torch.cuda.device(self.device):
            return each_tensor(value, _pinned)


ALONE = Run()  # in full precision on the processor


def chosen_device(name: str = "auto") -> torch.device:
    """The device of a name: auto takes a GPU if there is one. ConfigError for a device that is not there."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps") if torch.backends.mps.is_available() else CPU
    kind, colon, number = str(name).partition(":")  # from Python it may be anything
    if kind not in ("cpu", "cuda", "mps") or (colon and not (kind == "cuda" and number.isdecimal())):
        raise ConfigError(f"device is {name!r}; expected {DEVICES}")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("device is 'mps', but this machine has no Apple GPU that PyTorch can use; give cpu or auto")
    if kind != "cuda":
        return torch.device(kind)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        why = "this PyTorch is built without CUDA" if torch.version.cuda is None else "PyTorch finds no GPU"
        raise ConfigError(f"device is {name!r}, but {why}; give cpu or auto")
    if number and int(number) >= count:
        raise ConfigError(f"device is {name!r}, but there are {count} GPUs, numbered from 0; give one of them")
    return torch.device("cuda", int(number) if number else torch.cuda.current_device())


@contextlib.contextmanager
def products_restored() -> Iterator[None]:
    """After it products of fp32 are computed as before, whatever a run within it has set for the whole process."""
    before = torch.get_float32_matmul_precision()
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextlib.contextmanager
def memory_watched(advice: str, machine: str = "") -> Iterator[None]:
    """Within it a device whose memory is full ends in one sentence, MemoryFull, with `advice` on what to lower; where the
    machine's own memory is full with `machine`, if that is something else.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise MemoryFull(f"the memory of the GPU is full ({str(error).split('.')[0]}); {advice}") from None
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and "DefaultCPUAllocator" not in str(error):
            raise
        raise MemoryFull(f"the memory of this machine is full; {machine or advice}") from None


def _pinned(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.is_cuda or tensor.is_pinned() else tensor.pin_memory()
