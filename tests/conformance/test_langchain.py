"""LangChain's ``ChatOpenAI`` against a real cluster: invoke, stream, batch."""

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field, SecretStr

from tests.conformance.conftest import ClusterServer

TALK = [SystemMessage("They spoke by the fire."), HumanMessage("Who is there?")]


class Person(BaseModel):
    """Someone."""

    name: str = Field(max_length=12)
    age: int = Field(ge=0, le=99)


def model(served: ClusterServer, **options: object) -> ChatOpenAI:
    """As a user makes one."""
    settings = {"model": "demo", "max_tokens": 16, "seed": 3, "max_retries": 0, "timeout": 120} | options
    return ChatOpenAI(base_url=f"{served.url}/v1", api_key=SecretStr("none"), **settings)  # type: ignore[arg-type]


def test_invoke(served: ClusterServer) -> None:
    answer = model(served).invoke(TALK)
    assert isinstance(answer, AIMessage)
    assert answer.content
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] == 16
    assert answer.response_metadata["finish_reason"] == "length"
    follow_up = model(served).invoke([*TALK, answer, HumanMessage("And then?")])
    assert follow_up.content


def test_stream(served: ClusterServer) -> None:
    llm = model(served)
    chunks = list(llm.stream(TALK))
    assert len(chunks) > 2
    assert "".join(str(chunk.content) for chunk in chunks) == llm.invoke(TALK).content


def test_batch(served: ClusterServer) -> None:
    llm = model(served)
    answers = llm.batch(["Who is there?", "Where is the ship?", "Who is there?"])
    assert answers[0].content == answers[2].content != answers[1].content


def test_logprobs(served: ClusterServer) -> None:
    answer = model(served).bind(logprobs=True, top_logprobs=1).invoke(TALK)
    assert len(answer.response_metadata["logprobs"]["content"]) == 16


def test_structured_output(served: ClusterServer) -> None:
    person = model(served, max_tokens=80).with_structured_output(Person, method="json_schema").invoke(TALK)
    assert isinstance(person, Person)


@pytest.mark.anyio
async def test_async(served: ClusterServer) -> None:
    llm = model(served)
    assert "".join([str(chunk.content) async for chunk in llm.astream(TALK)]) == (await llm.ainvoke(TALK)).content
