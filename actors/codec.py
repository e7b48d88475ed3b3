"""Messages as bytes, for links that cross a process boundary."""

import msgspec

from actors.messages import Message

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def encode(message: Message) -> bytes:
    """Return one message as msgpack."""
    return _encoder.encode(message)


def decode(frame: bytes) -> Message:
    """Return the message in a frame. Raises msgspec.ValidationError or msgspec.DecodeError for anything else."""
    return _decoder.decode(frame)
