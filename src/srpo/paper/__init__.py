"""The paper's experiments by command: one module per figure, each with `make(job) -> list of rows to report`."""

from typing import NamedTuple


class Artefact(NamedTuple):
    """What a figure or table shows, what it needs, and of which kind its module's work is."""

    meaning: str
    needs: str
    kind: str  # plane: trains on 2-D data; results: reads those of a suite; study: trains policies from a suite's cells; costs: times untrained networks


TOYS, RESULTS, CELLS = (
    "nothing, trains on 2-D data",
    "results of a suite (srpo suite run)",
    "SRPO's cells of a suite; --quick: data",
)
TIMES = "nothing, times untrained networks (--costs: or an earlier run's times"

PAPER = {
    "fig1": Artefact("score against time per action", f"{TIMES}; --keep: a suite's scores, else the published)", "costs"),
    "fig2": Artefact("forward against reverse KL: which policies leave the support of the data", TOYS, "plane"),
    "fig3": Artefact("behavior density and policy shift on one 2-D bandit", TOYS, "plane"),
    "fig4": Artefact("learning curves of all systems, the first four data sets", RESULTS, "results"),
    "fig5": Artefact("time of training and of acting", f"{TIMES})", "costs"),
    "fig6": Artefact("the weight w(t), single diffusion times, the subtracted noise", CELLS, "study"),
    "fig7": Artefact("the same as fig3 on six 2-D bandits", TOYS, "plane"),
    "fig8": Artefact("mean Q and score of several seeds, and SfBC's mended reward (--suite d4rl-antmaze)", CELLS, "study"),
    "fig9": Artefact("depth of the policy, on mazes (--suite mazes)", CELLS, "study"),
    "fig10": Artefact("the temperature, all of the paper's values", CELLS, "study"),
    "fig11": Artefact("learning curves of all systems, all data sets", RESULTS, "results"),
    "table1": Artefact("scores of all systems, with the published ones", RESULTS, "results"),
    "table2": Artefact("temperatures and other settings by task, the presets' beside the paper's", "nothing", "results"),
}
OTHERS = {
    "variance": Artefact("variance of the policy's gradient, and score error by noise level", TOYS, "plane"),
    "dial": Artefact("one policy for all temperatures beside a policy for each, on one 2-D bandit", TOYS, "plane"),
    "dtql-toys": Artefact(
        "DTQL's trust-region loss; its one-step policies, those of its KL variant, and SRPO's", TOYS, "plane"
    ),
    "dtql-table": Artefact(
        "scores, time per action and of training", f"{TIMES}; --keep: a suite's scores, else the published)", "costs"
    ),
    "dtql-likelihood": Artefact("DTQL's likelihood term, on mazes (--suite mazes)", CELLS.replace("SRPO", "DTQL"), "study"),
}
FIGURES = PAPER | OTHERS
