"""Actions in the units that were recorded: where their range is from, what is asked, and that policies act in them everywhere."""

import gymnasium
import h5py
import jax
import numpy as np
import pytest

import srpo
from srpo.data import DataError, from_arrays, load_dataset
from srpo.data.info import summary, warnings_about
from srpo.data.treated import treat
from srpo.deploy import Policy, export_run
from srpo.deploy.ctarget import CompiledPolicy
from srpo.deploy.graph import DeployError
from srpo.deploy.onnx_file import act as onnx_act
from srpo.evaluation.rollouts import Rollouts
from srpo.evaluation.scores import evaluate
from srpo.runs.run import RunError
from srpo.training.inherit import require_same_units
from srpo.worlds.environments import check_env

N = 240
RNG = np.random.default_rng(0)
UNIT = np.clip(RNG.normal(size=(N, 2)), -1, 1).astype(np.float32)  # reaches both ends
OBS = RNG.normal(size=(N, 3)).astype(np.float32)


def recorded(action, **options):
    end = np.isin(np.arange(N), (40, 90, 155, 200))
    return from_arrays(OBS, action, action.astype(float).sum(1), end, ~end & (np.arange(N) == N - 1), **options)


class Valve(gymnasium.Env):
    """An environment whose actions have the bounds that it is given; the reward is the action that arrived."""

    def __init__(self, low=(0.0, -0.4), high=(10.0, 0.4)):
        self.observation_space = gymnasium.spaces.Box(-9, 9, (3,))
        self.action_space = gymnasium.spaces.Box(np.float32(low), np.float32(high))

    def reset(self, seed=None, options=None):
        self.step_count = 0
        return np.zeros(3, np.float32), {}

    def step(self, action):
        assert self.action_space.contains(np.float32(action))
        self.step_count += 1
        return np.zeros(3, np.float32), float(action[0]), False, self.step_count == 2, {}


MOST = np.finfo(np.float32).max
ENVIRONMENTS = {
    "Valve": ((0, -0.4), (10, 0.4)),
    "Wide": ((-2, -2), (2, 2)),
    "Narrow": ((-0.4, -0.4), (0.4, 0.4)),
    "Unbounded": ((-MOST, -MOST), (MOST, MOST)),
    "Stuck": ((-2, 3), (2, 3)),
}
for name, bounds in ENVIRONMENTS.items():
    if f"{name}-v0" not in gymnasium.registry:
        gymnasium.register(f"{name}-v0", entry_point=Valve, kwargs=dict(low=bounds[0], high=bounds[1]))


def test_actions_within_plus_minus_one_stay_bit_for_bit():
    data = recorded(UNIT)
    assert data.action_range is None and not data.notes
    np.testing.assert_array_equal(data.action, UNIT)


def half(x):
    return (x + 1) / 2


READ = {  # columns whose range the numbers give away, and the range
    "throttle": (half(UNIT), [0, 0], [1, 1]),
    "brake": (-half(UNIT), [-1, -1], [0, 0]),
    "one of two": (np.c_[half(UNIT[:, 0]), UNIT[:, 1]], [0, -1], [1, 1]),
    "small": (0.4 * UNIT, [-0.4, -0.4], [0.4, 0.4]),
    "on and off": ((UNIT > 0).astype(int), [0, 0], [1, 1]),
}


@pytest.mark.parametrize("case", READ)
def test_ranges_are_read_off_the_data_and_said(case):
    action, low, high = READ[case]
    data = recorded(action)
    np.testing.assert_allclose(data.action_range.low, low, atol=1e-6)
    np.testing.assert_allclose(data.action_range.high, high, atol=1e-6)
    np.testing.assert_allclose(data.action_range.recorded(data.action), action, atol=1e-6)
    assert data.action.min() == pytest.approx(-1) and any("taken as their range" in line for line in warnings_about(data))
    assert summary(data)["action_range"] == pytest.approx([action.min(), action.max()])
    said = [line for line in warnings_about(data) if "discrete" in line]
    assert len(said) == (case == "on and off")


@pytest.mark.parametrize("action", [3 * UNIT, RNG.integers(0, 5, (N, 2)), 1.001 * UNIT])
def test_beyond_plus_minus_one_is_asked_about(action):
    with pytest.raises(DataError, match=r"arrays: action\[.*actions span .* expected \[-1, 1\].*--action-range LOW,HIGH") as e:
        recorded(action)
    assert ("discrete" in str(e.value)) == (action.dtype.kind == "i") and len(str(e.value)) < 500


@pytest.mark.parametrize(
    "asked, low, high",
    [
        ("-4,4", [-4, -4], [4, 4]),
        ("-3,3/-5,3", [-3, -5], [3, 3]),
        ((-4, 4), [-4, -4], [4, 4]),
        (([-3, -4], [3, 5]), [-3, -4], [3, 5]),
        ("recorded", [-3, -3], [3, 3]),
    ],
)
def test_what_is_asked_for_is_what_is_mapped(asked, low, high):
    data = recorded(3 * UNIT, action_range=asked)
    np.testing.assert_allclose(data.action_range.low, low)
    np.testing.assert_allclose(data.action_range.high, high)
    wanted = (3 * UNIT.astype(np.float64) - low) / (np.subtract(high, low)) * 2 - 1
    np.testing.assert_allclose(data.action, wanted, atol=1e-6)
    np.testing.assert_array_equal(
        np.asarray(treat(data, on_device=False).all_transitions.action(np.arange(5))), data.action[:5]
    )
    assert any("never go beyond" in line for line in warnings_about(data)) == (asked == "recorded")


@pytest.mark.parametrize("asked", ["1,-1", "0", "a,b", "0,1/0,1/0,1", "nan,1", (0, 0), "both"])
def test_ranges_that_are_none_are_refused(asked):
    with pytest.raises(DataError, match="expected recorded, env, or LOW,HIGH"):
        recorded(UNIT, action_range=asked)


def test_a_range_that_the_data_leave_is_refused():
    with pytest.raises(DataError, match=r"beyond the range \[-2, 2\] \(as told\)"):
        recorded(3 * UNIT, action_range=(-2, 2))


def test_a_column_that_never_changes_cannot_be_commanded_away():
    data = recorded(np.c_[3 * UNIT[:, 0], np.full(N, 5.0)], action_range="recorded")
    assert data.action_range.low[1] == pytest.approx(4.995) and data.action_range.high[1] == pytest.approx(5.005)
    np.testing.assert_allclose(data.action[:, 1], 0, atol=1e-4)


OFFSETS = np.random.default_rng(1).uniform(100, 1000, 40)
WITHIN = [OFFSETS[:, None] + np.random.default_rng(2).uniform(0, 0.5, (40, N)), OFFSETS]  # (offset, row), and the offset


def stating(path, action, low, high):
    """A file that states the bounds of its actions."""
    end = np.arange(len(action)) % 50 == 3
    np.savez(path, observations=OBS, actions=action, rewards=OBS[:, 0], terminals=end, action_low=low, action_high=high)
    return load_dataset(path)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_no_range_refuses_the_data_that_it_is_of(tmp_path, kind):
    """Bounds are kept in float32, which may lie within the recorded numbers."""
    for some in np.column_stack([*WITHIN[0].T]).astype(kind):
        action = some[:, None]
        low, high = action.min(0), action.max(0)
        told = recorded(action, action_range=(low, high))
        for data in (recorded(action, action_range="recorded"), stating(tmp_path / "a.npz", action, low, high)):
            np.testing.assert_array_equal(data.action, told.action)
        assert (told.action.min(), told.action.max()) == pytest.approx((-1, 1), abs=3e-4)
        np.testing.assert_allclose(told.action_range.recorded(told.action), action, rtol=1.3e-7)


def test_numbers_near_a_bound_are_shown_apart_from_it():
    action = np.linspace(293.15, 293.65, N)[:, None]
    with pytest.raises(DataError) as e:
        recorded(action, action_range=(293.15, 293.6))
    assert "is 293.6019, actions span [293.15, 293.65], beyond the range [293.15, 293.6]" in str(e.value)
    with pytest.raises(DataError, match=r"is 293.65, actions span \[293.15, 293.65\], beyond the range \[293.15, 293.6497\]"):
        recorded(np.where(action < 293.6497, 293.15, action), action_range=(293.15, 293.6497))


NO_RANGES = {  # bounds that float32 cannot hold: low, high, what is said
    "beyond float32": (-1e39, 1e39, "stands for no bounds at all; say --action-range LOW,HIGH"),
    "a Box without bounds": (np.finfo(np.float32).min, np.finfo(np.float32).max, "stands for no bounds"),
    "one side": (0.0, 1e16, "stands for no bounds"),
    "next to each other": (1e8, 1e8 + 1, "is [100000000, 100000001] "),
    "no size": (0.0, 1e-50, "record these actions less a fixed offset, or in other units"),
    "nearly no size": (0.0, 1e-40, "cannot tell apart"),
}


@pytest.mark.parametrize("case", NO_RANGES)
def test_ranges_that_float32_cannot_hold_are_refused(tmp_path, case):
    low, high, said = NO_RANGES[case]
    action = np.c_[UNIT[:, 0], np.linspace(low, min(high, low + 10), N).clip(-1e14, 1e14)]
    bounds = [-1.0, low], [1.0, high]
    for load in (lambda: recorded(action, action_range=bounds), lambda: stating(tmp_path / "a.npz", action, *bounds)):
        with pytest.raises(DataError, match="the range of action column 1 is") as e:
            load()
        assert said in str(e.value) and "\n" not in str(e.value)


def test_bounds_that_a_file_states_wrongly_can_be_told(tmp_path):
    stated = dict(action_low=-np.finfo(np.float32).max, action_high=np.inf)
    np.savez(
        tmp_path / "a.npz", observations=OBS, actions=3 * UNIT, rewards=OBS[:, 0], terminals=np.arange(N) % 50 == 3, **stated
    )
    np.testing.assert_array_equal(load_dataset(tmp_path / "a.npz", action_range=(-4, 4)).action_range.high, 4)


@pytest.mark.parametrize("scale, coarse", [(1e3, False), (1e4, True), (1e6, True)])
def test_actions_that_are_large_beside_their_range_are_said(scale, coarse):
    """A step of float32 near 1e3 is 6e-5, and near 1e4 9.8e-4, of half the range 0.5."""
    data = recorded(scale + UNIT / 2, action_range=(scale - 0.5, scale + 0.5))
    said = [line for line in warnings_about(data) if "they act in steps of" in line]
    assert len(said) == coarse and all("columns 0, 1" in line and "cannot be exported" in line for line in said)


class TestByTheEnvironment:
    def test_its_units_are_recognized(self):
        data = recorded(np.c_[5 + 5 * UNIT[:, 0], 0.4 * UNIT[:, 1]], env_id="Valve-v0")
        np.testing.assert_allclose(data.action_range.low, [0, -0.4])
        assert data.action_range.origin == "the bounds of Valve-v0"
        assert any("units of Valve-v0" in line for line in warnings_about(data))

    def test_an_action_with_one_value_is_told_to_have_a_range(self):
        action = np.c_[2 * UNIT[:, 0], np.full(N, 3.0)]
        for asked in (None, "env"):
            with pytest.raises(
                DataError, match=r"column 1 is \[3, 3\] \(the bounds of Stuck-v0\), a single number, .* with --action-range"
            ):
                recorded(action, env_id="Stuck-v0", action_range=asked)
        data = recorded(action, env_id="Stuck-v0", action_range="-2,2/2,4")  # what is advised
        np.testing.assert_array_equal(data.action[:, 1], 0.0)
        check_env("Stuck-v0", 3, 2, in_units=True)

    @pytest.mark.parametrize("action, env_id", [(UNIT, "Wide-v0"), (0.4 * UNIT, "Narrow-v0"), (0.2 * UNIT, "Narrow-v0")])
    def test_what_may_be_both_is_asked_about(self, action, env_id):
        with pytest.raises(
            DataError, match=r"own units.* or already mapped to \[-1, 1\]; say --action-range env, or --action-range=-1,1"
        ):
            recorded(action, env_id=env_id)
        assert recorded(action, env_id=env_id, action_range=(-1, 1)).action_range is None
        told = recorded(action, env_id=env_id, action_range="env")
        np.testing.assert_allclose(told.action_range.high, 2 if env_id == "Wide-v0" else 0.4)

    def test_numbers_beyond_its_bounds_were_mapped_before(self):
        data = recorded(UNIT, env_id="Narrow-v0")
        assert data.action_range is None and any("taken as mapped to [-1, 1] before" in line for line in warnings_about(data))

    def test_what_fits_neither_is_refused(self):
        with pytest.raises(DataError, match="beyond \\[-1, 1\\] and beyond the bounds of Narrow-v0"):
            recorded(3 * UNIT, env_id="Narrow-v0")

    def test_without_one_it_cannot_be_asked_for(self):
        with pytest.raises(DataError, match="--action-range env: no environment is known"):
            recorded(UNIT, action_range="env")

    def test_bounds_that_stand_for_none_are_none(self):
        assert recorded(UNIT, env_id="Unbounded-v0").action_range is None
        with pytest.raises(DataError, match=r"expected \[-1, 1\]; to rescale them, say --action-range LOW,HIGH"):
            recorded(3 * UNIT, env_id="Unbounded-v0")
        with pytest.raises(
            DataError, match="or its actions have no bounds; name it with --env ID, or say --action-range LOW,HIGH"
        ):
            recorded(UNIT, env_id="Unbounded-v0", action_range="env")

    def test_d4rls_bounds_are_no_question(self):
        wide = np.repeat(UNIT[:, :1], 3, 1) / 5
        end = np.arange(N) % 37 == 36
        data = from_arrays(np.repeat(OBS, 4, 1)[:, :11], wide, wide[:, 0], end, env_id="Hopper-v4")
        assert data.action_range is None and not data.notes


@pytest.mark.parametrize("suffix", [".hdf5", ".npz"])
def test_a_file_may_state_it(tmp_path, suffix):
    fields = dict(observations=OBS, actions=3 * UNIT, rewards=OBS[:, 0], terminals=np.arange(N) % 50 == 3)
    path, stated = tmp_path / f"logs{suffix}", dict(action_low=np.array([-3.0, -4.0]), action_high=4.0)
    if suffix == ".npz":
        np.savez(path, **fields, **stated)
    else:
        with h5py.File(path, "w") as file:
            for name, x in fields.items():
                file[name] = x
            file.attrs.update(stated)
    data = load_dataset(path)
    np.testing.assert_array_equal([data.action_range.low, data.action_range.high], [[-3, -4], [4, 4]])
    assert data.action_range.origin == "stated in the file"
    assert load_dataset(path, action_range=(-5, 5)).action_range.origin == "as told"
    for one, other in (("low", "high"), ("high", "low")):
        np.savez(tmp_path / "half.npz", **fields, **{f"action_{one}": 4.0})
        with pytest.raises(DataError, match=f"states action_{one}, but no action_{other}; state both, or neither"):
            load_dataset(tmp_path / "half.npz")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Cloning of a valve: the first action is 5 + 5 tanh of the first signal, the second 0.4 times that of the second."""
    action = np.c_[5 + 5 * np.tanh(OBS[:, 0]), 0.4 * np.tanh(OBS[:, 1])]
    data = recorded(action, env_id="Valve-v0", name="valve")
    tiny = {"policy.steps": 300, "policy.hidden": (16,), "policy.batch_size": 64, "policy.lr": 1e-2}
    out = tmp_path_factory.mktemp("range") / "run"
    return srpo.train(srpo.configure("bc", data, **tiny), data, out=out, eval_every=0, quiet=True), data, action


def test_policies_act_in_recorded_units(run):
    trained, data, action = run
    acted = np.asarray(srpo.load_run(trained.path).policy(0).act(OBS))
    assert np.abs(acted - action).mean(0) == pytest.approx(0, abs=0.4) and acted[:, 0].max() > 8
    assert (acted >= data.action_range.low).all() and (acted <= data.action_range.high).all()
    inner = trained.units.inside(trained.policies)
    unit = np.asarray(jax.jit(lambda policies: jax.tree.map(lambda x: x[0, 0], policies).act(OBS))(inner))
    np.testing.assert_allclose(data.action_range.recorded(unit), acted, atol=1e-5)


def test_so_do_all_exported_files_and_the_contract_says_it(run, tmp_path):
    trained, _data, _ = run
    wanted = np.asarray(trained.policy(0).act(OBS))
    contract = export_run(trained, tmp_path / "robot", calls=0)
    for act in (
        Policy(tmp_path / "robot/policy.safetensors").act,
        onnx_act(tmp_path / "robot/policy.onnx"),
        CompiledPolicy(tmp_path / "robot/policy.c").act,
    ):
        np.testing.assert_allclose(act(OBS), wanted, atol=1e-4)
    assert [s["low"] for s in contract["output"]["signals"]] == pytest.approx([0, -0.4])
    assert "recorded" in contract["output"]["range"] and "bounds of Valve-v0" in contract["output"]["range"]


def test_the_environment_gets_them_as_they_are(run):
    trained, _, _ = run
    assert evaluate(trained, 1).summaries[0].mean == pytest.approx(2 * float(trained.policy(0).act(np.zeros(3))[0]), rel=1e-4)
    one = jax.tree.map(lambda x: x, trained.units.inside(trained.policies))  # in [-1, 1]: moved to the bounds
    assert Rollouts("Valve-v0", (1, 1), 1)(one).returns.item() == pytest.approx(
        evaluate(trained, 1).summaries[0].mean, rel=1e-4
    )


def test_what_leaves_in_steps_is_not_exported(tmp_path):
    data = recorded(5.3e6 + 5 * UNIT, action_range=(5.3e6 - 8, 5.3e6 + 8), name="far")
    tiny = {"policy.steps": 2, "policy.hidden": (4,), "policy.batch_size": 8}
    trained = srpo.train(srpo.configure("bc", data, **tiny), data, out=tmp_path / "run", eval_every=0, quiet=True)
    with pytest.raises(
        DeployError, match=r"action 0 is bounded by 5299992 and 5300008, expected steps of float32.*fixed offset"
    ):
        export_run(trained, tmp_path / "robot", calls=0)
    assert not (tmp_path / "robot").exists()


def test_a_run_goes_on_in_its_own_units_only(run):
    trained, data, action = run
    other = recorded(action, name="valve", action_range=((-1, -1), (11, 1)))
    with pytest.raises(RunError, match="was trained on actions in .* load the data with the same action_range"):
        require_same_units(trained, other)
    require_same_units(trained, data)
