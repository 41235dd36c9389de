"""policy.c: compiled as strict C99 and as C++, run, and compared; nothing but libm, no allocation, NaN stays NaN."""

import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from deploy_cases import ACT, DATA, FRESH, OBS, POLICIES, acted

from srpo.deploy import DeployError, Network, Support, c_file, ctarget
from srpo.deploy.bundle import Bundle
from srpo.deploy.describe import describe
from srpo.deploy.formats import FORMATS

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None or shutil.which("g++") is None, reason="needs gcc and g++")
STRICT = ["-Wall", "-Wextra", "-Werror", "-pedantic", "-O2"]
C99, CPP = ["gcc", "-std=c99", *STRICT], ["g++", *STRICT, "-x", "c++"]


def bundle(name, support=None, **changes):
    network = replace(describe(POLICIES[name]), **changes)
    golden = FRESH[:16]
    return Bundle(network, (golden, network.bound(acted(POLICIES[name], golden))), support)


@pytest.fixture(scope="module")
def robot(tmp_path_factory):
    """policy.c and policy_check.c of one policy, with the statistics of its data."""
    folder = tmp_path_factory.mktemp("c")
    made = bundle("bc", Support.of(DATA))
    c_file.write(made, folder / "policy.c")
    c_file.write_check(made, folder / "policy_check.c")
    return folder


def call(*command, cwd=None):
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=cwd)


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("flags", [ctarget.PLAIN, ctarget.NATIVE, ("-O0", "-ffp-contract=fast")])
def test_c_acts_as_the_policy_does(name, flags, tmp_path):
    c_file.write(bundle(name), tmp_path / "policy.c")
    policy = ctarget.CompiledPolicy(tmp_path / "policy.c", flags)
    assert (policy.obs_size, policy.action_size) == (OBS, acted(POLICIES[name]).shape[1])
    np.testing.assert_allclose(policy.act(FRESH), acted(POLICIES[name]), atol=1e-5)


def test_c_moves_actions_to_the_bounds(tmp_path):
    made = bundle("bc", low=np.full(ACT, -2, np.float32), high=np.linspace(1, 9, ACT, dtype=np.float32))
    c_file.write(made, tmp_path / "policy.c")
    action = ctarget.CompiledPolicy(tmp_path / "policy.c").act(FRESH)
    assert (np.abs(action - made.network.bound(acted(POLICIES["bc"]))) <= 1e-5 * made.network.half).all()
    assert (action >= made.network.low).all() and (action <= made.network.high).all()


@pytest.mark.parametrize("command", [C99, CPP], ids=["C99", "C++"])
def test_check_program_runs_in_both_languages(robot, command, tmp_path):
    built = call(*command, robot / "policy.c", robot / "policy_check.c", "-o", tmp_path / "check", "-lm")
    assert built.returncode == 0, built.stderr
    ran = call(tmp_path / "check")
    assert ran.returncode == 0 and "largest error over 16 observations" in ran.stdout


def test_check_program_finds_a_wrong_policy(robot, tmp_path):
    c_file.write(bundle("bc", mean=np.full(OBS, 0.01, np.float32)), tmp_path / "policy.c")
    assert call(*C99, tmp_path / "policy.c", robot / "policy_check.c", "-o", tmp_path / "check", "-lm").returncode == 0
    assert call(tmp_path / "check").returncode == 1


def test_check_program_does_not_forget_a_nan(robot, tmp_path):
    """The first action is NaN once, all others are right."""
    (tmp_path / "once.c").write_text(
        "#include <math.h>\nvoid real_act(const float obs[], float action[]);\n"
        "void policy_act(const float obs[], float action[]) { static int calls = 0; real_act(obs, action); if (!calls++) action[0] = NAN; }\n"
    )
    for source, more in (("policy.c", ["-Dpolicy_act=real_act"]), ("policy_check.c", [])):
        assert call(*C99, *more, "-c", robot / source, "-o", tmp_path / f"{source}.o").returncode == 0
    parts = [tmp_path / "once.c", tmp_path / "policy.c.o", tmp_path / "policy_check.c.o"]
    assert call(*C99, *parts, "-o", tmp_path / "check", "-lm").returncode == 0
    ran = call(tmp_path / "check")
    assert ran.returncode == 1 and "nan" in ran.stdout


def test_cpp_links_the_c_object(robot, tmp_path):
    (tmp_path / "main.cpp").write_text(
        '#include <array>\n#include <cstdio>\nextern "C" void policy_act(const float obs[], float action[]);\n'
        f"int main() {{ std::array<float, {OBS}> obs{{}}; std::array<float, {ACT}> action{{}};\n"
        'policy_act(obs.data(), action.data()); for (float a : action) std::printf("%.9g ", static_cast<double>(a)); }\n'
    )
    assert call(*C99, "-c", robot / "policy.c", "-o", tmp_path / "policy.o").returncode == 0
    built = call("g++", *STRICT, tmp_path / "main.cpp", tmp_path / "policy.o", "-o", tmp_path / "main", "-lm")
    assert built.returncode == 0, built.stderr
    found = np.array(call(tmp_path / "main").stdout.split(), np.float32)
    np.testing.assert_allclose(found, acted(POLICIES["bc"], np.zeros((1, OBS), np.float32))[0], atol=1e-5)


@pytest.mark.skipif(shutil.which("nm") is None, reason="needs nm")
@pytest.mark.parametrize("name", ["bc", "iql"])
def test_c_needs_libm_only(name, tmp_path):
    c_file.write(bundle(name, Support.of(DATA)), tmp_path / "policy.c")
    assert call(*C99, "-c", tmp_path / "policy.c", "-o", tmp_path / "policy.o").returncode == 0
    wanted = {line.split()[-1] for line in call("nm", "-u", tmp_path / "policy.o").stdout.splitlines()}
    assert wanted <= {"tanhf", "expf", "memcpy", "memset", "_GLOBAL_OFFSET_TABLE_", "__stack_chk_fail"}


@pytest.mark.parametrize("flags", [ctarget.PLAIN, ctarget.NATIVE])
@pytest.mark.parametrize("name", ["bc", "iql", "squashed"])
def test_nan_stays_nan(name, flags, tmp_path):
    c_file.write(bundle(name), tmp_path / "policy.c")
    obs = FRESH[:3].copy()
    obs[1, 5] = np.nan
    action = ctarget.CompiledPolicy(tmp_path / "policy.c", flags).act(obs)
    assert np.isnan(action).all(axis=1).tolist() == [False, True, False]


def test_weights_are_exact():
    values = np.array([0, -0.0, 1, 0.1, 1 / 3, 1e-45, 3.4e38, 16777216, -7.006e-42], np.float32)
    text = c_file.array("x", values).split("{")[1].split("}")[0].replace("f", "").split(",")
    assert np.array([float(v) for v in text]).astype(np.float32).tobytes() == values.tobytes()


def test_policy_far_agrees_with_python(robot, tmp_path):
    rows = [f"    {{{', '.join(f'{v:.9g}f' if '.' in f'{v:.9g}' else f'{v:.9g}.0f' for v in row)}}}" for row in FRESH[::8]]
    (tmp_path / "main.c").write_text(
        "#include <math.h>\n#include <stdio.h>\nint policy_far(const float obs[]);\n"
        f"static float obs[][{OBS}] = {{\n" + ",\n".join(rows) + "};\n"
        f'int main(void) {{ unsigned i; for (i = 0; i < {len(rows)}; i++) printf("%d ", policy_far(obs[i]));\n'
        'obs[0][3] = NAN; printf("%d ", policy_far(obs[0])); obs[0][3] = INFINITY; printf("%d", policy_far(obs[0])); return 0; }\n'
    )
    built = call(*C99, tmp_path / "main.c", robot / "policy.c", "-o", tmp_path / "main", "-lm")
    assert built.returncode == 0, built.stderr
    *found, nan, inf = map(int, call(tmp_path / "main").stdout.split())
    support = Support.of(DATA)
    complaints = [support.complaint(row) or "fine" for row in FRESH[::8]]
    kinds = {"fine": 0, "outside": 2, "distance": 3}
    assert found == [next(code for word, code in kinds.items() if word in text) for text in complaints]
    assert {0, 2} <= set(found) and (nan, inf) == (1, 1)


def test_no_compiler(monkeypatch, tmp_path):
    made = bundle("linear")
    c_file.write(made, tmp_path / "policy.c")
    monkeypatch.setenv("CC", "/nowhere/cc -m64")
    with pytest.raises(DeployError, match="cannot run the C compiler '/nowhere/cc'"):
        FORMATS["c"].load(tmp_path / "policy.c")
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeployError, match=r"no C compiler .* leave out the format c"):
        FORMATS["c"].load(tmp_path / "policy.c")


def test_compiler_error_is_one_line(tmp_path):
    (tmp_path / "policy.c").write_text("void policy_act(void) { return 1; }\n")
    with pytest.raises(DeployError, match=r"does not compile policy.c: .*error") as e:
        ctarget.CompiledPolicy(tmp_path / "policy.c")
    assert "\n" not in str(e.value)


def test_timing_counts_every_call(tmp_path):
    c_file.write(bundle("wide"), tmp_path / "policy.c")
    policy = ctarget.CompiledPolicy(tmp_path / "policy.c")
    one, many = (policy.time(FRESH[: 4 * b].reshape(4, b, OBS), 200) for b in (1, 64))
    assert one.shape == many.shape == (200,) and (one > 0).all()
    assert many.min() > 4 * one.min()  # 64 actions in a call, however noisy the machine


def test_zero_padding_is_no_output():
    network = describe(POLICIES["wide"])
    assert isinstance(network, Network)
    packed = c_file.columns(network.layers[0][0])
    assert packed.shape == (2, OBS, 128)  # 130 outputs
    np.testing.assert_array_equal(packed.transpose(1, 0, 2).reshape(OBS, -1)[:, :130], network.layers[0][0])
    assert (packed[1, :, 2:] == 0).all()
