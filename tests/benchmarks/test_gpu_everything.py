"""The run of everything: a step that fails or is late is written down, and the next one runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.gpu import everything
from benchmarks.gpu.everything import Step, main

WRITES = "import json, sys; json.dump({'a question': {'good': True, 'rate': 2}}, open(sys.argv[1], 'w'))"


def test_every_step_leaves_what_became_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = [
        Step("late", ("-c", "import time; print('began', flush=True); time.sleep(60)"), 3),
        Step("broken", ("-c", "raise SystemExit('no such package')"), 60),
        Step("engine", ("-c", WRITES, "FILE"), 60),
    ]
    monkeypatch.setattr(everything, "steps", lambda dry_run: chosen)
    assert main(["--json", str(tmp_path / "all.json")]) == 1
    found = json.loads((tmp_path / "all.json").read_text())
    assert [found[step.name]["status"] for step in chosen] == [None, 1, 0]
    assert found["engine"]["found"] == {"a question": {"good": True, "rate": 2}}
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("late         out of time")
    assert told[2].startswith("broken       failed (1)")
    assert told[3].strip() == "no such package"
    assert told[5].split() == ["good", "a", "question:", "rate", "2"]
    assert main(["--json", str(tmp_path / "one.json"), "--only", "engine"]) == 0
