"""Exported policies: every file acts as the policy does, and nothing that does not is ever named."""

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import equinox as eqx
import jax
import numpy as np
import onnx
import onnxruntime
import pytest
from deploy_cases import ACT, DATA, DIALED, FRESH, OBS, POLICIES, acted
from made_up import layers

import srpo.deploy
from srpo.core import Frozen
from srpo.deploy import DeployError, Network, Policy, export_policy
from srpo.deploy.bundle import Bundle
from srpo.deploy.describe import describe
from srpo.deploy.formats import FORMATS
from srpo.deploy.onnx_file import act as onnx_act
from srpo.deploy.onnx_file import read as read_onnx
from srpo.deploy.onnx_file import write as write_onnx
from srpo.deploy.verify import observations, parity
from srpo.networks.actors import DeterministicActor
from srpo.policies import BestOf, Chain, DeterministicPolicy
from srpo.runs.units import InUnits

CHEETAH = {"algorithm": "bc", "data": {"name": "tiny", "env_id": "HalfCheetah-v4", "sha256": "ab"}}
PORTABLE = ("onnx", "numpy")
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "robot"
    contract = export_policy(POLICIES["bc"], folder, data=DATA, info=CHEETAH, calls=200)
    return folder, contract


@pytest.mark.parametrize("name", POLICIES)
def test_files_act_as_the_policy_does(name, tmp_path):
    export_policy(POLICIES[name], tmp_path, formats=PORTABLE, calls=0)
    wanted = acted(POLICIES[name])
    np.testing.assert_allclose(Policy(tmp_path / "policy.safetensors").act(FRESH), wanted, atol=1e-5)
    np.testing.assert_allclose(onnx_act(tmp_path / "policy.onnx")(FRESH), wanted, atol=1e-5)
    np.testing.assert_allclose(read_onnx(tmp_path / "policy.onnx").forward(FRESH), wanted, atol=1e-5)


def test_actions_land_in_the_bounds_of_the_environment(tmp_path):
    low, high = np.linspace(-3, 0, ACT), np.linspace(1, 5, ACT)
    network = describe(POLICIES["bc"], low, high)
    wanted = low + (acted(POLICIES["bc"]) + 1) / 2 * (high - low)
    np.testing.assert_allclose(network.forward(FRESH), wanted, atol=1e-5)
    far = network.forward(1e6 * FRESH)
    for bounds in ((low, high), (-2.5, 4.0)):
        bounded = describe(POLICIES["bc"], *bounds)
        write_onnx(Bundle.bare(bounded), tmp_path / "policy.onnx")
        np.testing.assert_allclose(onnx_act(tmp_path / "policy.onnx")(FRESH), bounded.forward(FRESH), atol=5e-5)
        np.testing.assert_array_equal(read_onnx(tmp_path / "policy.onnx").forward(FRESH), bounded.forward(FRESH))
    assert (far >= network.low).all() and (far <= network.high).all()


def test_one_observation_and_a_batch_agree(exported):
    policy = Policy(exported[0] / "policy.safetensors")
    assert policy.act(FRESH[0]).shape == (ACT,) and policy.act(FRESH[0]).dtype == np.float32
    np.testing.assert_allclose(policy.act(FRESH[0].astype(np.float64)), policy.act(FRESH[:1])[0], atol=1e-6)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_takes_any_leading_axes(exported, name):
    """Row by row the same as one observation alone; another size is refused, as C would read beyond the array."""
    wanted, obs = Policy(exported[0] / "policy.safetensors"), FRESH[:6].reshape(2, 3, OBS)
    for act in FORMATS[name].load(exported[0] / FORMATS[name].file).values():
        for some in (obs[0, 0], obs[0], obs, obs[:0]):
            found = act(some)
            assert found.shape == (*some.shape[:-1], ACT)
            rows = [wanted.act(row) for row in some.reshape(-1, OBS)]
            np.testing.assert_allclose(found.reshape(-1, ACT), np.reshape(rows, (-1, ACT)), atol=1e-5)
        with pytest.raises(Exception, match="shape|dimension|size"):
            act(np.zeros((2, OBS - 1), np.float32))


def test_onnx_is_plain(exported):
    model = onnx.load(exported[0] / "policy.onnx")
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 17)]
    session = onnxruntime.InferenceSession(str(exported[0] / "policy.onnx"))
    ends = [(end.name, end.type, end.shape) for end in (*session.get_inputs(), *session.get_outputs())]
    assert ends == [("obs", "tensor(float)", ["batch", OBS]), ("action", "tensor(float)", ["batch", ACT])]
    nan = FRESH[:2].copy()
    nan[0, 3] = np.nan
    action = session.run(None, {"obs": nan})[0]  # what docs/deployment.md says of onnxruntime
    assert np.isnan(action[0]).all() and np.isfinite(action[1]).all()


def test_contract_says_what_is_in_the_files(exported):
    folder, returned = exported
    contract = json.loads((folder / "contract.json").read_text())
    assert contract == returned
    for name, digest in contract["files"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    assert contract["input"]["signals"][2]["name"] == "bthigh angle" and contract["input"]["signals"][2]["unit"] == "rad"
    assert contract["output"]["signals"][0] == {"name": "bthigh motor", "unit": "120 N m", "low": -1.0, "high": 1.0}
    parity = contract["parity"]
    assert parity["errors"].keys() >= {"onnx", "numpy", "c -O2"} and sum(parity["observations"].values()) == 10_000
    for errors in parity["errors"].values():
        assert errors["in-distribution"] < 1e-5 and all(errors[s] <= parity["tolerated"][s] < 1e-4 for s in errors)
    assert {row["form"] for row in contract["latency"]} == {"onnx", "numpy", "c"}
    golden = contract["golden"]
    np.testing.assert_allclose(acted(POLICIES["bc"], np.float32(golden["obs"])), golden["action"], atol=1e-6)
    inside = Policy(folder / "policy.safetensors").info
    assert inside["data"] == CHEETAH["data"] and inside["output"] == contract["output"]


def stacked(policy):
    return jax.tree.map(lambda x: jax.device_put(np.stack([x, x])), policy)


def broken(policy):
    return eqx.tree_at(lambda p: p.actor.net.layers[1].bias, policy, jax.device_put(np.full(48, np.nan, np.float32)))


def actor(**options):
    return DeterministicPolicy(DeterministicActor(OBS, ACT, (8,), None, layers=layers(OBS, 8, ACT), **options))


def within(low, high):
    """A policy of a range that is [-1, 1] but for its action 1."""
    bounds = (np.where(np.arange(ACT) == 1, x, y).astype(np.float32) for x, y in ((low, -1), (high, 1)))
    return InUnits(*map(Frozen, map(jax.device_put, bounds)), actor())


REFUSED = {
    "samples its actions.*bc, bc-gaussian, iql, td3-bc, srpo": lambda: BestOf(POLICIES["iql"], lambda obs, action: action, 4),
    "these are several; choose a seed": lambda: stacked(POLICIES["srpo"]),
    "layers.1.bias of the policy is not finite": lambda: broken(POLICIES["srpo"]),
    "found a policy with LayerNorm": lambda: actor(norm="before"),
    "found a policy with silu": lambda: actor(activation=jax.nn.silu),
    "SimpleNamespace.chain is MLP, expected a Chain of one MLP": lambda: SimpleNamespace(chain=actor().actor.net),
    "SimpleNamespace.chain is a Chain of DeterministicActor, expected": lambda: SimpleNamespace(chain=Chain(actor().actor)),
    "action 1 is bounded by 1000000 and 1000002, expected steps of float32.* fixed offset and train again": lambda: within(
        1e6, 1e6 + 2
    ),
    "action 1 is bounded by -3.40282347e.38 and 3.40282347e.38, which stands for no bounds at all": lambda: within(
        np.finfo(np.float32).min, np.finfo(np.float32).max
    ),
}


@pytest.mark.parametrize("complaint", REFUSED)
def test_policies_that_cannot_be_exported(complaint, tmp_path):
    with pytest.raises(DeployError, match=complaint):
        export_policy(REFUSED[complaint](), tmp_path / "out", calls=0)
    assert not list(tmp_path.iterdir())


def test_a_file_that_acts_differently_is_never_named(tmp_path, monkeypatch):
    """One weight off by a thousandth: the error names the format, and what was there stays."""
    true = FORMATS["onnx"].write

    def wrong(bundle, path):
        weight, bias = bundle.network.layers[-1]
        layers = (*bundle.network.layers[:-1], (weight + 1e-3, bias))
        true(replace(bundle, network=replace(bundle.network, layers=layers)), path)

    (tmp_path / "policy.onnx").write_text("before")
    monkeypatch.setitem(FORMATS, "onnx", replace(FORMATS["onnx"], write=wrong))
    with pytest.raises(
        DeployError, match=r"onnx differs from the JAX policy by .* at in-distribution observation .*nothing was written"
    ):
        export_policy(POLICIES["srpo"], tmp_path, formats=["numpy", "onnx"], force=True, calls=0)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("policy.onnx", "before")]


def test_a_wrong_description_is_found_far_from_the_data_too():
    """The allowance for rounding comes from the network, not from the difference that is judged."""
    network = describe(POLICIES["srpo"])
    wrong = replace(network, activation="mish")
    sets = observations(network, DATA)
    for name in sets:
        with pytest.raises(DeployError, match=f"numpy differs .* at {name}"):
            parity({"numpy": wrong.forward}, POLICIES["srpo"], wrong, {name: sets[name]})


def test_verification_covers_what_it_says():
    sets = observations(describe(POLICIES["bc"]), DATA)
    assert sum(map(len, sets.values())) == 10_000 and (sets["extremes"] == 0).all(axis=1).any()
    assert np.abs(sets["x10"]).max() > 9 * np.abs(DATA).max() * 0.9
    corners = (sets["extremes"] == sets["in-distribution"].min(0)) | (sets["extremes"] == sets["in-distribution"].max(0))
    assert corners.all(axis=1).sum() > 1000


def test_targets(tmp_path):
    export_policy(POLICIES["srpo"], tmp_path / "a.safetensors", calls=0)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.safetensors", "a.safetensors.contract.json"]
    with pytest.raises(DeployError, match=r"a.safetensors exists; give another name, or --force"):
        export_policy(POLICIES["bc"], tmp_path / "a.safetensors", calls=0)
    np.testing.assert_allclose(Policy(tmp_path / "a.safetensors").act(FRESH), acted(POLICIES["srpo"]), atol=1e-5)
    export_policy(POLICIES["srpo"], tmp_path / "a.onnx", calls=0)  # under the same stem: each file has its own contract
    export_policy(POLICIES["bc"], tmp_path / "a.safetensors", calls=0, force=True)
    told = {form: json.loads((tmp_path / f"a.{form}.contract.json").read_text())["files"] for form in ("onnx", "safetensors")}
    assert {form: [*files] for form, files in told.items()} == {"onnx": ["a.onnx"], "safetensors": ["a.safetensors"]}
    np.testing.assert_allclose(Policy(tmp_path / "a.safetensors").act(FRESH), acted(POLICIES["bc"]), atol=1e-5)


@pytest.mark.parametrize(
    "to, formats, complaint",
    [
        ("policy.onxx", None, "did you mean '.onnx'"),
        ("policy.txt", None, "unknown format '.txt'"),
        ("out/", ["onnx", "nunpy"], "did you mean 'numpy'"),
        ("policy.c", ["onnx"], "one file of format c, but onnx"),
        ("file/policy.onnx", None, "cannot write to"),
        ("robot.v2", None, "end the name of a folder with /, as .*/robot.v2/"),
        (".onnx", None, "expected a name, such as policy.onnx"),
    ],
)
def test_targets_that_are_refused(tmp_path, to, formats, complaint):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(DeployError, match=complaint):
        export_policy(POLICIES["srpo"], f"{tmp_path}/{to}", formats=formats, calls=0)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_no_name_is_no_target(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DeployError, match="found the target '', expected a name"):
        export_policy(POLICIES["srpo"], "", calls=0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["srpo", "normalized"])
def test_data_that_are_none(name, tmp_path):
    """One line, whatever they lack; whole numbers are as good as others."""
    bad = np.where(np.arange(OBS) == 3, np.nan, DATA[:9])
    for data in (DATA[:0], DATA[0], DATA[:, :3], DATA.astype(str), bad, 1e300 * DATA.astype(np.float64), [[1.0], [1.0, 2.0]]):
        with pytest.raises(DeployError, match="data: found .* expected"):
            export_policy(POLICIES[name], tmp_path, data=data, calls=0)
    assert not list(tmp_path.iterdir())
    whole = np.round(10 * DATA).astype(int)
    for data in (whole, whole.tolist()):
        export_policy(POLICIES[name], tmp_path, data=data, formats=["numpy"], calls=0, force=True)
        np.testing.assert_allclose(Policy(tmp_path / "policy.safetensors").support.mean, whole.mean(0), rtol=1e-5)


def test_numbers_that_json_lacks_are_null(tmp_path):
    """An episode may have returned NaN."""
    contract = export_policy(POLICIES["srpo"], tmp_path, formats=["numpy"], calls=0, info={"expected": {"mean_return": np.nan}})
    assert contract["expected"] == {"mean_return": None} == Policy(tmp_path / "policy.safetensors").info["expected"]


def test_a_policy_with_a_range_of_its_own_names_no_environment(tmp_path):
    contract = export_policy(within(2, 5), tmp_path, formats=["numpy"], calls=0)
    assert contract["output"]["range"] == "the policy's own units and bounds"
    assert [signal["high"] for signal in contract["output"]["signals"]][:2] == [1.0, 5.0]


@pytest.mark.parametrize("policy", [POLICIES["bc"], DIALED["dial"]], ids=["bc", "dial"])
def test_the_page_checks_other_runtimes(policy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    export_policy(policy, "robot/", formats=["onnx"], calls=0)
    exec(re.search(r"```python\n(import json.*?)```", (ROOT / "docs" / "deployment.md").read_text(), re.DOTALL)[1], {})


def test_without_an_environment_names_are_plain(tmp_path):
    unknown = {"data": {"env_id": "Nowhere-v9"}}
    contract = export_policy(POLICIES["srpo"], tmp_path, formats=["numpy"], info=unknown, calls=0)
    assert contract["input"]["signals"][3] == {"name": "obs[3]", "unit": None}
    assert "Nowhere-v9" in contract["notes"][0] and contract["distance_limit"] is None
    other = export_policy(POLICIES["linear"], tmp_path, formats=["numpy"], info=CHEETAH, calls=0, force=True)
    assert "actions have 1 columns, but HalfCheetah-v4 has 6" in other["notes"][0]


def test_description_checks_shapes():
    network = describe(POLICIES["srpo"])
    with pytest.raises(DeployError, match=r"layers.1.weight of the policy has shape \(48, 32\), expected \(32, 32\)"):
        weight, bias = network.layers[1]
        replace(network, layers=(network.layers[0], (weight.T, bias), network.layers[2]))
    with pytest.raises(DeployError, match="found no layers"):
        Network.from_tensors({name: np.zeros(1, np.float32) for name in ("mean", "std", "low", "high")}, "relu")


def test_names_of_the_package():
    assert {"Policy", "SafePolicy", "export_policy"} <= set(srpo.deploy.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        srpo.deploy.nothing  # noqa: B018


def test_a_full_disk_changes_nothing(tmp_path, monkeypatch):
    (tmp_path / "policy.safetensors").write_text("before")

    def full(bundle, path):
        path.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(FORMATS, "numpy", replace(FORMATS["numpy"], write=full))
    with pytest.raises(DeployError, match="No space left on device; make room"):
        export_policy(POLICIES["srpo"], tmp_path, formats=["numpy"], force=True, calls=0)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("policy.safetensors", "before")]
