import asyncio
import contextlib
import io
import re
import signal
import socket
import subprocess
import sys
import threading
import warnings
from base64 import b64decode, b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes

import httpx
import numpy as np
import pytest
import torch
from conftest import call, served
from PIL import Image, ImageDraw
from torch import nn

from mnist_lightning.commands import demo, requests, server
from mnist_lightning.data import own
from mnist_lightning.data.datasets import read_test_set
from mnist_lightning.network import ConvNet, to_pixels
from mnist_lightning.reading.reader import read
from mnist_lightning.reading.segments import find_digit

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
    return TestClient(demo.create_app(network, server.LOOPBACK), "http://127.0.0.1:8000")


def png(index: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(IMAGES[index].numpy()).save(file, "PNG")
    return file.getvalue()


def assert_error(response: httpx.Response, status: int) -> None:
    assert response.status_code == status, response.text
    assert list(response.json()) == ["error"]
    assert re.fullmatch(r"[^\n]+", response.json()["error"])


def test_a_program_gets_what_read_returns(client: TestClient, network: ConvNet) -> None:
    expected = {**read(png(3), network).as_dict(), "pages": 1}
    assert client.post("/read", content=png(3)).json() == expected


def data_url(picture: bytes) -> bytes:
    return b"data:image/png;base64," + b64encode(picture)


FORM = "application/x-www-form-urlencoded"  # what curl says of any body
WAYS: dict[str, dict[str, Any]] = {
    "bytes": {"content": png(3), "headers": {"content-type": FORM}},
    "form": {"files": {"image": ("photo.png", png(3), "image/png")}},
    "form of many fields": {"files": {"other": ("", b"1"), "file": ("a.png", png(3))}},
    "form without a file's name": {"files": {"image": (None, png(3))}},
    "form with a data URL": {"files": {"image": (None, data_url(png(3)))}},
    "data URL": {"content": data_url(png(3)) + b"\n", "headers": {"content-type": FORM}},
    "data URL in lines": {"content": data_url(png(3)).replace(b"/", b"%2F\r\n")},
    "data URL without padding": {"content": data_url(png(3)).rstrip(b"=")},
    "data URL without base64": {"content": b"data:," + quote_from_bytes(png(3)).encode()},
    "JSON": {"json": {"image": data_url(png(3)).decode()}},
    "JSON by its look": {"content": b' {"image": "%s"}' % data_url(png(3))},
}


@pytest.mark.parametrize("way", WAYS)
def test_a_picture_may_be_sent_in_many_ways(way: str, client: TestClient, network: ConvNet) -> None:
    answer = client.post("/read", **WAYS[way])
    assert answer.status_code == 200, answer.text
    assert answer.json() == {**read(png(3), network).as_dict(), "pages": 1}


MULTIPART = {"content-type": "multipart/form-data; boundary=x"}


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"", {}),
        (b"hello", {}),
        (b"image=" + data_url(png(3)), {"content-type": FORM}),
        (b64encode(png(3)), {}),
        (b"data:image/png;base64,####", {}),
        (b"data:image/png;base64,A", {}),
        (b"data:image/png", {}),
        (b"{", {}),
        (b"{}", {}),
        (b"[1]", {}),
        (b'{"image": 1}', {}),
        (b'{"image": "photo.png"}', {}),
        (b'{"image": "data:,7"}', {}),
        (b'{"image": "data:,7", "more": 1}', {}),
        (b'{"image": ' * 9999, {}),
        (b'{"image": "data:,\xff"}', {}),
        (b"", MULTIPART),
        (png(3), MULTIPART),
        (b"--x\r\n\r\n--x--", MULTIPART),
        (b"--x\r\n\r\n" + png(3), MULTIPART),  # cut off
        (b"--x\r\n\r\nhello\r\n--x--", MULTIPART),
        (b"--x\r\n\r\n\r\n--x--", {"content-type": "multipart/form-data"}),
        (b"--x\r\n\r\n\r\n--x--", {"content-type": "multipart/form-data; boundary="}),
    ],
    ids=range(23),
)
def test_anything_else_is_told_the_ways(
    body: bytes, headers: dict[str, str], client: TestClient
) -> None:
    answer = client.post("/read", content=body, headers=headers)
    assert_error(answer, 400)
    assert 'JSON {"image": its data URL}' in answer.json()["error"]


def test_the_limit_is_of_the_decoded_picture(client: TestClient) -> None:
    picture = png(3) + bytes(requests.MOST_BYTES - len(png(3)))
    url = data_url(picture)
    for body in (picture, url, b'{"image": "%s"}' % url):
        assert client.post("/read", content=body).status_code == 200
    assert_error(client.post("/read", content=picture + b"\0"), 413)
    assert_error(client.post("/read", content=data_url(picture + b"\0")), 413)


def test_the_first_page_is_read_and_their_number_is_said(
    client: TestClient, network: ConvNet
) -> None:
    file = io.BytesIO()
    first, second = (Image.fromarray(IMAGES[index].numpy()) for index in (3, 4))
    first.save(file, "TIFF", save_all=True, append_images=[second])
    expected = {**read(png(3), network).as_dict(), "pages": 2}
    assert client.post("/read", content=file.getvalue()).json() == expected
    assert client.post("/see", content=file.getvalue()).json()["pages"] == 2


def test_the_description_is_of_what_is_sent_and_answered(client: TestClient) -> None:
    description = client.get("/openapi.json").json()
    assert list(description["paths"]) == ["/read"]
    post = description["paths"]["/read"]["post"]
    types = post["requestBody"]["content"]
    assert set(types) >= {"multipart/form-data", "application/json", "text/plain"}
    assert list(types["application/json"]["schema"]["properties"]) == ["image"]
    answer = client.post("/read", content=png(3)).json()
    schemas = description["components"]["schemas"]
    assert post["responses"]["200"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/Answer"
    }
    assert schemas["Answer"]["required"] == list(answer)
    assert schemas["Digit"]["required"] == list(answer["digits"][0])
    assert {"400", "413", "503"} <= set(post["responses"])
    assert schemas["Refusal"]["required"] == ["error"]


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
    page = read(tmp_path / "drawing.png", network)
    seen = client.post("/see", content=(tmp_path / "drawing.png").read_bytes()).json()
    assert b64decode(seen["image"]) == page.digits[-1].image.numpy().tobytes()
    assert {"text": seen["text"], "digits": seen["digits"]} == page.as_dict()


def test_the_digit_nearest_to_a_place_is_shown_or_the_last(client: TestClient) -> None:
    number = Image.new("L", (120, 40))
    for i, left in enumerate((6, 46, 86)):
        number.paste(Image.fromarray(IMAGES[i].numpy()), (left, 6))
    file = io.BytesIO()
    number.save(file, "TIFF")
    shown = {}
    for at in ("?at=0,0", "?at=60,20", "?at=1e9,-3", "?at=nan,nan", ""):
        seen = client.post(f"/see{at}", content=file.getvalue()).json()
        boxes = [digit["box"] for digit in seen["digits"]]
        left, _, right, _ = boxes[seen["shown"]]
        shown[at] = (left + right) / 2
        assert seen["size"] == [120, 40] and "picture" not in seen
    assert shown["?at=0,0"] < 40 < shown["?at=60,20"] < 80 < shown["?at=1e9,-3"] == shown[""]
    seen = client.post("/see?picture", content=file.getvalue()).json()
    assert Image.open(io.BytesIO(b64decode(seen["picture"]))).size == (120, 40)
    for at in ("", "1", "1,2,3", "a,b"):
        assert_error(client.post(f"/see?at={at}", content=file.getvalue()), 400)


@pytest.mark.parametrize("views", [False, True])
def test_the_page_gets_the_maps_of_this_very_picture(
    views: bool, client: TestClient, network: ConvNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "views", views)
    client.post("/see", content=png(4))
    seen = client.post("/see", content=png(3)).json()
    assert seen["text"] == read(png(3), network).text
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


@pytest.mark.parametrize(
    ("layers", "maps"),
    [
        ([nn.Conv2d(1, 3, 5), nn.Flatten(), nn.Linear(3 * 24 * 24, 10)], [3]),  # no ReLU
        ([nn.Flatten(), nn.Linear(28 * 28, 10)], []),
    ],
)
def test_a_network_of_ones_own_shows_what_it_has(layers: list[nn.Module], maps: list[int]) -> None:
    app = demo.create_app(nn.Sequential(*layers).eval(), server.LOOPBACK)
    with TestClient(app, "http://127.0.0.1:8000") as client:
        seen = client.post("/see", content=png(0)).json()
        assert [layer["count"] for layer in seen["layers"]] == maps
        assert [layer["count"] for layer in client.get("/digits").json()["layers"]] == maps


def test_a_dense_layer_has_no_maps() -> None:
    app = demo.create_app(ConvNet((4,), hidden=8, convolutions=1).eval(), server.LOOPBACK)
    client = TestClient(app, "http://127.0.0.1:8000")
    idle = client.get("/digits").json()["layers"]  # before any picture
    assert idle == [{"name": "relu1", "count": 4, "size": 13}]
    seen = client.post("/see", content=png(3)).json()
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
    assert len(taken) == 14  # a third more than a picture may have, for base64


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
        ("GET", f"/digits/{'9' * 5000}.png", 404),
        ("GET", f"/digits/{'9' * 5000}", 404),
        ("GET", "/digits/%D9%A3.png", 404),
        ("GET", "/%00", 404),
        ("GET", f"/{'a/' * 3000}", 404),
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
    link = re.compile("<a [^>]*>")  # loads nothing until a person follows it
    page = link.sub("", client.get("/").text)
    for name in re.findall(r'(?:src|href)="([^"]+)"', page):
        assert client.get(f"/{name}").status_code == 200
    for path in demo.PAGE.iterdir():
        text = link.sub("", path.read_text())
        assert not re.findall(r"//\w+\.(?!w3\.org/2000/svg)", text)


def test_other_hosts_are_kept_out(client: TestClient) -> None:
    for host in ("127.0.0.1:8000", "localhost:8000", "[::1]:8000"):
        assert client.get("/", headers={"host": host}).status_code == 200
    assert client.get("/", headers={"host": "attacker.example"}).status_code == 400


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "none"}, 200),
        ({"sec-fetch-site": "same-origin", "origin": "http://attacker.example"}, 200),
        ({"origin": "http://127.0.0.1:8000"}, 200),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "cross-site", "origin": "http://127.0.0.1:8000"}, 403),
        ({"origin": "http://attacker.example"}, 403),
        ({"origin": "http://127.0.0.1:9000"}, 403),
        ({"origin": "http://["}, 403),
        ({"origin": "null"}, 403),
    ],
)
def test_other_sites_are_kept_out(client: TestClient, headers: dict[str, str], status: int) -> None:
    response = client.post("/read", content=png(3), headers=headers)
    assert response.status_code == status
    if status == 403:
        assert_error(response, 403)


def test_too_little_memory_for_a_picture_is_no_failure_of_the_server(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(demo, "read", fail)
    assert_error(client.post("/read", content=png(3)), 413)


def test_every_answer_bears_the_headers(
    network: ConvNet, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(demo, "see", fail)
    with served(demo.create_app(network, server.LOOPBACK)) as (address, _):
        with httpx.Client(base_url=address) as client:
            answers = [
                client.get("/"),
                client.get("/digits"),
                client.get("/digits/1.png"),
                client.get("/nothing"),
                client.put("/"),
                client.delete("/digits"),
                client.get("/", headers={"host": "attacker.example"}),
                client.post("/read", headers={"sec-fetch-site": "cross-site"}),
                client.post("/read", content=b"no picture"),
                client.post("/see", content=png(3)),
            ]
        with socket.create_connection(("127.0.0.1", int(address.split(":")[2])), 60) as other:
            other.sendall(b"no HTTP\r\n\r\n")
            told = other.makefile("rb").read().decode().split("\r\n")
    statuses = [answer.status_code for answer in answers]
    assert statuses == [200, 200, 200, 404, 405, 405, 400, 403, 400, 500]
    assert told[0] == "HTTP/1.1 400 Bad Request"
    assert {f"{name}: {value}" for name, value in server.HEADERS.items()} <= set(told)
    for answer in answers:
        for name, value in server.HEADERS.items():
            assert answer.headers[name] == value
    assert_error(answers[9], 500)
    policy = server.HEADERS["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'") and "http" not in policy
    assert "RuntimeError: a bug" in capsys.readouterr().err  # for who must mend it


HEAD = b"POST /read HTTP/1.1\r\nHost: 127.0.0.1\r\n"
UNFINISHED = {
    "silent": b"",
    "half a head": HEAD,
    "half a body": HEAD + b"Content-Length: 100\r\n\r\nhalf",
    "half a body that nobody reads": b"GET /" + HEAD[10:] + b"Content-Length: 100\r\n\r\nhalf",
    "a head after an answer": b"GET /" + HEAD[10:] + b"\r\n" + HEAD,
}


@pytest.mark.parametrize("sent", UNFINISHED.values(), ids=UNFINISHED)
def test_an_unfinished_request_is_ended(
    sent: bytes, network: ConvNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "MOST_SECONDS", 0.2)
    with served(demo.create_app(network)) as (address, _):
        with socket.create_connection(("127.0.0.1", int(address.split(":")[2])), 60) as client:
            client.sendall(sent)
            with contextlib.suppress(ConnectionResetError):
                while client.recv(10_000):
                    pass


def test_many_connections_lock_nobody_out(
    network: ConvNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()

    def slow_read(picture: bytes, network: ConvNet) -> Any:
        assert go_on.wait(60)
        return read(picture, network)

    monkeypatch.setattr(demo, "read", slow_read)
    app = demo.create_app(network)
    with served(app) as (address, running), contextlib.ExitStack() as clients:
        pool = clients.enter_context(ThreadPoolExecutor())
        asked = pool.submit(httpx.post, f"{address}/read", content=png(3), timeout=60)
        while not app.state.waiting:
            assert not asked.done()
        for sent in list(UNFINISHED.values()) * server.MOST_CONNECTIONS:
            place = ("127.0.0.1", int(address.split(":")[2]))
            clients.enter_context(socket.create_connection(place, 60)).sendall(sent)
        assert httpx.get(address).status_code == 200
        assert len(running.server_state.connections) <= server.MOST_CONNECTIONS
        go_on.set()
        assert asked.result().status_code == 200  # one that waits for its answer keeps its place


def test_pictures_that_wait_are_told_that_the_server_ends(
    network: ConvNet, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    go_on = threading.Event()
    monkeypatch.setattr(demo, "read", lambda *_: go_on.wait(60))
    app = demo.create_app(network)
    with served(app) as (address, running), ThreadPoolExecutor() as pool:
        asked = [
            pool.submit(httpx.post, f"{address}/read", content=png(3), timeout=60) for _ in range(4)
        ]
        while len(app.state.waiting) < 4:
            assert not any(answer.done() for answer in asked)
        with socket.create_connection(("127.0.0.1", int(address.split(":")[2]))) as client:
            client.sendall(UNFINISHED["half a body"])
            running.should_exit = True
            for answer in asked:
                assert_error(answer.result(), 503)
            go_on.set()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "127.5.4.3", "::1"])
def test_every_loopback_address_is_for_this_machine_alone(host: str) -> None:
    try:
        listener = server.listen(host, 0)
    except OSError:
        pytest.skip(f"this machine has no {host}")
    with listener:
        hosts = server.allowed_hosts(listener, host)
        assert hosts and {host, "localhost", listener.getsockname()[0]} <= set(hosts)
        assert server.url(listener, host).removeprefix("http://").startswith((host, f"[{host}]"))


@pytest.mark.parametrize(
    ("host", "shown"), [("0.0.0.0", "127.0.0.1"), ("0", "127.0.0.1"), ("::", "[::1]")]
)
def test_it_says_that_the_network_may_ask(
    host: str,
    shown: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(server, "serve", lambda *_: None)
    code = call(monkeypatch, "demo", "--host", host, "--port", 0, "--no_browser")
    if host == "::" and code:
        pytest.skip("this machine has no IPv6")
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f"draw at http://{shown}:")
    address = second.removeprefix("on a phone in the same network: ")
    assert address.startswith("http://") and address.endswith(first.split()[2][-6:])
    assert f"//{host}" not in address and f"//{shown}:" not in address


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
    assert call(monkeypatch, "demo", "--host", "") == 2
    assert "--host is empty" in capsys.readouterr().err
    assert "--host" in str(call(monkeypatch, "demo", "--host", "a" * 70))
    assert "--host" in str(call(monkeypatch, "demo", "--host", "nowhere.invalid"))
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
        assert answer["text"] == "7"
        server.send_signal(signal.SIGINT)
        _, complaints = server.communicate(timeout=60)
    assert server.returncode == 0
    assert not complaints
    with pytest.raises(httpx.ConnectError):
        httpx.get(address)


def test_what_the_page_is_told_of_a_digit_is_kept(network: ConvNet, tmp_path: Path) -> None:
    folder = tmp_path / "own"
    client = TestClient(demo.create_app(network, server.LOOPBACK, folder), "http://127.0.0.1:8000")
    assert client.get("/digits").json()["kept"]["count"] == 0 and not folder.exists()
    pair = Image.new("L", (140, 60), 255)  # of which the right one is told
    for left, index in ((10, 3), (80, 5)):
        digit = Image.fromarray(255 - IMAGES[index].numpy()).resize((56, 56))
        pair.paste(digit, (left, 2))
    file = io.BytesIO()
    pair.save(file, "PNG")
    reading = read(file.getvalue(), network).digits[-1]
    place = f"{reading.box[2] - 1},{reading.box[3] - 1}"
    for digit in (7, 7, 2):  # again, and corrected
        answer = client.post(f"/keep?digit={digit}&at={place}", content=file.getvalue())
        assert answer.json()["kept"]["count"] == 1
    assert answer.json()["kept"]["command"].endswith(f"--data.extra {folder}")
    (path,) = folder.glob("*/*")
    assert path.parent.name == "2" and path.stat().st_size < 1000
    assert np.array_equal(find_digit(Image.open(path)), reading.image)


def test_no_more_is_kept_than_is_stated_and_nothing_unless_asked(
    client: TestClient, network: ConvNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert client.post("/keep?digit=7", content=png(3)).status_code in (404, 405)
    assert client.get("/digits").json()["kept"] is None
    app = demo.create_app(network, server.LOOPBACK, tmp_path)
    collecting = TestClient(app, "http://127.0.0.1:8000")
    for query in ("", "?digit=10", "?digit=-1", "?digit=../7", "?digit=7&at=x"):
        assert_error(collecting.post(f"/keep{query}", content=png(3)), 400)
    other = {"sec-fetch-site": "cross-site"}
    assert_error(collecting.post("/keep?digit=7", content=png(3), headers=other), 403)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(own, "MOST_KEPT", 1)
    assert collecting.post("/keep?digit=7", content=png(3)).status_code == 200
    assert_error(collecting.post("/keep?digit=7", content=png(4)), 400)
    assert len(list(tmp_path.glob("*/*"))) == 1
