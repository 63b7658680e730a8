"""The body of an upload: `file` as multipart, or `image_url` or `image_base64` as JSON or a form's field.

Protocols, section 2.2; `name` and `background` (a word or colour, see avatars/background.py) are this
server's own.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import PurePosixPath

from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import FormParser, MultiPartException, MultiPartParser
from starlette.requests import Request

from serve_app.avatars.fetch import MAX_URL_CHARS
from serve_app.avatars.photo import MAX_PHOTO_BYTES, PhotoRefused
from serve_app.errors import InvalidMessage
from serve_app.gateway.avatar.models import parsed
from serve_app.gateway.http_body import read_body

MAX_BASE64_CHARS = 4 * (MAX_PHOTO_BYTES // 3 + 1)
MAX_BODY_BYTES = MAX_BASE64_CHARS + 256 * 1024
MAX_NAME_CHARS = 100
MAX_FIELDS = 8
MAX_SPACES = 100_000
"""Line breaks that may be within base64 text."""

_DATA_URL = re.compile(r"data:[a-z0-9.+/-]{0,64};base64,", re.IGNORECASE)
_FIELDS = ("image_url", "image_base64", "name", "background")


@dataclass(frozen=True, slots=True)
class Upload:
    """What was uploaded: content or url, never both.

    Attributes:
        content: of the picture's file; empty where `url` is given.
        url: where the picture lies; empty where `content` is given.
        name: for people; may be empty.
        background: a word or colour.
    """

    content: bytes
    url: str
    name: str
    background: str


class UploadFields(BaseModel):
    """The fields of an upload, but the file."""

    model_config = ConfigDict(extra="ignore")

    image_url: str = Field(default="", max_length=MAX_URL_CHARS)
    image_base64: str = Field(default="", max_length=MAX_BASE64_CHARS + MAX_SPACES)
    name: str = Field(default="", max_length=MAX_NAME_CHARS)
    background: str = Field(default="photo", max_length=32)


async def read_upload(request: Request) -> Upload:
    """Return what a request uploads.

    Raises:
        BodyRefused: the body is too long, or does not come.
        InvalidMessage: it is no form and no JSON, or holds no picture or several, or a field is wrong.
        PhotoRefused: the picture is empty, or the base64 text is none.
    """
    body = await read_body(request, MAX_BODY_BYTES)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        return _chosen(parsed(UploadFields, body), None, "")
    if kind not in ("multipart/form-data", "application/x-www-form-urlencoded"):
        raise InvalidMessage(
            "expected a body as multipart/form-data with a file, or as application/json, found "
            f"{kind[:64] or 'no content-type'!r}"
        )
    form = await _form(request, body, kind)
    try:
        return await _of_form(form)
    finally:
        await form.close()


async def _form(request: Request, body: bytes, kind: str) -> FormData:
    async def stream() -> AsyncGenerator[bytes, None]:
        yield body
        # The end, as a request's own stream tells it.
        yield b""

    try:
        if kind == "multipart/form-data":
            parser = MultiPartParser(
                request.headers, stream(), max_files=1, max_fields=MAX_FIELDS, max_part_size=MAX_BODY_BYTES
            )
            return await parser.parse()
        return await FormParser(request.headers, stream(), max_fields=MAX_FIELDS).parse()
    except MultiPartException as error:
        raise InvalidMessage(f"expected a form, found: {error.message}") from None
    except (ValueError, LookupError) as error:
        # The parser's errors are ValueErrors; unknown charsets are LookupErrors.
        raise InvalidMessage(
            f"expected a form, found one that cannot be read ({type(error).__name__})"
        ) from None


async def _of_form(form: FormData) -> Upload:
    file = form.get("file")
    if file is not None and not isinstance(file, UploadFile):
        raise InvalidMessage("file: expected a file with a filename, found a field")
    texts = {name: form[name] for name in _FIELDS if name in form}
    if any(not isinstance(value, str) for value in texts.values()):
        raise InvalidMessage("expected a file in the field file alone, found one in another")
    fields: UploadFields = parsed(UploadFields, json.dumps(texts).encode())
    content = None if file is None else await file.read()
    return _chosen(fields, content, "" if file is None else file.filename or "")


def _chosen(fields: UploadFields, content: bytes | None, filename: str) -> Upload:
    given = [content is not None, bool(fields.image_url), bool(fields.image_base64)]
    if sum(given) != 1:
        found = "none of them" if not any(given) else "several"
        raise InvalidMessage(f"expected one of file, image_url and image_base64, found {found}", "file")
    if fields.image_base64:
        content = decode_base64(fields.image_base64)
    name = fields.name or PurePosixPath(filename.replace("\\", "/")).stem
    return Upload(content or b"", fields.image_url, printable(name)[:MAX_NAME_CHARS], fields.background)


def decode_base64(text: str) -> bytes:
    """Return the bytes of base64 text (RFC 4648, also its URL alphabet), or of a data: URL of it (RFC 2397).

    Raises:
        PhotoRefused: it is none.
    """
    prefix = _DATA_URL.match(text)
    text = "".join(text[prefix.end() if prefix else 0 :].split()).replace("-", "+").replace("_", "/")
    text = text.rstrip("=")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise PhotoRefused(
            "bad_request",
            "image_base64: expected base64 text or a data: URL of it, found other text",
            "Encode the file's bytes with base64.",
        ) from None


def printable(text: str) -> str:
    """Return a name without control characters."""
    return "".join(character for character in text if character.isprintable()).strip()
