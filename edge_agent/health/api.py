"""The REST API's routes. Everything runs in the one event loop of the HTTP thread, so the callables must be quick.

Imported only by the HTTP thread: FastAPI costs 0.4 s and 20 MB, which a box without the API keeps.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Query, Response
from fastapi import Path as PathParam
from fastapi.responses import PlainTextResponse

from edge_agent import __version__
from edge_agent.health import prometheus
from edge_agent.health.rest import Sources
from edge_agent.health.status import AgentStatus, CameraStatus, Verdict
from edge_agent.types import rfc3339

MAX_EVENTS = 500
_ASSETS = Path(__file__).parent / "assets"
CameraId = Annotated[str, PathParam(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$", description="camera id")]
Since = Annotated[
    datetime | None, Query(description="RFC 3339 time with zone, `2026-01-31T12:00:00Z`; default: the latest")
]
Limit = Annotated[int, Query(ge=1, le=MAX_EVENTS, description="at most this many")]
_Answers = dict[int | str, dict[str, Any]]


def build_app(sources: Sources) -> FastAPI:
    """All routes of the contract and ``/docs``."""
    app = FastAPI(
        title="edge-agent",
        version=__version__,
        description="Computer vision on the box next to the camera: state, cameras, events, models. Read-only.",
        docs_url=None,
        redoc_url=None,
        openapi_url="/docs/openapi.json",
    )
    _probe_routes(app, sources)
    _data_routes(app, sources)
    _snapshot_route(app, sources)
    _docs_routes(app)
    return app


def _probe_routes(app: FastAPI, sources: Sources) -> None:
    failing: _Answers = {503: {"model": Verdict, "description": "failing"}}

    @app.get("/healthz", tags=["health"], summary="Alive and beating", responses=failing)
    async def healthz(response: Response) -> Verdict:
        """503 when restarting the process would help; `degraded` (200) when somebody should look."""
        return _answer(sources.status().liveness(), response)

    @app.get("/readyz", tags=["health"], summary="Model active and a camera delivering", responses=failing)
    async def readyz(response: Response) -> Verdict:
        """503 until a model is active and at least one camera delivers."""
        return _answer(sources.status().readiness(), response)

    @app.get("/metrics", tags=["health"], summary="Prometheus text format", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Names and help are in the text."""
        return Response(prometheus.exposition(sources.status()), media_type=prometheus.CONTENT_TYPE)


def _answer(verdict: Verdict, response: Response) -> Verdict:
    response.status_code = 503 if verdict.status == "failing" else 200
    return verdict


def _data_routes(app: FastAPI, sources: Sources) -> None:
    @app.get("/api/v1/status", tags=["state"], summary="Everything the agent knows about itself")
    async def status() -> AgentStatus:
        """Seconds, bytes; null means not known."""
        return sources.status()

    @app.get("/api/v1/cameras", tags=["state"], summary="The cameras")
    async def cameras() -> tuple[CameraStatus, ...]:
        """In the order of the configuration."""
        return sources.status().cameras

    @app.get("/api/v1/events", tags=["events"], summary="Recent events, oldest first")
    async def events(since: Since = None, limit: Limit = 100) -> list[dict[str, Any]]:
        """CloudEvents 1.0, the newest `limit` of those that fit; where fewer came, none is missing.

        To go on reading, give the `time` of the last one as `since` and skip ids already seen.
        """
        if since is not None and since.tzinfo is None:
            raise HTTPException(422, "since needs a time zone, for example 2026-01-31T12:00:00Z")
        try:
            start = None if since is None else rfc3339(since.timestamp())
        except (ValueError, OverflowError) as error:
            raise HTTPException(422, "since lies outside the years 1 to 9999 of UTC") from error
        return sources.recent_events(start, limit)[:limit]

    @app.get("/api/v1/models", tags=["models"], summary="Which model is at work, its last update, and what there is")
    async def models() -> dict[str, Any]:
        """As the MQTT topic `model` has it, and in `models` every model on this box."""
        return sources.models()


def _snapshot_route(app: FastAPI, sources: Sources) -> None:
    answers: _Answers = {
        200: {"content": {"image/jpeg": {}}, "description": "the picture"},
        403: {"description": "pictures are switched off"},
        404: {"description": "no such camera, or no picture yet"},
    }

    @app.get("/api/v1/cameras/{camera_id}/snapshot.jpg", tags=["state"], responses=answers, response_class=Response)
    async def snapshot(camera_id: CameraId) -> Response:
        """The last frame with its boxes; only with `privacy.images: true`."""
        if sources.snapshot is None:
            raise HTTPException(403, "pictures are switched off: privacy.images is false in the configuration")
        if sources.status().camera(camera_id) is None:
            raise HTTPException(404, "no such camera")
        jpeg = sources.snapshot(camera_id)
        if jpeg is None:
            raise HTTPException(404, "this camera has delivered no picture yet")
        return Response(jpeg, media_type="image/jpeg")


def _docs_routes(app: FastAPI) -> None:
    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return Response((_ASSETS / "docs.html").read_bytes(), media_type="text/html; charset=utf-8")

    @app.get("/docs/rapidoc-min.js", include_in_schema=False)
    async def script() -> Response:
        return Response((_ASSETS / "rapidoc-min.js").read_bytes(), media_type="text/javascript; charset=utf-8")
