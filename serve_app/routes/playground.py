"""The playground: static files from this package, under a policy that lets nothing else in."""

from importlib.resources import files

from litestar import Response, get
from litestar.exceptions import NotFoundException

MEDIA_TYPES = {
    "html": "text/html",
    "js": "text/javascript",
    "css": "text/css",
    "svg": "image/svg+xml",
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
FILES = {entry.name: entry.read_bytes() for entry in (files("serve_app") / "static").iterdir() if entry.is_file()}


@get("/", include_in_schema=False)
async def page() -> Response[bytes]:
    """The page itself."""
    return _file("index.html")


@get("/static/{name:str}", include_in_schema=False)
async def asset(name: str) -> Response[bytes]:
    """What the page loads."""
    return _file(name)


def _file(name: str) -> Response[bytes]:
    """One of the package's files. Raises NotFoundException for any other name."""
    if name not in FILES:
        raise NotFoundException(f"no file {name!r} here")
    return Response(FILES[name], headers=HEADERS, media_type=MEDIA_TYPES[name.rpartition(".")[2]])
