"""What the server measures of itself, as Prometheus text: each phase of a request, batches, the queue, energy."""

import threading
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from engine.runtime.batching import Scheduler
from engine.runtime.energy import EnergyMeter
from engine.runtime.request import BatchReport

PATHS = frozenset({"/v1/embeddings", "/embed", "/info", "/health", "/metrics"})
"""Counted by name; all others together, or anybody could fill the memory with names."""
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_TOKENS = (16, 32, 64, 128, 256, 512, 1024, 2048)
_SHARES = (0.1, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.8, 1.0, 1.2)
TRACED_EVERY = 50
"""One request of so many tells its active share; to know it costs time."""


class Metrics:
    """Counters of one server. Safe to use from several threads.

    Args:
        scheduler: the queue; it is asked when somebody reads.
        meter: the energy.
        connections: number of open connections.
    """

    def __init__(self, scheduler: Scheduler, meter: EnergyMeter, connections: Callable[[], int]) -> None:
        self.registry = registry = CollectorRegistry(auto_describe=False)
        self._meter, self._joules_before = meter, meter.joules()
        self._made, self._lock = 0, threading.Lock()
        self.requests = Counter(
            "siftline_requests", "Answers by path and status", ["path", "status"], registry=registry
        )
        self.request_s = self._histogram("siftline_request_seconds", "Body read to answer, answered ones", _SECONDS)
        self.tokenize_s = self._histogram("siftline_tokenize_seconds", "Text to tokens, by request", _SECONDS)
        self.queue_s = self._histogram("siftline_queue_seconds", "A text's wait for a batch", _SECONDS)
        self.infer_s = self._histogram("siftline_infer_seconds", "A batch in the model", _SECONDS)
        self.batch_texts = self._histogram("siftline_batch_texts", "Texts in a batch", _TEXTS)
        self.batch_tokens = self._histogram("siftline_batch_tokens", "Tokens in a batch", _TOKENS)
        self.active = self._histogram(
            "siftline_active_fraction", f"Working share of the parent's layer parameters, 1 of {TRACED_EVERY}", _SHARES
        )
        self.failed = Counter("siftline_failed_batches", "Batches in which the model raised", registry=registry)
        self.texts = Counter("siftline_embeddings", "Texts that were given a vector", registry=registry)
        self._gauge("siftline_queued_texts", "Texts that wait", lambda: scheduler.queued[0])
        self._gauge("siftline_queued_tokens", "Tokens that wait", lambda: scheduler.queued[1])
        self._gauge("siftline_connections", "Open connections", connections)
        source = "estimated" if meter.estimated else "measured"
        words = f"since the start, {source}: {meter.source}"
        self._gauge("siftline_energy_joules", f"Energy {words}", self.joules, estimated=meter.estimated)
        self._gauge(
            "siftline_joules_per_1000_embeddings",
            f"Energy by vectors {words}",
            self.joules_per_1000,
            estimated=meter.estimated,
        )

    def answered(self, path: str, status: int) -> None:
        """An answer begins. Args: path of the request; status."""
        self.requests.labels(path if path in PATHS else "other", status).inc()

    def batch(self, report: BatchReport) -> None:
        """One batch is done; for `Scheduler.on_batch`."""
        self.infer_s.observe(report.infer_s)
        self.batch_texts.observe(report.texts)
        self.batch_tokens.observe(report.tokens)
        for waited in report.queue_s:
            self.queue_s.observe(waited)
        self.failed.inc(report.failed)
        self.texts.inc(report.made)
        with self._lock:
            self._made += report.made

    def joules(self) -> float:
        """Energy since the server started."""
        return self._meter.joules() - self._joules_before

    def joules_per_1000(self) -> float:
        """Energy by 1,000 vectors; 0 before the first one."""
        return 1000 * self.joules() / self._made if self._made else 0.0

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)

    def _histogram(self, name: str, words: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, words, buckets=buckets, registry=self.registry)

    def _gauge(self, name: str, words: str, value: Callable[[], float], *, estimated: bool | None = None) -> None:
        if estimated is None:
            Gauge(name, words, registry=self.registry).set_function(value)
        else:
            gauge = Gauge(name, words, ["estimated"], registry=self.registry)
            gauge.labels("yes" if estimated else "no").set_function(value)
