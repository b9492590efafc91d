"""AP of a bundle: the same for every engine, and errors that say what to do."""

import json
from pathlib import Path

import pytest

from model.runtime.bundles.repository import Repository
from training.data.shapes import write_shapes
from training.evaluate import main


def test_engines_agree(finished_run: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = Repository(finished_run / "models").latest("shapes")
    figures = {}
    for engine in ("onnx", "torchscript", "eager"):
        file = tmp_path / f"{engine}.json"
        arguments = [f"--model={bundle.path}", f"--data={shapes}", "--engine", engine, "--score_threshold=0"]
        assert main([*arguments, f"--json={file}"]) == 0
        figures[engine] = json.loads(file.read_text())
    assert "AP50" in capsys.readouterr().out
    for engine in ("torchscript", "eager"):
        for kind in ("box", "mask"):
            assert figures[engine][kind]["AP"] == pytest.approx(figures["onnx"][kind]["AP"], abs=1e-3)


def test_other_classes_are_refused_unless_renamed(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_shapes(tmp_path / "data", train=1, val=6, seed=0)
    file = tmp_path / "data" / "annotations" / "instances_val.json"
    document = json.loads(file.read_text())
    document["categories"][0]["name"] = "blob"
    file.write_text(json.dumps(document))
    bundle = Repository(finished_run / "models").latest("shapes")
    with pytest.raises(SystemExit) as stopped:
        main([f"--model={bundle.path}", f"--data={tmp_path / 'data'}"])
    assert stopped.value.code == 2
    assert "blob" in capsys.readouterr().err
    renamed = f"--rename=blob={bundle.manifest.class_names[0]}"
    assert main([f"--model={bundle.path}", f"--data={tmp_path / 'data'}", renamed]) == 0
    with pytest.raises(SystemExit):
        main([f"--model={bundle.path}", f"--data={tmp_path / 'data'}", renamed, "--classes=blob"])
    assert "has no class blob; it has " in capsys.readouterr().err


def test_no_bundle(tmp_path: Path, shapes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([f"--model={tmp_path / 'nothing'}", f"--data={shapes}"])
    assert stopped.value.code == 2
    assert "nothing" in capsys.readouterr().err


@pytest.mark.parametrize(
    "output",
    [
        pytest.param("--json={bundle}/manifest.json", id="the bundle"),
        pytest.param("--json={data}/annotations/instances_val.json", id="the annotations"),
        pytest.param("--json={data}/images/{image}", id="an image"),
        pytest.param("--json={new}/index.html", id="the report, which is another output"),
    ],
)
def test_nothing_that_is_read_is_overwritten(
    output: str, finished_run: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = Repository(finished_run / "models").latest("shapes").path
    image = sorted(path.name for path in (shapes / "images").iterdir())[0]
    files = [path for folder in (bundle, shapes) for path in folder.rglob("*") if path.is_file()]
    before = {file: file.read_bytes() for file in files}
    wrong = output.format(bundle=bundle, data=shapes, image=image, new=tmp_path / "new")
    with pytest.raises(SystemExit) as stopped:
        main([f"--model={bundle}", f"--data={shapes}", f"--report={tmp_path / 'new'}", wrong])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "is read: choose another name" in line or "are one file" in line
    assert {file: file.read_bytes() for file in files} == before
    assert not (tmp_path / "new").exists()


def test_a_report_replaces_an_earlier_one_and_no_page_of_others(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_shapes(tmp_path / "data", train=1, val=2, seed=0)
    bundle = Repository(finished_run / "models").latest("shapes").path
    arguments = [f"--model={bundle}", f"--data={tmp_path / 'data'}", f"--report={tmp_path / 'data'}"]
    page = tmp_path / "data" / "index.html"
    assert main(arguments) == main(arguments) == 0
    page.write_text("<p>the data's own page</p>")
    with pytest.raises(SystemExit):
        main(arguments)
    assert f"--report would overwrite {page}" in capsys.readouterr().err
    assert page.read_text() == "<p>the data's own page</p>"
