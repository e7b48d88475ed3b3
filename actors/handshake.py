"""How two actors prove to each other that Ray has introduced them, before either believes a byte of the other.

A listener's key is random, lives as long as its process, and is told by Ray calls only. It never crosses the wire::

    dialer    MAGIC  nonce  length of its name  its name ──────────>  listener
    dialer    <───────────  nonce  HMAC(key, "listener", all of the above and the listener's name)
    dialer    HMAC(key, "dialer", the same) ───────────────────────>  listener

Both nonces are fresh, so nothing can be said again, and names and roles are under the HMAC, so that a proof cannot be
turned on who gave it or used under another name. This keeps strangers out; it does not hide what is said, for which a
network has to be private, as for Ray's own calls without TLS. (HMAC: RFC 2104; challenge and response: RFC 2195.)
"""

import asyncio
import hmac
import secrets
import socket

import msgspec

MAGIC = b"slipstr1"
NONCE_SIZE = KEY_SIZE = 32
PROOF_SIZE = 32
MAX_NAME_SIZE = 255
HEAD_SIZE = len(MAGIC) + NONCE_SIZE + 1


class HandshakeError(Exception):
    """The other end is not who it should be."""


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """Where an actor listens, and the key that opens its door. Told through Ray, kept out of logs."""

    host: str
    port: int
    key: bytes

    def __repr__(self) -> str:
        return f"Endpoint({self.host}:{self.port})"


def new_key() -> bytes:
    """A key for one listener."""
    return secrets.token_bytes(KEY_SIZE)


async def greet(sock: socket.socket, key: bytes, name: str, listener: str) -> None:
    """The dialer's side: prove to be introduced as ``name``, and find out whether ``listener`` is who answers.

    Raises HandshakeError, OSError.
    """
    loop = asyncio.get_running_loop()
    nonce, encoded = secrets.token_bytes(NONCE_SIZE), name.encode()
    hello = MAGIC + nonce + bytes([len(encoded)]) + encoded
    await loop.sock_sendall(sock, hello)
    their_nonce = await _read(sock, NONCE_SIZE)
    proof = await _read(sock, PROOF_SIZE)
    said = hello + their_nonce + listener.encode()
    if not hmac.compare_digest(proof, _prove(key, b"listener", said)):
        raise HandshakeError(f"{listener} does not know its own key")
    await loop.sock_sendall(sock, _prove(key, b"dialer", said))


async def answer(sock: socket.socket, key: bytes, name: str) -> str:
    """The listener's side, itself named ``name``: return the name of who has proved to be introduced.

    Raises HandshakeError, OSError. It reads no more than the handshake, whatever is sent.
    """
    loop = asyncio.get_running_loop()
    head = await _read(sock, HEAD_SIZE)
    if not head.startswith(MAGIC):
        raise HandshakeError("this is no hello")
    encoded = await _read(sock, head[-1])
    try:
        peer = encoded.decode()
    except UnicodeDecodeError:
        raise HandshakeError("the name is not text") from None
    if not peer:
        raise HandshakeError("the name is empty")
    nonce = secrets.token_bytes(NONCE_SIZE)
    said = head + encoded + nonce + name.encode()
    await loop.sock_sendall(sock, nonce + _prove(key, b"listener", said))
    if not hmac.compare_digest(await _read(sock, PROOF_SIZE), _prove(key, b"dialer", said)):
        raise HandshakeError("the key is wrong")
    return peer


def _prove(key: bytes, role: bytes, said: bytes) -> bytes:
    return hmac.digest(key, role + b"\0" + said, "sha256")


async def _read(sock: socket.socket, size: int) -> bytes:
    """Exactly ``size`` bytes. Raises HandshakeError where the stream ends before."""
    loop = asyncio.get_running_loop()
    data = b""
    while len(data) < size:
        piece = await loop.sock_recv(sock, size - len(data))
        if not piece:
            raise HandshakeError("the other end hung up")
        data += piece
    return data
