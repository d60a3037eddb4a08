"""What `POST /read` takes and answers: its models, and the picture in a request's body."""

import base64
import binascii
import re
from typing import Annotated, Any
from urllib.parse import unquote_to_bytes

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mnist_lightning.errors import UserError
from mnist_lightning.sizes import NUM_CLASSES

MOST_BYTES = 10_000_000  # of a picture
MOST_BODY = MOST_BYTES * 4 // 3 + 1000  # base64 makes four bytes of three; and what is around it
WAYS = 'a picture\'s bytes, a form with its file, its data URL, or JSON {"image": its data URL}'

Share = Annotated[float, Field(ge=0, le=1)]
Numeral = Annotated[int, Field(ge=0, le=NUM_CLASSES - 1)]


class Model(BaseModel):
    """What is sent has these fields and no others."""

    model_config = ConfigDict(extra="forbid")


class PictureURL(Model):
    """A picture in JSON."""

    image: str = Field(description="A data URL: data:image/png;base64,...", pattern="^data:")


class Digit(Model):
    """One digit of a picture."""

    digit: Numeral = Field(description="The most probable digit.")
    probability: Share = Field(description="Its probability.")
    second: Numeral = Field(description="The second guess.")
    second_probability: Share = Field(description="Its probability.")
    probabilities: list[Share] = Field(
        description="Of the digits 0 to 9.", min_length=NUM_CLASSES, max_length=NUM_CLASSES
    )
    is_digit: bool = Field(description="Whether there is a digit at all.")
    box: list[int] = Field(
        description="Left, top, right, bottom, in pixels.", min_length=4, max_length=4
    )


class Answer(Model):
    """What is read in a picture."""

    text: str = Field(
        description="A line for each line of writing, a space where a gap is wide, ? for no digit."
    )
    digits: list[Digit] = Field(description="Line by line, from left to right.", min_length=1)
    pages: int = Field(description="Pages that the file has; the first is read.", ge=1)


class Refusal(Model):
    """Why there is no answer."""

    error: str = Field(description="One sentence.")


FILE = {"type": "string", "format": "binary"}
# The request, and why it may be refused, as OpenAPI has them.
REQUEST = {
    "required": True,
    "description": f"One of: {WAYS}. At most {MOST_BYTES:,} bytes of picture.",
    "content": {
        "application/octet-stream": {"schema": FILE},
        "image/*": {"schema": FILE},
        "multipart/form-data": {"schema": {"type": "object", "properties": {"image": FILE}}},
        "text/plain": {"schema": PictureURL.model_json_schema()["properties"]["image"]},
        "application/json": {"schema": PictureURL.model_json_schema()},
    },
}
REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": Refusal, "description": why}
    for status, why in {
        400: "It is no picture that can be read, or there is no ink on it.",
        403: "It comes from another site's page.",
        408: "It did not arrive in time.",
        413: "It is too large.",
        503: "Too many are waiting.",
    }.items()
}


def find_picture(body: bytes, content_type: str) -> bytes:
    """Return the picture file in a request's body, whatever it is wrapped in.

    Args:
        body: The body. A data URL and JSON are known by how they begin, since `curl` calls every
            body a form's.
        content_type: The request's, which says what separates a form's parts.

    Raises:
        UserError: If it is wrapped in anything but `WAYS`.
    """
    if content_type.lower().startswith("multipart/"):
        body = _file_of_form(body, content_type)
    if body[:99].lstrip().startswith(b"{"):
        try:
            body = PictureURL.model_validate_json(body).image.encode()
        except ValidationError as error:
            raise UserError(f"this JSON holds no picture: send {WAYS}") from error
    return _decode_url(body) if body[:99].lstrip()[:5].lower() == b"data:" else body


def _file_of_form(body: bytes, content_type: str) -> bytes:
    """Return the first file of a multipart form, or if there is none its first field (RFC 7578)."""
    boundary = re.search(r'boundary="?([^";\s]+)', content_type, re.IGNORECASE)
    separator = b"\r\n--" + (boundary[1] if boundary else "").encode("latin-1")
    split = (b"\r\n" + body).split(separator, 100)  # a body has room for millions of parts
    parts = [part.partition(b"\r\n\r\n") for part in split[1:-1]]
    files = [contents for head, _, contents in parts if b"filename" in head.lower()]
    fields = [contents for _, blank, contents in parts if blank]
    if not boundary or not fields:
        raise UserError(f"this form holds no file: send {WAYS}")
    return (files or fields)[0]


def _decode_url(url: bytes) -> bytes:
    head, comma, data = url.strip().partition(b",")
    data = unquote_to_bytes(data)
    if not head.lower().endswith(b";base64"):
        return data
    data = b"".join(data.split())
    try:
        return base64.b64decode(data + b"=" * (-len(data) % 4), validate=True)
    except binascii.Error as error:
        raise UserError(f"the data URL is not whole: send {WAYS}") from error
