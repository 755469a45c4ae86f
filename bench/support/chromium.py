"""The Chromium that tests and benchmarks drive."""

import os
from pathlib import Path

# The first draws no window around its pages and takes a third of the other's processor time.
INSTALLED = (Path("/usr/bin/chromium-headless-shell"), Path("/usr/bin/chromium"))
CHROMIUM = Path(
    os.environ.get("OPD_CHROMIUM") or next(filter(Path.exists, INSTALLED), INSTALLED[-1])
)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
