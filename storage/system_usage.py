"""What a run's machine did over time: a line of JSON for each sample, in the run's folder.

A file and not a table, so that sampling waits for no lock of the database. It stays small: when it
has MOST_SAMPLES, every other one goes and the next ones are taken half as often.
"""

import json
from collections.abc import Mapping
from typing import Any

from opd.files import written_aside
from storage.data_dir import RunDir

MOST_SAMPLES = 1_440  # of a week, one every 11 minutes
EVERY = 5.0  # seconds between the first samples
TIME, PAUSE = "time", "every"  # seconds since 1970; seconds until the next sample


class SystemUsageWriter:
    """Appends samples to the run's file, after those of earlier attempts."""

    def __init__(self, run: RunDir, every: float = EVERY) -> None:
        self._run, self._path = run, run.system_usage
        samples = read_samples(run)
        self._count = len(samples)
        self.every = max(every, float(samples[-1][PAUSE])) if samples else every

    def append(self, time: float, values: Mapping[str, float]) -> None:
        """Raises OSError where it cannot be written."""
        line = json.dumps({TIME: round(time, 1), PAUSE: self.every, **values}) + "\n"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line)
        self._count += 1
        if self._count >= MOST_SAMPLES:
            self._thin()

    def _thin(self) -> None:
        samples = [{**s, PAUSE: 2 * s[PAUSE]} for s in read_samples(self._run)[::-2][::-1]]
        with written_aside(self._path) as aside:
            aside.write_text("".join(json.dumps(s) + "\n" for s in samples), encoding="utf-8")
        self._count, self.every = len(samples), 2 * self.every


def read_samples(run: RunDir) -> list[dict[str, Any]]:
    """The samples, oldest first; a line that is not whole is left out, as after a crash."""
    try:
        return _samples(run.system_usage.read_bytes())
    except OSError:
        return []


def _samples(content: bytes) -> list[dict[str, Any]]:
    samples = []
    for line in content.decode("utf-8", "replace").splitlines():
        try:
            sample = json.loads(line)
        except ValueError:
            continue
        if isinstance(sample, dict) and {TIME, PAUSE} <= sample.keys():
            samples.append(sample)
    return samples


def usage_columns(content: bytes) -> dict[str, Any]:
    """{"columns": {"time", "every", and each figure that was measured}}, None where it was not; of
    the content of a run's file."""
    samples = _samples(content)
    names = dict.fromkeys(name for sample in samples for name in sample)
    return {"columns": {name: [sample.get(name) for sample in samples] for name in names}}
