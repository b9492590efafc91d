"""What Kubernetes adds to the environment is no setting, and what only looks like it still is a wrong one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from service.settings.configuration import effective, read_settings
from service.settings.environment import PREFIX, own_variables
from service.settings.settings import InvalidSettingsError
from tests.service.harness import Server

PORTS = ((None, 80, "TCP"), ("http-metrics", 9090, "TCP"), ("dns", 53, "UDP"), ("signal", 7, "SCTP"))
"""Name, number and protocol of a Service's ports."""
SERVICES = (
    "maskserve",
    "maskserve-metrics",
    "maskserve-models",
    "maskserve-host",
    "maskserve-port",
    "maskserve-config",
    "maskserve-service",
    "maskserve-service-port",
    "maskserve-port-80-tcp",
    "maskserve-client-url",
    "maskserve-2",
)


def injected(service: str, address: str = "10.96.0.10") -> dict[str, str]:
    """The variables that Kubernetes gives the containers of a namespace with this Service, as its documentation and
    Docker's of links have them.
    """
    name = service.upper().replace("-", "_")
    host = f"[{address}]" if ":" in address else address
    variables = {f"{name}_SERVICE_HOST": address, f"{name}_SERVICE_PORT": str(PORTS[0][1])}
    for port_name, port, protocol in PORTS:
        url = f"{protocol.lower()}://{host}:{port}"
        variables.setdefault(f"{name}_PORT", url)
        if port_name is not None:
            variables[f"{name}_SERVICE_PORT_{port_name.upper().replace('-', '_')}"] = str(port)
        link = f"{name}_PORT_{port}_{protocol}"
        variables |= {link: url, f"{link}_PROTO": protocol.lower(), f"{link}_PORT": str(port), f"{link}_ADDR": address}
    return variables


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [*os.environ]:
        if name.startswith(PREFIX):
            monkeypatch.delenv(name)
    monkeypatch.setenv("MASKSERVE_MODELS", str(tmp_path))


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("address", ["10.96.0.10", "fd00:10:96::a", "None", ""])
def test_a_service_of_any_name_changes_nothing(monkeypatch: pytest.MonkeyPatch, service: str, address: str) -> None:
    plain = effective(read_settings([]), [])
    for variable, value in injected(service, address).items():
        assert variable.startswith(PREFIX)
        monkeypatch.setenv(variable, value)
    assert effective(read_settings([]), []) == plain
    assert [*own_variables()] == ["MASKSERVE_MODELS"]


@pytest.mark.parametrize("value", ["", " ", "many", "tcp://10.96.0.10:80", "8000"])
@pytest.mark.parametrize("service", SERVICES)
def test_whatever_stands_in_them_changes_nothing(monkeypatch: pytest.MonkeyPatch, service: str, value: str) -> None:
    plain = effective(read_settings([]), [])
    url = f"{service.upper().replace('-', '_')}_PORT"  # a setting's own name, of the Service called maskserve
    for variable in injected(service):
        monkeypatch.setenv(variable, value if variable != url else "")
    assert effective(read_settings([]), []) == plain


def test_the_port_in_the_file_holds_beside_a_service_called_maskserve(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "s.toml").write_text("port = 1234")
    monkeypatch.setenv("MASKSERVE_PORT", "tcp://10.96.0.10:80")
    arguments = ["--config", str(tmp_path / "s.toml")]
    settings = read_settings(arguments)
    assert settings.port == 1234
    shown = [" ".join(line.split()) for line in effective(settings, arguments).splitlines()]
    assert "port = 1234 # file" in shown


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("MASKSERVE_PORT", "abc"),
        ("MASKSERVE_PORT", "http://10.96.0.10:80"),
        ("MASKSERVE_PORT", "tcp://10.96.0.10"),
        ("MASKSERVE_PORTS", "tcp://10.96.0.10:80"),
        ("MASKSERVE_HOST_PORT", "8000"),
        ("MASKSERVE_SERVICE", "10.96.0.10"),
        ("MASKSERVE_SERVICE", ""),
        ("MASKSERVE_SERVICE_HOSTS", ""),
        ("MASKSERVE_SERVICES_PORT", "80"),
        ("MASKSERVE_PORT_80", "tcp://10.96.0.10:80"),
        ("MASKSERVE_PORT_HTTP_TCP", ""),
        ("MASKSERVE_PORT_80_TCP_NAME", "web"),
        ("MASKSERVE_MODEL", ""),
    ],
)
def test_what_is_not_quite_so_stops_the_start(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(InvalidSettingsError):
        read_settings([])


def test_a_server_starts_among_services_that_are_called_like_it(repository: Path) -> None:
    variables = {name: value for service in SERVICES for name, value in injected(service).items()}
    server = Server.start(repository, "--engine-threads", "1", **variables)
    try:
        assert server.client.get("/readyz").status_code == 200
    finally:
        server.close()
