"""The Kubernetes manifests agree with Serve, the configuration, cluster.yaml and the image.

No cluster is asked; structure, references and figures are checked by reading.
"""

from __future__ import annotations

import json
import re
from functools import cache
from importlib.metadata import version
from typing import Any

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from serve_app.config import AppConfig
from tests.deployment import (
    ROOT,
    app_config,
    gpu_animators,
    printed,
    project,
    ray_variables_of,
    replicas,
    text_of,
    yaml_of,
)

pytestmark = pytest.mark.unit

KUBERAY = "configs/kuberay"
PROD = "configs/prod.yaml"
RUNBOOK = "docs/operations.md"


@cache
def printed_manifests() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(printed("scripts/kuberay-manifests")))


@cache
def manifests() -> list[dict[str, Any]]:
    """All documents of the folder, the RayService as it is printed."""
    others = "---\n".join(text_of(f"{KUBERAY}/{name}.yaml") for name in ("models", "monitoring"))
    return [*printed_manifests(), *yaml.safe_load_all(others)]


def ray_service() -> dict[str, Any]:
    (found,) = [one for one in printed_manifests() if one["kind"] == "RayService"]
    return found


def cluster() -> dict[str, Any]:
    config: dict[str, Any] = ray_service()["spec"]["rayClusterConfig"]
    return config


def groups() -> dict[str, dict[str, Any]]:
    """The head as "head", and the worker groups by name."""
    workers = {group["groupName"]: group for group in cluster()["workerGroupSpecs"]}
    return {"head": cluster()["headGroupSpec"], **workers}


def pods() -> dict[str, dict[str, Any]]:
    """Every pod's specification, by what makes it."""
    found = {f"ray {name}": group["template"]["spec"] for name, group in groups().items()}
    for one in manifests():
        if one["kind"] in {"StatefulSet", "Job"}:
            found[one["metadata"]["name"] + " " + one["kind"]] = one["spec"]["template"]["spec"]
    return found


def container(group: str) -> dict[str, Any]:
    (only,) = groups()[group]["template"]["spec"]["containers"]
    mapping: dict[str, Any] = only
    return mapping


def variables(group: str) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in container(group)["env"]}


# Serve


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "configs").glob("*.yaml")))
def test_serve_and_the_application_take_every_configuration(name: str) -> None:
    document = yaml_of(f"configs/{name}")
    deployed = ServeDeploySchema.model_validate(document)
    assert [application.import_path for application in deployed.applications] == ["serve_app.main:build"]
    AppConfig.model_validate(document["applications"][0]["args"])


def test_serve_configuration_inside_is_all_of_prods() -> None:
    inside = yaml.safe_load(ray_service()["spec"]["serveConfigV2"])
    assert inside == yaml_of(PROD)
    ServeDeploySchema.model_validate(inside)


def test_another_configuration_can_be_put_inside() -> None:
    documents = yaml.safe_load_all(printed("scripts/kuberay-manifests", "configs/bench.yaml"))
    (found,) = [one for one in documents if one["kind"] == "RayService"]
    assert yaml.safe_load(found["spec"]["serveConfigV2"]) == yaml_of("configs/bench.yaml")


def test_old_clusters_live_as_long_as_their_longest_session() -> None:
    assert ray_service()["spec"]["rayClusterDeletionDelaySeconds"] >= app_config(PROD).session.max_duration_s


def test_ray_is_the_version_that_the_image_has() -> None:
    assert cluster()["rayVersion"] == version("ray")


# Pods


@pytest.mark.parametrize("name", pods())
def test_pod_runs_without_root_and_writes_to_volumes_alone(name: str) -> None:
    for one in pods()[name]["containers"]:
        context = one["securityContext"]
        assert context["runAsNonRoot"]
        assert context["runAsUser"] > 0
        assert context["readOnlyRootFilesystem"]
        assert not context["allowPrivilegeEscalation"]
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert one["resources"]["requests"]["memory"]
        assert one["resources"]["limits"]["memory"]


@pytest.mark.parametrize("name", pods())
def test_mounted_volumes_exist(name: str) -> None:
    claims: list[dict[str, Any]] = [
        claim
        for one in manifests()
        if one["kind"] == "StatefulSet"
        for claim in one["spec"].get("volumeClaimTemplates", [])
    ]
    volumes = {volume["name"] for volume in pods()[name].get("volumes", [])}
    volumes |= {claim["metadata"]["name"] for claim in claims}
    mounted = {mount["name"] for one in pods()[name]["containers"] for mount in one["volumeMounts"]}
    assert mounted <= volumes


def test_ray_pods_run_the_images_user_and_can_write_where_the_image_says() -> None:
    dockerfile = text_of("Dockerfile")
    uid = re.search(r"useradd --create-home --uid (\d+)", dockerfile)
    writable = re.search(r"install --directory [^\n]*\\\n\s*([^\n]+)", dockerfile)
    assert uid
    assert writable
    needed = {path if path.startswith("/") else f"/app/{path}" for path in writable[1].split()}
    for name in groups():
        assert container(name)["securityContext"]["runAsUser"] == int(uid[1])
        mounts = [
            mount["mountPath"] for mount in container(name)["volumeMounts"] if not mount.get("readOnly")
        ]
        assert {
            path
            for path in needed - {"/app/temp_audio"}
            if not any(path == mount or path.startswith(f"{mount}/") for mount in mounts)
        } == set()


def test_secrets_are_named_and_nowhere_written() -> None:
    for name in groups():
        assert container(name)["envFrom"] == [{"secretRef": {"name": "avatar-secrets"}}]
    commands = text_of(RUNBOOK)
    for secret in ("avatar-secrets", "avatar-redis"):
        assert f"kubectl create secret generic {secret} " in commands
    text = "".join(path.read_text() for path in (ROOT / KUBERAY).iterdir())
    assert set(re.findall(r"secretKeyRef: \{name: ([\w-]+), key: (\w+)\}", text)) == {
        ("avatar-redis", "password")
    }
    assert "--from-literal=password=" in commands


def test_images_carry_the_projects_version_and_gpu_nodes_have_cuda() -> None:
    release = project()["version"]
    images = {name: container(name)["image"] for name in groups()}
    assert images == {
        "head": f"avatar:{release}",
        "media": f"avatar:{release}",
        "gpu": f"avatar:{release}-cuda",
    }
    assert pods()["avatar-models Job"]["containers"][0]["image"] == images["gpu"]


def test_image_has_what_kuberays_probes_call() -> None:
    assert re.search(r"apt-get install .*\bwget\b", text_of("Dockerfile"))


# Ray's nodes


def test_every_node_has_the_variables_of_the_other_cluster() -> None:
    expected = ray_variables_of(text_of("cluster.yaml"))
    assert expected
    for name in groups():
        ours = {key: value for key, value in variables(name).items() if key.startswith("RAY_")}
        assert ours == expected, name


def test_state_of_the_head_is_kept_in_the_redis_beside_it() -> None:
    options = cluster()["gcsFaultToleranceOptions"]
    (service,) = [one for one in manifests() if one["kind"] == "Service"]
    (redis,) = [one for one in manifests() if one["kind"] == "StatefulSet"]
    port = service["spec"]["ports"][0]["port"]
    assert options["redisAddress"] == f"{service['metadata']['name']}:{port}"
    labels = redis["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"] == labels == redis["spec"]["selector"]["matchLabels"]
    (password,) = redis["spec"]["template"]["spec"]["containers"][0]["env"]
    assert password["valueFrom"] == options["redisPassword"]["valueFrom"]


def test_node_groups_are_those_of_the_other_cluster() -> None:
    types = yaml_of("cluster.yaml")["available_node_types"]
    assert groups().keys() == types.keys()
    for name in ("media", "gpu"):
        group, other = groups()[name], types[name]
        assert (group["minReplicas"], group["maxReplicas"]) == (other["min_workers"], other["max_workers"])
        assert group["replicas"] == group["minReplicas"]
        assert resources_of(name) == other["resources"]


def resources_of(group: str) -> dict[str, float]:
    """What Ray is told that a node has."""
    start = groups()[group]["rayStartParams"]
    custom = json.loads(json.loads(start["resources"])) if "resources" in start else {}
    found = {"CPU": int(start["num-cpus"]), **custom}
    return {**found, "GPU": int(start["num-gpus"])} if "num-gpus" in start else found


def test_head_does_no_work_and_takes_no_traffic() -> None:
    assert groups()["head"]["rayStartParams"]["num-cpus"] == "0"
    assert ray_service()["spec"]["excludeHeadPodFromServeSvc"]
    assert cluster()["enableInTreeAutoscaling"]


def test_gpus_that_ray_counts_are_given_to_the_pod() -> None:
    start, limits = groups()["gpu"]["rayStartParams"], container("gpu")["resources"]["limits"]
    assert start["num-gpus"] == limits["nvidia.com/gpu"]
    assert any("num_gpus" in one.ray_actor_options for one in gpu_animators(app_config(PROD)).values())


def test_media_pods_are_reached_at_their_nodes_addresses() -> None:
    spec, config = groups()["media"]["template"]["spec"], app_config(PROD)
    assert spec["hostNetwork"]
    assert spec["dnsPolicy"] == "ClusterFirstWithHostNet"
    assert any(url.startswith("stun:") for server in config.ice.servers for url in server.urls)
    assert config.ice.udp_port_range is not None
    # Declared ports are what keeps a second pod of the host network off a node.
    assert 8765 in {port["containerPort"] for port in container("media")["ports"]}


def test_ports_are_those_that_serve_and_ray_listen_on() -> None:
    serve = yaml_of(PROD)["http_options"]["port"]
    for name in groups():
        named = {port["name"]: port["containerPort"] for port in container(name)["ports"]}
        assert named["serve"] == serve
        assert str(named["metrics"]) == groups()[name]["rayStartParams"]["metrics-export-port"]
        assert f"--metrics-export-port={named['metrics']}" in text_of("cluster.yaml")


def test_prometheus_operator_finds_the_metrics_of_every_ray_pod() -> None:
    (monitor,) = [one for one in manifests() if one["kind"] == "PodMonitor"]
    wanted = monitor["spec"]["selector"]["matchLabels"]
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    for name, group in groups().items():
        assert wanted.items() <= group["template"]["metadata"]["labels"].items()
        assert endpoint["port"] in {port["name"] for port in container(name)["ports"]}


def test_stopping_workers_leave_the_cluster_in_order() -> None:
    for name in ("media", "gpu"):
        assert container(name)["lifecycle"]["preStop"]["exec"]["command"][-1] == "ray stop"
        draining_s = int(variables(name)["RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S"])
        assert groups()[name]["template"]["spec"]["terminationGracePeriodSeconds"] > draining_s


def test_gpu_nodes_find_the_weights_that_the_job_fetches() -> None:
    job = pods()["avatar-models Job"]
    fetched = set(re.findall(r"for name in ([\w ]+);", job["containers"][0]["args"][0])[0].split())
    assert fetched == set(app_config(PROD).animators) - {"portrait", "tracer"}
    folder = {entry["name"]: entry["value"] for entry in job["containers"][0]["env"]}["AVATAR_MODELS"]
    assert variables("gpu")["AVATAR_MODELS"] == folder
    (claim,) = [one for one in manifests() if one["kind"] == "PersistentVolumeClaim"]
    for volumes in (job["volumes"], groups()["gpu"]["template"]["spec"]["volumes"]):
        claimed = [v["persistentVolumeClaim"] for v in volumes if "persistentVolumeClaim" in v]
        assert [one["claimName"] for one in claimed] == [claim["metadata"]["name"]]


def test_a_deployment_in_prods_file_is_one_of_the_applications() -> None:
    from serve_app.animator.client import deployment_name

    known = {"Gateway", *(deployment_name(model) for model in app_config(PROD).animators)}
    named = {one["name"] for one in yaml_of(PROD)["applications"][0].get("deployments", [])}
    assert named <= known


@pytest.mark.parametrize("model", gpu_animators(app_config(PROD)))
def test_a_replica_fits_on_a_gpu_node(model: str) -> None:
    options = app_config(PROD).animators[model].ray_actor_options
    assert options["num_cpus"] <= resources_of("gpu")["CPU"]
    assert options["num_gpus"] <= resources_of("gpu")["GPU"]
    assert replicas(app_config(PROD).animators[model])[1] >= 1
