"""The simulation beside what queueing theory knows, and the service's own rules inside it."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from benchmarks.capacity.__main__ import main
from benchmarks.capacity.fleet import BALANCERS, Machine, Outcome, Stages, enough, needed, simulate
from benchmarks.capacity.real import LOADS, Agreement, validate
from tests.service.harness import Server, encode, picture, publish_probe

IMAGE = Stages("one", 0.0, 0.1, 0.0, 0.0)
PATIENT = Machine(max_queue_size=10_000, timeout=1e6)


def test_one_replica_is_an_m_d_1_queue() -> None:
    """Pollaczek and Khinchine: with equal services the mean wait is half of load / (1 - load) of them."""
    load = 0.8
    outcome = simulate(10 * load, [IMAGE], PATIENT, 1, BALANCERS["random"], requests=12_000)
    assert outcome.mean == pytest.approx(0.1 * (1 + load / (1 - load) / 2), rel=0.12)
    assert outcome.refused == outcome.late == 0


def test_the_gate_refuses_what_is_too_much_and_little_is_late() -> None:
    outcome = simulate(20, [IMAGE], Machine(timeout=2.0), 1, BALANCERS["random"], requests=3000)
    assert outcome.refused == pytest.approx(0.5, abs=0.05)
    assert outcome.late < 0.01
    assert outcome.p99 < 2


def test_a_batch_shares_its_run() -> None:
    """Eight together in twice the time of one are four times the rate: what was too much is not."""
    batching = Machine(max_batch_size=8, growth=1 / 7)
    assert simulate(20, [IMAGE], batching, 1, BALANCERS["random"], requests=2000).refused == 0


def test_who_knows_more_of_the_replicas_keeps_them_evener() -> None:
    p99 = [simulate(36, [IMAGE], PATIENT, 4, one, requests=4000).p99 for one in BALANCERS.values()]
    assert p99[0] > p99[1] > p99[2]


def test_the_same_seed_gives_the_same() -> None:
    first, second = (simulate(15, [IMAGE], Machine(), 2, BALANCERS["power-of-two"], requests=500) for _ in range(2))
    assert first == second


def test_fewer_replicas_than_needed_do_not_hold() -> None:
    found = needed(30, [IMAGE], Machine(), BALANCERS["least-in-flight"], p99=0.4, lost=0.01, requests=2000)
    assert 3 < found.replicas < 8
    fewer = simulate(30, [IMAGE], Machine(), found.replicas - 1, BALANCERS["least-in-flight"], requests=2000)
    assert fewer.p99 > 0.4 or fewer.refused + fewer.late > 0.01


def test_as_many_as_are_busy_all_the_time_are_too_few() -> None:
    """Their queue grows for ever, and in a short run not far enough to be noticed."""
    found = needed(20, [IMAGE], PATIENT, BALANCERS["least-in-flight"], p99=60, lost=0.01, requests=500)
    assert found.replicas == 3


def test_many_replicas_are_asked_as_often_as_few() -> None:
    """A busy queue that begins empty is short for long: with 300 requests for each p99 was a third too low."""
    assert [enough(replicas) / min(replicas, 32) >= 2000 for replicas in (1, 5, 32, 10_000)] == [True] * 4
    assert enough(10_000) == enough(32)
    found = needed(30, [IMAGE], Machine(), BALANCERS["least-in-flight"], p99=0.4, lost=0.01)
    assert 3 < found.replicas < 8


def test_what_no_number_of_replicas_can_do_is_told() -> None:
    for machine, p99 in ((Machine(), 0.05), (Machine(timeout=0.05), 1.0)):
        with pytest.raises(ValueError, match=r"one image alone takes 0.1 s, and (p99|the deadline) is"):
            needed(1, [IMAGE], machine, BALANCERS["random"], p99=p99, lost=0.01, requests=100)


def test_the_command_says_what_a_load_costs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "stages.json").write_text(json.dumps([asdict(IMAGE)]))
    words = ["--stages", str(tmp_path / "stages.json"), "--requests", "500", "--price", "3"]
    assert main([*words, "--rate", "5000", "--p99", "1"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[0] for row in rows] == list(BALANCERS)
    assert all(int(row[1]) >= 500 and float(row[7]) == 3 * int(row[1]) for row in rows)
    assert all(0.3 < float(row[6]) < 10 for row in rows), "mean images in flight on a device"
    assert main([*words, "--p99", "0.01"]) == 2
    assert "one image alone takes 0.1 s" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param(None, "cannot be read: No such file", id="no file"),
        pytest.param("[", "holds no stage times: Invalid JSON", id="half a JSON"),
        pytest.param("[]", ": no image, or one", id="none"),
        pytest.param('[{"bucket": "a"}]', "holds no stage times: 0.decode: Field required", id="no times"),
        pytest.param(json.dumps([asdict(replace(IMAGE, inference=0.0))]), "one that takes no time", id="no work"),
        pytest.param(json.dumps([asdict(replace(IMAGE, decode=-1.0))]), "or less than none", id="before it began"),
        pytest.param(json.dumps([asdict(replace(IMAGE, other=float("nan")))]), "holds no stage times", id="no number"),
    ],
)
def test_what_are_no_stage_times_is_one_line(
    content: str | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / "stages.json").write_text(content)
    assert main(["--stages", str(tmp_path / "stages.json")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"capacity: --stages: {tmp_path}/stages.json ")
    assert said in line


@pytest.mark.parametrize(
    "words", [["--rate", "0"], ["--rate", "nan"], ["--lost", "2"], ["--growth", "-1"], ["--p99", "x"]]
)
def test_a_number_that_is_none_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert f"{words[0]}: {words[1]!r} is no number that is meant here" in capsys.readouterr().err


def test_no_images_are_no_stage_times(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--images", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"capacity: --images: {tmp_path} has no PNGs\n"


@pytest.mark.parametrize(
    ("simulated", "agrees"),
    [
        pytest.param({}, True, id="the same"),
        pytest.param({"p50": 1.14, "p99": 3.5, "refused": 0.19}, True, id="within 15 %"),
        pytest.param({"p50": 1.16}, False, id="another median"),
        pytest.param({"p99": 2.9}, False, id="another tail"),
        pytest.param({"refused": 0.25}, False, id="more is refused"),
        pytest.param({"late": 0.009}, True, id="as good as none is late"),
        pytest.param({"late": 0.02}, False, id="some are late"),
    ],
)
def test_what_agrees(simulated: dict[str, float], agrees: bool) -> None:
    real = Outcome(1, p50=1.0, p99=4.0, mean=2.0, refused=0.2, late=0.0)
    assert Agreement(1.5, real, replace(real, **simulated), (0.1, 0.1), 0.0).holds is agrees


def test_two_servers_are_asked_what_is_simulated(tmp_path: Path) -> None:
    """Whether they agree is nothing that a busy machine could tell."""
    publish_probe(tmp_path / "staging", tmp_path / "models")
    (tmp_path / "a.png").write_bytes(encode(picture(slow=20)))
    servers = [Server.start(tmp_path / "models", "--engine-threads", "1") for _ in range(2)]
    try:
        balancer = BALANCERS["least-in-flight"]
        found = list(validate(servers, [tmp_path / "a.png"], Machine(), balancer, rounds=1, seconds=0.5))
        answered = [server.metrics()['maskserve_requests_total{route="/predict",status="200"}'] for server in servers]
    finally:
        for server in servers:
            server.close()
    assert [one.load for one in found] == list(LOADS)
    for one in found:
        assert one.real.replicas == one.simulated.replicas == 2
        assert 0 < one.real.p50 <= one.real.p99
        assert min(one.inference) > 0
    assert min(answered) > len(LOADS) * 2, "both"
