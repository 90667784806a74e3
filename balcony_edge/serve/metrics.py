"""What operators watch, as Prometheus reads it (``GET /metrics``). A signal that the device lacks is left out."""

from __future__ import annotations

from collections.abc import Iterator

import psutil
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from balcony_edge.decoding.loop import SOURCES
from balcony_edge.decoding.reply import Token
from balcony_edge.decoding.report import Report
from balcony_edge.serve.slots import Slots

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
TOKEN_S = (0.0, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2, 0.5, 1.0)
FIRST_S = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
# Signals of the device: name in a snapshot, and what it is.
SIGNALS = {
    "power_w": "Watts of the whole device.",
    "temperature_c": "Degrees Celsius of its hottest point.",
    "battery_level": "How full the battery is, 0 to 1.",
    "gpu_load": "Share of the GPU that is used, 0 to 1.",
    "cpu_load": "Share of the processor that is used, 0 to 1.",
}


class Metrics:
    """The counters of one server. Names follow vLLM's where it has the same figure."""

    def __init__(self, slots: Slots) -> None:
        self.registry = registry = CollectorRegistry()

        def counter(name: str, about: str, *labels: str) -> Counter:
            return Counter(name, about, labels, namespace="balcony", registry=registry)

        def histogram(name: str, about: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(name, about, buckets=buckets, namespace="balcony", registry=registry)

        self._tokens = counter("tokens", "Emitted tokens by depth and source.", "depth", "source")
        self._prompt = counter("prompt_tokens", "Tokens of prompts.")
        self._cached = counter("prompt_tokens_cached", "Tokens of prompts that were in the caches.")
        self._replies = counter("replies", "Replies by why they ended.", "ended_by")
        self._requests = counter("requests", "Answered requests by path and status.", "path", "status")
        self._drafts = counter("spec_decode_num_draft_tokens", "Drafts that were held for a deep pass.")
        self._accepted = counter("spec_decode_num_accepted_tokens", "Drafts that it accepted.")
        self._verified = counter("verified_tokens", "Tokens of exits that were compared with the full model's.")
        self._agreed = counter("agreed_tokens", "Those of them that agreed.")
        self._missed = counter("budget_missed_replies", "Replies whose mean token cost more than the budget.")
        self._joules = counter("joules", "Energy of the whole device while replies ran.")
        self._first = histogram("time_to_first_token_seconds", "From the slot to the first token.", FIRST_S)
        self._each = histogram("inter_token_seconds", "Time of each token after the first.", TOKEN_S)
        self._by_source: dict[tuple[int, str], Counter] = {}
        registry.register(_Now(slots))

    def token(self, token: Token, full: int, is_first: bool) -> None:
        """A token was emitted. Those that came along with others took no time of their own."""
        drafted_at = token.drafted_at
        if drafted_at is None:
            key = token.depth, "full" if token.depth == full else "exit"
        else:
            source = SOURCES.get(drafted_at)
            key = (drafted_at, "draft") if source is None else (token.depth, source)
        counter = self._by_source.get(key)
        if counter is None:
            counter = self._by_source[key] = self._tokens.labels(str(key[0]), key[1])
        counter.inc()
        if not is_first:
            self._each.observe(token.latency_ms / 1e3)

    def reply(self, report: Report, power_w: float | None) -> None:
        """A reply ended."""
        self._replies.labels(report.ended_by or "interrupted").inc()
        self._prompt.inc(report.prompt_tokens)
        self._cached.inc(report.reused_tokens)
        self._drafts.inc(report.drafted)
        self._accepted.inc(report.accepted)
        self._verified.inc(report.verified)
        self._agreed.inc(report.agreed)
        if report.first_token_ms is not None:
            self._first.observe(report.first_token_ms / 1e3)
        if report.mean_ms is not None:
            if report.budget_ms is not None and report.mean_ms > report.budget_ms:
                self._missed.inc()
            if power_w is not None:
                self._joules.inc(power_w * report.mean_ms * report.tokens / 1e3)

    def request(self, path: str, status: int) -> None:
        """A request was answered."""
        self._requests.labels(path, str(status)).inc()

    def text(self) -> bytes:
        """All figures now."""
        return generate_latest(self.registry)


class _Now(Collector):
    """Figures that are read when somebody asks."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._process = psutil.Process()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The gauges."""
        slots = self._slots
        yield GaugeMetricFamily("balcony_slots_busy", "Slots that answer a request.", slots.busy)
        yield GaugeMetricFamily("balcony_slots", "Slots.", slots.count)
        yield GaugeMetricFamily("balcony_requests_waiting", "Requests that wait for a slot.", slots.waiting)
        yield GaugeMetricFamily("balcony_memory_bytes", "Resident memory.", self._process.memory_info().rss)
        if (budget_ms := slots.budget.latency_ms) is not None:
            yield GaugeMetricFamily("balcony_budget_ms", "Milliseconds that a token may take.", budget_ms)
        overspend = GaugeMetricFamily("balcony_overspend_ms", "Milliseconds spent beyond the budget.", labels=("slot",))
        price = GaugeMetricFamily("balcony_price", "Agreement that a millisecond must buy.", labels=("slot",))
        for slot in slots.slots:
            overspend.add_metric((str(slot.number),), slot.session.governor.overspend_ms)
            price.add_metric((str(slot.number),), slot.session.governor.price)
        yield overspend
        yield price
        snapshot = slots.loaded.sensors.snapshot
        for name, about in SIGNALS.items():
            value = getattr(snapshot, name).value
            if value is not None:
                yield GaugeMetricFamily(f"balcony_{name}", about, value)
