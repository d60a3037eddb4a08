import contextlib
import io
import re
import shutil
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import call, served
from PIL import Image, ImageOps
from torch import nn

from mnist_lightning.checkpoint import load
from mnist_lightning.commands import demo, report
from mnist_lightning.commands.server import LOOPBACK
from mnist_lightning.data.datasets import read_test_set
from mnist_lightning.network import ConvNet
from mnist_lightning.text import percent

pytestmark = pytest.mark.slow
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
Axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe
CHROMIUM = shutil.which("chromium")
if not CHROMIUM:
    pytest.skip("needs chromium", allow_module_level=True)

PICTURES = Path(__file__).parents[1] / "docs/digits"
OFFLINE = ["disable-background-networking", "disable-component-update", "disable-sync"]
FILM = ["fake-device-for-media-stream", "fake-ui-for-media-stream"]
SIZES = [(390, 844), (844, 390), (1280, 800)]
ONE = [(0.52, 0.2 + 0.06 * i) for i in range(11)]
TWO = [(0, 0.2), (0.5, 0), (1, 0.25), (0, 1), (1, 1)]
SEVEN = [(0.3 + 0.04 * i, 0.22) for i in range(11)]
SEVEN += [(0.7 - 0.025 * i, 0.22 + 0.055 * i) for i in range(1, 12)]
# Counts the questions to the server, and how many of them are open at once at most.
COUNT = """
window.asked = 0; window.open = 0; window.most = 0;
const fetch = window.fetch;
window.fetch = async (path, options) => {
  if (!path.startsWith("see")) return fetch(path, options);
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
INKED = """() => {
  const canvas = document.getElementById("board");
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return data.some((value, i) => i % 4 < 3 && value > 0);
}"""
SEEN = """() => {
  const pixels = document.getElementById("image").getContext("2d").getImageData(0, 0, 28, 28).data;
  return Array.from(pixels).filter((_, i) => i % 4 === 0);
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
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator["playwright.Browser"]:
    arguments = ["--no-sandbox", "--disable-gpu", *(f"--{name}" for name in OFFLINE)]
    film = tmp_path_factory.mktemp("film") / "seven.mjpeg"
    film.write_bytes(picture(0, "JPEG", (640, 480)))
    arguments += [f"--use-{name}" for name in FILM] + [f"--use-file-for-fake-video-capture={film}"]
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
    options = {"reduced_motion": "reduce"} | getattr(request, "param", {})
    context = browser.new_context(**options)
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
    playwright.expect(page.locator("#digit")).to_have_text(
        digit if isinstance(digit, re.Pattern) else str(digit)
    )


def expect_last_answer(page: "playwright.Page") -> None:
    """Wait for the answer about the whole drawing: each answer before it looks like the last."""
    playwright.expect(page.locator("main")).not_to_have_attribute("aria-busy", "true")


def wait_until(page: "playwright.Page", condition: Callable[[], bool]) -> None:
    """Wait for what does not stand on the page, as `expect` does for what does."""
    for _ in range(200):
        if condition():
            return
        page.wait_for_timeout(50)
    assert condition()


def picture(index: int, kind: str = "PNG", size: tuple[int, int] = (300, 300)) -> bytes:
    """Return a photograph of a kind, dark on light, of a test digit."""
    image = Image.fromarray(255 - read_test_set()[0][index].numpy())
    image = image.resize((300, 300), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    ImageOps.pad(image, size, color="white").convert("RGB").save(file, kind)
    return file.getvalue()


def scaled(points: list[tuple[float, float]], left: float) -> list[tuple[float, float]]:
    """Return points of a unit square in the place of one of three digits of a number."""
    return [(left + 0.2 * x, 0.3 + 0.35 * y) for x, y in points]


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


def test_each_digit_of_a_number_has_its_answer_and_the_last_written_its_maps(
    page: "playwright.Page",
) -> None:
    boxes = page.locator("#boxes li")
    for left, text in ((0.1, "2"), (0.7, "22"), (0.4, "222")):
        draw(page, scaled(TWO, left))
        page.mouse.up()
        expect_last_answer(page)
        expect_digit(page, text)
    playwright.expect(boxes).to_have_count(3)
    playwright.expect(boxes.nth(1)).to_have_class("first")  # neither the first nor the last of them
    for box, left in zip(boxes.all(), (0.1, 0.4, 0.7), strict=True):
        assert re.fullmatch(r"2(>?\d+\.\d%)", box.inner_text())
        place, board = box.bounding_box(), page.locator("#board").bounding_box()
        assert place["x"] == pytest.approx(board["x"] + (left - 0.03) * board["width"], abs=8)
        assert place["width"] == pytest.approx(0.26 * board["width"], abs=12)
    page.keyboard.press("Control+z")
    playwright.expect(boxes.nth(1)).to_have_class("first")
    playwright.expect(boxes).to_have_count(2)
    page.keyboard.press("Control+z")
    playwright.expect(boxes).to_have_count(0)  # one digit needs none


@pytest.mark.parametrize("page", [{"reduced_motion": "no-preference"}], indirect=True)
def test_at_first_a_digit_draws_itself_until_one_draws(page: "playwright.Page") -> None:
    expect_digit(page, 3)
    playwright.expect(page.locator("#hint")).to_have_css("opacity", "1")
    draw(page, SEVEN)
    page.mouse.up()
    expect_digit(page, 7)
    playwright.expect(page.locator("#hint")).to_have_css("opacity", "0")
    page.click("#undo")
    expect_digit(page, "?")


def test_nothing_moves_if_motion_is_unwelcome(page: "playwright.Page") -> None:
    bar = page.locator("#bars i").first
    style = "element => getComputedStyle(element, '::before').transitionDuration"
    assert bar.evaluate(style) == "0s"
    page.wait_for_timeout(300)
    expect_digit(page, "?")
    assert page.evaluate("window.asked") == 0


def test_the_camera_takes_a_picture(page: "playwright.Page") -> None:
    page.focus("#camera")
    page.keyboard.press("Enter")
    playwright.expect(page.locator("#take")).to_be_focused()
    assert page.evaluate("video.videoWidth > 0 && video.offsetWidth === board.offsetWidth")
    page.keyboard.press("Escape")
    playwright.expect(page.locator("#video")).to_be_hidden()
    assert page.evaluate("video.srcObject") is None
    expect_digit(page, "?")
    page.click("#camera")
    page.click("#take")
    expect_digit(page, 7)
    playwright.expect(page.locator("#note")).to_have_text("The camera’s picture")
    playwright.expect(page.locator("#video")).to_be_hidden()


def test_a_page_without_the_camera_asks_the_phones(page: "playwright.Page") -> None:
    page.evaluate("Object.defineProperty(navigator, 'mediaDevices', { value: undefined })")
    with page.expect_file_chooser() as chooser:
        page.click("#camera")
    assert chooser.value.element.get_attribute("capture") == "environment"
    chooser.value.set_files(
        {"name": "7.jpg", "mimeType": "image/jpeg", "buffer": picture(0, "JPEG")}
    )
    expect_digit(page, 7)


def test_a_camera_that_is_refused_is_said(page: "playwright.Page") -> None:
    refuse = "() => Promise.reject(new DOMException('', 'NotAllowedError'))"
    page.evaluate(f"void (navigator.mediaDevices.getUserMedia = {refuse})")
    page.click("#camera")
    playwright.expect(page.locator("#note.wrong")).to_contain_text("does not allow")
    playwright.expect(page.locator("#tools")).to_be_visible()


def test_what_only_the_server_can_open_is_shown_with_its_boxes(page: "playwright.Page") -> None:
    form = Image.open(PICTURES / "form.jpg")
    file = io.BytesIO()
    form.save(file, "TIFF")
    page.set_input_files("#file", {"name": "f.tif", "mimeType": "", "buffer": file.getvalue()})
    expect_digit(page, "2024")
    playwright.expect(page.locator("#boxes .first")).to_contain_text("4")
    paper = "board.getContext('2d').getImageData(9, board.height / 2, 1, 1).data[0]"
    assert page.evaluate(paper) > 200
    top = page.locator("#boxes li").first.bounding_box()["y"]
    board = page.locator("#board").bounding_box()
    assert 0.34 < (top - board["y"]) / board["height"] < 0.5  # the form lies across the middle


def test_the_server_has_one_question_at_a_time_and_the_last_is_about_the_whole(
    page: "playwright.Page",
) -> None:
    draw(page, SEVEN)
    page.mouse.up()
    page.keyboard.press("Escape")
    draw(page, ONE)
    page.mouse.up()
    expect_last_answer(page)
    expect_digit(page, 1)
    assert page.evaluate("window.most") == 1
    moves = 3 * (len(SEVEN) + len(ONE))
    assert 2 < page.evaluate("window.asked") <= moves
    drawn = np.array(page.evaluate(SEEN))
    page.keyboard.press("Escape")
    page.keyboard.press("Control+z")  # asks again, about the finished drawing
    expect_last_answer(page)
    assert np.abs(np.array(page.evaluate(SEEN)) - drawn).max() < 64  # but for its edges


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
    draw(page, SEVEN)
    page.keyboard.press("Control+z")  # with the button down
    page.mouse.move(0, 0, steps=3)
    page.mouse.up()
    expect_last_answer(page)
    assert not page.evaluate(INKED)


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
    expect_digit(page, re.compile(rf"^({answer}|\?)$"))  # a guess may be no digit, to the page
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
    playwright.expect(page.locator("#note")).not_to_contain_text("seven.png")
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


def test_a_picture_stays_while_the_server_is_away(
    page: "playwright.Page", complaints: list[str]
) -> None:
    page.route("**/see*", lambda route: route.abort())
    page.evaluate(GIVE, ["drop", b64encode(picture(0)).decode(), "seven.png"])
    playwright.expect(page.locator("#note.wrong")).to_contain_text("server does not answer")
    page.unroute("**/see*")
    page.click("#clear")
    page.click("#undo")
    expect_digit(page, 7)
    assert len(complaints) == 1 and "ERR_FAILED" in complaints.pop()


def test_a_share_is_written_as_by_all_other_commands(page: "playwright.Page") -> None:
    shares = [0, 0.0004, 0.00099, 0.001, 0.0123, 0.5, 0.9, 0.9989, 0.9991, 0.9996, 1]
    code = re.search(r"const percent = (.*?);\n", (demo.PAGE / "script.js").read_text(), re.S)
    assert code
    written = page.evaluate(f"(shares) => shares.map({code[1]})", shares)
    assert written == [percent(share) for share in shares]


@pytest.mark.parametrize(
    "page",
    [{"viewport": {"width": w, "height": h}} for w, h in ((360, 740), (800, 740), *SIZES)],
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
    "page",
    [
        {"viewport": {"width": width, "height": height}, "color_scheme": scheme}
        for width, height in SIZES
        for scheme in ("light", "dark")
    ],
    indirect=True,
)
def test_no_rule_of_accessibility_is_broken(page: "playwright.Page") -> None:
    assert Axe().run(page).violations_count == 0  # with nothing on the board
    for left in (0.1, 0.4):
        draw(page, scaled(TWO, left))
        page.mouse.up()
    expect_digit(page, "22")
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    live = page.locator("[role=status], [role=alert], [aria-live], output")
    assert [each.get_attribute("id") for each in live.all()] == ["note", "spoken"]


# A phone on its side; and 1280x800, zoomed to 200%.
@pytest.mark.parametrize(
    "page",
    [{"viewport": {"width": w, "height": h}} for w, h in ((844, 390), (640, 400))],
    indirect=True,
)
def test_board_and_answer_fit_a_low_page(page: "playwright.Page") -> None:
    draw(page, SEVEN)
    page.mouse.up()
    expect_digit(page, 7)
    height = page.viewport_size["height"]
    board = page.locator("#board").bounding_box()
    assert board["width"] == board["height"] > 0.7 * height
    for selector in ("#board", "#digit", "#image", "#bars", "#tools", "#note"):
        box = page.locator(selector).bounding_box()
        assert box["y"] >= 0 and box["y"] + box["height"] <= height, selector


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


def test_a_report_breaks_no_rule_and_fits_a_phone(
    browser: "playwright.Browser", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    test_set = tuple(part[:500] for part in read_test_set())
    monkeypatch.setattr(report.datasets, "read", lambda *_, **__: test_set)
    assert call(monkeypatch, "report") == 0
    assert call(monkeypatch, "report", "--picture", PICTURES / "7.jpg") == 0
    for scheme in ("light", "dark"):
        size = {"width": 390, "height": 844}
        page = browser.new_page(viewport=size, color_scheme=scheme)
        for name in ("report", "picture"):
            page.goto((tmp_path / f"report/{name}.html").as_uri())
            for details in page.locator("summary").all():
                details.click()
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            found = Axe().run(page)
            assert found.violations_count == 0, found.generate_report()
        page.close()


def test_a_key_or_a_click_keeps_what_a_digit_is(
    browser: "playwright.Browser", tmp_path: Path
) -> None:
    network = load()
    with served(demo.create_app(network, LOOPBACK, tmp_path / "own")) as (address, _):
        page = browser.new_page(reduced_motion="reduce")
        page.goto(address)
        page.get_by_text("0 are kept, of 2,000 at most.").wait_for()
        page.keyboard.press("7")  # of nothing
        for left in (0.0, 0.42):  # 11
            draw(page, [(left + 0.6 * x, y) for x, y in ONE])
            page.mouse.up()
        page.locator("#boxes li").nth(1).wait_for()
        assert not (tmp_path / "own").exists()
        page.locator("#boxes span").first.click()
        page.locator("#boxes li:first-child.first").wait_for()
        page.keyboard.press("7")
        page.get_by_text("Kept as a 7.").wait_for()
        page.locator("#bars li").nth(4).click()  # corrected
        page.get_by_text("Kept as a 4.").wait_for()
        page.get_by_text("1 are kept").wait_for()
        assert page.get_by_text("--data.extra").is_visible()
        (kept,) = (tmp_path / "own").glob("*/*")
        assert kept.parent.name == "4"
        seen = page.evaluate(SEEN)
        assert np.asarray(Image.open(kept)).flatten().tolist() == seen
        page.locator("#samples button").first.click()
        page.get_by_text("labeled", exact=False).first.wait_for()
        page.keyboard.press("1")
        page.get_by_text("which nothing may learn from").wait_for()
        assert len(list((tmp_path / "own").glob("*/*"))) == 1
        page.close()
