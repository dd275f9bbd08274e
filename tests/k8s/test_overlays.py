"""Every overlay is right, and whatever is broken in one is noticed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.k8s.manifests import OVERLAYS, ROOT, BuildFailed, build, built
from tests.k8s.mutants import BREAK_A_RULE, MISSHAPEN, Mutant, broken
from tests.k8s.rules import RULES, Rule
from tests.k8s.schema import crd_folder, misshapen, unknown_keys


@pytest.fixture
def crds() -> Path:
    """The folder of the CRDs' schemas."""
    folder = crd_folder()
    if folder is None:
        pytest.skip("CRD_DIR names no folder with the schemas of the CRDs")
    return folder


def test_every_overlay_is_tested() -> None:
    assert sorted(file.parent.name for file in ROOT.glob("k8s/overlays/*/kustomization.yaml")) == list(OVERLAYS)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_rules_hold(overlay: str, rule: Rule) -> None:
    assert list(rule(build(overlay))) == []


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_key_and_type_is_known_to_kubernetes(overlay: str) -> None:
    assert list(misshapen(build(overlay), crds=None)) == []


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_key_and_type_is_known_to_the_crds(overlay: str, crds: Path) -> None:
    assert list(misshapen(build(overlay), crds)) == []


@pytest.mark.parametrize("mutant", BREAK_A_RULE, ids=str)
def test_a_broken_rule_is_noticed(mutant: Mutant) -> None:
    assert not isinstance(mutant.found_by, str)

    found = list(mutant.found_by(broken(mutant)))

    assert found
    assert [one for one in found if "\n" in one or not one.strip()] == []  # each is told in one line


def test_every_rule_can_be_broken() -> None:
    assert {mutant.found_by for mutant in BREAK_A_RULE} == set(RULES)


@pytest.mark.parametrize("mutant", [each for each in MISSHAPEN if each.found_by == "keys"], ids=str)
def test_a_misspelt_key_is_noticed_without_any_schema(mutant: Mutant) -> None:
    assert list(unknown_keys(broken(mutant)))


@pytest.mark.parametrize("mutant", [each for each in MISSHAPEN if each.found_by == "core"], ids=str)
def test_a_wrong_shape_is_noticed_by_the_schemas_of_kubernetes(mutant: Mutant) -> None:
    assert list(misshapen(broken(mutant), crds=None))


@pytest.mark.parametrize("mutant", [each for each in MISSHAPEN if each.found_by != "core"], ids=str)
def test_a_wrong_shape_is_noticed_by_the_crds(mutant: Mutant, crds: Path) -> None:
    manifests = broken(mutant)

    by_crds = set(misshapen(manifests, crds)) - set(unknown_keys(manifests))

    assert by_crds or mutant.path[-2:-1] == ("rayStartParams",)  # which a CRD takes for any strings


@pytest.mark.parametrize(
    ("overlay", "before", "after"),
    [
        ("gpu", "groupName: workers", "groupName: others"),
        ("gpu", "name: ray-worker", "name: worker"),
        ("cpu", 'rayVersion: "2.60.0"', 'rayVersion: "2.51.0"'),
        ("prod-gpu", "name: ray-head", "name: head"),
        ("dev", "groupName: workers", "groupName: others"),
    ],
)
def test_a_patch_ends_the_build_where_the_base_is_no_longer_what_it_was_written_for(
    tmp_path: Path, overlay: str, before: str, after: str
) -> None:
    folder = shutil.copytree(ROOT / "k8s", tmp_path / "k8s")
    base = folder / "base" / "rayservice.yaml"
    base.write_text(base.read_text().replace(before, after))

    with pytest.raises(BuildFailed, match=r"testing value .* failed: test failed") as failed:
        built(folder / "overlays" / overlay)
    assert str(failed.value).strip().count("\n") == 0


@pytest.mark.parametrize(("ci", "outcome"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)])
def test_without_kubectl_nothing_passes_in_silence(
    monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type[BaseException]
) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setenv("CI", ci)

    with pytest.raises(outcome, match=r"kubectl .* is not on this machine"):
        built(ROOT)
