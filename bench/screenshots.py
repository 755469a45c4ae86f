"""Takes a picture of every page and state of a running server, light and dark, in two widths;
and in the hand (390, touch) and at 150% (853) with --widths.

    python -m bench.screenshots http://127.0.0.1:7860/?token=… --out docs/pictures [--only NAME]
        [--prefix smollm-] [--rollout ID] [--widths 1280]

The newest run with probes is shown, best a finished demo run; with a second run beside it, Compare
has something to compare.
"""

import argparse
import io
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from bench.support.chromium import CHROMIUM

SIZES: dict[int, dict[str, Any]] = {
    1280: {"viewport": {"width": 1280, "height": 800}},
    1920: {"viewport": {"width": 1920, "height": 1080}},
    853: {"viewport": {"width": 853, "height": 533}, "device_scale_factor": 1.5},
    390: {
        "viewport": {"width": 390, "height": 844},
        "device_scale_factor": 2,
        "has_touch": True,
        "is_mobile": True,
    },
}
QUALITY = 62
READY = '#token-view[data-ready="true"]'


def states_of(page: Page, site: str, shown: str) -> dict[str, tuple[str, list[str]]]:
    """Name → address, and what to do there: keys, or "scroll SELECTOR". `shown` is the rollout to
    show; the worst wrong one where it is empty."""

    def read(path: str) -> Any:
        return page.request.get(f"{site}/api/v1/{path}").json()["items"]

    runs = read("runs?limit=3")
    run = runs[0]["id"]
    states: dict[str, tuple[str, list[str]]] = {
        "runs": ("/", []),
        "new": ("/new", []),
        "run": (f"/run?id={run}", []),
        "disagreement": (f"/run?id={run}", ["scroll .insights"]),
        "rollouts": (f"/rollouts?run={run}", []),
        "compare": (f"/compare?runs={','.join(r['id'] for r in runs)}", []),
        "playground": ("/playground", []),
        "tour": (f"/tour?run={run}", []),
        "tour-token": (f"/tour?run={run}&step=2", []),
        "experiments": ("/experiments", []),
        "endpoints": ("/endpoints", []),
    }
    for experiment in read("experiments?limit=1"):
        states["experiment"] = (f"/experiment?id={experiment['id']}", [])
    worst = read(f"runs/{run}/rollouts?sort=-kl_sum&limit=1&correct=false")[0]["id"]
    rollout = f"/rollout?id={shown or worst}"
    states |= {
        "rollout": (rollout, ["n"]),
        "signed": (f"{rollout}&metric=log_ratio", ["n"]),
        "what-if": (f"{rollout}&tab=what-if", ["n"]),
        "loss-lab": (f"{rollout}&tab=loss-lab", ["n"]),
        "keys": (rollout, ["?"]),
    }
    for probe in read(f"runs/{run}/rollouts?kind=probe&step=0&sort=-kl_sum&limit=1"):
        states["over-time"] = (f"/rollout?id={probe['id']}&tab=over-time", ["n"])
        for other in read_related(page, site, probe["id"]):
            states["side-by-side"] = (
                f"/rollout?id={probe['id']}&with={other}&tab=over-time",
                [],
            )
    return states


def read_related(page: Page, site: str, rollout_id: str) -> list[str]:
    """The newest other answer to the same prompt."""
    answer = page.request.get(f"{site}/api/v1/rollouts/{rollout_id}/related").json()
    others = [r for r in answer["items"] if not r["same_completion"]]
    return [str(r["id"]) for r in sorted(others, key=lambda r: r["step"])[-1:]]


def shoot(page: Page, address: str, keys: list[str], file: Path, settle: int) -> None:
    page.goto(address)
    if "/rollout?" in address:
        page.wait_for_selector(READY)
    page.wait_for_timeout(settle)
    for key in keys:
        if key.startswith("scroll "):
            page.locator(key.removeprefix("scroll ")).evaluate("(e) => e.scrollIntoView()")
            page.wait_for_timeout(settle)
        else:
            page.keyboard.press(key)
    page.wait_for_timeout(settle if keys else 0)
    with Image.open(io.BytesIO(page.screenshot())) as picture:
        picture.convert("RGB").save(file, quality=QUALITY, method=6)
    print(file, file.stat().st_size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("link")
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"))
    parser.add_argument("--only", default="")
    parser.add_argument("--rollout", default="", help="which one to show")
    parser.add_argument("--prefix", default="", help="of the pictures' names")
    parser.add_argument("--widths", default="1280,1920")
    parser.add_argument("--settle", type=int, default=2000, help="milliseconds to draw a page")
    options = parser.parse_args()
    parts = urlsplit(options.link)
    site = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
    options.out.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        for width in map(int, options.widths.split(",")):
            for scheme in ("light", "dark"):
                context = browser.new_context(**SIZES[width], color_scheme=scheme)
                page = context.new_page()
                page.goto(options.link)
                for name, (path, keys) in states_of(page, site, options.rollout).items():
                    if options.only in ("", name):
                        file = options.out / f"{options.prefix}{name}-{width}-{scheme}.webp"
                        shoot(page, site + path, keys, file, options.settle)
                context.close()
        browser.close()


if __name__ == "__main__":
    main()
