"""What is refused at the router's door, and what never is."""

import msgspec

from actors.attendance import CLIENT_TIMEOUT, Attendance
from actors.engine.request import EngineStats
from actors.intake import GRACE, Intake
from actors.messages import Report, Submit
from actors.registry import Registry
from tests.actors.fakes import FakeClock, make_info, make_request


def submit(model: str = "demo", *, is_again: bool = False) -> Submit:
    return Submit(client_id="client-a", model=model, request=make_request("r"), is_again=is_again)


def make_intake(clock: FakeClock) -> tuple[Intake, Registry]:
    registry = Registry(10.0, clock, models=("demo",))
    return Intake(registry, 2, clock), registry


def test_a_full_cluster_refuses_what_is_new_and_keeps_what_it_had() -> None:
    intake, _ = make_intake(FakeClock())
    refusal = intake.refusal(submit(), num_requests=2)
    assert refusal is not None
    assert refusal.is_overload
    assert intake.refusal(submit(), num_requests=1) is None
    assert intake.refusal(submit(is_again=True), num_requests=2) is None


def test_the_clusters_own_models_are_known_before_their_targets_are_up() -> None:
    clock = FakeClock()
    intake, registry = make_intake(clock)
    assert intake.refusal(submit("other"), num_requests=0) is None
    clock.advance(GRACE + 0.1)
    assert intake.refusal(submit(), num_requests=0) is None
    refusal = intake.refusal(submit("other"), num_requests=0)
    assert refusal is not None
    assert (refusal.field, refusal.limit) == ("model", "demo")
    assert intake.refusal(submit("other", is_again=True), num_requests=0) is None
    registry.enter(Report(info=make_info("t", pool="other"), stats=EngineStats()))
    assert intake.refusal(submit("other"), num_requests=0) is None


def test_clients_are_lost_once_they_fall_silent() -> None:
    clock = FakeClock()
    clients = Attendance(clock)
    clients.note("client-a")
    clock.advance(CLIENT_TIMEOUT / 2)
    clients.note("client-b")
    clock.advance(CLIENT_TIMEOUT / 2 + 0.1)
    assert clients.take_lost() == ["client-a"]
    assert clients.take_lost() == []


def test_a_draft_that_is_not_here_is_refused_by_its_name() -> None:
    clock = FakeClock()
    registry = Registry(10.0, clock, models=("demo",), drafts=("tiny",))
    intake = Intake(registry, 2, clock)
    clock.advance(GRACE + 0.1)

    def asking(name: str) -> Submit:
        request = make_request("r")
        params = msgspec.structs.replace(request.params, assistant_model=name)
        return Submit(client_id="client-a", model="demo", request=msgspec.structs.replace(request, params=params))

    assert intake.refusal(asking("tiny"), 0) is None
    assert intake.refusal(asking("none"), 0) is None
    refusal = intake.refusal(asking("huge"), 0)
    assert refusal is not None
    assert (refusal.field, refusal.limit) == ("assistant_model", "tiny, none")
    assert "'huge'" in refusal.error and "tiny" in refusal.error
    registry.enter(Report(info=make_info("d", "draft"), stats=EngineStats()))
    assert intake.refusal(asking("toy"), 0) is None, "the default draft goes by its model's name"
