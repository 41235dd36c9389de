"""`srpo.deploy.Policy`: NumPy alone, strict about files and observations."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from deploy_cases import ACT, DATA, DIALED, OBS, POLICIES

from srpo.deploy import DeployError, Policy, export_policy


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    path = tmp_path_factory.mktemp("numpy") / "policy.safetensors"
    export_policy(POLICIES["bc"], path, data=DATA, calls=0)
    return path


def test_runtime_needs_numpy_only(exported):
    """Blocks every package that is not NumPy's or Python's own."""
    code = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in {"numpy", "srpo"} | set(sys.stdlib_module_names):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Block())
import numpy as np, srpo.deploy
policy = srpo.deploy.Policy(sys.argv[1])
assert policy.self_test() < 1e-5
safe = srpo.deploy.SafePolicy(policy, max_change=0.1)
print(safe.act(np.zeros(17)).tolist())
for name in ("jax", "equinox", "optax", "gymnasium", "safetensors", "h5py"):
    assert name not in sys.modules
"""
    run = subprocess.run([sys.executable, "-c", code, exported], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert len(json.loads(run.stdout)) == ACT


@pytest.mark.parametrize(
    "obs, complaint",
    [
        (np.zeros(OBS - 1), r"shape \(16,\), expected \(17,\) or \(batch, 17\)"),
        (np.zeros((OBS, 2)), r"shape \(17, 2\)"),
        (np.float32(1), r"shape \(\), expected"),
        (np.zeros(OBS, int), "type int64, expected floating-point"),
        (np.array(["a"] * OBS), "expected floating-point"),
        (np.array([None] * OBS), "type object"),
        (np.where(np.arange(OBS) == 4, np.nan, 0.0), r"obs\[4\] is nan"),
        (np.where(np.arange(OBS) == 5, np.inf, 0.0).astype(np.float32), r"obs\[5\] is inf"),
        (np.where(np.arange(2 * OBS) == 20, 1e300, 0.0).reshape(2, OBS), r"obs\[1, 3\] is inf"),
        ([[0.0], [0.0, 1.0]], "of different lengths"),
        (3e38 * np.sign(DATA[0]), r"up to 3e\+38, with which .* float32"),
    ],
)
def test_runtime_refuses_observations(exported, obs, complaint):
    with pytest.raises(DeployError, match=complaint) as e:
        Policy(exported).act(obs)
    assert "\n" not in str(e.value)


def test_self_test_finds_a_changed_file(exported, tmp_path):
    policy = Policy(exported)
    assert policy.self_test() < 1e-5
    weight, bias = policy.network.layers[0]
    policy.network = replace(policy.network, layers=((1.001 * weight, bias), *policy.network.layers[1:]))
    with pytest.raises(DeployError, match="differ by"):
        policy.self_test()


def damaged(raw, name):
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    if name == "cut":
        return raw[: len(raw) // 2]
    if name == "empty":
        return b""
    if name == "not safetensors":
        return b"\x00" * 100
    if name == "another":
        header["__metadata__"]["format"] = "pt"
    if name == "newer":
        header["__metadata__"]["version"] = "99"
    if name == "array missing":
        del header["layers.1.bias"]
    if name == "another shape":
        header["layers.0.bias"]["shape"] = [16, 2]
    if name == "a number as an array":
        header["layers.0.weight"] |= {"shape": [], "data_offsets": [0, 4]}
    if name == "metadata in a list":
        header["__metadata__"] = []
    if name == "a version that is no text":
        header["__metadata__"]["version"] = 1
    if name == "half precision":
        header["mean"]["dtype"] = "F16"
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + raw[8 + size :]


@pytest.mark.parametrize(
    "name",
    [
        "cut",
        "empty",
        "not safetensors",
        "another",
        "newer",
        "array missing",
        "another shape",
        "half precision",
        "a number as an array",
        "metadata in a list",
        "a version that is no text",
    ],
)
def test_damaged_files_are_refused(exported, tmp_path, name):
    path = tmp_path / "policy.safetensors"
    path.write_bytes(damaged(exported.read_bytes(), name))
    with pytest.raises(DeployError) as e:
        Policy(path)
    assert "\n" not in str(e.value)


def test_large_numbers_that_the_network_bears_are_no_warning(tmp_path):
    """The cube in GELU overflows long before its value does; a temperature may be beyond what float32 holds."""
    export_policy(POLICIES["clipped"], tmp_path / "gelu.safetensors", calls=0)
    assert (np.abs(Policy(tmp_path / "gelu.safetensors").act(1e20 * DATA[0])) <= 1).all()
    export_policy(DIALED["dial"], tmp_path / "dial.safetensors", calls=0)
    dial = Policy(tmp_path / "dial.safetensors")
    for beyond, end in zip((1e-300, 1e300), dial.network.beta_range, strict=True):
        np.testing.assert_allclose(dial.act(DATA[0], beyond), dial.act(DATA[0], end), atol=1e-6)
