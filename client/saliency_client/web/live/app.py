"""The addresses of the page, as a Starlette application."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, get_args

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from saliency_client._errors import CallError, InputError, SaliencyError, Unavailable
from saliency_client.cli.classes import ClassNames
from saliency_client.cli.connection import Connection, is_path
from saliency_client.cli.errors import CommandError, UsageError, describe
from saliency_client.cli.looks import Look
from saliency_client.cli.text import plain_json
from saliency_client.images import Resize
from saliency_client.web import document as pages
from saliency_client.web.live import again, explaining, forms, photos, words
from saliency_client.web.live.admission import Address, Refusal, refusal, response_headers
from saliency_client.web.live.explaining import Map, Wish
from saliency_client.web.live.keeping import Kept
from saliency_client.web.live.model import Served
from saliency_client.web.live.photos import Upload
from saliency_client.web.live.turns import Busy, Turns
from saliency_client.web.map_picture import color_tables
from saliency_client.web.meanings import meanings

MOST_BYTES = 64 * 2**20
"""Of an upload, which a phone's photo stays far below."""

POLICY = {**pages.POLICY, "connect-src": "'self'", "form-action": "'none'", "frame-ancestors": "'none'"}
SCRIPTS = (pages.VIEWER, "live.js")

_STATIC = {
    pages.STYLE: "text/css; charset=utf-8",
    **dict.fromkeys(SCRIPTS, "text/javascript; charset=utf-8"),
}
_MOST_JSON = 64 * 2**10
_READ_SECONDS = 30.0
"""How long the next piece of an upload may take."""
_KEPT_SECONDS = 30 * 60.0
_MOST_PHOTOS, _BYTES_OF_PHOTOS = 64, 512 * 2**20
_MOST_MAPS, _BYTES_OF_MAPS = 256, 256 * 2**20
_SWEEP_SECONDS = 60.0
_UPLOADS, _UPLOADS_WAITING = 2, 8
_DRAWINGS, _DRAWINGS_WAITING = 1, 8


@dataclass(frozen=True)
class Settings:
    """What the command was started with.

    Attributes:
        connection: the server and the model.
        model: its name on the server.
        names: of all classes, from a file.
        resize, max_pixels: how photos are read, unless a person chooses otherwise.
        running, waiting: how many requests run, and how many wait.
    """

    connection: Connection
    model: str
    names: ClassNames | None
    resize: Resize
    max_pixels: int
    running: int
    waiting: int


@dataclass(frozen=True)
class KeptMap:
    """A map and the photo that it is of."""

    map: Map
    photo: str
    source: again.Source


@dataclass
class Page:
    """What the addresses share: the model, and what is kept."""

    settings: Settings
    served: Served
    turns: Turns = field(init=False)
    uploads: Turns = field(default_factory=lambda: Turns(_UPLOADS, _UPLOADS_WAITING))
    drawings: Turns = field(default_factory=lambda: Turns(_DRAWINGS, _DRAWINGS_WAITING))
    photos: Kept[Upload] = field(init=False)
    maps: Kept[KeptMap] = field(init=False)

    def __post_init__(self) -> None:
        self.turns = Turns(self.settings.running, self.settings.waiting)
        self.photos = Kept(most=_MOST_PHOTOS, most_bytes=_BYTES_OF_PHOTOS, seconds=_KEPT_SECONDS)
        self.maps = Kept(most=_MOST_MAPS, most_bytes=_BYTES_OF_MAPS, seconds=_KEPT_SECONDS)


class Gone(Exception):
    """What was asked for is not kept, or not any more.

    Attributes:
        hint: the next step.
    """

    def __init__(self, what: str) -> None:
        super().__init__(f"the page does not keep this {what} any more")
        self.hint = "choose the photo again"


class TooLarge(Exception):
    """An upload is larger than the page takes.

    Attributes:
        hint: the next step.
    """

    def __init__(self, size: int | None) -> None:
        has = "more" if size is None else f"{size / 2**20:.1f} MB"
        super().__init__(f"the file has {has}, and the page takes up to {MOST_BYTES // 2**20} MB")
        self.hint = "save it smaller, or as JPEG; `saliency-client explain` takes files of any size"


def application(settings: Settings, served: Served, address: Address) -> ASGIApp:
    """The page.

    Args:
        settings: of the command.
        served: the model; closed when the application ends.
        address: where it listens, which requests are held against.
    """
    page = Page(settings, served)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        sweeping = asyncio.create_task(_sweep(page))
        try:
            yield
        finally:
            sweeping.cancel()
            with suppress(asyncio.CancelledError):
                await sweeping
            await served.close()

    app = Starlette(routes=_routes(page), lifespan=lifespan)
    app.state.page = page
    for kind in (SaliencyError, CommandError, UsageError, Busy, Gone, TooLarge):
        app.add_exception_handler(kind, _failed(page))
    return Guard(app, address)


class Guard:
    """Lets in who may ask, and gives every answer its headers."""

    def __init__(self, app: ASGIApp, address: Address) -> None:
        self.app, self.address = app, address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"]
        fixed = response_headers(pages.policy(POLICY), lasting=path.lstrip("/") in _STATIC)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [(name, value) for name, value in message["headers"] if name.decode() not in fixed]
                message["headers"] = own + [(name.encode(), value.encode()) for name, value in fixed.items()]
            await send(message)

        refused = refusal(scope["method"], path, Headers(scope=scope).items(), self.address)
        app = self.app if refused is None else _refused(refused)
        await app(scope, receive, send_with_headers)


class _Admitted(StreamingResponse):
    """Lines of JSON from one who holds a place until the last is sent, or nobody listens any more."""

    def __init__(self, told: AsyncIterator[bytes], held: ExitStack) -> None:
        super().__init__(told, media_type="application/x-ndjson")
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them."""
        with self._held:
            await super().__call__(scope, receive, send)


def _routes(page: Page) -> list[Route]:
    async def shell(_: Request) -> Response:
        data = {
            "page": "live",
            "colors": color_tables(),
            "meanings": meanings(),
            "resize": page.settings.resize,
            "mostBytes": MOST_BYTES,
        }
        text = pages.document(
            title=f"Explanations of {page.settings.model}", scripts=SCRIPTS, data=data, directives=None
        )
        return Response(text, media_type="text/html")

    async def file(request: Request) -> Response:
        name = request.url.path.lstrip("/")
        return Response(pages.static(name), headers={"content-type": _STATIC[name]})

    async def no_icon(_: Request) -> Response:
        # Browsers ask for one without being told to.
        return Response(status_code=204)

    async def model(_: Request) -> Response:
        return _json(await page.served.offer())

    async def state(_: Request) -> Response:
        return _json(await page.served.state())

    async def names(request: Request) -> Response:
        return _json({"names": await page.served.names(request.query_params.get("choice", ""))})

    async def upload(request: Request) -> Response:
        choice = request.query_params.get("choice", "")
        wanted = request.query_params.get("resize")
        resize = next((one for one in get_args(Resize) if one == wanted), page.settings.resize)
        name = photos.file_name(request.headers.get("x-file-name"))
        with page.uploads.admitted():
            async with page.uploads.turn():
                content = await _body(request, MOST_BYTES)
                kind = await page.served.input(choice)
                read = await asyncio.to_thread(
                    photos.uploaded, content, name, kind, resize=resize, max_pixels=page.settings.max_pixels
                )
        key = page.photos.put(read, read.bytes)
        return _json(
            {
                "id": key,
                "name": read.name,
                "size": read.size,
                "view": {"size": read.pictures.size, "box": read.pictures.box},
                "notes": read.notes,
            }
        )

    async def view(request: Request) -> Response:
        photo = _photo(page, request.path_params["photo"])
        return Response(photo.pictures.view, media_type=f"image/{photo.pictures.type}")

    async def classes(request: Request) -> Response:
        asked = await _asked(request)
        photo, choice = _photo(page, asked.get("photo")), str(asked.get("choice", ""))
        with page.turns.admitted():
            image = await _input(page, photo, choice)
            return _json({"classes": await explaining.predicted(page.served, choice, image, page.turns)})

    async def explain(request: Request) -> Response:
        asked = await _asked(request)
        key, photo = str(asked.get("photo")), _photo(page, asked.get("photo"))
        wish = _wish(asked)
        with ExitStack() as held:
            held.enter_context(page.turns.admitted())
            return _Admitted(_told(page, key, photo, wish), held.pop_all())

    async def lines(request: Request) -> Response:
        kept = _map(page, request)
        made = again.lines(
            page.settings.connection, page.settings.model, kept.source, kept.map, _look(request)
        )
        return _json({"command": made.command, "python": made.python, "fillIn": made.fill_in})

    async def download(request: Request) -> Response:
        kept, look = _map(page, request), _look(request)
        upload, kind = _photo(page, kept.photo), request.path_params["kind"]

        def drawn() -> bytes:
            takes = next(iter(upload.inputs))
            photo = photos.read(
                upload.content, upload.name, takes, resize=upload.resize, max_pixels=page.settings.max_pixels
            )
            if kind == "npy":
                return again.array(photo, kept.map, look)
            return again.picture(photo, kept.source, kept.map, look)

        with page.drawings.admitted():
            async with page.drawings.turn():
                content = await asyncio.to_thread(drawn)
        name = f"{again.file_stem(upload.name, kept.map)}.{kind}"
        return Response(
            content,
            media_type="image/png" if kind == "png" else "application/octet-stream",
            headers={"content-disposition": f'attachment; filename="{name}"'},
        )

    return [
        Route("/", shell),
        *(Route(f"/{name}", file) for name in _STATIC),
        Route("/favicon.ico", no_icon),
        Route("/api/model", model),
        Route("/api/state", state),
        Route("/api/names", names),
        Route("/api/photos", upload, methods=["POST"]),
        Route("/api/photos/{photo}", view),
        Route("/api/classes", classes, methods=["POST"]),
        Route("/api/explain", explain, methods=["POST"]),
        Route("/api/maps/{map}/again", lines),
        Route("/api/maps/{map}/file.{kind}", download),
    ]


async def _told(page: Page, key: str, photo: Upload, wish: Wish) -> AsyncIterator[bytes]:
    """The lines that the browser reads while a map is made; leaving them cancels the call under way."""
    kept: list[str] = []
    source = again.Source(photo.name, photo.is_array, photo.resize, page.settings.max_pixels)
    try:
        image = await _input(page, photo, wish.choice)
        async for one in explaining.explained(page.served, wish, image, page.turns):
            kept.append(page.maps.put(KeptMap(one, key, source), one.bytes))
            # A person may still look at the one before.
            if len(kept) > 2:
                page.maps.drop(kept.pop(0))
            # Others are answered while it is drawn.
            yield _line(await asyncio.to_thread(explaining.event, one, kept[-1]))
        yield _line({"event": "end"})
    except (SaliencyError, CommandError, UsageError) as error:
        yield _line({"event": "error", **_in_words(page, error)})


async def _input(page: Page, photo: Upload, choice: str) -> Any:
    kind = await page.served.input(choice)
    return await asyncio.to_thread(photos.input_for, photo, kind, page.settings.max_pixels)


async def _body(request: Request, most: int) -> bytes:
    """The body of a request; refused before it is read where its length says so, or once it is too long.

    Raises:
        TooLarge: it is larger than the bound.
        ClientDisconnect: it did not come in time.
    """
    length = request.headers.get("content-length")
    if length is not None and length.isdecimal() and int(length) > most:
        raise TooLarge(int(length))
    pieces: list[bytes] = []
    size = 0
    stream = request.stream()
    while True:
        try:
            piece = await asyncio.wait_for(anext(stream, None), _READ_SECONDS)
        except asyncio.TimeoutError as error:
            raise ClientDisconnect from error
        if piece is None:
            return b"".join(pieces)
        pieces.append(piece)
        size += len(piece)
        if size > most:
            raise TooLarge(None)


async def _asked(request: Request) -> Mapping[str, Any]:
    """The JSON object of a request.

    Raises:
        CommandError: the body is no JSON object, or not declared as one.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise CommandError("the request is not application/json", hint="reload the page")
    try:
        asked = json.loads(await _body(request, _MOST_JSON))
    except (ValueError, RecursionError) as error:
        raise CommandError("the request is no JSON", hint="reload the page") from error
    if not isinstance(asked, dict):
        raise CommandError("the request is no JSON object", hint="reload the page")
    return asked


def _wish(asked: Mapping[str, Any]) -> Wish:
    wanted, parameters = asked.get("class"), asked.get("parameters", {})
    if not isinstance(wanted, (str, int, type(None))) or isinstance(wanted, bool):
        raise CommandError("the class is neither a name nor a number", hint="choose one")
    if not isinstance(parameters, dict):
        raise CommandError("parameters are no JSON object", hint="reload the page")
    name = None if wanted is None or wanted == "" else wanted
    return Wish(str(asked.get("choice", "")), str(asked.get("method", "")), name, parameters)


def _look(request: Request) -> Look:
    """How a picture is drawn, from the query.

    Raises:
        UsageError: options do not go together, or a value is none that they take.
    """
    query = request.query_params
    style = query.get("style", "overlay")
    if style not in ("overlay", "heatmap"):
        raise UsageError(f"style is {style!r}; it is overlay or heatmap")
    opacity = query.get("opacity")
    try:
        level = None if opacity is None else float(opacity)
    except ValueError:
        level = -1.0
    if level is not None and not 0 <= level <= 1:
        raise UsageError(f"opacity is {opacity!r}; it is a number from 0 to 1")
    look = Look(
        style,
        query.get("colormap") or None,
        level if style == "overlay" else None,
        polarity="both" if query.get("signed") == "1" else None,
        photo_colors=style == "overlay" and query.get("photo_colors") == "1",
    )
    look.check()
    return look


def _photo(page: Page, key: Any) -> Upload:
    found = page.photos.get(str(key))
    if found is None:
        raise Gone("photo")
    return found


def _map(page: Page, request: Request) -> KeptMap:
    found = page.maps.get(request.path_params["map"])
    if found is None:
        raise Gone("map")
    return found


def _in_words(page: Page, error: Exception) -> dict[str, Any]:
    """An error as the client says it: sentence, hint, gRPC code; and the field that the server refused."""
    if isinstance(error, (Busy, Gone, TooLarge)):
        told: tuple[str, str | None] = (str(error), error.hint)
    else:
        told = describe(error)
        told = told[0], words.hint(error) or told[1]
    refusal = error.details if isinstance(error, CallError) else str(error)
    field = forms.learned(refusal) if isinstance(error, (CallError, InputError)) else None
    if field is not None:
        told = words.named(told[0], field["name"]), told[1]
    server = page.settings.connection.server or ""
    # The path of a socket is nothing for a browser.
    hidden = [one.strip() for one in server.split(",")] if is_path(server) else []
    for target in hidden:
        told = told[0].replace(target, "the server"), told[1] and told[1].replace(target, "the server")
    code = getattr(getattr(error, "code", None), "name", None)
    return {
        "error": told[0],
        "hint": told[1],
        "code": code,
        "gone": isinstance(error, Gone),
        "down": isinstance(error, Unavailable),
        "field": field,
    }


def _failed(page: Page) -> Any:
    """What makes an answer of an error."""

    async def answer(_: Request, error: Exception) -> Response:
        status, headers = 400, {}
        if isinstance(error, Busy):
            status, headers = 503, {"retry-after": str(error.seconds)}
        elif isinstance(error, Gone):
            status = 404
        elif isinstance(error, TooLarge):
            # What still comes of it is not read.
            status, headers = 413, {"connection": "close"}
        elif isinstance(error, CallError):
            status = 502
        return _json(_in_words(page, error), status, headers)

    return answer


def _refused(refused: Refusal) -> ASGIApp:
    headers = {"connection": "close"}
    return _json({"error": refused.error, "hint": refused.hint}, refused.status, headers)


def _json(
    value: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    return JSONResponse(plain_json(value), status, headers)


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(plain_json(value), allow_nan=False).encode() + b"\n"


async def _sweep(page: Page) -> None:
    """Forget what nobody asked for in time, also where nobody asks for anything."""
    while True:
        await asyncio.sleep(_SWEEP_SECONDS)
        page.photos.forget_old()
        page.maps.forget_old()
