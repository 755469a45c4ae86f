"""Takes a picture of every page of a running server, light and dark.

    python -m bench.screenshots http://127.0.0.1:7860/?token=… --out docs/pictures [--full]

Without --full the pictures of the documentation: 1280 wide, in 128 colours to be small.
"""

import argparse
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from PIL import Image
from playwright.sync_api import Page, sync_playwright

CHROMIUM = os.environ.get("OPD_CHROMIUM", "/usr/bin/chromium")
SIZES = {1280: 800, 1920: 1080}
SETTLE_MS = 2500
COLOURS = 128


def pages_of(page: Page, site: str) -> dict[str, str]:
    """Addresses by name: of the newest run, and of its worst rollout."""

    def read(path: str) -> Any:
        return page.request.get(f"{site}/api/v1/{path}").json()["items"]

    found = {"runs": "/", "new": "/new"}
    for run in read("runs?limit=1"):
        found |= {"run": f"/run?id={run['id']}", "rollouts": f"/rollouts?run={run['id']}"}
        for rollout in read(f"runs/{run['id']}/rollouts?sort=-kl_sum&limit=1"):
            found["rollout"] = f"/rollout?id={rollout['id']}"
            found["signed"] = f"/rollout?id={rollout['id']}&metric=log_ratio"
    return found


def shoot(page: Page, address: str, file: Path) -> None:
    page.goto(address)
    if "/rollout?" in address:
        page.wait_for_selector('#token-view[data-ready="true"]')
        page.keyboard.press("n")
    page.wait_for_timeout(SETTLE_MS)
    page.screenshot(path=str(file))
    with Image.open(file) as picture:
        picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(file, optimize=True)
    print(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("link")
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"))
    parser.add_argument("--full", action="store_true")
    chosen = parser.parse_args()
    parts = urlsplit(chosen.link)
    site = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
    chosen.out.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for width in SIZES if chosen.full else (1280,):
            for scheme in ("light", "dark"):
                size = {"width": width, "height": SIZES[width]}
                context = browser.new_context(viewport=size, color_scheme=scheme)
                page = context.new_page()
                page.goto(chosen.link)
                for name, path in pages_of(page, site).items():
                    suffix = f"-{width}-{scheme}" if chosen.full else f"-{scheme}"
                    shoot(page, site + path, chosen.out / f"{name}{suffix}.png")
                context.close()
        browser.close()


if __name__ == "__main__":
    main()
