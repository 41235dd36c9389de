"""Other systems and smaller installations: what is not there is not needed, or one line says what to install."""

import json
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


EXTRAS = ("gymnasium", "mujoco", "matplotlib")
SMALL = f"""
import contextlib, io, json, os
from srpo.cli import main

def said(hidden, *arguments):
    sys.modules.update(dict.fromkeys(hidden))
    with contextlib.redirect_stderr(io.StringIO()) as err:
        code = main(list(arguments))
    for name in hidden:
        del sys.modules[name]
    return code, err.getvalue(), os.listdir()

train = "train", "hopper-medium-expert-mini", "--algo", "bc"
small = "--set=policy.steps=2", "--set=policy.batch_size=4", "--set=policy.hidden=8"
found = {{
    "pictures": said({EXTRAS[2:]}, "paper", "fig3", "--quick"),
    "environments": said({EXTRAS[:2]}, *train),
    "training": said({EXTRAS}, *train, "--no-eval", "--out", "run", *small),
}}
assert not set({EXTRAS}) & set(sys.modules), "a command imported what is hidden from another"
with open("found.json", "w") as file:
    json.dump(found, file)
"""


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The folder in which one process ran three commands, each with other extras hidden; per command: code, stderr, files then."""
    folder = tmp_path_factory.mktemp("small")
    done = python(f"import os; os.chdir({str(folder)!r})\n{SMALL}")
    assert done.returncode == 0, done.stderr[-2000:]
    return folder, json.loads((folder / "found.json").read_text())


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
    "case, line",
    [
        ("pictures", "matplotlib is not installed; pip install 'srpo[plot]', or 'srpo[all]'"),
        ("environments", "pip install 'srpo[env]', or train with --no-eval"),
    ],
    ids=["pictures", "environments"],
)
def test_what_a_small_installation_lacks_is_named_with_its_extra(small, case, line):
    code, said, files = small[1][case]
    assert code == 2 and said.count("\n") == 1 and line in said, said
    assert files == []


def test_a_training_without_matplotlib_says_what_is_not_drawn(small):
    code, said, _ = small[1]["training"]
    assert code == 0 and "curves.png is not drawn: matplotlib is not installed" in said, said
    run = small[0] / "run"
    assert (run / "metrics.csv").exists() and not (run / "curves.png").exists()


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
