"""Settings: precedence, what is refused, and that each error says who is to blame."""

from __future__ import annotations

from pathlib import Path

import pytest

from stepstream_server.config import Settings, split_address
from stepstream_server.sources import SettingsError, load, variable


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A file that sets three keys."""
    path = tmp_path / "server.toml"
    path.write_text('listen = "127.0.0.1:1"\n[engine]\ncapacity = 10\nmax_batch = 20\n')
    return path


def refused(flags: dict[str, str], environment: dict[str, str], config: Path | None = None) -> str:
    """The message with which these are refused."""
    with pytest.raises(SettingsError) as error:
        load(flags, environment, config)
    return str(error.value)


def test_defaults_are_settings() -> None:
    """With nothing given, every record is its defaults."""
    assert load({}, {}) == Settings()


def test_flags_precede_environment_precedes_file_precedes_defaults(config: Path) -> None:
    """Each key comes from the first source that names it, key by key and not section by section."""
    environment = {"STEPSTREAM_ENGINE__CAPACITY": "11", "STEPSTREAM_LISTEN": "127.0.0.1:2", "PATH": "/bin"}
    settings = load({"listen": "127.0.0.1:3"}, environment, config)
    assert settings.listen == "127.0.0.1:3"
    assert settings.engine.capacity == 11
    assert settings.engine.max_batch == 20
    assert settings.engine.window_steps == Settings().engine.window_steps


def test_a_file_has_tables_of_single_models(config: Path) -> None:
    """By their names, which may hold dots; other models are as all are."""
    config.write_text('[model.ecg]\ndurable = true\n[model."ecg.two"]\ndurable = true\n[model.speech]\n[engine]\ncapacity = 3\n')
    settings = load({}, {}, config)
    kept = [name for name in ("ecg", "ecg.two", "two", "speech") if settings.keeps_all_of(name)]
    assert (kept, settings.engine.capacity) == (["ecg", "ecg.two"], 3)
    assert load({"store.durable": "always"}, {}, config).keeps_all_of("speech")


def test_the_environment_may_name_the_file(config: Path) -> None:
    """STEPSTREAM_CONFIG stands in for the flag, and gives way to it."""
    environment = {"STEPSTREAM_CONFIG": str(config)}
    assert load({}, environment).engine.capacity == 10
    other = config.with_name("other.toml")
    other.write_text("[engine]\ncapacity = 99\n")
    assert load({}, environment, other).engine.capacity == 99


def test_text_becomes_the_settings_type() -> None:
    """Flags and variables are text; numbers, truth values and paths are made of it."""
    settings = load({"backend.spinning": "true", "models": "somewhere"}, {"STEPSTREAM_DOOR__DRAIN_SECONDS": "1.5"})
    assert settings.backend.spinning is True
    assert settings.models == Path("somewhere")
    assert settings.door.drain_seconds == 1.5


@pytest.mark.parametrize(
    ("flags", "environment", "expected"),
    [
        (
            {"worker_heartbeat_seconds": "0.01"},
            {},
            "flag --worker_heartbeat_seconds: worker_heartbeat_seconds: expected 0 or at least 0.1:"
            " good workers are often busy for a moment; got '0.01'",
        ),
        ({"engine.capacity": "0"}, {}, "flag --engine.capacity: engine.capacity: must be greater than 0; got '0'"),
        ({"backend.kind": "jax"}, {}, "flag --backend.kind: backend.kind: must be 'onnx' or 'torch'; got 'jax'"),
        (
            {},
            {"STEPSTREAM_LISTEN": "8101"},
            "environment STEPSTREAM_LISTEN: listen: expected HOST:PORT with a port from 0 to 65535,"
            " like 127.0.0.1:8101 or [::1]:8101; got '8101'",
        ),
        (
            {},
            {"STEPSTREAM_ENGINE__CAPACITYY": "5"},
            "environment: unknown variable STEPSTREAM_ENGINE__CAPACITYY; did you mean STEPSTREAM_ENGINE__CAPACITY?",
        ),
        ({}, {"STEPSTREAM_LISTN": "x:1"}, "environment: unknown variable STEPSTREAM_LISTN; did you mean STEPSTREAM_LISTEN?"),
        ({}, {"STEPSTREAM_ZZZ": "x"}, "environment: unknown variable STEPSTREAM_ZZZ"),
        (
            {},
            {"STEPSTREAM_MODEL__ECG__DURABLE": "true"},
            "environment: unknown variable STEPSTREAM_MODEL__ECG__DURABLE;"
            " settings of single models are in tables [model.NAME] of a file alone",
        ),
        (
            {"store.url": "redis:6379"},
            {},
            "flag --store.url: store.url: expected memory:, sqlite:FILE, or nothing; got 'redis:6379'",
        ),
        (
            {},
            {"STEPSTREAM_DOOR__DRAIN_SECONDS": "inf"},
            "environment STEPSTREAM_DOOR__DRAIN_SECONDS: door.drain_seconds: must be a finite number; got 'inf'",
        ),
        (
            {"backend.device": "cuda"},
            {},
            "flag --backend.device (backend.device): backend:"
            " device 'cuda' needs kind 'torch'; kind 'onnx' computes on 'cpu' alone",
        ),
        (
            {"door.tls_key": "/tls/tls.key"},
            {},
            "flag --door.tls_key (door.tls_key): door: tls_cert and tls_key: expected both or neither, got tls_key",
        ),
        (
            {},
            {"STEPSTREAM_DOOR__TLS_CLIENT_CA": "/tls/ca.crt"},
            "environment STEPSTREAM_DOOR__TLS_CLIENT_CA (door.tls_client_ca): door:"
            " tls_client_ca: expected tls_cert and tls_key with it, got neither",
        ),
        (
            {"health": "8103"},
            {},
            "flag --health: health: expected HOST:PORT with a port from 0 to 65535,"
            " like 127.0.0.1:8101 or [::1]:8101; got '8103'",
        ),
    ],
)
def test_a_wrong_value_or_name_is_refused(flags: dict[str, str], environment: dict[str, str], expected: str) -> None:
    """The message names the source, the key, what was expected and what came."""
    assert refused(flags, environment) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[engine]\ncapacty = 5\n", "unknown key 'engine.capacty'; did you mean engine.capacity?"),
        ("[engin]\ncapacity = 5\n", "unknown key 'engin.capacity'; did you mean engine.capacity?"),
        ("engine = 5\n", "unknown key 'engine'"),
        ("[engine.capacity]\nx = 5\n", "unknown key 'engine.capacity.x'; did you mean engine.capacity?"),
        ("[engine]\ncapacity = [5]\n", "engine.capacity: must be a valid integer; got [5]"),
        ("[engine\n", "expected readable TOML"),
        ("[model.ecg]\ndurabel = true\n", "unknown key 'model.ecg.durabel'; did you mean model.NAME.durable?"),
        ("[model]\necg = true\n", "unknown key 'model.ecg'"),
        ('[model."ecg.two"]\ndurable = "sometimes"\n', "model.ecg.two.durable: must be a valid boolean"),
    ],
)
def test_a_wrong_file_is_refused(config: Path, text: str, expected: str) -> None:
    """The message names the file, and the key where there is one."""
    config.write_text(text)
    message = refused({}, {}, config)
    assert message.startswith(f"file {config}: ")
    assert expected in message


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    """A file that was asked for and is not there does not mean defaults."""
    assert refused({}, {"STEPSTREAM_CONFIG": str(tmp_path / "none.toml")}).startswith(f"file {tmp_path / 'none.toml'}: ")


def test_all_faults_are_told_at_once(config: Path) -> None:
    """One line per fault, so that one attempt is enough to find them."""
    config.write_text("[door]\nx = 1\n")
    assert len(refused({}, {"STEPSTREAM_Y": "", "STEPSTREAM_Z": ""}, config).splitlines()) == 3
    assert len(refused({"listen": "", "engine.capacity": "-1"}, {}).splitlines()) == 2


@pytest.mark.parametrize(
    "name",
    [
        "STEPSTREAM_PORT",
        "STEPSTREAM_SERVICE_HOST",
        "STEPSTREAM_SERVICE_PORT",
        "STEPSTREAM_SERVICE_PORT_GRPC",
        "STEPSTREAM_PORT_8101_TCP",
        "STEPSTREAM_PORT_8101_TCP_ADDR",
        "STEPSTREAM_METRICS_SERVICE_HOST",
        "STEPSTREAM_METRICS_PORT_8102_TCP_PROTO",
    ],
)
def test_what_kubernetes_makes_of_services_is_passed_over(name: str) -> None:
    """A Service named `stepstream` puts such variables into every pod; they must not keep the server from starting."""
    assert load({}, {name: "tcp://10.0.0.1:8101"}) == Settings()


@pytest.mark.parametrize("name", ["STEPSTREAM_SERVER", "STEPSTREAM_SECRET", "STEPSTREAM_TOKEN"])
def test_what_the_client_command_reads_is_passed_over(name: str) -> None:
    """A shell in which `stepstream` is used can start a server too."""
    assert load({}, {name: "127.0.0.1:8101"}) == Settings()


def test_variables_are_named_after_keys() -> None:
    """Two underscores stand for the dot, since names of settings contain single ones."""
    assert variable("engine.idle_ttl_seconds") == "STEPSTREAM_ENGINE__IDLE_TTL_SECONDS"


@pytest.mark.parametrize(
    ("address", "expected"),
    [("127.0.0.1:8101", ("127.0.0.1", 8101)), ("[::1]:0", ("::1", 0)), ("server.local:65535", ("server.local", 65535))],
)
def test_addresses_are_split(address: str, expected: tuple[str, int]) -> None:
    """IPv4, IPv6 in brackets, and names."""
    assert split_address(address) == expected


@pytest.mark.parametrize(
    "address", ["", "8101", ":8101", "host", "host:", "host:x", "host:65536", "host:-1", "::1:80", "[::1]", "[]:1"]
)
def test_what_is_no_address_is_refused(address: str) -> None:
    """Host and port are both needed, and the port must be one."""
    with pytest.raises(ValueError, match="expected HOST:PORT"):
        split_address(address)
