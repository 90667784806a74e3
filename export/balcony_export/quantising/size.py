"""``--size``: how large a bundle may be, as bytes or as a share of the model in fp32."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from balcony_edge.errors import ModelError

UNITS = {"B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
FORM = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(%|[kmg]?i?b)\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Size:
    """The most bytes of a bundle; or a share of what its weights take in fp32."""

    bytes: int | None = None
    share: float | None = None

    @classmethod
    def parse(cls, text: str) -> Size:
        """``95MB``, ``1.2GB``, ``600MiB`` or ``25%``. Raises ModelError for anything else."""
        found = FORM.fullmatch(text)
        if found is None or float(found[1]) <= 0:
            raise ModelError(f"{text!r} is no size", "give bytes, such as 95MB, or a share of fp32, such as 25%")
        value = float(found[1])
        if found[2] == "%":
            return cls(share=value / 100)
        return cls(bytes=math.floor(value * UNITS[found[2].upper()]))

    def limit(self, fp32_bytes: int) -> int:
        """The most bytes, for a model that takes ``fp32_bytes`` in fp32."""
        return self.bytes if self.bytes is not None else math.floor((self.share or 0) * fp32_bytes)
