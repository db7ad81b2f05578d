"""What happens in the server, for Prometheus. Nothing here tells what anybody searched for."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from aladin.search.timing import Seconds

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """The counters of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter("aladin_requests", "Requests answered.", ("method", "route", "status"), registry=self.registry)
        self._seconds = Histogram(
            "aladin_request_seconds",
            "From a request's head to its answer.",
            ("route",),
            buckets=BUCKETS,
            registry=self.registry,
        )
        self._stages = Histogram(
            "aladin_stage_seconds", "Stages of a search, and the making of pictures.", ("stage",), buckets=BUCKETS,
            registry=self.registry,
        )  # fmt: skip
        self.queue = Gauge("aladin_queue_depth", "Searches at work or waiting.", registry=self.registry)
        self.rows = Gauge("aladin_index_rows", "Images of the collection.", ("status",), registry=self.registry)
        self.generation = Gauge("aladin_index_generation", "Grows with every change.", registry=self.registry)
        self.failed = Gauge("aladin_images_failed", "Files that could not be read.", ("reason",), registry=self.registry)

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        known = method if method in ("GET", "POST", "DELETE", "HEAD", "OPTIONS", "PUT", "PATCH") else "other"
        self._requests.labels(known, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def searched(self, seconds: Seconds) -> None:
        for stage in ("encode", "nearest", "gather", "align"):
            self.stage(stage, getattr(seconds, stage))

    def stage(self, stage: str, seconds: float) -> None:
        self._stages.labels(stage).observe(seconds)

    def as_text(self) -> bytes:
        return generate_latest(self.registry)
