"""Pictures of other than three channels, from the dataset to the answer: trained, exported, checked, served."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from model.network.exporting.quantize import quantize_int8
from model.runtime.bundles.bundle import open_bundle
from model.runtime.bundles.manifest import INT8_FILE
from model.runtime.engines.engine import Engine
from model.runtime.engines.loading import load_engine
from model.runtime.engines.onnx import OnnxEngine
from model.runtime.predict import Predictor
from tests.once import once
from tests.service.harness import Server, encode, picture, publish_probe
from tests.training.runs import SMALL, last_checkpoint
from training.data.check import main as check
from training.data.formats.coco.layouts import load_coco_split
from training.data.shapes import write_shapes
from training.evaluation.validation import detect
from training.export import main as export
from training.publishing.trades import calibration_batches
from training.train import main

TINY = (
    *SMALL,
    "--architecture.task=boxes",
    "--schedule.iterations=1",
    "--validation.every=0",
    "--augment.brightness=0.2",
    "--augment.contrast=0.2",
    "--publish=false",
)


def five_channels(rgb: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """[5, H, W] of 12 bits, each channel another picture of the same scene."""
    red, green, blue = (rgb[..., channel].astype(np.uint16) * 16 for channel in range(3))
    return np.stack([red, green, blue, 4095 - red, green // 4])


def stack(values: NDArray[Any]) -> bytes:
    file = BytesIO()
    tifffile.imwrite(file, values, imagej=True, metadata={"axes": "CYX"})
    return file.getvalue()


def write_stacks(shapes: Path, folder: Path) -> None:
    """The same images and annotations, the images as stacks of five channels."""
    for source in shapes.rglob("instances_*.json"):
        target = folder / source.relative_to(shapes)
        target.parent.mkdir(parents=True, exist_ok=True)
        document = json.loads(source.read_text())
        for image in document["images"]:
            image["file_name"] = str(Path(image["file_name"]).with_suffix(".tif"))
        target.write_text(json.dumps(document))
    for source in shapes.rglob("*.png"):
        target = (folder / source.relative_to(shapes)).with_suffix(".tif")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(stack(five_channels(np.asarray(Image.open(source)))))


def make(folder: Path) -> None:
    """Colored pictures, the same as stacks, and two networks: `five`, trained on the stacks, and `one`, a probe."""
    write_shapes(folder / "shapes", train=4, val=2, seed=0)
    write_stacks(folder / "shapes", folder / "stacks")
    five = (f"--data={folder / 'stacks'}", f"--output={folder / 'five'}", "--architecture.channels=5")
    assert main([*TINY, "--name=five", "--validation.samples=1", *five]) == 0
    checkpoint = f"--checkpoint={folder / 'five' / 'checkpoints' / 'best.pt'}"
    assert export([checkpoint, f"--output={folder / 'models'}", "--without", "torchscript", "weights"]) == 0
    publish_probe(folder / "staging", folder / "models", "one", channels=1)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return once(tmp_path_factory, "channels", make)


@pytest.fixture(scope="module")
def shapes(made: Path) -> Path:
    return made / "shapes"


@pytest.fixture(scope="module")
def stacks(made: Path) -> Path:
    return made / "stacks"


@pytest.fixture(scope="module")
def server(made: Path) -> Iterator[Server]:
    flags = ("--model", "five", "--engine", "onnx", "--engine-threads", "1", "--poll-interval-ms", "0")
    server = Server.start(made / "models", *flags)
    yield server
    server.close()


def test_the_export_takes_the_channels_that_were_trained(made: Path) -> None:
    bundle = open_bundle(made / "models" / "five" / "1")
    manifest = bundle.manifest
    assert manifest.architecture.channels == manifest.preprocessing.channels == 5
    assert len(manifest.architecture.image_mean) == 5
    assert manifest.export_check is not None
    (images, *_) = onnx.load(bundle.file("model.onnx")).graph.input
    assert [axis.dim_value for axis in images.type.tensor_type.shape.dim][3] == 5
    assert images.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    (drawn,) = (made / "five" / "samples").rglob("*.png")
    with Image.open(drawn) as sheet:
        assert sheet.mode == "RGB"


def test_a_network_of_one_channel_is_trained_and_evaluated_on_colored_pictures(shapes: Path, tmp_path: Path) -> None:
    assert main([*TINY, f"--data={shapes}", f"--output={tmp_path}", "--architecture.channels=1"]) == 0
    assert last_checkpoint(tmp_path).model["backbone.body.conv1.weight"].shape[1] == 1


def ask(server: Server, data: bytes, **parameters: Any) -> dict[str, Any]:
    response = server.predict(data, score_threshold=0, **parameters)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def test_a_stack_is_answered_to_the_last_bit_as_the_network_sees_it(server: Server, made: Path, stacks: Path) -> None:
    """Each channel scaled from the window that is said of it, by arithmetic of the test's own."""
    bundle = open_bundle(made / "models" / "five" / "1")
    engine: Engine = OnnxEngine(bundle.file("model.onnx"), "boxes", "cpu", 1)
    predictor = Predictor(engine, bundle.manifest.preprocessing)
    most, darkest = bundle.manifest.defaults.max_detections, 0.0
    for file in sorted(stacks.rglob("*.tif")):
        found = ask(server, file.read_bytes())
        assert [said["index"] for said in found["image"]["channels"]] == [0, 1, 2, 3, 4]
        values = tifffile.imread(file).transpose(1, 2, 0).astype(np.float64)
        pixels = np.zeros(values.shape, np.uint8)
        for channel, said in enumerate(found["image"]["channels"]):
            low, high = said["intensity"]["low"], said["intensity"]["high"]
            scaled = (values[..., channel] - low) * 255 / (high - low)
            pixels[..., channel] = np.floor(scaled.clip(0, 255) + 0.5)
            darkest = max(darkest, low)
        (expected,) = predictor.predict([pixels], 0, most)
        assert len(expected.scores) > 0
        np.testing.assert_array_equal(np.float32(found["scores"]), expected.scores)
        np.testing.assert_array_equal(np.float32(found["boxes"]), expected.boxes)
        assert found["label_ids"] == expected.labels.tolist()
    assert darkest > 0, "no image has a dark current to subtract"


def scores_of(engine: Engine, made: Path) -> NDArray[np.float32]:
    """Of all that it finds in the stacks to validate on, float32 [N], by image and falling."""
    preprocessing = open_bundle(made / "models" / "five" / "1").manifest.preprocessing
    data = load_coco_split(made / "stacks", "val")
    found = detect(Predictor(engine, preprocessing), data, max_detections=5, score_threshold=0)
    return np.concatenate([one.scores for one in found])


def test_the_network_in_int8_takes_as_many(made: Path, tmp_path: Path) -> None:
    bundle = open_bundle(made / "models" / "five" / "1")
    data = load_coco_split(made / "stacks", "train")
    file = bundle.file("model.onnx")
    quantize_int8(file, tmp_path / INT8_FILE, calibration_batches(data, bundle.manifest.preprocessing, 2))
    f32, int8 = (scores_of(OnnxEngine(one, "boxes", "cpu", 1), made) for one in (file, tmp_path / INT8_FILE))
    assert f32.tolist() != int8.tolist()
    np.testing.assert_allclose(int8, f32, atol=0.03)


@pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed")
def test_openvino_answers_as_onnx_runtime(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    bundle = open_bundle(made / "models" / "five" / "1")
    theirs, ours = (scores_of(load_engine(bundle, kind, "cpu", 1), made) for kind in ("openvino", "onnx"))
    np.testing.assert_allclose(theirs, ours, atol=1e-4)


def test_models_say_how_many_channels_they_take(server: Server) -> None:
    listed = server.client.get("/models").json()["models"]
    assert {model["name"]: model["channels"] for model in listed} == {"five": 5, "one": 1}


def test_channels_can_be_named_and_left_black(server: Server, stacks: Path) -> None:
    data = next(iter(sorted(stacks.rglob("*.tif")))).read_bytes()
    assert ask(server, data, channels="0,1,2,3,4")["scores"] == ask(server, data)["scores"]
    some = ask(server, data, channels="4,,2,,0")
    assert [said and said["index"] for said in some["image"]["channels"]] == [4, None, 2, None, 0]
    drawn = server.client.post("/predict", content=data, headers={"Accept": "image/png"})
    assert np.asarray(Image.open(BytesIO(drawn.content))).shape == (*tifffile.imread(BytesIO(data)).shape[1:], 3)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "the image has 3 channels and the model takes 5; a request can say which with channels=0,1,2,,"),
        ({"channels": "0,1,2"}, "channels: the model takes 5 channels, not 3"),
        ({"channel": 0}, "channel: the model takes 5 channels: name them with channels=0,1,2,3,4"),
        ({"model": "one", "channels": "0,1"}, "channels: the model takes 1 channel, not 2"),
    ],
)
def test_other_channels_than_the_network_takes(
    server: Server, shapes: Path, parameters: dict[str, Any], message: str
) -> None:
    data = next(iter(shapes.rglob("*.png"))).read_bytes()
    response = server.predict(data, **parameters)
    assert response.status_code == 422
    assert message in response.json()["detail"]


def test_a_gray_network_sees_gray_and_of_colors_their_luma(server: Server, stacks: Path) -> None:
    colors = picture(4) // np.array([1, 2, 4], np.uint8)
    colored, red = encode(colors), encode(colors[..., 0])
    of_luma = ask(server, colored, model="one")
    assert (
        of_luma["scores"]
        == ask(server, encode(np.asarray(Image.fromarray(colors).convert("L"))), model="one")["scores"]
    )
    assert "channels" not in of_luma["image"]
    of_red = ask(server, red, model="one")["scores"]
    assert of_red[0] > of_luma["scores"][0] > 0
    for parameters in ({"channel": 0}, {"channels": "0"}):
        assert ask(server, colored, model="one", **parameters)["scores"] == of_red
    several = server.predict(next(stacks.rglob("*.tif")).read_bytes(), model="one")
    assert several.status_code == 422
    assert "the image has 5 channels and the model takes 1" in several.json()["detail"]


def test_data_of_other_channels_is_told_before_training(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [f"--data={shapes}", f"--output={tmp_path / 'run'}", "--architecture.channels=5"]
    with pytest.raises(SystemExit) as stopped:
        raise SystemExit(main([*TINY, *flags]))
    assert stopped.value.code not in (0, None)
    assert "the image has 3 channels and the model takes 5" in capsys.readouterr().err


def test_the_check_says_which_channels_do_not_fit(
    shapes: Path, stacks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "five.yaml"
    recipe.write_text("architecture: {channels: 5}\n")
    assert check([str(stacks), "--recipe", str(recipe)]) == 0
    assert "5 channels, of which" not in capsys.readouterr().out
    check([str(stacks)])
    said = capsys.readouterr().out
    assert (
        "train: 4 images have 5 channels, of which the first is seen; to train on all: --architecture.channels 5"
        in (" ".join(said.split()))
    )
    assert check([str(shapes), "--recipe", str(recipe)]) == 1
    assert "the image has 3 channels and the model takes 5" in " ".join(capsys.readouterr().out.split())
