"""Measure the demo's latency: from a pointer move until its answer is painted.

    python scripts/latency.py

Starts the demo, draws 16 strokes on its page in headless Chromium and prints a table of
milliseconds. Needs the extra `dev` and a `chromium` on the path.
"""

import math
import shutil
import subprocess
import sys

import numpy as np
from playwright.sync_api import sync_playwright

PARTS = [
    "from the move until the drawing is sent: the answer before, and the PNG",
    "the request, until its answer begins",
    "its body, decoded and drawn",
    "until it is painted",
    "**from move to painted**",
]
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
# Records, for each answer, the time of the last move before its request, and of each part's end.
WATCH = """
window.answers = [];
let moved = 0;
for (const type of ["pointermove", "pointerrawupdate"]) {
  addEventListener(type, (event) => { moved = Math.max(moved, event.timeStamp); }, true);
}
const original = window.fetch;
window.fetch = async (path, options) => {
  if (!path.startsWith("see")) return original(path, options);
  const times = [moved, performance.now()];
  const response = await original(path, options);
  times.push(performance.now());
  const json = response.json.bind(response);
  response.json = async () => {
    const answer = await json();
    setTimeout(() => {  // after the page has drawn it
      times.push(performance.now());
      requestAnimationFrame(() => {
        const channel = new MessageChannel();
        channel.port1.onmessage = () => answers.push([...times, performance.now()]);
        channel.port2.postMessage(0);
      });
    });
    return answer;
  };
  return response;
};
"""


def draw(address: str) -> np.ndarray:
    """Draw on the page at an address; return each answer's five times, `(N, 5)`, in ms."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.add_init_script(WATCH)
        page.goto(address)
        while "of 10,000" not in page.inner_text("#tested"):  # until the server is idle
            page.wait_for_timeout(300)
        box = page.locator("#board").bounding_box()
        assert box
        for stroke in range(16):
            left, top = box["x"] + 100 + 60 * (stroke % 2), box["y"] + 80
            if stroke % 2 == 0:
                page.keyboard.press("Escape")
            page.mouse.move(left, top)
            page.mouse.down()
            for i in range(60):
                page.mouse.move(left + 120 * math.sin(i / 12), top + 260 * i / 60)
                page.wait_for_timeout(8)
            page.mouse.up()
        page.wait_for_timeout(500)
        times = np.array(page.evaluate("answers"))
        browser.close()
    return times


def main() -> None:
    """Run the demo, draw, and print the table."""
    command = [sys.executable, "-m", "mnist_lightning", "demo", "--no_browser", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        try:
            times = draw(server.stdout.readline().split()[2])
        finally:
            server.terminate()
    parts = np.column_stack([np.diff(times, axis=1), times[:, -1] - times[:, 0]])
    parts = parts[parts[:, 0] < 200]  # clearing sends a request long after the last move
    print(f"n = {len(parts)} answers\n\n| part | p50 | p95 |\n|---|---|---|")
    for name, values in zip(PARTS, parts.T, strict=True):
        print(f"| {name} | {np.percentile(values, 50):.1f} | {np.percentile(values, 95):.1f} |")


if __name__ == "__main__":
    main()
