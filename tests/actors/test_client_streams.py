"""One stream a client: nothing held back, what gathers goes out together, a new listener takes over."""

import asyncio

from actors.client_streams import ClientStreams, merge
from actors.engine.request import Delta
from actors.messages import Abort, Cancel, Deltas, Message
from tests.actors.fakes import ListLink

CLIENT = "client-a"


def deltas(start: int, worker_id: str = "t") -> Deltas:
    return Deltas(worker_id=worker_id, items=(Delta(request_id="r", start=start, token_ids=(start,)),))


def test_messages_for_workers_pass_and_those_for_clients_wait_for_them() -> None:
    async def run() -> None:
        workers = ListLink()
        streams = ClientStreams(workers)
        streams.send("target-0", Abort(request_id="r"))
        assert workers.take() == [Abort(request_id="r")]
        streams.send(CLIENT, deltas(0))
        streams.send(CLIENT, deltas(1))
        stream = streams.listen(CLIENT)
        first = await asyncio.wait_for(anext(stream), 1)
        assert isinstance(first, Deltas)
        assert [item.start for item in first.items] == [0, 1]
        waiting = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        streams.send(CLIENT, deltas(2))
        assert await asyncio.wait_for(waiting, 1) == deltas(2)

    asyncio.run(run())


def test_a_new_listener_takes_over_and_the_old_one_ends() -> None:
    async def run() -> None:
        streams = ClientStreams(ListLink())

        async def read() -> list[Message]:
            return [message async for message in streams.listen(CLIENT)]

        old = asyncio.ensure_future(read())
        await asyncio.sleep(0)
        new = asyncio.ensure_future(read())
        await asyncio.sleep(0)
        streams.send(CLIENT, deltas(0))
        assert await asyncio.wait_for(old, 1) == []
        await asyncio.sleep(0)
        streams.drop([CLIENT])
        assert await asyncio.wait_for(new, 1) == [deltas(0)]

    asyncio.run(run())


def test_what_has_gathered_can_be_taken_to_go_another_way() -> None:
    async def run() -> None:
        streams = ClientStreams(ListLink())
        assert streams.take(CLIENT) == []
        streams.send(CLIENT, deltas(0))
        streams.send(CLIENT, deltas(1))
        (taken,) = streams.take(CLIENT)
        assert isinstance(taken, Deltas)
        assert [item.start for item in taken.items] == [0, 1]
        assert streams.take(CLIENT) == []
        stream = streams.listen(CLIENT)
        waiting = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        streams.send(CLIENT, deltas(2))
        await asyncio.wait_for(waiting, 1)
        streams.take(CLIENT)
        assert [message async for message in stream] == [], "who listened is let go"

    asyncio.run(run())


def test_only_runs_of_one_worker_are_joined() -> None:
    cancel = Cancel(request_id="r")
    merged = merge([deltas(0), deltas(1), cancel, deltas(2), deltas(3, worker_id="u")])
    assert [len(message.items) if isinstance(message, Deltas) else message for message in merged] == [2, cancel, 1, 1]
