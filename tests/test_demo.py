import asyncio
import io
import re
import signal
import socket
import subprocess
import sys
import threading
import warnings
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from conftest import call
from PIL import Image, ImageDraw

from mnist_lightning.commands import demo
from mnist_lightning.data.datasets import read_test_set
from mnist_lightning.network import ConvNet, to_pixels
from mnist_lightning.reading.reader import read

with warnings.catch_warnings():  # that it will speak by another library than httpx some day
    warnings.simplefilter("ignore")
    from fastapi.testclient import TestClient

IMAGES, LABELS = read_test_set()


@pytest.fixture
def network() -> ConvNet:
    torch.manual_seed(0)
    return ConvNet(channels=(4,), hidden=8).eval()


@pytest.fixture
def client(network: ConvNet) -> TestClient:
    return TestClient(demo.create_app(network, demo.LOOPBACK), "http://127.0.0.1:8000")


def png(index: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(IMAGES[index].numpy()).save(file, "PNG")
    return file.getvalue()


def assert_error(response: httpx.Response, status: int) -> None:
    assert response.status_code == status, response.text
    assert list(response.json()) == ["error"]
    assert re.fullmatch(r"[^\n]+", response.json()["error"])


def test_a_program_gets_what_read_returns(client: TestClient, network: ConvNet) -> None:
    assert client.post("/read", content=png(3)).json() == read(png(3), network).as_dict()


def test_a_test_digit_reaches_the_network_unchanged(client: TestClient) -> None:
    picture = client.get("/digits/3.png")
    assert picture.headers["content-type"] == "image/png"
    seen = client.post("/see", content=picture.content).json()
    assert b64decode(seen["image"]) == IMAGES[3].numpy().tobytes()


def test_a_drawing_is_seen_as_its_file_is(
    client: TestClient, network: ConvNet, tmp_path: Path
) -> None:
    drawing = Image.new("RGB", (196, 196))
    line = [(60, 40), (140, 40), (90, 160)]
    ImageDraw.Draw(drawing).line(line, "white", width=13, joint="curve")
    drawing.save(tmp_path / "drawing.png")
    reading = read(tmp_path / "drawing.png", network)
    seen = client.post("/see", content=(tmp_path / "drawing.png").read_bytes()).json()
    assert b64decode(seen["image"]) == reading.image.numpy().tobytes()
    assert seen["probabilities"] == reading.as_dict()["probabilities"]


@pytest.mark.parametrize("views", [False, True])
def test_the_page_gets_the_maps_of_this_very_picture(
    views: bool, client: TestClient, network: ConvNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "views", views)
    client.post("/see", content=png(4))
    seen = client.post("/see", content=png(3)).json()
    assert seen["digit"] == read(png(3), network).digit
    output = to_pixels(IMAGES[3:4])
    for name, layer in network.named_children():
        output = layer(output)
        if name in demo.LAYERS:
            sent = next(layer for layer in seen["layers"] if layer["name"] == name)
            count, size = sent["count"], sent["size"]
            pixels = np.frombuffer(b64decode(sent["pixels"]), np.uint8)
            expected = (output[0] / output.max() * 255).detach().numpy()
            assert np.abs(pixels.reshape(count, size, size) - expected).max() <= 1
    assert [layer["name"] for layer in seen["layers"]] == ["relu1", "relu2"]


def test_a_dense_layer_has_no_maps() -> None:
    app = demo.create_app(ConvNet((4,), hidden=8, convolutions=1).eval(), demo.LOOPBACK)
    seen = TestClient(app, "http://127.0.0.1:8000").post("/see", content=png(3)).json()
    assert [layer["name"] for layer in seen["layers"]] == ["relu1"]


@pytest.mark.parametrize("path", ["/read", "/see"])
@pytest.mark.parametrize(
    "body", [b"", b"hello", png(3)[:80], b"GIF89a", b"BM" + bytes(60)], ids=range(5)
)
def test_what_is_no_picture_gets_one_sentence(client: TestClient, path: str, body: bytes) -> None:
    assert_error(client.post(path, content=body), 400)


def test_a_blank_picture_gets_one_sentence(client: TestClient) -> None:
    file = io.BytesIO()
    Image.new("L", (200, 200)).save(file, "PNG")
    assert_error(client.post("/see", content=file.getvalue()), 400)


def test_a_body_that_is_too_large_is_refused_before_it_is_all_there(client: TestClient) -> None:
    taken = []

    def parts() -> Iterator[bytes]:  # sent without a length
        for i in range(100):
            taken.append(i)
            yield bytes(1_000_000)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": next(body), "more_body": True}

    body = parts()
    assert status_of(client, receive) == 413
    assert len(taken) == 11


def test_a_body_that_does_not_come_is_not_waited_for(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(demo, "PATIENCE", 0.01)
    assert status_of(client, receive) == 408


def test_pages_that_go_away_leave_their_places_free(client: TestClient) -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    for _ in range(demo.MOST_WAITING):
        assert status_of(client, receive) == 400
    assert client.post("/read", content=png(3)).status_code == 200


def status_of(client: TestClient, receive: Any) -> int:
    """POST to /read by hand, with whatever `receive` gives for the body; return the status."""
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/read",
        "raw_path": b"/read",
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"127.0.0.1")],
    }
    sent = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(client.app(scope, receive, send))  # type: ignore[operator,arg-type]
    return sent[0]["status"]


def test_few_requests_wait_and_the_others_are_told(
    network: ConvNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()

    def slow_read(picture: bytes, network: ConvNet) -> Any:
        assert go_on.wait(60)
        return read(picture, network)

    async def ask_often() -> list[httpx.Response]:
        transport = httpx.ASGITransport(demo.create_app(network))
        async with httpx.AsyncClient(transport=transport, base_url="http://demo") as client:
            pending = {
                asyncio.ensure_future(client.post("/read", content=png(3)))
                for _ in range(demo.MOST_WAITING + 3)
            }
            refused: set[asyncio.Task[httpx.Response]] = set()
            while len(refused) < 3:
                done, pending = await asyncio.wait(pending, return_when="FIRST_COMPLETED")
                refused |= done
            go_on.set()
            answered = await asyncio.gather(*pending)
            again = await client.post("/read", content=png(3))
            return [*(task.result() for task in refused), *answered, again]

    monkeypatch.setattr(demo, "read", slow_read)
    refused, others = (answers := asyncio.run(ask_often()))[:3], answers[3:]
    for answer in refused:
        assert_error(answer, 503)
    assert [answer.status_code for answer in others] == [200] * (demo.MOST_WAITING + 1)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/docs", 404),
        ("GET", "/../demo.py", 404),
        ("GET", "/%2e%2e/demo.py", 404),
        ("GET", "/digits/10000.png", 404),
        ("GET", "/digits/-1.png", 404),
        ("GET", "/digits/one.png", 404),
        ("GET", "/read", 404),
        ("DELETE", "/digits", 405),
    ],
)
def test_a_wrong_request_gets_one_sentence(
    client: TestClient, method: str, path: str, status: int
) -> None:
    assert_error(client.request(method, path), status)


def test_the_page_is_whole_and_loads_nothing_from_elsewhere(client: TestClient) -> None:
    page = client.get("/")
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'") and "http" not in policy
    for name in re.findall(r'(?:src|href)="([^"]+)"', page.text):
        assert client.get(f"/{name}").status_code == 200
    for path in demo.PAGE.iterdir():
        assert not re.findall(r"//\w+\.(?!w3\.org/2000/svg)", path.read_text())


def test_other_sites_are_kept_out(client: TestClient) -> None:
    for host in ("127.0.0.1:8000", "localhost:8000", "[::1]:8000"):
        assert client.get("/", headers={"host": host}).status_code == 200
    assert client.get("/", headers={"host": "attacker.example"}).status_code == 400
    for site in ("cross-site", "same-site"):
        asked = client.post("/read", content=png(3), headers={"sec-fetch-site": site})
        assert_error(asked, 403)
    asked = client.post("/read", content=png(3), headers={"sec-fetch-site": "same-origin"})
    assert asked.status_code == 200


def test_the_digits_to_choose_from_are_one_of_each(client: TestClient) -> None:
    digits = client.get("/digits").json()["digits"]
    assert [digit["label"] for digit in digits] == list(range(10))
    assert [int(LABELS[digit["index"]]) for digit in digits] == list(range(10))


def test_the_mistakes_are_those_that_the_network_makes(
    network: ConvNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = IMAGES[:96], LABELS[:96]
    monkeypatch.setattr(demo, "read_test_set", lambda: some)
    answers = demo.classify(network, some[0])
    with TestClient(demo.create_app(network)) as client:
        while (found := client.get("/digits").json())["tested"] < 96:
            pass
    assert found["total"] == 96
    assert found["errors"] == sum(a != b for a, b in zip(answers, some[1].tolist(), strict=True))
    assert len(found["mistakes"]) == 10
    for mistake in found["mistakes"]:
        index = mistake["index"]
        assert mistake == {"index": index, "label": int(LABELS[index]), "read": answers[index]}
        assert mistake["label"] != mistake["read"]


def test_what_keeps_it_from_starting_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert re.fullmatch(
        r"error: .*missing\.ckpt", str(call(monkeypatch, "demo", "--ckpt_path", "missing.ckpt"))
    )
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = str(call(monkeypatch, "demo", "--port", port))
        assert re.fullmatch(rf"error: .*{port}.*--port.*", said)
    assert call(monkeypatch, "demo", "--port", 65536) == 2
    assert "65535" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "fastapi", None)
    said = str(call(monkeypatch, "demo"))
    assert said.startswith("error: fastapi is missing: ")
    assert said.endswith("python -m pip install fastapi uvicorn")


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is sent as a signal")
def test_it_serves_until_ctrl_c_and_ends_quietly(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mnist_lightning", "demo", "--port", "0", "--no_browser"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        address = re.findall(r"http://127.0.0.1:\d+", server.stdout.readline())[0]
        answer = httpx.post(f"{address}/read", content=png(0), timeout=60).json()
        assert answer["digit"] == 7
        server.send_signal(signal.SIGINT)
        _, complaints = server.communicate(timeout=60)
    assert server.returncode == 0
    assert not complaints
    with pytest.raises(httpx.ConnectError):
        httpx.get(address)
