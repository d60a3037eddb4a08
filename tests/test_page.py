import contextlib
import io
import re
import shutil
from base64 import b64encode
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from conftest import served
from PIL import Image
from torch import nn

from mnist_lightning.checkpoint import load
from mnist_lightning.commands import demo
from mnist_lightning.commands.server import LOOPBACK
from mnist_lightning.data.datasets import read_test_set
from mnist_lightning.network import ConvNet
from mnist_lightning.text import percent

pytestmark = pytest.mark.slow
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
CHROMIUM = shutil.which("chromium")
if not CHROMIUM:
    pytest.skip("needs chromium", allow_module_level=True)

OFFLINE = ["disable-background-networking", "disable-component-update", "disable-sync"]
ONE = [(0.52, 0.2 + 0.06 * i) for i in range(11)]
SEVEN = [(0.3 + 0.04 * i, 0.22) for i in range(11)]
SEVEN += [(0.7 - 0.025 * i, 0.22 + 0.055 * i) for i in range(1, 12)]
# Counts the questions to the server, and how many of them are open at once at most.
COUNT = """
window.asked = 0; window.open = 0; window.most = 0;
const fetch = window.fetch;
window.fetch = async (path, options) => {
  if (path !== "see") return fetch(path, options);
  window.asked += 1; window.open += 1; window.most = Math.max(window.most, window.open);
  try { return await fetch(path, options); } finally { window.open -= 1; }
};
"""
# Gives the page a file as a drop or a paste does.
GIVE = """([how, base64, name]) => {
  const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes], name));
  document.dispatchEvent(how === "drop"
    ? new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true })
    : new ClipboardEvent("paste", { clipboardData: data, bubbles: true }));
}"""
SEEN = """() => {
  const pixels = document.getElementById("image").getContext("2d").getImageData(0, 0, 28, 28).data;
  return Array.from(pixels).filter((_, i) => i % 4 === 0);
}"""
# The contrast of text on the page's ground, by WCAG's formula.
CONTRAST = """(selector) => {
  const luminance = (element, property) => {
    const parts = getComputedStyle(element)[property].match(/[0-9.]+/g).slice(0, 3);
    const [r, g, b] = parts.map((part) => part / 255).map(
      (part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const pair = [luminance(document.querySelector(selector), "color"),
                luminance(document.documentElement, "backgroundColor")].sort((a, b) => b - a);
  return (pair[0] + 0.05) / (pair[1] + 0.05);
}"""


@contextlib.contextmanager
def serve(network: nn.Module) -> Iterator[str]:
    with served(demo.create_app(network, LOOPBACK)) as (address, _):
        yield address


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serve(load()) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator["playwright.Browser"]:
    arguments = ["--no-sandbox", "--disable-gpu", *(f"--{name}" for name in OFFLINE)]
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def complaints() -> list[str]:
    """Collects errors on the page, and what it asks of other hosts; it must end empty."""
    return []


@pytest.fixture
def page(
    browser: "playwright.Browser",
    address: str,
    complaints: list[str],
    request: pytest.FixtureRequest,
) -> Iterator["playwright.Page"]:
    context = browser.new_context(**getattr(request, "param", {}))
    page = context.new_page()
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "request",
        lambda asked: asked.url.startswith((address, "blob:")) or complaints.append(asked.url),
    )
    page.add_init_script(COUNT)
    page.goto(address)
    yield page
    context.close()
    assert complaints == []


def draw(page: "playwright.Page", points: list[tuple[float, float]]) -> None:
    """Draw a line on the board, and leave the button down."""
    box = page.locator("#board").bounding_box()
    assert box is not None
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=3)


def expect_digit(page: "playwright.Page", digit: object) -> None:
    playwright.expect(page.locator("#digit")).to_have_text(str(digit))


def wait_until(page: "playwright.Page", condition: Callable[[], bool]) -> None:
    """Wait for what does not stand on the page, as `expect` does for what does."""
    for _ in range(200):
        if condition():
            return
        page.wait_for_timeout(50)
    assert condition()


def picture(index: int) -> bytes:
    """Return a photograph of a kind, dark on light, of a test digit."""
    image = Image.fromarray(255 - read_test_set()[0][index].numpy())
    file = io.BytesIO()
    image.resize((300, 300), Image.Resampling.BICUBIC).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(("points", "digit"), [(ONE, 1), (SEVEN, 7)], ids=["1", "7"])
def test_the_answer_comes_while_the_line_is_drawn(
    page: "playwright.Page", points: list[tuple[float, float]], digit: int
) -> None:
    expect_digit(page, "?")
    draw(page, points)
    expect_digit(page, digit)
    playwright.expect(page.locator("#bars .first")).to_contain_text(str(digit))
    page.mouse.up()
    expect_digit(page, digit)
    assert any(page.evaluate(SEEN))


def test_the_server_has_one_question_at_a_time_and_the_last_is_about_the_whole(
    page: "playwright.Page",
) -> None:
    draw(page, SEVEN)
    page.mouse.up()
    page.keyboard.press("Escape")
    draw(page, ONE)
    page.mouse.up()
    expect_digit(page, 1)
    wait_until(page, lambda: page.evaluate("window.open") == 0)
    expect_digit(page, 1)
    assert page.evaluate("window.most") == 1
    moves = 3 * (len(SEVEN) + len(ONE))
    assert 2 < page.evaluate("window.asked") <= moves
    drawn = np.array(page.evaluate(SEEN))
    page.keyboard.press("Escape")
    page.keyboard.press("Control+z")  # asks again, about the finished drawing
    wait_until(page, lambda: np.abs(page.evaluate(SEEN) - drawn).max() < 64)  # but for its edges


def test_undo_takes_back_a_stroke_and_a_clearing(page: "playwright.Page") -> None:
    draw(page, SEVEN)
    page.mouse.up()
    expect_digit(page, 7)
    page.click("#clear")
    expect_digit(page, "?")
    assert not any(page.evaluate(SEEN))
    page.click("#undo")
    expect_digit(page, 7)
    page.keyboard.press("Escape")
    expect_digit(page, "?")
    page.keyboard.press("Control+z")
    expect_digit(page, 7)
    page.keyboard.press("Control+z")
    expect_digit(page, "?")
    playwright.expect(page.locator("#hint")).to_have_css("opacity", "1")


def test_a_test_digit_is_loaded_by_keyboard_and_seen_unchanged(page: "playwright.Page") -> None:
    tile = page.locator("#samples button").nth(4)
    index = int(tile.locator("img").get_attribute("src").split("/")[1].removesuffix(".png"))
    tile.focus()
    assert tile.evaluate("element => getComputedStyle(element).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    playwright.expect(page.locator("#note")).to_contain_text("labeled 4")
    image = read_test_set()[0][index].flatten().tolist()
    wait_until(page, lambda: page.evaluate(SEEN) == image)


def test_a_digit_that_is_read_wrongly_is_shown_with_its_label(page: "playwright.Page") -> None:
    tile = page.locator("#mistakes button").first
    tile.wait_for(timeout=120_000)  # the network reads some hundreds before it fails
    label, answer = tile.inner_text().split(" → ")
    assert label != answer
    tile.click()
    expect_digit(page, answer)
    playwright.expect(page.locator("#note")).to_contain_text(f"labeled {label}")


@pytest.mark.parametrize("how", ["drop", "paste", "choose"])
def test_a_picture_is_read_however_it_comes(page: "playwright.Page", how: str) -> None:
    if how == "choose":
        file = {"name": "seven.png", "mimeType": "image/png", "buffer": picture(0)}
        page.set_input_files("#file", file)
    else:
        page.evaluate(GIVE, [how, b64encode(picture(0)).decode(), "seven.png"])
    expect_digit(page, 7)
    playwright.expect(page.locator("#note")).to_have_text("seven.png")
    draw(page, ONE)  # begins a new drawing, and undo brings the picture back
    page.mouse.up()
    expect_digit(page, 1)
    page.click("#undo")
    expect_digit(page, 7)


def test_a_files_other_pages_are_told_of(page: "playwright.Page") -> None:
    file = io.BytesIO()
    first, second = (Image.open(io.BytesIO(picture(index))) for index in (0, 1))
    first.save(file, "TIFF", save_all=True, append_images=[second])
    page.evaluate(GIVE, ["drop", b64encode(file.getvalue()).decode(), "scan.tif"])
    expect_digit(page, 7)
    playwright.expect(page.locator("#note")).to_have_text("scan.tif, the first of 2 pages")


def test_what_is_no_picture_leaves_the_drawing_as_it_was(
    page: "playwright.Page", complaints: list[str]
) -> None:
    draw(page, SEVEN)
    page.mouse.up()
    expect_digit(page, 7)
    page.evaluate(GIVE, ["drop", b64encode(b"hello").decode(), "hello.txt"])
    playwright.expect(page.locator("#note.wrong")).to_contain_text("hello.txt: not a picture")
    expect_digit(page, 7)
    page.click("#undo")
    expect_digit(page, "?")
    assert len(complaints) == 1 and "400" in complaints.pop()  # the browser notes the refusal


def test_a_share_is_written_as_by_all_other_commands(page: "playwright.Page") -> None:
    shares = [0, 0.0004, 0.00099, 0.001, 0.0123, 0.5, 0.9, 0.9989, 0.9991, 0.9996, 1]
    code = re.search(r"const percent = (.*?);\n", (demo.PAGE / "script.js").read_text(), re.S)
    assert code
    written = page.evaluate(f"(shares) => shares.map({code[1]})", shares)
    assert written == [percent(share) for share in shares]


@pytest.mark.parametrize(
    "page",
    [{"viewport": {"width": width, "height": 740}} for width in (360, 800, 1280)],
    indirect=True,
)
def test_no_width_needs_scrolling_sideways(page: "playwright.Page") -> None:
    page.locator("#samples img").nth(9).wait_for()
    draw(page, SEVEN)
    page.mouse.up()
    expect_digit(page, 7)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("page", [{"has_touch": True, "is_mobile": True}], indirect=True)
def test_a_finger_draws_and_does_not_scroll(page: "playwright.Page") -> None:
    session = page.context.new_cdp_session(page)
    box = page.locator("#board").bounding_box()
    for i, (x, y) in enumerate(SEVEN):
        place = {"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"]}
        kind = "touchMove" if i else "touchStart"
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [place]})
    expect_digit(page, 7)
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    assert page.evaluate("scrollY") == 0


@pytest.mark.parametrize(
    "page", [{"color_scheme": "light"}, {"color_scheme": "dark"}], indirect=True
)
def test_text_is_legible_by_day_and_night(page: "playwright.Page") -> None:
    draw(page, SEVEN)
    page.mouse.up()
    expect_digit(page, 7)
    for selector in ("h1", "#note", "#digit", "#probability", "#bars li", "#bars .first", "kbd"):
        assert page.evaluate(CONTRAST, selector) >= 4.5, selector


def test_a_layer_without_maps_is_not_shown(browser: "playwright.Browser") -> None:
    with serve(ConvNet((4,), hidden=8, convolutions=1).eval()) as address:
        page = browser.new_page()
        page.goto(address)
        playwright.expect(page.locator("#relu1-size")).to_have_text("4 feature maps of 13 × 13")
        draw(page, ONE)
        page.mouse.up()
        playwright.expect(page.locator("#digit")).not_to_have_text("?")
        playwright.expect(page.locator("#relu1")).to_be_visible()
        playwright.expect(page.locator("#relu2")).to_be_hidden()
        page.close()
