"""AntMaze against D4RL's definition: model, dynamics, observations, task; and whoever gets to the goal scores 100.

Known answers were computed from D4RL's own ant.xml and maze; masses are those that its simulator, MuJoCo 2.0, printed.
"""

import gymnasium
import mujoco
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from srpo.data.load import build
from srpo.data.reference import environment
from srpo.data.sources import Attributes, d4rl
from srpo.worlds.antmaze import AntMaze, center
from srpo.worlds.environments import check_environment, make_env
from srpo.worlds.mazes import MAZES, ant_maze_id

JOINTS = ["root", "hip_1", "ankle_1", "hip_2", "ankle_2", "hip_3", "ankle_3", "hip_4", "ankle_4"]


@pytest.fixture(scope="module")
def env():
    return AntMaze("umaze")


def test_limbs_weigh_what_they_did_when_d4rl_recorded(env):
    leg = [0.03647693, 0.03647693, 0.06491138]
    np.testing.assert_allclose(env.model.body_mass, [0, 0.32724923, *leg * 4], atol=5e-9)
    assert env.model.body_subtreemass[1] == pytest.approx(0.8787102)  # what follows from them was computed anew
    radius, length = 0.08, 0.4 * np.sqrt(2) + 0.08  # of an ankle, a cylinder about the capsule's axis
    along, across = 0.06491138 * radius**2 / 2, 0.06491138 * (3 * radius**2 + length**2) / 12
    np.testing.assert_allclose(sorted(env.model.body_inertia[4]), [along, across, across], rtol=1e-6)


def test_the_model_has_the_numbers_of_d4rl_s_file(env):
    model = env.model
    assert (model.opt.timestep, env.frame_skip, model.opt.integrator) == (0.02, 5, mujoco.mjtIntegrator.mjINT_RK4)
    ant = model.geom_type != mujoco.mjtGeom.mjGEOM_BOX
    assert ant.sum() == 14 and env.dt == pytest.approx(0.1)
    for values, expected in (
        (model.geom_solref[ant], [0.02, 1]),
        (model.geom_solimp[ant][:, :3], [0.8, 0.8, 0.01]),
        (model.geom_friction[ant], [1, 0.5, 0.5]),
        (model.geom_margin[ant], 0.01),
        (model.geom_condim[ant], 3),
        (model.dof_armature[6:], 1),
        (model.dof_damping[6:], 1),
        (model.dof_armature[:6], 0),
        (model.dof_damping[:6], 0),
        (model.actuator_ctrlrange, [-30, 30]),
        (model.actuator_gear[:, 0], 1),
    ):
        assert (values == expected).all()
    assert [model.joint(i).name for i in range(model.njnt)] == JOINTS
    moved = [model.joint(i).name for i in model.actuator_trnid[:, 0]]
    assert moved == ["hip_4", "ankle_4", "hip_1", "ankle_1", "hip_2", "ankle_2", "hip_3", "ankle_3"]
    ankles = [np.rad2deg(model.joint(f"ankle_{i}").range).round(6).tolist() for i in (1, 2, 3, 4)]
    assert ankles == [[30, 70], [-70, -30], [-70, -30], [30, 70]]


@pytest.mark.parametrize("maze, walls, goal", [("umaze", 18, (0, 8)), ("medium", 38, (20, 20)), ("large", 62, (32, 24))])
def test_walls_and_goals_are_where_d4rl_has_them(maze, walls, goal):
    model = AntMaze(maze).model
    boxes = np.flatnonzero(model.geom_type == mujoco.mjtGeom.mjGEOM_BOX)
    assert len(boxes) == walls and (model.geom_size[boxes] == [2, 2, 1]).all() and (model.geom_pos[boxes][:, 2] == 1).all()
    assert (model.geom_contype[boxes] == 1).all() and (model.geom_conaffinity[boxes] == 1).all()
    assert tuple(model.geom("block_0_0").pos) == (-4, -4, 1)
    assert tuple(center(MAZES[maze], MAZES[maze].goal)) == goal and tuple(center(MAZES[maze], MAZES[maze].start)) == (0, 0)
    assert tuple(AntMaze("umaze").model.geom("block_2_1").pos) == (0, 4, 1)


def place(env, position, velocity=None):
    """Put the ant somewhere: (15,) or its first numbers; the rest is the reset pose."""
    whole = env.init_qpos.copy()
    whole[: len(position)] = position
    env.set_state(whole, np.zeros(14) if velocity is None else velocity)


def test_observations_are_positions_then_velocities(env):
    env.reset(seed=0)
    position = np.array([1, 2, 5, 1, 0, 0, 0, *np.arange(8) / 10])
    place(env, position, np.arange(14) / 7)
    assert (env.observe() == np.concatenate([position, np.arange(14) / 7])).all()


def test_in_the_air_the_ant_falls_and_a_torque_of_30_turns_its_hip(env):
    env.reset(seed=0)
    bent = np.deg2rad(50)  # inside of the ankles' limits
    place(env, [0, 0, 5, 1, 0, 0, 0, 0, bent, 0, -bent, 0, -bent, 0, bent])
    height = env.data.subtree_com[1, 2]
    action = np.zeros(8)
    action[2] = 1.0  # the hip of leg 1
    obs, *_ = env.step(action)
    mujoco.mj_forward(env.model, env.data)
    assert height - env.data.subtree_com[1, 2] == pytest.approx(0.5 * 9.81 * 0.1**2, rel=1e-4)
    assert obs[21] == pytest.approx(30 * (1 - np.exp(-0.1)), rel=0.03)  # armature and damping 1, light limbs; 0.1 s
    assert np.abs(obs[22:]).max() < 0.1
    env.step(np.full(8, 7.0))
    assert (env.data.actuator_force == 30).all()  # actions are clipped


def test_five_steps_on_the_ground_are_those_of_d4rl_s_model(env):
    env.reset(seed=0)
    mujoco.mj_resetData(env.model, env.data)
    for step in range(5):
        obs, *_ = env.step(np.sin(0.7 * step + np.arange(8)))
    known = [
        -0.21667,
        -0.18551,
        0.5144,
        0.99454,
        0.02568,
        -0.09129,
        -0.04347,
        -0.00168,
        0.4914,
        -0.44632,
        -0.70517,
        0.56227,
        -0.58176,
        0.53372,
        1.03438,
        -0.5958,
        -0.3076,
        -1.0658,
        -1.0907,
        -0.3548,
        0.9354,
        -5.2488,
        -1.4052,
        1.5438,
        5.2424,
        -0.5609,
        -1.1914,
        -0.1784,
        -2.4751,
    ]
    np.testing.assert_allclose(obs, known, atol=2e-3)


def test_episodes_start_at_the_origin_with_noise_and_draw_their_goal(env):
    starts, goals = [], []
    for seed in range(200):
        starts.append(env.reset(seed=seed)[0])
        goals.append(env.goal)
    starts, goals = np.array(starts), np.array(goals)
    assert np.linalg.norm(starts[:, 3:7], axis=1) == pytest.approx(1)
    joints = np.delete(starts[:, :15] - env.init_qpos, slice(3, 7), axis=1)
    assert np.abs(joints).max() <= 0.1 and joints.std() == pytest.approx(0.2 / np.sqrt(12), rel=0.05)
    assert starts[:, 15:].std() == pytest.approx(0.1, rel=0.05)
    offset = goals - [0, 8]  # U(0, 1) + U(0, 0.5)
    assert (offset >= 0).all() and (offset <= 1.5).all() and offset.mean(0) == pytest.approx([0.75, 0.75], abs=0.07)
    again = env.reset(seed=7)[0]
    assert (again == starts[7]).all() and (env.goal == goals[7]).all()
    env.reset()
    assert (env.goal != goals[7]).all()  # each episode has its own


@pytest.mark.parametrize("maze", MAZES)
def test_an_ant_that_is_led_to_the_goal_scores_1_there_and_not_before(maze):
    env = make_env(ant_maze_id(maze))
    inner = env.unwrapped
    env.reset(seed=0)
    total, cells = 0.0, inner.maze.way(inner.maze.start, inner.maze.goal)
    for cell in cells:
        place(inner, [*center(inner.maze, cell), 0.75])
        _, reward, terminated, truncated, _ = env.step(np.zeros(8, np.float32))
        far = np.linalg.norm(inner.data.qpos[:2] - inner.goal) > 0.5
        assert (reward, terminated, truncated) == (float(not far), not far, False)
        total += reward
    assert terminated or total == 0
    if not terminated:
        place(inner, [*(inner.goal + np.array([0.3, -0.3])), 0.75])
        _, reward, terminated, _, _ = env.step(np.zeros(8, np.float32))
        assert terminated
        total += reward
    assert total == 1
    known = environment(f"antmaze-{maze}")
    assert 100 * (total - known.random) / (known.expert - known.random) == 100
    env.close()


def test_falling_does_not_end_an_episode_but_the_limit_does():
    env = make_env("srpo/AntMaze-umaze-v2")
    env.reset(seed=0)
    place(env.unwrapped, [0, 0, 0.3, 0, 1, 0, 0])  # on its back
    for step in range(1, 701):
        if step % 50:  # time passes without physics
            env.unwrapped.frame_skip = 0
        _, reward, terminated, truncated, _ = env.step(np.zeros(8, np.float32))
        env.unwrapped.frame_skip = 5
        assert (reward, terminated, truncated) == (0, False, step == 700)
    env.close()


def test_every_antmaze_id_of_d4rl_is_evaluated_here():
    ids = [name for name in d4rl.FILES if name.startswith("antmaze")]
    assert len(ids) == 12
    for name in ids:
        known = environment(name)
        assert known.env_id == ant_maze_id(name.split("-")[1]) and (known.random, known.expert) == (0, 1)
        assert known.max_steps == (700 if "umaze" in name else 1000) == gymnasium.spec(known.env_id).max_episode_steps
    arrays = {"obs": np.zeros((20, 29)), "action": np.zeros((20, 8)), "reward": np.zeros(20), "terminal": np.zeros(20, bool)}
    data = build(arrays, Attributes("antmaze-large-play-v2", "its file", d4rl=True))
    assert data.env_id == "srpo/AntMaze-large-v2" and data.score(0.5) == 50
    check_environment(data)


@pytest.mark.filterwarnings("ignore:.*infinity:UserWarning")  # as all of MuJoCo's observations
def test_gymnasium_s_own_checks_pass():
    env = AntMaze("medium")
    check_env(env, skip_render_check=True)
    env.close()
