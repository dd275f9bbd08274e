"""`nli-serve check`: the shipped file passes, and every way to break it is told with its path."""

from __future__ import annotations

import copy
import socket
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from clients.commands import capacity
from clients.commands.capacity import Supply
from clients.commands.check import check
from clients.commands.document import KeyPath, dotted
from deployments.contract.keys import KeyFile, KeyRecord, dump, new_key
from deployments.engines.choice import Machine

FILE = Path(__file__).parent.parent.parent.parent / "serve_config.yaml"
TEXT = FILE.read_text()
LAST = TEXT.count("\n")  # line
SHIPPED = yaml.safe_load(TEXT)
OTHERS = {"node:192.0.2.1": 1.0, "node:__internal_head__": 1.0, "accelerator_type:H100": 1.0, "ssd": 2.0}
MACHINE = Supply("this machine", cpus=8, gpus=2, memory=16 * 2**30, others=OTHERS)
GPUS_OF_NODE = "ray._private.accelerators.NvidiaGPUAcceleratorManager.get_current_node_num_accelerators"
PIP_OPTIONS = {"pip_check": True, "pip_version": "==26.0", "pip_install_options": ["--no-cache-dir"]}
UV_OPTIONS = {"uv_check": True, "uv_version": "==0.9", "uv_pip_install_options": ["--no-cache"]}
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


class Gone:
    """Stands for a key that is taken out."""


GONE = Gone  # for `_changed`: without this key

APP: KeyPath = ("applications", 0)
MODEL: KeyPath = (*APP, "args", "model")
TRUSTED: KeyPath = (*APP, "args", "trusted_proxies")
INGRESS: KeyPath = (*APP, "deployments", 0)
CLASSIFIER: KeyPath = (*APP, "deployments", 1)
GPUS: KeyPath = (*CLASSIFIER, "ray_actor_options", "num_gpus")
OPTIONS: KeyPath = (*CLASSIFIER, "ray_actor_options")
SCALING: KeyPath = (*CLASSIFIER, "autoscaling_config")
HOST: KeyPath = ("http_options", "host")
LIMITS: KeyPath = (*INGRESS, "user_config")
CALLER: KeyPath = (*LIMITS, "caller")
KEYS_FILE: KeyPath = (*APP, "args", "keys_file")
ENGINES = {"torch", "onnxruntime", "onnx", "openvino", "nncf"}
RATE = {"limit": 5, "burst": 10}


def _keys(node: object, path: KeyPath = ()) -> Iterator[KeyPath]:
    """The path of every key of every mapping."""
    if isinstance(node, dict):
        yield from ((*path, key) for key in node)
    for step, inner in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield from _keys(inner, (*path, step))


def _at(data: Any, path: KeyPath) -> Any:
    for step in path:
        data = data[step]
    return data


def _changed(*changes: tuple[KeyPath, object]) -> dict[str, Any]:
    data: dict[str, Any] = copy.deepcopy(SHIPPED)
    for path, value in changes:
        holder = _at(data, path[:-1])
        if value is GONE:
            del holder[path[-1]]
        else:
            holder[path[-1]] = value
    return data


def _check(folder: Path, content: dict[str, Any] | str | bytes, supply: Supply = MACHINE) -> list[str]:
    file = folder / "config.yaml"
    text = yaml.dump(content, Dumper=yaml.CSafeDumper, sort_keys=False) if isinstance(content, dict) else content
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return check(file, lambda _: supply)


KEYS = list(_keys(SHIPPED))
DEPLOYMENTS = _at(SHIPPED, (*APP, "deployments"))
LEAVES = [path for path in KEYS if len(path) > 1 and not isinstance(_at(SHIPPED, path), dict | list)]


def test_the_shipped_file_passes() -> None:
    assert check(FILE, lambda _: Supply("a small machine", cpus=2, gpus=0)) == []


def test_trusted_proxies_pass(tmp_path: Path) -> None:
    assert _check(tmp_path, _changed((TRUSTED, ["10.0.0.0/8", "192.0.2.1", "fd00::/8"]))) == []


@pytest.mark.parametrize("path", KEYS, ids=dotted)
@pytest.mark.parametrize("drop", [0, -1], ids=["first letter", "last letter"])
def test_a_misspelt_key_is_named_with_the_right_one(tmp_path: Path, path: KeyPath, drop: int) -> None:
    key = str(path[-1])
    misspelt = key[1:] if drop == 0 else key[:-1]

    found = _check(tmp_path, _changed((path, GONE), ((*path[:-1], misspelt), _at(SHIPPED, path))))

    assert [line for line in found if dotted((*path[:-1], misspelt)) in line and f"did you mean {key}?" in line], found


@pytest.mark.parametrize("path", LEAVES, ids=dotted)
def test_a_key_at_the_top_level_that_belongs_further_down_is_refused(tmp_path: Path, path: KeyPath) -> None:
    found = _check(tmp_path, _changed((path, GONE), ((path[-1],), _at(SHIPPED, path))))

    assert [line for line in found if f": {path[-1]}: unknown key; " in line], found


@pytest.mark.parametrize(
    ("path", "place"),
    [
        (("host",), "http_options"),
        ((*CLASSIFIER, "num_gpus"), "applications[].deployments[].ray_actor_options"),
        ((*APP, "max_batch_tokens"), "applications[].deployments[Classifier].user_config"),
        ((*LIMITS, "max_batch_tokens"), "applications[].deployments[Classifier].user_config"),
        ((*CLASSIFIER, "user_config", "caller"), "applications[].deployments[Ingress].user_config"),
        ((*LIMITS, "max_concurrent"), "applications[].deployments[Ingress].user_config.caller"),
        ((*APP, "args", "device"), "applications[].args.model"),
        ((*MODEL, "auth"), "applications[].args"),
        ((*APP, "port"), "http_options or grpc_options"),  # Serve's schema still has it there, to refuse it
    ],
    ids=str,
)
def test_a_misplaced_key_is_told_where_it_belongs(tmp_path: Path, path: KeyPath, place: str) -> None:
    found = _check(tmp_path, _changed((path, 1)))

    assert [line for line in found if f"{dotted(path)}: unknown key; belongs under {place}" in line], found


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        # Unknown keys where nothing near is known, and keys in another case.
        (
            (*APP, "args", "zzz"),
            1,
            "unknown key; allowed: auth, keys_file, model, caps, deadline, allowed_hosts, trusted",
        ),
        ((*CLASSIFIER, "user_config", "zzz"), 1, "unknown key; allowed: max_batch_tokens"),
        (("HTTP_OPTIONS",), {}, "unknown key; did you mean http_options?"),
        (("max_batch_token",), 1, "did you mean max_batch_tokens under applications[].deployments[Classifier]"),
        ((*LIMITS, "tierz"), {}, "unknown key; did you mean tiers?"),
        ((*LIMITS, "tiers"), {"gold": {"pair": None}}, "user_config.tiers.gold.pair: unknown key; did you mean pairs?"),
        ((*LIMITS, "tiers"), {"a": {"requests": {**RATE, "brust": 1}}}, "tiers.a.requests.brust: unknown key; did you"),
        (("controller_options",), {"runtime_env": {"env_var": {}}}, "disallowed keys ['env_var']"),
        ((*APP, "autoscaling_policy"), {"policy_functio": "a:b"}, "did you mean policy_function?"),
        ((*CLASSIFIER, "request_router_config"), {"request_router_clas": "a:b"}, "did you mean request_router_class?"),
        ((*CLASSIFIER, "ray_actor_options", "runtime_env"), {"pipp": []}, "did you mean pip?"),
        ((*CLASSIFIER, "ray_actor_options", "runtime_env"), {"env_vars": {"HF_HUB_OFLINE": "1"}}, "HF_HUB_OFFLINE?"),
        ((*APP, "runtime_env", "env_vars", "hf_hub_offline"), "1", "did you mean HF_HUB_OFFLINE?"),
        # Types and ranges: Serve's own, ours, and what Serve checks only when a replica fails.
        (("http_options", "port"), "8000", "should be a valid integer, got '8000'"),
        (("http_options", "port"), 65_536, "65536; expected 1 to 65535"),
        (
            TRUSTED,
            ["10.0.0.1/8"],
            "'10.0.0.1/8' is an address inside a network; write 10.0.0.0/8, or the address alone",
        ),
        (TRUSTED, ["10.0.0.0/8", 10], "10 is no network; expected an address or a network, such as 10.0.0.0/8"),
        (TRUSTED, ["::/0"], "'::/0' would trust everybody"),
        (TRUSTED, "10.0.0.0/8", "should be a valid array, got '10.0.0.0/8'"),
        (("logging_config",), [], "expected a mapping, got a list"),
        (("proxy_location",), "headonly", "should be 'Disabled', 'HeadOnly' or 'EveryNode', got 'headonly'"),
        ((*APP, "args"), None, "should be an object, got None"),
        ((*APP, "args", "auth"), False, "put it in quotes"),
        ((*APP, "args", "keys_file"), "keys.json", "args.keys_file is 'keys.json'; it must be absolute"),
        ((*MODEL, "revision"), "main", "String should match pattern"),
        ((*CLASSIFIER, "user_config", "max_batch_tokens"), 0, "should be greater than 0, got 0"),
        ((*CLASSIFIER, "user_config"), [4096], "expected a mapping, got a list"),
        (LIMITS, [20], "user_config: expected a mapping, got a list"),
        ((*CALLER, "requests", "limit"), 0, "should be greater than 0, got 0"),
        ((*CALLER, "requests", "burst"), -1, "should be greater than 0, got -1"),
        ((*CALLER, "requests", "burst"), GONE, "required, but not there"),
        ((*CALLER, "requests", "window_s"), 0.5, "should be a valid integer, got 0.5"),
        ((*CALLER, "requests"), [20], "expected a mapping, got a list"),
        ((*CALLER, "requests"), 20, "expected a mapping, got 20"),
        (CALLER, None, "should be an object, got None"),
        ((*LIMITS, "tiers"), ["gold"], "expected a mapping, got a list"),
        ((*LIMITS, "tiers"), {"gold": 5}, "tiers.gold: expected a mapping, got 5"),
        ((*LIMITS, "tiers"), {"very gold": {}}, "tiers.very gold: String should match pattern"),
        ((*LIMITS, "tiers"), {7: {}}, "tiers.7: should be a name, got 7; put it in quotes"),
        (SCALING, {"min_replica": 1}, "did you mean min_replicas?"),
        (SCALING, {"min_replicas": 3, "max_replicas": 2}, "greater than or equal to"),
        ((*CLASSIFIER, "request_router_config"), {"request_router_class": 1}, "should be a valid string, got 1"),
        (
            (*APP, "deployments"),
            [*DEPLOYMENTS, None],
            "expected a mapping, got nothing",
        ),  # Serve's validators stumble over it
        ((*APP, "runtime_env", "env_vars", "HF_HUB_OFFLINE"), 1, "should be a string, got 1; put it in quotes"),
        # The graph.
        ((*APP, "import_path"), "deployments.graph:app", "expected deployments.graph:build"),
        ((*APP, "import_path"), GONE, "required, but not there"),
        ((*APP, "route_prefix"), "/nli", "'/nli'; expected /"),
        ((*APP, "route_prefix"), None, "None; expected /"),
        ((*CLASSIFIER, "name"), "Clasifier", "no deployment 'Clasifier' in the graph; did you mean Classifier?"),
        (("applications",), [], "0 applications, expected exactly one"),
        (("applications",), SHIPPED["applications"] * 2, "2 applications, expected exactly one"),
        (("applications",), [None], "expected a mapping, got nothing"),
        (("applications",), GONE, "required, but not there"),
        # What this service does not do.
        ((*CLASSIFIER, "placement_group_bundles"), [{"CPU": 1}], "not supported, as a replica of this service is one"),
        ((*CLASSIFIER, "placement_group_strategy"), "PACK", "remove it and use ray_actor_options"),
        ((*CLASSIFIER, "placement_group_bundle_label_selector"), [{"a": "b"}], "remove it and use ray_actor_options"),
        ((*CLASSIFIER, "gang_scheduling_config"), {"gang_size": 1}, "remove it and use ray_actor_options"),
        ((*CLASSIFIER, "gang_scheduling_config"), "x", "remove it and use ray_actor_options"),
        ((*INGRESS, "deployment_actors"), [{"name": "a", "actor_class": "b:C"}], "remove it and use ray_actor_options"),
        ((*OPTIONS, "label_selector"), {"zone": "a"}, "remove it and use resources or accelerator_type"),
        ((*OPTIONS, "fallback_strategy"), [{"label_selector": {"zone": "a"}}], "remove it and use resources"),
        (("target_capacity",), 0, "0 percent of the replicas is none, so nothing would run; remove it"),
        (("proxy_location",), "Disabled", "nobody could call the service; set HeadOnly or EveryNode"),
        (("http_options", "root_path"), "/nli", "'/nli', but the service owns the whole of its port; remove it"),
        (("http_options", "request_timeout_s"), 5, "answers in plain text; remove it and set args.deadline.max_s"),
        (("http_options", "ssl_keyfile"), "/nowhere.pem", "'/nowhere.pem' names no file on this machine"),
        (("http_options", "ssl_certfile"), "/nowhere.pem", "'/nowhere.pem' names no file on this machine"),
        (("http_options", "ssl_ca_certs"), "/nowhere.pem", "'/nowhere.pem' names no file on this machine"),
        (("http_options", "ssl_keyfile"), str(FILE), "without ssl_certfile Serve speaks plain HTTP"),
        # The processes of the replicas, and code that the file names.
        ((*APP, "runtime_env", "env_vars"), "x", "expected a mapping of names to strings, got 'x'"),
        ((*APP, "runtime_env", "env_vars"), None, "expected a mapping of names to strings, got None"),
        ((*APP, "runtime_env", "pip"), 5, "runtime_env['pip'] must be of type str or List[str], got <class 'int'>"),
        ((*OPTIONS, "runtime_env"), {"pip": 5}, "runtime_env['pip'] must be of type str or List[str]"),
        ((*APP, "runtime_env", "working_dir"), 5, "`working_dir` must be a string, got <class 'int'>"),
        ((*APP, "runtime_env", "pip"), {"packagess": []}, "did you mean packages?"),
        ((*APP, "runtime_env", "uv"), {"packages": ["a"], "uv_versio": "1"}, "did you mean uv_version?"),
        ((*APP, "runtime_env", "config"), {"eager_instal": True}, "did you mean eager_install?"),
        ((*OPTIONS, "runtime_env"), {"pip": ["a"], "uv": ["b"]}, "cannot be specified at the same time"),
        (SCALING, {"policy": {"policy_function": "nowhere:scale"}}, "No module named"),
        (SCALING, {"policy": {"policy_function": "os:scale"}}, "no attribute 'scale'"),
        (SCALING, {"policy": {"policy_function": "os:sep"}}, "nothing that can be called"),
        ((*CLASSIFIER, "request_router_config"), {"request_router_class": "nowhere:Router"}, "No module named"),
        ((*APP, "autoscaling_policy"), {"policy_function": "nowhere:scale"}, "cannot be imported: ModuleNotFoundError"),
        # The open door.
        (HOST, "0.0.0.0", "'0.0.0.0' lets other machines in while args.auth is off"),
        (HOST, "::", "'::' lets other machines in"),
        (HOST, "", "'' lets other machines in"),
        (HOST, "nli.example.org", "lets other machines in"),
        (HOST, GONE, "'0.0.0.0' lets other machines in"),
        (("http_options",), GONE, "'0.0.0.0' lets other machines in"),
        # Who refuses first.
        ((*INGRESS, "max_ongoing_requests"), 1024, "1024 for the Ingress, but args.caps.max_in_flight is 1024"),
        ((*INGRESS, "max_ongoing_requests"), GONE, "5 for the Ingress, but args.caps.max_in_flight is 1024"),
        # Limits that say what cannot be.
        ((*CALLER, "pairs", "burst"), 4095, "4095, but args.caps.max_pairs lets a request of 4096 pairs in"),
        ((*LIMITS, "service"), {"pairs": {**RATE, "burst": 9}}, "service.pairs.burst: 9, but args.caps.max_pairs lets"),
        ((*CALLER, "max_concurrent"), 1025, "1025, but args.caps.max_in_flight is 1024 for all callers together"),
        ((*LIMITS, "tiers"), {"a": {"max_concurrent": 1025}}, "tiers.a.max_concurrent: 1025, but args.caps.max_in_fl"),
        # Devices.
        ((*MODEL, "device"), "cuda", "cuda, but the Classifier has no num_gpus"),
        ((*MODEL, "precision"), "fp16", "fp16 is computed on a GPU only, but the Classifier has no num_gpus"),
        (GPUS, 1.5, "a fraction of one GPU, or whole GPUs"),
        (GPUS, -1, "should be greater than or equal to 0, got -1"),
        (GPUS, float("nan"), "should be greater than or equal to 0, got nan"),
        (GPUS, float("inf"), "a fraction of one GPU, or whole GPUs"),
        # Capacity, of 8 CPUs and 2 GPUs.
        (GPUS, 3, "1 replicas of 3 need 3 GPUs (a replica never spans two), this machine has 2"),
        ((*CLASSIFIER, "num_replicas"), 8, "ask for 8.1 CPUs together (Ingress 1 x 0.1, Classifier 8 x 1)"),
        (SCALING, {"min_replicas": 8, "max_replicas": 9}, "Classifier 8 x 1"),
        (SCALING, {"initial_replicas": 8, "max_replicas": 9}, "Classifier 8 x 1"),
        ((*OPTIONS, "memory"), 1e18, "GiB together (Ingress 1 x 0, Classifier 1 x 9.313e+08), this machine has 16 GiB"),
        ((*OPTIONS, "resources"), {"tpu": 1}, "the deployments ask for 1 tpu together, this machine has 0; remove it"),
        ((*OPTIONS, "resources"), {"ssd": 3}, "the deployments ask for 3 ssd together, this machine has 2; remove it"),
        ((*OPTIONS, "resources"), {"ssd": "1"}, "should be a number, 0 or more, got '1'"),
        ((*OPTIONS, "resources"), {"ssd": -1}, "should be a number, 0 or more, got -1"),
        ((*OPTIONS, "accelerator_type"), "Z100", "this machine has no 'Z100'; allowed: H100"),
    ],
    ids=str,
)
def test_refuses(tmp_path: Path, path: KeyPath, value: object, said: str) -> None:
    data = _changed((path, value), *([((*CLASSIFIER, "num_replicas"), "auto")] if "autoscaling_config" in path else []))

    found = _check(tmp_path, data)

    assert len(found) == 1, found
    assert said in found[0]
    assert dotted(path[:4]) in found[0]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("target_capacity",), 50),
        (("http_options", "root_path"), ""),
        (("http_options", "request_timeout_s"), None),
        ((*CLASSIFIER, "gang_scheduling_config"), None),
        ((*OPTIONS, "label_selector"), None),
        ((*OPTIONS, "memory"), 2**30),
        ((*OPTIONS, "resources"), {"ssd": 2, "node:__internal_implicit_resource_a": 1}),
        ((*OPTIONS, "accelerator_type"), "H100"),
        ((*APP, "args", "caps"), {"max_in_flight": 2047}),
        (LIMITS, GONE),
        (LIMITS, None),
        (LIMITS, {}),
        ((*LIMITS, "tiers"), {"gold": {}, "small": {"requests": None, "pairs": RATE, "max_concurrent": 1024}}),
        ((*LIMITS, "service"), {"requests": RATE}),
        ((*CALLER, "pairs", "burst"), 4096),
        ((*APP, "runtime_env", "pip"), ["numpy"]),
        *[((*APP, "runtime_env", "pip"), {"packages": ["numpy"], key: value}) for key, value in PIP_OPTIONS.items()],
        *[((*APP, "runtime_env", "uv"), {"packages": ["numpy"], key: value}) for key, value in UV_OPTIONS.items()],
    ],
    ids=str,
)
def test_accepts(tmp_path: Path, path: KeyPath, value: object) -> None:
    assert _check(tmp_path, _changed((path, value))) == []


def test_a_deployment_that_is_configured_twice_is_told(tmp_path: Path) -> None:
    (found,) = _check(tmp_path, _changed(((*APP, "deployments"), [*DEPLOYMENTS, DEPLOYMENTS[0]])))

    assert "applications[0].deployments[2].name: 'Ingress' is configured twice" in found


def test_a_user_config_is_held_against_the_deployment_of_its_name(tmp_path: Path) -> None:
    assert _check(tmp_path, _changed(((*APP, "deployments"), DEPLOYMENTS[::-1]))) == []

    found = _check(tmp_path, _changed((LIMITS, _at(SHIPPED, (*CLASSIFIER, "user_config")))))

    assert len(found) == len(_at(SHIPPED, (*CLASSIFIER, "user_config")))
    assert all(line.endswith("belongs under applications[].deployments[Classifier].user_config") for line in found)


def test_too_many_tiers_are_told_without_repeating_them(tmp_path: Path) -> None:
    (found,) = _check(tmp_path, _changed(((*LIMITS, "tiers"), {f"t{n}": {} for n in range(101)})))

    assert found.endswith("tiers: Dictionary should have at most 100 items after validation, not more")


def test_a_limit_is_told_with_its_line(tmp_path: Path) -> None:
    (found,) = _check(tmp_path, TEXT.replace("burst: 8192", "burst: 9"))

    line = next(n for n, text in enumerate(TEXT.splitlines(), 1) if "burst: 8192" in text)
    assert found.startswith(f"config.yaml:{line}: {dotted((*CALLER, 'pairs', 'burst'))}: 9, but")


def test_the_default_burst_is_too_small_for_a_high_cap(tmp_path: Path) -> None:
    (found,) = _check(tmp_path, _changed(((*APP, "args", "caps"), {"max_pairs": 8193}), (LIMITS, GONE)))

    assert f"{dotted((*CALLER, 'pairs', 'burst'))}: 8192, but args.caps.max_pairs lets a request of 8193" in found


def test_the_default_of_max_concurrent_need_not_follow_a_low_cap(tmp_path: Path) -> None:
    data = _changed(((*APP, "args", "caps"), {"max_in_flight": 10}), ((*CALLER, "max_concurrent"), GONE))

    assert _check(tmp_path, data) == []


# API keys.


def _with_keys(folder: Path, *keys: KeyRecord, tiers: tuple[str, ...] = (), host: str = "0.0.0.0") -> list[str]:
    file = folder / "keys.json"
    file.write_text(dump(KeyFile(keys=keys)))
    return _check(folder, _required(file, tiers, host))


def _required(file: Path, tiers: tuple[str, ...] = (), host: str = "127.0.0.1") -> dict[str, Any]:
    auth = ((*APP, "args", "auth"), "required"), (KEYS_FILE, str(file))
    return _changed(*auth, (HOST, host), ((*LIMITS, "tiers"), {tier: {} for tier in tiers}))


def _key(tier: str | None = None, **changes: object) -> KeyRecord:
    return new_key("acme", tier, now=LONG_AGO)[0].model_copy(update=changes)


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1"])
def test_a_key_file_is_accepted_whoever_can_connect(tmp_path: Path, host: str) -> None:
    assert _with_keys(tmp_path, _key(), _key("gold"), tiers=("gold",), host=host) == []


def test_a_key_file_that_is_not_there_is_told_with_the_command_that_makes_it(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"

    (found,) = _check(tmp_path, _required(file))

    assert f"{dotted(KEYS_FILE)}: there is no {file}; make it with `nli-serve keys create --file {file}" in found


@pytest.mark.parametrize(
    ("content", "why"), [("{", "Invalid JSON"), ('{"keys": [{"id": "x"}]}', "keys[0].id: String should match")]
)
def test_a_broken_key_file_is_told_with_its_mistake(tmp_path: Path, content: str, why: str) -> None:
    file = tmp_path / "keys.json"
    file.write_text(content)

    (found,) = _check(tmp_path, _required(file))

    assert f"{dotted(KEYS_FILE)}: {file} cannot be used: {why}" in found
    assert f"make a new one with `nli-serve keys create --file {file} --tenant NAME`" in found


@pytest.mark.parametrize(("name", "why"), [("", "Is a directory"), ("keys\0", "embedded null byte")])
def test_a_key_file_that_cannot_be_read_is_told(tmp_path: Path, name: str, why: str) -> None:
    (found,) = _check(tmp_path, _required(tmp_path / name))

    assert f"cannot be used: {why}; mend it, or move it away" in found


def test_a_key_file_is_not_looked_at_while_auth_is_off(tmp_path: Path) -> None:
    assert _check(tmp_path, _changed((KEYS_FILE, str(tmp_path / "keys.json")))) == []


def test_a_tier_that_only_keys_know_is_told_once_with_their_ids(tmp_path: Path) -> None:
    one, other = _key("gold"), _key("gold")

    (found,) = _with_keys(tmp_path, _key("silver"), one, other, tiers=("silver",))

    assert f"{dotted((*LIMITS, 'tiers', 'gold'))}: not there, but {tmp_path / 'keys.json'} has it" in found
    assert f"as the tier of {one.id}, {other.id}; add it" in found


def test_keys_that_open_no_door_need_no_tier(tmp_path: Path) -> None:
    assert _with_keys(tmp_path, _key("gold", disabled=True), _key("gold", expires=LONG_AGO)) == []


def test_the_ingress_needs_room_beyond_the_cap_of_the_file(tmp_path: Path) -> None:
    (found,) = _check(tmp_path, _changed(((*APP, "args", "caps"), {"max_in_flight": 2048})))

    assert "2048 for the Ingress, but args.caps.max_in_flight is 2048" in found
    assert "set more than 2048, or lower the cap" in found


def test_a_file_without_the_ingress_leaves_it_serves_five_requests(tmp_path: Path) -> None:
    (found,) = _check(tmp_path, _changed(((*APP, "deployments"), DEPLOYMENTS[1:])))

    assert "deployments.max_ongoing_requests: 5 for the Ingress" in found


def test_a_pair_of_tls_files_is_accepted(tmp_path: Path) -> None:
    pair = [(("http_options", key), str(FILE)) for key in ("ssl_keyfile", "ssl_certfile", "ssl_ca_certs")]

    assert _check(tmp_path, _changed(*pair)) == []


def test_a_policy_beside_the_file_can_be_imported(tmp_path: Path) -> None:
    (tmp_path / "policy_beside_the_file.py").write_text("def scale(context): return 1, {}\n")
    scaling = {"min_replicas": 1, "policy": {"policy_function": "policy_beside_the_file:scale"}}
    before = list(sys.path)

    found = _check(tmp_path, _changed((SCALING, scaling), ((*CLASSIFIER, "num_replicas"), "auto")))

    assert (found, sys.path) == ([], before)


def test_a_policy_that_cannot_be_imported_hides_no_other_problem(tmp_path: Path) -> None:
    scaling = {"min_replicas": "1", "policy": {"policy_function": "mypolicy:scale"}}
    data = _changed((("http_options", "port"), "8000"), (SCALING, scaling), ((*CLASSIFIER, "num_replicas"), "auto"))

    found = _check(tmp_path, data)

    assert [line.split(": ")[1] for line in found] == [
        "http_options.port",
        dotted((*SCALING, "min_replicas")),
        dotted((*SCALING, "policy", "policy_function")),
    ]


def test_a_policy_that_the_application_brings_with_it_is_left_to_the_cluster(tmp_path: Path) -> None:
    policy = ((*APP, "autoscaling_policy"), {"policy_function": "nowhere:scale"})

    assert _check(tmp_path, _changed(policy, ((*APP, "runtime_env", "pip"), ["nowhere"]))) == []


def test_what_makes_a_validator_of_serve_stumble_is_never_sound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clients.commands.check.runtime_env.wrong_runtime_envs", lambda _: [])

    (found,) = _check(tmp_path, _changed(((*APP, "runtime_env", "py_modules"), 5)))

    assert "ServeDeploySchema cannot be read from it: " in found


def test_resources_that_are_not_known_refuse_nothing(tmp_path: Path) -> None:
    data = _changed(((*OPTIONS, "resources"), {"tpu": 1}), ((*OPTIONS, "accelerator_type"), "Z100"))

    assert _check(tmp_path, data, Supply("somewhere", cpus=8)) == []


def test_a_cpu_among_the_custom_resources_is_told_where_it_belongs(tmp_path: Path) -> None:
    found = _check(tmp_path, _changed(((*OPTIONS, "resources"), {"CPU": 1})))

    assert "not a custom resource; use ray_actor_options.num_cpus" in found[0]


@pytest.mark.parametrize(("most", "replicas", "fits"), [(1, 1, True), (1, 2, False), (2, 2, True)])
def test_replicas_need_as_many_nodes_as_they_may_not_share(
    tmp_path: Path, most: int, replicas: int, fits: bool
) -> None:
    found = _check(
        tmp_path, _changed(((*CLASSIFIER, "max_replicas_per_node"), most), ((*CLASSIFIER, "num_replicas"), replicas))
    )

    assert (found == []) == fits, found


def test_an_accelerator_type_counts_the_gpus_of_this_machine(tmp_path: Path) -> None:
    asked: list[bool] = []
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(_changed(((*OPTIONS, "accelerator_type"), "H100"))))

    check(file, lambda needs_gpus: asked.append(needs_gpus) or MACHINE)  # type: ignore[func-returns-value]

    assert asked == [True]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_accepts_a_loopback_host(tmp_path: Path, host: str) -> None:
    assert _check(tmp_path, _changed((HOST, host))) == []


@pytest.mark.parametrize(
    ("gpus", "replicas", "fits"),
    [
        *[(1, 2, True), (1, 3, False), (2, 1, True), (2, 2, False)],
        *[(0.6, 2, True), (0.6, 3, False), (0.5, 4, True), (0.5, 5, False), (0.4, 4, True), (0.4, 5, False)],
        *[(0.3, 6, True), (0.3, 7, False), (1 / 93, 186, True), (1 / 93, 187, False), (1e-320, 1, True)],
    ],
)
def test_replicas_share_a_gpu_but_never_span_two(tmp_path: Path, gpus: float, replicas: int, fits: bool) -> None:
    data = _changed((GPUS, gpus), ((*CLASSIFIER, "num_replicas"), replicas))

    found = _check(tmp_path, data, Supply("this machine", cpus=1_000, gpus=2))

    assert (found == []) == fits, found


@pytest.mark.parametrize(
    ("changes", "packages", "key", "message"),
    [
        (
            {"engine": "onnx"},
            {"torch"},
            "engine",
            "onnx-fp32 needs onnxruntime and onnx, not installed here; pip install",
        ),
        ({"precision": "int8"}, {"torch"}, "precision", "openvino-int8 needs openvino and nncf, not installed here"),
        ({"precision": "int8"}, ENGINES, "precision", "openvino-int8 needs a CPU with one of amx_int8"),
    ],
)
def test_an_engine_that_this_machine_lacks_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], packages: set[str], key: str, message: str
) -> None:
    monkeypatch.setattr("clients.commands.check.this_machine", lambda: Machine(frozenset(packages), frozenset()))

    (found,) = _check(tmp_path, _changed(*(((*MODEL, field), value) for field, value in changes.items())))

    assert f"{dotted((*MODEL, key))}: the engine {message}" in found


def test_a_gpu_for_an_engine_of_the_cpu_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clients.commands.check.this_machine", lambda: Machine(frozenset(ENGINES), frozenset()))

    (found,) = _check(tmp_path, _changed((GPUS, 0.25), ((*MODEL, "engine"), "onnx")))

    assert f"{dotted(MODEL)}: onnx-fp32 computes on the CPU, but the Classifier has num_gpus: 0.25" in found


def test_an_engine_that_does_not_compute_in_a_precision_is_refused(tmp_path: Path) -> None:
    (found,) = _check(tmp_path, _changed(((*MODEL, "engine"), "torch"), ((*MODEL, "precision"), "int8")))

    assert (
        "'torch' does not compute in int8; set model.engine to openvino, or model.precision to fp32 or bf16 or fp16"
        in found
    )


@pytest.mark.parametrize("changes", [[(GPUS, 0.25)], [(GPUS, 0.25), ((*MODEL, "device"), "cuda")]])
def test_fp16_on_a_share_of_a_gpu_is_let_in(tmp_path: Path, changes: list[tuple[KeyPath, object]]) -> None:
    assert _check(tmp_path, _changed(*changes, ((*MODEL, "precision"), "fp16"))) == []


def test_the_embedded_model_has_a_precision_of_its_own(tmp_path: Path) -> None:
    named: list[tuple[KeyPath, object]] = [
        ((*MODEL, "name"), "embedded"),
        ((*MODEL, "revision"), None),
        ((*MODEL, "precision"), "fp16"),
    ]

    assert _check(tmp_path, _changed(*named)) == []


@pytest.mark.parametrize(
    ("key", "value", "advice"),
    [
        ("device", "cpu", "set model.precision: fp32 or bf16, or model.device: auto and num_gpus of the Classifier"),
        ("engine", "onnx", "set model.engine to torch, or model.precision to fp32"),
        ("engine", "openvino", "set model.engine to torch, or model.precision to fp32 or bf16 or int8"),
    ],
)
def test_fp16_on_the_cpu_is_told_once(tmp_path: Path, key: str, value: str, advice: str) -> None:
    (found,) = _check(tmp_path, _changed(((*MODEL, key), value), ((*MODEL, "precision"), "fp16")))

    assert advice in found


def test_a_gpu_for_a_model_on_the_cpu_is_refused(tmp_path: Path) -> None:
    (found,) = _check(tmp_path, _changed((GPUS, 0.25), ((*MODEL, "device"), "cpu")))

    assert f"{dotted(GPUS)}: 0.25, but args.model.device is cpu" in found


def test_a_replica_takes_one_cpu_where_the_file_names_none(tmp_path: Path) -> None:
    data = _changed(((*CLASSIFIER, "ray_actor_options", "num_cpus"), GONE), ((*CLASSIFIER, "num_replicas"), 8))

    (found,) = _check(tmp_path, data)

    assert "Classifier 8 x 1" in found


def test_a_sum_of_fractions_may_fill_a_machine(tmp_path: Path) -> None:
    data = _changed(((*INGRESS, "num_replicas"), 3), ((*CLASSIFIER, "ray_actor_options", "num_cpus"), 0))

    assert _check(tmp_path, data, Supply("a tiny machine", cpus=0.3)) == []


def test_a_date_hides_no_other_problem(tmp_path: Path) -> None:
    text = TEXT.replace("port: 8000", "port: eight").replace("name: nli", "name: 2020-01-01")

    found = _check(tmp_path, text + "2020-01-01: 1\n")

    assert [line.split(": ")[1] for line in found] == ["http_options.port", "2020-01-01"]


def test_a_key_that_is_missing_is_told_with_the_line_of_its_mapping(tmp_path: Path) -> None:
    (found,) = _check(tmp_path, TEXT.replace("    import_path:", "    # import_path:"))

    line = TEXT.splitlines().index("applications:") + 2
    assert found == f"config.yaml:{line}: applications[0].import_path: required, but not there"


def test_keys_are_required_unless_the_file_says_off(tmp_path: Path) -> None:
    (found,) = _check(tmp_path, TEXT.replace("      auth:", "      # auth:"))

    line = TEXT.splitlines().index("    args:") + 1
    assert found.startswith(
        f"config.yaml:{line}: applications[0].args: args.auth is required (the default), but args.k"
    )
    assert "`nli-serve keys create`" in found


def test_a_mapping_that_is_written_twice_is_told_once(tmp_path: Path) -> None:
    (found,) = _check(tmp_path, TEXT + "http_options: {host: 127.0.0.1, port: 8000}\n")

    assert f"http_options: written twice, in lines 4 and {LAST + 1}" in found


def test_every_problem_is_told_in_one_go_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = TEXT.replace("  port: 8000", "  port: 8000\n  port: 8001\n  prot: 1").replace("127.0.0.1", "0.0.0.0")
    text = text.replace("device: auto", "device: cuda").replace("num_cpus: 1 ", "num_cpus: 99 ")

    found = _check(tmp_path, text.replace('auth: "off"', "auth: off"))

    said = [line.split(": ")[1] for line in found]
    assert said == [
        "http_options.host",
        "http_options.port",
        "http_options.prot",
        "applications[0].args.auth",
        "applications[0].args.model.device",
        "applications[0].deployments[1].ray_actor_options.num_cpus",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            TEXT.replace("  port: 8000", "  port: 8000\n  port: 8001"),
            "http_options.port: written twice, in lines 6 and 7",
        ),
        (TEXT.replace("  port: 8000", "  port: [8000"), "config.yaml:7: while parsing a flow sequence"),
        (TEXT.replace("  port: 8000", "\tport: 8000"), "config.yaml:6: while scanning for the next token"),
        (TEXT + "---\na: 1\n", "expected a single document"),
        ("a: !!python/name:os.system\n", "could not determine a constructor"),
        ("a: &a [*a]\n", "an alias that contains itself"),
        ("a: \0", "special characters are not allowed"),
        (b"\xff\xfe\x00", "can't decode byte 0xff"),
        (
            TEXT + "grpc_options: {port: 1, port: 1}\n",
            f"grpc_options.port: written twice, in lines {LAST + 1} and {LAST + 1}",
        ),
        ("- a\n", "config.yaml:1: expected a mapping of keys to values"),
        ("", "config.yaml:1: expected a mapping of keys to values"),
    ],
    ids=["twice", "bracket", "tab", "two documents", "tag", "cycle", "nul", "binary", "one line", "list", "empty"],
)
def test_yaml_that_is_not_sound_is_told_with_its_line(tmp_path: Path, text: str | bytes, said: str) -> None:
    (found,) = _check(tmp_path, text)

    assert found.startswith("config.yaml:")
    assert said in found


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        check(tmp_path / "nowhere.yaml", lambda _: MACHINE)


def test_a_cluster_that_does_not_answer_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))  # not listening, so a connection is refused
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{unheard.getsockname()[1]}")

        (found,) = check(FILE, capacity.supply)

    assert "the Ray cluster of RAY_ADDRESS, or of `ray start` (`ray stop` forgets it), does not answer" in found


def test_an_address_that_is_none_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "somewhere")

    (found,) = check(FILE, capacity.supply)

    assert "does not answer" in found


def test_without_a_cluster_this_machine_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")

    found = capacity.supply(needs_gpus=True)

    assert (found.where, found.gpus) == ("this machine", 0)
    assert found.cpus is not None
    assert found.cpus >= 1
    assert found.memory is not None
    assert found.memory > 0
    assert [name for name in found.others or {} if name.startswith("node:")]


def test_what_ray_cannot_start_with_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "local")
    monkeypatch.setenv("RAY_OVERRIDE_RESOURCES", "{}}")

    (found,) = check(FILE, capacity.supply)

    assert "Ray cannot start on this machine: " in found


@pytest.mark.parametrize(
    ("named", "address"),
    [("", "192.0.2.1:6379"), ("auto", "192.0.2.1:6379"), ("local", None), ("192.0.2.2:1", "192.0.2.2:1")],
)
def test_the_cluster_is_the_named_one_or_what_ray_start_wrote_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str, address: str | None
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", named)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("192.0.2.1:6379\n")

    assert capacity.running_cluster() == address


def test_only_visible_gpus_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,3")
    monkeypatch.setattr(GPUS_OF_NODE, lambda: 4)

    assert capacity.supply(needs_gpus=True).gpus == 2
