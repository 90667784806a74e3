"""The workstation's side: train exits for a frozen base, export both as a bundle, and prove that the bundle is right.

This package imports ``balcony_edge``, where the bundle's format is defined, and never the other way round. Its commands
join ``balcony-edge`` through the entry points of the group ``balcony_edge.commands``.
"""

import balcony_edge  # noqa: F401, which turns ONNX Runtime's telemetry off before anything here imports it
