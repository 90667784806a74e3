"""What the device is doing right now: load, clock, power, heat and battery, or an honest "unknown".

with Poller() as sensors:              # one daemon thread, nothing is probed before it runs
    sensors.snapshot.gpu_load.value     # 0.0 .. 1.0, or None with .reason
    print(sensors.snapshot.describe())  # cpu 45 %, gpu unknown, battery 98 % (discharging 6.2 W)
"""

from __future__ import annotations

from balcony_edge.telemetry.fake import FakeSensors
from balcony_edge.telemetry.poller import Poller
from balcony_edge.telemetry.reading import Reading, Snapshot
from balcony_edge.telemetry.recording import Player, Recorder
from balcony_edge.telemetry.sensors import Sensors

__all__ = ["FakeSensors", "Player", "Poller", "Reading", "Recorder", "Sensors", "Snapshot"]
