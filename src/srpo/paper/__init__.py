"""The paper's experiments by command: one module per figure, each with `make(job) -> list of rows to report`."""

FIGURES = {
    "fig2": "forward against reverse KL: which policies leave the support of the data",
    "fig3": "behavior density and policy shift on one 2-D bandit",
    "fig7": "the same on six 2-D bandits",
    "variance": "variance of the policy's gradient, and score error by noise level",
    "dial": "one policy for all temperatures beside a policy for each, on one 2-D bandit",
    "dtql-toys": "DTQL's trust-region loss and one-step policies, beside SRPO's",
}
