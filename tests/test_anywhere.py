"""Other systems and smaller installations: what is not there is not needed, or one line says what to install."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).parent.parent / "src"
ONLY_HERE = ("fcntl", "resource", "pwd", "grp", "termios")  # modules that Windows lacks
MODULES = sorted(
    str(path.relative_to(SRC).with_suffix("")).replace("/", ".").removesuffix(".__init__")
    for path in (SRC / "srpo").rglob("*.py")
)


def python(code, hidden=(), **environ):
    hide = f"import sys; sys.modules.update(dict.fromkeys({list(hidden)!r}))\n"
    env = os.environ | environ
    return subprocess.run([sys.executable, "-c", hide + code], capture_output=True, text=True, env=env, check=False)


def test_no_module_needs_what_only_some_systems_have():
    names = [name for name in MODULES if not name.endswith("__main__")]
    done = python(f"import importlib\nfor name in {names!r}: importlib.import_module(name)", ONLY_HERE)
    assert done.returncode == 0, done.stderr[-2000:]


def test_training_locks_its_folder_without_fcntl(tmp_path):
    code = f"""
from pathlib import Path
from srpo.system.files import alone
path = Path({str(tmp_path / "lock")!r})
with alone(path) as mine, alone(path) as other:
    assert mine and not other
with alone(path) as again:
    assert again
"""
    done = python(code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "hidden, arguments, said",
    [
        (("matplotlib",), ["paper", "fig3", "--quick"], "matplotlib is not installed; pip install 'srpo[plot]', or 'srpo[all]'"),
        (("gymnasium", "mujoco"), ["train", "hopper-medium-expert-mini", "--algo", "bc"], "pip install 'srpo[env]', or train with --no-eval"),
    ],
    ids=["pictures", "environments"],
)  # fmt: skip
def test_what_a_small_installation_lacks_is_named_with_its_extra(tmp_path, hidden, arguments, said):
    code = f"import os; os.chdir({str(tmp_path)!r}); from srpo.cli import main; sys.exit(main({arguments!r}))"
    done = python(code, hidden)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and said in done.stderr, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_training_without_matplotlib_says_what_is_not_drawn(tmp_path):
    small = [f"--set=policy.{k}" for k in ("steps=2", "batch_size=4", "hidden=8")]
    arguments = ["train", "hopper-medium-expert-mini", "--algo", "bc", "--no-eval", "--out", str(tmp_path / "run"), *small]
    done = python(f"from srpo.cli import main; sys.exit(main({arguments!r}))", ("matplotlib", "gymnasium", "mujoco"))
    assert done.returncode == 0 and "curves.png is not drawn: matplotlib is not installed" in done.stderr, done.stderr
    assert (tmp_path / "run" / "metrics.csv").exists() and not (tmp_path / "run" / "curves.png").exists()


def test_a_missing_module_that_is_no_extra_stays_an_error():
    from srpo.system.surroundings import missing

    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        missing(ModuleNotFoundError("No module named 'no_such_module'", name="no_such_module"))


def test_the_shell_is_told_what_may_follow(tmp_path):
    def answers(line):
        answer = tmp_path / "answer"
        environ = {
            "_ARGCOMPLETE": "1",
            "COMP_LINE": line,
            "COMP_POINT": str(len(line)),
            "_ARGCOMPLETE_STDOUT_FILENAME": str(answer),
        }
        python("from srpo.cli import main; main([])", IFS="\013", _ARGCOMPLETE_IFS="\013", **environ)
        return set(answer.read_text().replace("\013", " ").split())

    assert {"train", "eval", "export"} <= answers("srpo ")
    assert answers("srpo train --dry") == {"--dry-run"}
