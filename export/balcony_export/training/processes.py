"""One process or many: the same training, each process on its part of every step's rows.

Alone unless a launcher (``accelerate launch``, ``torchrun``) has started several; then Accelerate picks device and
backend. The base and the exits are whole in every process; only gradients and losses travel.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from balcony_edge.errors import BalconyError

# A bucket of gradients travels as one tensor of at most so many values (64 MiB in fp32).
BUCKET = 1 << 24


@dataclass(frozen=True)
class Processes:
    """This process among all. ``device``: where the launcher wants it to compute; None: nobody said."""

    rank: int = 0
    count: int = 1
    device: torch.device | None = None

    @classmethod
    def launched(cls, device: str = "auto") -> Processes:
        """What the environment says. Raises BalconyError if several were launched and Accelerate is not installed."""
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
        """Whether this process writes the files and shows the progress."""
        return self.rank == 0

    def part(self, rows: Tensor) -> Tensor:
        """This process's rows of a step's [rows, length]; sizes differ by one row at the most."""
        return rows.tensor_split(self.count)[self.rank]

    @torch.no_grad()
    def add_up(self, tensors: Iterable[Tensor]) -> None:
        """Replace each of the tensors (one dtype, one device) by its sum over the processes, in place."""
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
        """Until every process has come here."""
        if self.count > 1:
            torch.distributed.barrier()

    def share_layers(self, layers: Iterable[nn.Module]) -> None:
        """Let every process hold a part of each frozen layer's weights; a layer is whole only while it runs (FSDP).

        Its results stay the same bits. Of one process, nothing changes.
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
