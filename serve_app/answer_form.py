"""The forms in which ``/generate`` answers: JSON, or with tensors as safetensors or msgpack."""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec
from litestar import Request, Response
from litestar.datastructures.headers import Accept
from safetensors.numpy import save

from cluster.tensor_names import Array
from serve_app.generations import GenerateResponse, PackedAnswer, PackedTensor

Form = Literal["application/json", "application/x-safetensors", "application/msgpack"]
FORMS: tuple[Form, ...] = ("application/json", "application/x-safetensors", "application/msgpack")


def asked_form(request: Request[Any, Any, Any]) -> Form:
    """The first of the forms that a client accepts; JSON where it accepts none of them."""
    accepted = Accept(request.headers.get("accept") or "*/*").best_match(list(FORMS))
    return next((form for form in FORMS if form == accepted), "application/json")


def takes_tensors(form: Form) -> bool:
    """Whether an answer of this form carries tensors."""
    return form != "application/json"


def render(form: Form, answer: GenerateResponse, tensors: Mapping[str, Array]) -> Response[Any]:
    """The answer as a response."""
    if form == "application/json":
        return Response(answer)
    if form == "application/x-safetensors":
        content = save(dict(tensors), metadata={"answer": msgspec.json.encode(answer).decode()})
    else:
        packed = {
            name: PackedTensor(dtype=array.dtype.name, shape=array.shape, data=array.tobytes())
            for name, array in tensors.items()
        }
        content = msgspec.msgpack.encode(PackedAnswer(answer=answer, tensors=packed))
    return Response(content, media_type=form)
