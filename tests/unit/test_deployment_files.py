"""The files that put the server on other machines agree with each other, the configurations and the README.

No container engine runs in these tests; they check everything that can be checked by reading.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from ray.autoscaler._private.util import prepare_config, validate_config

from serve_app.config import with_environment
from serve_app.gateway.a2v.messages import ErrorCode
from tests.deployment import (
    NO_SECRETS,
    ROOT,
    app_config,
    gpu_animators,
    project,
    ray_variables_of,
    replicas,
    secret_variables,
    shell_of,
    text_of,
    yaml_of,
)

pytestmark = pytest.mark.unit


def dockerfile() -> list[tuple[str, str]]:
    """The Dockerfile's instructions and their arguments, continued lines joined."""
    lines = [
        line for line in text_of("Dockerfile").splitlines() if line and not line.lstrip().startswith("#")
    ]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(words[0], words[1]) for words in (line.split(maxsplit=1) for line in joined.splitlines())]


def arguments(instruction: str) -> list[str]:
    return [rest for name, rest in dockerfile() if name == instruction]


def pins() -> dict[str, str]:
    lines = [line for line in text_of("constraints.txt").splitlines() if line and not line.startswith("#")]
    return {normal(name): pinned for name, pinned in (line.split("==") for line in lines)}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def readme_commands() -> str:
    """Every fenced shell block of the README."""
    return shell_of("README.md")


def ports(text: str) -> tuple[int, int]:
    first, _, last = text.partition("-")
    return int(first), int(last or first)


# Pins


def requirements() -> Iterator[Requirement]:
    extras = project()["optional-dependencies"].values()
    for line in [*project()["dependencies"], *(line for extra in extras for line in extra)]:
        if (requirement := Requirement(line)).name != project()["name"]:
            yield requirement


def test_every_requirement_is_pinned_to_a_version_it_allows() -> None:
    pinned = pins()
    assert [r.name for r in requirements() if not r.specifier.contains(pinned.get(normal(r.name), "0"))] == []


def test_pins_are_the_versions_these_tests_run_with() -> None:
    found = {
        name: version(name).partition("+")[0]
        for name in ("ray", "aiortc", "av", "torch", "numpy", "pydantic")
    }
    assert found == {name: pins()[name] for name in found}


def test_torch_is_pinned_for_cpu_and_cuda_builds_alike() -> None:
    assert re.fullmatch(r"[0-9.]+", pins()["torch"])


# Dockerfile


def test_copied_files_exist_and_are_let_through_by_dockerignore() -> None:
    let_through = {line[1:] for line in text_of(".dockerignore").splitlines() if line.startswith("!")}
    sources = [source for rest in arguments("COPY") for source in rest.split()[:-1]]
    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert source.removeprefix("./") in let_through


def test_image_has_what_the_package_build_reads() -> None:
    sources = " ".join(arguments("COPY")).split()
    assert {"pyproject.toml", project()["readme"], *project()["license-files"]} <= set(sources)


def test_image_installs_with_the_pins() -> None:
    installs = [rest for rest in arguments("RUN") if "pip install" in rest]
    assert installs
    assert all("--constraint constraints.txt" in rest for rest in installs)


def test_images_have_every_extra_that_a_server_may_need() -> None:
    (install,) = [rest for rest in arguments("RUN") if "pip install" in rest]
    assert '".[$EXTRAS]"' in install
    cpu, cuda = (set(found.split(",")) for found in re.findall(r"EXTRAS=([a-z,]+)", text_of("Dockerfile")))
    assert cuda == set(project()["optional-dependencies"]) - {"test", "lint"}
    assert cuda - cpu == {"neural"}, "neural models run on GPUs"


def test_image_has_a_python_that_the_project_allows() -> None:
    required = SpecifierSet(project()["requires-python"])
    bases = {rest.split()[0] for rest in arguments("FROM") if rest.startswith("python:")}
    assert len(bases) == 1, "nodes of one Ray cluster must run the same Python"
    (base,) = bases
    assert required.contains(base.removeprefix("python:").removesuffix("-slim"))


def test_cuda_is_chosen_by_a_build_argument_and_cpu_is_the_default() -> None:
    assert "DEVICE=cpu" in arguments("ARG")
    stages = {rest.split()[2] for rest in arguments("FROM")}
    assert {"base-cpu", "base-cuda"} <= stages
    assert arguments("FROM")[-1].startswith("base-${DEVICE}")


def test_image_does_not_run_as_root() -> None:
    (user,) = arguments("USER")
    assert any(f" {user}" in rest and "useradd" in rest for rest in arguments("RUN"))
    names = [name for name, _ in dockerfile()]
    assert names.index("USER") < names.index("CMD")


def test_image_serves_a_config_it_holds_by_a_command_that_exists() -> None:
    command = json.loads(arguments("CMD")[0])
    assert command[:2] == ["serve", "run"]
    assert (ROOT / command[-1]).is_file()
    assert shlex.join(command) in text_of("README.md")


def test_health_check_asks_the_served_port() -> None:
    (check,) = arguments("HEALTHCHECK")
    port = yaml_of("configs/compose.yaml")["http_options"]["port"]
    assert f"http://127.0.0.1:{port}/healthz" in check
    assert '"/healthz"' in text_of("serve_app/gateway/app.py")


def test_exposed_ports_are_the_configured_ones() -> None:
    exposed = set(arguments("EXPOSE"))
    first, last = app_config("configs/compose.yaml").ice.udp_port_range or (0, 0)
    assert exposed == {str(yaml_of("configs/compose.yaml")["http_options"]["port"]), f"{first}-{last}/udp"}


def test_usage_statistics_are_off_everywhere() -> None:
    assert "RAY_USAGE_STATS_ENABLED=0" in " ".join(arguments("ENV"))
    assert re.search(r"^export RAY_USAGE_STATS_ENABLED := 0$", text_of("Makefile"), re.MULTILINE)
    assert all("RAY_USAGE_STATS_ENABLED=0" in command for command in ray_starts())


# compose.yaml


def services() -> dict[str, dict[str, Any]]:
    mapping: dict[str, dict[str, Any]] = yaml_of("compose.yaml")["services"]
    return mapping


def service() -> dict[str, Any]:
    return services()["webrtc-server"]


def test_compose_starts_the_server_alone_unless_a_profile_is_named() -> None:
    assert [name for name, one in services().items() if "profiles" not in one] == ["webrtc-server"]
    profiles = {profile for one in services().values() for profile in one.get("profiles", [])}
    assert set(re.findall(r"docker compose --profile (\w+) up", shell_of("docs/operations.md"))) <= profiles
    assert set(re.findall(r"--profile (\w+)", text_of("docs/operations.md"))) == profiles
    assert set(re.findall(r"--profile (\w+)", text_of("compose.yaml"))) == profiles


@pytest.mark.parametrize("name", services())
def test_compose_confines_every_container(name: str) -> None:
    assert services()[name]["read_only"]
    assert services()[name]["cap_drop"] == ["ALL"]
    assert services()[name]["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize("name", sorted(set(services()) - {"webrtc-server"}))
def test_compose_names_a_version_of_others_images(name: str) -> None:
    assert re.search(r":v?\d+\.\d+\.\d+$", services()[name]["image"])


@pytest.mark.parametrize("name", ["prometheus", "grafana"])
def test_compose_publishes_figures_on_this_machine_alone(name: str) -> None:
    assert all(entry.startswith("127.0.0.1:") for entry in services()[name]["ports"])
    port = services()[name]["ports"][0].split(":")[1]
    assert f"http://localhost:{port}" in text_of("docs/operations.md")


def test_compose_mounts_files_that_exist_and_volumes_that_it_declares() -> None:
    declared = set(yaml_of("compose.yaml")["volumes"])
    for one in services().values():
        for entry in one.get("volumes", []):
            source = entry.split(":")[0]
            if source.startswith("./configs"):
                assert (ROOT / source).exists(), source
                assert entry.endswith(":ro")
            elif not source.startswith("./"):
                assert source in declared


def test_compose_leaves_the_server_every_folder_writable_that_the_image_prepares() -> None:
    prepared = re.search(r"install --directory [^\n]*\\\n\s*([^\n]+)", text_of("Dockerfile"))
    assert prepared
    needed = {path if path.startswith("/") else f"/app/{path}" for path in prepared[1].split()}
    volumes = {entry.split(":")[1] for entry in service()["volumes"]}
    tmpfs = {entry.split(":")[0] for entry in service()["tmpfs"]}
    assert needed | {"/tmp"} == volumes | tmpfs


def test_turn_server_in_compose_and_its_file_agree_with_the_documents() -> None:
    conf = text_of("configs/coturn/turnserver.conf")
    options = dict(line.split("=", 1) for line in conf.splitlines() if "=" in line and line[0] != "#")
    assert "use-auth-secret" in conf.splitlines()
    assert "static-auth-secret" not in options
    assert services()["coturn"]["environment"] == ["TURN_SECRET"]
    first, last = int(options["min-port"]), int(options["max-port"])
    assert f"{first}–{last}" in text_of("docs/operations.md")
    media = app_config("configs/compose.yaml").ice.udp_port_range
    assert media is not None
    assert last < media[0] or first > media[1], "both bind ports of one machine"
    urls = re.search(r"^TURN_URLS=(\S+)$", shell_of("docs/operations.md"), re.MULTILINE)
    assert urls
    config = with_environment(
        app_config("configs/compose.yaml"), {"TURN_URLS": urls[1], "TURN_SECRET": "x" * 32}
    )
    assert all(f":{options['listening-port']}?" in url for url in config.ice.servers[-1].urls)
    assert config.ice.servers[-1].secret is not None


def test_compose_has_the_documents_port_volumes_and_variables() -> None:
    assert "8765:8765" in service()["ports"]
    folders = ["./output_videos:/app/output_videos", "./temp_audio:/app/temp_audio"]
    assert service()["volumes"][:2] == folders
    assert service()["environment"][:3] == ["MODEL_TYPE=portrait", "PARALLEL_PROCESSING=true", "VIDEO_FPS=30"]
    assert service()["restart"] == "unless-stopped"


def test_compose_mounts_the_images_volumes() -> None:
    mounted = [entry.split(":")[1] for entry in service()["volumes"] if entry.startswith("./")]
    assert json.loads(arguments("VOLUME")[0]) == mounted
    assert str(app_config("configs/compose.yaml").recording.directory) in mounted


def test_compose_publishes_the_media_ports_of_its_config_unchanged() -> None:
    published = [entry for entry in service()["ports"] if entry.endswith("/udp")]
    outside, inside = published[0].removesuffix("/udp").split(":")
    assert outside == inside, "candidates name the inner port, so the outer one must be the same"
    assert ports(inside) == app_config("configs/compose.yaml").ice.udp_port_range


def test_compose_variables_are_accepted_by_its_config() -> None:
    variables = dict(entry.split("=") for entry in service()["environment"] if "=" in entry)
    config = with_environment(app_config("configs/compose.yaml"), variables)
    assert (config.model, config.fps) == ("portrait", 30)


def test_compose_passes_the_other_variables_on_without_holding_one() -> None:
    named = service()["environment"][3:]
    assert set(named) == {"AVATAR_PUBLIC_ADDRESS", "TURN_URLS", *secret_variables()}
    assert len(named) == len(set(named))


def test_compose_config_listens_on_all_addresses_and_records() -> None:
    assert yaml_of("configs/compose.yaml")["http_options"]["host"] == "0.0.0.0"
    assert app_config("configs/compose.yaml").recording.enabled


# cluster.yaml


def node_types() -> dict[str, Any]:
    types: dict[str, Any] = yaml_of("cluster.yaml")["available_node_types"]
    return types


def ray_starts() -> list[str]:
    cluster = yaml_of("cluster.yaml")
    commands = [*cluster["head_start_ray_commands"], *cluster["worker_start_ray_commands"]]
    return [command for command in commands if "ray start" in command]


def test_cluster_is_what_ray_up_takes() -> None:
    validate_config(prepare_config(yaml_of("cluster.yaml")))


def test_image_makes_every_node_and_command_use_the_mounted_token() -> None:
    assert "RAY_AUTH_MODE=token" in " ".join(arguments("ENV"))


def test_secrets_reach_the_nodes_from_outside_the_repository() -> None:
    mounts: dict[str, str] = yaml_of("cluster.yaml")["file_mounts"]
    assert all(local.startswith("~/.") for local in mounts.values())
    assert all(". ~/secrets.env;" in command for command in ray_starts())
    (user,) = arguments("USER")
    assert set(mounts) == {f"/home/{user}/secrets.env", f"/home/{user}/.ray/auth_token"}


def test_cluster_names_every_secret_that_the_server_reads() -> None:
    head = text_of("cluster.yaml").partition("cluster_name:")[0]
    assert set(re.findall(r"\b([A-Z][A-Z_]+)=", head)) == secret_variables()


def test_head_does_no_work() -> None:
    head = node_types()[yaml_of("cluster.yaml")["head_node_type"]]
    assert head["resources"] == {"CPU": 0}


def test_every_node_starts_ray_with_the_same_variables() -> None:
    variables = [ray_variables_of(command) for command in ray_starts()]
    assert len(variables) == 2
    assert variables[0] == variables[1]
    assert variables[0]["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
    longest_s = app_config("configs/prod.yaml").session.max_duration_s
    assert int(variables[0]["RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S"]) >= longest_s


def test_serve_knows_the_variables_of_the_cluster() -> None:
    from ray.serve._private import constants

    known = Path(constants.__file__).read_text()
    names = set(re.findall(r"\b(RAY_SERVE_[A-Z_]+)=", " ".join(ray_starts())))
    assert {name for name in names if f'"{name}"' not in known} == set()


def test_media_nodes_have_room_for_the_hosts_and_gateways_of_a_rollout() -> None:
    config = app_config("configs/prod.yaml")
    session, media = config.session, node_types()["media"]
    hosts_of_node = media["resources"]["rtc_slot"] // session.host_resources["rtc_slot"]
    assert media["min_workers"] * hosts_of_node >= session.hosts
    # While a new configuration comes in, new hosts and gateways run beside those that drain.
    assert media["max_workers"] * hosts_of_node >= 2 * session.most_hosts
    gateways = 2 * config.gateway.num_replicas * config.gateway.num_cpus
    for nodes, hosts in (("min_workers", session.hosts), ("max_workers", 2 * session.most_hosts)):
        assert hosts * session.host_num_cpus + gateways <= media[nodes] * media["resources"]["CPU"]


@pytest.mark.parametrize("which", [0, 1], ids=["at the start", "at most"])
def test_gpu_nodes_have_room_for_the_replicas(which: int) -> None:
    animators = gpu_animators(app_config("configs/prod.yaml"))
    assert animators
    wanted = [
        (one.ray_actor_options["num_gpus"], one.ray_actor_options["num_cpus"])
        for one in animators.values()
        for _ in range(replicas(one)[which])
    ]
    gpu = node_types()["gpu"]
    nodes = gpu[("min_workers", "max_workers")[which]]
    assert nodes_for(wanted, gpu["resources"]["GPU"], gpu["resources"]["CPU"]) <= nodes


def nodes_for(replicas: list[tuple[float, float]], gpus: float, cpus: float) -> int:
    """How many nodes hold replicas of so many GPUs and CPUs, the largest placed first, each where it fits."""
    free: list[list[float]] = []
    for needed_gpus, needed_cpus in sorted(replicas, reverse=True):
        assert needed_gpus <= gpus
        assert needed_cpus <= cpus
        for node in free:
            if node[0] >= needed_gpus and node[1] >= needed_cpus:
                node[0] -= needed_gpus
                node[1] -= needed_cpus
                break
        else:
            free.append([gpus - needed_gpus, cpus - needed_cpus])
    return len(free)


def test_cluster_may_have_as_many_workers_as_its_types_together() -> None:
    most = sum(node["max_workers"] for node in node_types().values() if "max_workers" in node)
    assert yaml_of("cluster.yaml")["max_workers"] >= most


def test_hosts_run_on_media_nodes_alone() -> None:
    assert [name for name, node in node_types().items() if "rtc_slot" in node["resources"]] == ["media"]
    assert app_config("configs/prod.yaml").session.host_resources["rtc_slot"] > 0


def test_open_ports_of_the_cluster_are_those_of_prod() -> None:
    rules = yaml_of("cluster.yaml")["provider"]["security_group"]["IpPermissions"]
    opened = {rule["IpProtocol"]: (rule["FromPort"], rule["ToPort"]) for rule in rules}
    port = yaml_of("configs/prod.yaml")["http_options"]["port"]
    assert opened == {"TCP": (port, port), "UDP": app_config("configs/prod.yaml").ice.udp_port_range}


def test_media_ports_suffice_for_the_sessions_of_a_node() -> None:
    hosts_of_node = node_types()["media"]["resources"]["rtc_slot"]
    for name, hosts in (("configs/prod.yaml", hosts_of_node), ("configs/compose.yaml", 1)):
        config = app_config(name)
        first, last = config.ice.udp_port_range or (0, -1)
        # A peer holds one port for each local address; a reconnecting one holds two sets for a moment.
        assert last - first + 1 >= 4 * hosts * config.session.max_sessions_per_host, name


def test_images_of_the_cluster_carry_the_projects_version() -> None:
    release = project()["version"]
    cluster = yaml_of("cluster.yaml")
    assert cluster["docker"]["image"] == f"avatar:{release}"
    assert node_types()["gpu"]["docker"]["worker_image"] == f"avatar:{release}-cuda"


# README and commands


@pytest.mark.parametrize(
    "command",
    [
        "make run",
        "make test",
        "make bench",
        "docker compose up --build",
        "docker build -t avatar .",
        "docker build -t avatar:cuda --build-arg DEVICE=cuda .",
        "ray up cluster.yaml",
        "ray exec cluster.yaml 'serve deploy configs/prod.yaml'",
    ],
)
def test_readme_gives_the_command(command: str) -> None:
    assert command in readme_commands() or f"`{command}`" in text_of("README.md")


def test_commands_in_the_files_heads_are_the_readmes() -> None:
    commands = readme_commands()
    head = text_of("Dockerfile").split("\n\n")[0]
    builds = [re.sub(r"\s{2,}.*", "", build) for build in re.findall(r"docker build .*", head)]
    assert len(builds) == 2
    assert all(build in commands for build in builds)
    assert "docker compose up --build" in text_of("compose.yaml").splitlines()[0]
    in_compose = re.findall(r"^#\s+(docker compose --profile \w+ up)", text_of("compose.yaml"), re.MULTILINE)
    assert len(in_compose) == 2
    assert all(command in text_of("docs/operations.md") for command in in_compose)


def test_make_targets_of_the_readme_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", text_of("Makefile"), re.MULTILINE))
    prose = text_of("README.md") + text_of("CONTRIBUTING.md")
    named = set(re.findall(r"(?:`|^)make ([a-z]+)", prose, re.MULTILINE))
    assert named
    assert named <= targets


def test_files_that_the_readme_links_exist() -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", text_of("README.md"))
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_readme_explains_every_error_code_of_the_door() -> None:
    codes = set(re.findall(r"`([A-Z]+_\d{4})`", text_of("README.md")))
    assert codes == {code.value for code in ErrorCode}


def test_documents_list_every_variable_and_no_other() -> None:
    documents = text_of("README.md") + text_of("docs/operations.md")
    rows = re.findall(r"^\| ((?:`[A-Z_]+`(?:, )?)+) \|", documents, re.MULTILINE)
    listed = {name for row in rows for name in re.findall(r"`([A-Z_]+)`", row)}
    of_the_document = {"MODEL_TYPE", "VIDEO_FPS", "PARALLEL_PROCESSING"}
    assert listed == secret_variables() | of_the_document | NO_SECRETS - {"AVATAR_TOKENS"}


def test_headings_that_the_readme_links_exist() -> None:
    headings = re.findall(r"^#+ (.+)$", text_of("README.md"), re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    linked = set(re.findall(r"\]\(#([^)]+)\)", text_of("README.md")))
    assert linked
    assert linked - anchors == set()


def test_configs_that_the_readme_names_exist_and_all_are_named() -> None:
    named = set(re.findall(r"configs/[a-z]+\.yaml", text_of("README.md")))
    assert named == {f"configs/{path.name}" for path in (ROOT / "configs").glob("*.yaml")}


SCRIPTS = [".ci/run", *(f"scripts/{path.name}" for path in sorted((ROOT / "scripts").iterdir()))]


@pytest.mark.parametrize("script", SCRIPTS)
def test_script_is_executable_and_parses(script: str) -> None:
    assert os.access(ROOT / script, os.X_OK)
    assert "set -euo pipefail" in text_of(script)
    subprocess.run(["bash", "-n", ROOT / script], check=True)


def test_scripts_and_targets_of_the_operations_document_exist() -> None:
    commands = shell_of("docs/operations.md")
    named = set(re.findall(r"^(scripts/[\w-]+)", commands, re.MULTILINE))
    assert named >= {"scripts/kuberay-manifests", "scripts/prometheus-rule", "scripts/scan-image"}
    assert named <= set(SCRIPTS)
    targets = set(re.findall(r"^([a-z]+):", text_of("Makefile"), re.MULTILINE))
    assert set(re.findall(r"^make ([a-z]+)", commands, re.MULTILINE)) <= targets
