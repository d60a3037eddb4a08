"""Serve a page to draw digits on, which the network reads while they are drawn.

    python -m mnist_lightning demo
    python -m mnist_lightning demo --ckpt_path runs/base/version_0/checkpoints/best.ckpt --port 8080
    python -m mnist_lightning demo --host 0.0.0.0 --no_browser

The last line lets in other devices of the network, such as a phone to draw on. Programs get the
same answers, as JSON, for a picture of any size and format:

    curl --data-binary @photo.jpg http://127.0.0.1:8000/read
    curl --form image=@photo.jpg http://127.0.0.1:8000/read

http://127.0.0.1:8000/openapi.json describes what else may be sent, and the answer.

    python -m mnist_lightning demo --collect my_digits

keeps what the page is told that a digit is, by a key or a click, for `fit --data.extra my_digits`.

One thread does all the work, and the queue for it is short, so that no page can overload the
machine.
"""

import asyncio
import contextlib
import io
import math
import os
import random
import re
import shlex
import sys
import webbrowser
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor, nn

from mnist_lightning.checkpoint import load
from mnist_lightning.commands.terminal import make_parser, need
from mnist_lightning.data.datasets import read_test_set
from mnist_lightning.data.own import MOST_KEPT, count_kept, keep
from mnist_lightning.errors import UserError
from mnist_lightning.figures.measures import map_layers
from mnist_lightning.files import check_folder
from mnist_lightning.network import to_pixels
from mnist_lightning.reading.picture import (
    UnknownFormat,
    count_pages,
    fit,
    open_picture,
)
from mnist_lightning.reading.reader import Page, read
from mnist_lightning.sizes import CLASSES, NUM_CLASSES
from mnist_lightning.text import printable, program

if TYPE_CHECKING:
    from fastapi import FastAPI, Request

PAGE = Path(__file__).parent / "page"
LAYERS = ("relu1", "relu2")  # whose feature maps the page shows
SHOWN = 800  # pixels a side, of a picture that the page shows for a browser that can't open it
MOST_WAITING = 8  # requests; a page sends one at a time
PATIENCE = 10  # seconds for a picture to arrive


def create_app(
    network: nn.Module, hosts: list[str] | None = None, collect: Path | None = None
) -> "FastAPI":
    """Return the app: the page, the requests that it makes, and `POST /read` for programs.

    While it runs, it reads MNIST's test images in the background, so that the page can show those
    that the network misreads.

    Args:
        network: In eval mode, pixels `(B, 1, 28, 28)` in [0, 1] to logits `(B, 10)`; its first two
            ReLU layers get hooks, see `watch`.
        hosts: The host names that requests may use, which keeps out other sites whose names are
            made to point here (DNS rebinding); None allows any.
        collect: Folder for the digits that the page is told of, see `keep`; None keeps nothing.

    Raises:
        ModuleNotFoundError: If FastAPI is not installed.
    """
    from fastapi import FastAPI, HTTPException, Request, Response
    from fastapi.responses import JSONResponse
    from fastapi.staticfiles import StaticFiles
    from starlette.exceptions import HTTPException as AnyHTTPException
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.requests import ClientDisconnect

    from mnist_lightning.commands import requests

    maps = watch(network)
    images, labels = read_test_set()
    classify(network, images[:1])  # fills the maps, whose sizes the page shows before any answer
    sizes = [{"name": n, "count": len(maps[n]), "size": maps[n].shape[-1]} for n in maps]
    mistakes: list[dict[str, int]] = []
    tested = 0
    waiting: set[asyncio.Task[Any] | None] = set()
    worker = ThreadPoolExecutor(max_workers=1)

    async def work(function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(worker, function, *arguments)

    async def test() -> None:
        nonlocal tested
        while tested < len(images):
            part = slice(tested, tested + 10)  # few, since a drawing may have to wait for them
            answers = await work(classify, network, images[part])
            for i, answer in enumerate(answers, start=tested):
                if answer != labels[i]:
                    mistakes.append({"index": i, "label": int(labels[i]), "read": answer})
            tested += len(answers)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        testing = asyncio.create_task(test())
        yield
        testing.cancel()
        worker.shutdown(cancel_futures=True)

    def check_size(contents: bytes | bytearray, most: int) -> None:
        if len(contents) > most:
            raise HTTPException(413, f"the picture has more than {requests.MOST_BYTES:,} bytes")

    async def receive(request: Request) -> bytes:
        contents = bytearray()
        async for part in request.stream():
            contents += part
            check_size(contents, requests.MOST_BODY)
        return bytes(contents)

    def place_in(request: Request) -> tuple[float, float]:
        text = request.query_params.get("at", "inf,inf")
        try:
            x, y = map(float, text.split(","))
        except ValueError as error:
            raise HTTPException(400, "at must be a place in the picture, as 120,80") from error
        return x, y

    async def answer(request: Request, function: Callable[[bytes], dict[str, Any]]) -> Any:
        if from_another_site(request):
            raise HTTPException(403, "pages of other sites may not send requests here")
        try:
            body = await asyncio.wait_for(receive(request), PATIENCE)
        except asyncio.TimeoutError as error:
            raise HTTPException(408, f"the picture took over {PATIENCE} seconds") from error
        except ClientDisconnect as error:
            raise HTTPException(400, "the picture did not arrive") from error
        if len(waiting) == MOST_WAITING:
            raise HTTPException(503, f"{MOST_WAITING} pictures are waiting already: try again")
        waiting.add(task := asyncio.current_task())
        try:
            kind = request.headers.get("content-type", "")
            picture = await work(requests.find_picture, body, kind)
            check_size(picture, requests.MOST_BYTES)
            return await work(function, picture)
        except asyncio.CancelledError as error:
            raise HTTPException(503, "the server is stopping") from error
        except UnknownFormat as error:
            raise HTTPException(400, f"{error}: send {requests.WAYS}") from error
        except (UserError, OSError) as error:
            raise HTTPException(400, str(error)) from error
        except MemoryError as error:
            raise HTTPException(413, "there is not enough memory for this picture") from error
        finally:
            waiting.discard(task)

    app = FastAPI(
        title="mnist_lightning",
        version=version("mnist_lightning"),
        lifespan=lifespan,
        docs_url=None,  # FastAPI's own pages load from elsewhere
        redoc_url=None,
    )
    app.state.waiting = waiting
    if hosts:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)

    @app.exception_handler(AnyHTTPException)
    async def explain(_: Request, error: AnyHTTPException) -> Response:
        refusal = requests.Refusal(error=error.detail)
        return JSONResponse(refusal.model_dump(), error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def apologize(_: Request, error: Exception) -> Response:
        return JSONResponse({"error": "the server failed: see its terminal"}, 500)

    @app.post(
        "/read",
        operation_id="read",
        summary="Read the digits in a picture: one, a number, or lines of numbers.",
        openapi_extra={"requestBody": requests.REQUEST},
        responses=requests.REFUSALS,
    )
    async def post_read(request: Request) -> requests.Answer:
        return await answer(request, lambda picture: to_answer(read(picture, network), picture))

    @app.post("/see", include_in_schema=False)
    async def post_see(request: Request) -> Any:
        place, shows = place_in(request), "picture" in request.query_params
        return await answer(request, lambda picture: see(picture, network, maps, place, shows))

    async def post_keep(request: Request) -> Any:
        assert collect
        folder, place, digit = collect, place_in(request), request.query_params.get("digit", "")
        if digit not in CLASSES:
            raise HTTPException(400, f"digit must be {CLASSES[0]} to {CLASSES[-1]}")

        def keep_one(picture: bytes) -> dict[str, Any]:
            page = read(picture, network)
            keep(folder, page.digits[nearest(page, place)].image, CLASSES.index(digit))
            return {"kept": kept(folder)}

        return await answer(request, keep_one)

    if collect:
        app.post("/keep", include_in_schema=False)(post_keep)

    @app.get("/digits", include_in_schema=False)
    async def get_digits() -> dict[str, Any]:
        some = [int(random.choice((labels == digit).nonzero())) for digit in range(NUM_CLASSES)]
        wrong = random.sample(mistakes, min(10, len(mistakes)))
        return {
            "digits": [{"index": i, "label": int(labels[i])} for i in some],
            "mistakes": sorted(wrong, key=lambda mistake: mistake["index"]),
            "errors": len(mistakes),
            "tested": tested,
            "total": len(images),
            "layers": sizes,
            "kept": kept(collect) if collect else None,
        }

    @app.get("/digits/{index}.png", include_in_schema=False)
    async def get_digit(index: str) -> Response:
        if not re.fullmatch("[0-9]{1,5}", index) or int(index) >= len(images):
            raise HTTPException(
                404, f"there is no such test image: they are 0 to {len(images) - 1}"
            )
        file = io.BytesIO()
        Image.fromarray(images[int(index)].numpy()).save(file, "PNG")
        return Response(file.getvalue(), media_type="image/png")

    app.mount("/", StaticFiles(directory=PAGE, html=True))
    return app


def from_another_site(request: "Request") -> bool:
    """Return whether a request comes from another site's page, according to the browser."""
    site = request.headers.get("sec-fetch-site")
    if site:
        return site not in ("none", "same-origin")
    origin = request.headers.get("origin")  # older browsers'; programs send neither
    return origin is not None and origin.partition("://")[2] != request.headers.get("host")


def watch(network: nn.Module) -> dict[str, Tensor]:
    """Keep the output of the first layers whenever the network is used.

    Args:
        network: Any, in eval mode; the first two of `map_layers` count, of an ensemble the first
            network's.

    Returns:
        Under the names in `LAYERS`, each one's feature maps of the first image of the latest batch,
        float `(C, H, W)`; dense layers are left out.
    """
    maps: dict[str, Tensor] = {}

    def keep(layer: str, output: Tensor) -> None:
        if output.ndim == 4:
            maps.setdefault(layer, output[0])  # by views there are more, of shifted images

    network.register_forward_pre_hook(lambda *_: maps.clear())
    for layer, name in zip(LAYERS, map_layers(network), strict=False):
        module = network.get_submodule(name)
        module.register_forward_hook(lambda _, __, output, layer=layer: keep(layer, output))
    return maps


def see(
    picture: bytes,
    network: nn.Module,
    maps: dict[str, Tensor],
    place: tuple[float, float] = (math.inf, math.inf),
    shows: bool = False,
) -> dict[str, Any]:
    """Read a picture, for the page.

    Args:
        picture: A picture file's contents.
        network: The network that `maps` belongs to.
        maps: What `watch` returned.
        place: x and y, in the picture's pixels; the digit nearest to it is shown, and the last of
            those that are as near.
        shows: Whether to return the picture too, for browsers that can't open the file.

    Returns:
        What `POST /read` returns; `size`, the picture's width and height; `shown`, the number of
        the digit that is shown; and of that one, in base64, `image`, the 28x28 bytes that the
        network saw, and for each of `layers` its maps' bytes, 255 for the layer's highest value.
        `picture`, if asked for, is a PNG file in base64, with `SHOWN` pixels a side at most.

    Raises:
        UserError: If it is not a picture, or there is no ink on it.
    """
    opened = open_picture(picture)
    page = read(opened, network)
    shown = nearest(page, place)
    image = page.digits[shown].image
    classify(network, image[None])  # leaves its maps
    layers = []
    for name, layer in maps.items():
        scaled = layer.clamp(min=0) * (255 / layer.max().clamp(min=1e-6))
        layers.append(
            {
                "name": name,
                "count": len(layer),
                "size": layer.shape[-1],
                "pixels": to_base64(scaled.byte()),
            }
        )
    answer = {"size": opened.size, "shown": shown, "image": to_base64(image), "layers": layers}
    if shows:
        file = io.BytesIO()
        fit(opened, min(SHOWN, max(opened.size)), to_show=True).save(file, "PNG")
        answer["picture"] = b64encode(file.getvalue()).decode()
    return to_answer(page, picture) | answer


def nearest(page: Page, place: tuple[float, float]) -> int:
    """Return the number of the digit nearest to a place, the last of those that are as near."""
    away = [distance(place, reading.box) for reading in page.digits]
    return max(range(len(away)), key=lambda i: (-away[i], i))


def kept(folder: Path) -> dict[str, Any]:
    """Return how many digits a folder holds, the most that are kept, and what learns from them."""
    words = [*program().split(), "fit", "--config", "wild", "--config", "own"]
    command = shlex.join([*words, "--data.extra", str(folder)])
    return {"count": count_kept(folder), "most": MOST_KEPT, "command": printable(command)}


def distance(place: tuple[float, float], box: tuple[int, int, int, int]) -> float:
    """Return how far a place is from a box: left, top, right and bottom."""
    sides = zip(box[:2], place, box[2:], strict=True)
    return math.hypot(*(max(low - value, value - high, 0) for low, value, high in sides))


def to_answer(page: Page, picture: bytes) -> dict[str, Any]:
    """Return what is read in a picture's first page, and how many `pages` it has."""
    return {**page.as_dict(), "pages": count_pages(picture)}


def to_base64(values: Tensor) -> str:
    """Return a uint8 tensor's bytes, row by row, as base64."""
    return b64encode(values.contiguous().numpy().data).decode()


@torch.inference_mode()
def classify(network: nn.Module, images: Tensor) -> list[int]:
    """Return the digits that the network reads in uint8 images `(B, 28, 28)`."""
    return network(to_pixels(images)).argmax(dim=1).tolist()


def main(arguments: list[str]) -> None:
    """Run the command line."""
    parser = make_parser("demo", __doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address (default: %(default)s)")
    parser.add_argument("--port", default=8000, type=int, help="port (default: %(default)s)")
    parser.add_argument("--no_browser", action="store_true", help="only print the address")
    parser.add_argument(
        "--collect",
        type=Path,
        metavar="FOLDER",
        help=f"keep digits that the page is told of, {MOST_KEPT:,} at most, to learn from them",
    )
    options = parser.parse_args(arguments)
    if not 0 <= options.port <= 65535:
        parser.error(f"--port {options.port} must be in 0 to 65535")
    if not options.host:
        parser.error("--host is empty: 127.0.0.1 is this machine, 0.0.0.0 the network too")
    if options.collect:
        check_folder(options.collect)
    need("fastapi", "uvicorn")
    from mnist_lightning.commands.server import allowed_hosts, listen, network_url, serve, url

    torch.set_num_threads(1)  # more do not pay for one image
    network = load(*options.ckpt_path)
    with listen(options.host, options.port) as listener:
        hosts = allowed_hosts(listener, options.host)
        app = create_app(network, hosts, options.collect)
        print(f"draw at {url(listener, options.host)} (Ctrl-C ends it)", flush=True)
        if not hosts:
            print(f"on a phone in the same network: {network_url(listener)}", flush=True)
        # Without a desktop it could be a text browser, which would take over the terminal.
        desktop = os.name == "nt" or sys.platform == "darwin"
        desktop = desktop or bool(os.getenv("DISPLAY") or os.getenv("WAYLAND_DISPLAY"))
        if desktop and not options.no_browser:
            webbrowser.open(url(listener, options.host))
        serve(app, listener)
