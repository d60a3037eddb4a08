"""Draw a number on the demo's page, and save how it looks as docs/demo.png.

    python scripts/demo_picture.py

Needs the extra `dev` and a `chromium` on the path.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from latency import FLAGS
from playwright.sync_api import sync_playwright

PICTURE = Path(__file__).parents[1] / "docs/demo.png"
# The strokes of 2, 4 and 7, points as shares of the board.
STROKES = [
    [(0.08, 0.35), (0.15, 0.28), (0.24, 0.33), (0.22, 0.48), (0.08, 0.68), (0.28, 0.68)],
    [(0.42, 0.28), (0.36, 0.5), (0.55, 0.5)],
    [(0.5, 0.36), (0.5, 0.7)],
    [(0.68, 0.3), (0.9, 0.3), (0.78, 0.7)],
]


def main() -> None:
    """Run the demo, draw, and save the picture."""
    command = [sys.executable, "-m", "mnist_lightning", "demo", "--no_browser", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        try:
            with sync_playwright() as playwright:
                chromium = playwright.chromium
                browser = chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
                page = browser.new_page(viewport={"width": 1280, "height": 770})
                page.goto(server.stdout.readline().split()[2])
                while "of 10,000" not in page.inner_text("#tested"):  # until all mistakes are known
                    page.wait_for_timeout(300)
                box = page.locator("#board").bounding_box()
                assert box
                for stroke in STROKES:
                    points = [(box["x"] + x * 420, box["y"] + y * 420) for x, y in stroke]
                    page.mouse.move(*points[0])
                    page.mouse.down()
                    for point in points[1:]:
                        page.mouse.move(*point, steps=8)
                    page.mouse.up()
                page.mouse.move(0, 0)
                page.wait_for_timeout(1000)
                page.screenshot(path=PICTURE)
                browser.close()
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
