"""The playground: static files from this package, under a policy that lets nothing else in."""

from importlib.resources import files

from litestar import Response, get
from litestar.exceptions import NotFoundException

MEDIA_TYPES = {
    "index.html": "text/html; charset=utf-8",
    "app.js": "text/javascript; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


@get("/", include_in_schema=False)
async def page() -> Response[bytes]:
    """The page itself."""
    return _file("index.html")


@get("/static/{name:str}", include_in_schema=False)
async def asset(name: str) -> Response[bytes]:
    """What the page loads."""
    return _file(name)


def _file(name: str) -> Response[bytes]:
    """One of the known files. Raises NotFoundException for any other name."""
    if name not in MEDIA_TYPES:
        raise NotFoundException(f"no file {name!r} here")
    content = files("serve_app").joinpath("static", name).read_bytes()
    return Response(content, headers=HEADERS, media_type=MEDIA_TYPES[name])
