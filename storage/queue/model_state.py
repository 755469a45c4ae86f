"""What the model process has in memory, told in a file of the data directory.

The file outlives the process: it counts only while the process holds its lock.
"""

import json
import os
from pathlib import Path
from typing import Any

from storage.locks import held

LOCK = "answerer.lock"
STATE = "answerer.json"
ASLEEP = {"state": "asleep", "models": None}


def tell(data_dir: Path, state: str, models: dict[str, Any] | None) -> None:
    """`state`: "loading", "ready", or "awake" with nothing loaded; `models` says which ones."""
    aside = data_dir / f".{STATE}.partial"
    aside.write_text(json.dumps({"state": state, "models": models}), encoding="utf-8")
    os.replace(aside, data_dir / STATE)


def model_state(data_dir: Path) -> dict[str, Any]:
    """{"state": "asleep" (no process), "awake", "loading" or "ready", "models": … or None}."""
    if not held(data_dir / LOCK):
        return dict(ASLEEP)
    try:
        found = json.loads((data_dir / STATE).read_text(encoding="utf-8"))
        return {"state": str(found["state"]), "models": found["models"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {"state": "awake", "models": None}
