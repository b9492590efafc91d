"""The OpenAPI document, and a real server that schemathesis sends what the document allows and what it forbids."""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias, get_args

import jsonschema_rs
import pytest

from model.architecture import ArchitectureConfig, Task
from model.runtime.analysis.file_types import FILE_TYPES
from service.prediction.parameters import BatchQuery, PredictQuery
from service.routes.v2.schemas import output_tensors
from tests.service.harness import LABELS, Server, encode, picture, publish_probe

if TYPE_CHECKING:  # schemathesis takes seconds to import: no process does so that is not given these tests
    import schemathesis
    from schemathesis.engine import events
    from schemathesis.specs.openapi.schemas import OpenApiSchema

    Case: TypeAlias = schemathesis.Case[Any]

MODEL, SPARE = "probe", "spare"
IMAGES = [encode(picture(seed, (24 + 8 * seed, 32))) for seed in range(4)]
IN_BASE64 = [base64.b64encode(image).decode() for image in IMAGES]

PREDICTIONS = {
    "POST /predict": {"application/octet-stream", "image/*", "multipart/form-data"},
    "POST /predict/batch": {"application/octet-stream", "image/*", "multipart/form-data"},
    "POST /v2/models/{name}/infer": {"application/json", "application/octet-stream"},
    "POST /v2/models/{name}/versions/{version}/infer": {"application/json", "application/octet-stream"},
}
"""The routes that look at images, and the content types of the requests."""
METHODS = {"get", "put", "post", "delete", "options", "head", "patch", "trace"}

CONFIGURATION = {
    "seed": 1,
    "continue-on-failure": True,  # else the first failure of a phase hides the others
    # More would be spent on looking for names that are no strings.
    "generation": {"max-examples": 5, "deterministic": True, "database": "none", "no-shrink": True},
    "operations": [
        {
            "include-name": list(PREDICTIONS),
            "generation": {"max-examples": 40},
            # A deadline may be too short for any server, which then says so with 504.
            "checks": {"not_a_server_error": {"expected-statuses": ["2xx", "3xx", "4xx", "504"]}},
        }
    ],
    "cache": {"enabled": False},
    "phases": {"stateful": {"enabled": False}},  # it looks for what is created and deleted, and nothing is
    # Random names would be answered with 404 and nothing else.
    "dictionaries": {"models": {"values": [MODEL, SPARE]}, "versions": {"values": [1]}},
    "parameters": {
        f"{place}.{name}": {"dictionary": dictionary, "probability": 0.8}
        for place, name, dictionary in (
            ("path", "name", "models"),
            ("query", "model", "models"),
            ("path", "version", "versions"),
            ("query", "version", "versions"),
        )
    },
}


@dataclass
class Run:
    """What schemathesis found, and how often an operation was answered with a status to a content type."""

    operations: set[str] = field(default_factory=set)
    failures: list[str] = field(default_factory=list)
    answers: Counter[tuple[str, str, int]] = field(default_factory=Counter)

    def record(self, event: events.EngineEvent) -> None:
        from schemathesis.engine import Status, events

        if isinstance(event, events.NonFatalError):
            self.failures.append(f"{event.label}: {event.info.format()}")
        elif isinstance(event, events.FatalError):
            raise event.exception
        elif isinstance(event, events.ScenarioFinished):
            for identifier, sent in event.recorder.interactions.items():
                case = event.recorder.cases[identifier].value
                if sent.response is None:
                    self.failures.append(f"{case.operation.label}: no answer")
                    continue
                content_type = re.sub("^image/.*", "image/*", case.media_type or "")
                self.answers[case.operation.label, content_type, sent.response.status_code] += 1
                for check in event.recorder.checks.get(identifier, ()):
                    if check.status is Status.FAILURE and check.failure_info is not None:
                        failure, code = check.failure_info.failure, check.failure_info.code_sample
                        answer = sent.response.content[:500]
                        self.failures.append(
                            f"{check.name}: {failure.title}\n{failure.message}\n{answer!r}\n{code:.800}"
                        )

    def statuses(self, operation: str, content_type: str | None = None) -> set[int]:
        return {status for label, kind, status in self.answers if label == operation and content_type in (None, kind)}


def satisfy(case: Case) -> Case:
    """Change a request that its schema allows so that the server can answer it, where no schema can say what is right.

    That is: a version is named once, labels are those of the model, low and high go with the intensity, a label image
    is made of masks, one plane is no stack, there are as many images as `shape` says, an output is asked for once and
    is one that there is, the header says how long the JSON is, and images are images.
    """
    operation = case.operation.label
    if operation.endswith("/unload"):
        case.path_parameters["name"] = SPARE  # the other one is needed
    if case.meta is None or case.meta.generation.mode.is_negative:
        return case
    if operation.endswith(("/load", "/unload")) and isinstance(case.body, dict) and case.body.get("parameters"):
        case.body.pop("version", None)
    if case.query.get("labels"):
        case.query["labels"] = list(LABELS[: len(case.query["labels"])])
    fit_window(case.query)
    if case.query.get("format") == "labels":
        case.query.pop("masks", None)
    if case.query.get("page") is not None or case.query.get("format") in FILE_TYPES:
        case.query.pop("planes", None)
    body: Any = case.body
    if operation == "POST /predict/batch" and isinstance(body, dict):
        body["file"] = IMAGES[:2]
    if operation.startswith("POST /predict") and not isinstance(body, dict):
        if case.media_type == "application/octet-stream":
            case.body = IMAGES[0]
        for name in ("model", "version", "timeout_ms"):  # few of these are made: one must be answered
            case.query.pop(name, None)
    if operation.endswith("/infer"):
        case.headers.pop("Inference-Header-Content-Length", None)
        if case.media_type == "application/json":
            case.body = infer_request(body)
        else:
            case.headers["Inference-Header-Content-Length"] = "0"
            case.body = IMAGES[0]
    return case


def fit_window(wishes: dict[str, Any]) -> None:
    """`low` and `high` so that they are values of 8 bits and percent, and left out where the intensity has its own; the
    only plane that there is."""
    wishes.pop("object_diameter", None)  # contradicts scale, and the probe does not know how large its objects were
    if wishes.get("scale") is not None:
        wishes["scale"] = 1
    for name in ("page", "z", "t", "channel"):
        if wishes.get(name) is not None:
            wishes[name] = 0
    if wishes.get("channels"):
        wishes.pop("channel", None)
        wishes["channels"] = ["0,,0"]
    for name, value in (("low", 5), ("high", 90)):
        if wishes.get(name) is not None:
            wishes[name] = value
        if wishes.get("intensity") in ("auto", "min-max"):
            wishes.pop(name, None)


def infer_request(body: Any) -> dict[str, Any]:
    (tensor,) = body["inputs"]
    data: list[Any] = IN_BASE64[: len(tensor["data"])]
    if len(tensor["shape"]) == 2 and isinstance(tensor["data"][0], list):
        data = [[image] for image in data]
    body["inputs"] = [{**tensor, "shape": [len(data), *tensor["shape"][1:]], "data": data}]
    parameters = body.get("parameters") or {}
    if parameters.get("labels") is not None:
        parameters["labels"] = list(LABELS[: len(parameters["labels"])])
    fit_window(parameters)
    if parameters.get("channels") is not None:
        parameters.pop("channel", None)
        parameters["channels"] = "0,,0"
    without = {"KEYPOINTS", "MASKS"} if parameters.get("masks") == "none" else {"KEYPOINTS"}
    outputs = {output["name"]: output for output in body.get("outputs") or () if output["name"] not in without}
    return {**body, "outputs": list(outputs.values())}


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One with two models, of which one may be unloaded."""
    folder = tmp_path_factory.mktemp("openapi")
    for name in (MODEL, SPARE):
        publish_probe(folder / "staging", folder / "models", name)
    flags = ("--model", MODEL, "--engine-threads", "1", "--poll-interval-ms", "0")
    server = Server.start(folder / "models", *flags)
    yield server
    server.close()


@pytest.fixture(scope="module")
def schema(own_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenApiSchema]:
    import schemathesis
    from hypothesis import strategies
    from hypothesis.configuration import set_hypothesis_home_dir

    set_hypothesis_home_dir(tmp_path_factory.mktemp("hypothesis"))  # and not the folder that the tests run in
    schemathesis.openapi.media_type("image/png", strategies.sampled_from(IMAGES))
    configuration = schemathesis.Config.from_dict(CONFIGURATION)
    schema = schemathesis.openapi.from_url(f"{own_server.url}/openapi.json", config=configuration)

    @schema.hook("map_case")
    def map_case(context: schemathesis.HookContext, case: Case) -> Case:
        return satisfy(case)

    @schema.hook("before_add_examples")
    def before_add_examples(context: schemathesis.HookContext, examples: list[Case]) -> None:
        for case in examples:
            satisfy(case)

    yield schema
    set_hypothesis_home_dir(None)


@pytest.fixture(scope="module")
def run(schema: OpenApiSchema) -> Run:
    from schemathesis.core.result import Ok
    from schemathesis.engine import from_schema

    run = Run()
    for operation in schema.get_all_operations():
        assert isinstance(operation, Ok)
        run.operations.add(operation.ok().label)
    for event in from_schema(schema).execute():
        run.record(event)
    return run


@pytest.fixture(scope="module")
def document(own_server: Server) -> dict[str, Any]:
    value: dict[str, Any] = own_server.client.get("/openapi.json").json()
    return value


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        assert set(methods) <= METHODS
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def contents(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every body of a request or a response: where it is, and its schema and examples."""
    for label, operation in operations(document):
        bodies = {"request": operation.get("requestBody", {}), **operation["responses"]}
        for name, body in bodies.items():
            for media_type, content in body.get("content", {}).items():
                yield f"{label} {name} {media_type}", content


def examples_of(content: dict[str, Any]) -> list[Any]:
    return [
        *([content["example"]] if "example" in content else []),
        *(example["value"] for example in content.get("examples", {}).values()),
    ]


# --- the server does what the document says


def test_the_server_answers_as_its_document_says(run: Run) -> None:
    assert not run.failures, f"{len(run.failures)} failures, such as\n\n" + "\n\n".join(run.failures[:5])


def test_every_operation_was_tried_with_what_it_accepts_and_refuses(run: Run) -> None:
    """Without this, a run that reached nothing would pass."""
    assert run.operations == {label for label, _, _ in run.answers}
    assert {label for label in run.operations if 200 not in run.statuses(label)} == set()
    assert {label for label in run.operations if 405 not in run.statuses(label)} == set()
    for label, content_types in PREDICTIONS.items():
        for content_type in content_types:
            assert 200 in run.statuses(label, content_type), f"no {content_type} was answered by {label}"
        assert run.statuses(label) & {400, 422}


# --- the document itself


def test_the_document_is_valid_openapi(schema: OpenApiSchema, document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1.")
    schema.validate()
    for definition in document["components"]["schemas"].values():
        jsonschema_rs.Draft202012Validator({**definition, "components": document["components"]})


def test_every_reference_leads_somewhere(document: dict[str, Any], own_server: Server) -> None:
    references = set(re.findall(r'"\$ref":\s*"([^"]+)"', own_server.client.get("/openapi.json").text))
    assert len(references) > 10
    for reference in references:
        target: Any = document
        assert reference.startswith("#/")
        for part in reference.removeprefix("#/").split("/"):
            target = target[part]


def test_every_operation_says_what_it_is_for(document: dict[str, Any]) -> None:
    summaries = Counter(operation["summary"] for _, operation in operations(document))
    identifiers = Counter(operation["operationId"] for _, operation in operations(document))
    assert max(identifiers.values()) == 1
    assert all(summaries)
    for label, operation in operations(document):
        assert all(response["description"] for response in operation["responses"].values()), label
        parameters = operation.get("parameters", [])
        assert all(parameter.get("description") for parameter in parameters if parameter["in"] != "path"), label


def test_every_error_is_described_with_examples(document: dict[str, Any]) -> None:
    for label, operation in operations(document):
        for status, response in operation["responses"].items():
            if status == "200":
                continue
            (media_type,) = response["content"]
            assert media_type == "application/problem+json", label
            examples = examples_of(response["content"][media_type])
            assert examples, f"{label} {status}"
            assert {example["status"] for example in examples} == {int(status)}


def test_what_reads_images_may_fail_in_every_way(document: dict[str, Any]) -> None:
    errors = {"400", "401", "404", "408", "413", "415", "422", "429", "500", "503", "504", "507"}
    for label, content_types in PREDICTIONS.items():
        method, path = label.split()
        operation = document["paths"][path][method.lower()]
        assert set(operation["responses"]) == {"200", *errors}
        assert set(operation["requestBody"]["content"]) == content_types


def test_the_query_is_all_described(document: dict[str, Any]) -> None:
    for path, query in (("/predict", PredictQuery), ("/predict/batch", BatchQuery)):
        parameters = document["paths"][path]["post"]["parameters"]
        assert {parameter["name"] for parameter in parameters} == set(query.model_fields)
        for parameter in parameters:
            assert "null" not in str(parameter["schema"]), "a query cannot say null"


def test_every_models_outputs_can_be_asked_for(document: dict[str, Any]) -> None:
    tasks: tuple[Task, ...] = get_args(Task)
    outputs = {tensor.name for task in tasks for tensor in output_tensors(ArchitectureConfig(task=task))}
    assert set(document["components"]["schemas"]["OutputRequest"]["properties"]["name"]["enum"]) == outputs


def test_every_example_is_valid(document: dict[str, Any]) -> None:
    seen = set()
    for where, content in contents(document):
        for example in examples_of(content):
            whole = {**content["schema"], "components": document["components"]}
            errors = list(jsonschema_rs.Draft202012Validator(whole).iter_errors(example))
            assert not errors, f"{where}: {errors[0].message}"
            seen.add(where)
    for label in PREDICTIONS:
        assert f"{label} 200 application/json" in seen


def test_the_example_of_an_inference_request_works(document: dict[str, Any], own_server: Server) -> None:
    content = document["paths"]["/v2/models/{name}/infer"]["post"]["requestBody"]["content"]["application/json"]
    response = own_server.client.post(f"/v2/models/{MODEL}/infer", json=content["example"])
    assert response.status_code == 200, response.text
    assert [output["name"] for output in response.json()["outputs"]] == ["BOXES", "SCORES"]
