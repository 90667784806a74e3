"""What the governor observes of a device, and which budgets are refused there."""

from __future__ import annotations

import pytest

from balcony_controller import Budget, PowerModel, Signals
from balcony_edge import AdaptiveSession, BudgetError
from balcony_edge.control.signals import read_power_model, require_signals, signals_of
from balcony_edge.telemetry import FakeSensors

PROMPT = "Once upon a time"


def test_a_snapshot_becomes_plain_values_and_unknown_stays_unknown() -> None:
    sensors = FakeSensors(clock=lambda: 7.0)
    found = signals_of(sensors.set(gpu_load=0.5, on_mains=0.0, battery_energy_wh=20.0))
    assert found == Signals(time_s=7.0, gpu_load=0.5, on_mains=False, battery_energy_wh=20.0)


def test_a_refusal_names_the_signal_and_the_sensors_reason() -> None:
    snapshot = FakeSensors().snapshot
    with pytest.raises(BudgetError, match=r"8W cannot be kept.*power.*nothing set"):
        require_signals(Budget.parse("8W"), snapshot, None)
    require_signals(Budget.parse("8W"), snapshot, PowerModel(4.0, 14.0))


@pytest.mark.parametrize("text", ["4", "a:b", "14:4", "-1:3", "nan:5"])
def test_power_models_that_make_no_sense(text: str) -> None:
    with pytest.raises(BudgetError, match="power model"):
        read_power_model(text)


def test_a_power_model_is_two_numbers() -> None:
    assert read_power_model("4:14") == PowerModel(4.0, 14.0)
    assert read_power_model(None) is None


def test_a_session_refuses_what_it_cannot_measure_and_keeps_its_budget() -> None:
    with pytest.raises(BudgetError, match="GPU"):
        AdaptiveSession(budget="gpu=60%", sensors=FakeSensors(), provider="cpu")
    with AdaptiveSession(sensors=FakeSensors(), provider="cpu") as session:
        with pytest.raises(BudgetError, match="battery"):
            session.budget = "3h"
        assert str(session.budget) == "full"


def test_pauses_keep_a_watt_budget_and_are_reported() -> None:
    sensors = FakeSensors()
    sensors.set(power_w=10.0)
    model = PowerModel(4.0, 14.0)
    with AdaptiveSession(budget="4.5W", sensors=sensors, provider="cpu", power_model=model) as session:
        list(session.stream(PROMPT, 12))
        report = session.report()
    assert report.paused_ms > 0
    assert "of pauses" in report.line()


def test_a_deadline_ends_the_reply() -> None:
    with AdaptiveSession(budget="0.001s@reply", sensors=FakeSensors(), provider="cpu") as session:
        assert len(list(session.stream(PROMPT, 200))) < 50
