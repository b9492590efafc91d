"""How a machine is divided among the processes of a group."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from model.runtime.engines import devices
from service.group import shares
from service.group.shares import count, deal, share_out
from service.settings.settings import InvalidSettingsError, Settings
from service.settings.values import Auto

GPUS = ("cuda:0", "cuda:1", "cuda:2", "cuda:3")


@pytest.mark.parametrize(
    ("devices", "processes", "dealt"),
    [
        pytest.param(GPUS, 4, ["cuda:0", "cuda:1", "cuda:2", "cuda:3"], id="one each"),
        pytest.param(GPUS, 2, ["cuda:0,cuda:1", "cuda:2,cuda:3"], id="neighbors"),
        pytest.param(GPUS[:2], 4, ["cuda:0", "cuda:1", "cuda:0", "cuda:1"], id="shared"),
        pytest.param(GPUS, 1, ["cuda:0,cuda:1,cuda:2,cuda:3"], id="one for all"),
        pytest.param(("auto",), 3, ["auto", "auto", "auto"], id="whatever there is"),
        pytest.param(("cpu", "cpu"), 2, ["cpu", "cpu"], id="CPU"),
        pytest.param(("cuda:1", "cuda:0"), 2, ["cuda:1", "cuda:0"], id="as they are named"),
    ],
)
def test_devices_are_dealt_evenly(devices: Sequence[str], processes: int, dealt: list[str]) -> None:
    assert [",".join(own) for own in deal(devices, processes)] == dealt


@pytest.mark.parametrize(("devices", "processes"), [(GPUS[:3], 2), (GPUS, 3), (GPUS[:2], 3), (GPUS, 6)])
def test_what_does_not_come_out_even_is_refused(devices: Sequence[str], processes: int) -> None:
    with pytest.raises(InvalidSettingsError, match=rf"^--processes: {processes} cannot share {len(devices)} devices"):
        deal(devices, processes)


@pytest.mark.parametrize(
    ("wanted", "devices", "processes"),
    [
        pytest.param("auto", GPUS, 4, id="one for each GPU"),
        pytest.param("auto", ("auto",), 1, id="one GPU or none"),
        pytest.param("auto", ("cpu", "cpu"), 1, id="CPU"),
        pytest.param("auto", ("cuda", "cpu"), 1, id="mixed"),
        pytest.param("auto", ("cuda:0", "cuda:0", "cuda:1", "cuda:1"), 2, id="two engines on each"),
        pytest.param("auto", ("cuda", "cuda:0"), 1, id="one GPU by two names"),
        pytest.param("auto", ("cuda:01", "cuda", "cuda:1", "cuda:0"), 2, id="two GPUs by two names"),
        pytest.param(3, ("auto",), 3, id="a number"),
    ],
)
def test_auto_is_one_process_for_each_gpu(wanted: int | Auto, devices: Sequence[str], processes: int) -> None:
    assert count(wanted, devices) == processes


@pytest.mark.parametrize(
    ("given", "engine_threads", "decode_threads", "turns"),
    [
        pytest.param({"device": "cpu", "processes": 2}, 4, 4, [0, 1], id="cores are divided"),
        pytest.param({"device": "cpu", "processes": 4}, 2, 4, [0, 1, 2, 3], id="at most four threads decode"),
        pytest.param({"device": "cpu", "processes": 16}, 1, 1, [*range(16)], id="never none"),
        pytest.param({"device": "cpu,cpu,cpu,cpu", "processes": 2}, 2, 4, [0, 1], id="two engines in each"),
        pytest.param(
            {"device": "cpu", "processes": 2, "engine_threads": 3, "decode_threads": 7}, 3, 7, [0, 1], id="set"
        ),
    ],
)
def test_cores_are_divided_unless_threads_are_set(
    monkeypatch: pytest.MonkeyPatch,
    given: dict[str, object],
    engine_threads: int,
    decode_threads: int,
    turns: list[int],
) -> None:
    monkeypatch.setattr(shares, "usable_cores", lambda: 8)
    monkeypatch.setattr(shares, "usable_cpus", lambda: 16)
    dealt = share_out(Settings.model_validate(given))
    assert [share.turn for share in dealt] == turns
    for share in dealt:
        assert (share.settings.engine_threads, share.settings.decode_threads) == (engine_threads, decode_threads)


def test_the_settings_are_refused_before_anything_starts() -> None:
    with pytest.raises(InvalidSettingsError, match=r"^--processes: 2 cannot share 3 devices \(cpu, cpu, cpu\) evenly"):
        share_out(Settings(device="cpu,cpu,cpu", processes=2))


def test_one_process_keeps_its_settings() -> None:
    settings = Settings(device="cpu,cpu")
    (share,) = share_out(settings)
    assert share.settings is settings


@pytest.mark.parametrize(
    ("names", "seen", "refused"),
    [
        pytest.param("0,foo,1", 1, True, id="a name that nobody knows hides those behind it"),
        pytest.param("0,1", 2, False, id="all are seen"),
        pytest.param("0,-1,1", 1, False, id="the list ends on purpose"),
        pytest.param(None, 2, False, id="nothing is named"),
        pytest.param("", 0, False, id="all are hidden: the CPU serves, and the log says why"),
    ],
)
def test_a_process_for_each_gpu_that_is_named_or_none(
    monkeypatch: pytest.MonkeyPatch, names: str | None, seen: int, refused: bool
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if names is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", names)
    monkeypatch.setattr(shares, "count_gpus", lambda: seen)
    monkeypatch.setattr(devices, "count_gpus", lambda: seen)
    settings = Settings(processes="auto")
    if refused:
        with pytest.raises(InvalidSettingsError, match=r"of 3 GPUs that are named the driver sees 1 \(CUDA_VISIBLE"):
            share_out(settings)
    else:
        assert len(share_out(settings)) == max(1, seen)
