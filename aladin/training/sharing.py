"""Several processes that train one model, each on its share of every step: started by `torchrun`, of one or of several hosts.

All of them compute the same losses, of the images and captions of all. Each knows the gradient of its own share alone, so the
sum over processes is that of one process that reads everything. Gradients are added by ourselves and not by PyTorch's
DistributedDataParallel: parts begin to learn in the middle of a run, and what is read in chunks goes backward several times.
"""

import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from aladin.errors import ConfigError, TrainingError
from aladin.network.run import Precision, Run, chosen_device
from aladin.network.tensors import Tokens, pad_tokens

PATIENCE = timedelta(days=2)  # for others that compute image features; one that has died is seen at once
MEETING = timedelta(minutes=30)  # for others to start
NAMES = {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}  # of torchrun's environment
NEEDED = ("RANK", "MASTER_ADDR", "MASTER_PORT")  # of several processes, which meet there
RUNS = itertools.count()  # of this process; the same in each, since all take part in all


@contextmanager
def one_of_several(device: str, precision: Precision) -> Iterator[Run]:
    """The run of this process: one of those that torchrun started, or the only one. ConfigError for a device not there.

    TrainingError where another process has ended.
    """
    world, rank, local = _given_by_torchrun()
    if world == 1:
        yield Run(precision, chosen_device(device))
        return
    chosen = _own_device(device, local)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    # Tensors of the processor travel by gloo too: those of barriers, and of what is agreed upon.
    _join("cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Run(precision, chosen, rank, world)
    except dist.DistError:
        raise _deserted(rank) from None
    except RuntimeError as error:
        if not _of_the_network(error):
            raise
        raise _deserted(rank) from None
    finally:
        dist.destroy_process_group()


@contextmanager
def first_alone(run: Run) -> Iterator[None]:
    """What is within it the first process does alone, the others after it: they find what it has left on the disk."""
    if run.world > 1 and not run.writes:
        dist.barrier(device_ids=None)
    yield
    if run.world > 1 and run.writes:
        dist.barrier(device_ids=None)


def agreed(value: Any, what: str, run: Run) -> None:
    """TrainingError unless every process has the same value, such as the step to go on from."""
    if run.world == 1:
        return
    found: list[Any] = [None] * run.world
    dist.all_gather_object(found, value)
    if any(other != value for other in found):
        raise TrainingError(
            f"the processes do not agree on {what}: {', '.join(map(str, found))}; give all the same --out and data, on a file "
            "system that every host sees"
        )


def gathered(rows: Shaped[Tensor, "own ..."], run: Run) -> Shaped[Tensor, "all ..."]:
    """The rows of all processes, in their order. Only the own ones have a gradient, times the number of processes."""
    if run.world == 1:
        return rows
    counts = _each(len(rows), run)
    found: Tensor = _Gathered.apply(rows, counts, run.rank)  # type: ignore[no-untyped-call]
    return found


def gathered_tokens(tokens: Tokens, run: Run) -> Tokens:
    """The same of token sequences, padded to the longest of all."""
    longest = pad_tokens(tokens, max(_each(tokens.mask.shape[1], run)))
    return Tokens(gathered(longest.states, run), gathered(longest.mask, run))


def add_gradients(weights: Sequence[nn.Parameter], run: Run) -> None:
    """The mean of all processes' gradients in the place of the own ones; who has none counts as 0."""
    if run.world == 1:
        return
    with torch.no_grad():
        for weight in weights:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        waiting = [dist.all_reduce(weight.grad, async_op=True) for weight in weights]
        for weight, work in zip(weights, waiting, strict=True):
            assert work is not None, "it was asked not to be waited for"
            work.wait()
            assert weight.grad is not None, "it was just added to"
            weight.grad /= run.world


def spread(state: Sequence[Tensor], run: Run) -> None:
    """The first process's values of these tensors, in all of them."""
    for tensor in state if run.world > 1 else ():
        dist.broadcast(tensor.view(torch.uint8) if tensor.dtype == torch.bool else tensor, 0)


class _Gathered(torch.autograd.Function):
    """Rows of all processes; see `gathered`."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: list[int], rank: int) -> Tensor:
        ctx.own, ctx.world = slice(sum(counts[:rank]), sum(counts[: rank + 1])), len(counts)
        dtype = rows.dtype
        sent = rows.new_zeros(max(counts), *rows.shape[1:])
        sent[: len(rows)] = rows
        sent = sent.to(torch.uint8) if dtype == torch.bool else sent
        received = [torch.empty_like(sent) for _ in counts]
        dist.all_gather(received, sent)
        return torch.cat([part[:count] for part, count in zip(received, counts, strict=True)]).to(dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Float[Tensor, "all ..."]) -> tuple[Float[Tensor, "own ..."], None, None]:
        return gradients[0][ctx.own] * ctx.world, None, None


def _each(number: int, run: Run) -> list[int]:
    """A number of every process."""
    found = [torch.zeros(1, dtype=torch.int64) for _ in range(run.world)]
    dist.all_gather(found, torch.tensor([number]))
    return [int(one) for one in found]


def _given_by_torchrun() -> tuple[int, int, int]:
    """How many processes there are, which of them this is, and which of its host; ConfigError where that is said by half."""
    world, rank, local = (os.environ.get(name, default) for name, default in NAMES.items())
    missing = [name for name in NEEDED if name not in os.environ] if world != "1" else []
    if missing or not (world.isdecimal() and rank.isdecimal() and local.isdecimal() and int(rank) < int(world)):
        found = f"{', '.join(missing)} not there" if missing else f"RANK is {rank!r} and LOCAL_RANK {local!r}"
        raise ConfigError(
            f"WORLD_SIZE in the environment is {world!r} and {found}; start several processes by torchrun, or one without "
            "WORLD_SIZE and RANK"
        )
    return int(world), int(rank), int(local)


def _join(backend: str) -> None:
    """Meet the other processes. A second run of the same processes must not find what the first left where they met."""
    if dist.is_initialized():
        raise ConfigError(
            "this process has joined a process group already; end it by torch.distributed.destroy_process_group() before "
            "training, which begins its own"
        )
    try:
        store, rank, world = next(rendezvous("env://", timeout=MEETING))
        own = dist.PrefixStore(f"aladin {next(RUNS)}", store)  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=own, rank=rank, world_size=world, timeout=PATIENCE)
    except dist.DistError as error:
        raise TrainingError(
            f"the processes of this run do not meet ({str(error).splitlines()[0]}); start all of them within "
            f"{MEETING.total_seconds() / 60:.0f} minutes, with the MASTER_ADDR and MASTER_PORT of the first"
        ) from None


def _own_device(device: str, local: int) -> torch.device:
    """The GPU of a process's number on its host; with cpu the processor, which all of them share."""
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return chosen_device("cpu")
    if device not in ("auto", "cuda"):
        raise ConfigError(f"device is {device!r}, but torchrun gives each process a GPU of its own; give auto, cuda or cpu")
    return chosen_device(f"cuda:{local}")


def _of_the_network(error: RuntimeError) -> bool:
    return any(word in str(error) for word in ("Connection closed by peer", "Connection reset by peer", "gloo", "NCCL"))


def _deserted(rank: int) -> TrainingError:
    return TrainingError(
        f"process {rank} lost another process of this run, whose own message says why; mend that, and start the same command "
        "again, which goes on from the last checkpoint"
    )
