"""The configuration's own rules, and every file under configs/."""

from __future__ import annotations

import base64
import hashlib
import hmac
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError
from ray.serve.schema import ServeDeploySchema

from serve_app.config import (
    DEFAULT_SESSION_SECRET,
    ApiKeyConfig,
    AppConfig,
    AuthConfig,
    IceConfig,
    IceServer,
    with_environment,
)
from tests.never_shown import NeverShown

pytestmark = pytest.mark.unit

KEY = "ak_0123456789abcdefghij"
SECRETS = {"AVATAR_API_KEYS": f"acme:{KEY}", "AVATAR_SESSION_SECRET": "s" * 32}

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))


def config_file(name: str) -> dict[str, Any]:
    path = next(path for path in CONFIGS if path.name == name)
    loaded: dict[str, Any] = yaml.safe_load(path.read_text())
    return loaded


def app_config(name: str) -> AppConfig:
    (application,) = config_file(name)["applications"]
    return AppConfig.model_validate(application["args"])


# The files


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_file_is_a_serve_config_whose_args_are_an_app_config(path: Path) -> None:
    schema = ServeDeploySchema.model_validate(yaml.safe_load(path.read_text()))
    (application,) = schema.applications
    assert application.name == "avatar"
    assert application.route_prefix == "/"
    assert application.import_path == "serve_app.main:build"
    AppConfig.model_validate(application.args)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_file_uses_no_key_that_serve_would_ignore(path: Path) -> None:
    # Serve's top-level schemas drop unknown keys silently, so a typing error would go unnoticed.
    raw = yaml.safe_load(path.read_text())
    assert set(raw) <= set(ServeDeploySchema.model_fields)
    http_fields = set(type(ServeDeploySchema.model_validate(raw).http_options).model_fields)
    assert set(raw["http_options"]) <= http_fields


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_file_serves_the_documented_port_and_never_cuts_sockets(path: Path) -> None:
    options = yaml.safe_load(path.read_text())["http_options"]
    assert options["port"] == 8765
    assert options["request_timeout_s"] is None


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_file_holds_no_secret(path: Path) -> None:
    (application,) = yaml.safe_load(path.read_text())["applications"]
    config = AppConfig.model_validate(application["args"])
    assert config.auth.keys == []
    assert config.auth.session_secret.get_secret_value() == DEFAULT_SESSION_SECRET
    assert [server for server in config.ice.servers if server.credential or server.secret] == []


@pytest.mark.parametrize("name", ["dev.yaml", "bench.yaml", "compose.yaml"])
def test_file_for_one_machine_is_open_to_all(name: str) -> None:
    assert with_environment(app_config(name), {}).auth.is_open


def test_prod_does_not_start_without_secrets_of_its_own() -> None:
    assert not app_config("prod.yaml").auth.is_open
    with pytest.raises(ValueError, match=r"(?s)AVATAR_API_KEYS: .*AVATAR_SESSION_SECRET: "):
        with_environment(app_config("prod.yaml"), {})
    config = with_environment(app_config("prod.yaml"), SECRETS)
    assert [key.id for key in config.auth.keys] == ["acme"]


@pytest.mark.parametrize("name", ["dev.yaml", "bench.yaml", "compose.yaml"])
def test_file_for_one_machine_fits_two_cores(name: str) -> None:
    config = app_config(name)
    animators = sum(
        (animator.num_replicas or 0) * animator.ray_actor_options["num_cpus"]
        for animator in config.animators.values()
    )
    gateway = config.gateway.num_replicas * config.gateway.num_cpus
    hosts = config.session.hosts * config.session.host_num_cpus
    assert animators + gateway + hosts <= 2


@pytest.mark.parametrize("name", ["dev.yaml", "bench.yaml", "compose.yaml"])
def test_file_for_one_machine_contacts_nobody(name: str) -> None:
    assert app_config(name).ice.servers == []


def test_dev_listens_on_this_machine_alone() -> None:
    assert config_file("dev.yaml")["http_options"]["host"] == "127.0.0.1"
    assert app_config("dev.yaml").ice.loopback


def test_bench_is_dev_with_a_tracer() -> None:
    dev, bench = app_config("dev.yaml"), app_config("bench.yaml")
    assert set(dev.animators) == {"portrait"}
    assert set(bench.animators) == {"portrait", "tracer"}
    same = {"animators", "session"}
    assert bench.model_dump(exclude=same) == dev.model_dump(exclude=same)


def test_prod_animates_as_many_sessions_as_its_hosts_hold() -> None:
    config = app_config("prod.yaml")
    animator = config.animators["portrait"]
    assert animator.autoscaling is not None
    assert animator.sessions_per_replica is not None
    animated = animator.autoscaling["max_replicas"] * animator.sessions_per_replica
    assert animated >= config.session.hosts * config.session.max_sessions_per_host


def test_prod_serves_the_neural_models_beside_the_drawn_one() -> None:
    config = app_config("prod.yaml")
    assert set(config.animators) == {"portrait", "musetalk", "liveportrait"}
    for name in ("musetalk", "liveportrait"):
        mine = config.animators[name]
        assert (mine.device, mine.fps, mine.degrade) == ("cuda", 25, "auto")
        assert mine.sessions_per_replica is None
    whole = [mine.ray_actor_options["num_gpus"] for mine in config.animators.values()]
    assert sum(whole) == 2, "expected two cards for one replica of each model"


def test_prod_s_live_settings_are_those_of_its_arguments() -> None:
    (application,) = config_file("prod.yaml")["applications"]
    config = app_config("prod.yaml")
    for override in application["deployments"]:
        mine = config.animators[override["name"].removeprefix("Animator-")]
        assert override["user_config"] == {
            "max_batch_calls": mine.max_batch_calls,
            "max_bucket": mine.max_bucket,
            "degrade": mine.degrade,
        }


def test_prod_logs_json_and_proxies_on_every_node() -> None:
    schema = ServeDeploySchema.model_validate(config_file("prod.yaml"))
    assert schema.logging_config is not None
    assert schema.logging_config.encoding == "JSON"
    assert schema.proxy_location == "EveryNode"


# The rules


NEURAL = AppConfig.model_validate(
    {
        "fps": 30,
        "animators": {
            "portrait": {"device": "cuda", "ray_actor_options": {"num_cpus": 1, "num_gpus": 0.25}},
            "musetalk": {
                "device": "cuda",
                "fps": 25,
                "ray_actor_options": {"num_cpus": 2, "num_gpus": 1, "accelerator_type": "H200"},
            },
        },
    }
)


def test_a_model_s_own_rate_counts_unless_a_variable_asks_for_another() -> None:
    assert [NEURAL.fps_of(name) for name in NEURAL.animators] == [30, 25]
    asked = with_environment(NEURAL, {"VIDEO_FPS": "50"})
    assert [asked.fps_of(name) for name in asked.animators] == [50, 50]


def test_random_weights_make_a_gpu_configuration_start_anywhere(caplog: pytest.LogCaptureFixture) -> None:
    assert with_environment(NEURAL, {}).animators == NEURAL.animators
    assert not caplog.records
    found = with_environment(NEURAL, {"AVATAR_RANDOM_WEIGHTS": "1"}).animators
    assert [(mine.device, mine.weights) for mine in found.values()] == [("cpu", None), ("cpu", "random")]
    assert [mine.ray_actor_options for mine in found.values()] == [{"num_cpus": 1}, {"num_cpus": 2}]
    assert "'musetalk' runs with invented weights, for testing only" in caplog.text
    with pytest.raises(ValueError, match="AVATAR_RANDOM_WEIGHTS: expected true or false, got 'maybe'"):
        with_environment(NEURAL, {"AVATAR_RANDOM_WEIGHTS": "maybe"})


def test_defaults_are_a_configuration() -> None:
    config = AppConfig()
    assert config.model == "portrait"
    assert config.fps == 30
    assert not config.recording.enabled


@pytest.mark.parametrize(
    ("args", "where"),
    [
        ({"modle": "portrait"}, "modle"),
        ({"ice": {"public_adress": "192.0.2.1"}}, "ice.public_adress"),
        ({"animators": {"portrait": {"replicas": 1}}}, "animators.portrait.replicas"),
    ],
)
def test_unknown_key_is_refused_by_name(args: dict[str, Any], where: str) -> None:
    with pytest.raises(ValidationError) as caught:
        AppConfig.model_validate(args)
    (error,) = caught.value.errors()
    assert error["type"] == "extra_forbidden"
    assert ".".join(map(str, error["loc"])) == where


def test_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        AppConfig().fps = 25


def test_model_without_animator_is_refused_with_the_ones_there_are() -> None:
    with pytest.raises(
        ValidationError, match=r"model 'musetalk' has no animator; configured: \['portrait'\]"
    ):
        AppConfig.model_validate({"model": "musetalk"})


@pytest.mark.parametrize("ports", [(1024, 1024), (50000, 50063), (1024, 65535)])
def test_port_range_in_order_is_taken(ports: tuple[int, int]) -> None:
    assert IceConfig(udp_port_range=ports).udp_port_range == ports


@pytest.mark.parametrize("ports", [(50063, 50000), (80, 50000), (50000, 65536)])
def test_port_range_out_of_order_says_what_was_expected(ports: tuple[int, int]) -> None:
    expected = f"expected 1024 <= first <= last <= 65535, got {ports[0]}-{ports[1]}"
    with pytest.raises(ValidationError, match=expected):
        IceConfig(udp_port_range=ports)


@pytest.mark.parametrize(
    "animator",
    [
        {"num_replicas": 1, "autoscaling": {"min_replicas": 1}},
        {"num_replicas": None, "autoscaling": None},
    ],
)
def test_replicas_are_either_fixed_or_scaled(animator: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="give either num_replicas or autoscaling"):
        AppConfig.model_validate({"animators": {"portrait": animator}})


def test_secrets_do_not_show_in_text() -> None:
    servers = [
        {"urls": ["turn:192.0.2.1"], "username": "u", "credential": "hush-hush-2"},
        {"urls": ["turn:192.0.2.2"], "secret": "hush-hush-3"},
    ]
    config = AppConfig.model_validate(
        {"auth": {"session_secret": "hush-hush-1" * 3}, "ice": {"servers": servers}}
    )
    NeverShown("hush-hush").check(config, config.auth, config.ice.servers, config.model_dump_json())


@pytest.mark.parametrize(
    "args",
    [
        {"auth": {"session_secret": "hush-hush"}},
        {"auth": {"session_secret": ["hush-hush"]}},
        {"auth": {"keys": [{"id": "acme", "sha256": "hush-hush"}]}},
        {"auth": {"keys": [{"id": "acme", "key": "hush-hush"}]}},
        {"auth": {"secret": "hush-hush"}},
        {"gateway": {"tokens": ["hush-hush"]}},
        {"ice": {"servers": [{"urls": ["turn:h"], "username": "u", "secret": "hush-hush"}]}},
        {"ice": {"servers": [{"urls": ["turn:h"], "credential": {"hush-hush": 1}}]}},
    ],
)
def test_a_refused_configuration_shows_no_value(args: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        AppConfig.model_validate(args)
    NeverShown("hush-hush").check(caught.value)


# Who may enter


def api_key(key_id: str, key: str = KEY) -> ApiKeyConfig:
    return ApiKeyConfig(id=key_id, sha256=hashlib.sha256(key.encode()).hexdigest())


def test_a_server_is_open_without_keys_unless_they_are_required() -> None:
    assert AuthConfig().is_open
    assert not AuthConfig(required=True).is_open
    assert not AuthConfig(keys=[api_key("acme")]).is_open


def test_ids_and_keys_are_given_once() -> None:
    with pytest.raises(ValidationError, match="expected each id once, found acme more often"):
        AuthConfig(keys=[api_key("acme"), api_key("acme", "another")])
    with pytest.raises(ValidationError, match="found one key under two ids"):
        AuthConfig(keys=[api_key("acme"), api_key("other")])


@pytest.mark.parametrize("key_id", ["", "a b", "a:b", "-a", "a" * 65, "a\n", "ä"])
def test_ids_are_plain_names(key_id: str) -> None:
    with pytest.raises(ValidationError, match=r"keys|id"):
        api_key(key_id)


def test_a_short_session_secret_is_refused() -> None:
    with pytest.raises(
        ValidationError, match=r"\(AVATAR_SESSION_SECRET\): expected at least 32 bytes, found 31"
    ):
        AuthConfig(session_secret=SecretStr("s" * 31))


def test_rs256_needs_both_files() -> None:
    with pytest.raises(ValidationError, match="expected private_key and public_key, found one or none"):
        AuthConfig(jwt_algorithm="RS256", private_key=Path("key.pem"))


# The environment


def two_models() -> AppConfig:
    return AppConfig.model_validate({"animators": {"portrait": {}, "LivePortrait": {}}})


def test_empty_environment_changes_nothing() -> None:
    assert with_environment(AppConfig(), {}) == AppConfig()
    assert with_environment(AppConfig(), {"MODEL_TYPE": "", "VIDEO_FPS": ""}) == AppConfig()


@pytest.mark.parametrize("value", ["LivePortrait", "liveportrait", "LIVEPORTRAIT"])
def test_model_type_chooses_the_model_in_any_case(value: str) -> None:
    assert with_environment(two_models(), {"MODEL_TYPE": value}).model == "LivePortrait"


def test_unknown_model_type_says_which_there_are() -> None:
    with pytest.raises(ValueError, match=r"MODEL_TYPE: expected one of \['portrait'\], got 'LivePortrait'"):
        with_environment(AppConfig(), {"MODEL_TYPE": "LivePortrait"})


def test_video_fps_sets_the_frame_rate() -> None:
    assert with_environment(AppConfig(), {"VIDEO_FPS": "25"}).fps == 25


@pytest.mark.parametrize("value", ["9", "61", "-30", "29.97", "fast"])
def test_impossible_video_fps_says_what_was_expected(value: str) -> None:
    with pytest.raises(ValueError, match=f"VIDEO_FPS: expected a whole number from 10 to 60, got '{value}'"):
        with_environment(AppConfig(), {"VIDEO_FPS": value})


@pytest.mark.parametrize("value", ["true", "True", "1", "yes"])
def test_parallel_processing_keeps_windows_in_flight(value: str) -> None:
    config = AppConfig()
    assert with_environment(config, {"PARALLEL_PROCESSING": value}) == config


@pytest.mark.parametrize("value", ["false", "FALSE", "0", "no"])
def test_no_parallel_processing_means_one_window_at_a_time(value: str) -> None:
    config = with_environment(AppConfig(), {"PARALLEL_PROCESSING": value})
    assert config.speech.max_windows_in_flight == 1


def test_impossible_parallel_processing_says_what_was_expected() -> None:
    with pytest.raises(ValueError, match="PARALLEL_PROCESSING: expected true or false, got 'maybe'"):
        with_environment(AppConfig(), {"PARALLEL_PROCESSING": "maybe"})


def test_the_process_environment_is_used_when_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDEO_FPS", "24")
    assert with_environment(AppConfig()).fps == 24


def with_turn() -> AppConfig:
    servers = [
        {"urls": ["stun:192.0.2.1"]},
        {"urls": ["turn:192.0.2.1", "turns:192.0.2.1"]},
        {"urls": ["turn:192.0.2.2"], "username": "own", "credential": "kept"},
    ]
    return AppConfig.model_validate({"ice": {"servers": servers}})


def test_api_keys_are_hashed_at_once() -> None:
    config = with_environment(AppConfig(), {**SECRETS, "AVATAR_API_KEYS": f" acme:{KEY}, {KEY}2 ,"}).auth
    bare = hashlib.sha256(f"{KEY}2".encode()).hexdigest()
    assert config.keys == [api_key("acme"), ApiKeyConfig(id=f"key-{bare[:8]}", sha256=bare)]
    assert config.session_secret.get_secret_value() == "s" * 32
    NeverShown(KEY, "s" * 32).check(config, config.model_dump_json())


def test_a_key_of_the_environment_keeps_the_limits_of_the_files_entry() -> None:
    entry = api_key("acme", "old").model_copy(update={"max_concurrent": 2, "minutes": 60.0})
    config = AppConfig(auth=AuthConfig(keys=[api_key("first", "another"), entry]))
    (first, acme) = with_environment(config, SECRETS).auth.keys
    assert first == config.auth.keys[0]
    assert acme == api_key("acme").model_copy(update={"max_concurrent": 2, "minutes": 60.0})


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("acme:hush-hush", "expected keys of at least 16 ASCII characters, entry 1 is none"),
        (f"{KEY},hush-hush", "expected keys of at least 16 ASCII characters, entry 2 is none"),
        ("acme:hush-hush-hush-hüsh", "expected keys of at least 16 ASCII characters, entry 1 is none"),
        ("hush-hush!:hush-hush-hush-hush", "expected id:key with an id of at most 64"),
        ("acme:hush-hush-hush-hush,acme:hush-hush-hush-hush-2", "expected each id once, entry 2 repeats one"),
        ("acme:hush-hush-hush-hush,other:hush-hush-hush-hush", "found one key under two ids"),
    ],
)
def test_unusable_api_keys_are_refused_without_showing_them(keys: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected) as caught:
        with_environment(AppConfig(), {**SECRETS, "AVATAR_API_KEYS": keys})
    NeverShown("hush-hush").check(caught.value)


@given(st.text(alphabet=st.characters(exclude_characters="\0"), max_size=80))
def test_whatever_stands_for_api_keys_is_taken_or_refused(listed: str) -> None:
    is_empty = not listed.replace(",", "").strip()
    try:
        auth = with_environment(AppConfig(), {**SECRETS, "AVATAR_API_KEYS": listed}).auth
    except ValueError:
        assert not is_empty
    else:
        assert auth.is_open == is_empty


@pytest.mark.parametrize("keys", ["", SECRETS["AVATAR_API_KEYS"]])
def test_a_closed_server_does_not_start_with_the_default_secret(keys: str) -> None:
    config = AppConfig(auth=AuthConfig(required=not keys))
    with pytest.raises(ValueError, match=r"AVATAR_SESSION_SECRET: expected .* found none"):
        with_environment(config, {"AVATAR_API_KEYS": keys})


def test_a_short_secret_of_the_environment_is_refused_without_showing_it() -> None:
    with pytest.raises(ValueError, match="AVATAR_SESSION_SECRET") as caught:
        with_environment(AppConfig(), {**SECRETS, "AVATAR_SESSION_SECRET": "hush-hush"})
    NeverShown("hush-hush").check(caught.value)


def test_a_closed_server_that_signs_with_rs256_needs_no_secret() -> None:
    auth = AuthConfig(jwt_algorithm="RS256", private_key=Path("a.pem"), public_key=Path("b.pem"))
    assert not with_environment(AppConfig(auth=auth), {"AVATAR_API_KEYS": KEY}).auth.is_open


def test_a_turn_secret_makes_credentials_that_end() -> None:
    # draft-uberti-behave-turn-rest-00, section 2.2
    server = IceServer(urls=["turn:192.0.2.1"], secret=SecretStr("north"), credential_lifetime_s=3600)
    username, credential = server.credentials(1_700_000_000.9)
    assert username == "1700003600:avatar"
    mac = hmac.digest(b"north", b"1700003600:avatar", "sha1")
    assert credential == base64.b64encode(mac).decode()
    assert server.for_client(1_700_000_000.9) == {
        "urls": ["turn:192.0.2.1"],
        "username": username,
        "credential": credential,
    }
    assert server.credentials(1_700_000_001.9) != (username, credential)


def test_servers_without_a_secret_give_what_they_have() -> None:
    assert IceServer(urls=["stun:192.0.2.1"]).for_client() == {"urls": ["stun:192.0.2.1"]}
    named = IceServer(urls=["turn:192.0.2.1"], username="u", credential=SecretStr("c"))
    assert named.credentials() == ("u", "c")


def test_a_server_has_one_way_to_enter() -> None:
    with pytest.raises(ValidationError, match="expected either secret, or username and credential"):
        IceServer(urls=["turn:192.0.2.1"], username="u", secret=SecretStr("hush-hush"))


def test_the_turn_secret_goes_to_the_turn_servers_that_name_no_user() -> None:
    servers = with_environment(with_turn(), {"TURN_SECRET": "hush-hush"}).ice.servers
    assert [server.secret is not None for server in servers] == [False, True, False]
    NeverShown("hush-hush").check(servers)


def test_a_turn_secret_beside_a_user_is_refused_without_showing_them() -> None:
    environ = {"TURN_SECRET": "hush-hush", "TURN_USERNAME": "u", "TURN_CREDENTIAL": "hush-hush"}
    with pytest.raises(ValueError, match="TURN_SECRET: expected it in place of") as caught:
        with_environment(with_turn(), environ)
    NeverShown("hush-hush").check(caught.value)


def test_turn_urls_add_one_server_that_the_secret_opens() -> None:
    environ = {
        "TURN_URLS": "turn:192.0.2.9:3478?transport=udp, turns:192.0.2.9:5349",
        "TURN_SECRET": "hush-hush",
    }
    *before, added = with_environment(with_turn(), environ).ice.servers
    assert [server.urls for server in before] == [server.urls for server in with_turn().ice.servers]
    assert added.urls == ["turn:192.0.2.9:3478?transport=udp", "turns:192.0.2.9:5349"]
    assert added.secret is not None


def test_turn_urls_that_are_no_turn_servers_are_refused() -> None:
    with pytest.raises(ValueError, match="TURN_URLS: expected turn: or turns: addresses, got 'stun:192"):
        with_environment(with_turn(), {"TURN_URLS": "stun:192.0.2.9"})


def test_turn_credentials_go_to_the_turn_servers_that_name_none() -> None:
    config = with_environment(with_turn(), {"TURN_USERNAME": "u", "TURN_CREDENTIAL": "hush"})
    assert [server.username for server in config.ice.servers] == [None, "u", "own"]
    assert "hush" not in repr(config)


@pytest.mark.parametrize("name", ["TURN_USERNAME", "TURN_CREDENTIAL"])
def test_half_of_the_turn_credentials_is_refused_without_showing_it(name: str) -> None:
    with pytest.raises(ValueError, match="expected both or neither") as caught:
        with_environment(with_turn(), {name: "hush"})
    assert "hush" not in str(caught.value)


def test_public_address_is_set_and_keeps_the_rest_of_ice() -> None:
    ice = with_environment(with_turn(), {"AVATAR_PUBLIC_ADDRESS": "192.0.2.7"}).ice
    assert ice.public_address == "192.0.2.7"
    assert ice.servers == with_turn().ice.servers


def test_public_address_is_numeric() -> None:
    with pytest.raises(ValueError, match=r"media\.example"):
        IceConfig(public_address="media.example")
