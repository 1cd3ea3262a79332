"""The routes of the HTTP server, and what holds for all of them: who may ask, and what a browser may do."""

from __future__ import annotations

import ipaddress
import json
import re
import socket
from collections.abc import Callable, Collection, Mapping
from email.utils import formatdate
from functools import cached_property, partial
from typing import Any, TypeVar
from urllib.parse import urlencode

import structlog
from anyio import CapacityLimiter, to_thread
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from db import DatabaseError, State
from watcher import http
from watcher.http.live import Live
from watcher.http.source import PAGE, Query, Source, as_video_id
from watcher.telemetry import RepeatFilter, printable, redact
from watcher.telemetry.formatting import bounded, quoted

log = structlog.get_logger()

READERS = 2
"""Answers that read the daemon or the ledger at the same time; others wait for their turn."""

MAX_PAGE = 500
"""Uploads that one answer of `/api/uploads` lists at most."""

MAX_TEXT = 300
"""Characters of a text that is searched for."""

SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}

_T = TypeVar("_T")


class Site:
    """What each path answers."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._readers = CapacityLimiter(READERS)
        self.live = Live(self._parts)

    def routes(self) -> list[Route]:
        """The routes, each for GET and HEAD."""
        routes: dict[str, Callable[..., Any]] = {
            "/": self.page,
            "/uploads": self.uploads_page,
            "/uploads/{id:int}": self.story_page,
            "/static/{name}": self.static,
            "/events": self.events,
            "/metrics": self.metrics,
            "/healthz": self.healthz,
            "/readyz": self.readyz,
            "/api/status": self.status,
            "/api/uploads": self.uploads,
            "/api/uploads/{id:int}": self.story,
        }
        return [Route(path, endpoint, methods=["GET"]) for path, endpoint in routes.items()]

    async def metrics(self, request: Request) -> Response:
        """The metrics in the format that the client accepts; `name[]` chooses some."""
        registry: Any = self._source.registry
        if names := request.query_params.getlist("name[]"):
            registry = registry.restricted_registry(names)
        encoder, content_type = choose_encoder(request.headers.get("Accept", ""))
        return Response(await self._read(encoder, registry), media_type=content_type)

    async def healthz(self, request: Request) -> Response:
        """Whether every thread makes progress."""
        del request
        stalls = self._source.stalls()
        return _json({"healthy": not stalls, "stalls": stalls}, 503 if stalls else 200)

    async def readyz(self, request: Request) -> Response:
        """Whether the daemon does its work, and if not, why."""
        del request
        reasons = await self._read(self._source.reasons_not_ready)
        return _json({"ready": not reasons, "reasons": reasons}, 503 if reasons else 200)

    async def status(self, request: Request) -> Response:
        """The status as JSON."""
        del request
        return _json(await self._read(self._source.status))

    async def uploads(self, request: Request) -> Response:
        """A page of uploads as JSON; `next` is the URL of the next page, or null."""
        query = _query(request)
        found, after = await self._read(self._source.uploads, query)
        return _json({"uploads": [upload.as_dict() for upload in found], "next": _next(request, after)})

    async def story(self, request: Request) -> Response:
        """The story of an upload as JSON."""
        return _json(await self._story(request))

    async def page(self, request: Request) -> Response:
        """The status page."""
        del request
        status = await self._read(self._source.status)
        return _html(self._pages.render("status.html", status=status))

    async def uploads_page(self, request: Request) -> Response:
        """A page of uploads."""
        query = _query(request)
        found, after = await self._read(self._source.uploads, query)
        html = self._pages.render(
            "uploads.html",
            uploads=[upload.as_dict() for upload in found],
            query=query,
            states=list(State),
            next_url=_next(request, after),
        )
        return _html(html)

    async def story_page(self, request: Request) -> Response:
        """The story of an upload."""
        return _html(self._pages.render("story.html", story=await self._story(request)))

    async def static(self, request: Request) -> Response:
        """The style sheet, the script or the icon, under the name that has its hash."""
        found = self._pages.assets.get(request.path_params["name"])
        if found is None:
            raise HTTPException(404)
        headers = {"Cache-Control": "public, max-age=31536000, immutable"}
        return Response(found.content, media_type=found.media_type, headers=headers)

    async def events(self, request: Request) -> Response:
        """The changes of the status page, as server-sent events."""
        if self.live.is_full:
            raise HTTPException(
                503,
                "Too many browsers show this page: close some, or try again later.",
                headers={"Retry-After": "10"},
            )
        if request.method == "HEAD":
            return Response(media_type="text/event-stream")
        return StreamingResponse(self.live.stream(), media_type="text/event-stream")

    @cached_property
    def _pages(self) -> http.Pages:
        """Loads the template engine with the first page: most daemons never show one."""
        return http.Pages()

    async def _parts(self) -> Mapping[str, str]:
        status = await self._read(self._source.status)
        return self._pages.parts("status.html", status=status)

    async def _story(self, request: Request) -> dict[str, Any]:
        story = await self._read(self._source.story, request.path_params["id"])
        if story is None:
            number = request.path_params["id"]
            raise HTTPException(404, f"There is no upload {number}; /uploads lists the uploads.")
        return story

    async def _read(self, function: Callable[..., _T], *arguments: object) -> _T:
        """Call what blocks in another thread."""
        return await to_thread.run_sync(partial(function, *arguments), limiter=self._readers)


def make_application(site: Site, address: str, hosts: Collection[str] = ()) -> ASGIApp:
    """The application at an address; `hosts` are further names by which it may be asked for."""
    starlette = Starlette(
        routes=site.routes(),
        exception_handlers={HTTPException: _refused, DatabaseError: _refused},
    )
    starlette.router.redirect_slashes = False
    return _Guard(starlette, allowed_hosts(address, hosts))


def allowed_hosts(address: str, hosts: Collection[str]) -> Callable[[str], bool]:
    """Whether a `Host` header names this server, so that no other site's name can be pointed at it.

    Those that it may name are `hosts`, localhost and the bound address; where that is every address of the
    machine, any IP address, which no name server has a say in, and the machine's name.
    """
    bound = address.rpartition(":")[0].strip("[]").lower()
    is_wildcard = bound in {"0.0.0.0", "::"}  # noqa: S104  # it is compared, not bound
    names = {"localhost", bound, *(host.lower() for host in hosts)}
    if is_wildcard:
        names |= {socket.gethostname().lower()}
    if _is_loopback(bound) or bound == "localhost":
        names |= {"127.0.0.1", "::1"}

    def is_allowed(header: str) -> bool:
        host = re.sub(r":\d*$", "", header).lower().removesuffix(".").strip("[]")
        return host in names or (is_wildcard and _is_address(host))

    return is_allowed


class _Guard:
    """Refuses foreign hosts, adds the headers, and logs what was not foreseen."""

    def __init__(self, application: ASGIApp, is_allowed: Callable[[str], bool]) -> None:
        self._application = application
        self._is_allowed = is_allowed
        self._reported = RepeatFilter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_begun = False

        async def send_with_headers(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                headers = MutableHeaders(scope=message)
                headers["Date"] = formatdate(usegmt=True)
                headers.setdefault("Cache-Control", "no-store")
                for name, value in SECURITY_HEADERS.items():
                    headers[name] = value
            await send(message)

        application = self._refusal(scope) or self._application
        try:
            await application(scope, receive, send_with_headers)
        except Exception as exc:  # one answer must not end the server
            reason = printable(redact(f"{type(exc).__name__}: {exc}"))
            if self._reported.is_news("request", reason):
                log.warning("metrics_unanswered", reason=reason, exc_info=not isinstance(exc, OSError))
            if not has_begun:
                answer = PlainTextResponse("An unforeseen error; the log has it.\n", 500)
                await answer(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        host = Headers(scope=scope).get("host")
        if host is not None and not self._is_allowed(host):
            sentence = f"This server is not {printable(bounded(host, 300))}; HTTP_HOSTS can name it.\n"
            return PlainTextResponse(sentence, 421)  # RFC 9110, section 15.5.20
        return None


def _query(request: Request) -> Query:
    """The query that a URL describes. Raises HTTPException with a sentence for a wrong one."""
    given = {name: value.strip() for name, value in request.query_params.items() if value.strip()}
    try:
        state = State(given["state"]) if "state" in given else None
    except ValueError as exc:
        raise HTTPException(
            400, f"state: it is {quoted(given['state'])}, none of {', '.join(State)}."
        ) from exc
    video_id = as_video_id(given["video"]) if "video" in given else None
    if "video" in given and video_id is None:
        raise HTTPException(400, f"video: it is {quoted(given['video'])}, not a UUID.")
    text = given.get("q")
    if text is not None and (len(text) > MAX_TEXT or not text.isprintable()):
        limits = f"not printable text of {MAX_TEXT} characters or fewer"
        raise HTTPException(400, f"q: it is {quoted(text)}, {limits}.")
    limit = min(MAX_PAGE, _number(given, "limit") or PAGE)
    return Query(state, video_id, text, _number(given, "after"), limit)


def _number(given: Mapping[str, str], name: str) -> int | None:
    text = given.get(name)
    if text is None:
        return None
    if not re.fullmatch(r"[1-9][0-9]{0,17}", text):
        raise HTTPException(400, f"{name}: it is {quoted(text)}, not a positive number below 10^18.")
    return int(text)


def _next(request: Request, after: int | None) -> str | None:
    if after is None:
        return None
    given = {name: value for name, value in request.query_params.items() if name != "after"}
    return f"{request.url.path}?{urlencode({**given, 'after': after})}"


def _json(value: object, status: int = 200) -> Response:
    # ASCII: a name may have bytes that are no text, which UTF-8 cannot encode.
    return Response(json.dumps(value, indent=2) + "\n", status, media_type="application/json")


def _html(text: str, status: int = 200) -> Response:
    return Response(text, status, media_type="text/html; charset=utf-8")


async def _refused(request: Request, exc: Exception) -> Response:
    """Answer an HTTPException, or 503 with the sentence of a DatabaseError."""
    answer = exc if isinstance(exc, HTTPException) else HTTPException(503, redact(str(exc)))
    if request.url.path.startswith("/api/"):
        return _json({"error": answer.detail}, answer.status_code)
    return PlainTextResponse(f"{answer.detail}\n", answer.status_code, headers=answer.headers)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    return _is_address(host) and ipaddress.ip_address(host).is_loopback
