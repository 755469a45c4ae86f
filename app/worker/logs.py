"""The job's log: lines with their time, without secrets."""

import logging
import sys
from pathlib import Path

from app.worker.errors import redact
from opd.types import (
    CheckpointEvent,
    EndEvent,
    EvaluationEvent,
    Event,
    ModelsEvent,
    PhaseEvent,
    PromptsEvent,
    StepEvent,
)

FORMAT = "%(asctime)s %(levelname)-7s %(message)s"
TAIL_BYTES = 4096


class RedactingFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


class BriefFormatter(logging.Formatter):
    """Time and message, without a traceback: that one is in the file."""

    def format(self, record: logging.LogRecord) -> str:
        level = "warning: " if record.levelno == logging.WARNING else ""
        return redact(f"{self.formatTime(record, '%H:%M:%S')} {level}{record.getMessage()}")


def start_log(path: Path | None = None) -> None:
    """Sends all logging to the file, or to standard error, which a job's starter redirects."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    if path is not None:
        handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(RedactingFormatter(FORMAT, "%Y-%m-%d %H:%M:%S"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(True)
    for noisy in ("httpx", "httpcore", "urllib3", "filelock", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def line_of(event: Event, steps: int) -> str:
    """What the log says about an event."""
    match event:
        case PhaseEvent(text):
            return text
        case ModelsEvent():
            sizes = ", ".join(f"{n} {p / 1e6:.2f}M" for n, p in event.parameters.items())
            return f"models loaded on {event.device}: {sizes}"
        case PromptsEvent():
            evaluation = ", ".join(map(str, event.evaluation))
            return f"{event.train:,} training prompts; evaluation on {evaluation}"
        case StepEvent():
            shown = (("KL", "reverse_kl"), ("reward", "reward"), ("loss", "loss"))
            parts = [f"{n} {event.metrics[k]:.3f}" for n, k in shown if k in event.metrics]
            took = f"{sum(event.seconds.values()):.1f} s"
            return "  ".join([f"step {event.step}/{steps}", *parts, took])
        case EvaluationEvent(step, scores=[]):
            return f"first rollouts after step {step}"
        case EvaluationEvent():
            scores = [
                f"{s.suite} {s.metric} {s.value:.3f} ± {s.standard_error:.3f} (n = {s.n})"
                for s in event.scores
            ]
            return f"evaluation after step {event.step}: {', '.join(scores)}"
        case CheckpointEvent():
            return f"checkpoint after step {event.step}: {event.path}"
        case EndEvent(reason):
            return f"the run ends here: {reason}"


def last_line(path: Path) -> str:
    """The log's last line that says something, cut to 300 characters."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - TAIL_BYTES))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")
