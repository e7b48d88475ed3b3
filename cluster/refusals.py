"""Calls that the engine refuses, put to transformers' own code: it says whether they are wrong, and what kind of wrong.

So a script that catches what ``model.generate`` raises catches it here too, and one that transformers is content with
runs. The words are the engine's, which name the argument and its limit; transformers' own error is the cause.
"""

import builtins
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, TypeVar

from actors.engine.errors import RequestError, TokenIdError

T = TypeVar("T")

# Fields of the cluster's own: transformers has no word on them.
OWN_FIELDS = ("seed", "grammar", "presence_penalty", "frequency_penalty", "logit_bias", "ignore_eos")


def judged(refusal: RequestError, arguments: Mapping[str, Any], run: Callable[[], T]) -> T:
    """Return what ``run`` does, transformers' own way of the call that was refused.

    Args:
        refusal: the engine's.
        arguments: keyword arguments of the call.
        run: the call by transformers' own code.

    Raises:
        RequestError: the refusal, where transformers refuses the call too; also of the class that it raises there.
    """
    is_own = refusal.field in OWN_FIELDS or any(arguments.get(name) is not None for name in OWN_FIELDS)
    if is_own or isinstance(refusal, TokenIdError):
        raise refusal
    try:
        return run()
    except RequestError:
        raise
    except Exception as error:
        raise as_also(refusal, error) from error


def as_also(refusal: RequestError, error: Exception) -> RequestError:
    """The refusal, as an error that is also one of ``error``'s built-in class."""
    if isinstance(refusal, type(error)):
        return refusal
    kind = next(base for base in type(error).__mro__ if getattr(builtins, base.__name__, None) is base)
    return refusal_of(kind)(str(refusal), field=refusal.field, limit=refusal.limit)


@cache
def refusal_of(kind: type) -> type[RequestError]:
    """A RequestError that is also a ``kind``, a built-in exception class."""
    if issubclass(RequestError, kind):
        return RequestError
    name = f"Request{kind.__name__}"
    return type(name, (RequestError, kind), {"__module__": __name__, "__doc__": f"A refusal, and a {kind.__name__}."})
