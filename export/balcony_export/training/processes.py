"""Training in one process or in several, each on its part of every step's rows.

There is one process unless a launcher (``accelerate launch``, ``torchrun``) started more. Then Accelerate picks each
one's device and how they communicate. Every process holds the base and the exits; only gradients and losses are sent.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from balcony_edge.errors import BalconyError

# Gradients are sent in groups of at most so many values (64 MiB in fp32).
BUCKET = 1 << 24


@dataclass(frozen=True)
class Processes:
    """This process among all of them. ``device``: where the launcher lets it compute; None: there is no launcher."""

    rank: int = 0
    count: int = 1
    device: torch.device | None = None

    @classmethod
    def launched(cls, device: str = "auto") -> Processes:
        """The processes that the environment tells of.

        Raises BalconyError if a launcher started several and Accelerate is not installed.
        """
        if int(os.environ.get("WORLD_SIZE", "1")) < 2:
            return cls()
        try:
            from accelerate import PartialState
        except ImportError as error:
            raise BalconyError("training in several processes needs Accelerate", "pip install accelerate") from error
        on_cpu = device == "cpu" or not torch.cuda.is_available()
        found: Any = PartialState(cpu=on_cpu)
        return cls(found.process_index, found.num_processes, found.device)

    @property
    def first(self) -> bool:
        """Whether this is the process that writes the files and draws the progress bar."""
        return self.rank == 0

    def part(self, rows: Tensor) -> Tensor:
        """This process's rows of a step's tokens [rows, length]. The parts differ by one row at most."""
        return rows.tensor_split(self.count)[self.rank]

    @torch.no_grad()
    def add_up(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its sum over all processes, in place. All have one dtype and are on one device."""
        if self.count == 1:
            return
        bucket: list[Tensor] = []
        for tensor in tensors:
            if bucket and sum(map(torch.numel, bucket)) + tensor.numel() > BUCKET:
                _add_up_bucket(bucket)
                bucket = []
            bucket.append(tensor)
        if bucket:
            _add_up_bucket(bucket)

    def wait(self) -> None:
        """Return once every process has called this."""
        if self.count > 1:
            torch.distributed.barrier()

    def share_layers(self, layers: Iterable[nn.Module]) -> None:
        """Spread the weights of each frozen layer over the processes (FSDP), for bases that are too large for one GPU.

        A layer is put together only while it runs, and its results stay the same to the bit. One process alone keeps
        all weights.
        """
        if self.count > 1:
            from torch.distributed.device_mesh import init_device_mesh
            from torch.distributed.fsdp import fully_shard

            mesh = init_device_mesh(self.device.type if self.device else "cpu", (self.count,))
            for layer in layers:
                fully_shard(layer, mesh=mesh, reshard_after_forward=True)


def _add_up_bucket(tensors: list[Tensor]) -> None:
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    torch.distributed.all_reduce(flat)
    for tensor, summed in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(summed.view_as(tensor))


ALONE = Processes()
