from pathlib import Path

import pytest

from cluster.batch.ledger import JobHeader, Ledger
from cluster.batch.records import BatchError, Key, answer_record, error_record

HEADER = JobHeader(input_sha256="abc", seed=0)


def result(name: str, status: int = 200) -> tuple[Key, bytes]:
    return name, answer_record(name, f"req-{name}", status, b'{"text":"caf\\u00e9"}')


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "new" / "results.jsonl"


def test_what_was_appended_is_known_to_the_next_job(output: Path) -> None:
    with Ledger(output, HEADER) as ledger:
        assert ledger.append([result("a"), result("b", 400)]) == 2
        assert ledger.append([(7, error_record(7, 7, "malformed"))]) == 1
    with Ledger(output, HEADER) as ledger:
        assert ledger.done == {"a", "b", 7}
        assert ledger.num_failed == 2
        assert ledger.append([result("a"), result("c")]) == 1
    assert output.read_bytes().count(b"\n") == 4


def test_a_key_gets_one_result_whatever_is_delivered(output: Path) -> None:
    with Ledger(output, HEADER) as ledger:
        assert ledger.append([result("a"), result("a"), result("b")]) == 2
        assert ledger.append([result("b"), result("a")]) == 0
    assert output.read_bytes().count(b"\n") == 2


def test_a_job_that_died_at_any_byte_goes_on_and_ends_with_the_same_file(output: Path) -> None:
    everything = [result("a"), (2, error_record(2, 2, "bad")), result("c")]
    with Ledger(output, HEADER) as ledger:
        ledger.append(everything)
    whole = output.read_bytes()
    for end in range(len(whole)):
        output.write_bytes(whole[:end])
        with Ledger(output, HEADER) as ledger:
            assert len(ledger.done) == whole[:end].count(b"\n")
            ledger.append(everything)
        assert output.read_bytes() == whole


def test_damage_and_doubles_in_the_middle_are_taken_out(output: Path) -> None:
    with Ledger(output, HEADER) as ledger:
        ledger.append([result("a"), result("b")])
    first, second = output.read_bytes().splitlines(keepends=True)
    output.write_bytes(first + b"\0\0\0\0\n" + first + b'{"custom_id":null,"response":null,"error":null}\n' + second)
    with Ledger(output, HEADER) as ledger:
        assert ledger.done == {"a", "b"}
    assert output.read_bytes() == first + second


@pytest.mark.parametrize(
    ("header", "named"),
    [(JobHeader(input_sha256="other", seed=0), "input_sha256"), (JobHeader(input_sha256="abc", seed=1), "seed")],
)
def test_results_of_different_jobs_do_not_mix(output: Path, header: JobHeader, named: str) -> None:
    with Ledger(output, HEADER) as ledger:
        ledger.append([result("a")])
    with pytest.raises(BatchError, match=f"another job .other {named}"):
        Ledger(output, header)
    with Ledger(output, HEADER) as ledger:
        assert ledger.done == {"a"}


def test_results_of_different_models_do_not_mix(output: Path) -> None:
    with Ledger(output, HEADER) as ledger:
        ledger.bind("demo (nf4, auto)")
        ledger.bind("demo (nf4, auto)")
    with Ledger(output, HEADER) as ledger, pytest.raises(BatchError, match=r"demo \(nf4, auto\), not of other"):
        ledger.bind("other")


def test_a_file_of_something_else_is_left_alone(output: Path) -> None:
    output.parent.mkdir()
    output.write_text("precious\n")
    with pytest.raises(BatchError, match="no batch job's"):
        Ledger(output, HEADER)
    assert output.read_text() == "precious\n"


def test_two_jobs_do_not_write_one_file(output: Path) -> None:
    with Ledger(output, HEADER), pytest.raises(BatchError, match="another job is writing"):
        Ledger(output, HEADER, lock_timeout=0.0)
    Ledger(output, HEADER, lock_timeout=0.0).close()
